//! Payloads that concern a domain as a whole: creation, description, limits, scheduling, time, saved state.

use crate::GuestHandle;
use crate::arch_x86::XenArchDomainconfig;
use crate::xen::XenctlBitmap;

consts! {
    /// `flags`: a hardware guest (else PV).
    XEN_DOMCTL_CDF_HVM("XEN_DOMCTL_CDF_hvm"): u32 = 0x1;
    /// `flags`: nested paging.
    XEN_DOMCTL_CDF_HAP("XEN_DOMCTL_CDF_hap"): u32 = 0x2;
    /// `flags`: memory is checked after sleep (tboot).
    XEN_DOMCTL_CDF_S3_INTEGRITY("XEN_DOMCTL_CDF_s3_integrity"): u32 = 0x4;
    /// `flags`: shadow page tables always in sync.
    XEN_DOMCTL_CDF_OOS_OFF("XEN_DOMCTL_CDF_oos_off"): u32 = 0x8;
    /// `flags`: it runs xenstore.
    XEN_DOMCTL_CDF_XS_DOMAIN("XEN_DOMCTL_CDF_xs_domain"): u32 = 0x10;
    /// `flags`: devices may be given to it.
    XEN_DOMCTL_CDF_IOMMU("XEN_DOMCTL_CDF_iommu"): u32 = 0x20;
    /// `flags`: it may run hardware guests itself.
    XEN_DOMCTL_CDF_NESTED_VIRT("XEN_DOMCTL_CDF_nested_virt"): u32 = 0x40;
    /// `flags`: it has performance counters.
    XEN_DOMCTL_CDF_VPMU("XEN_DOMCTL_CDF_vpmu"): u32 = 0x80;
    /// Highest creation flag.
    XEN_DOMCTL_CDF_MAX: u32 = 0x80;
    /// `iommu_opts`: the IOMMU gets its own page tables.
    XEN_DOMCTL_IOMMU_NO_SHAREPT("XEN_DOMCTL_IOMMU_no_sharept"): u32 = 0x1;
    /// Highest IOMMU option.
    XEN_DOMCTL_IOMMU_MAX: u32 = 0x1;
    /// Bits of `grant_opts` that hold the highest grant-table version.
    XEN_DOMCTL_GRANT_VERSION_MASK("XEN_DOMCTL_GRANT_version_mask"): u32 = 0xf;

    /// `flags`: being destroyed.
    XEN_DOMINF_DYING("XEN_DOMINF_dying"): u32 = 0x1;
    /// `flags`: a hardware guest.
    XEN_DOMINF_HVM_GUEST("XEN_DOMINF_hvm_guest"): u32 = 0x2;
    /// `flags`: it has shut down; see [`XEN_DOMINF_SHUTDOWNSHIFT`].
    XEN_DOMINF_SHUTDOWN("XEN_DOMINF_shutdown"): u32 = 0x4;
    /// `flags`: paused by the toolstack.
    XEN_DOMINF_PAUSED("XEN_DOMINF_paused"): u32 = 0x8;
    /// `flags`: all vCPUs wait for events.
    XEN_DOMINF_BLOCKED("XEN_DOMINF_blocked"): u32 = 0x10;
    /// `flags`: some vCPU runs.
    XEN_DOMINF_RUNNING("XEN_DOMINF_running"): u32 = 0x20;
    /// `flags`: a debugger is attached.
    XEN_DOMINF_DEBUGGED("XEN_DOMINF_debugged"): u32 = 0x40;
    /// `flags`: it runs xenstore.
    XEN_DOMINF_XS_DOMAIN("XEN_DOMINF_xs_domain"): u32 = 0x80;
    /// `flags`: nested paging.
    XEN_DOMINF_HAP("XEN_DOMINF_hap"): u32 = 0x100;
    /// Mask of the shutdown reason, after [`XEN_DOMINF_SHUTDOWNSHIFT`].
    XEN_DOMINF_SHUTDOWNMASK("XEN_DOMINF_shutdownmask"): u32 = 255;
    /// Position of the shutdown reason (`SHUTDOWN_*`) in `flags`.
    XEN_DOMINF_SHUTDOWNSHIFT("XEN_DOMINF_shutdownshift"): u32 = 16;
    /// `max_vcpu_id`: the domain has no vCPU.
    XEN_INVALID_MAX_VCPU_ID: u32 = 0xffff_ffff;

    /// Scheduler: credit.
    XEN_SCHEDULER_CREDIT: u32 = 5;
    /// Scheduler: credit2 (the default).
    XEN_SCHEDULER_CREDIT2: u32 = 6;
    /// Scheduler: ARINC 653.
    XEN_SCHEDULER_ARINC653: u32 = 7;
    /// Scheduler: real-time deferrable server.
    XEN_SCHEDULER_RTDS: u32 = 8;
    /// Scheduler: one vCPU per CPU.
    XEN_SCHEDULER_NULL: u32 = 9;
    /// RTDS `flags`: may use more than its budget.
    XEN_DOMCTL_SCHEDRT_EXTRA("XEN_DOMCTL_SCHEDRT_extra"): u32 = 0x1;
    /// `cmd`: set the domain's parameters (RTDS: of all vCPUs).
    XEN_DOMCTL_SCHEDOP_PUTINFO("XEN_DOMCTL_SCHEDOP_putinfo"): u32 = 0;
    /// `cmd`: read the domain's parameters (RTDS: the defaults).
    XEN_DOMCTL_SCHEDOP_GETINFO("XEN_DOMCTL_SCHEDOP_getinfo"): u32 = 1;
    /// `cmd`: set parameters of vCPUs (RTDS only).
    XEN_DOMCTL_SCHEDOP_PUTVCPUINFO("XEN_DOMCTL_SCHEDOP_putvcpuinfo"): u32 = 2;
    /// `cmd`: read parameters of vCPUs (RTDS only).
    XEN_DOMCTL_SCHEDOP_GETVCPUINFO("XEN_DOMCTL_SCHEDOP_getvcpuinfo"): u32 = 3;
    /// `trigger`: non-maskable interrupt.
    XEN_DOMCTL_SENDTRIGGER_NMI: u32 = 0;
    /// `trigger`: reset of the vCPU.
    XEN_DOMCTL_SENDTRIGGER_RESET: u32 = 1;
    /// `trigger`: INIT.
    XEN_DOMCTL_SENDTRIGGER_INIT: u32 = 2;
    /// `trigger`: power button.
    XEN_DOMCTL_SENDTRIGGER_POWER: u32 = 3;
    /// `trigger`: sleep button.
    XEN_DOMCTL_SENDTRIGGER_SLEEP: u32 = 4;

    /// `cmd` of a virtual UART: initialise.
    XEN_DOMCTL_VUART_OP_INIT: u32 = 0;
    /// `type_` of a virtual UART: VPL011.
    XEN_DOMCTL_VUART_TYPE_VPL011: u32 = 0;
}

wire! {
    /// Payload of `XEN_DOMCTL_createdomain`. A domain id of 0 or of at least `DOMID_FIRST_RESERVED` asks for
    /// any free one; the answer is in `XenDomctl::domain`.
    pub struct XenDomctlCreatedomain("struct xen_domctl_createdomain", 64) {
        /// Security label.
        @0 ssidref: u32,
        /// UUID.
        @4 handle: [u8; 16],
        /// `XEN_DOMCTL_CDF_*`.
        @20 flags: u32,
        /// `XEN_DOMCTL_IOMMU_*`.
        @24 iommu_opts: u32,
        /// Most vCPUs.
        @28 max_vcpus: u32,
        /// Highest event channel port.
        @32 max_evtchn_port: u32,
        /// Most grant-table frames; negative for the default.
        @36 max_grant_frames: i32,
        /// Most frames that track mappings of foreign grants; negative for the default.
        @40 max_maptrack_frames: i32,
        /// Highest grant-table version ([`XEN_DOMCTL_GRANT_VERSION_MASK`]).
        @44 grant_opts: u32,
        /// Bytes of trace buffer per vCPU; 0 for none.
        @48 vmtrace_size: u32,
        /// CPU pool.
        @52 cpupool_id: u32,
        /// x86 options.
        @56 arch: XenArchDomainconfig,
    }

    /// Payload of `XEN_DOMCTL_getdomaininfo`, and element of `XEN_SYSCTL_getdomaininfolist`. All fields are
    /// out.
    pub struct XenDomctlGetdomaininfo("struct xen_domctl_getdomaininfo", 112) {
        /// Domain id.
        @0 domain: u16,
        /// Zero.
        @2 pad1: u16,
        /// `XEN_DOMINF_*`.
        @4 flags: u32,
        /// Pages it owns.
        @8 tot_pages: u64,
        /// Pages it may own.
        @16 max_pages: u64,
        /// Pages claimed but not yet allocated.
        @24 outstanding_pages: u64,
        /// Pages shared with other domains.
        @32 shr_pages: u64,
        /// Pages paged out.
        @40 paged_pages: u64,
        /// Frame of its `shared_info` (PV: machine frame).
        @48 shared_info_frame: u64,
        /// CPU time used by all vCPUs, nanoseconds.
        @56 cpu_time: u64,
        /// vCPUs online.
        @64 nr_online_vcpus: u32,
        /// Highest vCPU id, or [`XEN_INVALID_MAX_VCPU_ID`].
        @68 max_vcpu_id: u32,
        /// Security label.
        @72 ssidref: u32,
        /// UUID.
        @76 handle: [u8; 16],
        /// CPU pool.
        @92 cpupool: u32,
        /// Bits of a guest-physical address.
        @96 gpaddr_bits: u8,
        /// Zero.
        @97 pad2: [u8; 7],
        /// x86 options.
        @104 arch_config: XenArchDomainconfig,
    }

    /// Payload of `XEN_DOMCTL_max_mem`.
    pub struct XenDomctlMaxMem("struct xen_domctl_max_mem", 8) {
        /// Limit in KiB.
        @0 max_memkb: u64,
    }

    /// Payload of `XEN_DOMCTL_setnodeaffinity` and `XEN_DOMCTL_getnodeaffinity`.
    pub struct XenDomctlNodeaffinity("struct xen_domctl_nodeaffinity", 16) {
        /// NUMA nodes.
        @0 nodemap: XenctlBitmap,
    }

    /// Payload of `XEN_DOMCTL_max_vcpus`.
    pub struct XenDomctlMaxVcpus("struct xen_domctl_max_vcpus", 4) {
        /// Number of vCPUs; must equal that of the creation.
        @0 max: u32,
    }

    /// Parameters of the credit scheduler.
    pub struct XenDomctlSchedCredit("struct xen_domctl_sched_credit", 4) {
        /// Share of CPU time relative to other domains.
        @0 weight: u16,
        /// Most CPU time, percent of one CPU; 0 for no limit.
        @2 cap: u16,
    }

    /// Parameters of the credit2 scheduler.
    pub struct XenDomctlSchedCredit2("struct xen_domctl_sched_credit2", 4) {
        /// Share of CPU time relative to other domains.
        @0 weight: u16,
        /// Most CPU time, percent of one CPU; 0 for no limit.
        @2 cap: u16,
    }

    /// Parameters of the real-time scheduler.
    pub struct XenDomctlSchedRtds("struct xen_domctl_sched_rtds", 12) {
        /// Period, microseconds.
        @0 period: u32,
        /// CPU time in each period, microseconds.
        @4 budget: u32,
        /// [`XEN_DOMCTL_SCHEDRT_EXTRA`].
        @8 flags: u32,
    }

    /// Parameters of one vCPU.
    pub struct XenDomctlSchedparamVcpu("struct xen_domctl_schedparam_vcpu", 16) {
        /// [`XenDomctlSchedCredit`], [`XenDomctlSchedCredit2`] or [`XenDomctlSchedRtds`].
        @0 u: [u8; 12],
        /// Which vCPU.
        @12 vcpuid: u32,
    }

    /// Payload of the commands that concern vCPUs.
    pub struct XenDomctlSchedulerOpV("__typeof__(((struct xen_domctl_scheduler_op *)0)->u.v)", 16) {
        /// The vCPUs.
        @0 vcpus: GuestHandle<XenDomctlSchedparamVcpu>,
        /// How many; out: how many were processed.
        @8 nr_vcpus: u32,
        /// Zero.
        @12 padding: u32,
    }

    /// Payload of `XEN_DOMCTL_scheduler_op`.
    #[repr(align(8))]
    pub struct XenDomctlSchedulerOp("struct xen_domctl_scheduler_op", 24) {
        /// Which scheduler (`XEN_SCHEDULER_*`); must be the one in use.
        @0 sched_id: u32,
        /// What to do (`XEN_DOMCTL_SCHEDOP_*`).
        @4 cmd: u32,
        /// [`XenDomctlSchedCredit`], [`XenDomctlSchedCredit2`], [`XenDomctlSchedRtds`] or
        /// [`XenDomctlSchedulerOpV`].
        @8 u: [u8; 16],
    }

    /// Payload of `XEN_DOMCTL_setdomainhandle`.
    pub struct XenDomctlSetdomainhandle("struct xen_domctl_setdomainhandle", 16) {
        /// UUID.
        @0 handle: [u8; 16],
    }

    /// Payload of `XEN_DOMCTL_setdebugging`.
    pub struct XenDomctlSetdebugging("struct xen_domctl_setdebugging", 1) {
        /// 1 where a debugger is attached.
        @0 enable: u8,
    }

    /// Payload of `XEN_DOMCTL_hypercall_init`.
    pub struct XenDomctlHypercallInit("struct xen_domctl_hypercall_init", 8) {
        /// Frame of the page.
        @0 gmfn: u64,
    }

    /// Payload of `XEN_DOMCTL_settimeoffset`.
    pub struct XenDomctlSettimeoffset("struct xen_domctl_settimeoffset", 8) {
        /// Added to the wall clock, seconds.
        @0 time_offset_seconds: i64,
    }

    /// Payload of `XEN_DOMCTL_gethvmcontext` and `XEN_DOMCTL_sethvmcontext` (see [`crate::hvm::save`]).
    pub struct XenDomctlHvmcontext("struct xen_domctl_hvmcontext", 16) {
        /// Bytes of the buffer; out: bytes filled in.
        @0 size: u32,
        @4 _pad0(): u32,
        /// The buffer; null to ask for the size.
        @8 buffer: GuestHandle<u8>,
    }

    /// Payload of `XEN_DOMCTL_gethvmcontext_partial`.
    pub struct XenDomctlHvmcontextPartial("struct xen_domctl_hvmcontext_partial", 24) {
        /// Which record (`HVM_SAVE_CODE_*`).
        @0 type_("type"): u32,
        /// Which of several.
        @4 instance: u32,
        /// Bytes of the buffer.
        @8 bufsz: u64,
        /// The buffer.
        @16 buffer: GuestHandle<u8>,
    }

    /// Payload of `XEN_DOMCTL_set_address_size` and `XEN_DOMCTL_get_address_size`.
    pub struct XenDomctlAddressSize("struct xen_domctl_address_size", 4) {
        /// 32 or 64.
        @0 size: u32,
    }

    /// Payload of `XEN_DOMCTL_sendtrigger`.
    pub struct XenDomctlSendtrigger("struct xen_domctl_sendtrigger", 8) {
        /// `XEN_DOMCTL_SENDTRIGGER_*`.
        @0 trigger: u32,
        /// Which vCPU.
        @4 vcpu: u32,
    }

    /// Payload of `XEN_DOMCTL_set_target`.
    pub struct XenDomctlSetTarget("struct xen_domctl_set_target", 2) {
        /// Which domain.
        @0 target: u16,
    }

    /// Payload of `XEN_DOMCTL_subscribe`. There is one subscriber; the last one wins.
    pub struct XenDomctlSubscribe("struct xen_domctl_subscribe", 4) {
        /// Event channel port of the caller.
        @0 port: u32,
    }

    /// Payload of `XEN_DOMCTL_set_virq_handler`.
    pub struct XenDomctlSetVirqHandler("struct xen_domctl_set_virq_handler", 4) {
        /// Which global VIRQ.
        @0 virq: u32,
    }

    /// Payload of `XEN_DOMCTL_gettscinfo` and `XEN_DOMCTL_settscinfo`.
    pub struct XenDomctlTscInfo("struct xen_domctl_tsc_info", 24) {
        /// 0 default, 1 always emulated, 2 native.
        @0 tsc_mode: u32,
        /// The guest's frequency, kHz.
        @4 gtsc_khz: u32,
        /// How often the domain was restored.
        @8 incarnation: u32,
        /// Zero.
        @12 pad: u32,
        /// The guest's time since it started, nanoseconds.
        @16 elapsed_nsec: u64,
    }

    /// Payload of `XEN_DOMCTL_vuart_op` (Arm).
    pub struct XenDomctlVuartOp("struct xen_domctl_vuart_op", 24) {
        /// [`XEN_DOMCTL_VUART_OP_INIT`].
        @0 cmd: u32,
        /// [`XEN_DOMCTL_VUART_TYPE_VPL011`].
        @4 type_("type"): u32,
        /// Guest frame of the ring.
        @8 gfn: u64,
        /// Domain of the back end.
        @16 console_domid: u16,
        /// Zero.
        @18 pad: [u8; 2],
        /// Out: remote port.
        @20 evtchn: u32,
    }
}

abi_module! { "domctl.h": consts, wire }
