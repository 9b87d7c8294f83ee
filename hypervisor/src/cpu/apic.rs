//! The local APIC, by MSRs (x2APIC) where there are, else by its memory-mapped page.

use super::{features, msr};
use crate::dev::clock;
use crate::mm::tables::map_device;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use hypervisor_core::ids::Nanos;

/// Vector of the timer.
pub const TIMER_VECTOR: u8 = 0xf0;
/// Vector by which another CPU asks for a TLB flush.
pub const FLUSH_VECTOR: u8 = 0xf1;
/// Vector by which another CPU makes this one look at its work.
pub const KICK_VECTOR: u8 = 0xf2;
/// Spurious interrupts; low four bits set, as old APICs want.
pub const SPURIOUS_VECTOR: u8 = 0xff;

const ID: u32 = 0x20;
const TPR: u32 = 0x80;
const EOI: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const COMMAND: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_PERF: u32 = 0x340;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const LVT_ERROR: u32 = 0x370;
const TIMER_INITIAL: u32 = 0x380;
const TIMER_CURRENT: u32 = 0x390;
const TIMER_DIVIDE: u32 = 0x3e0;
const MASKED: u32 = 1 << 16;
/// Delivery as an NMI, for entries of the local vector table and for interrupt commands.
const NMI: u32 = 4 << 8;
const DEADLINE_MODE: u32 = 2 << 17;

/// Mapped page of the xAPIC, 0 when the x2APIC is used.
static PAGE: AtomicU64 = AtomicU64::new(0);
static X2APIC: AtomicBool = AtomicBool::new(false);
/// Ticks of the timer for each nanosecond, times 2^32.
static TIMER_SCALE: AtomicU64 = AtomicU64::new(0);

fn read(register: u32) -> u32 {
    if X2APIC.load(Ordering::Relaxed) {
        return msr::read(0x800 + (register >> 4)) as u32;
    }
    // SAFETY: the page is mapped by `init` before anything else.
    unsafe { ((PAGE.load(Ordering::Relaxed) + u64::from(register)) as *const u32).read_volatile() }
}

fn write(register: u32, value: u32) {
    // SAFETY: only this module writes the local APIC; vectors it lets in have handlers.
    unsafe {
        if X2APIC.load(Ordering::Relaxed) {
            msr::write(0x800 + (register >> 4), u64::from(value));
        } else {
            ((PAGE.load(Ordering::Relaxed) + u64::from(register)) as *mut u32).write_volatile(value);
        }
    }
}

/// Chooses the mode on the boot CPU. Fails when there is no memory to map the APIC's page.
pub fn choose_mode(allow_x2apic: bool) -> Result<(), crate::mm::tables::NoTable> {
    // Firmware that left the x2APIC on may have locked it so.
    let already = msr::read(msr::APIC_BASE) & 1 << 10 != 0;
    if features().x2apic && (allow_x2apic || already) {
        X2APIC.store(true, Ordering::Relaxed);
    } else {
        PAGE.store(map_device(msr::read(msr::APIC_BASE) & 0xf_ffff_f000, 4096)?, Ordering::Relaxed);
    }
    Ok(())
}

/// Enables this CPU's APIC, with everything but its own timer and interrupts from others masked; `nmi` lets the platform's NMIs in,
/// whose line leads to LINT1 of every CPU.
pub fn init(nmi: bool) {
    let base = msr::read(msr::APIC_BASE) | 1 << 11;
    let mode = if X2APIC.load(Ordering::Relaxed) { 1 << 10 } else { 0 };
    // SAFETY: turns on the APIC that `choose_mode` chose.
    unsafe { msr::write(msr::APIC_BASE, base | mode) };
    write(TPR, 0);
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, if nmi { NMI } else { MASKED });
    write(LVT_ERROR, MASKED);
    write(LVT_PERF, MASKED);
    write(SPURIOUS, 1 << 8 | u32::from(SPURIOUS_VECTOR));
    let mode = if features().tsc_deadline { DEADLINE_MODE } else { 0 };
    write(LVT_TIMER, u32::from(TIMER_VECTOR) | mode);
    write(TIMER_DIVIDE, 0b1011);
}

/// Measures the timer against the TSC, unless it is driven by the TSC.
pub fn calibrate_timer() {
    if features().tsc_deadline {
        return;
    }
    const WINDOW_NS: u64 = 200_000;
    write(LVT_TIMER, MASKED);
    write(TIMER_INITIAL, u32::MAX);
    let sample = || {
        let before = clock::now().0;
        let count = read(TIMER_CURRENT);
        (before + (clock::now().0 - before) / 2, count)
    };
    let (time0, count0) = sample();
    while clock::now().0 < time0 + WINDOW_NS {
        core::hint::spin_loop();
    }
    let (time1, count1) = sample();
    let ticks = u64::from(count0.wrapping_sub(count1));
    // Below 2^32 ticks in a window of milliseconds: the product fits.
    let scale = (u128::from(ticks) << 32) / u128::from((time1 - time0).max(1));
    TIMER_SCALE.store(u64::try_from(scale).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    write(TIMER_INITIAL, 0);
    write(LVT_TIMER, u32::from(TIMER_VECTOR));
}

/// Arms this CPU's timer for a moment of system time, or disarms it.
pub fn arm(deadline: Option<Nanos>) {
    if features().tsc_deadline {
        let tsc = deadline.map_or(0, |at| clock::tsc_at(at).max(1));
        // SAFETY: raises only the timer's vector.
        unsafe { msr::write(msr::TSC_DEADLINE, tsc) };
        return;
    }
    let count = deadline.map_or(0, |at| {
        let delta = at.0.saturating_sub(clock::now().0);
        let ticks = (u128::from(delta) * u128::from(TIMER_SCALE.load(Ordering::Relaxed))) >> 32;
        u32::try_from(ticks).unwrap_or(u32::MAX).max(1)
    });
    write(TIMER_INITIAL, count);
}

/// Tells the APIC that the interrupt in service is handled.
pub fn eoi() {
    write(EOI, 0);
}

/// This CPU's APIC identifier.
pub fn id() -> u32 {
    let id = read(ID);
    if X2APIC.load(Ordering::Relaxed) { id } else { id >> 24 }
}

/// Sends an interrupt command to the CPU with this APIC identifier.
fn command(apic_id: u32, low: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: interrupts another CPU at a vector it handles.
        unsafe { msr::write(0x800 + (COMMAND >> 4), u64::from(apic_id) << 32 | u64::from(low)) };
        return;
    }
    x86_64::instructions::interrupts::without_interrupts(|| {
        write(COMMAND_HIGH, apic_id << 24);
        write(COMMAND, low);
        while read(COMMAND) & 1 << 12 != 0 {
            core::hint::spin_loop();
        }
    });
}

/// Interrupts another CPU.
pub fn send(apic_id: u32, vector: u8) {
    command(apic_id, 1 << 14 | u32::from(vector));
}

/// Interrupts this CPU at [`KICK_VECTOR`] as soon as interrupts are on. Also for NMI handlers: it leaves the destination that an
/// interrupted [`command`] may have written.
pub fn kick_self() {
    const TO_SELF: u32 = 1 << 18 | 1 << 14 | KICK_VECTOR as u32;
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: interrupts this CPU at a vector that it handles.
        unsafe { msr::write(0x800 + (COMMAND >> 4), TO_SELF.into()) };
    } else {
        write(COMMAND, TO_SELF);
    }
}

/// Sends another CPU an NMI.
pub fn send_nmi(apic_id: u32) {
    command(apic_id, 1 << 14 | NMI);
}

/// Resets another CPU.
pub fn send_init(apic_id: u32) {
    command(apic_id, 1 << 14 | 5 << 8);
}

/// Starts another CPU in real mode at the page `page` below 1 MiB.
pub fn send_startup(apic_id: u32, page: u8) {
    command(apic_id, 1 << 14 | 6 << 8 | u32::from(page));
}

/// Machine address of the APIC's page, which no domain may map.
pub fn page_address() -> u64 {
    msr::read(msr::APIC_BASE) & 0xf_ffff_f000
}
