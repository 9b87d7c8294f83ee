//! What the page on coverage says beside what was found: reasons, and which answers can only be refusals.

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
    ("XENMEM_ADD_TO_PHYSMAP", "always refused, as by Xen: a PV domain has no physmap"),
    ("XENMEM_ADD_TO_PHYSMAP_BATCH", "always refused, as by Xen: a PV domain has no physmap"),
    ("XENMEM_REMOVE_FROM_PHYSMAP", "always refused, as by Xen: a PV domain has no physmap"),
    ("XENMEM_SET_POD_TARGET", "always refused, as by Xen: a PV domain has no physmap"),
    ("XENMEM_GET_POD_TARGET", "always refused, as by Xen: a PV domain has no physmap"),
    ("XENMEM_ACCESS_OP", "always refused, as by Xen: a PV domain has no physmap"),
    ("XENMEM_GET_VNUMAINFO", "always refused: no virtual NUMA nodes"),
    ("XENPF_MICROCODE_UPDATE", "always refused: microcode is not loaded"),
    ("XENPF_CPU_HOTADD", "always refused: nothing is added after boot"),
    ("XENPF_MEM_HOTADD", "always refused: nothing is added after boot"),
    ("XENPF_RESOURCE_OP", "time is read; caches are not monitored"),
    ("XEN_DOMCTL_GETHVMCONTEXT", "always refused, as by Xen: not for PV domains"),
    ("XEN_DOMCTL_GETHVMCONTEXT_PARTIAL", "always refused, as by Xen: not for PV domains"),
    ("XEN_DOMCTL_SETHVMCONTEXT", "always refused, as by Xen: not for PV domains"),
    ("XEN_DOMCTL_SET_TARGET", "always refused, as by Xen: not for PV domains"),
    ("XEN_DOMCTL_BIND_PT_IRQ", "always refused, as by Xen: not for PV domains"),
    ("XEN_DOMCTL_UNBIND_PT_IRQ", "always refused, as by Xen: not for PV domains"),
    ("XEN_DOMCTL_DEBUG_OP", "always refused, as by Xen: not for PV domains"),
    ("XEN_DOMCTL_SOFT_RESET", "always refused, as by Xen: not for PV domains"),
    ("XEN_DOMCTL_SOFT_RESET_CONT", "always refused, as by Xen: not for PV domains"),
    ("XEN_DOMCTL_SET_BROKEN_PAGE_P2M", "always refused, as by Xen: a PV domain has no physmap"),
    ("XEN_DOMCTL_SHADOW_OP", "always refused: written pages are not tracked, so no live migration"),
    ("XEN_DOMCTL_PSR_CMT_OP", "always refused: caches are not monitored"),
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
