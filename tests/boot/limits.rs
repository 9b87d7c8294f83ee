//! Sizes that the project promises.

use std::fs;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use xtask::qemu::{Hypervisor, Machine};
use xtask::session::Session;
use xtask::{bench, probe, project};

use crate::support::{SHORT, trial};

/// The bootable file may not be larger.
const MAX_IMAGE_BYTES: u64 = 1 << 20;
/// Frame-table bytes for each machine frame may not be more.
const MAX_FRAME_BYTES: u64 = 16;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("limits::the_image_is_at_most_1_mib", image_size),
        trial("limits::a_frame_costs_at_most_16_bytes", frame_size),
        trial("limits::no_guest_keeps_work_waiting", work_waits),
    ]
}

fn image_size() -> Result<()> {
    let bytes = fs::metadata(project::hypervisor_elf()).context("the hypervisor is not built")?.len();
    ensure!(bytes <= MAX_IMAGE_BYTES, "paravane.elf has {bytes} bytes");
    Ok(())
}

fn frame_size() -> Result<()> {
    let mut machine = Machine::new(Hypervisor::Paravane);
    machine.hypervisor_args.push_str(" loglvl=all");
    machine.kernel = Some(probe::build(probe::Probe::PvGuest)?);
    let mut session = Session::start(&machine)?;
    session.wait_for("tsc=", SHORT)?;
    let bytes = bench::frame_table_bytes(&session.output())
        .context("the boot log does not tell the frame table's size")?;
    ensure!(bytes <= MAX_FRAME_BYTES, "a frame costs {bytes} bytes");
    Ok(())
}

/// Whatever a guest asks for, the hypervisor looks at the work that waits for its CPU often enough, and neither that guest's nor a
/// neighbour's timer event is later than that.
fn work_waits() -> Result<()> {
    for wait in bench::longest_waits()? {
        ensure!(
            wait.worst() <= bench::LONGEST,
            "{}: {} instructions without a look ({}); {} ticks from the own deadline to its event, {} from a neighbour's",
            wait.key,
            wait.stretch,
            wait.place,
            wait.own,
            wait.delay()
        );
    }
    Ok(())
}
