//! Descriptions of domains, made by tests and the fuzzer: the text that `docs/domains.md` defines.

use std::fmt::{self, Display};

/// A domain of a description.
#[derive(Clone, Debug)]
pub struct Domain {
    keys: String,
    devices: String,
}

impl Domain {
    /// A domain with this kernel (`guest:NAME`, or a path).
    #[must_use]
    pub fn new(name: &str, kernel: &str) -> Self {
        Self { keys: String::new(), devices: String::new() }.text("name", name).text("kernel", kernel)
    }

    /// The first domain: a driver domain.
    #[must_use]
    pub fn drivers() -> Self {
        Self::new("drivers", "guest:driver-domain").id(0).initrd("drivers:archive")
    }

    fn key(mut self, key: &str, value: impl Display) -> Self {
        self.keys += &format!("{key} = {value}\n");
        self
    }

    fn text(self, key: &str, value: &str) -> Self {
        self.key(key, format_args!("\"{value}\""))
    }

    /// Its identifier.
    #[must_use]
    pub fn id(self, id: u16) -> Self {
        self.key("id", id)
    }

    /// What its kernel is told.
    #[must_use]
    pub fn cmdline(self, words: &str) -> Self {
        self.text("cmdline", words)
    }

    /// Its initial RAM disk.
    #[must_use]
    pub fn initrd(self, module: &str) -> Self {
        self.text("initrd", module)
    }

    /// Its memory, with a unit.
    #[must_use]
    pub fn memory(self, size: &str) -> Self {
        self.text("memory", size)
    }

    /// Number of its vCPUs.
    #[must_use]
    pub fn vcpus(self, count: u32) -> Self {
        self.key("vcpus", count)
    }

    /// Its weight.
    #[must_use]
    pub fn weight(self, weight: u32) -> Self {
        self.key("weight", weight)
    }

    /// The domain that serves its devices.
    #[must_use]
    pub fn served_by(self, name: &str) -> Self {
        self.text("served_by", name)
    }

    /// Its console is the driver domain's.
    #[must_use]
    pub fn console_of_driver_domain(self) -> Self {
        self.text("console", "driver-domain")
    }

    /// It is started again after each end, at once and for ever.
    #[must_use]
    pub fn restarts(self) -> Self {
        self.text("restart", "on-crash").key("restart_limit", 1_000_000).key("restart_delay", 0)
    }

    /// A disk in the driver domain's memory.
    #[must_use]
    pub fn disk(mut self, name: &str, size: &str, readonly: bool) -> Self {
        self.devices += &format!("\n[[domain.disk]]\nname = \"{name}\"\nram = \"{size}\"\n");
        if readonly {
            self.devices += "readonly = true\n";
        }
        self
    }

    /// A network card.
    #[must_use]
    pub fn net(mut self) -> Self {
        self.devices += "\n[[domain.net]]\n";
        self
    }
}

impl Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[[domain]]\n{}{}", self.keys, self.devices)
    }
}

/// The description of several.
#[must_use]
pub fn all(domains: &[Domain]) -> String {
    domains.iter().map(|domain| format!("{domain}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hypervisor_core::description::Descriptions;

    #[test]
    fn the_hypervisor_reads_it() {
        let served = Domain::new("check", "guest:blkcheck")
            .id(1)
            .cmdline("write seconds=5")
            .memory("32M")
            .vcpus(2)
            .weight(128)
            .served_by("drivers")
            .console_of_driver_domain()
            .restarts()
            .disk("xvda", "1M", false)
            .disk("xvdb", "1M", true)
            .net();
        let text = all(&[Domain::drivers(), served]);
        let read = Descriptions::parse(text.as_bytes()).expect(&text);
        let [drivers, served] = &read.domains[..] else { panic!("{text}") };
        assert_eq!((drivers.id, served.id), (Some(0), Some(1)));
        assert_eq!((served.devices.disks.len(), served.devices.nets.len()), (2, 1));
        assert!(served.devices.disks[1].readonly && !served.devices.disks[0].readonly);
    }
}
