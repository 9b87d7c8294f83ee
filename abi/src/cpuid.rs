//! `arch-x86/cpuid.h`: the hypervisor's own CPUID leaves.
//!
//! They start at the first multiple of 0x100 from [`XEN_CPUID_FIRST_LEAF`] on that no other interface uses. A PV
//! guest reads them with the prefix [`crate::arch_x86::XEN_EMULATE_PREFIX`] before its CPUID instruction.
//!
//! | leaf | EAX | EBX, ECX, EDX |
//! |---|---|---|
//! | +0 | highest leaf | `XenVMMXenVMM` |
//! | +1 | version: major 31:16, minor 15:0 | 0 |
//! | +2 | hypercall pages (1) | first of the hypervisor's MSRs; features; 0 |
//! | +3.0 | TSC: 1 emulated, 2 host's is reliable, 4 RDTSCP | TSC mode; guest kHz; incarnation |
//! | +3.1 | TSC offset, low | high; multiplier to ns; shift |
//! | +3.2 | host kHz | 0 |
//! | +4.0 | HVM features (`XEN_HVM_CPUID_*`) | vCPU id; domain id; 0 |
//! | +5.0 | highest subleaf | PV: bits 7:0 width of machine addresses; 0; 0 |

consts! {
    /// The first leaf.
    XEN_CPUID_FIRST_LEAF: u32 = 0x4000_0000;
    /// Leaf +0, EBX: `XenV`.
    XEN_CPUID_SIGNATURE_EBX: u32 = 0x566e_6558;
    /// Leaf +0, ECX: `MMXe`.
    XEN_CPUID_SIGNATURE_ECX: u32 = 0x6558_4d4d;
    /// Leaf +0, EDX: `nVMM`.
    XEN_CPUID_SIGNATURE_EDX: u32 = 0x4d4d_566e;
    /// Leaf +2, ECX: `MMU_PT_UPDATE_PRESERVE_AD` works.
    XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD: u32 = 1 << 0;
    /// Leaf +4, EAX: APIC registers are virtualized by hardware.
    XEN_HVM_CPUID_APIC_ACCESS_VIRT: u32 = 1 << 0;
    /// Leaf +4, EAX: x2APIC registers are.
    XEN_HVM_CPUID_X2APIC_VIRT: u32 = 1 << 1;
    /// Leaf +4, EAX: memory mapped from other domains is in the IOMMU.
    XEN_HVM_CPUID_IOMMU_MAPPINGS: u32 = 1 << 2;
    /// Leaf +4, EAX: EBX is the vCPU id.
    XEN_HVM_CPUID_VCPU_ID_PRESENT: u32 = 1 << 3;
    /// Leaf +4, EAX: ECX is the domain id.
    XEN_HVM_CPUID_DOMID_PRESENT: u32 = 1 << 4;
    /// Leaf +4, EAX: interrupt destinations have 15 bits.
    XEN_HVM_CPUID_EXT_DEST_ID: u32 = 1 << 5;
    /// Leaf +4, EAX: per-vCPU upcall vectors work with physical interrupts.
    XEN_HVM_CPUID_UPCALL_VECTOR: u32 = 1 << 6;
    /// Leaf +5, EBX: width of machine addresses, hot-plugged memory included.
    XEN_CPUID_MACHINE_ADDRESS_WIDTH_MASK: u32 = 0xff;
    /// The highest leaf, counted from the first.
    XEN_CPUID_MAX_NUM_LEAVES: u32 = 5;
}

/// Leaf number `index`.
#[must_use]
pub const fn xen_cpuid_leaf(index: u32) -> u32 {
    XEN_CPUID_FIRST_LEAF + index
}

abi_module! { "arch-x86/cpuid.h": consts }
