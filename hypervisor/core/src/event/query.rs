//! What a guest may ask about a port, and set on a bound one.

use super::slot::Binding;
use super::{EventError, vcpu_exists, virq_is_global};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{DomId, Port, VcpuId};
use crate::platform::Platform;
use alloc::sync::Arc;
use xen_abi::event_channel::EVTCHN_FIFO_PRIORITY_MIN;

/// The answer of `EVTCHNOP_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortStatus {
    /// What the port is bound to.
    pub binding: Binding,
    /// The vCPU that it notifies.
    pub vcpu: VcpuId,
}

impl<P: Platform> Hypervisor<P> {
    /// What a port is bound to (`EVTCHNOP_status`).
    ///
    /// # Errors
    /// [`EventError::NoSuchDomain`], [`EventError::Invalid`] for a port that is not valid, [`EventError::NotPermitted`] for
    /// another domain's port unless the caller is privileged.
    pub fn event_status(
        &self,
        caller: &Arc<Domain<P>>,
        dom: DomId,
        port: Port,
    ) -> Result<PortStatus, EventError> {
        let domain = self.named_domain(caller, dom).ok_or(EventError::NoSuchDomain)?;
        let word = domain.events.slot(port)?.load();
        self.managed_domain(caller, dom)?;
        Ok(PortStatus { binding: word.binding(), vcpu: word.vcpu() })
    }

    /// Moves a port's future events to another vCPU (`EVTCHNOP_bind_vcpu`).
    ///
    /// # Errors
    /// [`EventError::NoSuchVcpu`]; [`EventError::Invalid`] for a free port, an IPI, or a virtual interrupt that belongs
    /// to one vCPU.
    pub fn bind_vcpu(&self, domain: &Arc<Domain<P>>, port: Port, vcpu: VcpuId) -> Result<(), EventError> {
        vcpu_exists(domain, vcpu)?;
        let slot = domain.events.slot(port)?;
        let _changes = domain.events.changes.lock();
        match slot.load().binding() {
            Binding::Unbound(_) | Binding::Interdomain(..) | Binding::Console => {}
            Binding::Pirq(pirq) => self.steer_pirq(domain, pirq, vcpu),
            Binding::Virq(virq) if virq_is_global(virq) => {}
            _ => return Err(EventError::Invalid),
        }
        slot.set_vcpu(vcpu);
        Ok(())
    }

    /// Sets the queue of a port's future events (`EVTCHNOP_set_priority`).
    ///
    /// # Errors
    /// [`EventError::Invalid`] for a port that is not valid or a priority beyond the last; [`EventError::NotBound`];
    /// [`EventError::NoPriorities`] with the two-level ABI.
    pub fn set_event_priority(
        &self,
        domain: &Domain<P>,
        port: Port,
        priority: u32,
    ) -> Result<(), EventError> {
        let slot = domain.events.slot(port)?;
        if slot.load().binding() == Binding::Free {
            return Err(EventError::NotBound);
        }
        if domain.events.fifo().is_none() {
            return Err(EventError::NoPriorities);
        }
        if priority > EVTCHN_FIFO_PRIORITY_MIN {
            return Err(EventError::Invalid);
        }
        slot.set_priority(priority);
        Ok(())
    }
}
