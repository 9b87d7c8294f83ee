//! User mode: a program's registers go in, and when it comes back, the reason and its registers come out.
//!
//! [`UserMode::run`] looks like a function call. It enters the program by the `iret` hypercall (natively by the
//! instruction), in the address space that is current, and returns when the program makes a system call, raises an
//! exception, or is interrupted by an event, whose handler has then run already. So a kernel's scheduler is a loop, its
//! programs need no kernel stack of their own, and preemption is a timer:
//!
//! ```no_run
//! use guest_pv_lib::user::{Exit, Registers, UserMode};
//!
//! fn run_one(user: &mut UserMode, registers: &mut Registers) {
//!     match user.run(registers) {
//!         Exit::Syscall => registers.rax = 0, // the number is in rax, by whatever convention the kernel has
//!         Exit::Exception { vector, .. } => panic!("the program raised {vector}"),
//!         Exit::Event => (), // perhaps its time is up
//!     }
//! }
//! ```
//!
//! Memory safety is the page tables' matter: user mode reaches what the user half of the current address space maps for
//! it, and nothing of the kernel. The registers are the program's own and may hold anything; the flags are cut down to those that
//! a program may have, and interrupts are always on.
//!
//! # How it works
//!
//! Each CPU has an `Area` with the stack for entries from user mode. `run` saves the callee-saved registers
//! on the kernel's stack and that stack pointer in the area, and leaves through the tail of the trap stubs, with a copy of
//! the program's frame below all that lives on the kernel's stack: what interrupts the tail pushes below that. Whatever
//! ends user mode builds a [`Frame`], with upcalls masked, on the area's stack, or natively on one that the
//! processor has for that vector; `ended` copies it to `run`'s and goes back to the saved stack, where the handlers of an
//! event run. The CPU's own record says where the area is.

mod registers;
#[cfg(any(test, target_os = "none"))]
mod switch;

pub use registers::Registers;

use core::cell::{Cell, UnsafeCell};
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use crate::cpu::segments;
use crate::smp::this_cpu;
use crate::traps::Frame;

/// Why user mode ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The program executed `syscall`. `rip` is behind the instruction; `rcx` and `r11` are lost, as the instruction has it.
    #[doc(alias = "CALLBACKTYPE_syscall")]
    Syscall,
    /// The program raised an exception; `rip` is where the processor says for that vector.
    Exception {
        /// Its number (see [`Vector`](crate::traps::Vector)).
        vector: u8,
        /// The error code, zero for a vector without one.
        error_code: u64,
        /// For a page fault the address that could not be accessed, otherwise of no meaning.
        address: u64,
    },
    /// An event interrupted the program, between two instructions. Its handler has run.
    Event,
}

/// Bytes of the stack for entries from user mode. No handler of the kernel's runs there, only the way to `ended`.
const STACK: usize = 8 << 10;

/// What a CPU needs to come back from user mode.
#[repr(C, align(16))]
pub(crate) struct Area {
    /// The stack for entries from user mode, which grows down from its end.
    stack: UnsafeCell<[u8; STACK]>,
    /// The kernel's stack pointer in [`UserMode::run`].
    kernel_stack: Cell<u64>,
    /// Where `run` wants the frame.
    frame: Cell<*mut Frame>,
    /// Whose segment bases are loaded: the address of those registers, for comparing only, and the two bases.
    loaded: Cell<(usize, u64, u64)>,
}

const _: () = assert!(core::mem::offset_of!(Area, kernel_stack) == STACK && STACK.is_multiple_of(16));

// SAFETY: each area is used by one CPU only, the one whose `UserMode` refers to it.
unsafe impl Sync for Area {}

impl Area {
    const fn new() -> Self {
        Self {
            stack: UnsafeCell::new([0; STACK]),
            kernel_stack: Cell::new(0),
            frame: Cell::new(ptr::null_mut()),
            loaded: Cell::new((0, 0, 0)),
        }
    }

    /// The first CPU's, so that one CPU needs no allocator.
    fn first() -> Option<&'static Self> {
        static FIRST: Area = Area::new();
        static TAKEN: AtomicBool = AtomicBool::new(false);
        (!TAKEN.swap(true, AcqRel)).then_some(&FIRST)
    }

    /// Pages of its own, because a stack may have no room for one on its way into a box.
    #[cfg(feature = "alloc")]
    fn further() -> &'static Self {
        use crate::memory::Pages;

        let pages = Pages::new(size_of::<Self>().div_ceil(crate::mmu::PAGE_SIZE));
        let bytes = pages.expect("memory for the way back from user mode").leak();
        // SAFETY: as many bytes, aligned to a page, and nobody else's from here on. They are zero, as in `new`.
        unsafe { &*bytes.as_mut_ptr().cast::<Self>() }
    }

    #[cfg(not(feature = "alloc"))]
    fn further() -> &'static Self {
        panic!("user mode on a further CPU needs the feature `alloc`")
    }

    /// The top of the stack.
    #[cfg_attr(not(target_os = "none"), allow(dead_code))]
    fn top(&self) -> u64 {
        (&raw const self.kernel_stack) as u64
    }
}

/// The right to enter user mode on one CPU, the one that made it.
pub struct UserMode {
    area: &'static Area,
    /// It must stay on its CPU.
    _here: PhantomData<*mut ()>,
}

impl UserMode {
    /// Prepares the calling CPU: its stack for entries from user mode, and its system call entry.
    ///
    /// A kernel that uses this leaves [`stack_switch`](crate::cpu::segments::stack_switch) and the callback for system
    /// calls alone.
    ///
    /// # Panics
    ///
    /// The second time on a CPU, which has one way back from user mode. Without the feature `alloc`, on the second CPU.
    #[must_use]
    pub fn new() -> Self {
        let first_here = !this_cpu().has_user_mode.swap(true, AcqRel);
        assert!(first_here, "CPU {} has a way into user mode already", this_cpu().number());
        let area = Area::first().unwrap_or_else(Area::further);
        this_cpu().user_area.store(ptr::from_ref(area).cast_mut(), Release);
        Self::prepare(area);
        Self { area, _here: PhantomData }
    }

    #[cfg(target_os = "none")]
    fn prepare(area: &'static Area) {
        // SAFETY: the area's stack is used for nothing else.
        if let Err(error) = unsafe { segments::stack_switch(area.top()) } {
            panic!("stack_switch: {error:?}");
        }
        switch::register_syscall();
    }

    /// Nothing to enter on a host.
    #[cfg(not(target_os = "none"))]
    const fn prepare(_: &'static Area) {}

    /// Runs the program whose registers are `registers` until it comes back.
    ///
    /// Upcalls are on while the program runs, whatever they were before, and afterwards as they were before.
    ///
    /// Registers that no program can have (an instruction pointer or a segment base outside the user half) end it before
    /// it starts: by a general protection exception.
    #[doc(alias("HYPERVISOR_iret", "iret_context"))]
    pub fn run(&mut self, registers: &mut Registers) -> Exit {
        if !registers.are_possible() {
            return Exit::Exception {
                vector: crate::traps::Vector::GENERAL_PROTECTION.number(),
                error_code: 0,
                address: 0,
            };
        }
        let masked = crate::events::mask_upcalls();
        self.load_bases(registers);
        let (code, stack) = crate::platform::user_selectors();
        let frame = registers.to_frame(code, stack);
        let mut ended = MaybeUninit::uninit();
        self.area.frame.set(ended.as_mut_ptr());
        if crate::platform::before_user() {
            segments::load_kernel_fs_base();
            crate::events::unmask_upcalls();
            if masked {
                crate::events::mask_upcalls();
            }
            return Exit::Event;
        }
        enter(&frame, &self.area.kernel_stack);
        crate::platform::after_user();
        segments::load_kernel_fs_base();
        // SAFETY: `enter` returns after `ended` has written the frame.
        let ended = unsafe { ended.assume_init() };
        // Upcalls are masked on every way out of user mode.
        if ended.vector() == crate::traps::EVENT {
            crate::events::dispatch();
        }
        if !masked {
            crate::events::unmask_upcalls();
        }
        registers.update(&ended);
        exit_of(&ended)
    }

    /// Loads the bases of a program other than the last, and that of FS also where the kernel has had its own in between. A
    /// program that changes its own keeps the change only as long as neither happens.
    fn load_bases(&self, registers: &Registers) {
        let whose = (ptr::from_ref(registers) as usize, registers.fs_base, registers.gs_base);
        let is_last = self.area.loaded.replace(whose) == whose;
        if !is_last || segments::has_kernel_fs_base() {
            // SAFETY: upcalls are masked, and nothing from here to `load_kernel_fs_base` uses FS.
            unsafe { segments::load_user_fs_base(registers.fs_base) };
        }
        if !is_last {
            // In the user half, so it is not refused.
            let _ = segments::set_user_gs_base(registers.gs_base);
        }
    }
}

impl Default for UserMode {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(target_os = "none")]
fn enter(frame: &Frame, kernel_stack: &Cell<u64>) {
    // SAFETY: the frame leads to user mode with flags and selectors of user mode. This CPU's area is set up, so whatever
    // ends user mode returns here, with what the C convention preserves.
    unsafe { switch::enter(frame, kernel_stack) };
}

#[cfg(not(target_os = "none"))]
fn enter(_: &Frame, _: &Cell<u64>) {
    unreachable!("there is no user mode to enter on a host");
}

fn exit_of(frame: &Frame) -> Exit {
    match frame.vector() {
        crate::traps::SYSCALL => Exit::Syscall,
        crate::traps::EVENT => Exit::Event,
        vector => Exit::Exception {
            // The stubs give eight-bit numbers.
            vector: u8::try_from(vector).unwrap_or(u8::MAX),
            error_code: frame.error_code(),
            address: frame.fault_address(),
        },
    }
}

/// Whether frames from user mode on this CPU are this module's.
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
pub(crate) fn is_in_use() -> bool {
    !this_cpu().user_area.load(Acquire).is_null()
}

/// Ends user mode: gives `frame`, which interrupted it, to the [`UserMode::run`] that is under way, and returns there.
///
/// # Safety
///
/// `frame` must have interrupted the user mode that [`UserMode::run`] entered on this CPU, where [`is_in_use`] holds.
/// Nothing on the stack in use may need to be dropped.
#[cfg(target_os = "none")]
pub(crate) unsafe fn ended(frame: &Frame) -> ! {
    let area = this_cpu().user_area.load(Acquire);
    // SAFETY: the pointer is that of the area of this CPU's `UserMode`, a `&'static`. Its `run` is under way by the
    // caller's promise: it waits for its frame, and noted the stack pointer to return to.
    unsafe {
        (*area).frame.get().copy_from_nonoverlapping(frame, 1);
        switch::leave((*area).kernel_stack.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second would take the way back from the first, whose program then ended nowhere.
    #[test]
    #[should_panic = "has a way into user mode already"]
    fn a_cpu_has_one_way_into_user_mode() {
        let _first = UserMode::new();
        let _second = UserMode::new();
    }
}
