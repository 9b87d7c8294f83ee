//! Our kernels under real Xen with Linux as the first domain and `xl`, where Linux has the other end of every device.
//!
//! Slow, and not part of the whole: `cargo xtask test --part toolstack`. The toolstack is unpacked from Debian's
//! packages ([`xtask::toolstack`]); what is tried there is a script beside this file.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use xtask::cpio::Archive;
use xtask::qemu::{Hypervisor, Machine};
use xtask::session::Session;
use xtask::{debian, initramfs, project, toolstack};

use crate::pair;
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
        trial("xl::back_ends", back_ends).with_ignored_flag(true),
    ]
}

/// Runs `script` in the first domain with these guests of ours at hand, and answers all that was printed.
fn run(name: &str, script: &str, guests: &[&str]) -> Result<String> {
    run_with(name, script, guests, Vec::new(), "")
}

/// As [`run`], with further files, and with further arguments of the hypervisor.
fn run_with(
    name: &str,
    script: &str,
    guests: &[&str],
    mut files: Vec<(String, Vec<u8>)>,
    arguments: &str,
) -> Result<String> {
    files.push(("run.sh".to_owned(), script.as_bytes().to_vec()));
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
    machine.hypervisor_args.push_str(&format!(" dom0_mem=1G {arguments}"));
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

/// Bytes of the disk that our block back end serves.
const DISK: usize = 4 << 20;

/// Linux's front ends on our back ends: a disk is read and written by one domain and read by the next, its
/// discards and flushes are done, and two domains ping and fetch from one another.
fn back_ends() -> Result<()> {
    // No two pages are alike.
    let image: Vec<_> =
        (0..DISK / 4).flat_map(|n| (n as u32).wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    let mut archive = Archive::default();
    archive.file("disk", 0o644, &image);
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let files = vec![
        ("disk".to_owned(), image),
        ("archive".to_owned(), archive.finish()),
        ("vmlinuz".to_owned(), read(&debian::vmlinuz())?),
        ("initramfs".to_owned(), read(&initramfs::build()?)?),
    ];
    let script = include_str!("xl/back_ends.sh");
    // Where several Linux domains work at a time under Xen in QEMU, what xsave keeps for one of them is lost: programs
    // crash, and the first domain cannot unpack a kernel.
    let output = run_with("xl-back-ends", script, &["driver-domain"], files, "xsave=0")?;
    says(&output, "disk: Linux read what there is")?;
    says(&output, "disk: another domain read what Linux wrote")?;
    says(&output, "disk: nothing is left behind")?;
    for line in [
        "cache write back",
        "1048576 bytes discarded",
        "the file system kept its file",
        "some discards, some flushes",
        "0 errors",
    ] {
        says(&output, &format!("blk: {line}"))?;
    }
    pair::agree(&output, "a: ", "b: ")?;
    pair::agree(&output, "b: ", "a: ")
}
