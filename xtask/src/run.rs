//! `cargo xtask run`: an interactive machine on the user's terminal.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::qemu::{Bus, CONSOLE_ARGS, Hypervisor, Machine, Serial};
use crate::setup::Need;
use crate::{build, debian, domains, initramfs, process, project, setup};

/// What Linux needs on its command line to talk through the hypervisor's console.
pub const LINUX_ARGS: &str = "console=hvc0 earlyprintk=xen";

/// The choices of `cargo xtask run`.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// The first domain: `linux`, a guest of guest-pv-lib/examples such as `hello`, or `none` (with --domains)
    #[arg(long, default_value = "linux")]
    pub guest: String,
    /// The hypervisor: `paravane`, `xen`, or the path of a multiboot ELF
    #[arg(long, default_value = "paravane")]
    pub on: String,
    /// Boot this kernel (ELF or bzImage) instead of the guest's; comes without initrd and arguments
    #[arg(long)]
    pub kernel: Option<PathBuf>,
    /// Boot with this initrd
    #[arg(long)]
    pub initrd: Option<PathBuf>,
    /// Add to the kernel's command line
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub args: String,
    /// Start the domains that this TOML file describes, beside the first one (see hypervisor/examples)
    #[arg(long)]
    pub domains: Option<PathBuf>,
    /// Number of CPUs of the machine
    #[arg(long, default_value_t = 1)]
    pub smp: u32,
    /// Memory of the machine
    #[arg(long, default_value = "1G")]
    pub mem: String,
    /// A raw disk image, attached by virtio
    #[arg(long)]
    pub disk: Option<PathBuf>,
    /// A virtio NIC on QEMU's user network
    #[arg(long)]
    pub net: bool,
    /// With a NIC: forward a port of the host, such as 8080:10.0.2.20:80
    #[arg(long)]
    pub forward: Vec<String>,
    /// Add to the hypervisor's command line
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub hv_args: String,
    /// Wait for gdb on TCP port 1234 (symbols: target/dist/paravane.debug.elf)
    #[arg(long)]
    pub gdb: bool,
    /// Count instructions instead of time
    #[arg(long)]
    pub icount: bool,
    /// QEMU's CPU model
    #[arg(long)]
    pub cpu: Option<String>,
}

/// Builds what is needed and hands the terminal to the machine.
///
/// # Errors
/// Something is missing or does not build.
pub fn run(options: &Options) -> Result<()> {
    let mut command = machine(options)?.command(Serial::Interactive)?;
    eprintln!("  .. starting QEMU; Ctrl-A x leaves it, Ctrl-A h shows more");
    let ok = process::interactive(&mut command)?;
    ensure!(ok, "QEMU failed");
    Ok(())
}

fn machine(options: &Options) -> Result<Machine> {
    let hypervisor = Hypervisor::parse(&options.on);
    let mut needs = vec![Need::Emulator];
    let is_linux = options.kernel.is_none() && options.guest == "linux";
    if hypervisor == Hypervisor::Xen || is_linux {
        needs.push(Need::GuestFiles);
    }
    setup::ensure(&needs)?;
    if hypervisor == Hypervisor::Paravane {
        build::hypervisor()?;
    }
    let mut machine = guest(hypervisor, options)?;
    machine.hypervisor_args = joined(CONSOLE_ARGS, &options.hv_args);
    machine.kernel_args = joined(&machine.kernel_args, &options.args);
    if let Some(initrd) = &options.initrd {
        machine.initrd = Some(initrd.clone());
    }
    if let Some(file) = &options.domains {
        domains::add(&mut machine, file, is_none(options))?;
    }
    machine.memory.clone_from(&options.mem);
    machine.cpus = options.smp;
    machine.cpu.clone_from(&options.cpu);
    machine.disk = options.disk.clone().map(|path| (path, Bus::Virtio));
    machine.net |= options.net || !options.forward.is_empty();
    machine.forwards = options.forward.iter().map(|text| forward(text)).collect::<Result<_>>()?;
    machine.gdb = options.gdb;
    machine.icount = options.icount;
    Ok(machine)
}

/// The machine with the kernel that the options name, and that kernel's own initrd and arguments.
fn guest(hypervisor: Hypervisor, options: &Options) -> Result<Machine> {
    let mut machine = Machine::new(hypervisor);
    if let Some(kernel) = &options.kernel {
        machine.kernel = Some(kernel.clone());
        return Ok(machine);
    }
    if options.guest == "linux" {
        return linux(machine);
    }
    if is_none(options) {
        ensure!(options.domains.is_some(), "without a first domain there must be others: --domains FILE");
        return Ok(machine);
    }
    let names = build::guest_names()?;
    ensure!(
        names.contains(&options.guest),
        "no guest {}: there are linux, {}",
        options.guest,
        names.join(", ")
    );
    build::guests()?;
    machine.kernel = Some(project::guest_elf(&options.guest));
    Ok(machine)
}

/// Whether there is to be no first domain but a described one.
fn is_none(options: &Options) -> bool {
    options.kernel.is_none() && options.guest == "none"
}

/// Reads `<port>:<address>:<port>`. QEMU does not say why it cannot have a port.
fn forward(text: &str) -> Result<(u16, String)> {
    let read = || {
        let (port, to) = text.split_once(':')?;
        to.contains(':').then_some((port.parse().ok()?, to.to_owned()))
    };
    let (port, to) =
        read().with_context(|| format!("`--forward {text}` is not such as 8080:10.0.2.20:80"))?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("port {port} of this computer, for `--forward {text}`"))?;
    Ok((port, to))
}

/// Adds Debian's Linux with our initramfs.
///
/// # Errors
/// The Debian files are not unpacked.
pub fn linux(mut machine: Machine) -> Result<Machine> {
    machine.kernel = Some(debian::vmlinuz());
    machine.initrd = Some(initramfs::build()?);
    machine.kernel_args = LINUX_ARGS.into();
    Ok(machine)
}

fn joined(first: &str, second: &str) -> String {
    format!("{first} {second}").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_needs_a_port_that_is_free() {
        assert!(forward("8080:80").is_err());
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let text = format!("{port}:10.0.2.20:80");
        assert!(
            forward(&text).unwrap_err().to_string().starts_with(&format!("port {port} of this computer"))
        );
        drop(taken);
        assert_eq!(forward(&text).unwrap(), (port, "10.0.2.20:80".into()));
    }
}
