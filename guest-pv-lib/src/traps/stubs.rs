//! The entry stubs, in assembly.
//!
//! Rules: labels start with `pv_`; the hypervisor aligns the frame it pushes to 16 bytes, but the stubs do not rely
//! on it; `rcx` and `r11` are free on entry, because their values are on the stack.
//!
//! On entry, from the stack pointer upwards: `rcx`, `r11`, the error code where the vector has one, `rip`, `cs`,
//! `rflags`, `rsp`, `ss`. The stubs make a [`Frame`](super::Frame) of it.

use core::arch::global_asm;

use xen_abi::arch_x86::{FLAT_KERNEL_CS, TrapInfo};
use xen_abi::hypercall::nr;

use super::{Vector, dispatch, frame};
use crate::hypercall::{Errno, check, raw};

// The common tail. The stack holds the frame from `vector` on.
global_asm!(
    ".pushsection .text.pv_stubs, \"ax\", @progbits",
    ".type pv_trap_common, @function",
    "pv_trap_common:",
    "push rdi",
    "push rsi",
    "push rdx",
    "push rbx",
    "push rbp",
    "push r8",
    "push r9",
    "push r10",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "cld",
    "mov rdi, rsp",
    "mov rbp, rsp",
    "and rsp, -16",
    "call {dispatch}",
    "mov rsp, rbp",
    // Also the way into user mode, with the stack pointer at a frame.
    ".global pv_trap_return",
    "pv_trap_return:",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rbp",
    "pop rbx",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "add rsp, 16",
    // Back to kernel mode with everything restored: no VGCF_* bit.
    "mov qword ptr [rsp + 24], 0",
    "mov eax, {iret}",
    "syscall",
    "ud2",
    ".size pv_trap_common, . - pv_trap_common",
    ".popsection",
    dispatch = sym dispatch,
    iret = const nr::IRET,
);

/// A stub for a vector without an error code.
macro_rules! plain {
    ($name:literal, $vector:expr) => {
        global_asm!(
            ".pushsection .text.pv_stubs, \"ax\", @progbits",
            concat!(".global ", $name),
            concat!(".type ", $name, ", @function"),
            concat!($name, ":"),
            "pop rcx",
            "pop r11",
            "push 0",
            "push rcx",
            "push r11",
            "push rax",
            "push 0",
            "push {vector}",
            "jmp pv_trap_common",
            concat!(".size ", $name, ", . - ", $name),
            ".popsection",
            vector = const $vector,
        );
    };
}

/// A stub for a vector with an error code, whose slot becomes the frame's `flags`.
macro_rules! with_error {
    ($name:literal, $vector:expr) => {
        global_asm!(
            ".pushsection .text.pv_stubs, \"ax\", @progbits",
            concat!(".global ", $name),
            concat!(".type ", $name, ", @function"),
            concat!($name, ":"),
            "pop rcx",
            "pop r11",
            "push rcx",
            "push r11",
            "push rax",
            "push [rsp + 24]",
            "mov qword ptr [rsp + 32], 0",
            "push {vector}",
            "jmp pv_trap_common",
            concat!(".size ", $name, ", . - ", $name),
            ".popsection",
            vector = const $vector,
        );
    };
}

macro_rules! stubs {
    ($($kind:ident $name:ident = $text:literal, $vector:expr;)*) => {
        unsafe extern "C" {
            $(safe static $name: u8;)*
        }
        $($kind!($text, $vector);)*
    };
}

stubs! {
    plain pv_trap_0 = "pv_trap_0", 0;
    plain pv_trap_1 = "pv_trap_1", 1;
    plain pv_trap_3 = "pv_trap_3", 3;
    plain pv_trap_4 = "pv_trap_4", 4;
    plain pv_trap_5 = "pv_trap_5", 5;
    plain pv_trap_6 = "pv_trap_6", 6;
    plain pv_trap_7 = "pv_trap_7", 7;
    with_error pv_trap_10 = "pv_trap_10", 10;
    with_error pv_trap_11 = "pv_trap_11", 11;
    with_error pv_trap_12 = "pv_trap_12", 12;
    with_error pv_trap_13 = "pv_trap_13", 13;
    with_error pv_trap_14 = "pv_trap_14", 14;
    plain pv_trap_16 = "pv_trap_16", 16;
    with_error pv_trap_17 = "pv_trap_17", 17;
    plain pv_trap_18 = "pv_trap_18", 18;
    plain pv_trap_19 = "pv_trap_19", 19;
    plain pv_event = "pv_event", frame::EVENT;
    // The frame of the callback for system calls is that of a vector without an error code.
    plain pv_syscall = "pv_syscall", frame::SYSCALL;
}

// The failsafe callback pushes ds, es, fs and gs between r11 and the iret frame: drop them, report, end.
global_asm!(
    ".pushsection .text.pv_stubs, \"ax\", @progbits",
    ".global pv_failsafe",
    ".type pv_failsafe, @function",
    "pv_failsafe:",
    "pop rcx",
    "pop r11",
    "add rsp, 32",
    "push 0",
    "push rcx",
    "push r11",
    "push rax",
    "push 0",
    "push {vector}",
    "jmp pv_trap_common",
    ".size pv_failsafe, . - pv_failsafe",
    ".popsection",
    vector = const frame::FAILSAFE,
);

unsafe extern "C" {
    safe static pv_failsafe: u8;
    safe static pv_trap_return: u8;
}

/// Address of the stubs' tail, which takes the registers from the frame at the stack pointer and leaves by it.
pub fn return_address() -> u64 {
    &raw const pv_trap_return as u64
}

/// Address of the system call's stub.
pub fn syscall_address() -> u64 {
    &raw const pv_syscall as u64
}

/// Address of the upcall's stub.
pub fn event_address() -> u64 {
    &raw const pv_event as u64
}

/// Address of the failsafe callback's stub.
pub fn failsafe_address() -> u64 {
    &raw const pv_failsafe as u64
}

fn address(vector: Vector) -> u64 {
    let stub = match vector {
        Vector::DIVIDE_ERROR => &raw const pv_trap_0,
        Vector::DEBUG => &raw const pv_trap_1,
        Vector::BREAKPOINT => &raw const pv_trap_3,
        Vector::OVERFLOW => &raw const pv_trap_4,
        Vector::BOUND_RANGE => &raw const pv_trap_5,
        Vector::INVALID_OPCODE => &raw const pv_trap_6,
        Vector::DEVICE_NOT_AVAILABLE => &raw const pv_trap_7,
        Vector::INVALID_TSS => &raw const pv_trap_10,
        Vector::SEGMENT_NOT_PRESENT => &raw const pv_trap_11,
        Vector::STACK_FAULT => &raw const pv_trap_12,
        Vector::GENERAL_PROTECTION => &raw const pv_trap_13,
        Vector::PAGE_FAULT => &raw const pv_trap_14,
        Vector::X87 => &raw const pv_trap_16,
        Vector::ALIGNMENT_CHECK => &raw const pv_trap_17,
        Vector::MACHINE_CHECK => &raw const pv_trap_18,
        _ => &raw const pv_trap_19,
    };
    stub as u64
}

/// What the hypervisor is told of each of [`Vector::ALL`], in that order.
pub fn entries() -> impl Iterator<Item = TrapInfo> {
    const DPL_USER: u8 = 3;
    const MASK_EVENTS: u8 = 4;
    Vector::ALL.into_iter().map(|vector| TrapInfo {
        vector: vector.number(),
        // `int3` and `into` may be executed by anyone. An upcall between the stub and the kernel's stack would run its
        // handlers on the small stack for user mode.
        flags: MASK_EVENTS
            | if matches!(vector, Vector::BREAKPOINT | Vector::OVERFLOW) { DPL_USER } else { 0 },
        cs: FLAT_KERNEL_CS,
        address: address(vector),
        ..TrapInfo::default()
    })
}

/// Registers a stub for each of [`Vector::ALL`].
pub fn register() -> Result<(), Errno> {
    let mut table = [TrapInfo::default(); Vector::ALL.len() + 1];
    table.iter_mut().zip(entries()).for_each(|(slot, entry)| *slot = entry);
    // SAFETY: the table ends with an entry of address zero and lives across the call; each address is a stub that
    // expects the frame of its vector.
    check(unsafe { raw::call1(nr::SET_TRAP_TABLE, table.as_ptr() as u64) }).map(drop)
}
