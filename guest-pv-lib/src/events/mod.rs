//! Event channels: what a PV kernel has in place of interrupts.
//!
//! A [`Channel`] is a port that belongs to somebody: it is bound to a source, keeps events or runs a handler, and is
//! closed when it is dropped. Below it are ports by number: a [`Port`] is bound to a source (a virtual interrupt, another CPU, another domain), gets a handler, and is
//! unmasked. When its source fires, the hypervisor sets the port's pending bit and calls the kernel's upcall, which
//! runs the handlers of all pending ports with further upcalls masked.
//!
//! Masking upcalls ([`mask_upcalls`], [`without_upcalls`]) is the equivalent of clearing the interrupt flag; a
//! kernel starts masked. There are two layouts of ports: the two-level one (4096 ports), and after [`use_fifo`] the
//! FIFO one (up to 131072 ports, with priorities).

mod bind;
mod channel;
pub mod fifo;
mod table;
mod two_level;
mod upcall;

use core::sync::atomic::Ordering::Relaxed;

#[cfg(feature = "alloc")]
pub(crate) use bind::Source;
pub use bind::{Virq, bind_interdomain, bind_ipi, bind_virq, close, is_connected, notify};
#[cfg(all(target_os = "none", feature = "alloc"))]
pub(crate) use bind::{bind_vcpu, open, status};
pub use channel::{Channel, Sharing};
pub use fifo::use_fifo;
#[doc(alias = "EVTCHN_2L_NR_CHANNELS")]
pub use two_level::PORTS;
#[cfg(target_os = "none")]
pub(crate) use upcall::{init, register_failsafe};

use crate::shared::{self, this_vcpu};
use crate::smp::{is_live, this_cpu};

/// The number of an event channel of this domain.
#[doc(alias = "evtchn_port_t")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Port(pub u32);

/// What runs when a port fires: in the upcall, with upcalls masked, the port's pending bit already cleared.
pub type Handler = fn(Port);

/// Sets what runs when `port` fires. An event without a handler masks its port.
///
/// # Panics
///
/// Where the layout in use has no such port.
pub fn set_handler(port: Port, handler: Handler) {
    let known = table::set_function(port, handler);
    assert!(known.is_some(), "{port:?} is beyond the table");
}

/// Stops upcalls for `port`; events stay pending meanwhile.
#[doc(alias = "evtchn_mask")]
pub fn mask(port: Port) {
    if fifo::in_use() {
        fifo::mask(port);
    } else {
        two_level::mask(shared::info(), port);
    }
}

pub(crate) fn is_masked(port: Port) -> bool {
    if fifo::in_use() { fifo::is_masked(port) } else { two_level::is_masked(shared::info(), port) }
}

/// Lets `port` fire, at once where it is pending.
#[doc(alias("EVTCHNOP_unmask", "evtchn_mask"))]
pub fn unmask(port: Port) {
    if fifo::in_use() {
        fifo::unmask(port);
    } else if is_live() {
        // The CPU that the port belongs to must run the handler: only the hypervisor can see to that. It does
        // nothing where the port is not masked, and refuses one that is not open, where there is nothing to deliver.
        let _ = bind::unmask(port);
    } else if two_level::unmask(shared::info(), this_vcpu(), port) {
        run_pending();
    }
}

/// Unmasks a port whose events are latched. As [`unmask`], without a call of the hypervisor where no event came.
fn rearm(port: Port) {
    if !fifo::in_use() && is_live() {
        if !two_level::rearm(shared::info(), port) {
            // Refused only for a port that is not open, where there is nothing to deliver.
            let _ = bind::unmask(port);
        }
    } else {
        unmask(port);
    }
}

/// Clears the pending bit of `port` and says whether it was set: for code that polls a masked port.
#[doc(alias = "evtchn_pending")]
#[must_use]
pub fn take(port: Port) -> bool {
    if fifo::in_use() { fifo::take(port) } else { two_level::take(shared::info(), port) }
}

/// Makes a masked port of this CPU pending, so that a poll of it ends.
pub(crate) fn set_pending(port: Port) {
    if fifo::in_use() {
        fifo::set_pending(port);
    } else {
        two_level::set_pending(shared::info(), port);
    }
}

/// Masks upcalls on this CPU and says whether they were masked before. The equivalent of `cli`.
#[doc(alias = "evtchn_upcall_mask")]
pub fn mask_upcalls() -> bool {
    shared::swap_upcall_mask(true)
}

/// Unmasks upcalls on this CPU and runs what came meanwhile. The equivalent of `sti`.
#[doc(alias("evtchn_upcall_mask", "evtchn_upcall_pending"))]
pub fn unmask_upcalls() {
    shared::swap_upcall_mask(false);
    // An event that came before found the mask set: the hypervisor gave no upcall for it, and gives none
    // until the next one. So look. The order of store and load is safe without a fence because the hypervisor
    // inspects both on this very CPU.
    run_pending();
}

/// Whether upcalls are masked on this CPU.
#[must_use]
pub fn upcalls_masked() -> bool {
    this_vcpu().upcall_mask.load(Relaxed) != 0
}

/// Runs `work` with upcalls masked, and restores what was before.
pub fn without_upcalls<R>(work: impl FnOnce() -> R) -> R {
    let masked = mask_upcalls();
    let result = work();
    if !masked {
        unmask_upcalls();
    }
    result
}

/// Runs the handlers of pending ports, as an upcall would, where one is due.
fn run_pending() {
    while !upcalls_masked() && this_vcpu().upcall_pending.load(Relaxed) != 0 {
        mask_upcalls();
        dispatch();
        shared::swap_upcall_mask(false);
    }
    crate::platform::after_unmask();
}

/// Runs the handler of every pending and unmasked port. Upcalls are masked around it.
pub(crate) fn dispatch() {
    let cpu = this_cpu();
    cpu.depth.fetch_add(1, Relaxed);
    let run = |port| {
        cpu.events.fetch_add(1, Relaxed);
        run_handler(port);
    };
    if fifo::in_use() {
        fifo::scan(this_vcpu(), &cpu.queues, run);
    } else {
        let alone = !is_live();
        let mine = |port| alone || two_level::is_owner(port, cpu.number());
        two_level::scan(shared::info(), this_vcpu(), mine, run);
    }
    cpu.depth.fetch_sub(1, Relaxed);
    if cpu.waiting.load(Relaxed) {
        // The CPU is on its way into a poll that does not look at the ports that fired.
        set_pending(Port(cpu.wake.load(Relaxed)));
    }
}

fn run_handler(port: Port) {
    let _ = table::run(port, || mask(port), || unmask(port));
}
