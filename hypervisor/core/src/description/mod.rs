//! The description of the domains that are to be started at boot: a TOML text, read from a boot module.
//!
//! ```toml
//! [[domain]]
//! name = "web"                  # what messages call it
//! kernel = "debian:vmlinuz"     # a boot module
//! initrd = "initramfs.cpio"     # a boot module
//! cmdline = "console=hvc0"
//! memory = "256M"
//! vcpus = 2                     # 1 unless given
//! restart = "on-crash"          # never (unless given), on-crash, always
//!
//! served_by = "drivers"         # the domain that serves its xenstore and devices
//!
//! [[domain.disk]]               # see `devices`
//! name = "xvda"
//! file = "root.ext4"
//!
//! [[domain.net]]
//!
//! [[channel]]                   # an event channel; see `Channel` for how its ends are found
//! domains = ["web", "db"]
//! ```
//!
//! [`Description`] has all keys. A domain with `id = 0` is the first domain: it controls the machine, and the options `dom0_*` of
//! the hypervisor's command line say how large it is.
//!
//! Whatever can be told from the text is judged here, and a mistake is one sentence with its line: [`Problem`]. The boot ends with
//! it, for a machine that runs all but one of the domains that it should run is worse than one that says why it does not.

mod devices;
mod read;
#[cfg(test)]
mod tests;

use crate::cpumask::CpuMask;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
pub use devices::{Devices, Disk, Net, Storage};
use read::Reader;
use toml::de::{DeTable, DeValue};
use xen_abi::event_channel::EVTCHN_FIFO_NR_CHANNELS;
use xen_abi::xen::{DOMID_FIRST_RESERVED, MAX_GUEST_CMDLINE};

/// Restarts in a row, unless `restart_limit` says otherwise.
const DEFAULT_LIMIT: u32 = 5;
/// Nanoseconds before the first restart, unless `restart_delay` says otherwise.
const DEFAULT_DELAY: u64 = 1_000_000_000;
/// The least memory that a domain can be given, in pages.
const LEAST_PAGES: u64 = 256;
/// The most, in pages: 16 TiB.
const MOST_PAGES: u64 = 1 << 32;
/// Weights are Xen's credit scheduler's: 1 to 65535.
const MOST_WEIGHT: u64 = 65535;
/// More vCPUs than that no described domain gets, so that a slip of the finger does not eat the heap.
const MOST_VCPUS: u64 = 512;

/// Ports that a domain without `event_channels` has: as many as `xl` gives a domain, and one page of the FIFO ABI shows.
const DEFAULT_MAX_PORT: u32 = 1023;
/// The fewest that can be given: those that become valid together.
const LEAST_PORTS: u64 = 63;
/// The highest port of the FIFO ABI.
const MOST_PORTS: u64 = EVTCHN_FIFO_NR_CHANNELS as u64 - 1;

/// All that a text describes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptions {
    /// The domains, in the text's order.
    pub domains: Vec<Description>,
    /// The channels between them.
    pub channels: Vec<Channel>,
}

/// A domain to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Line of the text where it begins.
    pub line: usize,
    /// `name`: what messages call it. Letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// `id`: its identifier; without one it gets the lowest that is free.
    pub id: Option<u16>,
    /// `kernel`: the name of a boot module.
    pub kernel: String,
    /// `initrd`: the name of a boot module.
    pub initrd: Option<String>,
    /// `cmdline`.
    pub cmdline: String,
    /// `memory` (such as `"256M"`), in pages. 0 for the first domain.
    pub pages: u64,
    /// `vcpus`.
    pub vcpus: u32,
    /// `weight`: its share of the machine relative to others; 256 is usual.
    pub weight: Option<u32>,
    /// `cap`: most that it may use of the CPUs, in percent of one; 0 is no limit.
    pub cap: u32,
    /// `cpus` (such as `"0-1,3"`): those that its vCPUs may run on.
    pub cpus: Option<CpuMask>,
    /// `privileged`: it may make the hypercalls that control the machine.
    pub privileged: bool,
    /// `console_io`: it may use the machine's console by hypercall.
    pub console_io: bool,
    /// `iomem`: ranges of machine addresses such as `"0xfebf0000-0xfebf0fff"`; here frames, both ends included.
    pub iomem: Vec<(u64, u64)>,
    /// `ioports`: ranges such as `"0x3f8-0x3ff"`.
    pub ioports: Vec<(u64, u64)>,
    /// `irqs`: interrupts by number (GSI).
    pub irqs: Vec<u64>,
    /// `event_channels`: the highest port of an event channel that it may allocate, 1023 unless given. A driver domain takes
    /// one for each domain's xenstore and console, up to 4 for a disk and up to 16 for a network interface.
    pub max_port: u32,
    /// What happens when it ends.
    pub restart: Policy,
    /// What a driver domain serves to it.
    pub devices: Devices,
}

/// When a domain is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `restart`.
    pub when: When,
    /// `restart_limit`: how many times in a row, without a minute of life in between.
    pub limit: u32,
    /// `restart_delay` in milliseconds; here nanoseconds. Each further restart in a row waits twice as long.
    pub delay: u64,
}

/// After which end a domain is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// `never`.
    Never,
    /// `on-crash`: after a crash, when its watchdog bit, and when it asks for a reboot.
    OnCrash,
    /// `always`: also after it switched itself off or was ended by a key.
    Always,
}

/// An event channel between two domains: bound when they are made. The command line of each gets
/// `paravane.channel.<name of the other>=<its own port>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Indices into [`Descriptions::domains`].
    pub domains: [usize; 2],
}

/// A mistake in a description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line it is in, from 1 on.
    pub line: usize,
    /// What is wrong and what is expected, in one sentence without its full stop.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// Whether a boot module is a description: by its name, or by the first line that is neither empty nor a comment.
pub fn is_description(name: &str, content: &[u8]) -> bool {
    let mut lines = content.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let first = lines.find(|line| !line.is_empty() && line[0] != b'#');
    name.ends_with(".toml") || first.is_some_and(|line| line == b"[[domain]]" || line == b"[[channel]]")
}

impl Descriptions {
    /// Reads a text.
    ///
    /// # Errors
    /// The first mistake.
    pub fn parse(text: &[u8]) -> Result<Self, Problem> {
        let text = str::from_utf8(text).map_err(|error| {
            let line = 1 + text[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            Problem { line, what: "this is not text in UTF-8".into() }
        })?;
        let table = DeTable::parse(text).map_err(|error| Problem {
            line: read::line_of(text, error.span().map_or(0, |span| span.start)),
            what: format!("not TOML: {}", error.message()),
        })?;
        let mut reader = Reader::new(text, "a description", table.get_ref());
        let domains = reader.tables("domain")?;
        let channels = reader.tables("channel")?;
        reader.finish()?;
        let mut all = Self::default();
        for (table, line) in domains {
            let domain = Description::read(text, table, line)?;
            all.check_new(&domain)?;
            all.domains.push(domain);
        }
        for (table, line) in channels {
            let channel = all.channel(text, table, line)?;
            all.channels.push(channel);
        }
        all.check_servers()?;
        Ok(all)
    }

    fn check_new(&self, new: &Description) -> Result<(), Problem> {
        let problem = |what| Err(Problem { line: new.line, what });
        if let Some(other) = self.domains.iter().find(|d| d.name == new.name) {
            return problem(format!("the domain of line {} has the name `{}` too", other.line, new.name));
        }
        match self.domains.iter().find(|d| d.id.is_some() && d.id == new.id) {
            Some(other) => problem(format!("the domain of line {} has the same id", other.line)),
            None => Ok(()),
        }
    }

    fn channel(&self, text: &str, table: &DeTable<'_>, line: usize) -> Result<Channel, Problem> {
        let mut reader = Reader::new(text, "a channel", table);
        let names = reader.strings("domains", "the names of two domains")?;
        reader.finish()?;
        let mut ends = [0; 2];
        if names.len() != 2 || names[0].0 == names[1].0 {
            let what = "a channel has `domains`, the names of two different domains".into();
            return Err(Problem { line, what });
        }
        for (end, (name, line)) in ends.iter_mut().zip(names) {
            let found = self.domains.iter().position(|domain| domain.name == name);
            *end = found.ok_or_else(|| Problem { line, what: format!("no domain has the name `{name}`") })?;
        }
        Ok(Channel { domains: ends })
    }
}

/// What a described first domain does not have: it can do everything, and never ends before the machine.
const NOT_FOR_DOM0: &[&str] = &[
    "memory",
    "vcpus",
    "privileged",
    "console_io",
    "iomem",
    "ioports",
    "irqs",
    "event_channels",
    "restart",
    "restart_limit",
    "restart_delay",
    "served_by",
];

impl Description {
    /// What there is to say of a domain that nobody described: it is not started again.
    pub(crate) fn of_unkept(name: &str) -> Self {
        Self {
            line: 0,
            name: name.into(),
            id: None,
            kernel: String::new(),
            initrd: None,
            cmdline: String::new(),
            pages: 0,
            vcpus: 1,
            weight: None,
            cap: 0,
            cpus: None,
            privileged: false,
            console_io: false,
            iomem: Vec::new(),
            ioports: Vec::new(),
            irqs: Vec::new(),
            max_port: DEFAULT_MAX_PORT,
            restart: Policy { when: When::Never, limit: 0, delay: 0 },
            devices: Devices::default(),
        }
    }

    fn read(text: &str, table: &DeTable<'_>, line: usize) -> Result<Self, Problem> {
        let mut reader = Reader::new(text, "a domain", table);
        let missing = |key: &str| Problem { line, what: format!("this domain has no `{key}`") };
        let name = reader.name("name")?.ok_or_else(|| missing("name"))?;
        let id = reader.number("id", 0, u64::from(DOMID_FIRST_RESERVED) - 1)?;
        let kernel = reader.string("kernel")?.ok_or_else(|| missing("kernel"))?;
        let first = id == Some(0);
        if first {
            reader
                .refuse(NOT_FOR_DOM0, "the first domain (id 0) is not given: see `dom0_mem=` and the like")?;
        }
        let pages = reader.memory("memory", LEAST_PAGES, MOST_PAGES)?;
        let description = Self {
            line,
            name,
            id: id.map(|id| id as u16),
            kernel,
            initrd: reader.string("initrd")?,
            cmdline: reader.text("cmdline", MAX_GUEST_CMDLINE)?.unwrap_or_default(),
            pages: if first { 0 } else { pages.ok_or_else(|| missing("memory"))? },
            vcpus: reader.number("vcpus", 1, MOST_VCPUS)?.unwrap_or(1) as u32,
            weight: reader.number("weight", 1, MOST_WEIGHT)?.map(|weight| weight as u32),
            cap: reader.number("cap", 0, MOST_WEIGHT)?.unwrap_or(0) as u32,
            cpus: reader.cpus("cpus")?,
            privileged: reader.flag("privileged")?.unwrap_or(first),
            console_io: reader.flag("console_io")?.unwrap_or(first),
            iomem: reader.ranges("iomem", u64::MAX, 4096)?,
            ioports: reader.ranges("ioports", 0xffff, 1)?,
            irqs: reader.numbers("irqs", u64::from(u32::MAX))?,
            max_port: reader
                .number("event_channels", LEAST_PORTS, MOST_PORTS)?
                .map_or(DEFAULT_MAX_PORT, |port| port as u32),
            restart: Policy {
                when: reader.one_of(
                    "restart",
                    &[("never", When::Never), ("on-crash", When::OnCrash), ("always", When::Always)],
                )?,
                limit: reader
                    .number("restart_limit", 0, u64::from(u32::MAX))?
                    .map_or(DEFAULT_LIMIT, |n| n as u32),
                delay: reader
                    .number("restart_delay", 0, 3_600_000)?
                    .map_or(DEFAULT_DELAY, |ms| ms * 1_000_000),
            },
            devices: Devices::read(text, &mut reader, line)?,
        };
        reader.finish()?;
        Ok(description)
    }
}

/// How messages call the type of a value.
fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
