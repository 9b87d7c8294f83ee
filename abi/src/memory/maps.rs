//! What is where: the machine-to-physical table, memory maps, changes of the physmap, NUMA.

use crate::GuestHandle;

consts! {
    /// Lists the 2 MiB extents of the M2P. Argument: [`XenMachphysMfnList`].
    XENMEM_MACHPHYS_MFN_LIST("XENMEM_machphys_mfn_list"): u32 = 5;
    /// Puts a page at a guest frame. Argument: [`XenAddToPhysmap`].
    XENMEM_ADD_TO_PHYSMAP("XENMEM_add_to_physmap"): u32 = 7;
    /// The domain's memory map. Argument: [`XenMemoryMap`].
    XENMEM_MEMORY_MAP("XENMEM_memory_map"): u32 = 9;
    /// The machine's memory map (dom0). Argument: [`XenMemoryMap`].
    XENMEM_MACHINE_MEMORY_MAP("XENMEM_machine_memory_map"): u32 = 10;
    /// Where the M2P is mapped. Argument: [`XenMachphysMapping`].
    XENMEM_MACHPHYS_MAPPING("XENMEM_machphys_mapping"): u32 = 12;
    /// Sets a domain's memory map. Argument: [`XenForeignMemoryMap`].
    XENMEM_SET_MEMORY_MAP("XENMEM_set_memory_map"): u32 = 13;
    /// Takes the page at a guest frame away. Argument: [`XenRemoveFromPhysmap`].
    XENMEM_REMOVE_FROM_PHYSMAP("XENMEM_remove_from_physmap"): u32 = 15;
    /// Puts many pages at guest frames. Argument: [`XenAddToPhysmapBatch`].
    XENMEM_ADD_TO_PHYSMAP_BATCH("XENMEM_add_to_physmap_batch"): u32 = 23;
    /// Lists the 2 MiB extents of the 32-bit guests' M2P. Argument: [`XenMachphysMfnList`].
    XENMEM_MACHPHYS_COMPAT_MFN_LIST("XENMEM_machphys_compat_mfn_list"): u32 = 25;
    /// The virtual NUMA topology. Argument: [`XenVnumaTopologyInfo`].
    XENMEM_GET_VNUMAINFO("XENMEM_get_vnumainfo"): u32 = 26;

    /// Source: the shared page.
    XENMAPSPACE_SHARED_INFO("XENMAPSPACE_shared_info"): u32 = 0;
    /// Source: a page of the grant table.
    XENMAPSPACE_GRANT_TABLE("XENMAPSPACE_grant_table"): u32 = 1;
    /// Source: another guest frame of the domain.
    XENMAPSPACE_GMFN("XENMAPSPACE_gmfn"): u32 = 2;
    /// Source: a range of them (not in batches).
    XENMAPSPACE_GMFN_RANGE("XENMAPSPACE_gmfn_range"): u32 = 3;
    /// Source: a guest frame of another domain (only in batches).
    XENMAPSPACE_GMFN_FOREIGN("XENMAPSPACE_gmfn_foreign"): u32 = 4;
    /// Source: device memory (Arm).
    XENMAPSPACE_DEV_MMIO("XENMAPSPACE_dev_mmio"): u32 = 5;
    /// `idx` bit: a page of grant status words instead of entries.
    XENMAPIDX_GRANT_TABLE_STATUS("XENMAPIDX_grant_table_status"): u64 = 0x8000_0000;

    /// Memory map: RAM.
    E820_RAM(!"the firmware interface of INT 15h, E820h"): u32 = 1;
    /// Memory map: do not use.
    E820_RESERVED(!"the firmware interface of INT 15h, E820h"): u32 = 2;
    /// Memory map: ACPI tables, RAM after they were read.
    E820_ACPI(!"the firmware interface of INT 15h, E820h"): u32 = 3;
    /// Memory map: ACPI memory that survives sleep.
    E820_NVS(!"the firmware interface of INT 15h, E820h"): u32 = 4;
    /// Memory map: defective.
    E820_UNUSABLE(!"the firmware interface of INT 15h, E820h"): u32 = 5;
}

wire! {
    /// Argument of [`XENMEM_MACHPHYS_MFN_LIST`].
    pub struct XenMachphysMfnList("struct xen_machphys_mfn_list", 24) {
        /// In: how many entries the list can take.
        @0 max_extents: u32,
        @4 _pad0(): u32,
        /// In: the list; a gap in the M2P is an entry of 0.
        @8 extent_start: GuestHandle<u64>,
        /// Out: how many were written.
        @16 nr_extents: u32,
        @20 _pad1(): u32,
    }

    /// Argument of [`XENMEM_MACHPHYS_MAPPING`].
    pub struct XenMachphysMapping("struct xen_machphys_mapping", 24) {
        /// Out: first virtual address.
        @0 v_start: u64,
        /// Out: end.
        @8 v_end: u64,
        /// Out: highest machine frame that has an entry.
        @16 max_mfn: u64,
    }

    /// Argument of [`XENMEM_ADD_TO_PHYSMAP`].
    pub struct XenAddToPhysmap("struct xen_add_to_physmap", 24) {
        /// In: the domain whose map changes.
        @0 domid: u16,
        /// In: pages of a range.
        @2 size: u16,
        /// In: one of `XENMAPSPACE_*`.
        @4 space: u32,
        /// In: which page of the source.
        @8 idx: u64,
        /// In: the guest frame at which it is to appear.
        @16 gpfn: u64,
    }

    /// Argument of [`XENMEM_ADD_TO_PHYSMAP_BATCH`].
    ///
    /// Before interface version 4.7 `u` was called `foreign_domid`.
    pub struct XenAddToPhysmapBatch("struct xen_add_to_physmap_batch", 32) {
        /// In: the domain whose map changes.
        @0 domid: u16,
        /// In: one of `XENMAPSPACE_*`.
        @2 space: u16,
        /// In: how many pages.
        @4 size: u16,
        /// In: the foreign domain, else 0.
        @6 u: u16,
        /// In: which pages of the source.
        @8 idxs: GuestHandle<u64>,
        /// In: the guest frames at which they are to appear.
        @16 gpfns: GuestHandle<u64>,
        /// Out: an error number (negative) or 0 for each.
        @24 errs: GuestHandle<i32>,
    }

    /// Argument of [`XENMEM_REMOVE_FROM_PHYSMAP`].
    pub struct XenRemoveFromPhysmap("struct xen_remove_from_physmap", 16) {
        /// In: the domain.
        @0 domid: u16,
        @2 _pad0(): [u16; 3],
        /// In: the guest frame.
        @8 gpfn: u64,
    }

    /// Argument of [`XENMEM_MEMORY_MAP`] and [`XENMEM_MACHINE_MEMORY_MAP`].
    pub struct XenMemoryMap("struct xen_memory_map", 16) {
        /// In: entries that fit; out: entries that were written (null buffer: that there are).
        @0 nr_entries: u32,
        @4 _pad0(): u32,
        /// In: the buffer.
        @8 buffer: GuestHandle<E820Entry>,
    }

    /// One range of a memory map, as the PC's firmware interface has it.
    #[repr(packed)]
    pub struct E820Entry(!"the firmware interface of INT 15h, E820h", 20) {
        /// First address.
        @0 addr: u64,
        /// Bytes.
        @8 size: u64,
        /// One of `E820_*`.
        @16 type_: u32,
    }

    /// Argument of [`XENMEM_SET_MEMORY_MAP`].
    pub struct XenForeignMemoryMap("struct xen_foreign_memory_map", 24) {
        /// In: the domain.
        @0 domid: u16,
        @2 _pad0(): [u16; 3],
        /// In: its map.
        @8 map: XenMemoryMap,
    }

    /// A range of guest-physical memory of one virtual node.
    pub struct XenVmemrange("struct xen_vmemrange", 24) {
        /// First address.
        @0 start: u64,
        /// End.
        @8 end: u64,
        /// Zero.
        @16 flags: u32,
        /// The virtual node.
        @20 nid: u32,
    }

    /// Argument of [`XENMEM_GET_VNUMAINFO`]. Where a list is too short the numbers that are needed are returned
    /// with `-ENOBUFS`.
    pub struct XenVnumaTopologyInfo("struct xen_vnuma_topology_info", 40) {
        /// In: the domain.
        @0 domid: u16,
        @2 pad("pad"): u16,
        /// In and out: virtual nodes.
        @4 nr_vnodes: u32,
        /// In and out: vCPUs.
        @8 nr_vcpus: u32,
        /// In and out: ranges.
        @12 nr_vmemranges: u32,
        /// Out: square matrix of distances.
        @16 vdistance("vdistance.h"): GuestHandle<u32>,
        /// Out: the node of each vCPU.
        @24 vcpu_to_vnode("vcpu_to_vnode.h"): GuestHandle<u32>,
        /// Out: the ranges.
        @32 vmemrange("vmemrange.h"): GuestHandle<XenVmemrange>,
    }
}

abi_module! { "memory.h": consts, wire }
