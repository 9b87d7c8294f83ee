//! The emulated PC: which hypervisor, kernel, modules and devices, and the QEMU command line of all that.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::{debian, project};

/// What the machine boots first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hypervisor {
    /// Ours, from `target/dist`.
    Paravane,
    /// Debian's Xen 4.17.
    Xen,
    /// Any other multiboot1 ELF.
    File(PathBuf),
}

impl Hypervisor {
    /// Reads `paravane`, `xen` or a path.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "paravane" => Self::Paravane,
            "xen" => Self::Xen,
            path => Self::File(path.into()),
        }
    }

    /// The bootable file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Paravane => project::hypervisor_elf(),
            Self::Xen => debian::xen_elf(),
            Self::File(path) => path.clone(),
        }
    }

    /// Xen cannot cope with the emulator's `iretq` under SMAP: a Linux guest's first signal would kill it.
    fn cpu(&self) -> &'static str {
        match self {
            Self::Xen => "max,-smap",
            Self::Paravane | Self::File(_) => "max",
        }
    }

    /// The name for tables and messages.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Paravane => "paravane".into(),
            Self::Xen => "xen".into(),
            Self::File(path) => path.display().to_string(),
        }
    }
}

/// How a disk image is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk on PCI: interrupts by MSI-X.
    Virtio,
    /// The PC's IDE controller: interrupts by IOAPIC.
    Ide,
}

/// Where serial line and monitor go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serial {
    /// The serial line alone on standard input and output, for programs.
    Stdio,
    /// With QEMU's monitor behind Ctrl-A, for people.
    Interactive,
}

/// Which program is the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulator {
    /// QEMU, which translates: quick.
    Qemu,
    /// Bochs, which interprets: slow, and closer to a real CPU and chipset ([`crate::bochs`]).
    Bochs,
}

impl Emulator {
    /// Its name in tables and in the cases' attributes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Bochs => "bochs",
        }
    }
}

/// A boot module beside the first domain's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// The file.
    pub path: PathBuf,
    /// What stands behind the file name; may be empty.
    pub name: String,
}

/// One machine. [`Machine::new`] gives one that boots with a console; the fields add to it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What it runs on.
    pub emulator: Emulator,
    /// What boots first; `None` boots from [`Machine::cdrom`].
    pub hypervisor: Option<Hypervisor>,
    /// The hypervisor's command line.
    pub hypervisor_args: String,
    /// First module: the first domain's kernel.
    pub kernel: Option<PathBuf>,
    /// That kernel's command line.
    pub kernel_args: String,
    /// Second module.
    pub initrd: Option<PathBuf>,
    /// Further modules.
    pub modules: Vec<Module>,
    /// QEMU's `-m`.
    pub memory: String,
    /// QEMU's `-smp`.
    pub cpus: u32,
    /// QEMU's `-cpu`; the hypervisor's own choice when `None`.
    pub cpu: Option<String>,
    /// Who the CPU says made it (`GenuineIntel`, `AuthenticAMD`); the model's own when `None`.
    pub maker: Option<&'static str>,
    /// A raw disk image and its controller.
    pub disk: Option<(PathBuf, Bus)>,
    /// A virtio NIC on QEMU's user network.
    pub net: bool,
    /// Connections to these ports of the host go to an address and port of that network.
    pub forwards: Vec<(u16, String)>,
    /// One time-stamp tick for each instruction, independent of the host's clock.
    pub icount: bool,
    /// Wait for a debugger on TCP port 1234.
    pub gdb: bool,
    /// An ISO image to boot from.
    pub cdrom: Option<PathBuf>,
    /// A socket of QEMU's monitor.
    pub monitor: Option<PathBuf>,
    /// A plug-in of QEMU's, with its options.
    pub plugin: Option<OsString>,
    /// QEMU's log: resets, triple faults and shutdown causes.
    pub log: Option<PathBuf>,
}

/// The console options that both hypervisors understand.
pub const CONSOLE_ARGS: &str = "console=com1 com1=115200,8n1";

impl Machine {
    /// A PC with 1 GiB, one CPU and a serial console.
    #[must_use]
    pub fn new(hypervisor: Hypervisor) -> Self {
        Self {
            emulator: Emulator::Qemu,
            hypervisor: Some(hypervisor),
            hypervisor_args: CONSOLE_ARGS.into(),
            kernel: None,
            kernel_args: String::new(),
            initrd: None,
            modules: Vec::new(),
            memory: "1G".into(),
            cpus: 1,
            cpu: None,
            maker: None,
            disk: None,
            net: false,
            forwards: Vec::new(),
            icount: false,
            gdb: false,
            cdrom: None,
            monitor: None,
            plugin: None,
            log: None,
        }
    }

    /// The command line, ready to start.
    ///
    /// # Errors
    /// A file is missing, or its path has a character that QEMU's module list cannot carry.
    pub fn command(&self, serial: Serial) -> Result<Command> {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        qemu.args(["-m", &self.memory, "-smp", &self.cpus.to_string()]);
        let own = self.hypervisor.as_ref().map_or("max", Hypervisor::cpu);
        let maker = self.maker.map_or(String::new(), |maker| format!(",vendor={maker}"));
        qemu.args(["-cpu", &format!("{}{maker}", self.cpu.as_deref().unwrap_or(own))]);
        match serial {
            Serial::Stdio => qemu.args(["-monitor", "none", "-serial", "stdio"]),
            Serial::Interactive => qemu.args(["-serial", "mon:stdio"]),
        };
        if let Some(hypervisor) = &self.hypervisor {
            let path = hypervisor.path();
            ensure!(path.is_file(), "there is no {}", path.display());
            qemu.arg("-kernel").arg(path).args(["-append", &self.hypervisor_args]);
        }
        if let Some(modules) = self.module_list()? {
            qemu.arg("-initrd").arg(modules);
        }
        self.devices(&mut qemu)?;
        if self.icount {
            qemu.args(["-icount", "shift=0,sleep=off", "-rtc", "base=2026-01-01,clock=vm", "-seed", "1"]);
        }
        if self.gdb {
            qemu.args(["-gdb", "tcp::1234", "-S"]);
        }
        if let Some(socket) = &self.monitor {
            let mut device = OsString::from("socket,id=monitor,server=on,wait=off,path=");
            device.push(escaped(socket));
            qemu.arg("-chardev").arg(device).args(["-mon", "chardev=monitor,mode=readline"]);
        }
        if let Some(plugin) = &self.plugin {
            qemu.arg("-plugin").arg(plugin);
        }
        if let Some(log) = &self.log {
            qemu.args(["-d", "cpu_reset,trace:qemu_system_shutdown_request", "-D"]).arg(log);
        }
        Ok(qemu)
    }

    fn devices(&self, qemu: &mut Command) -> Result<()> {
        if let Some((path, bus)) = &self.disk {
            ensure!(path.is_file(), "there is no disk image {}", path.display());
            let device = match bus {
                Bus::Virtio => "virtio-blk-pci,drive=disk",
                Bus::Ide => "ide-hd,drive=disk,bus=ide.0",
            };
            let mut drive = OsString::from("if=none,id=disk,format=raw,file=");
            drive.push(escaped(path));
            qemu.arg("-drive").arg(drive).args(["-device", device]);
        }
        if self.net {
            // Without its boot ROM, which would need another package.
            let forward = |(port, to): &(u16, String)| format!(",hostfwd=tcp:127.0.0.1:{port}-{to}");
            let forwards: String = self.forwards.iter().map(forward).collect();
            qemu.args(["-netdev", &format!("user,id=net{forwards}")]);
            qemu.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
        }
        if let Some(path) = &self.cdrom {
            ensure!(path.is_file(), "there is no {}", path.display());
            qemu.arg("-cdrom").arg(path);
        }
        Ok(())
    }

    /// QEMU's `-initrd` for a multiboot kernel: files with their arguments, separated by commas.
    fn module_list(&self) -> Result<Option<OsString>> {
        let initrd = self.initrd.iter().filter(|_| self.kernel.is_some());
        let first = self.kernel.iter().map(|kernel| (kernel, self.kernel_args.as_str()));
        let second = initrd.map(|initrd| (initrd, ""));
        let further = self.modules.iter().map(|module| (&module.path, module.name.as_str()));
        let mut list: Option<OsString> = None;
        for (path, arguments) in first.chain(second).chain(further) {
            ensure!(path.is_file(), "there is no {}", path.display());
            let has_space = path.to_string_lossy().contains(' ');
            ensure!(!has_space, "QEMU cannot load {}: rename it without the space", path.display());
            let list = list.get_or_insert_default();
            if !list.is_empty() {
                list.push(",");
            }
            list.push(escaped(path));
            if !arguments.is_empty() {
                list.push(" ");
                list.push(arguments.replace(',', ",,"));
            }
        }
        Ok(list)
    }
}

/// A path inside one of QEMU's comma-separated options.
pub(crate) fn escaped(path: &Path) -> OsString {
    path.to_string_lossy().replace(',', ",,").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_arguments_are_doubled() {
        let mut machine = Machine::new(Hypervisor::Xen);
        machine.kernel = Some(project::root().join("Cargo.toml"));
        machine.kernel_args = "console=hvc0,115200".into();
        machine.initrd = Some(project::root().join("rustfmt.toml"));
        let list = machine.module_list().unwrap().unwrap().into_string().unwrap();
        assert!(list.contains("Cargo.toml console=hvc0,,115200,/"), "{list}");
        assert!(list.ends_with("rustfmt.toml"));
    }
}
