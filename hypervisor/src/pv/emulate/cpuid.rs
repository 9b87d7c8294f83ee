//! CPUID as PV guests see it: the CPU's own, less what a guest in ring 3 without real page tables, APIC and machine
//! checks cannot use, plus the hypervisor's leaves (arch-x86/cpuid.h).
//!
//! A guest asks by the forced-emulation prefix (`ud2; "xen"; cpuid`, arch-x86/xen.h). Plain `cpuid` reaches the CPU unless it can
//! be made to fault.

use crate::dev::clock;
use crate::mm::uaccess::copy_from_guest;
use crate::pv::Guest;
use core::arch::x86_64::{__cpuid_count, CpuidResult};
use hypervisor_core::ids::GuestVirt;
use hypervisor_core::regs::Regs;
use xen_abi::cpuid::{
    XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD, XEN_CPUID_FIRST_LEAF, XEN_CPUID_MAX_NUM_LEAVES,
    XEN_CPUID_SIGNATURE_EBX, XEN_CPUID_SIGNATURE_ECX, XEN_CPUID_SIGNATURE_EDX,
};

/// `ud2; .ascii "xen"; cpuid`.
const FORCED: [u8; 7] = [0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2];
const HYPERVISOR_MSRS: u32 = 0x4000_0000;
const LEAF1_ECX_OSXSAVE: u32 = 1 << 27;
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;

/// Bits of a register that guests keep: a list of bit numbers as a mask.
const fn bits(list: &[u32]) -> u32 {
    let mut mask = 0;
    let mut n = 0;
    while n < list.len() {
        mask |= 1 << list[n];
        n += 1;
    }
    mask
}

/// Leaf 1 ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C, RDRAND.
const LEAF1_ECX: u32 = bits(&[0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
/// Leaf 1 EDX: FPU, DE, TSC, MSR, PAE, CX8, APIC, SEP, CMOV, PAT, CLFLUSH, ACPI, MMX, FXSR, SSE, SSE2, SS. The APIC's bit
/// makes a kernel use ACPI's interrupt routing, although the registers are not there.
const LEAF1_EDX: u32 = bits(&[0, 2, 4, 5, 6, 8, 9, 11, 15, 16, 19, 22, 23, 24, 25, 26, 27]);
/// Leaf 7 EBX: FSGSBASE, BMI1, AVX2, BMI2, ERMS, AVX-512 F and DQ, RDSEED, ADX, AVX-512 IFMA, CLFLUSHOPT, CLWB, AVX-512 CD,
/// SHA, AVX-512 BW and VL. Not SMEP, SMAP, INVPCID, HLE, RTM, MPX: they need rings or registers that a guest has not.
const LEAF7_EBX: u32 = bits(&[0, 3, 5, 8, 9, 16, 17, 18, 19, 21, 23, 24, 28, 29, 30, 31]);
/// Leaf 7 ECX: PREFETCHWT1, AVX-512 VBMI, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, RDPID, CLDEMOTE.
const LEAF7_ECX: u32 = bits(&[0, 1, 6, 8, 9, 10, 11, 12, 14, 22, 25]);
/// Leaf 7 EDX: FSRM, MD_CLEAR, SERIALIZE, AVX-512 FP16.
const LEAF7_EDX: u32 = bits(&[4, 10, 14, 23]);
/// Leaf 80000001h ECX: LAHF, CMP_LEGACY, LZCNT, SSE4A, misaligned SSE, PREFETCHW, XOP, FMA4, TBM.
const EXT1_ECX: u32 = bits(&[0, 1, 5, 6, 7, 8, 11, 16, 21]);
/// Leaf 80000001h EDX: those of leaf 1 that AMD repeats, SYSCALL, NX, MMX extensions, RDTSCP, long mode, 3DNow.
const EXT1_EDX: u32 = bits(&[0, 2, 4, 5, 6, 8, 11, 15, 16, 20, 22, 23, 24, 27, 29, 30, 31]);

/// `cpuid`.
pub fn emulate(guest: &Guest<'_>, regs: &mut Regs) {
    let result = leaf(guest, (regs.rax & 0xffff_ffff) as u32, (regs.rcx & 0xffff_ffff) as u32);
    regs.rax = u64::from(result.eax);
    regs.rbx = u64::from(result.ebx);
    regs.rcx = u64::from(result.ecx);
    regs.rdx = u64::from(result.edx);
}

/// #UD: answers whether it was the forced-emulation prefix and a `cpuid`, and done.
pub fn forced(regs: &mut Regs, guest: &Guest<'_>) -> bool {
    let mut code = [0u8; FORCED.len()];
    if copy_from_guest(&mut code, GuestVirt(regs.rip)).is_err() || code != FORCED {
        return false;
    }
    emulate(guest, regs);
    regs.rip = regs.rip.wrapping_add(FORCED.len() as u64);
    true
}

fn words(eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidResult {
    CpuidResult { eax, ebx, ecx, edx }
}

fn leaf(guest: &Guest<'_>, number: u32, sub: u32) -> CpuidResult {
    let native = __cpuid_count(number, sub);
    let none = words(0, 0, 0, 0);
    match number {
        XEN_CPUID_FIRST_LEAF..=0x4000_00ff => hypervisor(guest, number - XEN_CPUID_FIRST_LEAF, sub),
        0x4000_0100..=0x4fff_ffff => none,
        1 => {
            // The hypervisor sets CR4.OSXSAVE for all guests, and kernels take its absence for an XSAVE that is disabled.
            let osxsave = if crate::cpu::features().xsave { LEAF1_ECX_OSXSAVE } else { 0 };
            let apic_id = guest.vcpu.id.0 * 2;
            words(
                native.eax,
                native.ebx & 0x0000_ffff | 1 << 16 | apic_id << 24,
                native.ecx & LEAF1_ECX | LEAF1_ECX_HYPERVISOR | osxsave,
                native.edx & LEAF1_EDX,
            )
        }
        // MONITOR, thermal and power, performance monitoring, topology, RDT, SGX, PT: of the machine, not of a guest.
        5 | 6 | 0xa | 0xb | 0xf | 0x10 | 0x12 | 0x14 | 0x1f => none,
        7 if sub == 0 => words(0, native.ebx & LEAF7_EBX, native.ecx & LEAF7_ECX, native.edx & LEAF7_EDX),
        7 => none,
        0xd => xsave(sub, native),
        0x8000_0001 => words(native.eax, native.ebx, native.ecx & EXT1_ECX, native.edx & EXT1_EDX),
        // Invariant TSC only: guests get time from the hypervisor's clock, which relies on it.
        0x8000_0007 => words(0, 0, 0, native.edx & 1 << 8),
        // Address widths and the number of cores; SVM and encryption are not a guest's.
        0x8000_0008 => words(native.eax & 0xffff, 0, 0, 0),
        0x8000_000a | 0x8000_001b..=0x8000_001f => none,
        _ => native,
    }
}

fn xsave(sub: u32, native: CpuidResult) -> CpuidResult {
    let supported = crate::cpu::fpu::supported_xcr0();
    match sub {
        0 => {
            let size = native.ecx;
            words(supported as u32, native.ebx, size, (supported >> 32) as u32)
        }
        // XSAVEOPT, XSAVEC, XGETBV with ECX 1; XSAVES is for kernels that own IA32_XSS.
        1 => words(native.eax & 7, 0, 0, 0),
        2..=62 if supported >> sub & 1 != 0 => words(native.eax, native.ebx, native.ecx & !1, 0),
        _ => words(0, 0, 0, 0),
    }
}

/// The hypervisor's own leaves.
fn hypervisor(guest: &Guest<'_>, index: u32, sub: u32) -> CpuidResult {
    const VERSION: u32 = 4 << 16 | 17;
    const TSC_IS_RELIABLE: u32 = 1 << 1;
    const TSC_RDTSCP: u32 = 1 << 2;
    match (index, sub) {
        (0, _) => words(
            XEN_CPUID_FIRST_LEAF + XEN_CPUID_MAX_NUM_LEAVES,
            XEN_CPUID_SIGNATURE_EBX,
            XEN_CPUID_SIGNATURE_ECX,
            XEN_CPUID_SIGNATURE_EDX,
        ),
        (1, _) => words(VERSION, 0, 0, 0),
        (2, _) => words(1, HYPERVISOR_MSRS, XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD, 0),
        (3, 0) => {
            let rdtscp = if crate::cpu::features().rdtscp { TSC_RDTSCP } else { 0 };
            words(TSC_IS_RELIABLE | rdtscp, 0, u32::try_from(clock::tsc_khz()).unwrap_or(u32::MAX), 1)
        }
        (3, 1) => {
            let record = clock::record();
            let offset = clock::boot_tsc().wrapping_neg();
            words(offset as u32, (offset >> 32) as u32, record.tsc_to_system_mul, record.tsc_shift as u32)
        }
        (3, 2) => words(u32::try_from(clock::tsc_khz()).unwrap_or(u32::MAX), 0, 0, 0),
        (5, 0) => words(0, machine_address_bits(guest), 0, 0),
        _ => words(0, 0, 0, 0),
    }
}

/// Bits of the highest machine address there is.
fn machine_address_bits(guest: &Guest<'_>) -> u32 {
    use hypervisor_core::platform::Platform;
    let frames = guest.hv.platform.frame_table().len() as u64;
    64 - ((frames << 12) - 1).leading_zeros()
}
