//! CPUID: what is the hypervisor's own of it (arch-x86/cpuid.h), and how guests ask. What they see of the CPU decides
//! `core::cpu_policy::cpuid`.
//!
//! A guest asks by the forced-emulation prefix (`ud2; "xen"; cpuid`, arch-x86/xen.h). Plain `cpuid` reaches the CPU unless it can
//! be made to fault.

use super::port_io::first_fault;
use super::{Emulated, instruction_at, step_over};
use crate::cpu::descriptors::GUEST_CS64;
use crate::cpu::native_cpuid;
use crate::dev::clock;
use crate::mm::uaccess::copy_from_guest;
use crate::pv::Guest;
use core::sync::atomic::Ordering;
use hypervisor_core::cpu_policy::cpuid::{Host, Leaf, Viewer, leaf};
use hypervisor_core::ids::GuestVirt;
use hypervisor_core::regs::Regs;
use spin::Once;
use xen_abi::arch_x86::XEN_EMULATE_PREFIX;
use xen_abi::cpuid::{
    XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD, XEN_CPUID_FIRST_LEAF, XEN_CPUID_MAX_NUM_LEAVES,
    XEN_CPUID_SIGNATURE_EBX, XEN_CPUID_SIGNATURE_ECX, XEN_CPUID_SIGNATURE_EDX,
};

static HOST: Once<Host> = Once::new();

const CPUID: [u8; 2] = [0x0f, 0xa2];
/// Prefix and instruction as one number, and the bytes of it that they are.
const FORCED: u64 = {
    let [a, b, c, d, e] = XEN_EMULATE_PREFIX;
    u64::from_le_bytes([a, b, c, d, e, CPUID[0], CPUID[1], 0])
};
const FORCED_BYTES: u64 = u64::MAX >> 8;
const HYPERVISOR_MSRS: u32 = 0x4000_0000;
const LAST_HYPERVISOR_LEAF: u32 = 0x4000_01ff;
const GENERAL_PROTECTION: u8 = 13;

/// `cpuid` that faulted because the hypervisor made it so. For user code it stays a fault where its kernel wants that.
pub fn faulted(guest: &Guest<'_>, regs: &mut Regs, length: u64) -> Emulated {
    if wants_fault(guest) {
        return Emulated::No;
    }
    answer(guest, regs, false);
    step_over(regs, length);
    Emulated::Done
}

/// #UD: whether it was the forced-emulation prefix and a `cpuid`. Bytes that cannot be read are a page fault, whatever
/// instruction they are.
pub fn forced(regs: &mut Regs, guest: &Guest<'_>) -> Emulated {
    // In flat 64-bit code, as kernels are, `rip` is the address.
    let flat = regs.cs == u64::from(GUEST_CS64);
    if flat && is_forced_within_page(GuestVirt(regs.rip)) && !wants_fault(guest) {
        answer(guest, regs, true);
        step_over(regs, (XEN_EMULATE_PREFIX.len() + CPUID.len()) as u64);
        return Emulated::Done;
    }
    forced_slowly(regs, guest)
}

/// All cases of [`forced`].
#[cold]
#[inline(never)]
fn forced_slowly(regs: &mut Regs, guest: &Guest<'_>) -> Emulated {
    let Some(at) = instruction_at(regs) else { return Emulated::No };
    let mut prefix = XEN_EMULATE_PREFIX;
    if copy_from_guest(&mut prefix, at).is_err() {
        return Emulated::PageFault(first_fault(at, prefix.len(), false), 0);
    }
    if prefix != XEN_EMULATE_PREFIX {
        return Emulated::No;
    }
    let (mut code, at) = (CPUID, at.add(prefix.len() as u64));
    if copy_from_guest(&mut code, at).is_err() {
        return Emulated::PageFault(first_fault(at, code.len(), false), 0);
    }
    if code != CPUID {
        return Emulated::No;
    }
    if wants_fault(guest) {
        regs.rip = regs.rip.wrapping_add(prefix.len() as u64);
        return Emulated::Exception(GENERAL_PROTECTION, Some(0));
    }
    answer(guest, regs, true);
    step_over(regs, (prefix.len() + code.len()) as u64);
    Emulated::Done
}

/// The usual case, by one load: all bytes are there, and more of the same page behind them.
fn is_forced_within_page(at: GuestVirt) -> bool {
    let mut bytes = [0; 8];
    at.0 & 0xfff <= 0xff8
        && copy_from_guest(&mut bytes, at).is_ok()
        && u64::from_le_bytes(bytes) & FORCED_BYTES == FORCED
}

/// The guest's kernel asked for faults in its user code (MSR_MISC_FEATURES_ENABLES).
fn wants_fault(guest: &Guest<'_>) -> bool {
    guest.vcpu.arch.msrs.misc_features.load(Ordering::Relaxed) & 1 != 0 && !guest.in_kernel()
}

fn answer(guest: &Guest<'_>, regs: &mut Regs, forced: bool) {
    let (number, sub) = ((regs.rax & 0xffff_ffff) as u32, (regs.rcx & 0xffff_ffff) as u32);
    let [eax, ebx, ecx, edx] = match number {
        XEN_CPUID_FIRST_LEAF..=LAST_HYPERVISOR_LEAF => hypervisor(guest, number - XEN_CPUID_FIRST_LEAF, sub),
        _ => {
            let viewer = Viewer {
                privileged: guest.domain.privileged,
                kernel: guest.in_kernel(),
                forced,
                cr4: guest.vcpu.pv.cr4.load(Ordering::Relaxed),
            };
            let host = HOST.call_once(|| Host::of(&native_cpuid));
            leaf(&native_cpuid, host, &viewer, number, sub)
        }
    };
    regs.rax = u64::from(eax);
    regs.rbx = u64::from(ebx);
    regs.rcx = u64::from(ecx);
    regs.rdx = u64::from(edx);
}

fn words(eax: u32, ebx: u32, ecx: u32, edx: u32) -> Leaf {
    [eax, ebx, ecx, edx]
}

/// The hypervisor's own leaves.
fn hypervisor(guest: &Guest<'_>, index: u32, sub: u32) -> Leaf {
    const VERSION: u32 = 4 << 16 | 17;
    const TSC_IS_RELIABLE: u32 = 1 << 1;
    const TSC_RDTSCP: u32 = 1 << 2;
    let khz = u32::try_from(clock::tsc_khz()).unwrap_or(u32::MAX);
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
            let reliable = if clock::is_stable() { TSC_IS_RELIABLE } else { 0 };
            // The control domain reads the machine's own counter, at no rate or offset of its own.
            words(reliable | rdtscp, 0, if guest.domain.privileged { 0 } else { khz }, 0)
        }
        (3, 1) if guest.domain.privileged => words(0, 0, 0, 0),
        (3, 1) => {
            let record = clock::record();
            let offset = clock::boot_tsc().wrapping_neg();
            words(offset as u32, (offset >> 32) as u32, record.tsc_to_system_mul, record.tsc_shift as u32)
        }
        (3, 2) => words(khz, 0, 0, 0),
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
