//! Into user mode and back, in assembly.
//!
//! Rules: as for the trap stubs (labels start with `pv_`). `pv_user_enter` pushes what the C convention preserves, notes
//! its stack pointer and leaves by the tail of the trap stubs, which takes every register from the frame.
//! `pv_user_leave` goes back to that stack pointer, and so returns from `pv_user_enter`.

use core::arch::global_asm;
use core::cell::Cell;

use xen_abi::callback::{CALLBACKF_MASK_EVENTS, CALLBACKOP_REGISTER, CALLBACKTYPE_SYSCALL, CallbackRegister};
use xen_abi::hypercall::nr;

use crate::hypercall::{check, raw};
use crate::traps::{Frame, stubs};

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
    "mov rsp, rdi",
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
);

unsafe extern "C" {
    fn pv_user_enter(frame: *const Frame, kernel_stack: *mut u64, tail: u64);
    fn pv_user_leave(kernel_stack: u64) -> !;
}

/// Enters user mode by `frame`; returns when [`leave`] was called with what this stored to `kernel_stack`.
///
/// # Safety
///
/// The frame must lead to user mode; what ends user mode must end in [`leave`].
pub unsafe fn enter(frame: &Frame, kernel_stack: &Cell<u64>) {
    // SAFETY: the tail of the stubs takes all of `frame` and leaves by it; the rest is the caller's promise.
    unsafe { pv_user_enter(frame, kernel_stack.as_ptr(), crate::platform::trap_return()) };
}

/// Returns from the [`enter`] that is under way.
///
/// # Safety
///
/// `kernel_stack` must be what that `enter` stored, and nothing on the stack in use may need to be dropped.
pub unsafe fn leave(kernel_stack: u64) -> ! {
    // SAFETY: the caller's promise.
    unsafe { pv_user_leave(kernel_stack) }
}

/// Registers the entry for `syscall` from user mode.
pub fn register_syscall() {
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
