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

/// Served commands without a conformance case, each with the reason.
pub const NO_CASE: &[(&str, &str)] = &[
    ("set_callbacks", "host tests"),
    ("sched_op_compat", "old form of the same code; host tests"),
    ("XENPF_SETTIME32", "as settime64"),
    ("XENPF_ADD_MEMTYPE", "changes the memory types of the machine; Linux uses it at boot"),
    ("XENPF_DEL_MEMTYPE", "changes the memory types of the machine; Linux uses it at boot"),
    ("XENPF_READ_MEMTYPE", "changes the memory types of the machine; Linux uses it at boot"),
    ("XENPF_CORE_PARKING", "host tests"),
    ("XENPF_GET_SYMBOL", "host tests"),
    ("XENMEM_MACHPHYS_MFN_LIST", "host tests"),
    ("XENMEM_ADD_TO_PHYSMAP", "host tests"),
    ("XENMEM_MEMORY_MAP", "host tests"),
    ("XENMEM_EXCHANGE", "host tests"),
    ("XENMEM_SET_MEMORY_MAP", "host tests"),
    ("XENMEM_MAXIMUM_GPFN", "host tests"),
    ("XENMEM_REMOVE_FROM_PHYSMAP", "host tests"),
    ("XENMEM_SET_POD_TARGET", "host tests"),
    ("XENMEM_GET_POD_TARGET", "host tests"),
    ("XENMEM_GET_SHARING_FREED_PAGES", "host tests"),
    ("XENMEM_GET_SHARING_SHARED_PAGES", "host tests"),
    ("XENMEM_ADD_TO_PHYSMAP_BATCH", "host tests"),
    ("XENMEM_CLAIM_PAGES", "host tests"),
    ("XENMEM_GET_VNUMAINFO", "host tests"),
    ("XENMEM_RESERVED_DEVICE_MEMORY_MAP", "host tests"),
    ("event_channel_op_compat", "old form of the same code; host tests"),
    ("XENVER_COMPILE_INFO", "host tests"),
    ("XENVER_BUILD_ID", "host tests"),
    ("VMASST_TYPE_4GB_SEGMENTS", "host tests"),
    ("VMASST_TYPE_4GB_SEGMENTS_NOTIFY", "host tests"),
    ("VMASST_TYPE_PAE_EXTENDED_CR3", "host tests"),
    ("VMASST_TYPE_ARCHITECTURAL_IOPL", "host tests"),
    ("VMASST_TYPE_RUNSTATE_UPDATE_FLAG", "host tests"),
    ("VMASST_TYPE_M2P_STRICT", "host tests"),
    ("VCPUOP_UP", "host tests, and Linux on four CPUs"),
    ("VCPUOP_DOWN", "host tests, and Linux on four CPUs"),
    ("VCPUOP_SEND_NMI", "host tests, and Linux on four CPUs"),
    ("VCPUOP_GET_PHYSID", "host tests, and Linux on four CPUs"),
    ("MMUEXT_PIN_L3_TABLE", "host tests"),
    ("MMUEXT_INVLPG_MULTI", "host tests"),
    ("MMUEXT_FLUSH_CACHE_GLOBAL", "host tests"),
    ("XENNMI_REGISTER_CALLBACK", "host tests; no NMI source in the emulator"),
    ("XENNMI_UNREGISTER_CALLBACK", "host tests; no NMI source in the emulator"),
    ("SCHEDOP_BLOCK", "host tests, and Linux on four CPUs"),
    ("SCHEDOP_SHUTDOWN_CODE", "host tests"),
    ("XEN_SYSCTL_CPU_HOTPLUG", "for tools; host tests"),
    ("XEN_SYSCTL_SCHEDULER_OP", "for tools; host tests"),
    ("XEN_SYSCTL_PSR_ALLOC", "for tools; host tests"),
    ("XEN_SYSCTL_GET_CPU_LEVELLING_CAPS", "for tools; host tests"),
    ("XEN_DOMCTL_SOFT_RESET_CONT", "for tools; host tests"),
    ("XEN_DOMCTL_SETTIMEOFFSET", "for tools; host tests"),
    ("XEN_DOMCTL_UNBIND_PT_IRQ", "for tools; host tests"),
    ("XEN_DOMCTL_GETTSCINFO", "for tools; host tests"),
    ("XEN_DOMCTL_SETTSCINFO", "for tools; host tests"),
    ("XEN_DOMCTL_PSR_CMT_OP", "for tools; host tests"),
    ("XEN_MC_FETCH", "needs a machine check to report; host tests"),
    ("XEN_MC_NOTIFYDOMAIN", "needs a machine check to report; host tests"),
    ("XEN_MC_PHYSCPUINFO", "needs a machine check to report; host tests"),
    ("XEN_MC_MSRINJECT", "needs a machine check to report; host tests"),
    ("XEN_MC_MCEINJECT", "needs a machine check to report; host tests"),
    ("XEN_MC_INJECT_V2", "needs a machine check to report; host tests"),
];

/// The note on a hypercall or command.
pub fn of(name: &str) -> &'static str {
    find(NOTES, name).unwrap_or_default()
}

/// Why it has no case.
pub fn no_case(name: &str) -> Option<&'static str> {
    find(NO_CASE, name)
}

fn find(table: &'static [(&str, &str)], name: &str) -> Option<&'static str> {
    table.iter().find(|row| row.0 == name).map(|row| row.1)
}

/// What a guest gets from a hypercall that the dispatcher does not see.
pub fn answer(name: &str) -> Option<&'static str> {
    find(ANSWERS, name)
}
