//! Whom this domain serves, and with what.
//!
//! The hypervisor says on the command line which domains there are, by `paravane.domain=<this domain's identifier>` and
//! for each served one `paravane.serve=<name>:<identifier>:<port of its xenstore>:<port of its console, or 0>`. Its
//! devices are in the description of the machine, which the hypervisor read too: a mistake in the text never gets here.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use toml::de::{DeTable, DeValue};
use xen_abi::grant_table::{GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE};

/// Where a disk's contents are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// A file of the archive.
    File(String),
    /// So many bytes of empty memory.
    Ram(u64),
    /// A virtio disk of the machine, by number.
    Virtio(usize),
}

impl Storage {
    /// Reads what the node `params` of a disk says: `ram:64M`, `virtio:0`, `file:<name>`, or the name alone.
    #[must_use]
    pub fn from_params(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some(("ram", amount)) => bytes(amount).map(Self::Ram),
            Some(("virtio", number)) => number.parse().ok().map(Self::Virtio),
            Some(("file", name)) => Some(Self::File(name.into())),
            _ => Some(text).filter(|name| !name.is_empty()).map(|name| Self::File(name.into())),
        }
    }
}

impl fmt::Display for Storage {
    /// As [`from_params`](Self::from_params) reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name) => write!(f, "file:{name}"),
            Self::Ram(bytes) => write!(f, "ram:{}K", bytes >> 10),
            Self::Virtio(number) => write!(f, "virtio:{number}"),
        }
    }
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// As Linux calls it.
    pub name: String,
    /// What front ends call it: a device number of Linux.
    pub number: u32,
    /// Where its contents are.
    pub storage: Storage,
    /// Whether it cannot be written.
    pub readonly: bool,
}

/// A network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    /// Its number in its domain, from 0 on.
    pub number: u32,
    /// Its address.
    pub mac: [u8; 6],
}

/// A ring that a domain offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The reference by which its page is granted.
    pub reference: u32,
    /// The domain's port.
    pub port: u32,
}

/// A domain to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Its name in the description.
    pub name: String,
    /// Its identifier.
    pub id: u16,
    /// How many CPUs it has.
    pub vcpus: u64,
    /// Its connection to xenstore.
    pub store: Offer,
    /// Its console, if this domain serves that.
    pub console: Option<Offer>,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its network interfaces.
    pub nets: Vec<Net>,
}

/// All there is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The identifier of this domain.
    pub own: u16,
    /// The domains.
    pub served: Vec<Served>,
}

impl Config {
    /// How many disks have their data pass through memory of this domain: all but those that are its memory.
    #[must_use]
    pub fn staged_disks(&self) -> usize {
        let is_staged = |disk: &&Disk| match disk.storage {
            Storage::Virtio(_) => true,
            Storage::File(_) => disk.readonly,
            Storage::Ram(_) => false,
        };
        self.served.iter().map(|served| served.disks.iter().filter(is_staged).count()).sum()
    }

    /// Bytes of this domain's memory that disks take; `size_of` is the size of a file of the archive.
    #[must_use]
    pub fn kept_bytes(&self, size_of: impl Fn(&str) -> Option<usize>) -> usize {
        let bytes = |disk: &Disk| match &disk.storage {
            Storage::Ram(bytes) => usize::try_from(*bytes).unwrap_or(usize::MAX),
            Storage::File(name) if !disk.readonly => size_of(name).unwrap_or(0),
            Storage::File(_) | Storage::Virtio(_) => 0,
        };
        let disks = self.served.iter().flat_map(|served| &served.disks);
        disks.map(bytes).fold(0, usize::saturating_add)
    }

    /// Reads both texts.
    ///
    /// # Errors
    ///
    /// What is wrong, in one sentence without its full stop.
    pub fn read(command_line: &str, description: Option<&[u8]>) -> Result<Self, String> {
        let words = || command_line.split_ascii_whitespace();
        let own = words().find_map(|word| word.strip_prefix("paravane.domain="));
        let own = own.and_then(|number| number.parse().ok());
        let own = own.ok_or("the command line has no `paravane.domain=`: nothing is to be served")?;
        let offers = words().filter_map(|word| word.strip_prefix("paravane.serve="));
        let mut served = offers.map(offer).collect::<Result<Vec<_>, _>>()?;
        if let Some(text) = description {
            let text = str::from_utf8(text).map_err(|_| "the description is no text")?;
            let table =
                DeTable::parse(text).map_err(|error| format!("the description: {}", error.message()))?;
            for domain in tables(table.get_ref(), "domain") {
                let name = string(domain, "name").unwrap_or_default();
                if let Some(served) = served.iter_mut().find(|served| served.name == name) {
                    add_devices(served, domain).map_err(|why| format!("domain {name}: {why}"))?;
                }
            }
        }
        Ok(Self { own, served })
    }
}

/// Reads `<name>:<identifier>:<port>:<port or 0>`.
fn offer(text: &str) -> Result<Served, String> {
    let read = || {
        let mut parts = text.split(':');
        let served = Served {
            name: parts.next()?.into(),
            id: parts.next()?.parse().ok()?,
            vcpus: 1,
            store: Offer { reference: GNTTAB_RESERVED_XENSTORE, port: parts.next()?.parse().ok()? },
            console: Some(Offer { reference: GNTTAB_RESERVED_CONSOLE, port: parts.next()?.parse().ok()? })
                .filter(|offer| offer.port != 0),
            disks: Vec::new(),
            nets: Vec::new(),
        };
        parts.next().is_none().then_some(served)
    };
    read().ok_or_else(|| format!("`paravane.serve={text}` makes no sense"))
}

fn add_devices(served: &mut Served, domain: &DeTable<'_>) -> Result<(), String> {
    served.vcpus = number_of(domain, "vcpus").unwrap_or(1);
    for disk in tables(domain, "disk") {
        let name = string(disk, "name").ok_or("a disk without a name")?;
        let number =
            disk_number(&name).ok_or_else(|| format!("`{name}` is no name of a disk such as xvda"))?;
        let storage = match (string(disk, "file"), string(disk, "ram"), number_of(disk, "virtio")) {
            (Some(file), ..) => Storage::File(file),
            (_, Some(ram), _) => Storage::Ram(bytes(&ram).ok_or_else(|| format!("`{ram}` is no amount"))?),
            (.., Some(n)) => Storage::Virtio(usize::try_from(n).map_err(|_| "no such disk")?),
            _ => return Err(format!("`{name}` has no contents")),
        };
        let readonly = disk.get("readonly").is_some_and(|value| value.get_ref().as_bool() == Some(true));
        served.disks.push(Disk { name, number, storage, readonly });
    }
    for (net, number) in tables(domain, "net").into_iter().zip(0u8..) {
        let mac = match string(net, "mac") {
            Some(text) => mac(&text).ok_or_else(|| format!("`{text}` is no address"))?,
            None => made_up_mac(served.id, number),
        };
        served.nets.push(Net { number: u32::from(number), mac });
    }
    Ok(())
}

/// An address in the range that is Xen's.
fn made_up_mac(domain: u16, number: u8) -> [u8; 6] {
    let [high, low] = domain.to_be_bytes();
    [0x00, 0x16, 0x3e, number, high, low]
}

/// The number of `xvda` to `xvdz`, or of a partition of one such as `xvda1`.
fn disk_number(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("xvd")?;
    let letter = rest.bytes().next().filter(u8::is_ascii_lowercase)?;
    let disk = u32::from(letter - b'a');
    let partition: u32 = if rest.len() == 1 { 0 } else { rest[1..].parse().ok()? };
    // The first sixteen disks have sixteen numbers each, further ones are numbered in another way.
    match disk {
        0..16 if partition < 16 => Some(202 << 8 | disk << 4 | partition),
        16.. if partition < 256 => Some(1 << 28 | disk << 8 | partition),
        _ => None,
    }
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes?.try_into().ok()
}

fn bytes(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let shift = match unit {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn tables<'a>(table: &'a DeTable<'a>, key: &str) -> Vec<&'a DeTable<'a>> {
    let entries = table.get(key).and_then(|value| value.get_ref().as_array());
    entries
        .into_iter()
        .flat_map(|array| array.iter())
        .filter_map(|entry| entry.get_ref().as_table())
        .collect()
}

fn string(table: &DeTable<'_>, key: &str) -> Option<String> {
    table.get(key).and_then(|value| value.get_ref().as_str()).map(ToString::to_string)
}

fn number_of(table: &DeTable<'_>, key: &str) -> Option<u64> {
    match table.get(key)?.get_ref() {
        DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_texts_make_one() {
        let line = "quiet paravane.domain=2 paravane.serve=web:1:3:0 paravane.serve=db:5:1:2";
        let text = br#"
[[domain]]
name = "web"

[[domain.disk]]
name = "xvda"
file = "root.ext4"
readonly = true

[[domain.disk]]
name = "xvdq1"
ram = "3M"

[[domain.net]]
mac = "00:16:3e:00:00:0a"

[[domain.net]]

[[domain]]
name = "drivers"
"#;
        let config = Config::read(line, Some(text)).unwrap();
        let [web, db] = &config.served[..] else { panic!("two domains") };
        assert_eq!((config.own, web.id, web.store.port, web.console), (2, 1, 3, None));
        assert_eq!((db.id, db.store.port, db.disks.len()), (5, 1, 0));
        assert_eq!(db.console, Some(Offer { reference: 0, port: 2 }));
        let root = Disk {
            name: "xvda".into(),
            number: 51712,
            storage: Storage::File("root.ext4".into()),
            readonly: true,
        };
        let second = Disk {
            name: "xvdq1".into(),
            number: 1 << 28 | 16 << 8 | 1,
            storage: Storage::Ram(3 << 20),
            readonly: false,
        };
        assert_eq!((&web.disks[..], config.staged_disks()), (&[root, second][..], 1));
        // The file is read-only.
        assert_eq!(config.kept_bytes(|_| Some(5000)), 3 << 20);
        let writable = str::from_utf8(text).unwrap().replace("readonly = true", "");
        let config = Config::read(line, Some(writable.as_bytes())).unwrap();
        assert_eq!(config.kept_bytes(|name| (name == "root.ext4").then_some(5000)), (3 << 20) + 5000);
        let first = Net { number: 0, mac: [0, 0x16, 0x3e, 0, 0, 10] };
        assert_eq!(web.nets, [first, Net { number: 1, mac: [0, 0x16, 0x3e, 1, 0, 1] }]);
    }

    #[test]
    fn params_name_contents() {
        for (text, storage) in [
            ("ram:2M", Storage::Ram(2 << 20)),
            ("virtio:1", Storage::Virtio(1)),
            ("file:ram:1M", Storage::File("ram:1M".into())),
            ("guest:root.ext4", Storage::File("guest:root.ext4".into())),
        ] {
            assert_eq!(Storage::from_params(text), Some(storage.clone()), "{text}");
            assert_eq!(Storage::from_params(&storage.to_string()), Some(storage), "{text}");
        }
        for text in ["", "ram:", "ram:2", "virtio:x"] {
            assert_eq!(Storage::from_params(text), None, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (line, says) in [
            ("", "nothing is to be served"),
            ("paravane.domain=0 paravane.serve=a:1:2", "`paravane.serve=a:1:2` makes no sense"),
            ("paravane.domain=0 paravane.serve=a:1:2:3:4", "makes no sense"),
            ("paravane.domain=0 paravane.serve=a:x:2:3", "makes no sense"),
        ] {
            assert!(Config::read(line, None).unwrap_err().contains(says), "{line}");
        }
        let line = "paravane.domain=0 paravane.serve=a:1:2:0";
        for (disk, says) in
            [("name = \"sda\"\nram = \"1M\"", "no name of a disk"), ("name = \"xvda\"", "no contents")]
        {
            let text = format!("[[domain]]\nname = \"a\"\n[[domain.disk]]\n{disk}\n");
            assert!(Config::read(line, Some(text.as_bytes())).unwrap_err().contains(says), "{disk}");
        }
    }
}
