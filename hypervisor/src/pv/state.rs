//! What the arch side keeps for each vCPU beside the core's `PvState`.

use crate::cpu::fpu::{self, FpuImage};
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};
use spin::Mutex;

/// State of a vCPU that only the CPU that runs it looks at (and nobody while it is off every CPU).
pub struct VcpuArch {
    /// FPU state while another vCPU's is loaded.
    pub fpu: Mutex<FpuImage>,
    /// What the guest wrote into XCR0.
    pub xcr0: AtomicU64,
    /// DR0 to DR3, then DR6 and DR7 at their numbers.
    pub debug: [AtomicU64; 8],
    /// CPU that loaded it last.
    pub loaded_on: AtomicU32,
    /// Selectors of DS, ES, FS and GS while another vCPU's are loaded.
    pub selectors: [AtomicU16; 4],
}

impl VcpuArch {
    /// The state of a vCPU that never ran.
    pub fn new() -> Self {
        let debug = [const { AtomicU64::new(0) }; 8];
        debug[6].store(super::debug::DR6_DEFAULT, core::sync::atomic::Ordering::Relaxed);
        debug[7].store(super::debug::DR7_DEFAULT, core::sync::atomic::Ordering::Relaxed);
        Self {
            fpu: Mutex::new(FpuImage::new()),
            xcr0: AtomicU64::new(fpu::supported_xcr0()),
            debug,
            loaded_on: AtomicU32::new(u32::MAX),
            selectors: [const { AtomicU16::new(0) }; 4],
        }
    }
}
