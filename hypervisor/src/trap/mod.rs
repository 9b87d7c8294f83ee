//! Exceptions and interrupts: what each vector leads to.

pub mod dump;
pub mod entry;
pub mod fixup;

use crate::cpu::percpu::{guest_regs, this_cpu};
use crate::cpu::{apic, smp};
use crate::dev::irq;
use crate::mm::uaccess::close_gate;
use crate::pv::{self, Guest};
use core::sync::atomic::Ordering;
use hypervisor_core::platform::Work;
use hypervisor_core::regs::Regs;

/// Exceptions have the vectors below this one.
const EXCEPTIONS: u64 = 32;
const NMI: u64 = 2;
const DEBUG: u64 = 1;
const PAGE_FAULT: u64 = 14;

/// An exception or interrupt while a guest ran. Interrupts are off.
#[unsafe(no_mangle)]
extern "sysv64" fn trap_from_guest(regs: &mut Regs) {
    close_gate();
    if regs.vector < EXCEPTIONS {
        let vector = regs.vector as u8;
        // The frame goes back by `iretq` unless the entry that is made says otherwise.
        regs.vector = 0;
        pv::fault::exception(vector, regs);
    } else {
        interrupt(regs.vector as u8);
        regs.vector = 0;
    }
}

/// An interrupt, with interrupts off: only notes what is to be done.
fn interrupt(vector: u8) {
    let this = this_cpu();
    match vector {
        apic::TIMER_VECTOR => {
            this.work.fetch_or(Work::TIMER.bits(), Ordering::Relaxed);
            apic::eoi();
        }
        apic::FLUSH_VECTOR => {
            apic::eoi();
            smp::serve_flushes(this);
        }
        apic::KICK_VECTOR => apic::eoi(),
        apic::SPURIOUS_VECTOR => {}
        _ => irq::arrived(vector),
    }
}

/// An exception or interrupt in the hypervisor itself.
#[unsafe(no_mangle)]
extern "sysv64" fn trap_from_hypervisor(regs: &mut Regs) {
    unsafe extern "C" {
        fn guest_iret();
    }
    if regs.vector >= EXCEPTIONS {
        interrupt(regs.vector as u8);
        return;
    }
    if let Some(target) = fixup::find(regs.rip) {
        regs.rip = target;
        return;
    }
    if regs.rip == guest_iret as *const () as u64 {
        iret_failed(regs);
    }
    die(regs);
}

/// The `iretq` to the guest faulted: the guest's frame has selectors or an address that cannot be loaded. Puts the guest's
/// registers together again and enters its failsafe callback.
fn iret_failed(regs: &Regs) -> ! {
    // SAFETY: `iretq` reads five words at the hypervisor's stack pointer, which is right below PerCpu.
    let [rip, cs, rflags, rsp, ss] = unsafe { (regs.rsp as *const [u64; 5]).read() };
    let mut guest_frame = Regs { rip, cs, rflags, rsp, ss, vector: 0, error_code: 0, ..*regs };
    let guest = Guest::current(this_cpu());
    pv::bounce::failsafe(guest.domain, guest.vcpu, guest.info, &mut guest_frame);
    // SAFETY: nothing below PerCpu is used any more but this copy; the exit path starts anew from there.
    unsafe {
        guest_regs().write(guest_frame);
        entry::enter_guest(guest_regs())
    }
}

/// Exceptions with a stack of their own, from anywhere.
#[unsafe(no_mangle)]
extern "sysv64" fn trap_on_own_stack(regs: &mut Regs) {
    match regs.vector {
        // An NMI has no source that the hypervisor uses: it is the platform's, and worth a line.
        NMI => crate::error!("NMI on {} at {:#x}", this_cpu().id(), regs.rip),
        // A guest's watchpoint that its own `syscall` carried into the hypervisor (`mov ss` delays it): not ours.
        DEBUG => {
            if let Some(current) = this_cpu().current() {
                pv::debug::take_status(current.vcpu());
            }
        }
        _ => die(regs),
    }
}

/// The hypervisor's own mistake, or the hardware's: tell what can be told, and stop.
fn die(regs: &Regs) -> ! {
    let cr2: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack)) };
    let address = if regs.vector == PAGE_FAULT { cr2 } else { 0 };
    crate::error!("exception {} error code {:#x} address {address:#x}", regs.vector, regs.error_code);
    dump::registers(regs);
    dump::backtrace(regs.rbp);
    panic!("exception {} in the hypervisor", regs.vector);
}
