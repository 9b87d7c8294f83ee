//! The clock and the timers: the TSC, counted against the PIT once, and the local APIC's timer.
//!
//! The clock is published in the shared page as a hypervisor publishes its own. The two timers of the CPU, one-shot
//! and periodic, share the APIC's, which is programmed for the nearer one.

use core::ptr;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use x86_64::instructions::interrupts::without_interrupts;
use x86_64::instructions::port::Port;
use xen_abi::errno::Errno;
use xen_abi::vcpu::*;

use super::cpu::{SPURIOUS_VECTOR, TIMER_VECTOR};
use super::{PHYSICAL, error, ports};
use crate::{shared, time};

/// Physical address of the local APIC's registers after reset (Intel SDM vol. 3, 11.4.1).
const APIC: u64 = 0xfee0_0000;
const EOI: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const TIMER_ENTRY: u64 = 0x320;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;

const SECOND: u64 = 1_000_000_000;
/// Ticks of the PIT in 10 ms.
const PIT_TICKS: u64 = 11_932;
const PIT_HZ: u64 = 1_193_182;

/// Frequency of the APIC's timer.
static APIC_HZ: AtomicU64 = AtomicU64::new(0);
/// System time at which the one-shot timer fires; 0: it does not.
static ONE_SHOT: AtomicU64 = AtomicU64::new(0);
/// The periodic timer's period; 0: it is stopped.
static PERIOD: AtomicU64 = AtomicU64::new(0);
/// When it fires next.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// When the CPU wants to be interrupted without an event; 0: it does not.
static WAKE: AtomicU64 = AtomicU64::new(0);

fn register(offset: u64) -> *mut u32 {
    ptr::with_exposed_provenance_mut((PHYSICAL + APIC + offset) as usize)
}

fn write(offset: u64, value: u32) {
    // SAFETY: a register of the CPU's own APIC, which reaches no memory; mapped uncached.
    unsafe { register(offset).write_volatile(value) };
}

fn read(offset: u64) -> u32 {
    // SAFETY: as in `write`.
    unsafe { register(offset).read_volatile() }
}

/// Starts the clock. Interrupts are off.
pub fn init() {
    // SAFETY: masks all interrupts of the two legacy controllers; nothing here uses them.
    unsafe {
        Port::<u8>::new(0x21).write(0xff);
        Port::<u8>::new(0xa1).write(0xff);
    }
    const ENABLED: u32 = 1 << 8;
    write(SPURIOUS, ENABLED | u32::from(SPURIOUS_VECTOR));
    // One-shot, by 1.
    write(DIVIDE, 0b1011);
    write(TIMER_ENTRY, TIMER_VECTOR.into());
    // The least of several: a virtual machine may not run when the time is up.
    let counts = [(); 5].map(|()| count());
    let (tsc, apic) = counts.into_iter().min().expect("the list is not empty");
    APIC_HZ.store(apic * PIT_HZ / PIT_TICKS, Relaxed);
    publish(tsc * PIT_HZ / PIT_TICKS);
}

/// Ticks of the TSC and of the APIC's timer in 10 ms.
fn count() -> (u64, u64) {
    const GATE: u16 = 0x61;
    let mut gate = Port::<u8>::new(GATE);
    // SAFETY: the PIT's third counter, with the speaker off, interrupts nobody.
    unsafe {
        let before = gate.read() & 0xfc;
        gate.write(before | 1);
        Port::<u8>::new(0x43).write(0xb0);
        let mut counter = Port::<u8>::new(0x42);
        counter.write((PIT_TICKS & 0xff) as u8);
        write(INITIAL_COUNT, u32::MAX);
        counter.write((PIT_TICKS >> 8) as u8);
        let (tsc, apic) = (time::tsc(), read(CURRENT_COUNT));
        while gate.read() & 0x20 == 0 {}
        let ticks = (time::tsc() - tsc, u64::from(apic - read(CURRENT_COUNT)));
        write(INITIAL_COUNT, 0);
        gate.write(before);
        (ticks.0.max(1), ticks.1.max(1))
    }
}

/// Publishes a clock that starts now and is driven by a TSC of `frequency`.
fn publish(frequency: u64) {
    let (mut shift, mut scaled) = (0u8, frequency);
    while scaled <= SECOND {
        scaled <<= 1;
        shift += 1;
    }
    let clock = &shared::info().vcpu[0].time;
    clock.version.fetch_add(1, SeqCst);
    clock.tsc_timestamp.store(time::tsc(), SeqCst);
    // Zero means "no timer" to those who set one.
    clock.system_time.store(1, SeqCst);
    clock.multiplier.store(((SECOND << 32) / scaled) as u32, SeqCst);
    clock.shift.store(shift, SeqCst);
    clock.version.fetch_add(1, SeqCst);
}

/// Programs the APIC for the nearer timer. Interrupts are off.
fn program() {
    let due =
        [&ONE_SHOT, &NEXT, &WAKE].map(|timer| timer.load(Relaxed)).into_iter().filter(|&at| at != 0).min();
    let Some(due) = due else { return write(INITIAL_COUNT, 0) };
    let wait = u128::from(due.saturating_sub(time::now()));
    let ticks = wait * u128::from(APIC_HZ.load(Relaxed)) / u128::from(SECOND) + 1;
    // Where it does not reach that far it is programmed again when it fires.
    write(INITIAL_COUNT, u32::try_from(ticks).unwrap_or(u32::MAX));
}

/// The APIC's timer fired.
pub fn interrupt() {
    write(EOI, 0);
    let now = time::now();
    let one_shot = ONE_SHOT.load(Relaxed);
    if one_shot != 0 && one_shot <= now {
        ONE_SHOT.store(0, Relaxed);
        ports::raise_timer();
    }
    let next = NEXT.load(Relaxed);
    if next != 0 && next <= now {
        let period = PERIOD.load(Relaxed);
        NEXT.store(next + ((now - next) / period + 1) * period, Relaxed);
        ports::raise_timer();
    }
    let wake = WAKE.load(Relaxed);
    if wake <= now {
        WAKE.store(0, Relaxed);
    }
    program();
}

/// Ends a halt at system time `at`; zero takes that back.
pub fn wake_at(at: u64) {
    without_interrupts(|| {
        WAKE.store(at, Relaxed);
        program();
    });
}

/// `set_timer_op`: sets the one-shot timer; zero stops it.
pub fn set(at: u64) -> i64 {
    without_interrupts(|| {
        ONE_SHOT.store(at, Relaxed);
        program();
    });
    0
}

fn set_periodic(period: u64) -> i64 {
    const LEAST: u64 = 1_000_000;
    if period != 0 && !(LEAST..=u64::MAX / 4).contains(&period) {
        return error(Errno::EINVAL);
    }
    without_interrupts(|| {
        PERIOD.store(period, Relaxed);
        NEXT.store(if period == 0 { 0 } else { time::now() + period }, Relaxed);
        program();
    });
    0
}

/// `vcpu_op`.
///
/// # Safety
///
/// `arg` must be what the command takes.
pub unsafe fn vcpu_op(command: u64, vcpu: u64, arg: u64) -> i64 {
    if vcpu != 0 {
        return error(Errno::ENOENT);
    }
    let at = arg as usize;
    // SAFETY: the caller's promise.
    unsafe {
        match u32::try_from(command) {
            Ok(VCPUOP_SET_PERIODIC_TIMER) => {
                set_periodic((*ptr::with_exposed_provenance::<VcpuSetPeriodicTimer>(at)).period_ns)
            }
            Ok(VCPUOP_STOP_PERIODIC_TIMER) => set_periodic(0),
            Ok(VCPUOP_SET_SINGLESHOT_TIMER) => {
                set((*ptr::with_exposed_provenance::<VcpuSetSingleshotTimer>(at)).timeout_abs_ns)
            }
            Ok(VCPUOP_STOP_SINGLESHOT_TIMER) => set(0),
            Ok(VCPUOP_IS_UP) => 1,
            _ => error(Errno::ENOSYS),
        }
    }
}
