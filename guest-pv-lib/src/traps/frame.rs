//! What the stubs leave on the stack.

use core::fmt;

/// The vector number that stands for the event upcall.
pub const EVENT: u64 = 0x100;
/// The vector number that stands for a system call from user mode.
pub const SYSCALL: u64 = 0x102;
/// The vector number that stands for the failsafe callback.
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
pub const FAILSAFE: u64 = 0x101;

/// The interrupted program's registers.
///
/// Reading is safe; writing decides what runs next, so the setters are unsafe.
#[repr(C)]
pub struct Frame {
    /// `r15 r14 r13 r12 r10 r9 r8 rbp rbx rdx rsi rdi`, the order of the pushes backwards.
    pub(crate) saved: [u64; 12],
    pub(crate) vector: u64,
    pub(crate) error: u64,
    // From here on the layout is that of the `iret` hypercall (`struct iret_context`).
    pub(crate) rax: u64,
    pub(crate) r11: u64,
    pub(crate) rcx: u64,
    /// `VGCF_*` on the way back; on the way in the stubs leave zero, and `dispatch` keeps the fault address here
    /// while the handler runs.
    pub(crate) flags: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}

const _: () = {
    use core::mem::offset_of;
    assert!(
        size_of::<Frame>() == 23 * 8 && offset_of!(Frame, rax) == 14 * 8 && offset_of!(Frame, rip) == 18 * 8
    );
};

impl Frame {
    /// The vector: an exception's number.
    #[must_use]
    pub const fn vector(&self) -> u64 {
        self.vector
    }

    /// The error code, zero for a vector without one.
    #[must_use]
    pub const fn error_code(&self) -> u64 {
        self.error
    }

    /// For a page fault: the address that could not be accessed.
    #[doc(alias = "cr2")]
    #[must_use]
    pub const fn fault_address(&self) -> u64 {
        self.flags
    }

    pub(super) fn set_fault_address(&mut self, address: u64) {
        self.flags = address;
    }

    /// Address of the instruction that faulted, or of the next one for a trap.
    #[must_use]
    pub const fn instruction_pointer(&self) -> u64 {
        self.rip
    }

    /// The stack pointer.
    #[must_use]
    pub const fn stack_pointer(&self) -> u64 {
        self.rsp
    }

    /// The flags; the interrupt flag is the opposite of the upcall mask.
    #[must_use]
    pub const fn rflags(&self) -> u64 {
        self.rflags
    }

    /// Whether user mode was interrupted (the hypervisor shows kernel mode as privilege level 0).
    #[must_use]
    pub const fn from_user(&self) -> bool {
        self.cs & 3 == 3
    }

    /// `rax`, which carries results across resumed instructions.
    #[must_use]
    pub const fn rax(&self) -> u64 {
        self.rax
    }

    /// Resumes at `address`.
    ///
    /// # Safety
    ///
    /// The code there must be one that may run with the frame's registers and stack.
    pub const unsafe fn set_instruction_pointer(&mut self, address: u64) {
        self.rip = address;
    }

    /// Changes `rax`.
    ///
    /// # Safety
    ///
    /// The code that resumes must expect `value` there.
    pub const unsafe fn set_rax(&mut self, value: u64) {
        self.rax = value;
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [r15, r14, r13, r12, r10, r9, r8, rbp, rbx, rdx, rsi, rdi] = self.saved;
        writeln!(f, "vector {:#x} error {:#x} cr2 {:#x}", self.vector, self.error, self.flags)?;
        writeln!(f, "rip {:04x}:{:#018x} rflags {:#x}", self.cs as u16, self.rip, self.rflags)?;
        writeln!(f, "rsp {:04x}:{:#018x} rbp {rbp:#018x}", self.ss as u16, self.rsp)?;
        writeln!(f, "rax {:#018x} rbx {rbx:#018x} rcx {:#018x}", self.rax, self.rcx)?;
        writeln!(f, "rdx {rdx:#018x} rsi {rsi:#018x} rdi {rdi:#018x}")?;
        writeln!(f, "r8  {r8:#018x} r9  {r9:#018x} r10 {r10:#018x}")?;
        writeln!(f, "r11 {:#018x} r12 {r12:#018x} r13 {r13:#018x}", self.r11)?;
        write!(f, "r14 {r14:#018x} r15 {r15:#018x}")
    }
}
