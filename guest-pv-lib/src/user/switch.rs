//! Into user mode and back, in assembly.
//!
//! Rules: as for the trap stubs (labels start with `pv_`). `pv_user_enter` pushes what the C convention preserves, notes
//! its stack pointer, copies the frame below it, and leaves by the tail of the trap stubs, which takes every register from
//! that copy. So the stack pointer never lies above anything that is in use, and an exception on the way is harmless.
//! `pv_user_leave` goes back to the stack pointer that was noted, and so returns from `pv_user_enter`.

use core::arch::global_asm;
use core::cell::Cell;

use crate::traps::Frame;

global_asm!(
    ".pushsection .text.pv_user, \"ax\", @progbits",
    ".global pv_user_enter",
    ".type pv_user_enter, @function",
    "pv_user_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rsi], rsp",
    "sub rsp, 8 * {words}",
    "mov rsi, rdi",
    "mov rdi, rsp",
    "mov ecx, {words}",
    "rep movsq",
    "jmp rdx",
    ".size pv_user_enter, . - pv_user_enter",
    ".global pv_user_leave",
    ".type pv_user_leave, @function",
    "pv_user_leave:",
    "mov rsp, rdi",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".size pv_user_leave, . - pv_user_leave",
    ".popsection",
    words = const size_of::<Frame>() / 8,
);

unsafe extern "C" {
    fn pv_user_enter(frame: *const Frame, kernel_stack: *mut u64, tail: u64);
    #[cfg(target_os = "none")]
    fn pv_user_leave(kernel_stack: u64) -> !;
}

/// Enters user mode by `frame`; returns when [`leave`] was called with what this stored to `kernel_stack`.
///
/// # Safety
///
/// The frame must lead to user mode; what ends user mode must end in [`leave`].
#[cfg(target_os = "none")]
pub unsafe fn enter(frame: &Frame, kernel_stack: &Cell<u64>) {
    // SAFETY: the tail of the stubs takes all of the copy of `frame` and leaves by it; the rest is the caller's promise.
    unsafe { pv_user_enter(frame, kernel_stack.as_ptr(), crate::platform::trap_return()) };
}

/// Returns from the [`enter`] that is under way.
///
/// # Safety
///
/// `kernel_stack` must be what that `enter` stored, and nothing on the stack in use may need to be dropped.
#[cfg(target_os = "none")]
pub unsafe fn leave(kernel_stack: u64) -> ! {
    // SAFETY: the caller's promise.
    unsafe { pv_user_leave(kernel_stack) }
}

/// Registers the entry for `syscall` from user mode.
#[cfg(target_os = "none")]
pub fn register_syscall() {
    use xen_abi::callback::{
        CALLBACKF_MASK_EVENTS, CALLBACKOP_REGISTER, CALLBACKTYPE_SYSCALL, CallbackRegister,
    };
    use xen_abi::hypercall::nr;

    use crate::hypercall::{check, raw};
    use crate::traps::stubs;

    let arg = CallbackRegister {
        type_: CALLBACKTYPE_SYSCALL,
        flags: CALLBACKF_MASK_EVENTS,
        address: stubs::syscall_address(),
        ..CallbackRegister::default()
    };
    // SAFETY: `arg` lives across the call, and `address` is a stub that expects the frame of that callback.
    let result =
        unsafe { raw::call2(nr::CALLBACK_OP, u64::from(CALLBACKOP_REGISTER), &raw const arg as u64) };
    if let Err(error) = check(result) {
        panic!("registering the system call entry: {error:?}");
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU64;
    use core::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::user::Registers;

    /// Where the tail found its frame, and the program's instruction pointer there.
    static FRAME: AtomicU64 = AtomicU64::new(0);
    static RIP: AtomicU64 = AtomicU64::new(0);

    // A tail that comes back instead of entering user mode. The frame's `rdi` is the address of the stack pointer to
    // come back to. What an exception would push is pushed, too.
    global_asm!(
        ".pushsection .text.pv_user_test, \"ax\", @progbits",
        "pv_user_test_tail:",
        "mov [rip + {frame}], rsp",
        "mov rax, [rsp + {rip_offset}]",
        "mov [rip + {rip}], rax",
        "mov rdi, [rsp + 11 * 8]",
        ".rept 64",
        "push 0",
        ".endr",
        "mov rdi, [rdi]",
        "jmp pv_user_leave",
        ".popsection",
        frame = sym FRAME,
        rip = sym RIP,
        rip_offset = const core::mem::offset_of!(Frame, rip),
    );

    unsafe extern "C" {
        safe static pv_user_test_tail: u8;
    }

    #[test]
    fn nothing_in_use_lies_below_the_frame_on_the_way_into_user_mode() {
        let kernel_stack = Cell::new(0);
        let registers =
            Registers { rdi: kernel_stack.as_ptr() as u64, rip: 0x1234_5678, ..Registers::default() };
        let frame = registers.to_frame(0x33, 0x2b);
        // SAFETY: the tail above returns by `pv_user_leave` with the stack pointer that is stored here.
        unsafe {
            pv_user_enter(&raw const frame, kernel_stack.as_ptr(), &raw const pv_user_test_tail as u64)
        };
        assert_eq!(RIP.load(Relaxed), 0x1234_5678);
        let end = FRAME.load(Relaxed) + size_of::<Frame>() as u64;
        assert!(
            end <= kernel_stack.get(),
            "the frame ends at {end:#x}, the stack at {:#x}",
            kernel_stack.get()
        );
    }
}
