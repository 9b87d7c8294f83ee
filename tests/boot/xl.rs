//! Our kernels under real Xen with Linux as the first domain and `xl`, where Linux has the other end of every device.
//!
//! Slow, and not part of the whole: `cargo xtask test --part toolstack`. The toolstack is unpacked from Debian's
//! packages ([`xtask::toolstack`]); what is tried there is a script beside this file.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use xtask::qemu::{Hypervisor, Machine};
use xtask::session::Session;
use xtask::{debian, project, toolstack};

use crate::support::trial;

/// Two kernels boot one after the other, the first with a lot to do.
const PATIENCE: Duration = Duration::from_secs(600);

pub fn trials() -> Vec<Trial> {
    vec![
        trial("xl::unprivileged_pv_and_pvh", unprivileged).with_ignored_flag(true),
        trial("xl::disk_of_linux", disk).with_ignored_flag(true),
        trial("xl::network_of_linux", network).with_ignored_flag(true),
        trial("xl::save_and_restore", suspend).with_ignored_flag(true),
        trial("xl::disk_of_a_restored_domain", disk_of_restored).with_ignored_flag(true),
    ]
}

/// Runs `script` in the first domain with these guests of ours at hand, and answers all that was printed.
fn run(name: &str, script: &str, guests: &[&str]) -> Result<String> {
    let mut files = vec![("run.sh".to_owned(), script.as_bytes().to_vec())];
    for guest in guests {
        let elf = project::guest_elf(guest);
        files.push((
            (*guest).to_owned(),
            fs::read(&elf).with_context(|| format!("reading {}", elf.display()))?,
        ));
    }
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let mut machine = Machine::new(Hypervisor::Xen);
    machine.kernel = Some(debian::vmlinuz());
    machine.kernel_args = "console=hvc0 quiet".into();
    machine.initrd = Some(toolstack::build(name, &files)?);
    machine.hypervisor_args.push_str(" dom0_mem=768M");
    machine.memory = "2G".into();
    let mut session = Session::start(&machine)?;
    session.wait_for("toolstack: done", PATIENCE)?;
    Ok(session.output())
}

fn says(output: &str, line: &str) -> Result<()> {
    ensure!(
        output.lines().any(|printed| printed.trim_end().ends_with(line)),
        "no line `{line}` in\n{output}"
    );
    Ok(())
}

/// The examples as ordinary domains, by paravirtualization and by hardware.
fn unprivileged() -> Result<()> {
    let output = run("xl-guests", include_str!("xl/guests.sh"), &["hello", "multitask"])?;
    says(&output, "hello-pv: hello: all steps passed")?;
    says(&output, "hello-pvh: hello: all steps passed")?;
    says(&output, "multitask-pv: multitask: all steps passed")?;
    says(&output, "multitask-pvh: multitask: all steps passed")
}

/// Our block front end on Linux's back end: it reads what Linux wrote, and Linux reads what it wrote.
fn disk() -> Result<()> {
    let output = run("xl-disk", include_str!("xl/disk.sh"), &["blkcheck"])?;
    says(&output, "disk: reading agrees")?;
    says(&output, "disk: writing passed")?;
    says(&output, "disk: Linux sees the writes")
}

/// Our network front end on Linux's back end: pages and bytes of the web server arrive whole.
fn network() -> Result<()> {
    let output = run("xl-network", include_str!("xl/network.sh"), &["webserver"])?;
    says(&output, "network: the page arrived")?;
    says(&output, "network: 2000000 bytes arrived")
}

/// Both kinds of domain, both layouts of event channels: a checkpoint, after which the domain goes on, then a save, after
/// which it goes on as another domain, twice.
fn suspend() -> Result<()> {
    let output = run("xl-suspend", include_str!("xl/suspend.sh"), &["suspend"])?;
    for name in ["pv-two-level", "pv-fifo", "pvh-two-level", "pvh-fifo"] {
        for what in ["checkpoint passed", "restore 1 passed", "restore 2 passed", "powered off"] {
            says(&output, &format!("{name}: {what}"))?;
        }
    }
    Ok(())
}

/// Our block front end in a domain that is saved with a write under way: it has Linux's disk again, and the write is
/// done, once the domain is restored.
fn disk_of_restored() -> Result<()> {
    let output = run("xl-saved", include_str!("xl/saved.sh"), &["saved"])?;
    for what in ["checkpoint passed", "restore 1 passed", "restore 2 passed", "powered off"] {
        says(&output, &format!("saved: {what}"))?;
    }
    Ok(())
}
