//! Copies between the hypervisor and the running guest, through the guest's own page tables.
//!
//! A guest address is an allegation: the range is checked to be canonical and outside the hypervisor's part, and a fault on the way
//! is caught by the fixup table (`trap::fixup`), which resumes at the end of the copy with a non-zero answer. Nothing is
//! ever referenced in place.

use super::layout::guest_range_ok;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU8, Ordering};
use hypervisor_core::ids::GuestVirt;
use hypervisor_core::platform::GuestFault;

// rdi = destination, rsi = source, rdx = bytes. Answers rax = 0, or 1 after a fault. Eight bytes at a time, then the rest.
global_asm!(
    ".section .text",
    ".balign 16",
    ".type guest_copy, @function",
    "guest_copy:",
    "cmp byte ptr [rip + {smap}], 0",
    "je 2f",
    "stac",
    "2: mov ecx, edx",
    "shr rdx, 3",
    "je 4f",
    "3: mov rax, [rsi]",
    "add rsi, 8",
    "mov [rdi], rax",
    "add rdi, 8",
    "dec rdx",
    "jne 3b",
    "4: and ecx, 7",
    "je 6f",
    "5: movzx eax, byte ptr [rsi]",
    "inc rsi",
    "mov [rdi], al",
    "inc rdi",
    "dec ecx",
    "jne 5b",
    "6: xor eax, eax",
    "7: cmp byte ptr [rip + {smap}], 0",
    "je 8f",
    "clac",
    "8: ret",
    "9: mov eax, 1",
    "jmp 7b",
    ".size guest_copy, . - guest_copy",
    ".pushsection .fixup_table, \"a\"",
    ".quad 3b, 6b, 9b",
    ".popsection",
    smap = sym SMAP,
);

/// 1 when CR4.SMAP is set, so that copies must open and close the gate.
pub static SMAP: AtomicU8 = AtomicU8::new(0);

unsafe extern "sysv64" {
    fn guest_copy(dst: *mut u8, src: *const u8, len: usize) -> u64;
}

/// Copies `dst.len()` bytes from the running guest.
pub fn copy_from_guest(dst: &mut [u8], src: GuestVirt) -> Result<(), GuestFault> {
    if !guest_range_ok(src.0, dst.len()) {
        return Err(GuestFault);
    }
    // SAFETY: `dst` is ours; the guest's side may fault, which the fixup turns into an answer.
    match unsafe { guest_copy(dst.as_mut_ptr(), src.0 as *const u8, dst.len()) } {
        0 => Ok(()),
        _ => Err(GuestFault),
    }
}

/// Copies to the running guest.
pub fn copy_to_guest(dst: GuestVirt, src: &[u8]) -> Result<(), GuestFault> {
    if !guest_range_ok(dst.0, src.len()) {
        return Err(GuestFault);
    }
    // SAFETY: the range is outside of all hypervisor memory, and CR0.WP keeps read-only pages read-only.
    match unsafe { guest_copy(dst.0 as *mut u8, src.as_ptr(), src.len()) } {
        0 => Ok(()),
        _ => Err(GuestFault),
    }
}

/// Closes the gate that the guest's own AC flag left open: exceptions and interrupts, unlike `syscall`, keep that flag.
#[inline(always)]
pub fn close_gate() {
    if SMAP.load(Ordering::Relaxed) != 0 {
        // SAFETY: CR4.SMAP is set, so the CPU has the instruction; it changes nothing but AC.
        unsafe { asm!("clac", options(nomem, nostack)) };
    }
}

/// Lets this CPU's supervisor code touch user pages only inside [`guest_copy`].
///
/// # Safety
/// The CPU has SMAP.
pub unsafe fn enable_smap() {
    SMAP.store(1, Ordering::Relaxed);
    // SAFETY: sets CR4.SMAP, as the caller promises possible.
    unsafe {
        asm!("mov {0}, cr4", "or {0}, 0x200000", "mov cr4, {0}", "clac", out(reg) _, options(nostack));
    }
}
