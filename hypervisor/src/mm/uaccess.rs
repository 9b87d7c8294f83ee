//! Copies between the hypervisor and the running guest, through the guest's own page tables.
//!
//! A guest address is an allegation: the range is checked to be canonical and outside the hypervisor's part, and a fault on the way
//! is caught by the fixup table (`trap::fixup`), which resumes at the end of the copy with a non-zero answer. Nothing is
//! ever referenced in place.
//!
//! Copies are made with the hypervisor's rights, so what the CPU checks for ring 3 is to be true for other reasons. The USER bit:
//! `core::page` sets it in every entry of a guest's tables, so that a page without it is one of the hypervisor's. Those lie in the
//! hypervisor's range, which is refused, and behind linear entries of level 4, which [`LinearRoots`] refuses for domains that have
//! such entries. Writing: CR0.WP is set.
//!
//! [`LinearRoots`]: hypervisor_core::page::LinearRoots

use super::layout::guest_range_ok;
use crate::cpu::percpu::this_cpu;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU8, Ordering};
use hypervisor_core::ids::GuestVirt;
use hypervisor_core::platform::GuestFault;

// rdi = destination, rsi = source, rdx = bytes. Answers rax = 0, or 1 after a fault. `guest_read` is for a source of the guest's,
// `guest_copy` for a destination. Both look at the gate in one comparison; where it asks for more, `copy_bytes`, which does the work,
// is called with the gate open.
global_asm!(
    ".section .text",
    ".balign 16",
    ".globl guest_read",
    ".type guest_read, @function",
    "guest_read:",
    "cmp byte ptr [rip + {gate}], 0",
    "je copy_bytes",
    "test byte ptr [rip + {gate}], {linear}",
    "je guest_copy",
    "push rdi",
    "push rsi",
    "push rdx",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "call {may_read}",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "test al, al",
    "jne guest_copy",
    "mov eax, 1",
    "ret",
    ".size guest_read, . - guest_read",
    ".balign 16",
    ".globl guest_copy",
    ".type guest_copy, @function",
    "guest_copy:",
    "test byte ptr [rip + {gate}], {smap}",
    "je copy_bytes",
    "stac",
    "call copy_bytes",
    "clac",
    "ret",
    ".size guest_copy, . - guest_copy",
    // Eight bytes at a time, then the rest; `rep` only where there is enough for it to start up.
    ".balign 16",
    ".type copy_bytes, @function",
    "copy_bytes:",
    "mov rcx, rdx",
    "shr rcx, 3",
    "cmp rcx, 4",
    "jb 10f",
    "3: rep movsq",
    "4: and edx, 7",
    "jne 12f",
    "6: xor eax, eax",
    "ret",
    "9: mov eax, 1",
    "ret",
    "10: lea rsi, [rsi + rcx * 8]",
    "lea rdi, [rdi + rcx * 8]",
    "neg rcx",
    "je 4b",
    "11: mov rax, [rsi + rcx * 8]",
    "mov [rdi + rcx * 8], rax",
    "inc rcx",
    "jne 11b",
    "jmp 4b",
    "12: test dl, 4",
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
    "je 6b",
    "mov al, [rsi]",
    "mov [rdi], al",
    "15: jmp 6b",
    ".size copy_bytes, . - copy_bytes",
    ".pushsection .fixup_table, \"a\"",
    ".quad 3b, 4b, 9b",
    ".quad 11b, 15b, 9b",
    ".popsection",
    gate = sym GATE,
    smap = const GATE_SMAP,
    linear = const GATE_LINEAR,
    may_read = sym may_read,
);

/// What an access to guest memory has to do beside the access; 0 on most machines.
pub static GATE: AtomicU8 = AtomicU8::new(0);
/// CR4.SMAP is set: accesses open and close the gate.
pub const GATE_SMAP: u8 = 1;
/// A domain has linear L4 entries: reads look whose address it is.
const GATE_LINEAR: u8 = 2;

unsafe extern "sysv64" {
    fn guest_read(dst: *mut u8, src: *const u8, len: usize) -> u64;
    fn guest_copy(dst: *mut u8, src: *const u8, len: usize) -> u64;
}

/// One access to guest memory without a call: the instruction has the guest's address as `{at}` and the value as `{value}`.
/// `$first` are the instructions before it where [`GATE`] is not 0. Answers 0, 1 after a fault, or 2 where the access was not made
/// because the address has to be looked at first.
macro_rules! access {
    ($access:literal, [$($first:literal),*], $at:expr, $($value:tt)*) => {{
        let denied: u32;
        asm!(
            "xor {denied:e}, {denied:e}",
            "cmp byte ptr [rip + {gate}], 0",
            "jne 5f",
            concat!("2: ", $access),
            "3:",
            ".pushsection .text.fixup, \"ax\"",
            "4: mov {denied:e}, 1",
            "jmp 3b",
            "9: mov {denied:e}, 2",
            "jmp 3b",
            "5:",
            $($first,)*
            "stac",
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
            gate = sym GATE,
            at = in(reg) $at,
            denied = out(reg) denied,
            $($value)*,
            options(nostack),
        );
        denied
    }};
}

/// Reads may have to be checked first.
macro_rules! load {
    ($access:literal, $at:expr, $($value:tt)*) => {
        access!($access, ["test byte ptr [rip + {gate}], 2", "jne 9b"], $at, $($value)*)
    };
}

/// Writes are always open: no linear entry is writable.
macro_rules! store {
    ($access:literal, $at:expr, $($value:tt)*) => {{
        match access!($access, ["test byte ptr [rip + {gate}], 1", "je 2b"], $at, $($value)*) {
            0 => Ok(()),
            _ => Err(GuestFault),
        }
    }};
}

const _: () = assert!(GATE_SMAP == 1 && GATE_LINEAR == 2, "as `load` and `store` spell them");

#[inline(always)]
fn load32(at: GuestVirt) -> Result<u32, GuestFault> {
    let value: u32;
    // SAFETY: the caller checked that the address is none of the hypervisor's, and where linear entries may make it one, the
    // access is not made; a fault is an answer.
    match unsafe { load!("mov {value:e}, [{at}]", at.0, value = out(reg) value) } {
        0 => Ok(value),
        why => load_slowly(at, why).map(u32::from_le_bytes),
    }
}

#[inline(always)]
fn load64(at: GuestVirt) -> Result<u64, GuestFault> {
    let value: u64;
    // SAFETY: as for `load32`.
    match unsafe { load!("mov {value}, [{at}]", at.0, value = out(reg) value) } {
        0 => Ok(value),
        why => load_slowly(at, why).map(u64::from_le_bytes),
    }
}

/// A number whose address has to be looked at before, if that is `why` it is not there yet.
#[cold]
#[inline(never)]
fn load_slowly<const N: usize>(at: GuestVirt, why: u32) -> Result<[u8; N], GuestFault> {
    let mut bytes = [0; N];
    // SAFETY: the caller checked the range; `guest_read` looks at the rest.
    if why == 1 || unsafe { guest_read(bytes.as_mut_ptr(), at.0 as *const u8, N) } != 0 {
        return Err(GuestFault);
    }
    Ok(bytes)
}

#[inline(always)]
fn store16(at: GuestVirt, value: u16) -> Result<(), GuestFault> {
    // SAFETY: the caller checked that the address is none of the hypervisor's; CR0.WP keeps read-only pages read-only, and what
    // a linear entry leads to is read-only; a fault is an answer.
    unsafe { store!("mov [{at}], {value:x}", at.0, value = in(reg) value) }
}

#[inline(always)]
fn store32(at: GuestVirt, value: u32) -> Result<(), GuestFault> {
    // SAFETY: as for `store16`.
    unsafe { store!("mov [{at}], {value:e}", at.0, value = in(reg) value) }
}

#[inline(always)]
fn store64(at: GuestVirt, value: u64) -> Result<(), GuestFault> {
    // SAFETY: as for `store16`.
    unsafe { store!("mov [{at}], {value}", at.0, value = in(reg) value) }
}

/// Whether the running guest's domain may read there: see [`LinearRoots`]. Interrupts that arrive behind this look are no matter:
/// what makes entries that it does not know waits until this CPU is on its way to the guest.
extern "sysv64" fn may_read(src: u64, len: usize) -> bool {
    this_cpu().current().is_some_and(|current| current.domain.linear_roots.may_read(GuestVirt(src), len))
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
    match unsafe { guest_read(dst.as_mut_ptr(), src.0 as *const u8, dst.len()) } {
        0 => Ok(()),
        _ => Err(GuestFault),
    }
}

/// Copies two words from the running guest, without a call.
#[inline]
pub fn copy_words_from_guest(src: GuestVirt) -> Result<[u8; 16], GuestFault> {
    if !guest_range_ok(src.0, 16) {
        return Err(GuestFault);
    }
    let (low, high) = (load64(src)?, load64(GuestVirt(src.0 + 8))?);
    Ok((u128::from(low) | u128::from(high) << 64).to_le_bytes())
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

/// From now on reads look for linear entries (see [`LinearRoots`]).
pub fn check_reads() {
    GATE.fetch_or(GATE_LINEAR, Ordering::SeqCst);
}

/// Lets this CPU's supervisor code touch user pages only inside [`guest_copy`].
///
/// # Safety
/// The CPU has SMAP.
pub unsafe fn enable_smap() {
    GATE.fetch_or(GATE_SMAP, Ordering::Relaxed);
    this_cpu().close_gate_on_entry();
    // SAFETY: sets CR4.SMAP, as the caller promises possible.
    unsafe {
        asm!("mov {0}, cr4", "or {0}, 0x200000", "mov cr4, {0}", "clac", out(reg) _, options(nostack));
    }
}
