//! Doing what may fault, and saying how it faulted.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use guest_pv_lib::println;
use guest_pv_lib::sched::{Shutdown, shutdown};
use guest_pv_lib::traps::{Frame, Vector, set_handler};

use super::user;

/// What an exception said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Vector.
    pub vector: u64,
    /// Error code, zero for a vector without one.
    pub error: u64,
    /// For a page fault, the address; zero otherwise.
    pub address: u64,
}

impl Fault {
    /// A page fault.
    pub const fn page(error: u64, address: u64) -> Self {
        Self { vector: 14, error, address }
    }

    /// Another exception.
    pub const fn of(vector: Vector, error: u64) -> Self {
        Self { vector: vector.number() as u64, error, address: 0 }
    }
}

/// Bits of a page fault's error code.
pub mod page_fault {
    /// The translation is there but forbids the access.
    pub const PRESENT: u64 = 1;
    /// A write.
    pub const WRITE: u64 = 2;
    /// From user mode. (A PV kernel runs in ring 3 as well, but is shown its own faults without this bit.)
    pub const USER: u64 = 4;
}

/// Where to go on after an exception; zero: none is expected.
static RESUME: AtomicU64 = AtomicU64::new(0);
/// Vector plus one of the exception that came; zero: none did.
static VECTOR: AtomicU64 = AtomicU64::new(0);
static ERROR: AtomicU64 = AtomicU64::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);

/// Takes over every vector.
pub fn init() {
    for vector in Vector::ALL {
        set_handler(vector, Some(handle));
    }
}

fn handle(frame: &mut Frame) {
    let address = if frame.vector() == 14 { frame.fault_address() } else { 0 };
    user::trapped(frame, Fault { vector: frame.vector(), error: frame.error_code(), address });
    let resume = RESUME.swap(0, Relaxed);
    if resume == 0 {
        println!("Bail out! CRASH: unexpected exception\n# {frame:?}");
        shutdown(Shutdown::Crash);
    }
    VECTOR.store(frame.vector() + 1, Relaxed);
    ERROR.store(frame.error_code(), Relaxed);
    ADDRESS.store(address, Relaxed);
    // SAFETY: the label behind the instruction that `probe!` guards, which expects any register contents that the
    // instruction leaves behind whether it completes or not.
    unsafe { frame.set_instruction_pointer(resume) };
}

/// What came since the last call.
pub fn taken() -> Result<(), Fault> {
    RESUME.store(0, Relaxed);
    match VECTOR.swap(0, Relaxed) {
        0 => Ok(()),
        vector => {
            Err(Fault { vector: vector - 1, error: ERROR.load(Relaxed), address: ADDRESS.load(Relaxed) })
        }
    }
}

/// The address that `probe!` writes the resume address to.
pub fn resume_slot() -> *mut u64 {
    RESUME.as_ptr()
}

/// Runs one instruction; an exception in it ends it. Evaluates to what [`taken`] says.
///
/// To be used in an `unsafe` block: what the instruction does where it does not fault is the user's business.
macro_rules! probe {
    ($instruction:literal $(, $($operands:tt)*)?) => {{
        ::core::arch::asm!(
            "lea {probe_scratch}, [rip + 2f]",
            "mov [{probe_slot}], {probe_scratch}",
            $instruction,
            "2:",
            probe_scratch = out(reg) _,
            probe_slot = in(reg) $crate::harness::fault::resume_slot(),
            $($($operands)*)?
        );
        $crate::harness::fault::taken()
    }};
}

/// Writes eight bytes.
pub fn write(address: u64, value: u64) -> Result<(), Fault> {
    // SAFETY: the cases write to pages of the pool, which are atomics of their own, or to where it must fault.
    unsafe { probe!("mov [{address}], {value}", address = in(reg) address, value = in(reg) value) }
}

/// Reads eight bytes.
pub fn read(address: u64) -> Result<u64, Fault> {
    let mut value = 0u64;
    // SAFETY: a read changes nothing; where it is not allowed it faults.
    unsafe { probe!("mov {value}, [{address}]", address = in(reg) address, value = inout(reg) value) }?;
    Ok(value)
}

/// Exchanges eight bytes by a locked instruction.
pub fn compare_exchange(address: u64, old: u64, new: u64) -> Result<u64, Fault> {
    let mut value = old;
    // SAFETY: as for `write`.
    unsafe {
        probe!("lock cmpxchg [{address}], {new}", address = in(reg) address, new = in(reg) new,
            inout("rax") value)
    }?;
    Ok(value)
}

/// Executes `ud2`, `int3` and the like: see the cases on exceptions.
pub fn breakpoint() -> Result<(), Fault> {
    // SAFETY: the handler resumes behind it.
    unsafe { probe!("int3") }
}

/// Reads CR3 of the virtual processor, which names the machine frame of the current root table.
pub fn cr3() -> Result<u64, Fault> {
    let mut value = 0u64;
    // SAFETY: privileged; the hypervisor emulates it, or it faults.
    unsafe { probe!("mov {value}, cr3", value = inout(reg) value) }?;
    Ok(value)
}

/// Whether the probe itself can be trusted: an instruction that faults is seen, one that does not is not.
pub fn self_test() -> bool {
    // SAFETY: `nop` does nothing; `ud2` is resumed behind.
    let (calm, storm): (Result<(), Fault>, _) = unsafe { (probe!("nop"), probe!("ud2")) };
    let mut spare = 0u64;
    // SAFETY: a plain register move, which shows that operands pass.
    unsafe { asm!("mov {}, 7", inout(reg) spare) };
    calm.is_ok() && storm == Err(Fault::of(Vector::INVALID_OPCODE, 0)) && spare == 7
}
