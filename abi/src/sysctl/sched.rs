//! Payloads of scheduling: CPU pools, scheduler parameters, cache monitoring and allocation.

use crate::GuestHandle;
use crate::xen::XenctlBitmap;

consts! {
    /// `op`: create a pool.
    XEN_SYSCTL_CPUPOOL_OP_CREATE: u32 = 1;
    /// `op`: destroy a pool.
    XEN_SYSCTL_CPUPOOL_OP_DESTROY: u32 = 2;
    /// `op`: describe the pool with at least the id given.
    XEN_SYSCTL_CPUPOOL_OP_INFO: u32 = 3;
    /// `op`: add a CPU.
    XEN_SYSCTL_CPUPOOL_OP_ADDCPU: u32 = 4;
    /// `op`: remove a CPU.
    XEN_SYSCTL_CPUPOOL_OP_RMCPU: u32 = 5;
    /// `op`: move a domain.
    XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN: u32 = 6;
    /// `op`: CPUs in no pool.
    XEN_SYSCTL_CPUPOOL_OP_FREEINFO: u32 = 7;
    /// Any pool id, any CPU.
    XEN_SYSCTL_CPUPOOL_PAR_ANY: u32 = 0xffff_ffff;
    /// Longest minimum time slice, microseconds.
    XEN_SYSCTL_SCHED_RATELIMIT_MAX: u32 = 500000;
    /// Shortest minimum time slice, microseconds.
    XEN_SYSCTL_SCHED_RATELIMIT_MIN: u32 = 100;
    /// Longest time slice, milliseconds.
    XEN_SYSCTL_CSCHED_TSLICE_MAX: u32 = 1000;
    /// Shortest time slice, milliseconds.
    XEN_SYSCTL_CSCHED_TSLICE_MIN: u32 = 1;
    /// Longest time a vCPU counts as cache-hot, microseconds.
    XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US: u32 = 100000;
    /// `cmd`: set parameters.
    XEN_SYSCTL_SCHEDOP_PUTINFO("XEN_SYSCTL_SCHEDOP_putinfo"): u32 = 0;
    /// `cmd`: read parameters.
    XEN_SYSCTL_SCHEDOP_GETINFO("XEN_SYSCTL_SCHEDOP_getinfo"): u32 = 1;

    /// Entries of an ARINC 653 schedule.
    ARINC653_MAX_DOMAINS_PER_SCHEDULE: usize = 64;

    /// `cmd`: number of monitoring ids.
    XEN_SYSCTL_PSR_CMT_GET_TOTAL_RMID("XEN_SYSCTL_PSR_CMT_get_total_rmid"): u32 = 0;
    /// `cmd`: bytes per unit of the counters.
    XEN_SYSCTL_PSR_CMT_GET_L3_UPSCALING_FACTOR("XEN_SYSCTL_PSR_CMT_get_l3_upscaling_factor"): u32 = 1;
    /// `cmd`: KiB of L3 cache.
    XEN_SYSCTL_PSR_CMT_GET_L3_CACHE_SIZE("XEN_SYSCTL_PSR_CMT_get_l3_cache_size"): u32 = 2;
    /// `cmd`: whether monitoring is on.
    XEN_SYSCTL_PSR_CMT_ENABLED("XEN_SYSCTL_PSR_CMT_enabled"): u32 = 3;
    /// `cmd`: which events can be counted.
    XEN_SYSCTL_PSR_CMT_GET_L3_EVENT_MASK("XEN_SYSCTL_PSR_CMT_get_l3_event_mask"): u32 = 4;
    /// `cmd`: L3 allocation.
    XEN_SYSCTL_PSR_GET_L3_INFO("XEN_SYSCTL_PSR_get_l3_info"): u32 = 0;
    /// `cmd`: L2 allocation.
    XEN_SYSCTL_PSR_GET_L2_INFO("XEN_SYSCTL_PSR_get_l2_info"): u32 = 1;
    /// `cmd`: bandwidth allocation.
    XEN_SYSCTL_PSR_GET_MBA_INFO("XEN_SYSCTL_PSR_get_mba_info"): u32 = 2;
    /// `flags`: code and data apart.
    XEN_SYSCTL_PSR_CAT_L3_CDP: u32 = 0x1;
    /// `flags`: the throttle is linear.
    XEN_SYSCTL_PSR_MBA_LINEAR: u32 = 0x1;
}

wire! {
    /// Payload of `XEN_SYSCTL_cpupool_op`.
    pub struct XenSysctlCpupoolOp("struct xen_sysctl_cpupool_op", 40) {
        /// `XEN_SYSCTL_CPUPOOL_OP_*`.
        @0 op: u32,
        /// Which pool; out when creating and describing.
        @4 cpupool_id: u32,
        /// Its scheduler (`XEN_SCHEDULER_*`); out when describing.
        @8 sched_id: u32,
        /// Which domain to move.
        @12 domid: u32,
        /// Which CPU to add or remove.
        @16 cpu: u32,
        /// Out when describing: domains in it.
        @20 n_dom: u32,
        /// Out when describing: its CPUs, or those in no pool.
        @24 cpumap: XenctlBitmap,
    }

    /// A vCPU's turn in an ARINC 653 schedule.
    pub struct XenSysctlArinc653Entry("__typeof__(((struct xen_sysctl_arinc653_schedule *)0)->sched_entries[0])", 32) {
        /// UUID of the domain.
        @0 dom_handle: [u8; 16],
        /// Which vCPU.
        @16 vcpu_id: u32,
        @20 _pad0(): u32,
        /// Its time, nanoseconds.
        @24 runtime: u64,
    }

    /// An ARINC 653 schedule.
    pub struct XenSysctlArinc653Schedule("struct xen_sysctl_arinc653_schedule", 2064) {
        /// Length of the schedule, nanoseconds.
        @0 major_frame: u64,
        /// Valid entries.
        @8 num_sched_entries: u8,
        @9 _pad0(): [u8; 7],
        /// The turns.
        @16 sched_entries: [XenSysctlArinc653Entry; ARINC653_MAX_DOMAINS_PER_SCHEDULE],
    }

    /// Parameters of the credit scheduler.
    pub struct XenSysctlCreditSchedule("struct xen_sysctl_credit_schedule", 12) {
        /// Time slice, milliseconds.
        @0 tslice_ms: u32,
        /// Minimum time slice, microseconds; 0 for none.
        @4 ratelimit_us: u32,
        /// How long a vCPU counts as cache-hot, microseconds.
        @8 vcpu_migr_delay_us: u32,
    }

    /// Parameters of the credit2 scheduler.
    pub struct XenSysctlCredit2Schedule("struct xen_sysctl_credit2_schedule", 4) {
        /// Minimum time slice, microseconds; 0 for none.
        @0 ratelimit_us: u32,
    }

    /// Parameters of the ARINC 653 scheduler.
    pub struct XenSysctlSchedArinc653("struct xen_sysctl_sched_arinc653", 8) {
        /// The schedule.
        @0 schedule: GuestHandle<XenSysctlArinc653Schedule>,
    }

    /// Payload of `XEN_SYSCTL_scheduler_op`.
    #[repr(align(8))]
    pub struct XenSysctlSchedulerOp("struct xen_sysctl_scheduler_op", 32) {
        /// Which pool.
        @0 cpupool_id: u32,
        /// Its scheduler (`XEN_SCHEDULER_*`).
        @4 sched_id: u32,
        /// `XEN_SYSCTL_SCHEDOP_*`.
        @8 cmd: u32,
        @12 _pad0(): u32,
        /// [`XenSysctlSchedArinc653`], [`XenSysctlCreditSchedule`] or [`XenSysctlCredit2Schedule`].
        @16 u: [u8; 16],
    }

    /// Which cache is meant.
    pub struct XenSysctlPsrCmtL3Cache("__typeof__(((struct xen_sysctl_psr_cmt_op *)0)->u.l3_cache)", 8) {
        /// A CPU of the socket.
        @0 cpu: u32,
        /// Zero.
        @4 rsvd: u32,
    }

    /// Payload of `XEN_SYSCTL_psr_cmt_op`.
    pub struct XenSysctlPsrCmtOp("struct xen_sysctl_psr_cmt_op", 16) {
        /// `XEN_SYSCTL_PSR_CMT_*`.
        @0 cmd: u32,
        /// Zero.
        @4 flags: u32,
        /// Out: the result; in: [`XenSysctlPsrCmtL3Cache`] where a cache is meant.
        @8 u: u64,
    }

    /// Cache allocation of a socket.
    pub struct XenSysctlPsrCatInfo("__typeof__(((struct xen_sysctl_psr_alloc *)0)->u.cat_info)", 12) {
        /// Out: bits of a mask.
        @0 cbm_len: u32,
        /// Out: highest class of service.
        @4 cos_max: u32,
        /// Out: [`XEN_SYSCTL_PSR_CAT_L3_CDP`].
        @8 flags: u32,
    }

    /// Bandwidth allocation of a socket.
    pub struct XenSysctlPsrMbaInfo("__typeof__(((struct xen_sysctl_psr_alloc *)0)->u.mba_info)", 12) {
        /// Out: highest throttle.
        @0 thrtl_max: u32,
        /// Out: highest class of service.
        @4 cos_max: u32,
        /// Out: [`XEN_SYSCTL_PSR_MBA_LINEAR`].
        @8 flags: u32,
    }

    /// Payload of `XEN_SYSCTL_psr_alloc`.
    pub struct XenSysctlPsrAlloc("struct xen_sysctl_psr_alloc", 20) {
        /// `XEN_SYSCTL_PSR_GET_*`.
        @0 cmd: u32,
        /// Which socket.
        @4 target: u32,
        /// [`XenSysctlPsrCatInfo`] or [`XenSysctlPsrMbaInfo`].
        @8 u: [u8; 12],
    }
}

abi_module! { "sysctl.h": consts, wire }
