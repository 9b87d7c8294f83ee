//! The devices that a driver domain serves to a described domain.
//!
//! The hypervisor only checks what is written. It hands the driver domain the ends of each served domain's xenstore and
//! console; the driver domain reads the same text, from the archive it is started with, and makes the devices.

use super::read::Reader;
use super::{Description, Descriptions, Problem};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use toml::de::DeTable;

/// Who serves a domain that asks for it, and what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// `served_by`: the name of the domain that serves its xenstore and its devices.
    pub served_by: Option<String>,
    /// `console = "driver-domain"`: the same domain serves its console; otherwise the hypervisor does.
    pub console: bool,
    /// `[[domain.disk]]`.
    pub disks: Vec<Disk>,
    /// `[[domain.net]]`.
    pub nets: Vec<Net>,
}

/// Where a disk's contents are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// `file`: a file of the driver domain's archive. What is written to it is gone when the machine ends.
    File(String),
    /// `ram` (such as `"64M"`): pages of empty memory.
    Ram(u64),
    /// `virtio`: a virtio disk of the machine, by number.
    Virtio(u64),
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// `name`: as Linux calls it, such as `xvda`.
    pub name: String,
    /// Where its contents are.
    pub storage: Storage,
    /// `readonly`.
    pub readonly: bool,
}

/// A network interface, connected to the driver domain's bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Net {
    /// `mac` (such as `"00:16:3e:00:00:01"`); made from the domain's number where it is missing.
    pub mac: Option<String>,
}

impl Devices {
    /// Takes the keys out of a domain's table.
    pub(super) fn read(text: &str, reader: &mut Reader<'_>, line: usize) -> Result<Self, Problem> {
        let served_by = reader.name("served_by")?;
        let console = reader.one_of("console", &[("hypervisor", false), ("driver-domain", true)])?;
        let mut devices = Self { served_by, console, ..Self::default() };
        for (table, line) in reader.tables("disk")? {
            let disk = Disk::read(text, table, line)?;
            if devices.disks.iter().any(|other| other.name == disk.name) {
                return Err(Problem { line, what: format!("this domain has two disks `{}`", disk.name) });
            }
            devices.disks.push(disk);
        }
        for (table, _) in reader.tables("net")? {
            devices.nets.push(Net::read(text, table)?);
        }
        let needs = console || !devices.disks.is_empty() || !devices.nets.is_empty();
        if needs && devices.served_by.is_none() {
            let what = "a domain with a disk, a network or the console of a driver domain has `served_by`, \
                        the name of that domain";
            return Err(Problem { line, what: what.into() });
        }
        Ok(devices)
    }
}

impl Disk {
    fn read(text: &str, table: &DeTable<'_>, line: usize) -> Result<Self, Problem> {
        let mut reader = Reader::new(text, "a disk", table);
        let name = reader.name("name")?;
        let storages = [
            reader.string("file")?.map(Storage::File),
            reader.memory("ram", 1, super::MOST_PAGES)?.map(Storage::Ram),
            reader.number("virtio", 0, 255)?.map(Storage::Virtio),
        ];
        let readonly = reader.flag("readonly")?.unwrap_or(false);
        reader.finish()?;
        let mut storages = storages.into_iter().flatten();
        let (Some(name), Some(storage), None) = (name, storages.next(), storages.next()) else {
            let what = "a disk has a `name`, and one of `file`, `ram` and `virtio`".into();
            return Err(Problem { line, what });
        };
        Ok(Self { name, storage, readonly })
    }
}

impl Net {
    fn read(text: &str, table: &DeTable<'_>) -> Result<Self, Problem> {
        let mut reader = Reader::new(text, "a network interface", table);
        let mac = reader.mac("mac")?;
        reader.finish()?;
        Ok(Self { mac })
    }
}

impl Descriptions {
    /// The domain that serves the one at `index`, as an index.
    pub fn server_of(&self, index: usize) -> Option<usize> {
        let name = self.domains.get(index)?.devices.served_by.as_ref()?;
        self.domains.iter().position(|domain| domain.name == *name)
    }

    /// Whether each domain that is to be served names another one, which is none that is served.
    pub(super) fn check_servers(&self) -> Result<(), Problem> {
        let served = |domain: &Description| domain.devices.served_by.is_some();
        for (index, domain) in self.domains.iter().enumerate().filter(|(_, domain)| served(domain)) {
            let what = match self.server_of(index) {
                None => "`served_by` names no domain",
                Some(by) if served(&self.domains[by]) => "`served_by` names a domain that is served itself",
                Some(_) => continue,
            };
            return Err(Problem { line: domain.line, what: what.into() });
        }
        Ok(())
    }
}
