//! The MMU hypercalls of `xen.h`: `mmu_update`, `mmuext_op`, `update_va_mapping`; and `multicall`.
//!
//! A PV guest sees real page tables in machine frames and may read them, but not write them: each change is a
//! request that the hypervisor checks. `foreigndom` names the owner of the pages involved: bits 15:0 the
//! data's owner, bits 31:16 that of the page tables plus one (0: the caller).

consts! {
    /// `ptr[1:0]` of [`MmuUpdate`]: `*ptr = val`, checked. `ptr` is the machine address of the entry.
    MMU_NORMAL_PT_UPDATE: u64 = 0;
    /// `ptr[1:0]`: sets the M2P entry of the frame that contains `ptr` to `val`.
    MMU_MACHPHYS_UPDATE: u64 = 1;
    /// `ptr[1:0]`: like a normal update, but keeps accessed and dirty of the old entry, atomically.
    MMU_PT_UPDATE_PRESERVE_AD: u64 = 2;
    /// `ptr[1:0]`: like a normal update; `val` is never translated through the foreign domain's P2M.
    MMU_PT_UPDATE_NO_TRANSLATE: u64 = 3;

    /// Pins frame `arg1` as a level-1 table: validates it and keeps its type until it is unpinned.
    MMUEXT_PIN_L1_TABLE: u32 = 0;
    /// Pins frame `arg1` as a level-2 table.
    MMUEXT_PIN_L2_TABLE: u32 = 1;
    /// Pins frame `arg1` as a level-3 table.
    MMUEXT_PIN_L3_TABLE: u32 = 2;
    /// Pins frame `arg1` as a level-4 table.
    MMUEXT_PIN_L4_TABLE: u32 = 3;
    /// Takes the pin of frame `arg1` away, whatever its level.
    MMUEXT_UNPIN_TABLE: u32 = 4;
    /// Installs frame `arg1` as the kernel's level-4 table.
    MMUEXT_NEW_BASEPTR: u32 = 5;
    /// Flushes the local TLB.
    MMUEXT_TLB_FLUSH_LOCAL: u32 = 6;
    /// Flushes linear address `arg1` from the local TLB.
    MMUEXT_INVLPG_LOCAL: u32 = 7;
    /// Flushes the TLBs of the vCPUs in the bitmap at `arg2`.
    MMUEXT_TLB_FLUSH_MULTI: u32 = 8;
    /// Flushes linear address `arg1` from the TLBs of the vCPUs in the bitmap at `arg2`.
    MMUEXT_INVLPG_MULTI: u32 = 9;
    /// Flushes the TLBs of all vCPUs of the domain.
    MMUEXT_TLB_FLUSH_ALL: u32 = 10;
    /// Flushes linear address `arg1` from the TLBs of all vCPUs of the domain.
    MMUEXT_INVLPG_ALL: u32 = 11;
    /// Writes back and invalidates the local caches.
    MMUEXT_FLUSH_CACHE: u32 = 12;
    /// Loads the LDT: base `arg1` (page-aligned), `arg2` entries.
    MMUEXT_SET_LDT: u32 = 13;
    /// Installs frame `arg1` as the user-mode level-4 table; 0 for none.
    MMUEXT_NEW_USER_BASEPTR: u32 = 15;
    /// Fills frame `arg1` with zeros.
    MMUEXT_CLEAR_PAGE: u32 = 16;
    /// Copies frame `arg2` to frame `arg1`.
    MMUEXT_COPY_PAGE: u32 = 17;
    /// Writes back and invalidates the caches of all CPUs.
    MMUEXT_FLUSH_CACHE_GLOBAL: u32 = 18;
    /// Marks the 2 MiB that start with frame `arg1` as a superpage (refused by current Xen).
    MMUEXT_MARK_SUPER: u32 = 19;
    /// Undoes the former.
    MMUEXT_UNMARK_SUPER: u32 = 20;

    /// `update_va_mapping` flags: no flush.
    UVMF_NONE: u64 = 0;
    /// Flush the whole TLB.
    UVMF_TLB_FLUSH: u64 = 1;
    /// Flush the one address.
    UVMF_INVLPG: u64 = 2;
    /// The bits that say what to flush.
    UVMF_FLUSHTYPE_MASK: u64 = 3;
    /// Flush on the vCPUs of a bitmap; its guest address is or-ed into the flags (so it is 8-byte aligned).
    UVMF_MULTI: u64 = 0;
    /// Flush locally: [`UVMF_MULTI`] with a null bitmap.
    UVMF_LOCAL: u64 = 0;
    /// Flush on all vCPUs.
    UVMF_ALL: u64 = 4;
}

wire! {
    /// One request of `mmu_update`.
    pub struct MmuUpdate("struct mmu_update", 16) {
        /// Machine address of the entry (8-byte aligned); bits 1:0 are one of `MMU_*`.
        @0 ptr: u64,
        /// The new contents.
        @8 val: u64,
    }

    /// One request of `mmuext_op`.
    pub struct MmuextOp("struct mmuext_op", 24) {
        /// One of `MMUEXT_*`.
        @0 cmd: u32,
        @4 _pad0(): u32,
        /// A machine frame (`mfn`) or a linear address (`linear_addr`), by command.
        @8 arg1: u64,
        /// Entries of an LDT (`nr_ents`, 32 bits), a guest address of a vCPU bitmap (`vcpumask`) or a source
        /// frame (`src_mfn`), by command.
        @16 arg2: u64,
    }

    /// One call of a `multicall`.
    pub struct MulticallEntry("struct multicall_entry", 64) {
        /// The number of the hypercall.
        @0 op: u64,
        /// Written by the hypervisor: what the call returned.
        @8 result: u64,
        /// Its arguments, as many as it has.
        @16 args: [u64; 6],
    }
}

abi_module! { "xen.h": consts, wire }
