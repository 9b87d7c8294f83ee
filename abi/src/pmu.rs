//! `pmu.h` and `arch-x86/pmu.h`: performance counters for guests, by `xenpmu_op(cmd, arg)`.
//!
//! On a counter's overflow the hypervisor fills in the vCPU's [`XenPmuData`] page and sends `VIRQ_XENPMU`.

consts! {
    /// Major version of the interface.
    XENPMU_VER_MAJ: u32 = 0;
    /// Minor version.
    XENPMU_VER_MIN: u32 = 1;

    /// Asks for mode and version.
    XENPMU_MODE_GET("XENPMU_mode_get"): u32 = 0;
    /// Sets the mode (dom0).
    XENPMU_MODE_SET("XENPMU_mode_set"): u32 = 1;
    /// Asks for the features.
    XENPMU_FEATURE_GET("XENPMU_feature_get"): u32 = 2;
    /// Sets them (dom0).
    XENPMU_FEATURE_SET("XENPMU_feature_set"): u32 = 3;
    /// Registers a vCPU's page: `val` is its frame.
    XENPMU_INIT("XENPMU_init"): u32 = 4;
    /// Removes it.
    XENPMU_FINISH("XENPMU_finish"): u32 = 5;
    /// Loads the page's LVTPC.
    XENPMU_LVTPC_SET("XENPMU_lvtpc_set"): u32 = 6;
    /// Loads the page's registers.
    XENPMU_FLUSH("XENPMU_flush"): u32 = 7;

    /// Mode: off.
    XENPMU_MODE_OFF: u64 = 0;
    /// Mode: guests profile themselves.
    XENPMU_MODE_SELF: u64 = 1 << 0;
    /// Mode: and dom0 the hypervisor too.
    XENPMU_MODE_HV: u64 = 1 << 1;
    /// Mode: dom0 profiles everything, nobody else anything.
    XENPMU_MODE_ALL: u64 = 1 << 2;

    /// Feature: Intel's branch trace store.
    XENPMU_FEATURE_INTEL_BTS: u64 = 1 << 0;
    /// Feature: only counters of instructions and cycles.
    XENPMU_FEATURE_IPC_ONLY: u64 = 1 << 1;
    /// Feature: only architectural events.
    XENPMU_FEATURE_ARCH_ONLY: u64 = 1 << 2;

    /// `pmu_flags`: the MSRs are in the page, not in the hardware.
    PMU_CACHED: u64 = 1 << 0;
    /// `pmu_flags`: the sample is of user mode.
    PMU_SAMPLE_USER: u64 = 1 << 1;
    /// `pmu_flags`: of real mode.
    PMU_SAMPLE_REAL: u64 = 1 << 2;
    /// `pmu_flags`: of a PV guest.
    PMU_SAMPLE_PV: u64 = 1 << 3;

    /// Size of [`XenPmuArch::r`].
    XENPMU_REGS_PAD_SZ: usize = 64;
    /// Size of [`XenPmuArch::c`].
    XENPMU_CTXT_PAD_SZ: usize = 128;
}

wire! {
    /// Argument of `xenpmu_op`.
    pub struct XenPmuParams("struct xen_pmu_params", 24) {
        /// In and out: major version.
        @0 version_maj("version.maj"): u32,
        /// In and out: minor version.
        @4 version_min("version.min"): u32,
        /// In and out: mode, features or frame.
        @8 val: u64,
        /// In: the vCPU.
        @16 vcpu: u32,
        @20 pad("pad"): u32,
    }

    /// AMD's counters; the banks follow at the given offsets.
    #[repr(align(8))]
    pub struct XenPmuAmdCtxt("struct xen_pmu_amd_ctxt", 8) {
        /// Offset of the counters from the start of the context.
        @0 counters: u32,
        /// Offset of their controls.
        @4 ctrls: u32,
    }

    /// A counter and its control.
    pub struct XenPmuCntrPair("struct xen_pmu_cntr_pair", 16) {
        /// The counter.
        @0 counter: u64,
        /// The control.
        @8 control: u64,
    }

    /// Intel's counters; the banks follow at the given offsets.
    pub struct XenPmuIntelCtxt("struct xen_pmu_intel_ctxt", 64) {
        /// Offset of the fixed counters from the start of the context.
        @0 fixed_counters: u32,
        /// Offset of the general ones.
        @4 arch_counters: u32,
        /// `IA32_PERF_GLOBAL_CTRL`.
        @8 global_ctrl: u64,
        /// `IA32_PERF_GLOBAL_OVF_CTRL`.
        @16 global_ovf_ctrl: u64,
        /// `IA32_PERF_GLOBAL_STATUS`.
        @24 global_status: u64,
        /// `IA32_FIXED_CTR_CTRL`.
        @32 fixed_ctrl: u64,
        /// `IA32_DS_AREA`.
        @40 ds_area: u64,
        /// `IA32_PEBS_ENABLE`.
        @48 pebs_enable: u64,
        /// `IA32_DEBUGCTL`.
        @56 debugctl: u64,
    }

    /// The registers of what was interrupted.
    pub struct XenPmuRegs("struct xen_pmu_regs", 32) {
        /// RIP.
        @0 ip: u64,
        /// RSP.
        @8 sp: u64,
        /// RFLAGS.
        @16 flags: u64,
        /// CS.
        @24 cs: u16,
        /// SS.
        @26 ss: u16,
        /// Privilege level.
        @28 cpl: u8,
        @29 pad("pad"): [u8; 3],
    }

    /// x86 part of [`XenPmuData`].
    pub struct XenPmuArch("struct xen_pmu_arch", 208) [shared] {
        /// [`XenPmuRegs`].
        @0 r: [u64; XENPMU_REGS_PAD_SZ / 8],
        /// `PMU_*`.
        @64 pmu_flags: u64,
        /// LVTPC in the low half.
        @72 l: u64,
        /// [`XenPmuAmdCtxt`] or [`XenPmuIntelCtxt`].
        @80 c: [u64; XENPMU_CTXT_PAD_SZ / 8],
    }

    /// The page that a vCPU and the hypervisor share.
    pub struct XenPmuData("struct xen_pmu_data", 224) [shared] {
        /// The vCPU that was interrupted.
        @0 vcpu_id: u32,
        /// The physical CPU (the vCPU again for unprivileged guests).
        @4 pcpu_id: u32,
        /// Its domain: `DOMID_SELF`, `DOMID_XEN` or a number.
        @8 domain_id: u16,
        @10 pad("pad"): [u8; 6],
        /// The registers.
        @16 pmu: XenPmuArch,
    }
}

abi_module! { "pmu.h": consts, wire }
