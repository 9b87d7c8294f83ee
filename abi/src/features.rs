//! `features.h`: bit numbers of `XENVER_get_features` and of a kernel's feature notes.
//!
//! A kernel names them in its `XEN_ELFNOTE_FEATURES` text by [`NAMES`], separated by `|`, with `!` before those
//! that it cannot do without; or as bits in `XEN_ELFNOTE_SUPPORTED_FEATURES`.

consts! {
    /// Page tables need no write protection; the guest stores into them.
    XENFEAT_WRITABLE_PAGE_TABLES("XENFEAT_writable_page_tables"): u32 = 0;
    /// The same for descriptor tables.
    XENFEAT_WRITABLE_DESCRIPTOR_TABLES("XENFEAT_writable_descriptor_tables"): u32 = 1;
    /// The hypervisor translates guest frames; the guest never sees machine frames.
    XENFEAT_AUTO_TRANSLATED_PHYSMAP("XENFEAT_auto_translated_physmap"): u32 = 2;
    /// The kernel runs in ring 0.
    XENFEAT_SUPERVISOR_MODE_KERNEL("XENFEAT_supervisor_mode_kernel"): u32 = 3;
    /// 32-bit guests may have page directories above 4 GiB.
    XENFEAT_PAE_PGDIR_ABOVE_4GB("XENFEAT_pae_pgdir_above_4gb"): u32 = 4;
    /// `MMU_PT_UPDATE_PRESERVE_AD` works.
    XENFEAT_MMU_PT_UPDATE_PRESERVE_AD("XENFEAT_mmu_pt_update_preserve_ad"): u32 = 5;
    /// `MMUEXT_CLEAR_PAGE` and `MMUEXT_COPY_PAGE` work.
    XENFEAT_HIGHMEM_ASSIST("XENFEAT_highmem_assist"): u32 = 6;
    /// Grant maps set the guest's software bits of a page-table entry as asked.
    XENFEAT_GNTTAB_MAP_AVAIL_BITS("XENFEAT_gnttab_map_avail_bits"): u32 = 7;
    /// HVM guests may receive events by a vector.
    XENFEAT_HVM_CALLBACK_VECTOR("XENFEAT_hvm_callback_vector"): u32 = 8;
    /// HVM guests may rely on the time record.
    XENFEAT_HVM_SAFE_PVCLOCK("XENFEAT_hvm_safe_pvclock"): u32 = 9;
    /// HVM guests may bind physical interrupts to events.
    XENFEAT_HVM_PIRQS("XENFEAT_hvm_pirqs"): u32 = 10;
    /// The kernel can be dom0, or is.
    XENFEAT_DOM0("XENFEAT_dom0"): u32 = 11;
    /// Deprecated: grants are also mapped where frame and machine frame are equal.
    XENFEAT_GRANT_MAP_IDENTITY(!"the header keeps it in a comment since it is deprecated"): u32 = 12;
    /// `XENMEMF_vnode` works.
    XENFEAT_MEMORY_OP_VNODE_SUPPORTED("XENFEAT_memory_op_vnode_supported"): u32 = 13;
    /// Arm's calling convention.
    XENFEAT_ARM_SMCCC_SUPPORTED("XENFEAT_ARM_SMCCC_supported"): u32 = 14;
    /// The ACPI root pointer may be anywhere, not only below 1 MiB (PVH Linux).
    XENFEAT_LINUX_RSDP_UNRESTRICTED("XENFEAT_linux_rsdp_unrestricted"): u32 = 15;
    /// Guest frames differ from machine frames. Older versions set neither this nor the next.
    XENFEAT_NOT_DIRECT_MAPPED("XENFEAT_not_direct_mapped"): u32 = 16;
    /// Guest frames equal machine frames.
    XENFEAT_DIRECT_MAPPED("XENFEAT_direct_mapped"): u32 = 17;
    /// How many groups of 32 there are.
    XENFEAT_NR_SUBMAPS: u32 = 1;
}

/// The names of the features that a kernel may write in its text note, with their bit numbers.
pub const NAMES: &[(&str, u32)] = &[
    ("writable_page_tables", XENFEAT_WRITABLE_PAGE_TABLES),
    ("writable_descriptor_tables", XENFEAT_WRITABLE_DESCRIPTOR_TABLES),
    ("auto_translated_physmap", XENFEAT_AUTO_TRANSLATED_PHYSMAP),
    ("supervisor_mode_kernel", XENFEAT_SUPERVISOR_MODE_KERNEL),
    ("pae_pgdir_above_4gb", XENFEAT_PAE_PGDIR_ABOVE_4GB),
    ("mmu_pt_update_preserve_ad", XENFEAT_MMU_PT_UPDATE_PRESERVE_AD),
    ("highmem_assist", XENFEAT_HIGHMEM_ASSIST),
    ("gnttab_map_avail_bits", XENFEAT_GNTTAB_MAP_AVAIL_BITS),
    ("hvm_callback_vector", XENFEAT_HVM_CALLBACK_VECTOR),
    ("hvm_safe_pvclock", XENFEAT_HVM_SAFE_PVCLOCK),
    ("hvm_pirqs", XENFEAT_HVM_PIRQS),
    ("dom0", XENFEAT_DOM0),
    ("grant_map_identity", XENFEAT_GRANT_MAP_IDENTITY),
    ("memory_op_vnode_supported", XENFEAT_MEMORY_OP_VNODE_SUPPORTED),
    ("ARM_SMCCC_supported", XENFEAT_ARM_SMCCC_SUPPORTED),
    ("linux_rsdp_unrestricted", XENFEAT_LINUX_RSDP_UNRESTRICTED),
    ("not_direct_mapped", XENFEAT_NOT_DIRECT_MAPPED),
    ("direct_mapped", XENFEAT_DIRECT_MAPPED),
];

abi_module! { "features.h": consts }
