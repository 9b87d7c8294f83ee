//! Commands of toolstacks, device models and monitors.

use crate::GuestHandle;
use crate::physdev::PhysdevPciDevice;

consts! {
    /// Returns frames saved by sharing. No argument.
    XENMEM_GET_SHARING_FREED_PAGES("XENMEM_get_sharing_freed_pages"): u32 = 18;
    /// Returns frames that are shared. No argument.
    XENMEM_GET_SHARING_SHARED_PAGES("XENMEM_get_sharing_shared_pages"): u32 = 19;
    /// Pages guest memory out and in. Argument: [`XenMemPagingOp`].
    XENMEM_PAGING_OP("XENMEM_paging_op"): u32 = 20;
    /// Proposes a page to be evicted.
    XENMEM_PAGING_OP_NOMINATE("XENMEM_paging_op_nominate"): u8 = 0;
    /// Evicts it.
    XENMEM_PAGING_OP_EVICT("XENMEM_paging_op_evict"): u8 = 1;
    /// Brings it back.
    XENMEM_PAGING_OP_PREP("XENMEM_paging_op_prep"): u8 = 2;
    /// Restricts access to guest pages below what the guest knows. Argument: [`XenMemAccessOp`].
    XENMEM_ACCESS_OP("XENMEM_access_op"): u32 = 21;
    /// Sets a range.
    XENMEM_ACCESS_OP_SET_ACCESS("XENMEM_access_op_set_access"): u8 = 0;
    /// Asks for one page.
    XENMEM_ACCESS_OP_GET_ACCESS("XENMEM_access_op_get_access"): u8 = 1;
    /// Sets a list.
    XENMEM_ACCESS_OP_SET_ACCESS_MULTI("XENMEM_access_op_set_access_multi"): u8 = 4;
    /// Access: none.
    XENMEM_ACCESS_N("XENMEM_access_n"): u8 = 0;
    /// Access: read.
    XENMEM_ACCESS_R("XENMEM_access_r"): u8 = 1;
    /// Access: write.
    XENMEM_ACCESS_W("XENMEM_access_w"): u8 = 2;
    /// Access: read, write.
    XENMEM_ACCESS_RW("XENMEM_access_rw"): u8 = 3;
    /// Access: execute.
    XENMEM_ACCESS_X("XENMEM_access_x"): u8 = 4;
    /// Access: read, execute.
    XENMEM_ACCESS_RX("XENMEM_access_rx"): u8 = 5;
    /// Access: write, execute.
    XENMEM_ACCESS_WX("XENMEM_access_wx"): u8 = 6;
    /// Access: everything.
    XENMEM_ACCESS_RWX("XENMEM_access_rwx"): u8 = 7;
    /// Access: read and execute until the first write, then read and write.
    XENMEM_ACCESS_RX2RW("XENMEM_access_rx2rw"): u8 = 8;
    /// Access: none until the first one, which is reported, then everything.
    XENMEM_ACCESS_N2RWX("XENMEM_access_n2rwx"): u8 = 9;
    /// Access: the domain's default.
    XENMEM_ACCESS_DEFAULT("XENMEM_access_default"): u8 = 10;

    /// Shares frames between domains. Argument: [`XenMemSharingOp`].
    XENMEM_SHARING_OP("XENMEM_sharing_op"): u32 = 22;
    /// Proposes a guest frame.
    XENMEM_SHARING_OP_NOMINATE_GFN("XENMEM_sharing_op_nominate_gfn"): u8 = 0;
    /// Proposes a granted page.
    XENMEM_SHARING_OP_NOMINATE_GREF("XENMEM_sharing_op_nominate_gref"): u8 = 1;
    /// Makes two pages one.
    XENMEM_SHARING_OP_SHARE("XENMEM_sharing_op_share"): u8 = 2;
    /// Prints what is known of a guest frame.
    XENMEM_SHARING_OP_DEBUG_GFN("XENMEM_sharing_op_debug_gfn"): u8 = 3;
    /// The same of a machine frame.
    XENMEM_SHARING_OP_DEBUG_MFN("XENMEM_sharing_op_debug_mfn"): u8 = 4;
    /// The same of a granted page.
    XENMEM_SHARING_OP_DEBUG_GREF("XENMEM_sharing_op_debug_gref"): u8 = 5;
    /// Adds a shared page to a physmap.
    XENMEM_SHARING_OP_ADD_PHYSMAP("XENMEM_sharing_op_add_physmap"): u8 = 6;
    /// Checks the hypervisor's own tables.
    XENMEM_SHARING_OP_AUDIT("XENMEM_sharing_op_audit"): u8 = 7;
    /// Shares a range.
    XENMEM_SHARING_OP_RANGE_SHARE("XENMEM_sharing_op_range_share"): u8 = 8;
    /// Makes a domain a copy of another.
    XENMEM_SHARING_OP_FORK("XENMEM_sharing_op_fork"): u8 = 9;
    /// Returns a copy to its first state.
    XENMEM_SHARING_OP_FORK_RESET("XENMEM_sharing_op_fork_reset"): u8 = 10;
    /// Returned: the source handle is not valid.
    XENMEM_SHARING_OP_S_HANDLE_INVALID: i32 = -10;
    /// Returned: the client handle is not valid.
    XENMEM_SHARING_OP_C_HANDLE_INVALID: i32 = -9;
    /// Set in a guest frame's place: it is a grant reference.
    XENMEM_SHARING_OP_FIELD_IS_GREF_FLAG: u64 = 1 << 62;
    /// Fork: a parent with an IOMMU is acceptable.
    XENMEM_FORK_WITH_IOMMU_ALLOWED: u16 = 1 << 0;
    /// Fork: the copy gets no interrupts.
    XENMEM_FORK_BLOCK_INTERRUPTS: u16 = 1 << 1;
    /// Fork reset: registers.
    XENMEM_FORK_RESET_STATE: u16 = 1 << 2;
    /// Fork reset: memory.
    XENMEM_FORK_RESET_MEMORY: u16 = 1 << 3;

    /// Lists memory that devices have reserved. Argument: [`XenReservedDeviceMemoryMap`].
    XENMEM_RESERVED_DEVICE_MEMORY_MAP("XENMEM_reserved_device_memory_map"): u32 = 27;
    /// Of all devices.
    XENMEM_RDM_ALL: u32 = 1;
    /// Gets frames of a domain's resource. Argument: [`XenMemAcquireResource`].
    XENMEM_ACQUIRE_RESOURCE("XENMEM_acquire_resource"): u32 = 28;
    /// Resource: the pages of an I/O request server.
    XENMEM_RESOURCE_IOREQ_SERVER("XENMEM_resource_ioreq_server"): u16 = 0;
    /// Resource: the grant table.
    XENMEM_RESOURCE_GRANT_TABLE("XENMEM_resource_grant_table"): u16 = 1;
    /// Resource: a processor trace.
    XENMEM_RESOURCE_VMTRACE_BUF("XENMEM_resource_vmtrace_buf"): u16 = 2;
    /// Grant table: the entries.
    XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED("XENMEM_resource_grant_table_id_shared"): u32 = 0;
    /// Grant table: the status words.
    XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS("XENMEM_resource_grant_table_id_status"): u32 = 1;
    /// I/O request server: the frame of buffered requests; the others follow.
    XENMEM_RESOURCE_IOREQ_SERVER_FRAME_BUFIOREQ("XENMEM_resource_ioreq_server_frame_bufioreq"): u64 = 0;
    /// I/O request server: the first frame of synchronous requests.
    XENMEM_RESOURCE_IOREQ_SERVER_FRAME_IOREQ_0("XENMEM_resource_ioreq_server_frame_ioreq(0)"): u64 = 1;
}

wire! {
    /// Argument of [`XENMEM_PAGING_OP`].
    pub struct XenMemPagingOp("struct xen_mem_paging_op", 24) {
        /// One of `XENMEM_PAGING_OP_*`.
        @0 op: u8,
        @1 _pad0(): u8,
        /// The domain.
        @2 domain: u16,
        @4 _pad1(): u32,
        /// Contents to fill the page with.
        @8 buffer: GuestHandle<u8>,
        /// The guest frame.
        @16 gfn: u64,
    }

    /// Argument of [`XENMEM_ACCESS_OP`].
    pub struct XenMemAccessOp("struct xen_mem_access_op", 32) {
        /// One of `XENMEM_ACCESS_OP_*`.
        @0 op: u8,
        /// One of `XENMEM_ACCESS_*`.
        @1 access: u8,
        /// The domain.
        @2 domid: u16,
        /// How many pages.
        @4 nr: u32,
        /// First guest frame; all ones means the default.
        @8 pfn: u64,
        /// Guest frames.
        @16 pfn_list: GuestHandle<u64>,
        /// The access of each.
        @24 access_list: GuestHandle<u8>,
    }

    /// Argument of [`XENMEM_SHARING_OP`].
    pub struct XenMemSharingOp("struct xen_mem_sharing_op", 48) {
        /// One of `XENMEM_SHARING_OP_*`.
        @0 op: u8,
        @1 _pad0(): u8,
        /// The domain.
        @2 domain: u16,
        @4 _pad1(): u32,
        /// By command: [`MemSharingOpNominate`], [`MemSharingOpShare`], [`MemSharingOpRange`],
        /// [`MemSharingOpFork`], or a frame or grant reference to print.
        @8 u: [u64; 5],
    }

    /// [`XenMemSharingOp::u`] of the nominating commands.
    pub struct MemSharingOpNominate("struct mem_sharing_op_nominate", 16) {
        /// In: guest frame, or grant reference in the low half.
        @0 u: u64,
        /// Out: the handle.
        @8 handle: u64,
    }

    /// [`XenMemSharingOp::u`] of share and add-physmap.
    pub struct MemSharingOpShare("struct mem_sharing_op_share", 40) {
        /// In: guest frame of the source.
        @0 source_gfn: u64,
        /// In: its handle.
        @8 source_handle: u64,
        /// In: guest frame of the client.
        @16 client_gfn: u64,
        /// In: its handle.
        @24 client_handle: u64,
        /// In: the client.
        @32 client_domain: u16,
        @34 _pad0(): [u16; 3],
    }

    /// [`XenMemSharingOp::u`] of range-share.
    pub struct MemSharingOpRange("struct mem_sharing_op_range", 32) {
        /// In: first guest frame.
        @0 first_gfn: u64,
        /// In: last guest frame.
        @8 last_gfn: u64,
        /// In: zero.
        @16 opaque: u64,
        /// In: the client.
        @24 client_domain: u16,
        @26 _pad("_pad"): [u16; 3],
    }

    /// [`XenMemSharingOp::u`] of the fork commands.
    pub struct MemSharingOpFork("struct mem_sharing_op_fork", 8) {
        /// In: the domain that is copied.
        @0 parent_domain: u16,
        /// In: `XENMEM_FORK_*`.
        @2 flags: u16,
        @4 pad("pad"): u32,
    }

    /// One range of reserved device memory.
    pub struct XenReservedDeviceMemory("struct xen_reserved_device_memory", 16) {
        /// First frame.
        @0 start_pfn: u64,
        /// Frames.
        @8 nr_pages: u64,
    }

    /// Argument of [`XENMEM_RESERVED_DEVICE_MEMORY_MAP`].
    pub struct XenReservedDeviceMemoryMap("struct xen_reserved_device_memory_map", 24) {
        /// In: [`XENMEM_RDM_ALL`] or 0.
        @0 flags: u32,
        /// In: entries that fit; out: entries there are (`-ERANGE` where they do not fit).
        @4 nr_entries: u32,
        /// Out: the ranges.
        @8 buffer: GuestHandle<XenReservedDeviceMemory>,
        /// In: whose, unless all.
        @16 pci("dev.pci"): PhysdevPciDevice,
        @20 _pad0(): u32,
    }

    /// Argument of [`XENMEM_ACQUIRE_RESOURCE`].
    pub struct XenMemAcquireResource("struct xen_mem_acquire_resource", 32) {
        /// In: the domain whose resource it is.
        @0 domid: u16,
        /// In: one of `XENMEM_RESOURCE_*`.
        @2 type_("type"): u16,
        /// In: the resource's own number.
        @4 id: u32,
        /// In and out: how many frames; 0 with a null list asks for the size.
        @8 nr_frames: u32,
        @12 pad("pad"): u32,
        /// In: first frame of the resource.
        @16 frame: u64,
        /// PV callers: gets machine frames. Others: names the guest frames to map them at.
        @24 frame_list: GuestHandle<u64>,
    }
}

abi_module! { "memory.h": consts, wire }
