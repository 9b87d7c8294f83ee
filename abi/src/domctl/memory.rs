//! Payloads that concern memory: page types, dirty logging, sharing, virtual NUMA.

use crate::GuestHandle;
use crate::memory::XenVmemrange;

consts! {
    /// Position of the type in an entry of `XEN_DOMCTL_getpageframeinfo3`.
    XEN_DOMCTL_PFINFO_LTAB_SHIFT: u32 = 28;
    /// Type: no page table.
    XEN_DOMCTL_PFINFO_NOTAB: u32 = 0x0;
    /// Type: level 1 page table.
    XEN_DOMCTL_PFINFO_L1TAB: u32 = 0x1000_0000;
    /// Type: level 2 page table.
    XEN_DOMCTL_PFINFO_L2TAB: u32 = 0x2000_0000;
    /// Type: level 3 page table.
    XEN_DOMCTL_PFINFO_L3TAB: u32 = 0x3000_0000;
    /// Type: level 4 page table.
    XEN_DOMCTL_PFINFO_L4TAB: u32 = 0x4000_0000;
    /// Mask of the page-table level.
    XEN_DOMCTL_PFINFO_LTABTYPE_MASK: u32 = 0x7000_0000;
    /// The page table is pinned.
    XEN_DOMCTL_PFINFO_LPINTAB: u32 = 0x8000_0000;
    /// Type: no page there.
    XEN_DOMCTL_PFINFO_XTAB: u32 = 0xf000_0000;
    /// Type: allocated, no content.
    XEN_DOMCTL_PFINFO_XALLOC: u32 = 0xe000_0000;
    /// Type: broken.
    XEN_DOMCTL_PFINFO_BROKEN: u32 = 0xd000_0000;
    /// Mask of the type.
    XEN_DOMCTL_PFINFO_LTAB_MASK: u32 = 0xf000_0000;

    /// `op`: no shadow mode.
    XEN_DOMCTL_SHADOW_OP_OFF: u32 = 0;
    /// `op`, obsolete: enable without flags.
    XEN_DOMCTL_SHADOW_OP_ENABLE_TEST: u32 = 1;
    /// `op`, obsolete: enable dirty logging.
    XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY: u32 = 2;
    /// `op`: read the dirty bitmap and clear it.
    XEN_DOMCTL_SHADOW_OP_CLEAN: u32 = 11;
    /// `op`: read the dirty bitmap.
    XEN_DOMCTL_SHADOW_OP_PEEK: u32 = 12;
    /// `op`, obsolete: read the size of the pool.
    XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION: u32 = 30;
    /// `op`, obsolete: set the size of the pool.
    XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION: u32 = 31;
    /// `op`: enable with the flags in `mode`.
    XEN_DOMCTL_SHADOW_OP_ENABLE: u32 = 32;
    /// `mode`: the guest's page tables are its own.
    XEN_DOMCTL_SHADOW_ENABLE_REFCOUNT: u32 = 0x2;
    /// `mode`: log dirty pages.
    XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY: u32 = 0x4;
    /// `mode`: translate guest frames to machine frames.
    XEN_DOMCTL_SHADOW_ENABLE_TRANSLATE: u32 = 0x8;
    /// `mode`: the guest keeps all of its address space.
    XEN_DOMCTL_SHADOW_ENABLE_EXTERNAL: u32 = 0x10;
    /// `mode` of reading the bitmap: the last time; include pages that the hypervisor can write.
    XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL: u32 = 0x1;
    /// `op`: turn sharing on or off.
    XEN_DOMCTL_MEM_SHARING_CONTROL: u32 = 0;
}

wire! {
    /// Payload of `XEN_DOMCTL_getpageframeinfo3`. The hypervisor may advance both fields where it has to be
    /// called again.
    pub struct XenDomctlGetpageframeinfo3("struct xen_domctl_getpageframeinfo3", 16) {
        /// Entries.
        @0 num: u64,
        /// In: guest frames; out: their types (`XEN_DOMCTL_PFINFO_*`).
        @8 array: GuestHandle<u64>,
    }

    /// Counters since the last cleaning.
    pub struct XenDomctlShadowOpStats("struct xen_domctl_shadow_op_stats", 8) {
        /// Faults taken.
        @0 fault_count: u32,
        /// Pages dirtied.
        @4 dirty_count: u32,
    }

    /// Payload of `XEN_DOMCTL_shadow_op`.
    pub struct XenDomctlShadowOp("struct xen_domctl_shadow_op", 40) {
        /// What to do (`XEN_DOMCTL_SHADOW_OP_*`).
        @0 op: u32,
        /// Flags of the operation.
        @4 mode: u32,
        /// Size of the pool, MiB.
        @8 mb: u32,
        @12 _pad0(): u32,
        /// Where the bitmap goes; null for none.
        @16 dirty_bitmap: GuestHandle<u8>,
        /// Bits of the bitmap; out: bits filled in.
        @24 pages: u64,
        /// Out: counters.
        @32 stats: XenDomctlShadowOpStats,
    }

    /// Payload of `XEN_DOMCTL_mem_sharing_op`.
    pub struct XenDomctlMemSharingOp("struct xen_domctl_mem_sharing_op", 2) {
        /// `XEN_DOMCTL_MEM_SHARING_*`.
        @0 op: u8,
        /// Whether sharing is on.
        @1 enable("u.enable"): u8,
    }

    /// Payload of `XEN_DOMCTL_audit_p2m`. All fields are out.
    pub struct XenDomctlAuditP2m("struct xen_domctl_audit_p2m", 24) {
        /// Pages in neither map.
        @0 orphans: u64,
        /// Entries of the machine-to-physical map that are wrong.
        @8 m2p_bad: u64,
        /// Entries of the physical-to-machine map that are wrong.
        @16 p2m_bad: u64,
    }

    /// Payload of `XEN_DOMCTL_set_access_required`.
    pub struct XenDomctlSetAccessRequired("struct xen_domctl_set_access_required", 1) {
        /// 1: without a listener an access event stops the vCPU; 0: the access is then allowed.
        @0 access_required: u8,
    }

    /// Payload of `XEN_DOMCTL_set_broken_page_p2m`.
    pub struct XenDomctlSetBrokenPageP2m("struct xen_domctl_set_broken_page_p2m", 8) {
        /// Guest frame.
        @0 pfn: u64,
    }

    /// Payload of `XEN_DOMCTL_cacheflush` (Arm).
    pub struct XenDomctlCacheflush("struct xen_domctl_cacheflush", 16) {
        /// First guest frame.
        @0 start_pfn: u64,
        /// Number of frames.
        @8 nr_pfns: u64,
    }

    /// Payload of `XEN_DOMCTL_get_paging_mempool_size` and `XEN_DOMCTL_set_paging_mempool_size`.
    pub struct XenDomctlPagingMempool("struct xen_domctl_paging_mempool", 8) {
        /// Bytes of the pool.
        @0 size: u64,
    }

    /// Payload of `XEN_DOMCTL_setvnumainfo`.
    pub struct XenDomctlVnuma("struct xen_domctl_vnuma", 48) {
        /// Virtual nodes, at least 1.
        @0 nr_vnodes: u32,
        /// Memory ranges.
        @4 nr_vmemranges: u32,
        /// vCPUs; must be all of the domain's.
        @8 nr_vcpus: u32,
        /// Zero.
        @12 pad: u32,
        /// Distances: `nr_vnodes` squared.
        @16 vdistance: GuestHandle<u32>,
        /// Virtual node of each vCPU.
        @24 vcpu_to_vnode: GuestHandle<u32>,
        /// Physical node of each virtual one.
        @32 vnode_to_pnode: GuestHandle<u32>,
        /// The memory ranges.
        @40 vmemrange: GuestHandle<XenVmemrange>,
    }
}

abi_module! { "domctl.h": consts, wire }
