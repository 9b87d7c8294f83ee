//! Payloads of power management: statistics, frequency governors, idle states.

use crate::GuestHandle;

consts! {
    /// Mask of the category in `type_`.
    PMSTAT_CATEGORY_MASK: u32 = 0xf0;
    /// Category: performance states.
    PMSTAT_PX: u32 = 0x10;
    /// Category: idle states.
    PMSTAT_CX: u32 = 0x20;
    /// `type_`: number of performance states.
    PMSTAT_GET_MAX_PX("PMSTAT_get_max_px"): u32 = 0x11;
    /// `type_`: statistics of performance states.
    PMSTAT_GET_PXSTAT("PMSTAT_get_pxstat"): u32 = 0x12;
    /// `type_`: reset them.
    PMSTAT_RESET_PXSTAT("PMSTAT_reset_pxstat"): u32 = 0x13;
    /// `type_`: number of idle states.
    PMSTAT_GET_MAX_CX("PMSTAT_get_max_cx"): u32 = 0x21;
    /// `type_`: statistics of idle states.
    PMSTAT_GET_CXSTAT("PMSTAT_get_cxstat"): u32 = 0x22;
    /// `type_`: reset them.
    PMSTAT_RESET_CXSTAT("PMSTAT_reset_cxstat"): u32 = 0x23;

    /// Mask of the category in `cmd`.
    PM_PARA_CATEGORY_MASK: u32 = 0xf0;
    /// Category: frequencies.
    CPUFREQ_PARA: u32 = 0x10;
    /// `cmd`: read the parameters.
    GET_CPUFREQ_PARA: u32 = 0x11;
    /// `cmd`: choose a governor.
    SET_CPUFREQ_GOV: u32 = 0x12;
    /// `cmd`: set a parameter.
    SET_CPUFREQ_PARA: u32 = 0x13;
    /// `cmd`: average frequency.
    GET_CPUFREQ_AVGFREQ: u32 = 0x14;
    /// `cmd`: let the scheduler save power.
    XEN_SYSCTL_PM_OP_SET_SCHED_OPT_SMT("XEN_SYSCTL_pm_op_set_sched_opt_smt"): u32 = 0x21;
    /// `cmd`: deepest idle state (`cpuid` 0) or sub-state (`cpuid` 1).
    XEN_SYSCTL_PM_OP_GET_MAX_CSTATE("XEN_SYSCTL_pm_op_get_max_cstate"): u32 = 0x22;
    /// `cmd`: set the same.
    XEN_SYSCTL_PM_OP_SET_MAX_CSTATE("XEN_SYSCTL_pm_op_set_max_cstate"): u32 = 0x23;
    /// `cmd`: obsolete.
    XEN_SYSCTL_PM_OP_SET_VCPU_MIGRATION_DELAY("XEN_SYSCTL_pm_op_set_vcpu_migration_delay"): u32 = 0x24;
    /// `cmd`: obsolete.
    XEN_SYSCTL_PM_OP_GET_VCPU_MIGRATION_DELAY("XEN_SYSCTL_pm_op_get_vcpu_migration_delay"): u32 = 0x25;
    /// `cmd`: turbo on.
    XEN_SYSCTL_PM_OP_ENABLE_TURBO("XEN_SYSCTL_pm_op_enable_turbo"): u32 = 0x26;
    /// `cmd`: turbo off.
    XEN_SYSCTL_PM_OP_DISABLE_TURBO("XEN_SYSCTL_pm_op_disable_turbo"): u32 = 0x27;
    /// Deepest idle state: no limit.
    XEN_SYSCTL_CX_UNLIMITED: u32 = 0xffff_ffff;
    /// `ctrl_type`: highest frequency.
    SCALING_MAX_FREQ: u32 = 1;
    /// `ctrl_type`: lowest frequency.
    SCALING_MIN_FREQ: u32 = 2;
    /// `ctrl_type`: the frequency (userspace governor).
    SCALING_SETSPEED: u32 = 3;
    /// `ctrl_type`: sampling rate (ondemand governor).
    SAMPLING_RATE: u32 = 4;
    /// `ctrl_type`: threshold (ondemand governor).
    UP_THRESHOLD: u32 = 5;

    /// Bytes of names of drivers and governors.
    CPUFREQ_NAME_LEN: usize = 16;
}

wire! {
    /// Statistics of a performance state.
    pub struct PmPxVal("struct pm_px_val", 24) {
        /// Frequency, MHz.
        @0 freq: u64,
        /// Time in it, nanoseconds.
        @8 residency: u64,
        /// Times entered.
        @16 count: u64,
    }

    /// Payload of the performance-state commands.
    pub struct PmPxStat("struct pm_px_stat", 24) {
        /// Number of states.
        @0 total: u8,
        /// States in use.
        @1 usable: u8,
        /// The state before.
        @2 last: u8,
        /// The state now.
        @3 cur: u8,
        @4 _pad0(): [u8; 4],
        /// Out: transitions, `total` squared.
        @8 trans_pt: GuestHandle<u64>,
        /// Out: statistics of each state.
        @16 pt: GuestHandle<PmPxVal>,
    }

    /// Payload of the idle-state commands. Unused slots of `pc` and `cc` are not written.
    pub struct PmCxStat("struct pm_cx_stat", 56) {
        /// Entries of `triggers` and `residencies`, with C0.
        @0 nr: u32,
        /// The state before.
        @4 last: u32,
        /// Idle time since the start, nanoseconds.
        @8 idle_time: u64,
        /// Out: times entered.
        @16 triggers: GuestHandle<u64>,
        /// Out: time in each.
        @24 residencies: GuestHandle<u64>,
        /// Entries of `pc`.
        @32 nr_pc: u32,
        /// Entries of `cc`.
        @36 nr_cc: u32,
        /// Out: residencies of package states, from PC1.
        @40 pc: GuestHandle<u64>,
        /// Out: residencies of core states, from CC1.
        @48 cc: GuestHandle<u64>,
    }

    /// Payload of `XEN_SYSCTL_get_pmstat`.
    #[repr(align(8))]
    pub struct XenSysctlGetPmstat("struct xen_sysctl_get_pmstat", 64) {
        /// `PMSTAT_*`.
        @0 type_("type"): u32,
        /// Which CPU.
        @4 cpuid: u32,
        /// [`PmPxStat`] or [`PmCxStat`].
        @8 u: [u8; 56],
    }

    /// Parameters of the userspace governor.
    pub struct XenUserspace("struct xen_userspace", 4) {
        /// Frequency, kHz.
        @0 scaling_setspeed: u32,
    }

    /// Parameters of the ondemand governor.
    pub struct XenOndemand("struct xen_ondemand", 16) {
        /// Longest sampling interval, microseconds.
        @0 sampling_rate_max: u32,
        /// Shortest sampling interval, microseconds.
        @4 sampling_rate_min: u32,
        /// Sampling interval, microseconds.
        @8 sampling_rate: u32,
        /// Load from which the frequency rises, percent.
        @12 up_threshold: u32,
    }

    /// Payload of [`GET_CPUFREQ_PARA`].
    pub struct XenGetCpufreqPara("struct xen_get_cpufreq_para", 120) {
        /// Entries of `affected_cpus`; out: how many there are.
        @0 cpu_num: u32,
        /// Entries of `scaling_available_frequencies`; out: how many there are.
        @4 freq_num: u32,
        /// Entries of `scaling_available_governors`; out: how many there are.
        @8 gov_num: u32,
        @12 _pad0(): u32,
        /// Out: CPUs that change together.
        @16 affected_cpus: GuestHandle<u32>,
        /// Out: frequencies, kHz.
        @24 scaling_available_frequencies: GuestHandle<u32>,
        /// Out: names, [`CPUFREQ_NAME_LEN`] bytes each.
        @32 scaling_available_governors: GuestHandle<u8>,
        /// Out: name of the driver.
        @40 scaling_driver: [u8; CPUFREQ_NAME_LEN],
        /// Out: frequency of the hardware, kHz.
        @56 cpuinfo_cur_freq: u32,
        /// Out: highest frequency of the hardware, kHz.
        @60 cpuinfo_max_freq: u32,
        /// Out: lowest frequency of the hardware, kHz.
        @64 cpuinfo_min_freq: u32,
        /// Out: frequency chosen, kHz.
        @68 scaling_cur_freq: u32,
        /// Out: name of the governor.
        @72 scaling_governor: [u8; CPUFREQ_NAME_LEN],
        /// Out: highest frequency allowed, kHz.
        @88 scaling_max_freq: u32,
        /// Out: lowest frequency allowed, kHz.
        @92 scaling_min_freq: u32,
        /// Out: [`XenUserspace`] or [`XenOndemand`].
        @96 u: [u8; 16],
        /// Out: whether turbo is on.
        @112 turbo_enabled: i32,
        @116 _pad1(): u32,
    }

    /// Payload of [`SET_CPUFREQ_GOV`].
    pub struct XenSetCpufreqGov("struct xen_set_cpufreq_gov", 16) {
        /// Name of the governor.
        @0 scaling_governor: [u8; CPUFREQ_NAME_LEN],
    }

    /// Payload of [`SET_CPUFREQ_PARA`].
    pub struct XenSetCpufreqPara("struct xen_set_cpufreq_para", 8) {
        /// Which parameter.
        @0 ctrl_type: u32,
        /// Its value.
        @4 ctrl_value: u32,
    }

    /// Payload of `XEN_SYSCTL_pm_op`.
    #[repr(align(8))]
    pub struct XenSysctlPmOp("struct xen_sysctl_pm_op", 128) {
        /// What to do.
        @0 cmd: u32,
        /// Which CPU.
        @4 cpuid: u32,
        /// [`XenGetCpufreqPara`], [`XenSetCpufreqGov`], [`XenSetCpufreqPara`], a
        /// `u64` (average frequency, kHz) or a `u32` (the other commands).
        @8 u: [u8; 120],
    }
}

abi_module! { "sysctl.h": consts, wire }
