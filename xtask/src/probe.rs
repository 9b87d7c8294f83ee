//! Three tiny programs that print the time-stamp counter at their first instruction (`xtask/probes/*.S`).
//!
//! Under `-icount shift=0` that counter is the number of instructions since power-on, so each probe marks one instant
//! of a boot: the loader's end, the first domain's start, userspace's start.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;
use crate::project;

/// Which instant to mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// In place of the hypervisor: what firmware and loader cost.
    Firmware,
    /// In place of the first domain's kernel.
    PvGuest,
    /// In place of Linux's `init`.
    Userspace,
}

impl Probe {
    fn name(self) -> &'static str {
        match self {
            Self::Firmware => "firmware",
            Self::PvGuest => "pv_guest",
            Self::Userspace => "userspace",
        }
    }

    /// The linker's arguments: machine, and where the text goes.
    fn link_args(self) -> &'static [&'static str] {
        match self {
            Self::Firmware => &["-m32", "-Wl,-Ttext-segment=0x100000", "-Wl,-z,max-page-size=4096"],
            // One physically contiguous image at VIRT_BASE + 1 MiB: Xen's loader copies segments to paddr order.
            Self::PvGuest => &["-Wl,-Ttext-segment=0xffffffff80100000", "-Wl,-z,max-page-size=4096"],
            Self::Userspace => &[],
        }
    }
}

/// Assembles the probe with the host's C compiler, unless that was done already.
///
/// # Errors
/// No C compiler.
pub fn build(probe: Probe) -> Result<PathBuf> {
    let sources = project::root().join("xtask/probes");
    let source = sources.join(format!("{}.S", probe.name()));
    let output = project::guests().join(format!("probe-{}.elf", probe.name()));
    if is_newer(&output, &[&source, &sources.join("report.S")]) {
        return Ok(output);
    }
    fs::create_dir_all(project::guests())?;
    let mut compiler = Command::new("cc");
    compiler.args(["-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-s"]);
    compiler.args(probe.link_args()).arg("-o").arg(&output).arg(&source);
    process::output(&mut compiler).context("assembling a probe: is gcc installed?")?;
    Ok(output)
}

fn is_newer(output: &std::path::Path, sources: &[&PathBuf]) -> bool {
    let time = |path: &std::path::Path| fs::metadata(path).and_then(|meta| meta.modified());
    let Ok(built) = time(output) else { return false };
    sources.iter().all(|source| time(source).is_ok_and(|changed| changed <= built))
}
