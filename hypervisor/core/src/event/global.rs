//! Which domain gets the machine's own virtual interrupts: the control domain, unless it named another one.

use super::{EventError, VIRQS, virq_is_global};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{DomId, VcpuId};
use crate::platform::Platform;
use core::sync::atomic::{AtomicU16, Ordering};

/// The domain that controls the machine, and stands in where nobody was named.
const CONTROL_DOMAIN: u16 = 0;

/// By virtual interrupt: the identifier of the domain that gets it.
#[derive(Debug)]
pub struct GlobalVirqs([AtomicU16; VIRQS]);

impl GlobalVirqs {
    /// The control domain gets all of them.
    pub const fn new() -> Self {
        Self([const { AtomicU16::new(CONTROL_DOMAIN) }; VIRQS])
    }
}

impl Default for GlobalVirqs {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Raises a virtual interrupt of the machine. Dropped when its domain has not bound it.
    pub fn send_global_virq(&self, virq: u32) {
        let Some(handler) = self.virq_handlers.0.get(virq as usize) else { return };
        let id = DomId(handler.load(Ordering::Relaxed));
        let domain = self.domains.get(id).or_else(|| self.domains.get(DomId(CONTROL_DOMAIN)));
        if let Some(domain) = domain {
            self.send_virq(&domain, VcpuId(0), virq);
        }
    }

    /// Names the domain that gets a virtual interrupt of the machine from now on (`XEN_DOMCTL_set_virq_handler`).
    ///
    /// # Errors
    /// [`EventError::Invalid`] for one that does not exist, or that each vCPU has of its own.
    pub fn set_virq_handler(&self, domain: &Domain<P>, virq: u32) -> Result<(), EventError> {
        let handler = self.virq_handlers.0.get(virq as usize).ok_or(EventError::Invalid)?;
        if !virq_is_global(virq) {
            return Err(EventError::Invalid);
        }
        handler.store(domain.id.0, Ordering::Relaxed);
        Ok(())
    }

    /// What a domain that ends was to get goes to the control domain again.
    pub(crate) fn forget_virq_handler(&self, domain: DomId) {
        for handler in &self.virq_handlers.0 {
            // Somebody else may have been named meanwhile.
            let _ = handler.compare_exchange(domain.0, CONTROL_DOMAIN, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}
