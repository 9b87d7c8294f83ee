//! Making bindings: from a free port to one with a source.

use super::slot::{Binding, CHUNK_BYTES, MAX_VCPUS, SlotGuard};
use super::{BothChanges, Changes, EventError, VIRQS, vcpu_exists, virq_is_global};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{DomId, Port, VcpuId};
use crate::mem::frames_for;
use crate::platform::Platform;
use crate::sync::FairMutexGuard;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use xen_abi::event_channel::EVTCHN_FIFO_PRIORITY_DEFAULT;
use xen_abi::xen::DOMID_SELF;

/// Ports that are looked at with a domain's ports locked.
pub(super) const SEARCH_STEP: u32 = 128;

impl<P: Platform> Hypervisor<P> {
    /// Allocates a port of `dom` that `remote` may bind to (`EVTCHNOP_alloc_unbound`). Either may be `DOMID_SELF`.
    ///
    /// # Errors
    /// [`EventError::NoSuchDomain`], [`EventError::NotPermitted`] for another domain's port unless the caller is privileged,
    /// [`EventError::NoPort`], [`EventError::NoMemory`]. As for all bindings [`EventError::Restart`] when this CPU has other work
    /// before a port is found.
    pub fn alloc_unbound(
        &self,
        caller: &Arc<Domain<P>>,
        dom: DomId,
        remote: DomId,
    ) -> Result<Port, EventError> {
        // Xen looks for a port before it asks whether the caller may have one. Here a domain without the right neither takes the other
        // domain's lock nor learns whether that has a port left.
        let domain = self.managed_domain(caller, dom)?;
        let (mut changes, port) = self.free_port(&domain)?;
        let remote = if remote.0 == DOMID_SELF { caller.id } else { remote };
        self.take_port(&domain, &mut changes, port)?.set_binding(Binding::Unbound(remote));
        Ok(port)
    }

    /// Connects a new port of the caller with a port that waits for it (`EVTCHNOP_bind_interdomain`).
    ///
    /// # Errors
    /// [`EventError::NoSuchDomain`]; [`EventError::Invalid`] when the remote port does not wait for the caller;
    /// [`EventError::NoPort`], [`EventError::NoMemory`].
    pub fn bind_interdomain(
        &self,
        caller: &Arc<Domain<P>>,
        remote: DomId,
        remote_port: Port,
    ) -> Result<Port, EventError> {
        let remote = self.named_domain(caller, remote).ok_or(EventError::NoSuchDomain)?;
        let far = remote.events.slot(remote_port)?;
        let waits = || far.load().binding() == Binding::Unbound(caller.id);
        loop {
            // Judged before a port is looked for, which takes long for a domain that wants it so, and again when both are locked. Xen
            // says first that no port is left, as far as that is known soon.
            if !waits() {
                let mut changes = caller.events.changes.lock();
                return self.search_step(caller, &mut changes).and(Err(EventError::Invalid));
            }
            // The peer is not kept waiting meanwhile.
            let (changes, port) = self.free_port(caller)?;
            drop(changes);
            let mut both = BothChanges::lock(caller, &remote);
            let near = caller.events.slot(port)?;
            if both.a.dying || !waits() {
                return Err(EventError::Invalid);
            }
            if !self.is_free(caller, port) {
                // Another vCPU took it. One of both gets on each time.
                drop(both);
                if self.platform.work_pending() {
                    return Err(EventError::Restart);
                }
                continue;
            }
            let (near, far) = super::close::lock_pair((caller.id, port, near), (remote.id, remote_port, far));
            self.count_port(&mut both.a, port, &near);
            near.set_binding(Binding::Interdomain(remote.id, remote_port));
            far.set_binding(Binding::Interdomain(caller.id, port));
            drop(far);
            // Events that were sent while the far end was alone were dropped: one here stands for all of them.
            self.set_pending(caller, port, near.slot());
            return Ok(port);
        }
    }

    /// Binds a virtual interrupt of a vCPU to a new port (`EVTCHNOP_bind_virq`).
    ///
    /// # Errors
    /// [`EventError::Invalid`] for an unknown interrupt, or a global one at a vCPU other than 0;
    /// [`EventError::NoSuchVcpu`], [`EventError::AlreadyBound`], [`EventError::NoPort`], [`EventError::NoMemory`].
    pub fn bind_virq(&self, domain: &Arc<Domain<P>>, vcpu: VcpuId, virq: u32) -> Result<Port, EventError> {
        if virq as usize >= VIRQS || virq_is_global(virq) && vcpu.0 != 0 {
            return Err(EventError::Invalid);
        }
        vcpu_exists(domain, vcpu)?;
        let bound = &domain.events.virqs[vcpu.0 as usize][virq as usize];
        let not_bound =
            || if bound.load(Ordering::Acquire) == 0 { Ok(()) } else { Err(EventError::AlreadyBound) };
        not_bound()?;
        let (mut changes, port) = self.free_port(domain)?;
        // With the domain locked: another vCPU may have been first.
        not_bound()?;
        let guard = self.take_port(domain, &mut changes, port)?;
        guard.slot().set_vcpu(vcpu);
        guard.set_binding(Binding::Virq(virq));
        bound.store(port.0, Ordering::Release);
        Ok(port)
    }

    /// Makes a port by which the domain's vCPUs interrupt one of them (`EVTCHNOP_bind_ipi`).
    ///
    /// # Errors
    /// [`EventError::NoSuchVcpu`], [`EventError::NoPort`], [`EventError::NoMemory`].
    pub fn bind_ipi(&self, domain: &Arc<Domain<P>>, vcpu: VcpuId) -> Result<Port, EventError> {
        vcpu_exists(domain, vcpu)?;
        let (mut changes, port) = self.free_port(domain)?;
        let guard = self.take_port(domain, &mut changes, port)?;
        guard.slot().set_vcpu(vcpu);
        guard.set_binding(Binding::Ipi);
        Ok(port)
    }

    /// Makes the port by which a domain and the hypervisor tell each other of the domain's console ring.
    ///
    /// # Errors
    /// [`EventError::NoPort`], [`EventError::NoMemory`].
    pub(crate) fn bind_console(&self, domain: &Domain<P>) -> Result<Port, EventError> {
        let (mut changes, port) = self.free_port(domain)?;
        self.take_port(domain, &mut changes, port)?.set_binding(Binding::Console);
        Ok(port)
    }

    /// Binds a physical interrupt that the domain has mapped to a new port (`EVTCHNOP_bind_pirq`).
    ///
    /// # Errors
    /// [`EventError::Invalid`] for a number that no pirq has, [`EventError::NotPermitted`] for an interrupt that is not
    /// mapped or not allowed, [`EventError::AlreadyBound`], [`EventError::Busy`] when another domain has it and one of
    /// both does not share, [`EventError::NoPort`], [`EventError::NoMemory`].
    pub fn bind_pirq(&self, domain: &Arc<Domain<P>>, pirq: u32, share: bool) -> Result<Port, EventError> {
        self.may_bind_pirq(domain, pirq)?;
        let not_bound = || match self.pirqs.port(domain.id, pirq) {
            None => Ok(()),
            Some(_) => Err(EventError::AlreadyBound),
        };
        not_bound()?;
        let (mut changes, port) = self.free_port(domain)?;
        // With the domain locked: another vCPU may have been first.
        not_bound()?;
        // The binding is there before the interrupt may come, so that its first event is not lost.
        self.take_port(domain, &mut changes, port)?.set_binding(Binding::Pirq(pirq));
        if let Err(error) = self.attach_pirq(domain, pirq, port, share) {
            let guard = domain.events.slot(port)?.lock();
            self.release_port(domain, &mut changes, port, &guard);
            return Err(error);
        }
        self.steer_pirq(domain, pirq, VcpuId(0));
        Ok(port)
    }

    /// The lowest port that is free; it stays so while the domain's ports are locked, as they are by the answer, until
    /// [`Self::take_port`] or [`Self::count_port`].
    ///
    /// A guest of the FIFO ABI decides which of its free ports are still linked, and so how long the search is. So it looks at
    /// [`SEARCH_STEP`] ports at a time, and goes on later where it stopped. A search that does not get through in one step looks at all
    /// ports twice before it says that none is left.
    fn free_port<'a>(
        &self,
        domain: &'a Domain<P>,
    ) -> Result<(FairMutexGuard<'a, Changes>, Port), EventError> {
        loop {
            let mut changes = domain.events.changes.lock();
            if let Some(port) = self.search_step(domain, &mut changes)? {
                return Ok((changes, port));
            }
            // Peers that close channels to this domain need the lock.
            drop(changes);
            if self.platform.work_pending() {
                return Err(EventError::Restart);
            }
        }
    }

    /// Looks at some ports; `None` when none of them is free and there are more.
    fn search_step(&self, domain: &Domain<P>, changes: &mut Changes) -> Result<Option<Port>, EventError> {
        if changes.dying {
            return Err(EventError::Invalid);
        }
        let events = &domain.events;
        let limit = events.abi_ports().min(events.max_port.load(Ordering::Relaxed).saturating_add(1));
        let from_lowest = changes.search_from <= changes.lowest_free;
        let start = changes.search_from.max(changes.lowest_free);
        let end = start.saturating_add(SEARCH_STEP).min(limit);
        for port in (start..end).map(Port) {
            if port.0 >= events.slots.valid() {
                self.room_for_ports(domain, CHUNK_BYTES)?;
                events.slots.grow_to(port)?;
            }
            if events.slot(port)?.load().binding() != Binding::Free {
                if port.0 == changes.lowest_free {
                    changes.lowest_free += 1;
                }
                continue;
            }
            if self.is_free(domain, port) {
                (changes.search_from, changes.searches_again) = (0, false);
                return Ok(Some(port));
            }
        }
        if end < limit {
            changes.search_from = end;
            return Ok(None);
        }
        // The guest may have unlinked lower ports after they were looked at, and before it made this very hypercall.
        let again = !from_lowest && !changes.searches_again;
        (changes.search_from, changes.searches_again) = (0, again);
        if again { Ok(None) } else { Err(EventError::NoPort) }
    }

    /// Whether a port can be bound: it is free, and the guest has unlinked its last event. The domain's ports are locked.
    fn is_free(&self, domain: &Domain<P>, port: Port) -> bool {
        let events = &domain.events;
        events.binding(port) == Some(Binding::Free)
            && !events.fifo().is_some_and(|fifo| fifo.is_linked(&self.platform, port))
    }

    /// Whether there is memory for more ports than there ever were: for so many bytes.
    #[cold]
    #[inline(never)]
    pub(super) fn room_for_ports(&self, domain: &Domain<P>, bytes: usize) -> Result<(), EventError> {
        let room = self.frames.has_room(&domain.pages.claim, frames_for(bytes));
        if room { Ok(()) } else { Err(EventError::NoMemory) }
    }

    /// Makes a free port the caller's to bind, on vCPU 0 and with the default priority.
    fn take_port<'a>(
        &self,
        domain: &'a Domain<P>,
        changes: &mut Changes,
        port: Port,
    ) -> Result<SlotGuard<'a>, EventError> {
        let guard = domain.events.slot(port)?.lock();
        self.count_port(changes, port, &guard);
        Ok(guard)
    }

    fn count_port(&self, changes: &mut Changes, port: Port, guard: &SlotGuard<'_>) {
        changes.active += 1;
        if changes.lowest_free == port.0 {
            changes.lowest_free += 1;
        }
        guard.slot().set_priority(EVTCHN_FIFO_PRIORITY_DEFAULT);
    }
}

/// A slot word has room for this many vCPUs; the ABI has no more either.
const _: () = assert!(MAX_VCPUS >= 8192);
