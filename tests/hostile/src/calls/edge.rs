//! The unsafe part of the attacker: hypercalls with any arguments, loads and stores at any address, ways into any code, and
//! the entries by which all of that comes back.
//!
//! **The rule that keeps this program alive.** The supervisor (vCPU 0) runs on the guest library and touches nothing of what
//! the attack changes. An attacking vCPU uses nothing of the library: its code, its stack and its [`State`](super::State)
//! are pages of the image, which the generators avoid but for a rare choice that may end this life. So a wrong argument
//! harms at most this domain, whose next life begins with new memory; that is the point of the exercise, and the reason why
//! these functions are safe to call here.
//!
//! **Coming back.** Each attacking vCPU registers stubs of its own for every vector and callback. Whatever arrives there (an
//! exception of a wild load, an upcall, a system call of user mode) gives up what was interrupted: the stub notes its number,
//! takes the vCPU's stack from its start and calls [`turn`](super::turn) again. Nothing that is given up owns anything.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU64, compiler_fence};

use guest_pv_lib::hypercall::raw;
use xen_abi::arch_x86::IretContext;

/// vCPUs that attack, at most: numbers 1 to 3.
pub const VCPUS: usize = 4;
/// Bytes of each attacking vCPU's stack.
const STACK: usize = 32 << 10;
/// Entries of one vCPU: vectors 0 to 31, and the [callbacks](entry).
const STUBS: usize = 64;
/// Bytes of one entry.
const STUB_SIZE: u64 = 16;

/// Numbers of the entries that are no vectors.
pub mod entry {
    /// The event upcall.
    pub const EVENT: u64 = 32;
    /// The failsafe callback.
    pub const FAILSAFE: u64 = 33;
    /// `syscall` from 64-bit code.
    pub const SYSCALL: u64 = 34;
    /// `syscall` from 32-bit code.
    pub const SYSCALL32: u64 = 35;
    /// `sysenter`.
    pub const SYSENTER: u64 = 36;
    /// An NMI.
    pub const NMI: u64 = 37;
    /// The vCPU was just brought up.
    pub const START: u64 = 63;
}

/// Hypercalls made, and those that did not answer with an error, by number; those above 62 are counted as 63.
pub static MADE: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
/// See [`MADE`].
pub static SUCCEEDED: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

/// A hypercall, counted. Answers what came in `rax`.
pub fn call(number: u32, args: [u64; 6]) -> i64 {
    // SAFETY: the rule of this module.
    let result = unsafe { raw::call6(number, args[0], args[1], args[2], args[3], args[4], args[5]) };
    count(number, result);
    result
}

/// Counts a hypercall that was made: directly, or as one of a multicall.
pub fn count(number: u32, result: i64) {
    let at = number.min(63) as usize;
    MADE[at].fetch_add(1, Relaxed);
    if !is_error(result) {
        SUCCEEDED[at].fetch_add(1, Relaxed);
    }
}

/// Whether a result is one of Xen's error numbers.
pub const fn is_error(result: i64) -> bool {
    result < 0 && result >= -4095
}

#[cfg(target_os = "none")]
mod bare {
    use core::arch::{asm, global_asm};

    use super::*;

    // Each entry: its number and its vCPU in `eax`, no use of the stack (it may be the last word of a page). `hostile_arrived`
    // finds the record of that vCPU, writes the number there, and begins anew on the vCPU's stack.
    global_asm!(
        ".pushsection .bss.hostile, \"aw\", @nobits",
        ".balign 4096",
        ".skip 4096",
        "hostile_stacks: .skip {vcpus} * {stack}",
        "hostile_arrivals: .skip {vcpus} * 16",
        ".popsection",
        ".pushsection .text.hostile, \"ax\", @progbits",
        ".balign 16",
        "hostile_stubs:",
        ".set hostile_index, 0",
        ".rept {vcpus} * {stubs}",
        ".balign 16",
        "mov eax, hostile_index",
        "jmp hostile_arrived",
        ".set hostile_index, hostile_index + 1",
        ".endr",
        "hostile_arrived:",
        "mov edi, eax",
        "shr edi, 6",
        "and eax, 63",
        "inc eax",
        "mov ecx, edi",
        "shl ecx, 4",
        "lea rdx, [rip + hostile_arrivals]",
        "mov [rdx + rcx], rax",
        "mov ecx, edi",
        "inc ecx",
        "imul ecx, ecx, {stack}",
        "lea rsp, [rip + hostile_stacks]",
        "add rsp, rcx",
        "push 2",
        "popfq",
        "xor ebp, ebp",
        "call {turn}",
        "ud2",
        ".popsection",
        vcpus = const VCPUS,
        stack = const STACK,
        stubs = const STUBS,
        turn = sym crate::calls::turn,
    );

    unsafe extern "C" {
        safe static hostile_stubs: u8;
        safe static hostile_stacks: u8;
        safe static hostile_arrivals: AtomicU64;
    }

    /// The address of an entry of a vCPU.
    pub fn stub(vcpu: usize, number: u64) -> u64 {
        &raw const hostile_stubs as u64 + (vcpu as u64 * STUBS as u64 + number) * STUB_SIZE
    }

    /// The end of a vCPU's stack.
    pub fn stack_top(vcpu: usize) -> u64 {
        &raw const hostile_stacks as u64 + (vcpu as u64 + 1) * STACK as u64
    }

    /// Which entry this turn of a vCPU began with: one more than its number; 0 where that was asked before.
    pub fn arrived_by(vcpu: usize) -> u64 {
        assert!(vcpu < VCPUS);
        // SAFETY: the records are atomic words, one pair for each vCPU.
        let record = unsafe { &*(&raw const hostile_arrivals).add(2 * vcpu) };
        record.swap(0, Relaxed)
    }

    /// A load.
    pub fn peek(address: u64) -> u64 {
        let value;
        // SAFETY: a load that faults gives this turn up, by the rule of this module; one that does not changes nothing.
        unsafe { asm!("mov {}, [{}]", out(reg) value, in(reg) address, options(nostack)) };
        value
    }

    /// A store of eight bytes.
    pub fn poke(address: u64, value: u64) {
        // SAFETY: the rule of this module: the generators name pages of the pool, which nothing else is in.
        unsafe { asm!("mov [{}], {}", in(reg) address, in(reg) value, options(nostack)) };
    }

    /// A store by one of the instructions that a kernel changes page tables with; `kind` chooses.
    pub fn change(kind: usize, address: u64, value: u64, other: u64) {
        // SAFETY: as `poke`. The instructions change the named registers, flags, and eight or fewer bytes of memory (sixteen for
        // `cmpxchg16b` and `movdqu`-like pushes are not among them).
        unsafe {
            match kind {
                0 => asm!("mov dword ptr [{}], {:e}", in(reg) address, in(reg) value, options(nostack)),
                1 => {
                    asm!("mov byte ptr [{}], {}", in(reg) address, in(reg_byte) value as u8, options(nostack))
                }
                2 => asm!("xchg [{}], {}", in(reg) address, inout(reg) value => _, options(nostack)),
                3 => asm!("lock cmpxchg [{}], {}", in(reg) address, in(reg) value, inout("rax") other => _,
                    options(nostack)),
                4 => {
                    asm!("lock btr qword ptr [{}], {}", in(reg) address, in(reg) value & 63, options(nostack))
                }
                5 => {
                    asm!("lock bts qword ptr [{}], {}", in(reg) address, in(reg) value & 63, options(nostack))
                }
                6 => asm!("lock and [{}], {}", in(reg) address, in(reg) value, options(nostack)),
                7 => asm!("or [{}], {}", in(reg) address, in(reg) value, options(nostack)),
                8 => asm!("lock xadd [{}], {}", in(reg) address, inout(reg) value => _, options(nostack)),
                9 => asm!("stosq", inout("rdi") address => _, in("rax") value, options(nostack)),
                10 => asm!("movsq", inout("rdi") address => _, inout("rsi") other => _, options(nostack)),
                11 => asm!("lock cmpxchg dword ptr [{}], {:e}", in(reg) address, in(reg) value,
                    inout("rax") other => _, options(nostack)),
                12 => asm!("rep stosq", inout("rdi") address => _, inout("rcx") 3u64 => _, in("rax") value,
                    options(nostack)),
                13 => asm!("push qword ptr [{}]", "pop qword ptr [{}]", in(reg) other, in(reg) address),
                14 => asm!("mov word ptr [{}], {:x}", in(reg) address, in(reg) value, options(nostack)),
                _ => asm!("mov qword ptr [{}], 0", in(reg) address, options(nostack)),
            }
        }
    }

    /// Leaves for where `frame` says, with these registers (`rbx rdx rsi rdi rbp r8 r9 r10 r12 r13 r14 r15`), by the hypercall
    /// `iret` with the stack pointer at `at`, where the frame was put. Comes back by an entry only.
    pub fn leave(at: u64, registers: &[u64; 12]) -> ! {
        compiler_fence(core::sync::atomic::Ordering::SeqCst);
        // SAFETY: what runs there ends in an entry of this vCPU, or in the end of this life; this turn is given up.
        unsafe {
            asm!(
                "mov rsp, rcx",
                "mov rbx, [rax]",
                "mov rdx, [rax + 8]",
                "mov rsi, [rax + 16]",
                "mov rdi, [rax + 24]",
                "mov rbp, [rax + 32]",
                "mov r8, [rax + 40]",
                "mov r9, [rax + 48]",
                "mov r10, [rax + 56]",
                "mov r12, [rax + 64]",
                "mov r13, [rax + 72]",
                "mov r14, [rax + 80]",
                "mov r15, [rax + 88]",
                "mov eax, {iret}",
                "syscall",
                "ud2",
                iret = const xen_abi::hypercall::nr::IRET,
                in("rax") registers.as_ptr(),
                in("rcx") at,
                options(noreturn),
            );
        }
    }
}

#[cfg(not(target_os = "none"))]
mod bare {
    //! Nothing of this runs on a host.
    use super::*;

    pub fn stub(_: usize, _: u64) -> u64 {
        STUB_SIZE * STUBS as u64
    }
    pub fn stack_top(_: usize) -> u64 {
        STACK as u64
    }
    pub fn arrived_by(_: usize) -> u64 {
        0
    }
    pub fn peek(_: u64) -> u64 {
        0
    }
    pub fn poke(_: u64, _: u64) {}
    pub fn change(_: usize, _: u64, _: u64, _: u64) {}
    pub fn leave(_: u64, _: &[u64; 12]) -> ! {
        compiler_fence(core::sync::atomic::Ordering::SeqCst);
        std::process::abort()
    }
}

pub use bare::*;

/// Kinds of [`change`].
pub const CHANGES: usize = 16;

/// The words of an `iret` frame in their order.
pub const fn frame_words(frame: &IretContext) -> [u64; 9] {
    [frame.rax, frame.r11, frame.rcx, frame.flags, frame.rip, frame.cs, frame.rflags, frame.rsp, frame.ss]
}
