//! Event channels, as far as one CPU without other domains has any: virtual interrupts and interrupts to itself.

use core::ptr;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use xen_abi::errno::Errno;
use xen_abi::event_channel::*;
use xen_abi::xen::{VIRQ_DEBUG, VIRQ_TIMER};

use super::error;
use crate::shared;

/// A free port. Port 0 is never used.
const FREE: u32 = 0;
/// A port by which the CPU interrupts itself.
const IPI: u32 = 1;
/// A virtual interrupt, whose number is added.
const VIRQ: u32 = 0x100;

static PORTS: [AtomicU32; 64] = [const { AtomicU32::new(FREE) }; 64];

/// Binds a port to `source`.
fn bind(source: u32) -> Result<u32, Errno> {
    let free = |entry: &AtomicU32| entry.compare_exchange(FREE, source, SeqCst, Relaxed).is_ok();
    let port = PORTS.iter().skip(1).position(free).ok_or(Errno::ENOSPC)?;
    let port = port as u32 + 1;
    let bit = 1 << port;
    shared::info().pending[0].fetch_and(!bit, SeqCst);
    Ok(port)
}

fn bind_virq(virq: u32, vcpu: u32) -> Result<u32, Errno> {
    if vcpu != 0 {
        return Err(Errno::ENOENT);
    }
    if virq != VIRQ_TIMER && virq != VIRQ_DEBUG {
        return Err(Errno::EINVAL);
    }
    if PORTS.iter().any(|entry| entry.load(Relaxed) == VIRQ | virq) {
        return Err(Errno::EEXIST);
    }
    bind(VIRQ | virq)
}

fn bind_ipi(vcpu: u32) -> Result<u32, Errno> {
    if vcpu != 0 { Err(Errno::ENOENT) } else { bind(IPI) }
}

/// The entry of an open port.
fn open(port: u32) -> Result<&'static AtomicU32, Errno> {
    let entry = PORTS.get(port as usize).ok_or(Errno::EINVAL)?;
    if entry.load(Relaxed) == FREE { Err(Errno::EINVAL) } else { Ok(entry) }
}

fn send(port: u32) -> Result<(), Errno> {
    if open(port)?.load(Relaxed) != IPI {
        return Err(Errno::EINVAL);
    }
    raise(port);
    Ok(())
}

fn close(port: u32) -> Result<(), Errno> {
    open(port)?.store(FREE, SeqCst);
    shared::info().pending[0].fetch_and(!(1 << port), SeqCst);
    Ok(())
}

/// Makes `port` pending, and the upcall if the port is not masked.
fn raise(port: u32) {
    let (shared, vcpu, bit) = (shared::info(), shared::this_vcpu(), 1u64 << port);
    if shared.pending[0].fetch_or(bit, SeqCst) & bit == 0 && shared.mask[0].load(SeqCst) & bit == 0 {
        vcpu.pending_sel.fetch_or(1, SeqCst);
        vcpu.upcall_pending.store(1, SeqCst);
    }
}

/// Fires the timer's virtual interrupt.
pub fn raise_timer() {
    if let Some(port) = PORTS.iter().position(|entry| entry.load(Relaxed) == VIRQ | VIRQ_TIMER) {
        raise(port as u32);
    }
}

/// `event_channel_op`.
///
/// # Safety
///
/// `arg` must be the address of the command's structure.
pub unsafe fn operation(command: u64, arg: u64) -> i64 {
    let at = arg as usize;
    // SAFETY: the caller's promise, for the structure that each command has.
    let result = unsafe {
        match u32::try_from(command) {
            Ok(EVTCHNOP_BIND_VIRQ) => {
                let arg = &mut *ptr::with_exposed_provenance_mut::<EvtchnBindVirq>(at);
                bind_virq(arg.virq, arg.vcpu).map(|port| arg.port = port)
            }
            Ok(EVTCHNOP_BIND_IPI) => {
                let arg = &mut *ptr::with_exposed_provenance_mut::<EvtchnBindIpi>(at);
                bind_ipi(arg.vcpu).map(|port| arg.port = port)
            }
            Ok(EVTCHNOP_SEND) => send((*ptr::with_exposed_provenance::<EvtchnSend>(at)).port),
            Ok(EVTCHNOP_CLOSE) => close((*ptr::with_exposed_provenance::<EvtchnClose>(at)).port),
            _ => Err(Errno::ENOSYS),
        }
    };
    result.map_or_else(error, |()| 0)
}
