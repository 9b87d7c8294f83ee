//! The `blkcheck` guest with both ends of a disk in itself: what it writes it reads, over real grants and events, and its
//! lines are the same on our hypervisor and on real Xen.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use xtask::project;
use xtask::qemu::{Hypervisor, Machine};
use xtask::session::Session;

use crate::support::{SHORT, guest_lines, trial};

const FIRST_LINE: &str = "blkcheck: Geometry";
const LAST_LINE: &str = "blkcheck: passed";

pub fn trials() -> Vec<Trial> {
    [("one_ring", ""), ("several_large_rings", "rings=3 order=2"), ("persistent_wish", "persistent")]
        .map(|(name, options)| trial(format!("blk::{name}"), move || same_lines(options)))
        .into()
}

fn lines_on(hypervisor: Hypervisor, options: &str) -> Result<Vec<String>> {
    let mut machine = Machine::new(hypervisor);
    machine.kernel = Some(project::guest_elf("blkcheck"));
    machine.kernel_args = format!("self write {options}");
    let mut session = Session::start(&machine)?;
    session.wait_for(LAST_LINE, SHORT)?;
    Ok(guest_lines(&session.output(), FIRST_LINE, LAST_LINE))
}

fn same_lines(options: &str) -> Result<()> {
    let ours = lines_on(Hypervisor::Paravane, options)?;
    let xens = lines_on(Hypervisor::Xen, options)?;
    ensure!(ours == xens, "on Paravane:\n{}\non Xen:\n{}", ours.join("\n"), xens.join("\n"));
    ensure!(ours.iter().any(|line| line.contains("crc32")), "nothing was read");
    Ok(())
}
