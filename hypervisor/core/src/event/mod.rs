//! Event channels: the only interrupts that a PV guest has.
//!
//! Each domain owns a table of *ports*. A port is free, or bound to one source: another domain's port, a physical
//! interrupt, a virtual one, or an IPI of the domain itself. An event sets a bit (or links a word, with the FIFO
//! ABI) in memory shared with the guest and, unless the guest masked the port, marks its vCPU's upcall pending.
//!
//! What each file owns: [`slot`] the word that describes a port; `bind` making and `close` ending bindings; `deliver`
//! the way of an event from its sender to a vCPU; `two_level` and `fifo` the two formats of the shared memory; `query`
//! what a guest may ask and set on a port; [`pirq`] physical interrupts.
//!
//! # Invariants
//!
//! - A port is one 64-bit word ([`slot::Slot`]). Its binding changes only while [`DomainEvents`]' mutex **and** the
//!   word's own lock bit are held. A sender takes the lock bit alone, so that a closed port is never signalled after
//!   its closing returned, and so that a send waits for nothing but another send or a change of the same port.
//! - A port in state interdomain names a port that names it back, as long as either's lock bit is held. To change one
//!   end takes the mutexes of both domains (lower domain first) and the lock bits of both ends (in the same order, then
//!   by port). The one exception is a domain in teardown, which its peers no longer find: its ends are dangling until
//!   it closes them itself.
//! - A guest decides how long the search for a free port is. It is made in steps, with the own domain's mutex only, held for one
//!   step at a time, and after the other end was judged; a hypercall that finds other work in between is made again.
//! - Ports come in chunks that are made once and live as long as the domain: readers need no lock to find a slot.
//! - Shared memory is only reached through the platform's frame words, with atomics; nothing read from it is trusted.
//! - Locks inside: mutex, then slot lock bit, then the FIFO queue locks (lower vCPU first), then the table of physical
//!   interrupts, then a domain's pirqs. None is held while the scheduler is called, except the slot lock bit of a sender.

mod bind;
mod close;
mod deliver;
mod fifo;
mod global;
pub mod pirq;
mod pirq_map;
mod query;
pub mod slot;
#[cfg(test)]
pub(crate) mod tests;
mod two_level;

pub use close::Progress;
pub use global::GlobalVirqs;
pub use pirq::PirqTable;
pub use pirq_map::WantedPirq;
pub use query::PortStatus;

use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{DomId, Port, VcpuId};
use crate::platform::Platform;
use crate::sync::{FairMutex, FairMutexGuard};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use fifo::Fifo;
use pirq_map::Numbers;
use slot::{Binding, Slot, SlotTable};
use spin::{Mutex, Once};
use xen_abi::errno::Errno;
use xen_abi::event_channel::{EVTCHN_2L_NR_CHANNELS, EVTCHN_FIFO_NR_CHANNELS};
use xen_abi::xen::{DOMID_SELF, NR_VIRQS, VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU};

const VIRQS: usize = NR_VIRQS as usize;

/// Why an operation on event channels failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventError {
    /// The domain named does not exist.
    NoSuchDomain,
    /// The vCPU named does not exist.
    NoSuchVcpu,
    /// The caller may not do this to that domain or interrupt.
    NotPermitted,
    /// The port is not valid or not in a state that allows this, or an argument is out of range.
    Invalid,
    /// The virtual or physical interrupt is bound to another port.
    AlreadyBound,
    /// The physical interrupt is used by somebody who does not share.
    Busy,
    /// No port is left.
    NoPort,
    /// The port wanted is taken.
    PortTaken,
    /// No memory is left.
    NoMemory,
    /// Another reset is under way.
    ResetInProgress,
    /// Ports were bound while all were being closed.
    ResetIncomplete,
    /// Needs the FIFO ABI, which the domain did not switch to.
    NotFifo,
    /// The domain's ABI has no priorities.
    NoPriorities,
    /// The port is not bound.
    NotBound,
    /// The machine refused the interrupt.
    Platform(Errno),
    /// Not an error: this CPU has other work first, and nothing was changed. The hypercall is made again.
    Restart,
    /// The domain's console has more to write: the event is to be sent again.
    Unfinished,
}

impl From<EventError> for Errno {
    fn from(error: EventError) -> Errno {
        match error {
            EventError::NoSuchDomain => Errno::ESRCH,
            EventError::NoSuchVcpu => Errno::ENOENT,
            EventError::NotPermitted => Errno::EPERM,
            EventError::Invalid => Errno::EINVAL,
            EventError::AlreadyBound => Errno::EEXIST,
            EventError::Busy | EventError::PortTaken | EventError::ResetInProgress => Errno::EBUSY,
            EventError::NoPort => Errno::ENOSPC,
            EventError::NoMemory => Errno::ENOMEM,
            EventError::ResetIncomplete | EventError::Restart | EventError::Unfinished => Errno::EAGAIN,
            EventError::NotFifo => Errno::EOPNOTSUPP,
            EventError::NoPriorities => Errno::ENOSYS,
            EventError::NotBound => Errno::EACCES,
            EventError::Platform(errno) => errno,
        }
    }
}

impl From<slot::OutOfMemory> for EventError {
    fn from(_: slot::OutOfMemory) -> Self {
        Self::NoMemory
    }
}

/// Whether a virtual interrupt belongs to the domain as a whole: it is bound at vCPU 0, and may be moved to others.
pub fn virq_is_global(virq: u32) -> bool {
    !matches!(virq, VIRQ_TIMER | VIRQ_DEBUG | VIRQ_XENOPROF | VIRQ_XENPMU)
}

/// The event channels of one domain.
pub struct DomainEvents {
    /// All ports.
    slots: SlotTable,
    /// By vCPU, then by virtual interrupt: the port bound to it, 0 for none. Global ones stand at vCPU 0.
    virqs: Box<[[AtomicU32; VIRQS]]>,
    /// The FIFO ABI's state, made when the domain first switches to it.
    fifo: Once<Fifo>,
    /// Whether the FIFO ABI is in use now.
    uses_fifo: AtomicBool,
    /// Highest port that the domain may allocate.
    max_port: AtomicU32,
    /// The numbers that mean a physical interrupt, or are reserved for one.
    pirqs: Mutex<Numbers>,
    /// Serialises every change of a binding.
    changes: FairMutex<Changes>,
}

/// What binding and closing needs to know beyond the slots.
struct Changes {
    /// No port below this one is free.
    lowest_free: u32,
    /// Where a search for a free port goes on that stopped for other work; no port below could be bound when it was looked at. 0: there is none.
    search_from: u32,
    /// The search for a free port came to the last one, and looks at all ports once more.
    searches_again: bool,
    /// Ports that are bound.
    active: u32,
    /// How far `EVTCHNOP_reset` got.
    reset: close::Reset,
    /// Where the teardown goes on.
    next_destroyed: u32,
    /// Saved events that are being raised.
    raising: Option<fifo::Raising>,
    /// Pages of the FIFO ABI that the domain left are being given back.
    leaving: Option<fifo::Leaving>,
    /// Teardown began: no port is bound any more.
    dying: bool,
}

impl DomainEvents {
    /// A domain with `max_vcpus` vCPUs, the two-level ABI and no bound port.
    ///
    /// # Errors
    /// [`EventError::NoMemory`].
    pub fn new(max_vcpus: u32) -> Result<Self, EventError> {
        let slots = SlotTable::new()?;
        slots.grow_to(Port(0))?;
        let mut virqs = Vec::new();
        virqs.try_reserve_exact(max_vcpus as usize).map_err(|_| EventError::NoMemory)?;
        virqs.resize_with(max_vcpus as usize, || [const { AtomicU32::new(0) }; VIRQS]);
        Ok(Self {
            slots,
            virqs: virqs.into_boxed_slice(),
            fifo: Once::new(),
            uses_fifo: AtomicBool::new(false),
            max_port: AtomicU32::new(u32::MAX),
            pirqs: Mutex::new(Numbers::default()),
            changes: FairMutex::new(Changes {
                lowest_free: 1,
                search_from: 0,
                searches_again: false,
                active: 0,
                reset: close::Reset::Idle,
                next_destroyed: 1,
                raising: None,
                leaving: None,
                dying: false,
            }),
        })
    }

    /// Limits the ports that the domain may allocate from now on (`max_evtchn_port` of its configuration).
    pub fn set_max_port(&self, port: Port) {
        self.max_port.store(port.0, Ordering::Relaxed);
    }

    /// What a port is bound to now; `None` for a port that is not valid.
    pub fn binding(&self, port: Port) -> Option<Binding> {
        self.slots.get(port).map(|slot| slot.load().binding())
    }

    /// All bound ports, and what each is bound to.
    pub fn bindings(&self) -> impl Iterator<Item = (Port, Binding)> {
        let ports = (1..self.slots.valid()).map(Port);
        ports
            .filter_map(|port| Some((port, self.binding(port)?)))
            .filter(|(_, binding)| *binding != Binding::Free)
    }

    /// Number of bound ports.
    pub fn active_ports(&self) -> u32 {
        self.changes.lock().active
    }

    fn slot(&self, port: Port) -> Result<&Slot, EventError> {
        self.slots.get(port).ok_or(EventError::Invalid)
    }

    /// The FIFO state while that ABI is in use.
    fn fifo(&self) -> Option<&Fifo> {
        if self.uses_fifo.load(Ordering::Acquire) { self.fifo.get() } else { None }
    }

    /// One more than the highest port that the ABI in use can show.
    fn abi_ports(&self) -> u32 {
        if self.uses_fifo.load(Ordering::Acquire) { EVTCHN_FIFO_NR_CHANNELS } else { EVTCHN_2L_NR_CHANNELS }
    }
}

impl<P: Platform> Hypervisor<P> {
    /// The domain that a hypercall names: `DOMID_SELF`, or any identifier.
    pub(crate) fn named_domain(&self, caller: &Arc<Domain<P>>, id: DomId) -> Option<Arc<Domain<P>>> {
        if id.0 == DOMID_SELF || id == caller.id { Some(caller.clone()) } else { self.domains.get(id) }
    }

    /// The domain that a hypercall wants to manage: the caller's own, or any when the caller is privileged.
    fn managed_domain(&self, caller: &Arc<Domain<P>>, id: DomId) -> Result<Arc<Domain<P>>, EventError> {
        let domain = self.named_domain(caller, id).ok_or(EventError::NoSuchDomain)?;
        if Arc::ptr_eq(caller, &domain) || caller.privileged {
            Ok(domain)
        } else {
            Err(EventError::NotPermitted)
        }
    }
}

fn vcpu_exists<P: Platform>(domain: &Domain<P>, vcpu: VcpuId) -> Result<(), EventError> {
    domain.vcpu(vcpu).map(|_| ()).ok_or(EventError::NoSuchVcpu)
}

/// The mutexes of two domains, locked in their order; `b` is the same domain as `a` when the second guard is missing.
struct BothChanges<'a> {
    a: FairMutexGuard<'a, Changes>,
    _b: Option<FairMutexGuard<'a, Changes>>,
}

impl<'a> BothChanges<'a> {
    fn lock<P: Platform>(a: &'a Domain<P>, b: &'a Domain<P>) -> Self {
        if core::ptr::eq(a, b) {
            Self { a: a.events.changes.lock(), _b: None }
        } else if a.id < b.id {
            let first = a.events.changes.lock();
            Self { a: first, _b: Some(b.events.changes.lock()) }
        } else {
            let first = b.events.changes.lock();
            Self { a: a.events.changes.lock(), _b: Some(first) }
        }
    }
}
