//! The driver domain beyond `pair`: a disk of the machine, domains that start anew, consoles that are typed to.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use xtask::qemu::{Bus, Hypervisor, Machine};
use xtask::session::{Session, tail};
use xtask::{domains, process, project};

use crate::domains::described;
use crate::support::{LONG, trial};

/// Three times the switch character: what is typed goes to the next.
const SWITCH: &str = "\x01\x01\x01";
/// Bytes of the machine's disk.
const DISK: usize = 4 << 20;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("drivers::a_disk_of_the_machine_is_served", machine_disk),
        trial("drivers::a_disk_flushes_discards_and_keeps_grants", features),
        trial("drivers::a_served_domain_starts_anew_and_finds_its_devices", restart),
    ]
}

/// The driver domain as the first one.
const FIRST: &str = "[[domain]]\nid = 0\nname = \"drivers\"\nkernel = \"guest:driver-domain\"\n\
                     initrd = \"drivers:archive\"\n\n";

/// A Linux domain that the driver domain serves, without its devices.
fn linux(name: &str, does: &str, keys: &str) -> String {
    format!(
        "[[domain]]\nname = \"{name}\"\nkernel = \"debian:vmlinuz\"\ninitrd = \"guest:initramfs\"\n\
         memory = \"192M\"\nserved_by = \"drivers\"\ncmdline = \"console=hvc0 quiet paravane.blk=xvda {does}\"\n{keys}\n"
    )
}

/// A machine with these domains behind the driver domain.
fn machine(name: &str, text: &str) -> Result<Machine> {
    let mut machine = Machine::new(Hypervisor::Paravane);
    domains::add(&mut machine, &described(name, &(FIRST.to_owned() + text))?, true)?;
    Ok(machine)
}

/// What a line says behind `start`, which is somewhere in it.
fn behind<'a>(output: &'a str, start: &str) -> Result<&'a str> {
    let found = output.lines().find_map(|line| Some(line.split_once(start)?.1.trim_end()));
    found.with_context(|| format!("no `{start}`\n{}", tail(output)))
}

/// The disk's bytes reach Linux as they are, and what Linux wrote is on the disk when the machine has ended.
fn machine_disk() -> Result<()> {
    let path = project::target().join("boot-domains").join("machine.disk");
    let text = linux("a", "paravane.blk.do=read,write", "\n[[domain.disk]]\nname = \"xvda\"\nvirtio = 0\n");
    let mut machine = machine("virtio", &text)?;
    let image: Vec<_> =
        (0..DISK as u32 / 4).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    fs::write(&path, image)?;
    let sum = || {
        let output = process::output(Command::new("sha256sum").arg(&path))?;
        Ok::<_, anyhow::Error>(output.split_whitespace().next().unwrap_or_default().to_owned())
    };
    let before = sum()?;
    machine.disk = Some((path.clone(), Bus::Virtio));
    let socket = std::env::temp_dir().join(format!("paravane-disk-{}", std::process::id()));
    machine.monitor = Some(socket.clone());
    let mut session = Session::start(&machine)?;
    session.wait_for("blk: done", LONG)?;
    let lines = disk_lines(&socket);
    let _ = fs::remove_file(&socket);
    let output = session.output();
    ensure!(lines? == [false], "the disk is polled, and pulls its interrupt line\n{}", tail(&output));
    drop(session);
    ensure!(behind(&output, "blk: holds ")? == format!("{DISK} bytes {before}"), "{}", tail(&output));
    let after = sum()?;
    ensure!(after != before, "nothing was written");
    ensure!(behind(&output, "blk: wrote ")? == format!("{DISK} bytes {after}"), "{}", tail(&output));
    ensure!(behind(&output, "blk: kept ")? == after, "{}", tail(&output));
    Ok(())
}

/// Of each virtio disk on the machine's first bus, whether it may pull its interrupt line.
fn disk_lines(monitor: &Path) -> Result<Vec<bool>> {
    /// Vendor and device of a virtio disk, of a transitional and of a modern one.
    const DISKS: [u32; 2] = [0x1001_1af4, 0x1042_1af4];
    /// The bit of the command register that keeps a device off its line.
    const OFF: u32 = 1 << 10;
    let mut monitor = BufReader::new(UnixStream::connect(monitor).context("QEMU's monitor")?);
    let mut read = |device: u32, register: u32| -> Result<u32> {
        let place = 0x8000_0000 | device << 11 | register;
        writeln!(monitor.get_mut(), "o /w 0xcf8 {place:#x}\ni /w 0xcfc")?;
        loop {
            let mut line = String::new();
            ensure!(monitor.read_line(&mut line)? > 0, "QEMU's monitor is gone");
            if let Some((_, value)) = line.split_once("[0x0cfc] = 0x") {
                return u32::from_str_radix(value.trim(), 16).context("a register");
            }
        }
    };
    let mut lines = Vec::new();
    for device in 0..32 {
        if DISKS.contains(&read(device, 0)?) {
            lines.push(read(device, 4)? & OFF == 0);
        }
    }
    Ok(lines)
}

/// A disk that keeps the front end's pages mapped, whose Linux flushes, discards and trims.
fn features() -> Result<()> {
    let text =
        linux("a", "paravane.blk.do=features,write", "\n[[domain.disk]]\nname = \"xvda\"\nram = \"16M\"\n");
    let mut machine = Machine::new(Hypervisor::Paravane);
    let first = FIRST.replace("initrd", "cmdline = \"persistent\"\ninitrd");
    domains::add(&mut machine, &described("features", &(first + &text))?, true)?;
    let mut session = Session::start(&machine)?;
    session.wait_for("blk: done", LONG)?;
    let output = session.output();
    for line in [
        "blk: grants are kept",
        "blk: cache write back",
        "blk: 1048576 bytes discarded",
        "blk: the file system kept its file",
        "blk: some discards, some flushes",
        "blk: 0 errors",
    ] {
        ensure!(output.lines().any(|said| said.trim_end().ends_with(line)), "no `{line}`\n{}", tail(&output));
    }
    let wrote = behind(&output, "blk: wrote ")?.split_whitespace().last().unwrap_or_default();
    ensure!(behind(&output, "blk: kept ")? == wrote, "{}", tail(&output));
    Ok(())
}

/// A domain reboots: its console, its disk with what is on it, and its network are there again, and it can be typed to.
fn restart() -> Result<()> {
    let does = "paravane.blk.do=restart paravane.address=10.0.2.21 paravane.web=10.0.2.20";
    let keys = "restart = \"always\"\nconsole = \"driver-domain\"\n\n[[domain.disk]]\nname = \"xvda\"\nram = \"4M\"\n\n\
                [[domain.net]]\n";
    let web = "[[domain]]\nname = \"web\"\nkernel = \"guest:webserver\"\ncmdline = \"address=10.0.2.20/24\"\n\
               memory = \"32M\"\nserved_by = \"drivers\"\n\n[[domain.net]]\n";
    let machine = machine("restart", &(linux("a", does, keys) + web))?;
    let mut session = Session::start(&machine)?;
    session.wait_for("blk: left a mark", LONG)?;
    session.wait_for("(a) is gone", LONG)?;
    session.wait_for("(a) is domain 1", LONG)?;
    session.wait_for("blk: found the mark", LONG)?;
    session.wait_for("blk: found the web server", LONG)?;
    session.wait_for("blk: done", LONG)?;
    session.send(SWITCH)?;
    session.wait_for("Serial input to domain 1, a", LONG)?;
    session.send("echo typed $((6 * 7))\n")?;
    session.wait_for("\ntyped 42", LONG)?;
    Ok(())
}
