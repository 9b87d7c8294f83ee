//! Time: the TSC, its calibration, and system time.
//!
//! System time is counted by the TSC from the moment of calibration on, the same on all CPUs (invariant TSCs are synchronous
//! after reset). Whether they are is checked: each CPU that comes up reads its TSC by turns with the boot CPU for [`COMPARISON_US`], and
//! neither may ever see less than the other saw before. Only then, and only if CPUID says that the rate never changes, guests are told
//! that all vCPUs' times are one clock. The TSC's frequency comes from CPUID where the CPU or the hypervisor underneath tells it, else from the HPET,
//! the PM timer or the PIT: whichever is there first in this order. A reading of a reference clock is bracketed by two
//! TSC reads and the narrowest of several is kept, so a window of [`WINDOW_US`] gives tens of ppm.

use crate::mm::tables::map_device;
use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use hypervisor_core::acpi::{AcpiInfo, Register};
use hypervisor_core::ids::Nanos;
use hypervisor_core::platform::TimeRecord;
use hypervisor_core::time::scale::Scale;
use raw_cpuid::CpuId;
use spin::{Mutex, Once};
use x86_64::instructions::port::Port;

/// Length of the calibration window.
const WINDOW_US: u64 = 2_000;
/// How long the TSCs of two CPUs are compared.
const COMPARISON_US: u64 = 1_000;
/// No CPU's number: none is being compared.
const NOBODY: u32 = u32::MAX;
const PM_TIMER_HZ: u64 = 3_579_545;
const PIT_HZ: u64 = 1_193_182;

static SCALE: Once<Scale> = Once::new();
static BOOT_TSC: AtomicU64 = AtomicU64::new(0);
/// The CPU whose TSC is to be compared with the boot CPU's.
static COMPARED: AtomicU32 = AtomicU32::new(NOBODY);
/// The greatest TSC that was seen in a comparison.
static SEEN: Mutex<u64> = Mutex::new(0);
/// Some TSC was behind another one.
static BEHIND: AtomicBool = AtomicBool::new(false);
/// All CPUs' TSCs are one, at one rate for ever.
static STABLE: AtomicBool = AtomicBool::new(false);

/// Reads the time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: has no precondition on x86-64.
    unsafe { _rdtsc() }
}

/// A counter of known frequency.
enum Reference {
    Hpet { counter: u64, femtoseconds: u64 },
    PmTimer(Port<u32>),
    Pit,
}

impl Reference {
    fn find(acpi: &AcpiInfo) -> Self {
        if let Some(at) = acpi.hpet.and_then(|base| map_device(base, 1024).ok()) {
            // SAFETY: the HPET's registers, mapped just now (HPET 1.0a, 2.3): period in the upper half of the first,
            // counter enabled by bit 0 of the configuration register.
            let period = unsafe {
                let config = (at + 0x10) as *mut u64;
                config.write_volatile(config.read_volatile() | 1);
                (at as *const u64).read_volatile() >> 32
            };
            if (1..=100_000_000).contains(&period) {
                return Self::Hpet { counter: at + 0xf0, femtoseconds: period };
            }
        }
        match acpi.pm_timer {
            Some(Register::Port(port)) => Self::PmTimer(Port::new(port)),
            _ => Self::Pit,
        }
    }

    /// Ticks a second, and the mask of the counter's bits.
    fn rate(&self) -> (u64, u64) {
        match self {
            Self::Hpet { femtoseconds, .. } => (1_000_000_000_000_000 / femtoseconds, 0xffff_ffff),
            Self::PmTimer(_) => (PM_TIMER_HZ, 0xff_ffff),
            Self::Pit => (PIT_HZ, 0xffff),
        }
    }

    fn read(&mut self) -> u64 {
        match self {
            // SAFETY: mapped by `find`.
            Self::Hpet { counter, .. } => unsafe { u64::from((*counter as *const u32).read_volatile()) },
            // SAFETY: reading the PM timer has no side effect.
            Self::PmTimer(port) => unsafe { u64::from(port.read()) },
            // SAFETY: latches and reads channel 0 of the PIT, which counts down.
            Self::Pit => unsafe {
                Port::<u8>::new(0x43).write(0);
                let low = Port::<u8>::new(0x40).read();
                let high = Port::<u8>::new(0x40).read();
                u64::from(!u16::from_le_bytes([low, high]))
            },
        }
    }

    /// Reference and TSC at the same instant, as nearly as can be.
    fn sample(&mut self) -> (u64, u64) {
        let mut best = (u64::MAX, 0, 0);
        for _ in 0..5 {
            let before = tsc();
            let count = self.read();
            let width = tsc() - before;
            if width < best.0 {
                best = (width, count, before + width / 2);
            }
        }
        (best.1, best.2)
    }

    /// Frequency of the TSC in kHz.
    fn measure(&mut self) -> u64 {
        if let Self::Pit = self {
            // SAFETY: channel 0, rate generator, full range: a known state to count from.
            unsafe {
                Port::<u8>::new(0x43).write(0x34);
                Port::<u8>::new(0x40).write(0);
                Port::<u8>::new(0x40).write(0);
            }
        }
        let (hz, mask) = self.rate();
        let wanted = hz * WINDOW_US / 1_000_000;
        let (count0, tsc0) = self.sample();
        while self.read().wrapping_sub(count0) & mask < wanted {
            core::hint::spin_loop();
        }
        let (count1, tsc1) = self.sample();
        let ticks = (count1.wrapping_sub(count0) & mask).max(1);
        ((u128::from(tsc1 - tsc0) * u128::from(hz)) / (u128::from(ticks) * 1000)) as u64
    }
}

/// Frequency that CPUID tells: leaf 15h of the CPU, or 40000010h of a hypervisor underneath.
fn told_khz() -> Option<u64> {
    let cpuid = CpuId::new();
    let own = cpuid.get_tsc_info().and_then(|t| t.tsc_frequency()).map(|hz| hz / 1000);
    own.or_else(|| cpuid.get_hypervisor_info().and_then(|h| h.tsc_frequency()).map(u64::from))
        .filter(|khz| *khz > 1000)
}

/// Calibrates the TSC and starts system time.
pub fn init(acpi: &AcpiInfo) {
    let khz = told_khz().unwrap_or_else(|| Reference::find(acpi).measure()).max(1000);
    SCALE.call_once(|| Scale::new(khz));
    BOOT_TSC.store(tsc(), Ordering::Relaxed);
}

/// Frequency of the TSC in kHz.
pub fn tsc_khz() -> u64 {
    SCALE.get().map_or(1_000_000, |s| s.khz)
}

/// System time now.
pub fn now() -> Nanos {
    record().system_time
}

/// System time now, with what guests need to go on from it.
pub fn record() -> TimeRecord {
    let scale = *SCALE.get().expect("the clock runs since boot");
    let tsc = tsc();
    let system_time = Nanos(scale.nanos(tsc.wrapping_sub(BOOT_TSC.load(Ordering::Relaxed))));
    let stable = is_stable();
    TimeRecord { tsc, system_time, tsc_to_system_mul: scale.mul, tsc_shift: scale.shift, stable }
}

/// TSC value at a moment of system time; the largest one for a moment that it never counts to.
pub fn tsc_at(when: Nanos) -> u64 {
    let start = BOOT_TSC.load(Ordering::Relaxed);
    SCALE.get().map_or(u64::MAX, |scale| scale.ticks_at(start, when.0))
}

/// Seconds since 1970 by the CMOS clock, read between two updates (MC146818: status register A bit 7).
pub fn wallclock_seconds() -> u64 {
    let read = |register: u8| {
        // SAFETY: the index keeps NMIs disabled as they are after reset; reading the clock's registers is harmless.
        unsafe {
            Port::<u8>::new(0x70).write(register);
            Port::<u8>::new(0x71).read()
        }
    };
    let all = || [0u8, 2, 4, 7, 8, 9].map(read);
    let mut fields = all();
    for _ in 0..100_000 {
        let again = all();
        if read(0x0a) & 0x80 == 0 && again == fields {
            break;
        }
        fields = again;
    }
    let mode = read(0x0b);
    let decode =
        |v: u8| if mode & 4 != 0 { u64::from(v) } else { u64::from(v >> 4) * 10 + u64::from(v & 15) };
    let pm = mode & 2 == 0 && fields[2] & 0x80 != 0;
    let hour12 = decode(fields[2] & 0x7f);
    let hour = if mode & 2 != 0 { decode(fields[2]) } else { hour12 % 12 + if pm { 12 } else { 0 } };
    let year = decode(fields[5]) + 2000;
    days_since_1970(year, decode(fields[4]), decode(fields[3])) * 86_400
        + hour * 3600
        + decode(fields[1]) * 60
        + decode(fields[0])
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    // Years start in March, so that the leap day is the last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    (y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day).saturating_sub(719_469)
}

/// Whether the TSC runs at one rate for ever (leaf 80000007h).
fn is_invariant() -> bool {
    CpuId::new().get_advanced_power_mgmt_info().is_some_and(|info| info.has_invariant_tsc())
}

/// On the boot CPU: compares its TSC with that of a CPU that comes up.
pub fn compare_with(other: hypervisor_core::ids::CpuId) {
    COMPARED.store(other.0, Ordering::SeqCst);
    if is_invariant() {
        compare();
    }
}

/// On a CPU that comes up: takes part in the comparison, once the boot CPU is ready for it.
pub fn await_comparison(own: hypervisor_core::ids::CpuId) {
    while COMPARED.load(Ordering::SeqCst) != own.0 {
        core::hint::spin_loop();
    }
    if is_invariant() {
        compare();
    }
}

/// Reads the TSC again and again, by turns with another CPU that does the same.
fn compare() {
    let start = tsc();
    let end = start + COMPARISON_US * tsc_khz() / 1000;
    loop {
        let mut seen = SEEN.lock();
        // SAFETY: x86-64 has both instructions. The first keeps the second from being executed before the lock is held (SDM Vol. 2,
        // RDTSC).
        let now = unsafe {
            core::arch::x86_64::_mm_lfence();
            _rdtsc()
        };
        if now < *seen {
            BEHIND.store(true, Ordering::SeqCst);
        }
        *seen = now;
        drop(seen);
        if now >= end || now < start {
            return;
        }
    }
}

/// On the boot CPU: all CPUs that came up were compared.
pub fn end_comparisons() {
    COMPARED.store(NOBODY, Ordering::SeqCst);
    let behind = BEHIND.load(Ordering::SeqCst);
    if behind {
        crate::info!("the CPUs' time-stamp counters are not in step");
    }
    STABLE.store(is_invariant() && !behind, Ordering::SeqCst);
}

/// Whether the TSCs of all CPUs were found to be one clock, at one rate for ever.
pub fn is_stable() -> bool {
    STABLE.load(Ordering::Relaxed)
}

/// Time-stamp counter at system time 0.
pub fn boot_tsc() -> u64 {
    BOOT_TSC.load(Ordering::Relaxed)
}
