//! Exceptions: the trap table, the frame that a handler sees, and what happens without a handler.
//!
//! The hypervisor enters a stub in ring 3 with `rcx`, `r11`, where the vector has one an error code, and an `iret`
//! frame on the stack; the stub completes that to a [`Frame`], calls the handler and returns by the `iret` hypercall,
//! which restores the interrupt flag (the upcall mask) in the same step.

mod frame;
#[cfg(target_os = "none")]
pub(crate) mod stubs;

use core::mem;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicPtr};

pub use frame::Frame;
pub(crate) use frame::{EVENT, SYSCALL};

/// A processor exception (Intel SDM vol. 3, table 6-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Vector(u8);

impl Vector {
    /// Division by zero or overflow of a quotient.
    pub const DIVIDE_ERROR: Self = Self(0);
    /// Single step, hardware breakpoint.
    pub const DEBUG: Self = Self(1);
    /// `int3`.
    pub const BREAKPOINT: Self = Self(3);
    /// `into`.
    pub const OVERFLOW: Self = Self(4);
    /// `bound`.
    pub const BOUND_RANGE: Self = Self(5);
    /// An instruction that does not exist here.
    pub const INVALID_OPCODE: Self = Self(6);
    /// The FPU belongs to somebody else (`fpu_taskswitch`).
    pub const DEVICE_NOT_AVAILABLE: Self = Self(7);
    /// A bad task state segment.
    pub const INVALID_TSS: Self = Self(10);
    /// A segment that is not present.
    pub const SEGMENT_NOT_PRESENT: Self = Self(11);
    /// A stack segment fault, also for non-canonical stack addresses.
    pub const STACK_FAULT: Self = Self(12);
    /// Anything that is not allowed.
    pub const GENERAL_PROTECTION: Self = Self(13);
    /// A translation is missing or does not allow the access; see [`Frame::fault_address`].
    pub const PAGE_FAULT: Self = Self(14);
    /// x87 exception.
    pub const X87: Self = Self(16);
    /// Misaligned access with alignment checks on.
    pub const ALIGNMENT_CHECK: Self = Self(17);
    /// Machine check. Natively and under PVH one that interrupts the kernel ends it, whatever handler there is: it may have
    /// come where no stack is good.
    pub const MACHINE_CHECK: Self = Self(18);
    /// SSE exception.
    pub const SIMD: Self = Self(19);

    /// The vectors that the trap table has stubs for.
    pub const ALL: [Self; 16] = [
        Self::DIVIDE_ERROR,
        Self::DEBUG,
        Self::BREAKPOINT,
        Self::OVERFLOW,
        Self::BOUND_RANGE,
        Self::INVALID_OPCODE,
        Self::DEVICE_NOT_AVAILABLE,
        Self::INVALID_TSS,
        Self::SEGMENT_NOT_PRESENT,
        Self::STACK_FAULT,
        Self::GENERAL_PROTECTION,
        Self::PAGE_FAULT,
        Self::X87,
        Self::ALIGNMENT_CHECK,
        Self::MACHINE_CHECK,
        Self::SIMD,
    ];

    /// The number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// What runs for an exception: on the stack that was in use, upcalls as they were. Returning resumes the program
/// where the frame says.
pub type Handler = fn(&mut Frame);

/// Null or a [`Handler`] for each vector.
static HANDLERS: [AtomicPtr<()>; 32] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 32];

/// Sets what runs for `vector`, and returns what ran before. None: a report on the console, and the domain ends
/// with [`Shutdown::Crash`](crate::sched::Shutdown::Crash).
#[doc(alias("HYPERVISOR_set_trap_table", "trap_info"))]
pub fn set_handler(vector: Vector, handler: Option<Handler>) -> Option<Handler> {
    let new = handler.map_or(core::ptr::null_mut(), |handler| handler as *mut ());
    let old = HANDLERS[usize::from(vector.0)].swap(new, Release);
    // SAFETY: the table holds null or a `Handler`; null is `None` of the same size.
    unsafe { mem::transmute::<*mut (), Option<Handler>>(old) }
}

/// The interrupt flag among a frame's flags.
const INTERRUPT_FLAG: u64 = 1 << 9;

/// Called by the stubs, with upcalls masked.
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
pub(crate) extern "C" fn dispatch(frame: &mut Frame) {
    #[cfg(target_os = "none")]
    if frame.from_user() && crate::user::is_in_use() {
        frame.set_fault_address(crate::shared::this_vcpu().cr2.load(Relaxed));
        // SAFETY: user mode was interrupted on this CPU, so a `run` of its `UserMode` is under way.
        unsafe { crate::user::ended(frame) };
    }
    if frame.vector() == frame::EVENT {
        return crate::events::dispatch();
    }
    #[cfg(target_os = "none")]
    if frame.vector() == Vector::PAGE_FAULT.number().into()
        && !frame.from_user()
        && let Some(address) = crate::mmu::resume(frame.rip)
    {
        frame.rip = address;
        return;
    }
    let entry = usize::try_from(frame.vector())
        .ok()
        .and_then(|vector| HANDLERS.get(vector))
        .map_or(core::ptr::null_mut(), |entry| entry.load(Acquire));
    // A second fault may come as soon as upcalls are unmasked: take the address now.
    frame.set_fault_address(crate::shared::this_vcpu().cr2.load(Relaxed));
    // SAFETY: as in `set_handler`.
    match unsafe { mem::transmute::<*mut (), Option<Handler>>(entry) } {
        Some(handler) => {
            if frame.rflags() & INTERRUPT_FLAG != 0 {
                crate::events::unmask_upcalls();
            }
            handler(frame);
        }
        None => unhandled(frame),
    }
}

/// Reports an exception that nothing handles, and ends the domain. One that comes while the first is being reported, because what
/// the report needs is broken as well, ends it at once.
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
pub(crate) fn unhandled(frame: &Frame) -> ! {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    once(&REPORTED, || crate::console::emergency(format_args!("unhandled exception\n{frame:#?}\n")));
    crate::sched::shutdown(crate::sched::Shutdown::Crash)
}

/// Makes a report, unless it was made or is being made.
pub(crate) fn once(reported: &AtomicBool, report: impl FnOnce()) {
    if !reported.swap(true, Relaxed) {
        report();
    }
}

/// Registers the stubs and the failsafe callback again, for a kernel that had others in their place meanwhile.
///
/// # Errors
///
/// What the hypervisor says.
#[cfg(target_os = "none")]
pub fn reinstall() -> Result<(), crate::Errno> {
    stubs::register()?;
    crate::events::register_failsafe();
    Ok(())
}

/// Registers the stubs.
#[cfg(target_os = "none")]
pub(crate) fn init() {
    if let Err(error) = stubs::register() {
        panic!("set_trap_table: {error:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fault in the report of a fault made another report, and so on until the stack was full.
    #[test]
    fn a_report_of_a_report_is_not_made() {
        let (reported, mut made) = (AtomicBool::new(false), 0);
        once(&reported, || {
            made += 1;
            once(&reported, || panic!("it would fault again"));
        });
        once(&reported, || panic!("the domain ends"));
        assert_eq!(made, 1);
    }
}
