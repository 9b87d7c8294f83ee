//! The processor: descriptor tables, the stubs of its exceptions and interrupts, and a few registers.
//!
//! The stubs leave the same [`Frame`] as those of a PV kernel and end in the same [`traps::dispatch`]. Rules for the
//! assembly: labels start with `pv_native`; GS is swapped on every way from and to user mode, so that GS is the kernel's
//! while the kernel runs; interrupts are off in the stubs.
//!
//! Four vectors may come where neither the stack nor GS is the kernel's: between `syscall` and the first instructions of its
//! entry, or behind the last `swapgs`. Each has a stack of its own, and none of them trusts GS there:
//!
//! - An NMI adds one to a counter, and that is all. No register but the flags is touched, and the processor holds further
//!   ones back until `iretq`.
//! - A debug exception in the entries themselves is dropped. Elsewhere in the kernel it goes on where it interrupted, like any
//!   other exception.
//! - A double fault, and a machine check in the kernel, are the end. GS is made the kernel's first.
//!
//! From user mode, debug exceptions and machine checks end [`UserMode::run`](crate::user::UserMode::run) as others do.

use core::arch::global_asm;
use core::arch::x86_64::__cpuid;
use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use x86_64::VirtAddr;
use x86_64::instructions::tables::{lgdt, lidt, load_tss};
use x86_64::instructions::{interrupts, segmentation::Segment};
use x86_64::registers::control::{Cr0, Cr0Flags, Cr2, Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;
use x86_64::registers::segmentation::{CS, SS};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::SegmentSelector;
use x86_64::structures::tss::TaskStateSegment;
use xen_abi::arch_x86::{SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER};
use xen_abi::errno::Errno;

use super::{error, timer};
use crate::platform::{Kind, kind};
use crate::shared::this_vcpu;
use crate::traps::{self, EVENT, Frame, SYSCALL};

const KERNEL_CODE: u16 = 0x08;
const KERNEL_DATA: u16 = 0x10;
/// Code and stack of user mode.
pub(crate) const USER_SELECTORS: (u16, u16) = (0x23, 0x1b);
const TSS_SELECTOR: u16 = 0x28;

/// What the stub of the local APIC's timer pushes, the first behind the exceptions.
const TIMER: u64 = 32;
/// What the stub of the hypervisor's callback pushes.
const CALLBACK: u64 = 33;
/// Stubs: the exceptions, those two, and one for spurious interrupts.
const STUBS: usize = 35;
/// The vectors of the last three.
pub const TIMER_VECTOR: u8 = 0x20;
/// See [`TIMER_VECTOR`].
pub const CALLBACK_VECTOR: u8 = 0xf3;
/// See [`TIMER_VECTOR`].
pub const SPURIOUS_VECTOR: u8 = 0xff;

const INTERRUPT_FLAG: u64 = 1 << 9;

/// Vectors with stacks of their own.
const DEBUG: u64 = traps::Vector::DEBUG.number() as u64;
/// See [`DEBUG`].
const NMI: u64 = 2;
/// See [`DEBUG`].
const DOUBLE_FAULT: u64 = 8;
/// See [`DEBUG`].
const MACHINE_CHECK: u64 = traps::Vector::MACHINE_CHECK.number() as u64;

/// The register with the GS base in use.
const GS_BASE: u32 = 0xc000_0101;
/// The GS base of the kernel's.
static KERNEL_GS: AtomicU64 = AtomicU64::new(0);
/// The bit of CPUID leaf 1, EDX: there are machine-check exceptions.
const CPUID_MCE: u32 = 1 << 7;

global_asm!(
    ".pushsection .bss.pv_native_cpu, \"aw\", @nobits",
    ".balign 8",
    ".global pv_native_user_entry_stack",
    "pv_native_user_entry_stack: .skip 8",
    "pv_native_user_stack: .skip 8",
    ".global pv_native_nmis",
    "pv_native_nmis: .skip 8",
    ".popsection",
    ".pushsection .text.pv_native_stubs, \"ax\", @progbits",
    ".global pv_native_stubs",
    ".balign 16",
    "pv_native_stubs:",
    ".set pv_native_vector, 0",
    ".rept {stubs}",
    ".balign 16",
    // Vectors whose error code the processor pushes: 8, 10 to 14, 17, 21, 29, 30.
    ".if !((0x60227d00 >> pv_native_vector) & 1) || pv_native_vector > 31",
    "pushq $0",
    ".endif",
    "pushq $pv_native_vector",
    "jmp pv_native_common",
    ".set pv_native_vector, pv_native_vector + 1",
    ".endr",
    ".type pv_native_common, @function",
    "pv_native_common:",
    // From the stack pointer up: vector, error code, rip, cs, rflags, rsp, ss. Between error code and rip go rax, r11,
    // rcx and the frame's flags.
    "xchgq %rcx, (%rsp)",
    "pushq %r11",
    "pushq %rax",
    "pushq 24(%rsp)",
    "movq $0, 32(%rsp)",
    "pushq %rcx",
    "testb $3, 56(%rsp)",
    "jz pv_native_save",
    "swapgs",
    "pv_native_save:",
    "pushq %rdi",
    "pushq %rsi",
    "pushq %rdx",
    "pushq %rbx",
    "pushq %rbp",
    "pushq %r8",
    "pushq %r9",
    "pushq %r10",
    "pushq %r12",
    "pushq %r13",
    "pushq %r14",
    "pushq %r15",
    "cld",
    "movq %rsp, %rdi",
    "movq %rsp, %rbp",
    "andq $-16, %rsp",
    "call {dispatch}",
    "movq %rbp, %rsp",
    // Also the way into user mode, with the stack pointer at a frame.
    ".global pv_native_return",
    "pv_native_return:",
    "cli",
    "popq %r15",
    "popq %r14",
    "popq %r13",
    "popq %r12",
    "popq %r10",
    "popq %r9",
    "popq %r8",
    "popq %rbp",
    "popq %rbx",
    "popq %rdx",
    "popq %rsi",
    "popq %rdi",
    "addq $16, %rsp",
    "testb $3, 40(%rsp)",
    "jz 1f",
    "swapgs",
    "1: popq %rax",
    "popq %r11",
    "popq %rcx",
    "addq $8, %rsp",
    "iretq",
    ".size pv_native_common, . - pv_native_common",
    ".global pv_native_syscall",
    ".type pv_native_syscall, @function",
    "pv_native_syscall:",
    "swapgs",
    "movq %rsp, pv_native_user_stack(%rip)",
    "movq pv_native_user_entry_stack(%rip), %rsp",
    "pushq ${user_stack}",
    "pushq pv_native_user_stack(%rip)",
    "pushq %r11",
    "pushq ${user_code}",
    "pushq %rcx",
    "pushq $0",
    "pushq %rcx",
    "pushq %r11",
    "pushq %rax",
    "pushq $0",
    "pushq ${syscall}",
    "jmp pv_native_save",
    ".size pv_native_syscall, . - pv_native_syscall",
    ".global pv_native_nmi",
    ".type pv_native_nmi, @function",
    "pv_native_nmi:",
    "lock incq pv_native_nmis(%rip)",
    "iretq",
    ".size pv_native_nmi, . - pv_native_nmi",
    ".global pv_native_debug",
    ".type pv_native_debug, @function",
    "pv_native_debug:",
    // From the stack pointer up: rip, cs, rflags, rsp, ss, on the stack of this vector.
    "testb $3, 8(%rsp)",
    "jnz pv_native_stubs + 16",
    "pushq %rax",
    "leaq pv_native_stubs(%rip), %rax",
    "cmpq %rax, 8(%rsp)",
    "jb 1f",
    "leaq pv_native_stubs_end(%rip), %rax",
    "cmpq %rax, 8(%rsp)",
    "jae 1f",
    // In these very stubs: go on, past a breakpoint on the instruction (RF).
    "orl $0x10000, 24(%rsp)",
    "popq %rax",
    "iretq",
    // Anywhere else in the kernel: move the frame to the stack that was in use.
    "1: pushq %rcx",
    "movq 40(%rsp), %rax",
    "andq $-16, %rax",
    "movq 48(%rsp), %rcx",
    "movq %rcx, -8(%rax)",
    "movq 40(%rsp), %rcx",
    "movq %rcx, -16(%rax)",
    "movq 32(%rsp), %rcx",
    "movq %rcx, -24(%rax)",
    "movq 24(%rsp), %rcx",
    "movq %rcx, -32(%rax)",
    "movq 16(%rsp), %rcx",
    "movq %rcx, -40(%rax)",
    "popq %rcx",
    "subq $40, %rax",
    "xchgq %rax, (%rsp)",
    "popq %rsp",
    "jmp pv_native_stubs + 16",
    ".size pv_native_debug, . - pv_native_debug",
    ".global pv_native_stubs_end",
    "pv_native_stubs_end:",
    ".popsection",
    stubs = const STUBS,
    dispatch = sym dispatch,
    user_code = const USER_SELECTORS.0,
    user_stack = const USER_SELECTORS.1,
    syscall = const SYSCALL,
    options(att_syntax),
);

unsafe extern "C" {
    safe static pv_native_stubs: u8;
    safe static pv_native_return: u8;
    safe static pv_native_syscall: u8;
    safe static pv_native_nmi: u8;
    safe static pv_native_debug: u8;
    safe static pv_native_user_entry_stack: AtomicU64;
    safe static pv_native_nmis: AtomicU64;
}

/// NMIs that came so far.
pub(crate) fn nmis() -> u64 {
    pv_native_nmis.load(Relaxed)
}

/// Address of the stubs' tail, which takes the registers from the frame at the stack pointer and leaves by it.
pub(crate) fn return_address() -> u64 {
    &raw const pv_native_return as u64
}

/// Called by the stubs, with interrupts off.
extern "C" fn dispatch(frame: &mut Frame) {
    match frame.vector() {
        TIMER => {
            timer::interrupt();
            upcall(frame);
        }
        CALLBACK => upcall(frame),
        DOUBLE_FAULT => fatal(frame),
        MACHINE_CHECK if !frame.from_user() => fatal(frame),
        vector if vector < TIMER || vector == SYSCALL => exception(frame),
        // Spurious.
        _ => {}
    }
}

/// Reports what interrupted the kernel at a moment that there is no way back to, and ends.
fn fatal(frame: &Frame) -> ! {
    // SAFETY: nothing returns to code that had another base, and this is the one that the kernel set for itself.
    unsafe { Msr::new(GS_BASE).write(KERNEL_GS.load(Relaxed)) };
    // No handler of an event runs on this stack.
    this_vcpu().upcall_mask.store(1, Relaxed);
    traps::unhandled(frame)
}

/// Runs the upcall in `frame`, which an interrupt made, where it is due.
fn upcall(frame: &mut Frame) {
    let vcpu = this_vcpu();
    while vcpu.upcall_pending.load(Relaxed) != 0 {
        if vcpu.upcall_mask.load(Relaxed) != 0 {
            if kind() == Kind::Pvh {
                // It would come again at once, and for ever.
                frame.rflags &= !INTERRUPT_FLAG;
            }
            return;
        }
        vcpu.upcall_mask.store(1, Relaxed);
        frame.vector = EVENT;
        traps::dispatch(frame);
        vcpu.upcall_mask.store(0, Relaxed);
    }
}

/// An exception or a system call, which arrives with upcalls masked as it does from a hypervisor. The frame's interrupt
/// flag says how they were, and how they will be.
fn exception(frame: &mut Frame) {
    const PAGE_FAULT: u64 = traps::Vector::PAGE_FAULT.number() as u64;
    const NO_FPU: u64 = traps::Vector::DEVICE_NOT_AVAILABLE.number() as u64;
    let vcpu = this_vcpu();
    match frame.vector() {
        PAGE_FAULT => vcpu.cr2.store(Cr2::read_raw(), Relaxed),
        NO_FPU => drop(fpu_taskswitch(false)),
        _ => {}
    }
    if frame.from_user() {
        return traps::dispatch(frame);
    }
    let interruptible = frame.rflags & INTERRUPT_FLAG != 0;
    if vcpu.upcall_mask.swap(1, Relaxed) != 0 {
        frame.rflags &= !INTERRUPT_FLAG;
    } else {
        frame.rflags |= INTERRUPT_FLAG;
    }
    if interruptible {
        interrupts::enable();
    }
    traps::dispatch(frame);
    vcpu.upcall_mask.store(u8::from(frame.rflags & INTERRUPT_FLAG == 0), Relaxed);
    super::deliver();
    interrupts::disable();
    frame.rflags &= !INTERRUPT_FLAG;
    if interruptible {
        frame.rflags |= INTERRUPT_FLAG;
    }
}

/// Numbers of stacks in the TSS, each for one vector.
const DOUBLE_FAULT_STACK: u64 = 1;
/// See [`DOUBLE_FAULT_STACK`].
const NMI_STACK: u64 = 2;
/// See [`DOUBLE_FAULT_STACK`].
const DEBUG_STACK: u64 = 3;
/// See [`DOUBLE_FAULT_STACK`].
const MACHINE_CHECK_STACK: u64 = 4;

/// A stack of one vector. What runs there is no handler of the kernel's: at most a report.
#[repr(C, align(16))]
struct Stack([u8; 8192]);

/// Memory that the processor reads and, for stacks, writes; the kernel writes it in `init` only.
#[repr(C, align(16))]
struct Tables {
    gdt: UnsafeCell<[u64; 7]>,
    idt: UnsafeCell<[[u64; 2]; 256]>,
    tss: UnsafeCell<TaskStateSegment>,
    /// For what may come where no stack is good, in the order of their numbers.
    stacks: UnsafeCell<[Stack; 4]>,
}

// SAFETY: written by `init`, once and alone; by `stack_switch`, whose word only the processor reads; and by the
// processor.
unsafe impl Sync for Tables {}

static TABLES: Tables = Tables {
    gdt: UnsafeCell::new([0; 7]),
    idt: UnsafeCell::new([[0; 2]; 256]),
    tss: UnsafeCell::new(TaskStateSegment::new()),
    stacks: UnsafeCell::new([const { Stack([0; 8192]) }; 4]),
};

/// Loads the tables and turns on system calls.
///
/// # Safety
///
/// Once, with interrupts off.
pub unsafe fn init() {
    // SAFETY: nothing refers to the tables yet. The descriptors are flat ones for ring 0 and ring 3 and the TSS; the
    // selectors loaded are theirs; every gate leads to a stub that expects the frame of its vector.
    unsafe {
        let tss = &mut *TABLES.tss.get();
        for (index, stack) in (&*TABLES.stacks.get()).iter().enumerate() {
            tss.interrupt_stack_table[index] = VirtAddr::from_ptr(stack.0.as_ptr_range().end);
        }
        let base = ptr::from_ref(tss) as u64;
        *TABLES.gdt.get() = [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
            (base & 0xff_ffff) << 16 | (base >> 24 & 0xff) << 56 | 0x8900_0000_0067,
            base >> 32,
        ];
        let idt = &mut *TABLES.idt.get();
        for stub in 0..STUBS as u64 {
            let (vector, stack) = match stub {
                TIMER => (TIMER_VECTOR, 0),
                CALLBACK => (CALLBACK_VECTOR, 0),
                34 => (SPURIOUS_VECTOR, 0),
                DEBUG => (stub as u8, DEBUG_STACK),
                NMI => (stub as u8, NMI_STACK),
                DOUBLE_FAULT => (stub as u8, DOUBLE_FAULT_STACK),
                MACHINE_CHECK => (stub as u8, MACHINE_CHECK_STACK),
                _ => (stub as u8, 0),
            };
            // `int3` and `into` may be executed by anyone.
            let level = if matches!(vector, 3 | 4) { 3 } else { 0 };
            let entry = match stub {
                DEBUG => &raw const pv_native_debug as u64,
                NMI => &raw const pv_native_nmi as u64,
                _ => &raw const pv_native_stubs as u64 + stub * 16,
            };
            idt[usize::from(vector)] = gate(entry, stack, level);
        }
        lgdt(&pointer(TABLES.gdt.get()));
        CS::set_reg(SegmentSelector(KERNEL_CODE));
        SS::set_reg(SegmentSelector(KERNEL_DATA));
        load_tss(SegmentSelector(TSS_SELECTOR));
        lidt(&pointer(TABLES.idt.get()));
        // STAR: the kernel's code selector. SFMASK: what the entry clears, TF, IF, DF, IOPL, NT and AC.
        Msr::new(0xc000_0081).write(u64::from(KERNEL_CODE) << 32);
        Msr::new(0xc000_0082).write(&raw const pv_native_syscall as u64);
        Msr::new(0xc000_0084).write(0x4_7700);
        // Without it a machine check resets the machine, and nothing says why.
        if __cpuid(1).edx & CPUID_MCE != 0 {
            Cr4::update(|flags| flags.insert(Cr4Flags::MACHINE_CHECK_EXCEPTION));
        }
    }
}

fn pointer<T>(table: *mut T) -> DescriptorTablePointer {
    DescriptorTablePointer { limit: (size_of::<T>() - 1) as u16, base: VirtAddr::from_ptr(table) }
}

/// An interrupt gate (Intel SDM vol. 3, 6.14.1).
const fn gate(stub: u64, stack: u64, level: u64) -> [u64; 2] {
    let low = stub & 0xffff | (KERNEL_CODE as u64) << 16 | stack << 32 | (0x8e | level << 5) << 40;
    [low | (stub >> 16 & 0xffff) << 48, stub >> 32]
}

/// # Safety
///
/// The memory below `top` must be mapped and used for nothing else while user mode runs.
pub unsafe fn stack_switch(top: u64) -> i64 {
    pv_native_user_entry_stack.store(top, Relaxed);
    // SAFETY: a word that only the processor reads, on its way from user mode.
    unsafe {
        (&raw mut (*TABLES.tss.get()).privilege_stack_table[0]).write_unaligned(VirtAddr::new_truncate(top))
    };
    0
}

/// # Safety
///
/// As for the hypercall.
pub unsafe fn set_segment_base(which: u64, base: u64) -> i64 {
    let Ok(base) = VirtAddr::try_new(base) else { return error(Errno::EINVAL) };
    let register = match u32::try_from(which) {
        Ok(SEGBASE_FS) => 0xc000_0100,
        Ok(SEGBASE_GS_KERNEL) => {
            KERNEL_GS.store(base.as_u64(), Relaxed);
            GS_BASE
        }
        Ok(SEGBASE_GS_USER) => 0xc000_0102,
        _ => return error(Errno::EINVAL),
    };
    // SAFETY: canonical; the rest is the caller's promise.
    unsafe { Msr::new(register).write(base.as_u64()) };
    0
}

/// Sets or clears CR0.TS.
pub fn fpu_taskswitch(set: bool) -> i64 {
    // SAFETY: the kernel does not use the FPU itself.
    unsafe { Cr0::update(|flags| flags.set(Cr0Flags::TASK_SWITCHED, set)) };
    0
}

/// In DR7: the next access to a debug register raises a debug exception.
const GENERAL_DETECT: u64 = 1 << 13;

macro_rules! debug_registers {
    ($($number:literal, $name:literal;)*) => {
        /// # Safety
        ///
        /// As for the hypercall.
        pub unsafe fn set_debug_register(number: u64, value: u64) -> i64 {
            if matches!(number, 6 | 7) && value >> 32 != 0 {
                return error(Errno::EINVAL);
            }
            if number == 7 && value & GENERAL_DETECT != 0 {
                return error(Errno::EPERM);
            }
            match number {
                $($number => {
                    // SAFETY: neither a reserved bit that would fault nor the one that makes the next access fault; what
                    // a breakpoint does is the caller's promise.
                    unsafe { core::arch::asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack)) };
                    0
                })*
                _ => error(Errno::EINVAL),
            }
        }

        pub fn debug_register(number: u64) -> i64 {
            let value: u64;
            match number {
                // SAFETY: reads a register.
                $($number => unsafe { core::arch::asm!(concat!("mov {}, ", $name), out(reg) value, options(nostack)) },)*
                _ => return error(Errno::EINVAL),
            }
            value.cast_signed()
        }
    };
}

debug_registers! { 0, "dr0"; 1, "dr1"; 2, "dr2"; 3, "dr3"; 6, "dr6"; 7, "dr7"; }
