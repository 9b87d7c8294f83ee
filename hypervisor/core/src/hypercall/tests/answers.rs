//! What the dispatcher answers to each command of each hypercall: the source of `docs/abi-coverage.md`.
//!
//! Every command is made once by the first domain and once by another, with arguments that are all zero. What comes back
//! tells whether it is served, and to whom; `answers.txt` keeps it, and a difference fails the test. `cargo xtask coverage`
//! writes the file anew.

use super::*;
use alloc::format;
use alloc::string::String;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use xen_abi::domctl::XEN_DOMCTL_INTERFACE_VERSION;
use xen_abi::hypercall::TABLE;
use xen_abi::hypercall::commands::{Command, for_each};
use xen_abi::mca::XEN_MCA_INTERFACE_VERSION;
use xen_abi::platform::XENPF_INTERFACE_VERSION;
use xen_abi::sysctl::XEN_SYSCTL_INTERFACE_VERSION;
use xen_abi::xen::{DOMID_SELF, MmuUpdate, MmuextOp};

/// Set by `cargo xtask coverage`: the test writes what it finds instead of comparing.
const WRITE: &str = "PARAVANE_WRITE_ANSWERS";

#[test]
fn answers_are_as_written_down() {
    let mut found = String::new();
    for row in TABLE.iter().filter(|row| row.callers.pv) {
        found.push_str(&format!("{}\t{}\t{}\n", row.name, word(0, row.nr, None), word(1, row.nr, None)));
    }
    for_each(&mut |command| {
        let [first, other] = [0, 1].map(|domain| word(domain, command.hypercall, Some(command)));
        found.push_str(&format!("{}\t{first}\t{other}\n", command.name));
    });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/hypercall/tests/answers.txt");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(path, found).unwrap();
        return;
    }
    let written = std::fs::read_to_string(path).unwrap();
    let changed: Vec<&str> = found.lines().filter(|line| !written.lines().any(|old| old == *line)).collect();
    assert!(found == written, "run `cargo xtask coverage`; new answers:\n{}", changed.join("\n"));
}

/// A command that does not exist is told apart, so `served` means something.
#[test]
fn unknown_commands_are_not_served() {
    let mut hypercalls = Vec::new();
    for_each(&mut |command| hypercalls.push(command.hypercall));
    hypercalls.dedup();
    // Here the ABI has another error for what is unknown.
    hypercalls
        .retain(|number| ![nr::MMU_UPDATE, nr::SET_SEGMENT_BASE, nr::VM_ASSIST, nr::MCA].contains(number));
    for hypercall in hypercalls {
        // The command of `memory_op` has six bits.
        let number = if hypercall == nr::MEMORY_OP { 63 } else { 99 };
        let unknown = Command { hypercall, name: "", c: "", number };
        assert_eq!(word(0, hypercall, Some(unknown)), "ENOSYS", "{hypercall}");
    }
}

/// What a domain hears: `served`, or the error that says that it is not.
fn word(domain: u16, hypercall: u32, command: Option<Command>) -> &'static str {
    let caller = Caller::with_id(domain);
    let args = arguments(&caller, hypercall, command.map_or(0, |command| command.number));
    // What would end the domain or park its vCPU on a real machine may end the call here; that is an answer as well.
    let outcome = catch_unwind(AssertUnwindSafe(|| caller.outcome(hypercall, args)));
    match outcome {
        Ok(outcome) if outcome == Errno::ENOSYS.into() => "ENOSYS",
        Ok(outcome) if outcome == Errno::EOPNOTSUPP.into() => "EOPNOTSUPP",
        Ok(outcome) if domain != 0 && outcome == Errno::EPERM.into() => "EPERM",
        _ => "served",
    }
}

/// The registers for a command with an empty argument.
fn arguments(caller: &Caller, hypercall: u32, command: u64) -> [u64; 6] {
    let low = u32::try_from(command).unwrap();
    let head = |version: u32| {
        let mut op = [0_u32; 40];
        // In a domctl the third word is the domain: its own one, which is there.
        (op[0], op[1], op[2]) = (low, version, caller.domain.id.0.into());
        [caller.put(&op), 0, 0, 0, 0, 0]
    };
    let own = u64::from(DOMID_SELF);
    match hypercall {
        nr::MMU_UPDATE => [caller.put(&MmuUpdate { ptr: command, val: 0 }), 1, 0, own, 0, 0],
        nr::MMUEXT_OP => [caller.put(&MmuextOp { cmd: low, ..MmuextOp::default() }), 1, 0, own, 0, 0],
        nr::PLATFORM_OP => head(XENPF_INTERFACE_VERSION),
        nr::SYSCTL => head(XEN_SYSCTL_INTERFACE_VERSION),
        nr::DOMCTL => head(XEN_DOMCTL_INTERFACE_VERSION),
        nr::MCA => head(XEN_MCA_INTERFACE_VERSION),
        nr::VM_ASSIST => [0, command, 0, 0, 0, 0],
        nr::GRANT_TABLE_OP => [command, caller.put(&[0_u64; 8]), 1, 0, 0, 0],
        _ => [command, 0, 0, 0, 0, 0],
    }
}
