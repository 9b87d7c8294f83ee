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

// rdi = destination, rsi = source, rdx = bytes. Answers rax = 0, or 1 after a fault. Eight bytes at a time, then the rest;
// `rep` only where there is enough for it to start up.
global_asm!(
    ".section .text",
    ".balign 16",
    ".globl guest_copy",
    ".type guest_copy, @function",
    "guest_copy:",
    "cmp byte ptr [rip + {smap}], 0",
    "je 2f",
    "stac",
    "2: mov rcx, rdx",
    "shr rcx, 3",
    "cmp rcx, 4",
    "jb 10f",
    "3: rep movsq",
    "4: test dl, 4",
    "je 13f",
    "mov eax, [rsi]",
    "mov [rdi], eax",
    "add rsi, 4",
    "add rdi, 4",
    "13: test dl, 2",
    "je 14f",
    "movzx eax, word ptr [rsi]",
    "mov [rdi], ax",
    "add rsi, 2",
    "add rdi, 2",
    "14: test dl, 1",
    "je 6f",
    "mov al, [rsi]",
    "mov [rdi], al",
    "6: xor eax, eax",
    "7: cmp byte ptr [rip + {smap}], 0",
    "je 8f",
    "clac",
    "8: ret",
    "9: mov eax, 1",
    "jmp 7b",
    "10: jrcxz 4b",
    "11: mov rax, [rsi]",
    "mov [rdi], rax",
    "add rsi, 8",
    "add rdi, 8",
    "dec ecx",
    "jne 11b",
    "12: jmp 4b",
    ".size guest_copy, . - guest_copy",
    ".pushsection .fixup_table, \"a\"",
    ".quad 3b, 6b, 9b",
    ".quad 11b, 12b, 9b",
    ".popsection",
    smap = sym SMAP,
);

/// 1 when CR4.SMAP is set, so that copies must open and close the gate.
pub static SMAP: AtomicU8 = AtomicU8::new(0);

unsafe extern "sysv64" {
    fn guest_copy(dst: *mut u8, src: *const u8, len: usize) -> u64;
}

/// One access to guest memory without a call, which answers whether it faulted: the instruction has the
/// guest's address as `{at}` and the value as `{value}`.
macro_rules! access {
    ($access:literal, $at:expr, $($value:tt)*) => {{
        let fault: u32;
        asm!(
            "xor {fault:e}, {fault:e}",
            "cmp byte ptr [rip + {smap}], 0",
            "jne 5f",
            concat!("2: ", $access),
            "3:",
            ".pushsection .text.fixup, \"ax\"",
            "4: mov {fault:e}, 1",
            "jmp 3b",
            "5: stac",
            concat!("6: ", $access),
            "7: clac",
            "jmp 3b",
            "8: clac",
            "jmp 4b",
            ".popsection",
            ".pushsection .fixup_table, \"a\"",
            ".quad 2b, 3b, 4b",
            ".quad 6b, 7b, 8b",
            ".popsection",
            smap = sym SMAP,
            at = in(reg) $at,
            fault = out(reg) fault,
            $($value)*,
            options(nostack),
        );
        if fault == 0 { Ok(()) } else { Err(GuestFault) }
    }};
}

#[inline(always)]
fn load32(at: GuestVirt) -> Result<u32, GuestFault> {
    let value: u32;
    // SAFETY: the caller checked that the address is none of the hypervisor's; a fault is an answer.
    unsafe { access!("mov {value:e}, [{at}]", at.0, value = out(reg) value) }?;
    Ok(value)
}

#[inline(always)]
fn load64(at: GuestVirt) -> Result<u64, GuestFault> {
    let value: u64;
    // SAFETY: as for `load32`.
    unsafe { access!("mov {value}, [{at}]", at.0, value = out(reg) value) }?;
    Ok(value)
}

#[inline(always)]
fn store16(at: GuestVirt, value: u16) -> Result<(), GuestFault> {
    // SAFETY: as for `load32`; CR0.WP keeps read-only pages read-only.
    unsafe { access!("mov [{at}], {value:x}", at.0, value = in(reg) value) }
}

#[inline(always)]
fn store32(at: GuestVirt, value: u32) -> Result<(), GuestFault> {
    // SAFETY: as for `store16`.
    unsafe { access!("mov [{at}], {value:e}", at.0, value = in(reg) value) }
}

#[inline(always)]
fn store64(at: GuestVirt, value: u64) -> Result<(), GuestFault> {
    // SAFETY: as for `store16`.
    unsafe { access!("mov [{at}], {value}", at.0, value = in(reg) value) }
}

/// Copies `dst.len()` bytes from the running guest.
#[inline]
pub fn copy_from_guest(dst: &mut [u8], src: GuestVirt) -> Result<(), GuestFault> {
    if !guest_range_ok(src.0, dst.len()) {
        return Err(GuestFault);
    }
    // The length is known when this is inlined: numbers need no loop.
    if let Ok(word) = <&mut [u8; 4]>::try_from(&mut *dst) {
        *word = load32(src)?.to_le_bytes();
        return Ok(());
    }
    if let Ok(word) = <&mut [u8; 8]>::try_from(&mut *dst) {
        *word = load64(src)?.to_le_bytes();
        return Ok(());
    }
    // SAFETY: `dst` is ours; the guest's side may fault, which the fixup turns into an answer.
    match unsafe { guest_copy(dst.as_mut_ptr(), src.0 as *const u8, dst.len()) } {
        0 => Ok(()),
        _ => Err(GuestFault),
    }
}

/// Copies to the running guest.
#[inline]
pub fn copy_to_guest(dst: GuestVirt, src: &[u8]) -> Result<(), GuestFault> {
    if !guest_range_ok(dst.0, src.len()) {
        return Err(GuestFault);
    }
    match *src {
        [a, b] => return store16(dst, u16::from_le_bytes([a, b])),
        [a, b, c, d] => return store32(dst, u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => return store64(dst, u64::from_le_bytes([a, b, c, d, e, f, g, h])),
        _ => {}
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
