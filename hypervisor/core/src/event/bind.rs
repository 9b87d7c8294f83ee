//! Making bindings: from a free port to one with a source.

use super::slot::{Binding, MAX_VCPUS, SlotGuard};
use super::{BothChanges, Changes, EventError, VIRQS, vcpu_exists, virq_is_global};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{DomId, Port, VcpuId};
use crate::platform::Platform;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use xen_abi::event_channel::EVTCHN_FIFO_PRIORITY_DEFAULT;
use xen_abi::xen::DOMID_SELF;

impl<P: Platform> Hypervisor<P> {
    /// Allocates a port of `dom` that `remote` may bind to (`EVTCHNOP_alloc_unbound`). Either may be `DOMID_SELF`.
    ///
    /// # Errors
    /// [`EventError::NoSuchDomain`], [`EventError::NotPermitted`] for another domain's port unless the caller is privileged,
    /// [`EventError::NoPort`], [`EventError::NoMemory`].
    pub fn alloc_unbound(
        &self,
        caller: &Arc<Domain<P>>,
        dom: DomId,
        remote: DomId,
    ) -> Result<Port, EventError> {
        // Xen looks for a port before it asks whether the caller may have one.
        let domain = self.named_domain(caller, dom).ok_or(EventError::NoSuchDomain)?;
        let mut changes = domain.events.changes.lock();
        let port = self.free_port(&domain, &mut changes)?;
        self.managed_domain(caller, dom)?;
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
        let mut both = BothChanges::lock(caller, &remote);
        let port = self.free_port(caller, &mut both.a)?;
        let far = remote.events.slot(remote_port)?;
        if far.load().binding() != Binding::Unbound(caller.id) {
            return Err(EventError::Invalid);
        }
        let near = caller.events.slot(port)?;
        let (near, far) = super::close::lock_pair((caller.id, port, near), (remote.id, remote_port, far));
        self.count_port(&mut both.a, port, &near);
        near.set_binding(Binding::Interdomain(remote.id, remote_port));
        far.set_binding(Binding::Interdomain(caller.id, port));
        drop(far);
        // Events that were sent while the far end was alone were dropped: one here stands for all of them.
        self.set_pending(caller, port, near.slot());
        Ok(port)
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
        let mut changes = domain.events.changes.lock();
        let bound = &domain.events.virqs[vcpu.0 as usize][virq as usize];
        if bound.load(Ordering::Acquire) != 0 {
            return Err(EventError::AlreadyBound);
        }
        let port = self.free_port(domain, &mut changes)?;
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
        let mut changes = domain.events.changes.lock();
        let port = self.free_port(domain, &mut changes)?;
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
        let mut changes = domain.events.changes.lock();
        let port = self.free_port(domain, &mut changes)?;
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
        let mut changes = domain.events.changes.lock();
        if self.pirqs.port(domain.id, pirq).is_some() {
            return Err(EventError::AlreadyBound);
        }
        let port = self.free_port(domain, &mut changes)?;
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

    /// The lowest port that is free; it stays so until [`Self::take_port`] or [`Self::count_port`].
    fn free_port(&self, domain: &Domain<P>, changes: &mut Changes) -> Result<Port, EventError> {
        if changes.dying {
            return Err(EventError::Invalid);
        }
        let events = &domain.events;
        let limit = events.abi_ports().min(events.max_port.load(Ordering::Relaxed).saturating_add(1));
        let mut lowest = None;
        for port in (changes.lowest_free..limit).map(Port) {
            if port.0 >= events.slots.valid() {
                self.room_for_ports()?;
                events.slots.grow_to(port)?;
            }
            if events.slot(port)?.load().binding() != Binding::Free {
                continue;
            }
            lowest.get_or_insert(port.0);
            if !events.fifo().is_some_and(|fifo| fifo.is_linked(&self.platform, port)) {
                changes.lowest_free = lowest.unwrap_or(port.0);
                return Ok(port);
            }
        }
        Err(EventError::NoPort)
    }

    /// Whether there is memory for more ports than there ever were.
    pub(super) fn room_for_ports(&self) -> Result<(), EventError> {
        if self.frames.has_room() { Ok(()) } else { Err(EventError::NoMemory) }
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
