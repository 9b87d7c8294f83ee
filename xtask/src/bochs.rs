//! Bochs: an emulator that interprets each instruction as the manuals have it, at a tenth of QEMU's speed.
//!
//! It shows what QEMU's translation hides: SMAP under `iret`, x2APIC, exact error codes of software interrupts, old
//! interrupt controllers that deliver until they are masked. Debian's build boots no multiboot file by itself, so the
//! machine gets a CD that GRUB starts, and it begins in its own debugger, which is told to go on.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::image::{self, Contents};
use crate::qemu::Machine;

/// What the debugger must hear before the machine runs.
pub const START: &str = "c\n";
/// The firmware that comes with the packages `bochsbios` and `vgabios`.
const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VGA_BIOS: &str = "/usr/share/bochs/VGABIOS-lgpl-latest";
/// MiB of memory: its allocation is not lazy.
const MEMORY: u32 = 512;

/// Makes the machine's CD and settings in `folder`; the command's standard error is its serial line.
///
/// # Errors
/// A file of the machine is missing, or it has what this emulator is not set up for.
pub fn command(machine: &Machine, folder: &Path) -> Result<Command> {
    let hypervisor = machine.hypervisor.as_ref().context("Bochs boots a hypervisor from a CD of its own")?;
    ensure!(machine.disk.is_none() && !machine.net, "no disks and networks on Bochs");
    fs::create_dir_all(folder)?;
    let cd = folder.join("boot.iso");
    let contents = Contents {
        hypervisor: hypervisor.path(),
        hypervisor_args: machine.hypervisor_args.clone(),
        kernel: machine.kernel.clone().context("no kernel for the first domain")?,
        kernel_args: machine.kernel_args.clone(),
        initrd: machine.initrd.clone(),
    };
    image::make(&contents, &cd)?;
    let settings = folder.join("bochsrc");
    fs::write(&settings, bochsrc(machine, folder, &cd))?;
    let mut bochs = Command::new("bochs");
    bochs.arg("-q").arg("-f").arg(settings);
    Ok(bochs)
}

/// The settings. Without the speaker plugin (it looks for a sound device) and with a display that nobody need look at.
fn bochsrc(machine: &Machine, folder: &Path, cd: &Path) -> String {
    let model = match (machine.cpu.as_deref(), machine.maker) {
        (Some(model), _) => model,
        (None, Some("AuthenticAMD")) => "ryzen",
        (None, _) => "corei7_skylake_x",
    };
    let (cpus, cd, log) = (machine.cpus, cd.display(), folder.join("log").display().to_string());
    [
        "plugin_ctrl: speaker=0".to_owned(),
        "config_interface: textconfig".into(),
        "display_library: rfb, options=\"timeout=0\"".into(),
        format!("cpu: model={model}, count={cpus}, ips=40000000, reset_on_triple_fault=0"),
        format!("memory: guest={MEMORY}, host={MEMORY}"),
        format!("romimage: file={BIOS}"),
        format!("vgaromimage: file={VGA_BIOS}"),
        format!("ata0-master: type=cdrom, path={cd}, status=inserted"),
        "boot: cdrom".into(),
        "com1: enabled=1, mode=file, dev=/dev/stderr".into(),
        format!("log: {log}"),
        "panic: action=fatal".into(),
        String::new(),
    ]
    .join("\n")
}
