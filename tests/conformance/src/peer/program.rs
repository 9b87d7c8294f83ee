//! The program that the peer runs, and the page through which it is told what to do.
//!
//! The program waits until the mailbox holds a request, serves it, writes the result, marks the request as served and
//! sends an event. It keeps the mailbox's address in `rbx`, that of the shared page in `r12`, its port in `r13`.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU8, AtomicU64};

use guest_pv_lib::Errno;
use xen_abi::arch_x86::*;
use xen_abi::sched::SchedPoll;
use zerocopy::IntoBytes;

use super::PAGES;
use super::space::{self, MAILBOX, PROGRAM, ROOT, STACK, mailbox};
use crate::call::Ret;

/// Request: a hypercall.
pub const HYPERCALL: u64 = 1;
/// Request: a function in the peer's memory.
pub const CALL: u64 = 2;

/// Words of the mailbox: the request, what it is about, six arguments, the result.
const REQUEST: usize = 0;
const WHAT: usize = 1;
const ARGS: usize = 2;
const RESULT: usize = 8;
/// Bytes of the mailbox: the argument of the program's own `SCHEDOP_poll`, and its port.
const POLL: usize = 128;
const PORT: usize = 160;
/// Bytes of the mailbox that hold arguments of requests.
const AREA: usize = 512;

#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".pushsection .rodata.peer_program, \"a\", @progbits",
    ".balign 8",
    "peer_program:",
    "2: mov rax, [rbx]",
    "cmp rax, {hypercall}",
    "je 3f",
    "cmp rax, {call}",
    "je 4f",
    "lock btr qword ptr [r12 + {pending}], r13",
    "cmp qword ptr [rbx], 0",
    "jne 2b",
    "mov eax, {sched_op}",
    "mov edi, {poll}",
    "lea rsi, [rbx + {poll_arg}]",
    "syscall",
    "jmp 2b",
    "3: mov rax, [rbx + 8]",
    "mov rdi, [rbx + 16]",
    "mov rsi, [rbx + 24]",
    "mov rdx, [rbx + 32]",
    "mov r10, [rbx + 40]",
    "mov r8, [rbx + 48]",
    "mov r9, [rbx + 56]",
    "syscall",
    "jmp 5f",
    "4: mov rdi, [rbx + 16]",
    "mov rsi, [rbx + 24]",
    "mov rdx, [rbx + 32]",
    "call [rbx + 8]",
    "5: mov [rbx + 64], rax",
    "mov qword ptr [rbx], 0",
    "mov eax, {event_op}",
    "mov edi, {send}",
    "lea rsi, [rbx + {port_arg}]",
    "syscall",
    "jmp 2b",
    "peer_program_end:",
    ".popsection",
    hypercall = const HYPERCALL,
    call = const CALL,
    pending = const core::mem::offset_of!(xen_abi::xen::SharedInfo, evtchn_pending),
    sched_op = const xen_abi::hypercall::nr::SCHED_OP,
    poll = const xen_abi::sched::SCHEDOP_POLL,
    poll_arg = const POLL,
    event_op = const xen_abi::hypercall::nr::EVENT_CHANNEL_OP,
    send = const xen_abi::event_channel::EVTCHNOP_SEND,
    port_arg = const PORT,
);

/// The program's bytes.
#[cfg(target_os = "none")]
pub fn code() -> &'static [u8] {
    unsafe extern "C" {
        static peer_program: u8;
        static peer_program_end: u8;
    }
    let (start, end) = (&raw const peer_program, &raw const peer_program_end);
    // SAFETY: the two labels delimit bytes of the image's read-only data.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}

#[cfg(not(target_os = "none"))]
pub fn code() -> &'static [u8] {
    &[]
}

/// What the peer's vCPU starts with.
pub fn context(frames: &[u64; PAGES], port: u32) -> VcpuGuestContext {
    let mut context = VcpuGuestContext {
        flags: VGCF_IN_KERNEL | VGCF_ONLINE,
        kernel_ss: u64::from(FLAT_KERNEL_SS),
        kernel_sp: space::virt(STACK + 1),
        ..VcpuGuestContext::default()
    };
    context.ctrlreg[3] = frames[ROOT] << 12;
    context.user_regs = CpuUserRegs {
        rip: space::virt(PROGRAM),
        rsp: space::virt(STACK + 1),
        cs: FLAT_KERNEL_CS,
        ss: FLAT_KERNEL_SS,
        rflags: 0x202,
        rbx: space::virt(MAILBOX),
        r12: space::virt(PAGES),
        r13: u64::from(port),
        ..CpuUserRegs::default()
    };
    context
}

/// Writes what the program itself needs into the mailbox.
pub fn prepare(port: u32) {
    let poll =
        SchedPoll { ports: (space::virt(MAILBOX) + PORT as u64).into(), nr_ports: 1, ..SchedPoll::default() };
    for word in &mailbox::words().0 {
        word.store(0, Relaxed);
    }
    copy(POLL, poll.as_bytes());
    copy(PORT, port.as_bytes());
}

/// Makes a request.
pub fn ask(kind: u64, what: u64, args: &[u64]) {
    let words = &mailbox::words().0;
    words[WHAT].store(what, Relaxed);
    for at in 0..6 {
        words[ARGS + at].store(args.get(at).copied().unwrap_or(0), Relaxed);
    }
    words[REQUEST].store(kind, Release);
}

/// Whether the request was served.
pub fn answered() -> bool {
    mailbox::words().0[REQUEST].load(Acquire) == 0
}

/// What it came to.
pub fn answer() -> Ret {
    let value = mailbox::words().0[RESULT].load(Relaxed);
    match Errno::from_ret(value.cast_signed()) {
        Some(error) => Err(error),
        None => Ok(value),
    }
}

/// Copies an argument into the mailbox; answers its address in the peer.
pub fn put(bytes: &[u8]) -> u64 {
    copy(AREA, bytes);
    space::virt(MAILBOX) + AREA as u64
}

/// Copies an argument back.
pub fn get(bytes: &mut [u8]) {
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = cell(AREA + at).load(Relaxed);
    }
}

fn copy(to: usize, bytes: &[u8]) {
    for (at, byte) in bytes.iter().enumerate() {
        cell(to + at).store(*byte, Relaxed);
    }
}

/// One byte of the mailbox.
fn cell(at: usize) -> &'static AtomicU8 {
    assert!(at < 4096, "an argument fits into the mailbox");
    let words: *const AtomicU64 = mailbox::words().0.as_ptr();
    // SAFETY: inside the page, which is atomics only and lives for ever; the program and the hypervisor write it by
    // whole instructions, so that accesses of different sizes tear at worst.
    unsafe { &*words.cast::<AtomicU8>().add(at) }
}
