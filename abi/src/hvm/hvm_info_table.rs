//! `hvm/hvm_info_table.h`, `hvm/e820.h` and `arch-x86/guest-acpi.h`: what the domain builder leaves in low memory for
//! the firmware of a hardware guest, and the ports of CPU hotplug.

consts! {
    /// Guest frame of the table.
    HVM_INFO_PFN: u64 = 0x9f;
    /// Byte offset of the table in that frame.
    HVM_INFO_OFFSET: u64 = 0x800;
    /// Guest-physical address of the table.
    HVM_INFO_PADDR: u64 = 0x9_f800;
    /// Guest-physical address of the page with the memory map.
    HVM_E820_PAGE: u64 = 0x9_0000;
    /// Byte offset of the number of entries in that page.
    HVM_E820_NR_OFFSET: u64 = 0x1e8;
    /// Byte offset of the entries in that page.
    HVM_E820_OFFSET: u64 = 0x2d0;
    /// Highest end of RAM below 4 GiB.
    HVM_BELOW_4G_RAM_END: u64 = 0xf000_0000;
    /// Start of the hole for devices below 4 GiB.
    HVM_BELOW_4G_MMIO_START: u64 = 0xf000_0000;
    /// Bytes of that hole.
    HVM_BELOW_4G_MMIO_LENGTH: u64 = 0x1000_0000;

    /// Most vCPUs of a hardware guest.
    HVM_MAX_VCPUS: usize = 128;

    /// First I/O port of the bitmap of online vCPUs.
    XEN_ACPI_CPU_MAP: u16 = 0xaf00;
    /// Ports of that bitmap.
    XEN_ACPI_CPU_MAP_LEN: u16 = 16;
    /// Bit of the general-purpose events that tells of a change.
    XEN_ACPI_GPE0_CPUHP_BIT: u16 = 2;
}

wire! {
    /// The table. A memory range whose field is zero does not exist.
    pub struct HvmInfoTable("struct hvm_info_table", 48) {
        /// `HVM INFO`.
        @0 signature: [u8; 8],
        /// Bytes of the table.
        @8 length: u32,
        /// Makes the sum of all bytes zero.
        @12 checksum: u8,
        /// Whether the firmware should describe APICs (0/1).
        @13 apic_mode: u8,
        @14 _pad0(): [u8; 2],
        /// Number of vCPUs.
        @16 nr_vcpus: u32,
        /// End of RAM below 4 GiB, in pages.
        @20 low_mem_pgend: u32,
        /// Start of the reserved range below 4 GiB, in pages.
        @24 reserved_mem_pgstart: u32,
        /// End of RAM above 4 GiB, in pages.
        @28 high_mem_pgend: u32,
        /// Bitmap of vCPUs that are online at the start.
        @32 vcpu_online: [u8; 16],
    }
}

abi_module! { "hvm/hvm_info_table.h", "hvm/e820.h", "arch-x86/guest-acpi.h": consts, wire }
