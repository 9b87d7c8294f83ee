//! Debian's unmodified Linux as first domain: its self-test, a shell driven over the serial line, disks, and how the
//! machine ends.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use anyhow::{Context, Result, anyhow, bail, ensure};
use libtest_mimic::Trial;
use xtask::qemu::{Bus, CONSOLE_ARGS, Hypervisor, Machine};
use xtask::session::{Ending, Session, tail};
use xtask::{debian, initramfs, project, run};

use crate::support::{LONG, Verdicts, trial, verdicts};

/// What the shell shows when it waits for a command.
const PROMPT: &str = "/root # ";
/// Room for a file system, and small enough to be written in a moment.
const DISK_BYTES: usize = 32 << 20;
/// The self-test looks for this in the last sector.
const DISK_END: &[u8] = b"paravane disk end";

/// What one self-test boot left behind.
struct Boot {
    /// Verdict and details by name of the check.
    checks: Verdicts,
    ending: Ending,
    output: String,
}

/// One boot serves the test of each check.
static VIRTIO: LazyLock<Result<Boot, String>> = LazyLock::new(|| {
    self_test(Hypervisor::Paravane, Bus::Virtio, "paravane.end=poweroff")
        .map_err(|error| format!("{error:#}"))
});

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("linux::self_test_on_xen", self_test_on_xen),
        trial("linux::shell_answers", shell_answers),
        trial("linux::boots_by_the_plain_command_line", plain_command_line),
        trial("linux::ide_disk_and_reboot", ide_disk_and_reboot),
        trial("linux::four_cpus_share_the_load", four_cpus),
        trial("linux::messages_of_devices_stay", messages_stay),
        trial("linux::poweroff_ends_the_machine", || ended(Ending::PowerOff)),
    ];
    trials.extend(initramfs::CHECKS.iter().map(|name| trial(format!("linux::{name}"), move || check(name))));
    trials
}

fn linux_on(hypervisor: Hypervisor) -> Result<Machine> {
    run::linux(Machine::new(hypervisor))
}

fn self_test(hypervisor: Hypervisor, bus: Bus, more_args: &str) -> Result<Boot> {
    let mut machine = linux_on(hypervisor)?;
    let name = match bus {
        Bus::Virtio => "vda",
        Bus::Ide => "sda",
    };
    machine.disk = Some((disk_image(name, machine.hypervisor.as_ref())?, bus));
    machine.net = true;
    machine.kernel_args =
        format!("{} paravane.test paravane.disk={name} paravane.net=1 {more_args}", machine.kernel_args);
    let mut session = Session::start(&machine)?;
    session.wait_for("# self-test done", LONG)?;
    let ending = session.wait_end(LONG)?;
    let output = session.output();
    Ok(Boot { checks: verdicts(&output), ending, output })
}

fn boot() -> Result<&'static Boot> {
    VIRTIO.as_ref().map_err(|error| anyhow!("{error}"))
}

fn check(name: &str) -> Result<()> {
    let boot = boot()?;
    match boot.checks.get(name) {
        Some(Ok(())) => Ok(()),
        Some(Err(details)) => bail!("{details}"),
        None => bail!("no verdict:\n{}", tail(&boot.output)),
    }
}

fn ended(expected: Ending) -> Result<()> {
    let boot = boot()?;
    ensure!(boot.ending == expected, "the machine ended by {:?}:\n{}", boot.ending, tail(&boot.output));
    Ok(())
}

fn all_passed(boot: &Boot) -> Result<()> {
    for (name, verdict) in &boot.checks {
        if let Err(details) = verdict {
            bail!("{name}: {details}");
        }
    }
    Ok(())
}

/// The checks themselves are proven by a hypervisor that has been right for years.
fn self_test_on_xen() -> Result<()> {
    let boot = self_test(Hypervisor::Xen, Bus::Virtio, "paravane.end=poweroff")?;
    ensure!(
        boot.checks.len() == initramfs::CHECKS.len(),
        "some check gave no verdict:\n{}",
        tail(&boot.output)
    );
    all_passed(&boot)?;
    ensure!(boot.ending == Ending::PowerOff, "the machine ended by {:?}", boot.ending);
    Ok(())
}

fn ide_disk_and_reboot() -> Result<()> {
    let only = "paravane.only=hypervisor_type,disk,kernel_log_is_clean paravane.end=reboot";
    let boot = self_test(Hypervisor::Paravane, Bus::Ide, only)?;
    ensure!(boot.checks.len() == 3, "some check gave no verdict:\n{}", tail(&boot.output));
    all_passed(&boot)?;
    ensure!(boot.ending == Ending::Reset, "reboot ended by {:?}:\n{}", boot.ending, tail(&boot.output));
    Ok(())
}

/// Processes that move between vCPUs, and vCPUs that move between CPUs: a vCPU that two CPUs run at once, or an address space
/// that is given up while another CPU uses it, crashes Linux within seconds.
fn four_cpus() -> Result<()> {
    let mut machine = linux_on(Hypervisor::Paravane)?;
    machine.cpus = 4;
    let only = "paravane.only=fork_exec_pipe,processes_are_isolated,kernel_log_is_clean";
    machine.kernel_args = format!("{} paravane.test {only} paravane.end=poweroff", machine.kernel_args);
    let mut session = Session::start(&machine)?;
    session.wait_for("# self-test done", LONG)?;
    let ending = session.wait_end(LONG)?;
    let output = session.output();
    let boot = Boot { checks: verdicts(&output), ending, output };
    ensure!(boot.checks.len() == 3, "some check gave no verdict:\n{}", tail(&boot.output));
    all_passed(&boot)
}

/// Types at the shell as a person does.
fn shell_answers() -> Result<()> {
    let mut session = Session::start(&linux_on(Hypervisor::Paravane)?)?;
    session.wait_for(PROMPT, LONG)?;
    answers(&mut session, "echo $((6 * 7)) on a serial line", "42 on a serial line")?;
    answers(&mut session, "cat /sys/hypervisor/type", "xen")?;
    answers(&mut session, "ls / | grep -c proc", "1")?;
    // Ctrl-C reaches the foreground job and leaves the shell alone.
    session.send("sleep 1000\n")?;
    session.wait_for("sleep 1000", LONG)?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    session.send("\u{3}")?;
    session.wait_for(PROMPT, LONG)?;
    answers(&mut session, "echo $?", "130")?;
    session.send("poweroff\n")?;
    let ending = session.wait_end(LONG)?;
    ensure!(ending == Ending::PowerOff, "poweroff ended by {ending:?}:\n{}", tail(&session.output()));
    Ok(())
}

/// The first domain's writes to a capability whose messages the hypervisor programmed are dropped, but for its control word as a whole:
/// Linux's own, which the disk needs, and the shell's.
fn messages_stay() -> Result<()> {
    let mut machine = linux_on(Hypervisor::Paravane)?;
    machine.disk = Some((disk_image("messages", machine.hypervisor.as_ref())?, Bus::Virtio));
    let mut session = Session::start(&machine)?;
    session.wait_for(PROMPT, LONG)?;
    answers(&mut session, "grep -c 'msi-x.*virtio0-req' /proc/interrupts", "1")?;
    for setup in [
        "space=$(readlink -f /sys/bus/virtio/devices/virtio0)/../config",
        r#"byte() { hexdump -s $1 -n 1 -e '1/1 "%d"' $space; }"#,
        "at=$(byte 52); while [ $(byte $at) != 17 ]; do at=$(byte $((at + 1))); done",
        "store() { dd of=$space bs=$1 seek=$((at / $1 + $2)) conv=notrunc 2>/dev/null; }",
    ] {
        session.send(&format!("{setup}\n"))?;
        session.wait_for(PROMPT, LONG)?;
    }
    let control = "echo high byte $(byte $((at + 3)))";
    answers(&mut session, control, "high byte 128")?;
    answers(&mut session, &format!(r"printf '\000' | store 1 3; {control}"), "high byte 128")?;
    answers(&mut session, &format!(r"printf '\000\000\000\000' | store 4 0; {control}"), "high byte 128")?;
    answers(&mut session, &format!(r"printf '\000\300' | store 2 1; {control}"), "high byte 192")?;
    answers(&mut session, &format!(r"printf '\000\200' | store 2 1; {control}"), "high byte 128")?;
    answers(&mut session, "dd if=/dev/vda of=/dev/null bs=1M count=1 2>/dev/null && echo read", "read")?;
    session.send("poweroff\n")?;
    let ending = session.wait_end(LONG)?;
    ensure!(ending == Ending::PowerOff, "poweroff ended by {ending:?}:\n{}", tail(&session.output()));
    Ok(())
}

fn answers(session: &mut Session, command: &str, answer: &str) -> Result<()> {
    session.send(&format!("{command}\n"))?;
    let said = session.wait_for(PROMPT, LONG)?;
    let found = said.lines().any(|line| line.trim() == answer);
    ensure!(found, "{command:?} was answered by {said:?}");
    Ok(())
}

/// The documented way to use the hypervisor's ELF without any tool of ours.
fn plain_command_line() -> Result<()> {
    let kernel = debian::vmlinuz();
    let initrd = initramfs::build()?;
    let modules = format!("{} {},{}", kernel.display(), run::LINUX_ARGS, initrd.display());
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-cpu", "max", "-m", "1G", "-no-reboot", "-nographic", "-nic", "none"]);
    qemu.arg("-kernel").arg(project::hypervisor_elf()).args(["-append", CONSOLE_ARGS]);
    qemu.args(["-initrd", &modules]);
    let mut session = Session::from_command(qemu)?;
    session.wait_for(PROMPT, LONG).context("booted by plain QEMU")?;
    Ok(())
}

/// A fresh image: empty but for the mark in its last sector.
fn disk_image(name: &str, hypervisor: Option<&Hypervisor>) -> Result<PathBuf> {
    let owner = hypervisor.map_or_else(String::new, Hypervisor::name);
    let path = project::guests().join(format!("disk-{owner}-{name}.img"));
    fs::create_dir_all(project::guests())?;
    let mut bytes = vec![0; DISK_BYTES];
    bytes[DISK_BYTES - 512..][..DISK_END.len()].copy_from_slice(DISK_END);
    fs::write(&path, bytes)?;
    Ok(path)
}
