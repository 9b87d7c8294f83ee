//! A vCPU's general registers as the entry code leaves them on the hypervisor's stack.

/// Saved by every entry from a guest, restored by every exit to it. The order is the order of the pushes in
/// `hypervisor/src/trap/*.S`, which takes its offsets from this type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are the registers of their names")]
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// Vector that entered: an exception, an interrupt, or [`VECTOR_SYSCALL`].
    pub vector: u64,
    /// Hardware error code of the exception that entered, else 0.
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// [`Regs::vector`] of an entry by `syscall`: no interrupt vector has this number.
pub const VECTOR_SYSCALL: u64 = 0x100;

impl Regs {
    /// The six hypercall arguments in the ABI's order (arch-x86/xen-x86_64.h).
    pub fn hypercall_args(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }

    /// Sets the argument registers, for a hypercall that is to be made again from where it stopped.
    pub fn set_hypercall_args(&mut self, args: [u64; 6]) {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9] = args;
    }
}
