//! `cargo xtask bench micro`: what each primitive costs a guest, on ours and on real Xen.
//!
//! The kernel of `tests/micro` counts and prints; here is which rows there are, and what each must reach. Rows that a
//! hypervisor does not print, or says that it cannot, are listed with the reason.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Choices, Row, display, folder, grouped, print_table, write_report};
use crate::progress::Step;
use crate::qemu::{CONSOLE_ARGS, Hypervisor, Machine};
use crate::session::Session;
use crate::{domains, project};

/// Longest that a hypervisor may take for all rows.
const LIMIT: Duration = Duration::from_secs(300);
/// For a delay, which is not work: no longer than Xen's.
const NOT_LATER: f64 = 1.0;
/// What every row must reach.
const GOAL: f64 = 0.6;
/// What the rows must reach that a guest waits for most often.
const LOW_GOAL: f64 = 0.4;

/// Key in the kernel's output, name for people, highest acceptable ratio.
const ROWS: [(&str, &str, f64); 42] = [
    ("null_hypercall", "null hypercall (xen_version)", LOW_GOAL),
    ("multicall_8", "multicall of 8 null hypercalls", GOAL),
    ("yield_alone", "yield, nobody else there", GOAL),
    ("event_send", "event send, no upcall", LOW_GOAL),
    ("event_upcall", "event send, upcall and return", GOAL),
    ("set_timer", "set_timer_op", GOAL),
    ("timer_lateness", "from a timer's deadline to its event", NOT_LATER),
    ("stack_switch", "stack_switch", GOAL),
    ("set_segment_base", "set_segment_base", GOAL),
    ("update_descriptor", "update_descriptor", GOAL),
    ("fpu_taskswitch", "fpu_taskswitch", GOAL),
    ("device_not_available", "#NM delivery and return", GOAL),
    ("update_va_mapping", "update_va_mapping", GOAL),
    ("mmu_update_1", "mmu_update of 1", GOAL),
    ("mmu_update_8", "mmu_update of 8", GOAL),
    ("mmu_update_32", "mmu_update of 32", GOAL),
    ("mmu_update_128", "mmu_update of 128", GOAL),
    ("mmu_update_128_new", "mmu_update of 128 empty entries", GOAL),
    ("l1_pin_full", "pin a full L1", GOAL),
    ("l1_unpin_full", "unpin a full L1", GOAL),
    ("l1_pin_empty", "pin an empty L1", GOAL),
    ("l1_unpin_empty", "unpin an empty L1", GOAL),
    ("new_baseptr", "new_baseptr", GOAL),
    ("ptwr_store", "store to a page table, emulated", GOAL),
    ("user_syscall", "user syscall to the kernel and back", LOW_GOAL),
    ("user_page_fault", "user page fault to the kernel and back", GOAL),
    ("kernel_page_fault", "kernel page fault and back", GOAL),
    ("emulate_rdmsr", "rdmsr, emulated", GOAL),
    ("emulate_wrmsr", "wrmsr, emulated", GOAL),
    ("emulate_cpuid", "cpuid with the forcing prefix", GOAL),
    ("emulate_in", "in, emulated", GOAL),
    ("emulate_out", "out, emulated", GOAL),
    ("emulate_read_cr0", "mov from cr0, emulated", GOAL),
    ("emulate_write_cr4", "mov to cr4, emulated", GOAL),
    ("grant_map", "grant map", GOAL),
    ("grant_unmap", "grant unmap", GOAL),
    ("grant_copy_4k", "grant copy of 4 KiB", GOAL),
    ("vcpu_switch", "vCPU switch by yield", GOAL),
    ("ipi_same_cpu", "event to a vCPU of this CPU and back", GOAL),
    ("ipi_two_cpus", "event to a vCPU of another CPU and back", GOAL),
    ("domain_create", "domain created: a vCPU, 4 MiB", GOAL),
    ("domain_destroy", "that domain destroyed", GOAL),
];

/// Rows that are counted once more with page tables isolated from the hypervisor (`xpti=`, on a CPU that says it is Intel's).
const ISOLATED: [(&str, &str); 13] = [
    ("null_hypercall", "null hypercall, isolated"),
    ("multicall_8", "multicall of 8 null hypercalls, isolated"),
    ("event_upcall", "event send, upcall and return, isolated"),
    ("update_va_mapping", "update_va_mapping, isolated"),
    ("mmu_update_1", "mmu_update of 1, isolated"),
    ("new_baseptr", "new_baseptr, isolated"),
    ("ptwr_store", "store to a page table, emulated, isolated"),
    ("user_syscall", "user syscall to the kernel and back, isolated"),
    ("user_page_fault", "user page fault to the kernel and back, isolated"),
    ("kernel_page_fault", "kernel page fault and back, isolated"),
    ("emulate_rdmsr", "rdmsr, emulated, isolated"),
    ("grant_map", "grant map, isolated"),
    ("vcpu_switch", "vCPU switch by yield, isolated"),
];
/// What the keys of those rows begin with here.
const ISOLATED_PREFIX: &str = "isolated ";

/// All rows: key, name, goal.
fn all_rows() -> impl Iterator<Item = (String, &'static str, f64)> {
    let plain = ROWS.iter().map(|(key, name, goal)| ((*key).to_owned(), *name, *goal));
    // Xen isolates as well.
    let isolated = ISOLATED.iter().map(|(key, name)| (format!("{ISOLATED_PREFIX}{key}"), *name, NOT_LATER));
    plain.chain(isolated)
}

/// What a hypervisor's boots printed: a count or a reason for each key.
type Printed = BTreeMap<String, Result<u64, String>>;

/// Counts, prints, and writes `target/bench/micro.json`, `micro.svg` and `micro.md`.
pub(super) fn run(choices: &Choices) -> Result<()> {
    choices.check(
        ROWS.iter().flat_map(|(key, name, _)| [*key, *name]).chain(ISOLATED.iter().map(|row| row.1)),
    )?;
    let [ours, xen] = [measure(&Hypervisor::Paravane)?, measure(&Hypervisor::Xen)?];
    let (mut rows, mut missing) = (Vec::new(), Vec::new());
    for (key, name, goal) in all_rows() {
        if !choices.wants(&key) && !choices.wants(name) {
            continue;
        }
        match (count(&ours, &key), count(&xen, &key)) {
            (Ok(paravane), Ok(xen)) => rows.push(Row { name, unit: "instr", paravane, xen, goal }),
            (Err(reason), _) => missing.push((name, format!("on Paravane: {reason}"))),
            (_, Err(reason)) => missing.push((name, format!("on Xen: {reason}"))),
        }
    }
    let barriers = barriers()?;
    let mut report = report(&rows, &missing);
    report["barriers"] = json!(barriers);
    write_report(&rows, &report, "micro")?;
    std::fs::write(folder()?.join("micro.md"), markdown(&rows, &missing))?;
    if choices.json {
        println!("{report:#}");
    } else {
        print_table(&rows);
        missing.iter().for_each(|(name, reason)| println!("{name}: missing {reason}"));
        println!("two domains on a CPU, with spec-ctrl=ibpb,verw: {barriers}");
        println!("instr: instructions from before the primitive to after it, the guest's few own included");
        println!("files: {}", display(&["micro.json", "micro.svg", "micro.md"]));
    }
    let missed = rows.iter().filter(|row| !row.meets_goal()).count();
    ensure!(missed == 0, "{missed} of {} rows miss their goal", rows.len());
    Ok(())
}

fn measure(hypervisor: &Hypervisor) -> Result<Printed> {
    let step = Step::start(format!("counting on {}", hypervisor.name()));
    let mut printed = Printed::new();
    for (cpus, args, isolated) in [(1, "", false), (2, "peer", false), (1, "", true)] {
        let mut machine = Machine::new(hypervisor.clone());
        machine.hypervisor_args = format!("{CONSOLE_ARGS} dom0_max_vcpus=2");
        if cpus > 1 {
            machine.hypervisor_args.push_str(" dom0_vcpus_pin");
        }
        machine.kernel = Some(project::guest_elf("micro"));
        machine.kernel_args = args.into();
        machine.cpus = cpus;
        machine.icount = true;
        if isolated {
            machine.maker = Some("GenuineIntel");
            machine.hypervisor_args.push_str(" xpti=yes");
        }
        let mut session = Session::start(&machine)?;
        let rows = parse(&session.wait_for("micro done", LIMIT)?);
        let prefix = if isolated { ISOLATED_PREFIX } else { "" };
        printed.extend(rows.into_iter().map(|(key, count)| (format!("{prefix}{key}"), count)));
    }
    step.done();
    Ok(printed)
}

/// What our hypervisor says of the barriers that were due while two domains took turns on a CPU. The emulator has none of them.
fn barriers() -> Result<String> {
    const SAYS: &str = "Barriers: ";
    let step = Step::start("counting barriers");
    let mut machine = Machine::new(Hypervisor::Paravane);
    machine.hypervisor_args = format!("{CONSOLE_ARGS} dom0_max_vcpus=2 spec-ctrl=ibpb,verw");
    machine.kernel = Some(project::guest_elf("micro"));
    machine.kernel_args = "only=vcpu_switch barriers".into();
    machine.icount = true;
    let other = folder()?.join("barriers.toml");
    std::fs::write(&other, "[[domain]]\nname = \"other\"\nkernel = \"guest:hello\"\nmemory = \"16M\"\n")?;
    domains::add(&mut machine, &other, false)?;
    let output = Session::start(&machine)?.wait_for("micro done", LIMIT)?;
    let line = output.lines().find_map(|line| Some(line.split_once(SAYS)?.1.trim().to_owned()));
    step.done();
    line.with_context(|| format!("no count of barriers:\n{output}"))
}

/// Reads lines `micro KEY: COUNT` and `micro KEY: missing, REASON`.
fn parse(output: &str) -> Printed {
    let lines = output.lines().filter_map(|line| line.trim().strip_prefix("micro ")?.split_once(": "));
    lines
        .map(|(key, value)| {
            let reason = || value.strip_prefix("missing, ").unwrap_or(value).to_owned();
            (key.to_owned(), value.parse().map_err(|_| reason()))
        })
        .collect()
}

fn count(printed: &Printed, key: &str) -> Result<u64, String> {
    printed.get(key).cloned().unwrap_or_else(|| Err("not counted".into()))
}

fn report(rows: &[Row], missing: &[(&str, String)]) -> Value {
    let mut report = super::report(rows);
    report["missing"] =
        missing.iter().map(|(name, reason)| json!({ "name": name, "reason": reason })).collect();
    report
}

/// The table for the documentation.
fn markdown(rows: &[Row], missing: &[(&str, String)]) -> String {
    let mut text = String::from("| row | Paravane | Xen 4.17 | ratio | goal |\n|---|---|---|---|---|\n");
    for row in rows {
        let (ours, xen) = (grouped(row.paravane), grouped(row.xen));
        let missed = if row.meets_goal() { "" } else { " missed" };
        let _ =
            writeln!(text, "| {} | {ours} | {xen} | {:.3} | {}{missed} |", row.name, row.ratio(), row.goal);
    }
    for (name, reason) in missing {
        let _ = writeln!(text, "| {name} | missing {reason} | | | |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counts_or_reasons() {
        let printed = parse("(x) boots\nmicro a: 12\nmicro b: missing, needs luck\nother micro c: 3\n");
        assert_eq!(count(&printed, "a"), Ok(12));
        assert_eq!(count(&printed, "b"), Err("needs luck".into()));
        assert_eq!(count(&printed, "c"), Err("not counted".into()));
    }

    #[test]
    fn keys_are_unique() {
        let keys: std::collections::BTreeSet<_> = all_rows().map(|(key, ..)| key).collect();
        assert_eq!(keys.len(), ROWS.len() + ISOLATED.len());
        for (key, _) in ISOLATED {
            assert!(ROWS.iter().any(|row| row.0 == key), "{key} is counted without isolation");
        }
    }

    #[test]
    fn the_table_says_what_is_missed() {
        let row = |paravane| Row { name: "r", unit: "instr", paravane, xen: 1000, goal: 0.6 };
        let text = markdown(&[row(600), row(601)], &[("s", "on Xen: no luck".into())]);
        assert!(text.contains("| r | 600 | 1,000 | 0.600 | 0.6 |"), "{text}");
        assert!(text.contains("| r | 601 | 1,000 | 0.601 | 0.6 missed |"), "{text}");
        assert!(text.ends_with("| s | missing on Xen: no luck | | | |\n"), "{text}");
    }
}
