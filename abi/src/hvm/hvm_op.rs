//! `hvm/hvm_op.h`: what hardware guests ask of the hypervisor (`__HYPERVISOR_hvm_op(cmd, arg)`), without alternate
//! physical maps ([`super::altp2m`]).

consts! {
    /// Sets a parameter. Argument: [`XenHvmParam`].
    HVMOP_SET_PARAM("HVMOP_set_param"): u32 = 0;
    /// Reads a parameter. Argument: [`XenHvmParam`].
    HVMOP_GET_PARAM("HVMOP_get_param"): u32 = 1;
    /// Sets a PCI interrupt line;
    /// `XEN_DMOP_SET_PCI_INTX_LEVEL` replaces it. Argument: [`XenHvmSetPciIntxLevel`].
    HVMOP_SET_PCI_INTX_LEVEL(!"only for interface versions below 4.9"): u32 = 2;
    /// Sets an ISA interrupt line;
    /// `XEN_DMOP_SET_ISA_IRQ_LEVEL` replaces it. Argument: [`XenHvmSetIsaIrqLevel`].
    HVMOP_SET_ISA_IRQ_LEVEL(!"only for interface versions below 4.9"): u32 = 3;
    /// Routes a PCI link; `XEN_DMOP_SET_PCI_LINK_ROUTE` replaces it. Argument: [`XenHvmSetPciLinkRoute`].
    HVMOP_SET_PCI_LINK_ROUTE(!"only for interface versions below 4.9"): u32 = 4;
    /// Flushes the TLBs of all vCPUs of the caller. Argument: null.
    HVMOP_FLUSH_TLBS("HVMOP_flush_tlbs"): u32 = 5;
    /// Hint: a page table is about to go. Argument: [`XenHvmPagetableDying`].
    HVMOP_PAGETABLE_DYING("HVMOP_pagetable_dying"): u32 = 9;
    /// Nanoseconds since the host started. Argument: [`XenHvmGetTime`].
    HVMOP_GET_TIME("HVMOP_get_time"): u32 = 10;
    /// Adds a record to the trace buffer. Argument: [`XenHvmXentrace`].
    HVMOP_XENTRACE("HVMOP_xentrace"): u32 = 11;
    /// Obsolete: `XENMEM_access_op_set_access`.
    HVMOP_SET_MEM_ACCESS("HVMOP_set_mem_access"): u32 = 12;
    /// Obsolete: `XENMEM_access_op_get_access`.
    HVMOP_GET_MEM_ACCESS("HVMOP_get_mem_access"): u32 = 13;
    /// Type of a page. Argument: [`XenHvmGetMemType`].
    HVMOP_GET_MEM_TYPE("HVMOP_get_mem_type"): u32 = 15;
    /// Vector for event upcalls on one vCPU. Argument: [`XenHvmEvtchnUpcallVector`].
    HVMOP_SET_EVTCHN_UPCALL_VECTOR("HVMOP_set_evtchn_upcall_vector"): u32 = 23;
    /// Sends a monitor event. Argument: null.
    HVMOP_GUEST_REQUEST_VM_EVENT("HVMOP_guest_request_vm_event"): u32 = 24;
    /// Alternate physical maps. Argument: [`super::altp2m::XenHvmAltp2mOp`].
    HVMOP_ALTP2M("HVMOP_altp2m"): u32 = 25;

    /// Ordinary RAM.
    HVMMEM_RAM_RW("HVMMEM_ram_rw"): u16 = 0;
    /// Read-only RAM: writes are dropped.
    HVMMEM_RAM_RO("HVMMEM_ram_ro"): u16 = 1;
    /// Reads and writes go to the device model.
    HVMMEM_MMIO_DM("HVMMEM_mmio_dm"): u16 = 2;
    /// Not settable since 4.7 (before: only writes go to the device model).
    HVMMEM_UNUSED("HVMMEM_unused"): u16 = 3;
    /// Claimed by an I/O request server; changes only from and to [`HVMMEM_RAM_RW`].
    HVMMEM_IOREQ_SERVER("HVMMEM_ioreq_server"): u16 = 4;

    /// The server has no buffered request ring.
    HVM_IOREQSRV_BUFIOREQ_OFF: u8 = 0;
    /// It has one whose read pointer is updated by plain stores.
    HVM_IOREQSRV_BUFIOREQ_LEGACY: u8 = 1;
    /// It has one whose pointers are read and written atomically.
    HVM_IOREQSRV_BUFIOREQ_ATOMIC: u8 = 2;

    /// Words of extra data in a trace record (`trace.h`).
    TRACE_EXTRA_MAX: usize = 7;
}

wire! {
    /// Argument of [`HVMOP_SET_PARAM`] and [`HVMOP_GET_PARAM`].
    pub struct XenHvmParam("struct xen_hvm_param", 16) {
        /// Which domain.
        @0 domid: u16,
        /// Zero.
        @2 pad: u16,
        /// Which parameter (`HVM_PARAM_*`).
        @4 index: u32,
        /// Its value.
        @8 value: u64,
    }

    /// Argument of [`HVMOP_SET_PCI_INTX_LEVEL`].
    pub struct XenHvmSetPciIntxLevel(!"only for interface versions below 4.9", 8) {
        /// Which domain.
        @0 domid: u16,
        /// PCI segment.
        @2 domain: u8,
        /// PCI bus.
        @3 bus: u8,
        /// PCI device.
        @4 device: u8,
        /// Line: 0..=3.
        @5 intx: u8,
        /// 1 asserts, 0 releases.
        @6 level: u8,
        @7 _pad0(): u8,
    }

    /// Argument of [`HVMOP_SET_ISA_IRQ_LEVEL`].
    pub struct XenHvmSetIsaIrqLevel(!"only for interface versions below 4.9", 4) {
        /// Which domain.
        @0 domid: u16,
        /// ISA interrupt: 0..=15.
        @2 isa_irq: u8,
        /// 1 asserts, 0 releases.
        @3 level: u8,
    }

    /// Argument of [`HVMOP_SET_PCI_LINK_ROUTE`].
    pub struct XenHvmSetPciLinkRoute(!"only for interface versions below 4.9", 4) {
        /// Which domain.
        @0 domid: u16,
        /// Link: 0..=3.
        @2 link: u8,
        /// ISA interrupt 1..=15, or 0 to disable the link.
        @3 isa_irq: u8,
    }

    /// Argument of [`HVMOP_PAGETABLE_DYING`].
    pub struct XenHvmPagetableDying("struct xen_hvm_pagetable_dying", 16) {
        /// Which domain.
        @0 domid: u16,
        /// Zero.
        @2 pad: [u16; 3],
        /// Guest-physical address of the top-level table.
        @8 gpa: u64,
    }

    /// Argument of [`HVMOP_GET_TIME`].
    pub struct XenHvmGetTime("struct xen_hvm_get_time", 8) {
        /// Out: nanoseconds.
        @0 now: u64,
    }

    /// Argument of [`HVMOP_XENTRACE`].
    pub struct XenHvmXentrace("struct xen_hvm_xentrace", 32) {
        /// Event number.
        @0 event: u16,
        /// Valid bytes of `extra`.
        @2 extra_bytes: u16,
        /// Extra data.
        @4 extra: [u8; 28],
    }

    /// Argument of [`HVMOP_GET_MEM_TYPE`].
    pub struct XenHvmGetMemType("struct xen_hvm_get_mem_type", 16) {
        /// Which domain.
        @0 domid: u16,
        /// Out: `HVMMEM_*`.
        @2 mem_type: u16,
        /// Zero.
        @4 pad: [u16; 2],
        /// Guest frame.
        @8 pfn: u64,
    }

    /// Argument of [`HVMOP_SET_EVTCHN_UPCALL_VECTOR`].
    pub struct XenHvmEvtchnUpcallVector("struct xen_hvm_evtchn_upcall_vector", 8) {
        /// Which vCPU.
        @0 vcpu: u32,
        /// Vector, at least 16; it is used instead of [`super::params::HVM_PARAM_CALLBACK_IRQ`].
        @4 vector: u8,
        @5 _pad0(): [u8; 3],
    }
}

abi_module! { "hvm/hvm_op.h": consts, wire }
