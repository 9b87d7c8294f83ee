//! `hvm/dm_op.h`: what a device model asks of the hypervisor (`__HYPERVISOR_dm_op(domid, nr_bufs, bufs)`).
//!
//! `bufs` is an array of [`XenDmOpBuf`]; the first buffer holds an [`XenDmOp`] (possibly shorter than the whole
//! structure), the others the bulk data of some operations. The caller needs rights over that one domain only, and
//! the hypervisor copies nothing outside the buffers.

use crate::GuestHandle;

consts! {
    /// Creates an I/O request server: [`XenDmOpCreateIoreqServer`].
    XEN_DMOP_CREATE_IOREQ_SERVER("XEN_DMOP_create_ioreq_server"): u32 = 1;
    /// Asks for its pages and port: [`XenDmOpGetIoreqServerInfo`].
    XEN_DMOP_GET_IOREQ_SERVER_INFO("XEN_DMOP_get_ioreq_server_info"): u32 = 2;
    /// Registers a range: [`XenDmOpIoreqServerRange`].
    XEN_DMOP_MAP_IO_RANGE_TO_IOREQ_SERVER("XEN_DMOP_map_io_range_to_ioreq_server"): u32 = 3;
    /// Removes a range: [`XenDmOpIoreqServerRange`].
    XEN_DMOP_UNMAP_IO_RANGE_FROM_IOREQ_SERVER("XEN_DMOP_unmap_io_range_from_ioreq_server"): u32 = 4;
    /// Turns a server on or off: [`XenDmOpSetIoreqServerState`].
    XEN_DMOP_SET_IOREQ_SERVER_STATE("XEN_DMOP_set_ioreq_server_state"): u32 = 5;
    /// Destroys a server and its ranges: [`XenDmOpDestroyIoreqServer`].
    XEN_DMOP_DESTROY_IOREQ_SERVER("XEN_DMOP_destroy_ioreq_server"): u32 = 6;
    /// Bitmap of changed pages, into buffer 1: [`XenDmOpTrackDirtyVram`].
    XEN_DMOP_TRACK_DIRTY_VRAM("XEN_DMOP_track_dirty_vram"): u32 = 7;
    /// Level of a PCI line: [`XenDmOpSetPciIntxLevel`].
    XEN_DMOP_SET_PCI_INTX_LEVEL("XEN_DMOP_set_pci_intx_level"): u32 = 8;
    /// Level of an ISA line: [`XenDmOpSetIsaIrqLevel`].
    XEN_DMOP_SET_ISA_IRQ_LEVEL("XEN_DMOP_set_isa_irq_level"): u32 = 9;
    /// Routes a PCI link: [`XenDmOpSetPciLinkRoute`].
    XEN_DMOP_SET_PCI_LINK_ROUTE("XEN_DMOP_set_pci_link_route"): u32 = 10;
    /// Pages the model has written; extents in buffer 1: [`XenDmOpModifiedMemory`].
    XEN_DMOP_MODIFIED_MEMORY("XEN_DMOP_modified_memory"): u32 = 11;
    /// Type of a range of pages: [`XenDmOpSetMemType`].
    XEN_DMOP_SET_MEM_TYPE("XEN_DMOP_set_mem_type"): u32 = 12;
    /// Event for a vCPU: [`XenDmOpInjectEvent`].
    XEN_DMOP_INJECT_EVENT("XEN_DMOP_inject_event"): u32 = 13;
    /// MSI of an emulated device: [`XenDmOpInjectMsi`].
    XEN_DMOP_INJECT_MSI("XEN_DMOP_inject_msi"): u32 = 14;
    /// Sends writes to a memory type to a server: [`XenDmOpMapMemTypeToIoreqServer`].
    XEN_DMOP_MAP_MEM_TYPE_TO_IOREQ_SERVER("XEN_DMOP_map_mem_type_to_ioreq_server"): u32 = 15;
    /// Ends the domain: [`XenDmOpRemoteShutdown`].
    XEN_DMOP_REMOTE_SHUTDOWN("XEN_DMOP_remote_shutdown"): u32 = 16;
    /// Moves pages: [`XenDmOpRelocateMemory`].
    XEN_DMOP_RELOCATE_MEMORY("XEN_DMOP_relocate_memory"): u32 = 17;
    /// Fixes the cache type of a range: [`XenDmOpPinMemoryCacheattr`].
    XEN_DMOP_PIN_MEMORY_CACHEATTR("XEN_DMOP_pin_memory_cacheattr"): u32 = 18;
    /// Level of a shared interrupt (Arm): [`XenDmOpSetIrqLevel`].
    XEN_DMOP_SET_IRQ_LEVEL("XEN_DMOP_set_irq_level"): u32 = 19;
    /// How many vCPUs the domain has: [`XenDmOpNrVcpus`].
    XEN_DMOP_NR_VCPUS("XEN_DMOP_nr_vcpus"): u32 = 20;

    /// Flag of [`XEN_DMOP_GET_IOREQ_SERVER_INFO`]: do not hand out guest frames (the pages are mapped by
    /// `XENMEM_acquire_resource`).
    XEN_DMOP_NO_GFNS("XEN_DMOP_no_gfns"): u16 = 0x1;

    /// Range of I/O ports.
    XEN_DMOP_IO_RANGE_PORT: u32 = 0;
    /// Range of guest-physical addresses.
    XEN_DMOP_IO_RANGE_MEMORY: u32 = 1;
    /// Range of PCI functions, each as [`xen_dmop_pci_sbdf`] tells.
    XEN_DMOP_IO_RANGE_PCI: u32 = 2;

    /// External interrupt.
    XEN_DMOP_EVENT_EXT_INT("XEN_DMOP_EVENT_ext_int"): u8 = 0;
    /// Non-maskable interrupt.
    XEN_DMOP_EVENT_NMI("XEN_DMOP_EVENT_nmi"): u8 = 2;
    /// Hardware exception.
    XEN_DMOP_EVENT_HW_EXC("XEN_DMOP_EVENT_hw_exc"): u8 = 3;
    /// Software interrupt (`int n`).
    XEN_DMOP_EVENT_SW_INT("XEN_DMOP_EVENT_sw_int"): u8 = 4;
    /// `icebp`.
    XEN_DMOP_EVENT_PRI_SW_EXC("XEN_DMOP_EVENT_pri_sw_exc"): u8 = 5;
    /// `int3` or `into`.
    XEN_DMOP_EVENT_SW_EXC("XEN_DMOP_EVENT_sw_exc"): u8 = 6;

    /// Reads (not supported yet by Xen).
    XEN_DMOP_IOREQ_MEM_ACCESS_READ: u32 = 0x1;
    /// Writes.
    XEN_DMOP_IOREQ_MEM_ACCESS_WRITE: u32 = 0x2;
    /// Uncacheable.
    XEN_DMOP_MEM_CACHEATTR_UC: u32 = 0;
    /// Write-combining.
    XEN_DMOP_MEM_CACHEATTR_WC: u32 = 1;
    /// Write-through.
    XEN_DMOP_MEM_CACHEATTR_WT: u32 = 4;
    /// Write-protected.
    XEN_DMOP_MEM_CACHEATTR_WP: u32 = 5;
    /// Write-back.
    XEN_DMOP_MEM_CACHEATTR_WB: u32 = 6;
    /// Uncacheable unless the MTRRs say write-combining.
    XEN_DMOP_MEM_CACHEATTR_UCM: u32 = 7;
    /// Removes the range instead.
    XEN_DMOP_DELETE_MEM_CACHEATTR: u32 = 0xffff_ffff;
}

wire! {
    /// What buffer 0 holds.
    #[repr(align(8))]
    pub struct XenDmOp("struct xen_dm_op", 32) {
        /// Which operation (`XEN_DMOP_*`).
        @0 op: u32,
        /// Zero.
        @4 pad: u32,
        /// The operation's payload.
        @8 u: [u8; 24],
    }

    /// One buffer of the caller.
    pub struct XenDmOpBuf("struct xen_dm_op_buf", 16) {
        /// Where it is.
        @0 h: GuestHandle<u8>,
        /// Its bytes.
        @8 size: u64,
    }

    /// Payload of [`XEN_DMOP_CREATE_IOREQ_SERVER`].
    pub struct XenDmOpCreateIoreqServer("struct xen_dm_op_create_ioreq_server", 6) {
        /// Whether and how requests are buffered (`HVM_IOREQSRV_BUFIOREQ_*`).
        @0 handle_bufioreq: u8,
        /// Zero.
        @1 pad: [u8; 3],
        /// Out: the server's number.
        @4 id: u16,
    }

    /// Payload of [`XEN_DMOP_GET_IOREQ_SERVER_INFO`].
    pub struct XenDmOpGetIoreqServerInfo("struct xen_dm_op_get_ioreq_server_info", 24) {
        /// Which server.
        @0 id: u16,
        /// [`XEN_DMOP_NO_GFNS`].
        @2 flags: u16,
        /// Out: event channel of the buffered ring.
        @4 bufioreq_port: u32,
        /// Out: guest frame of the request page.
        @8 ioreq_gfn: u64,
        /// Out: guest frame of the buffered ring.
        @16 bufioreq_gfn: u64,
    }

    /// Payload of [`XEN_DMOP_MAP_IO_RANGE_TO_IOREQ_SERVER`] and its reverse.
    pub struct XenDmOpIoreqServerRange("struct xen_dm_op_ioreq_server_range", 24) {
        /// Which server.
        @0 id: u16,
        /// Zero.
        @2 pad: u16,
        /// Kind of range (`XEN_DMOP_IO_RANGE_*`).
        @4 type_("type"): u32,
        /// First port, address or function.
        @8 start: u64,
        /// Last one, inclusive. A request goes to the server only if it lies wholly in a range.
        @16 end: u64,
    }

    /// Payload of [`XEN_DMOP_SET_IOREQ_SERVER_STATE`].
    pub struct XenDmOpSetIoreqServerState("struct xen_dm_op_set_ioreq_server_state", 4) {
        /// Which server.
        @0 id: u16,
        /// 1 for on, 0 for off.
        @2 enabled: u8,
        /// Zero.
        @3 pad: u8,
    }

    /// Payload of [`XEN_DMOP_DESTROY_IOREQ_SERVER`].
    pub struct XenDmOpDestroyIoreqServer("struct xen_dm_op_destroy_ioreq_server", 4) {
        /// Which server.
        @0 id: u16,
        /// Zero.
        @2 pad: u16,
    }

    /// Payload of [`XEN_DMOP_TRACK_DIRTY_VRAM`].
    pub struct XenDmOpTrackDirtyVram("struct xen_dm_op_track_dirty_vram", 16) {
        /// Number of pages; 0 stops tracking.
        @0 nr: u32,
        /// Zero.
        @4 pad: u32,
        /// First guest frame.
        @8 first_pfn: u64,
    }

    /// Payload of [`XEN_DMOP_SET_PCI_INTX_LEVEL`].
    pub struct XenDmOpSetPciIntxLevel("struct xen_dm_op_set_pci_intx_level", 6) {
        /// PCI segment.
        @0 domain: u16,
        /// PCI bus.
        @2 bus: u8,
        /// PCI device.
        @3 device: u8,
        /// Line: 0..=3.
        @4 intx: u8,
        /// 1 asserts, 0 releases.
        @5 level: u8,
    }

    /// Payload of [`XEN_DMOP_SET_ISA_IRQ_LEVEL`].
    pub struct XenDmOpSetIsaIrqLevel("struct xen_dm_op_set_isa_irq_level", 2) {
        /// ISA interrupt: 0..=15.
        @0 isa_irq: u8,
        /// 1 asserts, 0 releases.
        @1 level: u8,
    }

    /// Payload of [`XEN_DMOP_SET_PCI_LINK_ROUTE`].
    pub struct XenDmOpSetPciLinkRoute("struct xen_dm_op_set_pci_link_route", 2) {
        /// Link: 0..=3.
        @0 link: u8,
        /// ISA interrupt 1..=15, or 0 to disable the link.
        @1 isa_irq: u8,
    }

    /// Payload of [`XEN_DMOP_MODIFIED_MEMORY`].
    pub struct XenDmOpModifiedMemory("struct xen_dm_op_modified_memory", 8) {
        /// Extents in buffer 1; out on error: index of the bad one, plus 1.
        @0 nr_extents: u32,
        /// Zero at first; the hypervisor keeps its progress here.
        @4 opaque: u32,
    }

    /// One extent of [`XEN_DMOP_MODIFIED_MEMORY`].
    pub struct XenDmOpModifiedMemoryExtent("struct xen_dm_op_modified_memory_extent", 16) {
        /// Number of pages.
        @0 nr: u32,
        /// Zero.
        @4 pad: u32,
        /// First guest frame.
        @8 first_pfn: u64,
    }

    /// Payload of [`XEN_DMOP_SET_MEM_TYPE`]. The hypervisor advances `nr` and `first_pfn` where it has to be
    /// called again.
    pub struct XenDmOpSetMemType("struct xen_dm_op_set_mem_type", 16) {
        /// Number of pages.
        @0 nr: u32,
        /// New type (`HVMMEM_*`).
        @4 mem_type: u16,
        /// Zero.
        @6 pad: u16,
        /// First guest frame.
        @8 first_pfn: u64,
    }

    /// Payload of [`XEN_DMOP_INJECT_EVENT`].
    pub struct XenDmOpInjectEvent("struct xen_dm_op_inject_event", 24) {
        /// Which vCPU.
        @0 vcpuid: u32,
        /// Vector.
        @4 vector: u8,
        /// Kind (`XEN_DMOP_EVENT_*`).
        @5 type_("type"): u8,
        /// Length of the instruction, for software events.
        @6 insn_len: u8,
        /// Zero.
        @7 pad0: u8,
        /// Error code, or all ones for none.
        @8 error_code: u32,
        /// Zero.
        @12 pad1: u32,
        /// Address of a page fault, or pending debug conditions of a debug exception.
        @16 cr2: u64,
    }

    /// Payload of [`XEN_DMOP_INJECT_MSI`].
    pub struct XenDmOpInjectMsi("struct xen_dm_op_inject_msi", 16) {
        /// MSI data.
        @0 data: u32,
        /// Zero.
        @4 pad: u32,
        /// MSI address (0xfee.....).
        @8 addr: u64,
    }

    /// Payload of [`XEN_DMOP_MAP_MEM_TYPE_TO_IOREQ_SERVER`].
    pub struct XenDmOpMapMemTypeToIoreqServer("struct xen_dm_op_map_mem_type_to_ioreq_server", 16) {
        /// Which server.
        @0 id: u16,
        /// Memory type (`HVMMEM_*`).
        @2 type_("type"): u16,
        /// Accesses to forward (`XEN_DMOP_IOREQ_MEM_ACCESS_*`); 0 removes the mapping.
        @4 flags: u32,
        /// Zero at first; the hypervisor keeps its progress here.
        @8 opaque: u64,
    }

    /// Payload of [`XEN_DMOP_REMOTE_SHUTDOWN`].
    pub struct XenDmOpRemoteShutdown("struct xen_dm_op_remote_shutdown", 4) {
        /// `SHUTDOWN_*`.
        @0 reason: u32,
    }

    /// Payload of [`XEN_DMOP_RELOCATE_MEMORY`]. All fields are undefined afterwards.
    pub struct XenDmOpRelocateMemory("struct xen_dm_op_relocate_memory", 24) {
        /// Number of pages.
        @0 size: u32,
        /// Zero.
        @4 pad: u32,
        /// First guest frame to move.
        @8 src_gfn: u64,
        /// First guest frame to move to.
        @16 dst_gfn: u64,
    }

    /// Payload of [`XEN_DMOP_PIN_MEMORY_CACHEATTR`].
    pub struct XenDmOpPinMemoryCacheattr("struct xen_dm_op_pin_memory_cacheattr", 24) {
        /// First guest frame.
        @0 start: u64,
        /// Last guest frame.
        @8 end: u64,
        /// `XEN_DMOP_MEM_CACHEATTR_*` or [`XEN_DMOP_DELETE_MEM_CACHEATTR`].
        @16 type_("type"): u32,
        /// Zero.
        @20 pad: u32,
    }

    /// Payload of [`XEN_DMOP_SET_IRQ_LEVEL`].
    pub struct XenDmOpSetIrqLevel("struct xen_dm_op_set_irq_level", 8) {
        /// Which interrupt.
        @0 irq: u32,
        /// 1 asserts, 0 releases.
        @4 level: u8,
        /// Zero.
        @5 pad: [u8; 3],
    }

    /// Payload of [`XEN_DMOP_NR_VCPUS`].
    pub struct XenDmOpNrVcpus("struct xen_dm_op_nr_vcpus", 4) {
        /// Out: how many.
        @0 vcpus: u32,
    }
}

/// A PCI function as [`XEN_DMOP_IO_RANGE_PCI`] wants it: segment, bus, device, function. Excess bits are dropped.
#[must_use]
#[doc(alias = "XEN_DMOP_PCI_SBDF")]
pub const fn xen_dmop_pci_sbdf(segment: u16, bus: u8, device: u8, function: u8) -> u64 {
    ((segment as u64) << 16) | ((bus as u64) << 8) | ((device as u64 & 0x1f) << 3) | (function as u64 & 7)
}

abi_module! { "hvm/dm_op.h", "hvm/hvm_op.h": consts, wire }

#[cfg(test)]
mod tests {
    use zerocopy::{FromBytes, IntoBytes};

    use super::*;

    #[test]
    fn functions_are_packed_like_requester_ids() {
        assert_eq!(xen_dmop_pci_sbdf(0, 0, 2, 1), 0x11);
        assert_eq!(xen_dmop_pci_sbdf(0xffff, 0xff, 0x1f, 7), 0xffff_ffff);
        assert_eq!(xen_dmop_pci_sbdf(1, 0, 0x20, 8), 0x1_0000);
    }

    #[test]
    fn payloads_go_through_the_union() {
        let msi = XenDmOpInjectMsi { data: 0x4031, pad: 0, addr: 0xfee0_0000 };
        let mut op = XenDmOp { op: XEN_DMOP_INJECT_MSI, ..Default::default() };
        op.u[..size_of::<XenDmOpInjectMsi>()].copy_from_slice(msi.as_bytes());
        assert_eq!(XenDmOpInjectMsi::read_from_prefix(&op.u).map(|(read, _)| read), Ok(msi));
    }
}
