//! What the page on coverage says beside what was found: reasons.

/// Hypercalls that the dispatcher does not see, with what a guest gets.
const ANSWERS: &[(&str, &str)] = &[("iret", "served")];

/// Why something is as it is.
const NOTES: &[(&str, &str)] = &[
    ("iret", "by the entry code itself"),
    ("xen_version", "reports 4.17"),
    ("sched_op_compat", "yield, block, shutdown"),
    ("xsm_op", "as Xen without the security module"),
    ("xenoprof_op", "removed from Xen as well"),
    ("hvm_op", "a PV guest has no HVM parameters"),
    ("xenpmu_op", "Xen's default as well"),
    ("mca", "there is never a report to fetch"),
    ("kexec_op", "no crash kernel"),
    ("argo_op", "Xen's default as well"),
    ("dm_op", "no HVM guests, no device models"),
    ("hypfs_op", "no file system of settings"),
];

/// The note on a hypercall or command.
pub fn of(name: &str) -> &'static str {
    find(NOTES, name).unwrap_or_default()
}

fn find(table: &'static [(&str, &str)], name: &str) -> Option<&'static str> {
    table.iter().find(|row| row.0 == name).map(|row| row.1)
}

/// What a guest gets from a hypercall that the dispatcher does not see.
pub fn answer(name: &str) -> Option<&'static str> {
    find(ANSWERS, name)
}
