//! Constants of the 64-bit PV machine: selectors, the hypervisor's address range, flags.

consts! {
    /// 32-bit user code segment, in the hypervisor's part of every GDT.
    FLAT_RING3_CS32: u16 = 0xe023;
    /// 64-bit code segment of ring 3: kernel and user share it.
    FLAT_RING3_CS64: u16 = 0xe033;
    /// 32-bit data segment.
    FLAT_RING3_DS32: u16 = 0xe02b;
    /// The null selector.
    FLAT_RING3_DS64: u16 = 0x0000;
    /// 32-bit stack segment.
    FLAT_RING3_SS32: u16 = 0xe02b;
    /// 64-bit stack segment.
    FLAT_RING3_SS64: u16 = 0xe02b;
    /// The kernel's 64-bit code segment.
    FLAT_KERNEL_CS64: u16 = FLAT_RING3_CS64;
    /// The kernel's 32-bit code segment.
    FLAT_KERNEL_CS32: u16 = FLAT_RING3_CS32;
    /// The kernel's code segment.
    FLAT_KERNEL_CS: u16 = FLAT_RING3_CS64;
    /// The kernel's 64-bit data segment.
    FLAT_KERNEL_DS64: u16 = FLAT_RING3_DS64;
    /// The kernel's 32-bit data segment.
    FLAT_KERNEL_DS32: u16 = FLAT_RING3_DS32;
    /// The kernel's data segment.
    FLAT_KERNEL_DS: u16 = FLAT_RING3_DS64;
    /// The kernel's 64-bit stack segment.
    FLAT_KERNEL_SS64: u16 = FLAT_RING3_SS64;
    /// The kernel's 32-bit stack segment.
    FLAT_KERNEL_SS32: u16 = FLAT_RING3_SS32;
    /// The kernel's stack segment.
    FLAT_KERNEL_SS: u16 = FLAT_RING3_SS64;
    /// 64-bit user code.
    FLAT_USER_CS64: u16 = FLAT_RING3_CS64;
    /// 32-bit user code.
    FLAT_USER_CS32: u16 = FLAT_RING3_CS32;
    /// User code.
    FLAT_USER_CS: u16 = FLAT_RING3_CS64;
    /// 64-bit user data.
    FLAT_USER_DS64: u16 = FLAT_RING3_DS64;
    /// 32-bit user data.
    FLAT_USER_DS32: u16 = FLAT_RING3_DS32;
    /// User data.
    FLAT_USER_DS: u16 = FLAT_RING3_DS64;
    /// 64-bit user stack.
    FLAT_USER_SS64: u16 = FLAT_RING3_SS64;
    /// 32-bit user stack.
    FLAT_USER_SS32: u16 = FLAT_RING3_SS32;
    /// User stack.
    FLAT_USER_SS: u16 = FLAT_RING3_SS64;

    /// First page of the GDT that belongs to the hypervisor.
    FIRST_RESERVED_GDT_PAGE: usize = 14;
    /// The same in bytes.
    FIRST_RESERVED_GDT_BYTE: usize = FIRST_RESERVED_GDT_PAGE * 4096;
    /// The same in entries: the most that a guest's GDT can have.
    FIRST_RESERVED_GDT_ENTRY: usize = FIRST_RESERVED_GDT_BYTE / 8;

    /// First address that belongs to the hypervisor in every address space (level-4 slot 256).
    HYPERVISOR_VIRT_START: u64 = 0xffff_8000_0000_0000;
    /// First address above them (slot 272).
    HYPERVISOR_VIRT_END: u64 = 0xffff_8800_0000_0000;
    /// Where the machine-to-physical table is mapped, read-only: one `u64` a machine frame.
    MACH2PHYS_VIRT_START: u64 = 0xffff_8000_0000_0000;
    /// End of the range that it may fill.
    MACH2PHYS_VIRT_END: u64 = 0xffff_8040_0000_0000;
    /// How many entries fit there.
    MACH2PHYS_NR_ENTRIES: u64 = (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) >> 3;

    /// `set_segment_base`: the FS base.
    SEGBASE_FS: u32 = 0;
    /// `set_segment_base`: the user's GS base (inactive while the kernel runs).
    SEGBASE_GS_USER: u32 = 1;
    /// `set_segment_base`: the kernel's GS base (active while the kernel runs).
    SEGBASE_GS_KERNEL: u32 = 2;
    /// `set_segment_base`: the user's GS selector, in bits 15:0 of the base.
    SEGBASE_GS_USER_SEL: u32 = 3;

    /// vCPUs that have a record in the shared page.
    XEN_LEGACY_MAX_VCPUS: usize = 32;

    /// Flag of an `iret` frame: the guest entered by SYSCALL, so RCX and R11 are dead.
    VGCF_IN_SYSCALL: u64 = 1 << 8;
    /// Context flag: `fpu_ctxt` is valid.
    VGCF_I387_VALID: u64 = 1 << 0;
    /// Context flag: the vCPU is in kernel mode.
    VGCF_IN_KERNEL: u64 = 1 << 2;
    /// Context flag: the failsafe callback masks events.
    VGCF_FAILSAFE_DISABLES_EVENTS("VGCF_failsafe_disables_events"): u64 = 1 << 3;
    /// Context flag: the syscall callback masks events.
    VGCF_SYSCALL_DISABLES_EVENTS("VGCF_syscall_disables_events"): u64 = 1 << 4;
    /// Context flag: the vCPU is up.
    VGCF_ONLINE("VGCF_online"): u64 = 1 << 5;

    /// An emulated local APIC (`xen_arch_domainconfig`).
    XEN_X86_EMU_LAPIC: u32 = 1 << 0;
    /// An emulated HPET.
    XEN_X86_EMU_HPET: u32 = 1 << 1;
    /// The emulated ACPI power-management block.
    XEN_X86_EMU_PM: u32 = 1 << 2;
    /// An emulated real-time clock.
    XEN_X86_EMU_RTC: u32 = 1 << 3;
    /// An emulated I/O APIC.
    XEN_X86_EMU_IOAPIC: u32 = 1 << 4;
    /// The emulated pair of 8259s.
    XEN_X86_EMU_PIC: u32 = 1 << 5;
    /// Standard VGA.
    XEN_X86_EMU_VGA: u32 = 1 << 6;
    /// An emulated IOMMU.
    XEN_X86_EMU_IOMMU: u32 = 1 << 7;
    /// The emulated 8254.
    XEN_X86_EMU_PIT: u32 = 1 << 8;
    /// Event channels may take the place of emulated interrupt lines.
    XEN_X86_EMU_USE_PIRQ: u32 = 1 << 9;
    /// Virtual PCI in the hypervisor.
    XEN_X86_EMU_VPCI: u32 = 1 << 10;
    /// All of them.
    XEN_X86_EMU_ALL: u32 = 0x7ff;
    /// Unknown MSRs read as zero and ignore writes instead of raising #GP.
    XEN_X86_MSR_RELAXED: u32 = 1 << 0;
    /// The highest bit of `misc_flags`.
    XEN_X86_MISC_FLAGS_MAX: u32 = XEN_X86_MSR_RELAXED;

    /// A CPUID leaf without subleaves (`xen_cpuid_leaf`).
    XEN_CPUID_NO_SUBLEAF: u32 = 0xffff_ffff;
    /// I/O port whose bytes go to the hypervisor's log.
    XEN_HVM_DEBUGCONS_IOPORT: u16 = 0xe9;
}

/// The bytes before a CPUID instruction that ask the hypervisor to emulate it: `ud2` and the letters `xen`.
pub const XEN_EMULATE_PREFIX: [u8; 5] = [0x0f, 0x0b, 0x78, 0x65, 0x6e];

abi_module! { "xen.h": consts }
