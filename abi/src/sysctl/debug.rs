//! Payloads that look into the hypervisor: log, trace buffers, counters, profiles, coverage, debug keys, pages out of
//! use.

use crate::GuestHandle;
use crate::xen::XenctlBitmap;

consts! {
    /// `cmd`: where the buffers are.
    XEN_SYSCTL_TBUFOP_GET_INFO("XEN_SYSCTL_TBUFOP_get_info"): u32 = 0;
    /// `cmd`: which CPUs are traced.
    XEN_SYSCTL_TBUFOP_SET_CPU_MASK("XEN_SYSCTL_TBUFOP_set_cpu_mask"): u32 = 1;
    /// `cmd`: which events are traced.
    XEN_SYSCTL_TBUFOP_SET_EVT_MASK("XEN_SYSCTL_TBUFOP_set_evt_mask"): u32 = 2;
    /// `cmd`: size of the buffers (once).
    XEN_SYSCTL_TBUFOP_SET_SIZE("XEN_SYSCTL_TBUFOP_set_size"): u32 = 3;
    /// `cmd`: trace.
    XEN_SYSCTL_TBUFOP_ENABLE("XEN_SYSCTL_TBUFOP_enable"): u32 = 4;
    /// `cmd`: stop tracing.
    XEN_SYSCTL_TBUFOP_DISABLE("XEN_SYSCTL_TBUFOP_disable"): u32 = 5;
    /// `cmd`: set all counters to zero.
    XEN_SYSCTL_PERFCOP_RESET("XEN_SYSCTL_PERFCOP_reset"): u32 = 1;
    /// `cmd`: read counters.
    XEN_SYSCTL_PERFCOP_QUERY("XEN_SYSCTL_PERFCOP_query"): u32 = 2;
    /// `cmd`: set all data to zero.
    XEN_SYSCTL_LOCKPROF_RESET("XEN_SYSCTL_LOCKPROF_reset"): u32 = 1;
    /// `cmd`: read the profile.
    XEN_SYSCTL_LOCKPROF_QUERY("XEN_SYSCTL_LOCKPROF_query"): u32 = 2;
    /// `cmd`: bytes of the data.
    XEN_SYSCTL_COVERAGE_GET_SIZE("XEN_SYSCTL_COVERAGE_get_size"): u32 = 0;
    /// `cmd`: read the data.
    XEN_SYSCTL_COVERAGE_READ("XEN_SYSCTL_COVERAGE_read"): u32 = 1;
    /// `cmd`: set all counters to zero.
    XEN_SYSCTL_COVERAGE_RESET("XEN_SYSCTL_COVERAGE_reset"): u32 = 2;
    /// First word of coverage data in gcov's format; records follow: name with NUL, size (u32), payload.
    XEN_GCOV_FORMAT_MAGIC: u32 = 0x5843_4f56;

    /// `type_`: a global lock.
    LOCKPROF_TYPE_GLOBAL: i32 = 0;
    /// `type_`: a lock of a domain.
    LOCKPROF_TYPE_PERDOM: i32 = 1;
    /// Number of types.
    LOCKPROF_TYPE_N: i32 = 2;

    /// `cmd`: take pages out of use.
    SYSCTL_PAGE_OFFLINE("sysctl_page_offline"): u32 = 1;
    /// `cmd`: take pages into use.
    SYSCTL_PAGE_ONLINE("sysctl_page_online"): u32 = 2;
    /// `cmd`: ask about pages.
    SYSCTL_QUERY_PAGE_OFFLINE("sysctl_query_page_offline"): u32 = 3;
    /// Mask of the result in a status word.
    PG_OFFLINE_STATUS_MASK: u32 = 0xff;
    /// Result: not handled.
    PG_OFFLINE_INVALID: u32 = 0x1;
    /// Result: out of use.
    PG_OFFLINE_OFFLINED: u32 = 0x2;
    /// Result: will be out of use when freed.
    PG_OFFLINE_PENDING: u32 = 0x4;
    /// Result: failed.
    PG_OFFLINE_FAILED: u32 = 0x8;
    /// Result: try again.
    PG_OFFLINE_AGAIN: u32 = 0x10;
    /// Result: failed.
    PG_ONLINE_FAILED: u32 = 0x8;
    /// Result: in use.
    PG_ONLINE_ONLINED: u32 = 0x2;
    /// State: out of use.
    PG_OFFLINE_STATUS_OFFLINED: u32 = 0x2;
    /// State: in use.
    PG_OFFLINE_STATUS_ONLINE: u32 = 0x4;
    /// State: will be out of use when freed.
    PG_OFFLINE_STATUS_OFFLINE_PENDING: u32 = 0x8;
    /// State: broken.
    PG_OFFLINE_STATUS_BROKEN: u32 = 0x10;
    /// Mask of the reasons.
    PG_OFFLINE_MISC_MASK: u32 = 0xff0;
    /// Reason: the hypervisor's own page.
    PG_OFFLINE_XENPAGE: u32 = 0x100;
    /// Reason: a page of dom0.
    PG_OFFLINE_DOM0PAGE: u32 = 0x200;
    /// Reason: a page without owner.
    PG_OFFLINE_ANONYMOUS: u32 = 0x400;
    /// Reason: no RAM.
    PG_OFFLINE_NOT_CONV_RAM: u32 = 0x800;
    /// Reason: a page of the domain in the upper bits.
    PG_OFFLINE_OWNED: u32 = 0x1000;
    /// The page is broken.
    PG_OFFLINE_BROKEN: u32 = 0x2000;
    /// The page is broken.
    PG_ONLINE_BROKEN: u32 = 0x2000;
    /// Position of the owner's domain id.
    PG_OFFLINE_OWNER_SHIFT: u32 = 16;
}

wire! {
    /// Payload of `XEN_SYSCTL_readconsole`.
    pub struct XenSysctlReadconsole("struct xen_sysctl_readconsole", 24) {
        /// 1 forgets what was read, and what was logged before it.
        @0 clear: u8,
        /// 1 starts at `index`.
        @1 incremental: u8,
        /// Zero.
        @2 pad0: u8,
        /// Zero.
        @3 pad1: u8,
        /// Where to start; out: where to go on.
        @4 index: u32,
        /// Out: the text.
        @8 buffer: GuestHandle<u8>,
        /// Bytes of the buffer; out: bytes filled in.
        @16 count: u32,
        @20 _pad0(): u32,
    }

    /// Payload of `XEN_SYSCTL_tbuf_op`.
    pub struct XenSysctlTbufOp("struct xen_sysctl_tbuf_op", 48) {
        /// `XEN_SYSCTL_TBUFOP_*`.
        @0 cmd: u32,
        @4 _pad0(): u32,
        /// CPUs to trace.
        @8 cpu_mask: XenctlBitmap,
        /// Events to trace (`trace.h`).
        @24 evt_mask: u32,
        @28 _pad1(): u32,
        /// Out: machine frame of the description of the buffers.
        @32 buffer_mfn: u64,
        /// Pages per CPU; out: bytes of the description.
        @40 size: u32,
        @44 _pad2(): u32,
    }

    /// Payload of `XEN_SYSCTL_sched_id`.
    pub struct XenSysctlSchedId("struct xen_sysctl_sched_id", 4) {
        /// Out: `XEN_SCHEDULER_*`.
        @0 sched_id: u32,
    }

    /// A counter.
    pub struct XenSysctlPerfcDesc("struct xen_sysctl_perfc_desc", 84) {
        /// Its name, with NUL.
        @0 name: [u8; 80],
        /// Its number of values.
        @80 nr_vals: u32,
    }

    /// Payload of `XEN_SYSCTL_perfc_op`.
    pub struct XenSysctlPerfcOp("struct xen_sysctl_perfc_op", 32) {
        /// `XEN_SYSCTL_PERFCOP_*`.
        @0 cmd: u32,
        /// Out: counters.
        @4 nr_counters: u32,
        /// Out: values of all counters.
        @8 nr_vals: u32,
        @12 _pad0(): u32,
        /// Out: the counters, or null.
        @16 desc: GuestHandle<XenSysctlPerfcDesc>,
        /// Out: their values, or null.
        @24 val: GuestHandle<u32>,
    }

    /// Payload of `XEN_SYSCTL_debug_keys`.
    pub struct XenSysctlDebugKeys("struct xen_sysctl_debug_keys", 16) {
        /// The characters.
        @0 keys: GuestHandle<u8>,
        /// How many.
        @8 nr_keys: u32,
        @12 _pad0(): u32,
    }

    /// Payload of `XEN_SYSCTL_page_offline_op`.
    pub struct XenSysctlPageOfflineOp("struct xen_sysctl_page_offline_op", 24) {
        /// `SYSCTL_PAGE_*`, `SYSCTL_QUERY_PAGE_OFFLINE`.
        @0 cmd: u32,
        /// First machine frame.
        @4 start: u32,
        /// Last machine frame.
        @8 end: u32,
        @12 _pad0(): u32,
        /// Out: a status word for each.
        @16 status: GuestHandle<u32>,
    }

    /// Profile of a lock.
    pub struct XenSysctlLockprofData("struct xen_sysctl_lockprof_data", 80) {
        /// Its name, with up to two `%d`.
        @0 name: [u8; 40],
        /// `LOCKPROF_TYPE_*`.
        @40 type_("type"): i32,
        /// Which of several (domain id).
        @44 idx: i32,
        /// How often it was taken.
        @48 lock_cnt: u64,
        /// How often somebody waited.
        @56 block_cnt: u64,
        /// How long it was held, nanoseconds.
        @64 lock_time: u64,
        /// How long somebody waited, nanoseconds.
        @72 block_time: u64,
    }

    /// Payload of `XEN_SYSCTL_lockprof_op`.
    pub struct XenSysctlLockprofOp("struct xen_sysctl_lockprof_op", 32) {
        /// `XEN_SYSCTL_LOCKPROF_*`.
        @0 cmd: u32,
        /// Entries of `data`.
        @4 max_elem: u32,
        /// Out: entries there are.
        @8 nr_elem: u32,
        @12 _pad0(): u32,
        /// Out: how long the profile has run, nanoseconds.
        @16 time: u64,
        /// Out: the locks, or null.
        @24 data: GuestHandle<XenSysctlLockprofData>,
    }

    /// Payload of `XEN_SYSCTL_coverage_op`.
    pub struct XenSysctlCoverageOp("struct xen_sysctl_coverage_op", 16) {
        /// `XEN_SYSCTL_COVERAGE_*`.
        @0 cmd: u32,
        /// Bytes of the buffer; out: bytes filled in, or needed.
        @4 size: u32,
        /// Out: the data.
        @8 buffer: GuestHandle<u8>,
    }
}

abi_module! { "sysctl.h": consts, wire }
