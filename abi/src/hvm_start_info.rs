//! `arch-x86/hvm/start_info.h`: what a PVH kernel finds in EBX.
//!
//! All addresses are physical; 0 is "none". The kernel is entered at its `XEN_ELFNOTE_PHYS32_ENTRY`, in 32-bit
//! protected mode without paging, with flat segments.

consts! {
    /// `xEn3` with bit 7 of the `E` set.
    XEN_HVM_START_MAGIC_VALUE: u32 = 0x336e_c578;
    /// RAM.
    XEN_HVM_MEMMAP_TYPE_RAM: u32 = 1;
    /// Do not use.
    XEN_HVM_MEMMAP_TYPE_RESERVED: u32 = 2;
    /// ACPI tables; RAM after they were read.
    XEN_HVM_MEMMAP_TYPE_ACPI: u32 = 3;
    /// ACPI memory that survives sleep.
    XEN_HVM_MEMMAP_TYPE_NVS: u32 = 4;
    /// Defective.
    XEN_HVM_MEMMAP_TYPE_UNUSABLE: u32 = 5;
    /// Disabled.
    XEN_HVM_MEMMAP_TYPE_DISABLED: u32 = 6;
    /// Persistent memory.
    XEN_HVM_MEMMAP_TYPE_PMEM: u32 = 7;
}

wire! {
    /// The record in EBX. Version 0 ends at byte 40; version 1 has the memory map.
    pub struct HvmStartInfo("struct hvm_start_info", 56) {
        /// [`XEN_HVM_START_MAGIC_VALUE`].
        @0 magic: u32,
        /// 0 or 1; later versions only add fields.
        @4 version: u32,
        /// `SIF_*`.
        @8 flags: u32,
        /// Modules in the list.
        @12 nr_modules: u32,
        /// The list, of [`HvmModlistEntry`].
        @16 modlist_paddr: u64,
        /// The command line, zero-terminated.
        @24 cmdline_paddr: u64,
        /// ACPI's root pointer.
        @32 rsdp_paddr: u64,
        /// The memory map, of [`HvmMemmapTableEntry`].
        @40 memmap_paddr: u64,
        /// Its entries.
        @48 memmap_entries: u32,
        @52 reserved("reserved"): u32,
    }

    /// One module.
    pub struct HvmModlistEntry("struct hvm_modlist_entry", 32) {
        /// Its address.
        @0 paddr: u64,
        /// Its size in bytes.
        @8 size: u64,
        /// Its command line, zero-terminated.
        @16 cmdline_paddr: u64,
        @24 reserved("reserved"): u64,
    }

    /// One range of the memory map.
    pub struct HvmMemmapTableEntry("struct hvm_memmap_table_entry", 24) {
        /// First address.
        @0 addr: u64,
        /// Bytes.
        @8 size: u64,
        /// `XEN_HVM_MEMMAP_TYPE_*`.
        @16 type_("type"): u32,
        @20 reserved("reserved"): u32,
    }
}

abi_module! { "arch-x86/hvm/start_info.h": consts, wire }
