//! The commands of the hypercalls: numbers unique within one, none forgotten by its name.

use std::collections::{BTreeMap, BTreeSet};

use xen_abi::hypercall::commands::{Command, for_each};
use xen_abi::hypercall::{Hypercall, nr};

fn by_hypercall() -> BTreeMap<u32, Vec<Command>> {
    let mut commands: BTreeMap<u32, Vec<Command>> = BTreeMap::new();
    for_each(&mut |command| commands.entry(command.hypercall).or_default().push(command));
    commands
}

#[test]
fn numbers_are_unique() {
    for (hypercall, commands) in by_hypercall() {
        assert!(Hypercall::by_nr(hypercall.into()).is_some(), "{hypercall}");
        let numbers: BTreeSet<u64> = commands.iter().map(|command| command.number).collect();
        assert_eq!(numbers.len(), commands.len(), "{commands:?}");
    }
}

#[test]
fn each_hypercall_has_as_many_as_its_header() {
    let counts: Vec<(u32, usize)> =
        by_hypercall().into_iter().map(|(hypercall, commands)| (hypercall, commands.len())).collect();
    for (hypercall, count) in [
        (nr::MMU_UPDATE, 4),
        (nr::GRANT_TABLE_OP, 13),
        (nr::VCPU_OP, 14),
        (nr::MMUEXT_OP, 20),
        (nr::SCHED_OP, 8),
        (nr::EVENT_CHANNEL_OP, 14),
        (nr::XEN_VERSION, 11),
        (nr::CONSOLE_IO, 2),
        (nr::MCA, 6),
        (nr::ARGO_OP, 4),
    ] {
        assert!(counts.contains(&(hypercall, count)), "{hypercall}: {counts:?}");
    }
}

#[test]
fn flags_and_versions_are_no_commands() {
    let names: BTreeSet<&str> = by_hypercall().values().flatten().map(|command| command.name).collect();
    for name in ["XENMEM_EXCHANGE", "XENMEM_ACCESS_OP", "XEN_DOMCTL_PAUSEDOMAIN", "SEGBASE_FS"] {
        assert!(names.contains(name), "{name}");
    }
    for name in ["XENMEM_ACCESS_RW", "XENPF_INTERFACE_VERSION", "XEN_DOMCTL_INTERFACE_VERSION", "XEN_MC_OK"] {
        assert!(!names.contains(name), "{name}");
    }
}
