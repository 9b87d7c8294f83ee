//! A program's registers, as plain data.

use crate::traps::Frame;

/// What a program may change in its flags: the arithmetic ones, TF, DF, RF, AC and ID (Intel SDM vol. 1, 3.4.3).
const FLAGS: u64 = 0x0025_0dd5;
/// Bit 1, which is always set, and the interrupt flag.
const FIXED_FLAGS: u64 = 0x202;
/// The first address behind the user half.
const USER_END: u64 = 1 << 47;

/// The general registers of a program, and its segment bases. Nothing in here is trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    /// Where it goes on.
    pub rip: u64,
    /// Its stack pointer.
    pub rsp: u64,
    /// Its flags; the interrupt flag and the privilege level for I/O are not its own.
    pub rflags: u64,
    /// Set by the kernel only: what the program itself loads is not read back.
    pub fs_base: u64,
    /// As [`fs_base`](Self::fs_base).
    pub gs_base: u64,
}

impl Registers {
    /// Those of a program that starts at `rip` with its stack below `rsp`.
    #[must_use]
    pub fn new(rip: u64, rsp: u64) -> Self {
        Self { rip, rsp, ..Self::default() }
    }

    /// Whether user mode can have them.
    pub(super) const fn are_possible(&self) -> bool {
        self.rip < USER_END && self.fs_base < USER_END && self.gs_base < USER_END
    }

    pub(super) fn to_frame(&self, code: u16, stack: u16) -> Frame {
        let saved = [
            self.r15, self.r14, self.r13, self.r12, self.r10, self.r9, self.r8, self.rbp, self.rbx, self.rdx,
            self.rsi, self.rdi,
        ];
        Frame {
            saved,
            vector: 0,
            error: 0,
            rax: self.rax,
            r11: self.r11,
            rcx: self.rcx,
            flags: 0,
            rip: self.rip,
            cs: code.into(),
            rflags: (self.rflags & FLAGS) | FIXED_FLAGS,
            rsp: self.rsp,
            ss: stack.into(),
        }
    }

    /// Takes over what user mode looked like when it ended. The bases stay.
    pub(super) fn update(&mut self, frame: &Frame) {
        let [r15, r14, r13, r12, r10, r9, r8, rbp, rbx, rdx, rsi, rdi] = frame.saved;
        *self = Self {
            rax: frame.rax,
            rbx,
            rcx: frame.rcx,
            rdx,
            rsi,
            rdi,
            rbp,
            r8,
            r9,
            r10,
            r11: frame.r11,
            r12,
            r13,
            r14,
            r15,
            rip: frame.rip,
            rsp: frame.rsp,
            rflags: frame.rflags,
            fs_base: self.fs_base,
            gs_base: self.gs_base,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_brings_every_register_back() {
        let before = Registers {
            rax: 1,
            rbx: 2,
            rcx: 3,
            rdx: 4,
            rsi: 5,
            rdi: 6,
            rbp: 7,
            r8: 8,
            r9: 9,
            r10: 10,
            r11: 11,
            r12: 12,
            r13: 13,
            r14: 14,
            r15: 15,
            rip: 16,
            rsp: 17,
            rflags: 0x246,
            fs_base: 18,
            gs_base: 19,
        };
        let mut after = Registers { fs_base: 18, gs_base: 19, ..Registers::default() };
        after.update(&before.to_frame(0x33, 0x2b));
        assert_eq!(after, before);
    }

    #[test]
    fn a_program_has_no_flags_but_its_own() {
        let registers = Registers { rflags: u64::MAX, ..Registers::default() };
        let flags = registers.to_frame(0x33, 0x2b).rflags();
        // Neither IOPL (12, 13), NT (14), VM (17), VIF nor VIP (19, 20); interrupts on.
        assert_eq!(flags & 0x001a_7000, 0);
        assert_eq!(flags & 0x202, 0x202);
        assert_eq!(Registers::new(0, 0).to_frame(0, 0).rflags(), 0x202);
    }

    #[test]
    fn addresses_outside_the_user_half_are_impossible() {
        assert!(Registers::new(USER_END - 1, u64::MAX).are_possible());
        assert!(!Registers::new(USER_END, 0).are_possible());
        assert!(!Registers { fs_base: u64::MAX, ..Registers::default() }.are_possible());
        assert!(!Registers { gs_base: USER_END, ..Registers::default() }.are_possible());
    }
}
