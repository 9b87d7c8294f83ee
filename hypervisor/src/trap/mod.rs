//! Exceptions and interrupts: what each vector leads to.

pub mod dump;
pub mod entry;
pub mod fixup;
pub mod nmi;

use crate::cpu::descriptors::INT80_VECTOR;
use crate::cpu::percpu::{guest_regs, this_cpu};
use crate::cpu::{apic, smp};
use crate::dev::irq;
use crate::pv;
use hypervisor_core::platform::Work;
use hypervisor_core::regs::Regs;

/// Exceptions have the vectors below this one.
const EXCEPTIONS: u64 = 32;
const NMI: u64 = 2;
const DEBUG: u64 = 1;
const PAGE_FAULT: u64 = 14;
const MACHINE_CHECK: u64 = 18;
/// The software interrupt that has a gate of its own.
const INT80: u64 = INT80_VECTOR as u64;

/// An exception or interrupt while a guest ran. Interrupts are off.
#[unsafe(no_mangle)]
extern "sysv64" fn trap_from_guest(regs: &mut Regs) {
    let vector = regs.vector as u8;
    // The frame goes back by `iretq` unless the entry that is made says otherwise.
    regs.vector = 0;
    match u64::from(vector) {
        NMI => nmi::arrived(regs),
        0..EXCEPTIONS => pv::fault::exception(vector, regs),
        INT80 => pv::fault::int80(regs),
        _ => interrupt(vector),
    }
}

/// An interrupt, with interrupts off: only notes what is to be done.
#[inline(never)]
fn interrupt(vector: u8) {
    let this = this_cpu();
    match vector {
        apic::TIMER_VECTOR => {
            this.work.raise(Work::TIMER);
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
extern "sysv64" fn trap_from_hypervisor(at: *mut Regs) {
    unsafe extern "C" {
        fn guest_iret();
    }
    // SAFETY: the entry code passes the frame that it made, which nobody else looks at until this returns.
    let regs = unsafe { &mut *at };
    if regs.vector >= EXCEPTIONS {
        interrupt(regs.vector as u8);
        return;
    }
    if let Some(target) = fixup::find(regs.rip) {
        regs.rip = target;
        return;
    }
    if regs.rip == guest_iret as *const () as u64 {
        iret_failed(at);
    }
    die(regs);
}

/// The `iretq` to the guest faulted: its frame has selectors, a stack or an address that cannot be loaded. Puts the guest's
/// registers together again, and the fault is one of the guest's, at the address where it was to go on.
fn iret_failed(at: *const Regs) -> ! {
    // SAFETY: the frame of the exception. It lies where the guest's frame goes now, so only this copy is good.
    let at = unsafe { at.read() };
    // SAFETY: `iretq` reads five words at the hypervisor's stack pointer, which is right below PerCpu.
    let [rip, cs, rflags, rsp, ss] = unsafe { (at.rsp as *const [u64; 5]).read() };
    let frame = guest_regs();
    // SAFETY: nothing below PerCpu is used any more but this copy, and the exit path starts anew from there.
    unsafe {
        frame.write(Regs { rip, cs, rflags, rsp, ss, vector: 0, ..at });
        pv::fault::exception(at.vector as u8, &mut *frame);
        entry::enter_guest(frame)
    }
}

/// Exceptions with a stack of their own, from anywhere.
#[unsafe(no_mangle)]
extern "sysv64" fn trap_on_own_stack(regs: &mut Regs) {
    match regs.vector {
        NMI => nmi::arrived(regs),
        DEBUG => debug_in_hypervisor(regs),
        _ => die(regs),
    }
}

/// #DB in the hypervisor is a guest's doing, and none of its business: a watchpoint that its own `syscall` carried here (`mov
/// ss` delays it), or a single step over `sysenter`, which does not clear TF.
fn debug_in_hypervisor(regs: &mut Regs) {
    const TF: u64 = 1 << 8;
    unsafe extern "C" {
        fn sysenter_entry();
        fn sysenter_flags_saved();
    }
    pv::debug::discard_status();
    // The entry saves the guest's flags first: only then may TF go.
    let start = sysenter_entry as *const () as u64;
    let saved = sysenter_flags_saved as *const () as u64;
    if !(start..saved).contains(&regs.rip) {
        regs.rflags &= !TF;
    }
}

/// The hypervisor's own mistake, or the hardware's: tell what can be told, and stop. It may have hit anywhere, so the first
/// message comes when no lock can be in its way.
fn die(regs: &Regs) -> ! {
    let cr2: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack)) };
    let address = if regs.vector == PAGE_FAULT { cr2 } else { 0 };
    crate::panic::begin();
    let place = if regs.cs & 3 == 0 { "the hypervisor" } else { "a guest" };
    crate::error!("Panic on {}: exception {} in {place}", this_cpu().id(), regs.vector);
    crate::error!("error code {:#x} address {address:#x}", regs.error_code);
    if regs.vector == MACHINE_CHECK {
        dump::machine_check();
    }
    dump::registers(regs);
    if regs.cs & 3 == 0 {
        // A guest's is a guest's to choose.
        dump::backtrace(regs.rbp);
    }
    crate::panic::finish()
}
