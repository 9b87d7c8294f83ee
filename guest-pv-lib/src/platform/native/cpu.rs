//! The processor: descriptor tables, the stubs of its exceptions and interrupts, and a few registers.
//!
//! The stubs leave the same [`Frame`] as those of a PV kernel and end in the same [`traps::dispatch`]. Rules for the
//! assembly: labels start with `pv_native`; GS is swapped on every way from and to user mode, so that GS is the kernel's
//! while the kernel runs; interrupts are off in the stubs.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use x86_64::VirtAddr;
use x86_64::instructions::tables::{lgdt, lidt, load_tss};
use x86_64::instructions::{interrupts, segmentation::Segment};
use x86_64::registers::control::{Cr0, Cr0Flags, Cr2};
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

global_asm!(
    ".pushsection .bss.pv_native_cpu, \"aw\", @nobits",
    ".balign 8",
    ".global pv_native_user_entry_stack",
    "pv_native_user_entry_stack: .skip 8",
    "pv_native_user_stack: .skip 8",
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
    safe static pv_native_user_entry_stack: AtomicU64;
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
        vector if vector < TIMER || vector == SYSCALL => exception(frame),
        // Spurious.
        _ => {}
    }
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

/// Memory that the processor reads and, for stacks, writes; the kernel writes it in `init` only.
#[repr(C, align(16))]
struct Tables {
    gdt: UnsafeCell<[u64; 7]>,
    idt: UnsafeCell<[[u64; 2]; 256]>,
    tss: UnsafeCell<TaskStateSegment>,
    /// For a double fault and for an NMI, which may come where no stack is good.
    stacks: UnsafeCell<[[u8; 4096]; 2]>,
}

// SAFETY: written by `init`, once and alone; by `stack_switch`, whose word only the processor reads; and by the
// processor.
unsafe impl Sync for Tables {}

static TABLES: Tables = Tables {
    gdt: UnsafeCell::new([0; 7]),
    idt: UnsafeCell::new([[0; 2]; 256]),
    tss: UnsafeCell::new(TaskStateSegment::new()),
    stacks: UnsafeCell::new([[0; 4096]; 2]),
};

/// Loads the tables and turns on system calls.
///
/// # Safety
///
/// Once, with interrupts off.
pub unsafe fn init() {
    const DOUBLE_FAULT_STACK: u64 = 1;
    const NMI_STACK: u64 = 2;
    // SAFETY: nothing refers to the tables yet. The descriptors are flat ones for ring 0 and ring 3 and the TSS; the
    // selectors loaded are theirs; every gate leads to a stub that expects the frame of its vector.
    unsafe {
        let tss = &mut *TABLES.tss.get();
        for (at, stack) in [DOUBLE_FAULT_STACK, NMI_STACK].into_iter().zip(&mut *TABLES.stacks.get()) {
            tss.interrupt_stack_table[at as usize - 1] = VirtAddr::from_ptr(stack.as_ptr_range().end);
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
                8 => (8, DOUBLE_FAULT_STACK),
                2 | 18 => (stub as u8, NMI_STACK),
                _ => (stub as u8, 0),
            };
            // `int3` and `into` may be executed by anyone.
            let level = if matches!(vector, 3 | 4) { 3 } else { 0 };
            idt[usize::from(vector)] = gate(&raw const pv_native_stubs as u64 + stub * 16, stack, level);
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
        Ok(SEGBASE_GS_KERNEL) => 0xc000_0101,
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

macro_rules! debug_registers {
    ($($number:literal, $name:literal;)*) => {
        /// # Safety
        ///
        /// As for the hypercall.
        pub unsafe fn set_debug_register(number: u64, value: u64) -> i64 {
            match number {
                $($number => {
                    // SAFETY: the reserved bits of DR6 and DR7 that would fault are its upper halves.
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
