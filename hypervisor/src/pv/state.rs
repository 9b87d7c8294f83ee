//! What the arch side keeps for each vCPU beside the core's `PvState`.

use crate::cpu::fpu::{self, FpuImage};
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};
use hypervisor_core::cpu_policy::MsrState;
use spin::Mutex;

/// State of a vCPU that only the CPU that runs it looks at (and nobody while it is off every CPU).
pub struct VcpuArch {
    /// FPU state while another vCPU's is loaded.
    pub fpu: Mutex<FpuImage>,
    /// What the guest wrote into XCR0.
    pub xcr0: AtomicU64,
    /// DR0 to DR3, then DR6 and DR7 at their numbers; DR7 without breakpoints on I/O.
    pub debug: [AtomicU64; 8],
    /// The enable bits of DR7 that are for breakpoints on I/O: those are emulated.
    pub io_breakpoints: AtomicU64,
    /// CPU that loaded it last.
    pub loaded_on: AtomicU32,
    /// Model-specific registers of its own.
    pub msrs: MsrState,
    /// Selectors of DS, ES, FS and GS while another vCPU's are loaded.
    pub selectors: [AtomicU16; 4],
}

impl VcpuArch {
    /// The state of a vCPU that never ran. `None`: there is no memory for it.
    pub fn new() -> Option<Self> {
        let debug = [const { AtomicU64::new(0) }; 8];
        debug[6].store(super::debug::DR6_DEFAULT, core::sync::atomic::Ordering::Relaxed);
        debug[7].store(super::debug::DR7_DEFAULT, core::sync::atomic::Ordering::Relaxed);
        Some(Self {
            fpu: Mutex::new(FpuImage::new()?),
            xcr0: AtomicU64::new(fpu::FIRST_XCR0),
            debug,
            io_breakpoints: AtomicU64::new(0),
            loaded_on: AtomicU32::new(u32::MAX),
            msrs: MsrState::default(),
            selectors: [const { AtomicU16::new(0) }; 4],
        })
    }
}
