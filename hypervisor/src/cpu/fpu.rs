//! FPU, SSE and AVX state. The hypervisor is compiled without any of it, so what is in the registers is always the
//! state of the vCPU whose context is loaded, and moves only when another vCPU is loaded.

use super::{cpuid, features};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::asm;
use core::arch::x86_64::{_fxrstor64, _fxsave64, _xsetbv};
use core::sync::atomic::{AtomicU64, Ordering};

/// XCR0 of a vCPU whose guest never wrote it: x87 and SSE.
pub const FIRST_XCR0: u64 = 3;
/// Bytes of the legacy area, which every CPU has.
const LEGACY: usize = 512;
/// MXCSR bits that every CPU takes: those without DAZ, which the oldest refuse (SDM Vol. 1, 11.6.6).
const MXCSR_BITS: u32 = 0xffbf;

static XCR0: AtomicU64 = AtomicU64::new(1);

/// What guests may enable in XCR0.
pub fn supported_xcr0() -> u64 {
    XCR0.load(Ordering::Relaxed)
}

/// Prepares this CPU: FPU on, errors by exception, all of XCR0 that guests may use.
pub fn init() {
    // SAFETY: CR0: MP, NE and AM (alignment checks, for ring 3 only) on, EM and TS off; XCR0 with what CPUID lists.
    unsafe {
        asm!("mov {0}, cr0", "and {0}, -13", "or {0}, 0x40022", "mov cr0, {0}", out(reg) _, options(nostack));
        if features().xsave {
            let mask = hypervisor_core::cpu_policy::cpuid::supported_xcr0(&super::native_cpuid);
            XCR0.store(mask, Ordering::Relaxed);
            set_xcr0(mask);
        }
    }
}

/// Writes XCR0.
///
/// # Safety
/// `value` is a subset of [`supported_xcr0`] that the architecture allows.
#[target_feature(enable = "xsave")]
unsafe fn set_xcr0_inner(value: u64) {
    // SAFETY: as the caller promises.
    unsafe { _xsetbv(0, value) }
}

/// Writes XCR0; a CPU without it is left alone.
///
/// # Safety
/// `value` is a subset of [`supported_xcr0`] that the architecture allows.
pub unsafe fn set_xcr0(value: u64) {
    if features().xsave {
        // SAFETY: the CPU has XSAVE, CR4.OSXSAVE is set, and the value is the caller's promise.
        unsafe { set_xcr0_inner(value) }
    }
}

/// Writes XCR0 where it is `old` and that is another value: the instruction is slow, and an exit where a hypervisor runs in a virtual
/// machine.
///
/// # Safety
/// As for [`set_xcr0`].
pub unsafe fn change_xcr0(old: u64, new: u64) {
    if old != new {
        // SAFETY: as the caller promises.
        unsafe { set_xcr0(new) }
    }
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// State of a vCPU that does not run.
pub struct FpuImage(Box<[Line]>);

impl FpuImage {
    /// The state after reset: all exceptions masked, nothing in the registers. `None`: there is no memory for it.
    pub fn new() -> Option<Self> {
        let size = cpuid()
            .get_extended_state_info()
            .map_or(LEGACY, |x| x.xsave_area_size_supported_features() as usize);
        let count = size.max(LEGACY + 64).div_ceil(64);
        let mut lines = Vec::new();
        lines.try_reserve_exact(count).ok()?;
        lines.resize(count, Line([0; 64]));
        let mut state = Self(lines.into_boxed_slice());
        state.set(None);
        Some(state)
    }

    /// It becomes the state that an FXSAVE image from a guest describes, or that after reset.
    pub fn set(&mut self, image: Option<&[u8; LEGACY]>) {
        self.0.fill(Line([0; 64]));
        let Some(image) = image else {
            self.0[0].0[..2].copy_from_slice(&0x37fu16.to_le_bytes());
            self.0[0].0[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
            return;
        };
        for (line, bytes) in self.0.iter_mut().zip(image.chunks_exact(64)) {
            line.0.copy_from_slice(bytes);
        }
        let mxcsr = u32::from_le_bytes([image[24], image[25], image[26], image[27]]) & MXCSR_BITS;
        self.0[0].0[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        // The header of an XSAVE area follows: x87 and SSE state are there (SDM Vol. 1, 13.4.2).
        self.0[LEGACY / 64].0[0] = 0b11;
    }

    /// Takes what is in the registers. XCR0 is [`supported_xcr0`].
    pub fn save(&mut self) {
        let at = self.0.as_mut_ptr().cast::<u8>();
        // SAFETY: the area is as large as CPUID says for all of XCR0, and aligned.
        unsafe {
            if features().xsave {
                asm!("xsave64 [{}]", in(reg) at, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
            } else {
                _fxsave64(at);
            }
        }
    }

    /// Loads the registers. XCR0 is [`supported_xcr0`].
    pub fn restore(&self) {
        let at = self.0.as_ptr().cast::<u8>();
        if features().keeps_fpu_pointers {
            forget_pointers();
        }
        // SAFETY: the image was made by `new` or `save`, so it is one that loads without a fault.
        unsafe {
            if features().xsave {
                asm!("xrstor64 [{}]", in(reg) at, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
            } else {
                _fxrstor64(at);
            }
        }
    }
}

/// Makes the FPU's pointers those of an instruction of the hypervisor's own, where loading state may leave them.
fn forget_pointers() {
    static OPERAND: u32 = 0;
    // SAFETY: CR0.TS is clear, no exception is pending behind `fnclex`, and there is an empty register to load into: all of the state
    // is replaced next.
    unsafe {
        asm!("fnclex", "ffree st(7)", "fild dword ptr [{}]", in(reg) &raw const OPERAND, options(nostack))
    }
}

/// Sets or clears CR0.TS.
pub fn set_task_switched(set: bool) {
    // SAFETY: with TS set, FPU instructions of the guest raise #NM, which it is given; the hypervisor uses none.
    unsafe {
        if set {
            asm!("mov {0}, cr0", "or {0}, 8", "mov cr0, {0}", out(reg) _, options(nostack));
        } else {
            asm!("clts", options(nostack));
        }
    }
}
