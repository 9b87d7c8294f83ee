//! The way of an event: from its source to the shared memory, to the upcall flag of a vCPU, to the CPU that runs it.

use super::slot::{Binding, Slot};
use super::{DomainEvents, EventError, virq_is_global};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{MachineAddr, Port, VcpuId};
use crate::platform::{GuestFrame, Platform};
use crate::sched::mark;
use alloc::sync::Arc;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};
use xen_abi::xen::VcpuInfo;

/// The two words of a `vcpu_info` that events change.
pub(super) struct InfoWords<'a> {
    /// `evtchn_upcall_pending` in its lowest byte, `evtchn_upcall_mask` in the next.
    pub flags: &'a AtomicU64,
    /// `evtchn_pending_sel`.
    pub selector: &'a AtomicU64,
}

const SELECTOR: usize = offset_of!(VcpuInfo, evtchn_pending_sel) / 8;

impl<P: Platform> Hypervisor<P> {
    /// Sends an event from a port of `domain` (`EVTCHNOP_send`).
    ///
    /// # Errors
    /// [`EventError::Invalid`] for a port that is neither interdomain, IPI, nor unbound (whose events are dropped);
    /// [`EventError::Unfinished`] for that of a console with more text than is written at a time.
    #[inline(always)]
    pub fn send_event(&self, domain: &Arc<Domain<P>>, port: Port) -> Result<(), EventError> {
        let source = domain.events.slot(port)?.lock();
        match source.load().binding() {
            Binding::Interdomain(remote, remote_port) if remote == domain.id => {
                self.raise(domain, remote_port)
            }
            // A peer that is not found is being torn down: the event is dropped.
            Binding::Interdomain(remote, remote_port) => {
                if let Some(remote) = self.domains.get(remote) {
                    self.raise(&remote, remote_port);
                }
            }
            Binding::Ipi => self.set_pending(domain, port, source.slot()),
            Binding::Unbound(_) => {}
            Binding::Console => {
                drop(source);
                if self.serve_console(domain) {
                    return Err(EventError::Unfinished);
                }
            }
            _ => return Err(EventError::Invalid),
        }
        Ok(())
    }

    /// Raises a virtual interrupt: at `vcpu`, or at the vCPU that a global one was moved to. Dropped when it is not bound.
    pub fn send_virq(&self, domain: &Arc<Domain<P>>, vcpu: VcpuId, virq: u32) {
        let at = if virq_is_global(virq) { VcpuId(0) } else { vcpu };
        let Some(port) = domain.events.virq_port(at, virq) else { return };
        self.send_bound(domain, port, Binding::Virq(virq));
    }

    /// Raises the event of a domain's console ring.
    pub(crate) fn notify_console(&self, domain: &Arc<Domain<P>>, port: Port) {
        self.send_bound(domain, port, Binding::Console);
    }

    /// Raises the event of a port if it is still bound as the caller last saw it.
    pub(super) fn send_bound(&self, domain: &Arc<Domain<P>>, port: Port, expected: Binding) {
        let Some(slot) = domain.events.slots.get(port) else { return };
        let guard = slot.lock();
        if guard.load().binding() == expected {
            self.set_pending(domain, port, slot);
        }
    }

    fn raise(&self, domain: &Arc<Domain<P>>, port: Port) {
        if let Some(slot) = domain.events.slots.get(port) {
            self.set_pending(domain, port, slot);
        }
    }

    /// Makes an event pending at a port. The caller holds the lock bit of this slot or of the one bound to it.
    #[inline(always)]
    pub(super) fn set_pending(&self, domain: &Arc<Domain<P>>, port: Port, slot: &Slot) {
        let vcpu = slot.load().vcpu();
        let new = match domain.events.fifo() {
            None => self.two_level_set_pending(domain, vcpu, port),
            Some(fifo) => self.fifo_set_pending(domain, fifo, port, slot),
        };
        if new {
            self.wake_pollers(domain, port);
        }
    }

    /// Where a vCPU's event flags are; `None` while it has no `vcpu_info`.
    pub(super) fn vcpu_info(&self, domain: &Domain<P>, vcpu: VcpuId) -> Option<InfoWords<'_>> {
        let addr = MachineAddr(domain.vcpu(vcpu)?.pv.vcpu_info.load(Ordering::Acquire));
        if addr.0 == 0 {
            return None;
        }
        let words = self.platform.words(GuestFrame::held(addr.mfn()));
        let first = addr.page_offset() / 8;
        Some(InfoWords { flags: words.get(first)?, selector: words.get(first + SELECTOR)? })
    }

    /// Sets a vCPU's upcall flag; when it was clear, lets the vCPU notice.
    pub(super) fn mark_upcall(&self, domain: &Arc<Domain<P>>, vcpu: VcpuId, info: &InfoWords<'_>) {
        if mark(info.flags)
            && let Some(vcpu) = domain.vcpu(vcpu)
        {
            self.kick_vcpu(domain, vcpu);
        }
    }

    /// Whether an event waits on a port (`SCHEDOP_poll`).
    ///
    /// # Errors
    /// [`EventError::Invalid`] for a port that is not bound.
    pub fn event_is_pending(&self, domain: &Domain<P>, port: Port) -> Result<bool, EventError> {
        if domain.events.slot(port)?.load().binding() == Binding::Free {
            return Err(EventError::Invalid);
        }
        Ok(match domain.events.fifo() {
            None => self.two_level_is_pending(domain, port),
            Some(fifo) => fifo.is_pending(&self.platform, port),
        })
    }

    /// Whether the guest masked a port; one that is not valid counts as masked.
    pub(crate) fn event_is_masked(&self, domain: &Domain<P>, port: Port) -> bool {
        match domain.events.fifo() {
            None => self.two_level_is_masked(domain, port),
            Some(fifo) => fifo.is_masked(&self.platform, port),
        }
    }

    /// Unmasks a port and delivers what became pending meanwhile (`EVTCHNOP_unmask`). Nothing happens to one that is not
    /// bound.
    ///
    /// # Errors
    /// [`EventError::Invalid`] for a port that is not valid.
    pub fn unmask_event(&self, domain: &Arc<Domain<P>>, port: Port) -> Result<(), EventError> {
        let guard = domain.events.slot(port)?.lock();
        if guard.load().binding() == Binding::Free {
            return Ok(());
        }
        let vcpu = guard.load().vcpu();
        match domain.events.fifo() {
            None => self.two_level_unmask(domain, vcpu, port),
            Some(fifo) => {
                if fifo.unmask(&self.platform, port, vcpu) {
                    self.set_pending(domain, port, guard.slot());
                }
            }
        }
        Ok(())
    }
}

impl DomainEvents {
    /// The port that a virtual interrupt is bound to at a vCPU.
    pub(super) fn virq_port(&self, vcpu: VcpuId, virq: u32) -> Option<Port> {
        let bound = self.virqs.get(vcpu.0 as usize)?.get(virq as usize)?;
        match bound.load(Ordering::Acquire) {
            0 => None,
            port => Some(Port(port)),
        }
    }
}
