//! Ending bindings: one port, all ports of a running domain, all ports of a dying one.

use super::slot::{Binding, Slot, SlotGuard};
use super::{BothChanges, Changes, EventError, virq_is_global};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{DomId, Port};
use crate::platform::Platform;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// How far an operation on all ports got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All done.
    Finished,
    /// The CPU has other work: call again.
    Preempted,
}

/// How far `EVTCHNOP_reset` got. Two vCPUs may go on with the same one.
#[derive(Clone, Copy)]
pub(super) enum Reset {
    /// None is under way.
    Idle,
    /// Ports are being closed; this one is next.
    Closing(u32),
    /// All ports were closed; the pages of the FIFO ABI are being given back.
    Leaving,
}

/// Ports between two looks for other work.
const PREEMPTION_STEP: u32 = 64;
/// Attempts to find the other end of a port that is being bound and closed by other CPUs at the same time.
const CLOSE_TRIES: u32 = 8;

/// Takes the lock bits of both ends of a channel in their order.
pub(super) fn lock_pair<'a>(
    a: (DomId, Port, &'a Slot),
    b: (DomId, Port, &'a Slot),
) -> (SlotGuard<'a>, SlotGuard<'a>) {
    if (a.0, a.1) < (b.0, b.1) {
        let first = a.2.lock();
        (first, b.2.lock())
    } else {
        let first = b.2.lock();
        (a.2.lock(), first)
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Closes a port (`EVTCHNOP_close`). The other end of an interdomain channel waits for this domain again.
    ///
    /// # Errors
    /// [`EventError::Invalid`] for a port that is not bound.
    pub fn close_event(&self, domain: &Arc<Domain<P>>, port: Port) -> Result<(), EventError> {
        let slot = domain.events.slot(port)?;
        for _ in 0..CLOSE_TRIES {
            let seen = slot.load().binding();
            let peer = match seen {
                Binding::Interdomain(id, _) => self.named_domain(domain, id),
                _ => None,
            };
            let mut both = BothChanges::lock(domain, peer.as_deref().unwrap_or(domain));
            if slot.load().binding() != seen {
                continue;
            }
            return match (seen, &peer) {
                (Binding::Free, _) => Err(EventError::Invalid),
                (Binding::Interdomain(_, far), Some(peer)) => {
                    self.close_channel(domain, &mut both, port, slot, peer, far)
                }
                _ => {
                    self.close_alone(domain, &mut both.a, port, slot, seen);
                    Ok(())
                }
            };
        }
        Err(EventError::Invalid)
    }

    fn close_channel(
        &self,
        domain: &Domain<P>,
        both: &mut BothChanges<'_>,
        port: Port,
        slot: &Slot,
        peer: &Domain<P>,
        far_port: Port,
    ) -> Result<(), EventError> {
        let far = peer.events.slot(far_port)?;
        let (near, far) = lock_pair((domain.id, port, slot), (peer.id, far_port, far));
        // A peer with a recycled identifier has no end that names this port.
        if far.load().binding() == Binding::Interdomain(domain.id, port) {
            far.set_binding(Binding::Unbound(domain.id));
        }
        self.release_port(domain, &mut both.a, port, &near);
        Ok(())
    }

    fn close_alone(
        &self,
        domain: &Arc<Domain<P>>,
        changes: &mut Changes,
        port: Port,
        slot: &Slot,
        was: Binding,
    ) {
        match was {
            Binding::Pirq(pirq) => self.detach_pirq(domain, pirq),
            Binding::Virq(virq) => {
                let at = if virq_is_global(virq) { 0 } else { slot.load().vcpu().0 };
                if let Some(bound) = domain.events.virqs.get(at as usize).and_then(|v| v.get(virq as usize)) {
                    bound.store(0, Ordering::Release);
                }
            }
            _ => {}
        }
        self.release_port(domain, changes, port, &slot.lock());
    }

    /// Frees a port and takes back an event that waits there.
    pub(super) fn release_port(
        &self,
        domain: &Domain<P>,
        changes: &mut Changes,
        port: Port,
        guard: &SlotGuard<'_>,
    ) {
        match domain.events.fifo() {
            None => self.two_level_clear_pending(domain, port),
            Some(fifo) => fifo.clear_pending(&self.platform, port),
        }
        guard.clear();
        changes.active = changes.active.saturating_sub(1);
        changes.lowest_free = changes.lowest_free.min(port.0);
        changes.search_from = changes.search_from.min(port.0);
    }

    /// Closes all ports of a domain and goes back to the two-level ABI (`EVTCHNOP_reset`). `resuming`: goes on after
    /// [`Progress::Preempted`].
    ///
    /// # Errors
    /// [`EventError::NoSuchDomain`], [`EventError::NotPermitted`]; [`EventError::Invalid`] for another domain that
    /// its controller does not pause: its vCPUs could bind ports meanwhile; [`EventError::ResetInProgress`];
    /// [`EventError::ResetIncomplete`] when another vCPU bound a port meanwhile.
    pub fn reset_events(
        &self,
        caller: &Arc<Domain<P>>,
        dom: DomId,
        resuming: bool,
    ) -> Result<Progress, EventError> {
        let domain = self.managed_domain(caller, dom)?;
        if !Arc::ptr_eq(caller, &domain) && !domain.is_paused() {
            return Err(EventError::Invalid);
        }
        let events = &domain.events;
        let first = {
            let mut changes = events.changes.lock();
            match (resuming, changes.reset) {
                (true, Reset::Idle) | (false, Reset::Closing(_) | Reset::Leaving) => {
                    return Err(EventError::ResetInProgress);
                }
                (true, Reset::Closing(next)) => next,
                (true, Reset::Leaving) => events.slots.valid(),
                (false, Reset::Idle) => {
                    changes.reset = Reset::Closing(1);
                    1
                }
            }
        };
        for port in first..events.slots.valid() {
            if events.changes.lock().active == 0 {
                break;
            }
            // A free port is what is wanted.
            let _ = self.close_event(&domain, Port(port));
            if port % PREEMPTION_STEP == 0 && self.platform.work_pending() {
                if let Reset::Closing(next) = &mut events.changes.lock().reset {
                    *next = port + 1;
                }
                return Ok(Progress::Preempted);
            }
        }
        {
            let mut changes = events.changes.lock();
            match changes.reset {
                Reset::Closing(_) if changes.active != 0 => {
                    changes.reset = Reset::Idle;
                    return Err(EventError::ResetIncomplete);
                }
                Reset::Closing(_) => {
                    changes.reset = Reset::Leaving;
                    self.leave_fifo(&domain, &mut changes);
                }
                Reset::Leaving => {}
                // Another vCPU went on with this reset, and ended it.
                Reset::Idle => return Ok(Progress::Finished),
            }
        }
        if self.give_all_pages_back(&domain).is_err() {
            return Ok(Progress::Preempted);
        }
        let mut changes = events.changes.lock();
        if let Reset::Leaving = changes.reset {
            changes.reset = Reset::Idle;
        }
        Ok(Progress::Finished)
    }

    /// Closes all ports of a domain in teardown, gives back its interrupts and the pages of its event words. No port is
    /// bound from the first call on.
    pub fn destroy_events(&self, domain: &Arc<Domain<P>>) -> Progress {
        let events = &domain.events;
        let first = {
            let mut changes = events.changes.lock();
            changes.dying = true;
            changes.next_destroyed
        };
        for port in first..events.slots.valid() {
            if events.changes.lock().active == 0 {
                break;
            }
            // A free port is what is wanted.
            let _ = self.close_event(domain, Port(port));
            if port % PREEMPTION_STEP == 0 && self.platform.work_pending() {
                events.changes.lock().next_destroyed = port + 1;
                return Progress::Preempted;
            }
        }
        if self.release_pirqs(domain) == Progress::Preempted {
            return Progress::Preempted;
        }
        self.leave_fifo(domain, &mut events.changes.lock());
        match self.give_all_pages_back(domain) {
            Ok(()) => Progress::Finished,
            Err(_) => Progress::Preempted,
        }
    }
}
