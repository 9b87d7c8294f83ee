//! Model-specific registers, with and without the risk of a fault.

use core::arch::{asm, global_asm};

use hypervisor_core::hypercall::memory_types::MemoryTypes;

/// IA32_APIC_BASE.
pub const APIC_BASE: u32 = 0x1b;
/// MSR_PLATFORM_INFO.
pub const PLATFORM_INFO: u32 = 0xce;
/// MSR_MISC_FEATURES_ENABLES.
pub const MISC_FEATURES_ENABLES: u32 = 0x140;
/// IA32_SYSENTER_CS.
pub const SYSENTER_CS: u32 = 0x174;
/// IA32_SYSENTER_ESP.
pub const SYSENTER_ESP: u32 = 0x175;
/// IA32_SYSENTER_EIP.
pub const SYSENTER_EIP: u32 = 0x176;
/// IA32_PAT.
pub const PAT: u32 = 0x277;
/// IA32_TSC_DEADLINE.
pub const TSC_DEADLINE: u32 = 0x6e0;
/// IA32_EFER.
pub const EFER: u32 = 0xc000_0080;
/// IA32_STAR.
pub const STAR: u32 = 0xc000_0081;
/// IA32_LSTAR.
pub const LSTAR: u32 = 0xc000_0082;
/// IA32_CSTAR.
pub const CSTAR: u32 = 0xc000_0083;
/// IA32_FMASK.
pub const FMASK: u32 = 0xc000_0084;
/// IA32_FS_BASE.
pub const FS_BASE: u32 = 0xc000_0100;
/// IA32_GS_BASE.
pub const GS_BASE: u32 = 0xc000_0101;
/// IA32_KERNEL_GS_BASE.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// IA32_TSC_AUX.
pub const TSC_AUX: u32 = 0xc000_0103;

/// IA32_MTRRCAP: the number of variable ranges in its lowest byte.
const MTRR_CAP: u32 = 0xfe;
/// IA32_MTRR_PHYSBASE0; each base is followed by its mask.
const MTRR_PHYSBASE: u32 = 0x200;

/// The variable-range MTRRs, where this CPU has any.
pub fn memory_types(address_bits: u8) -> MemoryTypes {
    let there = super::cpuid().get_feature_info().is_some_and(|info| info.has_mtrr());
    let count = if there { read(MTRR_CAP) as u8 } else { 0 };
    let pair = |n: u8| (read(MTRR_PHYSBASE + 2 * u32::from(n)), read(MTRR_PHYSBASE + 2 * u32::from(n) + 1));
    MemoryTypes { registers: (0..count).map(pair).collect(), address_bits: address_bits.into() }
}

/// Reads a register that is known to exist.
pub fn read(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading an existing register has no effect.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a register that is known to exist.
///
/// # Safety
/// The value must keep the hypervisor running.
pub unsafe fn write(msr: u32, value: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
    }
}

// edi = register, rsi = where the value goes. Answers 0, or 1 after #GP.
global_asm!(
    ".section .text",
    ".type rdmsr_or_fault, @function",
    "rdmsr_or_fault:",
    "mov ecx, edi",
    "2: rdmsr",
    "3: shl rdx, 32",
    "or rax, rdx",
    "mov [rsi], rax",
    "xor eax, eax",
    "ret",
    "4: mov eax, 1",
    "ret",
    ".size rdmsr_or_fault, . - rdmsr_or_fault",
    ".pushsection .fixup_table, \"a\"",
    ".quad 2b, 3b, 4b",
    ".popsection",
);

unsafe extern "sysv64" {
    fn rdmsr_or_fault(msr: u32, value: *mut u64) -> u64;
}

/// Reads a register that may not exist.
pub fn try_read(msr: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: reading a register has no effect on the hypervisor; a fault is fixed up.
    (unsafe { rdmsr_or_fault(msr, &mut value) } == 0).then_some(value)
}
