//! The commands of `__HYPERVISOR_sysctl` and its argument.

consts! {
    /// The interface version of 4.17; any other in [`XenSysctl::interface_version`] is refused with
    /// `-EACCES`.
    XEN_SYSCTL_INTERFACE_VERSION: u32 = 0x15;

    /// Reads the hypervisor's log: [`XenSysctlReadconsole`](super::XenSysctlReadconsole).
    XEN_SYSCTL_READCONSOLE("XEN_SYSCTL_readconsole"): u32 = 1;
    /// Trace buffers: [`XenSysctlTbufOp`](super::XenSysctlTbufOp).
    XEN_SYSCTL_TBUF_OP("XEN_SYSCTL_tbuf_op"): u32 = 2;
    /// Describes the machine: [`XenSysctlPhysinfo`](super::XenSysctlPhysinfo).
    XEN_SYSCTL_PHYSINFO("XEN_SYSCTL_physinfo"): u32 = 3;
    /// Which scheduler is in use: [`XenSysctlSchedId`](super::XenSysctlSchedId).
    XEN_SYSCTL_SCHED_ID("XEN_SYSCTL_sched_id"): u32 = 4;
    /// Software performance counters: [`XenSysctlPerfcOp`](super::XenSysctlPerfcOp).
    XEN_SYSCTL_PERFC_OP("XEN_SYSCTL_perfc_op"): u32 = 5;
    /// Describes several domains: [`XenSysctlGetdomaininfolist`](super::XenSysctlGetdomaininfolist).
    XEN_SYSCTL_GETDOMAININFOLIST("XEN_SYSCTL_getdomaininfolist"): u32 = 6;
    /// Types debug keys: [`XenSysctlDebugKeys`](super::XenSysctlDebugKeys).
    XEN_SYSCTL_DEBUG_KEYS("XEN_SYSCTL_debug_keys"): u32 = 7;
    /// Idle times of CPUs: [`XenSysctlGetcpuinfo`](super::XenSysctlGetcpuinfo).
    XEN_SYSCTL_GETCPUINFO("XEN_SYSCTL_getcpuinfo"): u32 = 8;
    /// Free memory: [`XenSysctlAvailheap`](super::XenSysctlAvailheap).
    XEN_SYSCTL_AVAILHEAP("XEN_SYSCTL_availheap"): u32 = 9;
    /// Statistics of power states: [`XenSysctlGetPmstat`](super::XenSysctlGetPmstat).
    XEN_SYSCTL_GET_PMSTAT("XEN_SYSCTL_get_pmstat"): u32 = 10;
    /// CPUs on- and offline: [`XenSysctlCpuHotplug`](super::XenSysctlCpuHotplug).
    XEN_SYSCTL_CPU_HOTPLUG("XEN_SYSCTL_cpu_hotplug"): u32 = 11;
    /// Power management: [`XenSysctlPmOp`](super::XenSysctlPmOp).
    XEN_SYSCTL_PM_OP("XEN_SYSCTL_pm_op"): u32 = 12;
    /// Pages out of and into use: [`XenSysctlPageOfflineOp`](super::XenSysctlPageOfflineOp).
    XEN_SYSCTL_PAGE_OFFLINE_OP("XEN_SYSCTL_page_offline_op"): u32 = 14;
    /// Lock profile: [`XenSysctlLockprofOp`](super::XenSysctlLockprofOp).
    XEN_SYSCTL_LOCKPROF_OP("XEN_SYSCTL_lockprof_op"): u32 = 15;
    /// Cores and sockets: [`XenSysctlCputopoinfo`](super::XenSysctlCputopoinfo).
    XEN_SYSCTL_CPUTOPOINFO("XEN_SYSCTL_cputopoinfo"): u32 = 16;
    /// NUMA nodes: [`XenSysctlNumainfo`](super::XenSysctlNumainfo).
    XEN_SYSCTL_NUMAINFO("XEN_SYSCTL_numainfo"): u32 = 17;
    /// CPU pools: [`XenSysctlCpupoolOp`](super::XenSysctlCpupoolOp).
    XEN_SYSCTL_CPUPOOL_OP("XEN_SYSCTL_cpupool_op"): u32 = 18;
    /// Parameters of a scheduler: [`XenSysctlSchedulerOp`](super::XenSysctlSchedulerOp).
    XEN_SYSCTL_SCHEDULER_OP("XEN_SYSCTL_scheduler_op"): u32 = 19;
    /// Code coverage of the hypervisor: [`XenSysctlCoverageOp`](super::XenSysctlCoverageOp).
    XEN_SYSCTL_COVERAGE_OP("XEN_SYSCTL_coverage_op"): u32 = 20;
    /// Cache monitoring: [`XenSysctlPsrCmtOp`](super::XenSysctlPsrCmtOp).
    XEN_SYSCTL_PSR_CMT_OP("XEN_SYSCTL_psr_cmt_op"): u32 = 21;
    /// NUMA nodes of PCI devices: [`XenSysctlPcitopoinfo`](super::XenSysctlPcitopoinfo).
    XEN_SYSCTL_PCITOPOINFO("XEN_SYSCTL_pcitopoinfo"): u32 = 22;
    /// Cache and bandwidth allocation: [`XenSysctlPsrAlloc`](super::XenSysctlPsrAlloc).
    XEN_SYSCTL_PSR_ALLOC("XEN_SYSCTL_psr_alloc"): u32 = 23;
    /// How CPUID can be masked for PV guests:
    /// [`XenSysctlCpuLevellingCaps`](super::XenSysctlCpuLevellingCaps).
    XEN_SYSCTL_GET_CPU_LEVELLING_CAPS("XEN_SYSCTL_get_cpu_levelling_caps"): u32 = 25;
    /// Feature words: [`XenSysctlCpuFeatureset`](super::XenSysctlCpuFeatureset).
    XEN_SYSCTL_GET_CPU_FEATURESET("XEN_SYSCTL_get_cpu_featureset"): u32 = 26;
    /// Live patches: [`XenSysctlLivepatchOp`](super::XenSysctlLivepatchOp).
    XEN_SYSCTL_LIVEPATCH_OP("XEN_SYSCTL_livepatch_op"): u32 = 27;
    /// CPUID and MSR policies: [`XenSysctlCpuPolicy`](super::XenSysctlCpuPolicy).
    XEN_SYSCTL_GET_CPU_POLICY("XEN_SYSCTL_get_cpu_policy"): u32 = 29;
}

wire! {
    /// Argument of `__HYPERVISOR_sysctl`. The structure is copied in, and copied back where the command has
    /// results.
    #[repr(align(8))]
    pub struct XenSysctl("struct xen_sysctl", 136) {
        /// Which command (`XEN_SYSCTL_*`).
        @0 cmd: u32,
        /// [`XEN_SYSCTL_INTERFACE_VERSION`].
        @4 interface_version: u32,
        /// The command's payload.
        @8 u: [u8; 128],
    }
}

abi_module! { "sysctl.h": consts, wire }
