//! The FPU's registers, which belong to user programs: the kernel itself is compiled without them.
//!
//! A kernel with several programs saves the registers of one and restores those of the next when it changes between
//! them, or does so only when needed, by [`set_task_switched`](super::control::set_task_switched).

/// x87, MMX and SSE registers in the layout of `fxsave` (Intel SDM vol. 1, 10.5). AVX state is not part of it: a kernel
/// that lets its programs use AVX needs the larger area of `xsave`.
#[repr(C, align(16))]
#[derive(Clone)]
pub struct State([u8; 512]);

impl State {
    /// The registers of a program that starts: all exceptions masked, everything else zero.
    #[must_use]
    pub const fn new() -> Self {
        let mut bytes = [0; 512];
        // FCW: 64-bit precision, round to nearest, exceptions masked. MXCSR: its value after reset.
        [bytes[0], bytes[1]] = 0x037f_u16.to_le_bytes();
        [bytes[24], bytes[25], ..] = 0x1f80_u32.to_le_bytes();
        Self(bytes)
    }

    /// Stores this CPU's registers here.
    #[doc(alias = "fxsave64")]
    pub fn save(&mut self) {
        // SAFETY: writes the 512 bytes, which are aligned and exclusively borrowed.
        unsafe { core::arch::x86_64::_fxsave64(self.0.as_mut_ptr()) };
    }

    /// Loads this CPU's registers from here.
    #[doc(alias = "fxrstor64")]
    pub fn restore(&self) {
        // SAFETY: reads the 512 aligned bytes, which are those of `new` or of `save`: no reserved bit of MXCSR is set.
        // The kernel is compiled without floating-point registers, so it does not notice.
        unsafe { core::arch::x86_64::_fxrstor64(self.0.as_ptr()) };
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_comes_back() {
        let mut before = State::new();
        before.save();
        let mut new = State::new();
        new.restore();
        new.save();
        before.restore();
        assert_eq!((&new.0[0..2], &new.0[24..28]), (&[0x7f, 3][..], &[0x80, 0x1f, 0, 0][..]));
    }
}
