//! The FPU's registers, which belong to user programs: the kernel itself is compiled without them. The library does not
//! compile for a kernel that is not: its entries save no such register, so any event would change those of the code that
//! it interrupts.
//!
//! A kernel with several programs saves the registers of one and restores those of the next when it changes between
//! them, or does so only when needed, by [`set_task_switched`](super::control::set_task_switched).

#[cfg(all(target_os = "none", target_feature = "sse"))]
compile_error!(
    "guest-pv-lib needs a kernel that is compiled without floating-point and vector registers, as for the target \
     x86_64-unknown-none: take `sse` and what implies it out of its target features"
);

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

    /// Loads this CPU's registers from here. On a host nothing happens: there the registers are the process' own.
    #[doc(alias = "fxrstor64")]
    pub fn restore(&self) {
        // SAFETY: reads the 512 aligned bytes, which are those of `new` or of `save`: no reserved bit of MXCSR is set.
        // Code for this target has nothing in these registers (see the module's head).
        #[cfg(target_os = "none")]
        unsafe {
            core::arch::x86_64::_fxrstor64(self.0.as_ptr());
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use core::arch::asm;

    use super::*;

    #[test]
    fn a_new_state_is_what_the_processor_takes() {
        let (mut before, new, mut after) = (State::new(), State::new(), State::new());
        // SAFETY: the registers are as before at the end; the three areas are aligned, and two of them exclusively borrowed.
        unsafe {
            asm!(
                "fxsave64 [{before}]",
                "fxrstor64 [{new}]",
                "fxsave64 [{after}]",
                "fxrstor64 [{before}]",
                before = in(reg) before.0.as_mut_ptr(),
                new = in(reg) new.0.as_ptr(),
                after = in(reg) after.0.as_mut_ptr(),
                options(nostack),
            );
        }
        assert_eq!((&after.0[0..2], &after.0[24..28]), (&[0x7f, 3][..], &[0x80, 0x1f, 0, 0][..]));
    }

    /// A process has its own numbers in these registers: safe code must not be able to change them.
    #[test]
    fn on_a_host_nothing_is_restored() {
        let (mut control, changed) = (0u32, 0x9f80u32);
        let mut seen = 0u32;
        // SAFETY: the flag in MXCSR that is set here (flush to zero) is taken back below.
        unsafe {
            asm!("stmxcsr [{}]", in(reg) &raw mut control, options(nostack));
            asm!("ldmxcsr [{}]", in(reg) &raw const changed, options(nostack));
        }
        State::new().restore();
        // SAFETY: as above.
        unsafe {
            asm!("stmxcsr [{}]", in(reg) &raw mut seen, options(nostack));
            asm!("ldmxcsr [{}]", in(reg) &raw const control, options(nostack));
        }
        assert_eq!(seen, changed);
    }
}
