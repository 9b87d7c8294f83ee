//! The hypercall page: 128 stubs of 32 bytes, written by the hypervisor into a page of the image.
//!
//! The note `XEN_ELFNOTE_HYPERCALL_PAGE` names the page; the domain builder fills it before the kernel runs, with
//! whatever instruction enters this hypervisor. The library itself uses [`raw`](super::raw), one instruction
//! shorter than a call; the page is for code that must not know how the hypervisor is entered.

use core::arch::{asm, global_asm};

/// Bytes between two stubs.
pub const STUB_SIZE: u64 = 32;

// Filled with `hlt`-free padding only: the domain builder overwrites the whole page.
global_asm!(
    ".pushsection .text.pv_hypercall_page, \"ax\", @progbits",
    ".balign 4096",
    ".global pv_hypercall_page",
    ".type pv_hypercall_page, @object",
    "pv_hypercall_page:",
    ".fill 4096, 1, 0xcc",
    ".size pv_hypercall_page, 4096",
    ".popsection",
);

unsafe extern "C" {
    /// The page. Only its address means something.
    pub(crate) safe static pv_hypercall_page: u8;
}

/// Address of the stub of hypercall `nr`.
#[doc(alias = "XEN_ELFNOTE_HYPERCALL_PAGE")]
#[must_use]
pub fn stub(nr: u32) -> u64 {
    (&raw const pv_hypercall_page as u64) + u64::from(nr & 127) * STUB_SIZE
}

/// The hypercall `nr` (not `iret`) with two arguments, by the page.
///
/// # Safety
///
/// As for [`raw::call2`](super::raw::call2).
#[inline(never)]
pub unsafe fn call2(nr: u32, a1: u64, a2: u64) -> i64 {
    let ret: i64;
    // SAFETY: the stub follows the same convention as the bare instruction, except that the call and the stub's own
    // pushes use the stack, which is why `nostack` is absent. The rest is the caller's promise.
    unsafe {
        asm!(
            "call {stub}",
            stub = in(reg) stub(nr),
            lateout("rax") ret,
            inlateout("rdi") a1 => _,
            inlateout("rsi") a2 => _,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    ret
}
