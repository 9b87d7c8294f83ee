//! Several domains without a toolstack: described, started, ended, restarted; and nothing of one is left when it is gone.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use xtask::qemu::{Hypervisor, Machine};
use xtask::session::{Ending, Session, tail};
use xtask::{domains, project, run};

use crate::support::{LONG, SHORT, trial};

/// Three Linux kernels share two emulated CPUs with whatever else the host does.
const VERY_LONG: Duration = Duration::from_secs(900);
/// Three times the switch character: what is typed goes to the next.
const SWITCH: &str = "\x01\x01\x01";
/// Pages of 192 MiB.
const PAGES_192M: u64 = 192 << 8;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("domains::three_linux_kernels_under_load", three_linux),
        trial("domains::small_ones_crash_and_are_restarted", small_domains),
        trial("domains::mistakes_in_a_description_stop_the_boot", mistakes),
        trial("domains::what_cannot_be_built_is_left_out", left_out),
    ]
}

/// A description in a file of its own.
pub fn described(name: &str, text: &str) -> Result<PathBuf> {
    let folder = project::target().join("boot-domains");
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{name}.toml"));
    fs::write(&file, text)?;
    fs::write(folder.join("junk"), "no kernel")?;
    Ok(file)
}

/// A machine with nothing but described domains.
fn alone(name: &str, text: &str) -> Result<Machine> {
    let mut machine = Machine::new(Hypervisor::Paravane);
    machine.cpus = 2;
    domains::add(&mut machine, &described(name, text)?, true)?;
    Ok(machine)
}

/// The number in front of `what` in the first line that starts with `line`.
fn number(output: &str, line: &str, what: &str) -> Result<u64> {
    let found = output.lines().find(|found| found.starts_with(line));
    let found = found.with_context(|| format!("no line `{line}`\n{}", tail(output)))?;
    let before = found.split(what).next().filter(|before| *before != found);
    let before = before.with_context(|| format!("no `{what}` in `{found}`"))?;
    let word = before.split_whitespace().next_back().context("nothing in front of it")?;
    word.parse().with_context(|| format!("`{word}` in `{found}`"))
}

/// Linux with 4 vCPUs and two unprivileged Linux domains on 2 CPUs: all run a load for a minute of their time; then one is ended by
/// key, everything it had comes back, and the others go on.
fn three_linux() -> Result<()> {
    let domain = |name: &str, vcpus: u32| {
        format!(
            "[[domain]]\nname = \"{name}\"\nkernel = \"debian:vmlinuz\"\ninitrd = \"guest:initramfs\"\nmemory = \"192M\"\n\
             vcpus = {vcpus}\ncmdline = \"{} paravane.load=60\"\n",
            run::LINUX_ARGS
        )
    };
    let text = domain("a", 2) + &domain("b", 1) + "[[channel]]\ndomains = [\"a\", \"b\"]\n";
    let mut machine = run::linux(Machine::new(Hypervisor::Paravane))?;
    machine.cpus = 2;
    machine.kernel_args += " paravane.load=60";
    machine.hypervisor_args += " dom0_max_vcpus=4";
    domains::add(&mut machine, &described("three", &text)?, false)?;
    let mut session = Session::start(&machine)?;
    for writer in ["", "(d1) ", "(d2) "] {
        let output = session.wait_until(VERY_LONG, |output| load_line(output, writer).is_some())?;
        let line = load_line(&output, writer).unwrap_or_default();
        let words: Vec<_> = line.split_whitespace().collect();
        let rounds: u64 = words.get(1).unwrap_or(&"0").parse()?;
        ensure!(rounds > 10 && line.ends_with(" 0 failed"), "{writer}{line}");
        ensure!(line.contains(" in 60 s"), "{writer}{line}");
    }
    // Both are at their shells (the first domain's prompt is on the screen), and know each other's port.
    let output = session.output();
    for shell in ["(d1) Enter 'help'", "(d2) Enter 'help'", "/root # "] {
        ensure!(output.contains(shell), "no {shell}\n{}", tail(&output));
    }
    session.send(&format!("{SWITCH}{SWITCH}{SWITCH}K2\r"))?;
    session.wait_for("(HV) Domain 2 (b) had", LONG)?;
    let output = session.wait_until(SHORT, |output| {
        output
            .lines()
            .any(|line| line.starts_with("(HV) Domain 2 (b) had") && line.ends_with("grants mapped"))
    })?;
    let (before, after) = ("(HV) Domain 2 (b) is ended", "(HV) Domain 2 (b) is gone");
    let frames = |line| number(&output, line, " frames free");
    let heap = |line| number(&output, line, " in the heap");
    let back = frames(after)? + heap(after)? - frames(before)? - heap(before)?;
    // With `shared_info` and at least one frame of its grant table.
    ensure!(back > PAGES_192M, "{back} frames came back\n{}", tail(&output));
    let owned = |line| number(&output, line, " of domains");
    ensure!(owned(before)? - owned(after)? == PAGES_192M, "{}", tail(&output));
    let left = "left of it: 0 frames that others map, 0 event channels, 0 grants mapped";
    ensure!(output.contains(left), "{}", tail(&output));
    // The input goes from the hypervisor to the first domain, then to the second.
    session.send(&format!("{SWITCH}\recho still $((6*7))\r"))?;
    session.wait_for("\nstill 42", LONG)?;
    session.send(&format!("{SWITCH}\recho here $((6*6)) $(sed 's/.*channel.//' /proc/cmdline)\r"))?;
    session.wait_for("\nhere 36 b=", LONG)?;
    Ok(())
}

/// What the load of `writer` (its prefix on the screen) came to.
fn load_line<'a>(output: &'a str, writer: &str) -> Option<&'a str> {
    // The first domain's line may stand behind its prompt.
    let mine =
        |line: &&str| if writer.is_empty() { !line.starts_with('(') } else { line.starts_with(writer) };
    let mut lines =
        output.lines().filter(mine).filter_map(|line| line.find("load: ").map(|at| line[at..].trim_end()));
    lines.find(|line| line.ends_with("failed"))
}

const SMALL: &str = r#"
[[domain]]
name = "good"
kernel = "guest:hello"
memory = "16M"

[[domain]]
name = "bad"
kernel = "guest:hello"
cmdline = "crash"
memory = "16M"
vcpus = 2
restart = "on-crash"
restart_limit = 1
restart_delay = 100

[[domain]]
name = "again"
id = 9
kernel = "guest:hello"
cmdline = "reboot"
memory = "16M"
restart = "on-crash"
restart_limit = 2
restart_delay = 10

[[channel]]
domains = ["bad", "again"]
"#;

/// One ends well, one crashes, one wants to start again: each as its policy says. The crash shows where it happened, nothing is
/// left of any of them, and with the last one the machine ends.
fn small_domains() -> Result<()> {
    let mut session = Session::start(&alone("small", SMALL)?)?;
    let ending = session.wait_end(SHORT)?;
    let output = session.output();
    ensure!(ending == Ending::PowerOff, "ended by {ending:?}\n{}", tail(&output));
    let times = |text: &str| output.lines().filter(|line| line.contains(text)).count();
    for (text, expected) in [
        ("hello: all steps passed", 6),
        ("Domain 1 (good) has switched itself off", 1),
        ("Domain 2 crashed: its kernel stack cannot be written", 2),
        ("Domain 2 (bad) was started 1 times again: enough", 1),
        ("Domain 9 (again) asks for a reboot", 3),
        ("Domain 9 (again) was started 2 times again: enough", 1),
        ("had 4096 pages; left of it: 0 frames that others map, 0 event channels, 0 grants mapped", 6),
        ("All domains have ended: halting machine", 1),
    ] {
        ensure!(
            times(text) == expected,
            "{} times instead of {expected}: {text}\n{}",
            times(text),
            tail(&output)
        );
    }
    ensure!(
        times("(HV) rip e033:ffffffff80") == 2 && times("  called from 0xffffffff80") >= 4,
        "{}",
        tail(&output)
    );
    let last = output.lines().rfind(|line| line.contains(" is gone: ")).unwrap_or_default();
    let empty = "0 of domains; 0 domains, 0 dying; 0 event channels, 0 grants mapped";
    ensure!(last.ends_with(empty), "{last}");
    Ok(())
}

/// Each mistake is one line, and the machine halts.
fn mistakes() -> Result<()> {
    const DOMAIN: &str = "[[domain]]\nname = \"a\"\nkernel = \"guest:hello\"\nmemory = \"16M\"\n";
    for (name, text, says) in [
        (
            "module",
            DOMAIN.replace("guest:hello", "nix"),
            "line 1: no boot module is called `nix`; there are module.toml",
        ),
        ("key", format!("{DOMAIN}colour = 1\n"), "line 5: a domain has no `colour`"),
        (
            "value",
            DOMAIN.replace("\"16M\"", "16"),
            "line 4: `memory` is an amount such as \"256M\" or \"2G\"",
        ),
        ("syntax", format!("{DOMAIN}]"), "line 5: not TOML: "),
    ] {
        let mut machine = Machine::new(Hypervisor::Paravane);
        // Past `domains::add`, which would find the mistake before the boot.
        machine.kernel = Some(described(name, &text)?);
        let mut session = Session::start(&machine)?;
        let expected = format!("(HV) cannot boot: {name}.toml, {says}");
        session.wait_for(&expected, SHORT)?;
        session.wait_for("Halted.", SHORT)?;
    }
    Ok(())
}

/// A domain whose kernel is none, and one that wants more memory than there is, do not keep the others from running.
fn left_out() -> Result<()> {
    let domain = |name: &str, kernel: &str, memory: &str| {
        format!(
            "[[domain]]\nname = \"{name}\"\nkernel = \"{kernel}\"\nmemory = \"{memory}\"\nrestart = \"always\"\nrestart_limit = 0\n"
        )
    };
    let text = domain("none", "junk", "16M")
        + &domain("large", "guest:hello", "64G")
        + &domain("good", "guest:hello", "16M");
    let mut session = Session::start(&alone("left_out", &text)?)?;
    let ending = session.wait_end(SHORT)?;
    let output = session.output();
    ensure!(ending == Ending::PowerOff, "ended by {ending:?}\n{}", tail(&output));
    for text in [
        "Domain 1 (none) cannot be built and is left out: the kernel module is neither an ELF file nor a bzImage",
        "Domain 2 (large) cannot be built and is left out: too little memory: it needs 65536 MiB",
        "Domain 3 (good) has switched itself off",
    ] {
        ensure!(output.contains(text), "no {text}\n{}", tail(&output));
    }
    Ok(())
}
