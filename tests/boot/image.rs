//! The ISO image that `cargo xtask image` makes: GRUB starts hypervisor and kernel from it.

use anyhow::Result;
use libtest_mimic::Trial;
use xtask::image::{self, Contents};
use xtask::probe::{self, Probe};
use xtask::project;
use xtask::qemu::{CONSOLE_ARGS, Hypervisor, Machine};
use xtask::session::Session;

use crate::support::{LONG, trial};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("image::grub_boots_paravane", || boots(Hypervisor::Paravane)),
        trial("image::grub_boots_xen", || boots(Hypervisor::Xen)),
    ]
}

fn boots(hypervisor: Hypervisor) -> Result<()> {
    let path = project::guests().join(format!("test-{}.iso", hypervisor.name()));
    image::make(
        &Contents {
            hypervisor: hypervisor.path(),
            hypervisor_args: CONSOLE_ARGS.into(),
            kernel: probe::build(Probe::PvGuest)?,
            kernel_args: String::new(),
            initrd: None,
        },
        &path,
    )?;
    let mut machine = Machine::new(hypervisor);
    machine.hypervisor = None;
    machine.cdrom = Some(path);
    Session::start(&machine)?.wait_for("tsc=", LONG)?;
    Ok(())
}
