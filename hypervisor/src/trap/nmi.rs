//! Non-maskable interrupts: those by which the CPU that ends the machine stops the others, and those of the platform.
//!
//! One may arrive between any two instructions, so no lock is taken here, nothing is logged, and nothing here may fault: the `iretq`
//! of a second exception would let the next NMI in, on the same stack.

use super::dump;
use crate::cpu::percpu::this_cpu;
use crate::cpu::{apic, smp};
use crate::{error, panic};
use core::sync::atomic::{AtomicBool, Ordering};
use hypervisor_core::ids::CpuId;
use hypervisor_core::nmi::NmiReasons;
use hypervisor_core::options::NmiPolicy;
use hypervisor_core::platform::Work;
use hypervisor_core::regs::Regs;
use x86_64::instructions::port::Port;

/// NMI status and control: bits 7 and 6 are SERR and IOCHK, bits 2 and 3 disable and clear them, bits 0 and 1 are the speaker's.
const CONTROL: u16 = 0x61;
const SERR: u8 = 1 << 7;
const IOCHK: u8 = 1 << 6;
const SERR_OFF: u8 = 1 << 2;
const IOCHK_OFF: u8 = 1 << 3;
/// The bits of [`CONTROL`] that can be written.
const WRITABLE: u8 = 0xf;

/// `nmi=fatal`.
static FATAL: AtomicBool = AtomicBool::new(false);

/// Remembers what the command line wants.
pub fn set_policy(policy: NmiPolicy) {
    FATAL.store(policy == NmiPolicy::Fatal, Ordering::Relaxed);
}

/// An NMI arrived on this CPU.
pub fn arrived(regs: &Regs) {
    let this = this_cpu();
    // Before anything is made of it: this word is set before the NMI that stops this CPU is sent.
    smp::stop_if_asked();
    // The platform's line leads to the first CPU alone (`apic::init`).
    let reasons = if this.id() == CpuId(0) { platform_reasons() } else { NmiReasons::empty() };
    if FATAL.load(Ordering::Relaxed) && !reasons.is_empty() {
        fatal(regs, reasons);
    }
    this.nmis.note(reasons);
    this.work.raise(Work::PLATFORM_NMI);
    // This CPU may be behind its last look at its work, about to halt or to enter a guest.
    apic::kick_self();
}

/// Why the platform sent it. Its line is quiet afterwards: SERR for good, IOCHK until [`judge`].
fn platform_reasons() -> NmiReasons {
    let mut control = Port::<u8>::new(CONTROL);
    // SAFETY: the port reaches the NMI's sources, the speaker and channel 2 of the PIT, whose bits stay as they are.
    unsafe {
        let value = control.read();
        if value & (SERR | IOCHK) != 0 {
            let off =
                if value & SERR != 0 { SERR_OFF } else { 0 } | if value & IOCHK != 0 { IOCHK_OFF } else { 0 };
            control.write(value & WRITABLE | off);
        }
        NmiReasons::of_port_61(value)
    }
}

#[cold]
fn fatal(regs: &Regs, reasons: NmiReasons) -> ! {
    panic::begin();
    error!("Panic on {}: NMI: {reasons}", this_cpu().id());
    dump::registers(regs);
    if regs.cs & 3 == 0 {
        dump::backtrace(regs.rbp);
    }
    panic::finish()
}

/// [`Work::PLATFORM_NMI`]: judges what arrived here, where locks may be taken.
#[cold]
pub fn judge(hv: &crate::machine::Hv) {
    let this = this_cpu();
    let Some(noted) = this.nmis.take() else { return };
    if noted.reasons.contains(NmiReasons::IO_CHECK) {
        let mut control = Port::<u8>::new(CONTROL);
        // SAFETY: as in `platform_reasons`.
        unsafe {
            let value = control.read();
            control.write(value & WRITABLE & !IOCHK_OFF);
        }
    }
    hv.platform_nmis(this.id(), noted);
}
