//! Model-specific registers of PV guests: which read as what, which take which values, which do not exist.
//!
//! Most registers are the machine's and are not there for guests: a general protection fault, which kernels expect. Others
//! are read without care by kernels in the field and read as zero; some writes are ignored for the same reason.

use super::Vendor;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Registers whose words a vCPU keeps.
#[derive(Debug, Default)]
pub struct MsrState {
    /// IA32_MCG_STATUS.
    pub mcg_status: AtomicU64,
    /// IA32_MC0_CTL2 and IA32_MC1_CTL2, on Intel's processors.
    pub mc_ctl2: [AtomicU64; 2],
    /// IA32_TSC_AUX.
    pub tsc_aux: AtomicU32,
    /// MSR_MISC_FEATURES_ENABLES: bit 0, `cpuid` faults in user mode.
    pub misc_features: AtomicU64,
}

/// The vCPU that executes `rdmsr` or `wrmsr`, and the machine under it.
pub trait MsrGuest {
    /// Who made the processor.
    fn vendor(&self) -> Vendor;
    /// Whether it is the control domain, which owns the machine's devices.
    fn privileged(&self) -> bool;
    /// Whether it is vCPU 0.
    fn is_first(&self) -> bool;
    /// The machine's register; `None` where it has none.
    fn native(&self, msr: u32) -> Option<u64>;
    /// The words that the vCPU keeps.
    fn state(&self) -> &MsrState;
    /// FS base, GS base of the code that runs, and the other GS base, as the registers from C0000100h on.
    fn base(&self, msr: u32) -> u64;
    /// Sets one of them to a canonical address.
    fn set_base(&self, msr: u32, base: u64);
    /// The time-stamp counter.
    fn tsc(&self) -> u64;
    /// Whether the processor has IA32_TSC_AUX.
    fn has_tsc_aux(&self) -> bool;
    /// Loads IA32_TSC_AUX.
    fn load_tsc_aux(&self, value: u32);
    /// Whether `cpuid` can be made to fault.
    fn has_cpuid_faulting(&self) -> bool;
    /// Whether the guest handles general protection faults.
    fn handles_faults(&self) -> bool;
    /// Fills the frame of this number with the stubs of hypercalls. Fails where it is not the guest's to write.
    fn fill_hypercall_page(&self, mfn: u64) -> bool;
}

const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MCG_CTL: u32 = 0x17b;
/// Two banks; on Intel's processors also MCG_SER_P and MCG_TES_P.
const MC_BANKS: u64 = 2;
const MCG_CAP_INTEL: u64 = 1 << 24 | 1 << 11;
const TSC_AUX: u32 = 0xc000_0103;
const EFER: u32 = 0xc000_0080;
/// SCE, LME, LMA, NXE, FFXSR.
const EFER_KNOWN: u64 = 1 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 14;
const HYPERCALL_PAGE: u32 = 0x4000_0000;
const MISC_FEATURES: u32 = 0x140;
const CPUID_FAULTING: u64 = 1;
const PLATFORM_INFO_CPUID_FAULTING: u64 = 1 << 31;
/// The PAT that the PV ABI fixes (xen.h).
const PAT: u64 = 0x0501_0007_0406;
const AMD_DE_CFG_LFENCE: u64 = 1 << 1;
const SYSCFG_VISIBLE: u64 = 1 << 18 | 1 << 20 | 1 << 21 | 1 << 22;
const BASES: core::ops::RangeInclusive<u32> = 0xc000_0100..=0xc000_0102;

/// IA32_MISC_ENABLE: no performance monitoring, no MONITOR; BTS, PEBS and task-priority messages are off.
fn misc_enable(native: u64) -> u64 {
    native & !(1 << 7 | 1 << 18) | 1 << 11 | 1 << 12 | 1 << 23
}

fn efer(guest: &impl MsrGuest) -> u64 {
    guest.native(EFER).unwrap_or(0) & EFER_KNOWN
}

/// Counters and their controls, which do nothing while guests have no performance monitoring.
fn is_perfmon(vendor: Vendor, msr: u32) -> bool {
    match vendor {
        Vendor::Intel => matches!(msr, 0xc1..=0xc8 | 0x186..=0x189 | 0x309..=0x30b | 0x38d..=0x390),
        Vendor::Amd => matches!(msr, 0xc001_0000..=0xc001_0007 | 0xc001_0200..=0xc001_020b),
        Vendor::Other => false,
    }
}

/// AMD's frequency and power states.
fn is_pstate(msr: u32) -> bool {
    matches!(msr, 0xc001_0041 | 0xc001_0042 | 0xc001_0061..=0xc001_006b)
}

/// `rdmsr`: the value, or a general protection fault.
pub fn read(guest: &impl MsrGuest, msr: u32) -> Option<u64> {
    // A guest that could not take the fault gets zero for what the machine has. Whether it has it only the machine can tell; it is
    // asked for registers that the manuals describe, where a read changes nothing.
    lookup(guest, msr).or_else(|| {
        let spared = !guest.handles_faults() && is_described(msr);
        (spared && guest.native(msr).is_some()).then_some(0)
    })
}

/// Whether a register is in the ranges that processors have in use (those of the bitmaps of VMX and SVM: SDM volume 3, 25.6.9, APM
/// volume 2, 15.11), and none of the local APIC's, which is the hypervisor's.
fn is_described(msr: u32) -> bool {
    const X2APIC: core::ops::RangeInclusive<u32> = 0x800..=0x8ff;
    matches!(msr, 0..=0x1fff | 0xc000_0000..=0xc000_1fff | 0xc001_0000..=0xc001_1fff)
        && !X2APIC.contains(&msr)
}

fn lookup(guest: &impl MsrGuest, msr: u32) -> Option<u64> {
    let vendor = guest.vendor();
    let (intel, amd) = (vendor == Vendor::Intel, vendor == Vendor::Amd);
    let state = guest.state();
    match msr {
        0 | 1 => Some(0),
        0x10 => Some(guest.tsc()),
        0x17 if intel => guest.native(msr),
        0x1b => Some(0xfee0_0000 | 1 << 11 | u64::from(guest.is_first()) << 8),
        // IA32_FEATURE_CONTROL: locked, nothing on.
        0x3a if intel => Some(1),
        0x8b if intel || amd => guest.native(msr),
        0xce => Some(if guest.has_cpuid_faulting() { PLATFORM_INFO_CPUID_FAULTING } else { 0 }),
        MISC_FEATURES => Some(state.misc_features.load(Ordering::Relaxed)),
        MCG_CAP => Some(MC_BANKS | if intel { MCG_CAP_INTEL } else { 0 }),
        MCG_STATUS => Some(state.mcg_status.load(Ordering::Relaxed)),
        MCG_CTL => Some(0),
        // IA32_PERF_STATUS, IA32_PERF_CTL, IA32_THERM_STATUS.
        0x198 | 0x199 | 0x19c if intel => Some(0),
        0x1a0 => guest.native(msr).map(misc_enable),
        0x277 => Some(PAT),
        0x280..=0x29f => {
            let word = if intel { state.mc_ctl2.get(msr as usize - 0x280) } else { None };
            Some(word.map_or(0, |word| word.load(Ordering::Relaxed)))
        }
        // IA32_PERF_CAPABILITIES.
        0x345 => Some(0),
        0x400..=0x47f => Some(if matches!(msr, 0x400 | 0x404) { u64::MAX } else { 0 }),
        HYPERCALL_PAGE => Some(0),
        EFER => Some(efer(guest)),
        _ if BASES.contains(&msr) => Some(guest.base(msr)),
        TSC_AUX if guest.has_tsc_aux() => Some(u64::from(state.tsc_aux.load(Ordering::Relaxed))),
        // Memory types of the machine.
        0xc001_0010 if amd && guest.privileged() => guest.native(msr).map(|value| value & SYSCFG_VISIBLE),
        0xc001_0016..=0xc001_0019 | 0xc001_001a | 0xc001_001d | 0xc001_0112 | 0xc001_0113
            if amd && guest.privileged() =>
        {
            guest.native(msr)
        }
        0xc001_0015 if amd => Some(0),
        // NB_CFG, on any processor.
        0xc001_001f => Some(0),
        0xc001_1029 if amd => Some(AMD_DE_CFG_LFENCE),
        _ if amd && is_pstate(msr) => Some(0),
        _ if is_perfmon(vendor, msr) => Some(0),
        _ => None,
    }
}

/// `wrmsr`: whether it is done or ignored, else a general protection fault.
pub fn write(guest: &impl MsrGuest, msr: u32, value: u64) -> bool {
    let vendor = guest.vendor();
    let (intel, amd) = (vendor == Vendor::Intel, vendor == Vendor::Amd);
    let state = guest.state();
    match msr {
        // The question for the microcode's revision.
        0x8b => intel && value == 0,
        0xe7 | 0xe8 => intel || amd,
        MISC_FEATURES => {
            let allowed = if guest.has_cpuid_faulting() { CPUID_FAULTING } else { 0 };
            if value & !allowed == 0 {
                state.misc_features.store(value, Ordering::Relaxed);
            }
            value & !allowed == 0
        }
        MCG_STATUS => {
            state.mcg_status.store(value, Ordering::Relaxed);
            true
        }
        MCG_CAP | MCG_CTL => true,
        // IA32_PERF_CTL, IA32_CLOCK_MODULATION, IA32_ENERGY_PERF_BIAS.
        0x199 | 0x19a | 0x1b0 => intel,
        0x1a0 => guest.native(msr).is_some(),
        0x280..=0x29f => {
            if let Some(word) = state.mc_ctl2.get(msr as usize - 0x280).filter(|_| intel) {
                word.store(value, Ordering::Relaxed);
            }
            true
        }
        // Status, address and miscellany of the two banks there are can only be cleared.
        0x400..=0x407 => msr & 3 == 0 || value == 0,
        0x408..=0x47f => true,
        HYPERCALL_PAGE => value & 0xfff == 0 && guest.fill_hypercall_page(value >> 12),
        // Kernels write it back as they read it.
        EFER => value == efer(guest),
        _ if BASES.contains(&msr) => {
            let canonical = crate::ids::GuestVirt(value).is_canonical();
            if canonical {
                guest.set_base(msr, value);
            }
            canonical
        }
        TSC_AUX => match u32::try_from(value) {
            Ok(value) if guest.has_tsc_aux() => {
                state.tsc_aux.store(value, Ordering::Relaxed);
                guest.load_tsc_aux(value);
                true
            }
            _ => false,
        },
        0xc001_0015 | 0xc001_1029 => amd,
        0xc001_001f => true,
        _ => amd && is_pstate(msr) || is_perfmon(vendor, msr),
    }
}
