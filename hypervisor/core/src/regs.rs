//! A vCPU's general registers as the entry code leaves them on the hypervisor's stack.

use xen_abi::hypercall::Hypercall;

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

    /// Sets the argument registers of hypercall `nr`, which is to be made again from where it stopped. Only those that it
    /// takes are the hypervisor's to change (xen-x86_64.h): the guest may keep values of its own in the others.
    pub fn set_hypercall_args(&mut self, nr: u64, args: [u64; 6]) {
        let taken = Hypercall::by_nr(nr).map_or(0, |hypercall| hypercall.args.len());
        let registers =
            [&mut self.rdi, &mut self.rsi, &mut self.rdx, &mut self.r10, &mut self.r8, &mut self.r9];
        for (register, arg) in registers.into_iter().zip(args).take(taken) {
            *register = arg;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xen_abi::hypercall::nr;

    /// A guest that keeps a value in a register that its hypercall does not take finds it again.
    #[test]
    fn only_argument_registers_change() {
        let mut regs = Regs { rdi: 1, rsi: 2, rdx: 3, r10: 4, r8: 5, r9: 6, ..Regs::default() };
        regs.set_hypercall_args(nr::MMUEXT_OP.into(), [10, 20, 30, 40, 0, 0]);
        assert_eq!(regs.hypercall_args(), [10, 20, 30, 40, 5, 6]);
        regs.set_hypercall_args(nr::MEMORY_OP.into(), [7, 8, 0, 0, 0, 0]);
        assert_eq!(regs.hypercall_args(), [7, 8, 30, 40, 5, 6]);
    }
}
