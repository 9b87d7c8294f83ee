//! Event channels between the domains of a process.

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::AcqRel;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Domain, Machine};
use crate::transport::{DomId, Errno, Error};

/// A port as the machine knows it.
struct Entry {
    peer: DomId,
    /// The peer's port, once it has bound.
    other: Option<u32>,
    pending: Arc<AtomicBool>,
}

/// A domain's ports.
#[derive(Default)]
pub(super) struct Table {
    entries: BTreeMap<u32, Entry>,
    last: u32,
}

impl Table {
    fn add(&mut self, entry: Entry) -> u32 {
        self.last += 1;
        self.entries.insert(self.last, entry);
        self.last
    }
}

/// One end of an event channel.
#[derive(Debug)]
pub struct Port {
    machine: Machine,
    owner: DomId,
    number: u32,
    pending: Arc<AtomicBool>,
}

impl Port {
    pub(super) fn listen(machine: &Machine, owner: DomId, peer: DomId) -> Result<Self, Error> {
        Self::open(machine, owner, Entry { peer, other: None, pending: Arc::default() })
    }

    pub(super) fn connect(machine: &Machine, owner: DomId, peer: DomId, port: u32) -> Result<Self, Error> {
        let offered = |domain: &mut Domain| {
            let entry = domain.ports.entries.get(&port);
            entry.is_some_and(|entry| entry.peer == owner && entry.other.is_none())
        };
        if !machine.with(peer, offered).unwrap_or(false) {
            return Err(Error::Refused(Errno::EINVAL));
        }
        // Both ends get a first event, as from the hypervisor: whatever happened before is seen now.
        let pending = Arc::new(AtomicBool::new(true));
        let own = Self::open(machine, owner, Entry { peer, other: Some(port), pending })?;
        let _ = machine.with(peer, |domain| {
            if let Some(entry) = domain.ports.entries.get_mut(&port) {
                entry.other = Some(own.number);
            }
        });
        Ok(own)
    }

    fn open(machine: &Machine, owner: DomId, entry: Entry) -> Result<Self, Error> {
        let pending = entry.pending.clone();
        let number = machine.with(owner, |domain| domain.ports.add(entry)).ok_or(Error::NoRoom)?;
        Ok(Self { machine: machine.clone(), owner, number, pending })
    }
}

impl crate::transport::Port for Port {
    fn number(&self) -> u32 {
        self.number
    }

    fn notify(&self) {
        let mut shared = self.machine.lock();
        let entry = shared.domains.get(&self.owner).and_then(|own| own.ports.entries.get(&self.number));
        let Some((peer, Some(other))) = entry.map(|entry| (entry.peer, entry.other)) else { return };
        let Some(domain) = shared.domains.get_mut(&peer) else { return };
        if let Some(entry) = domain.ports.entries.get(&other) {
            entry.pending.store(true, core::sync::atomic::Ordering::Release);
            domain.wake();
        }
    }

    fn take(&self) -> bool {
        self.pending.swap(false, AcqRel)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let mut shared = self.machine.lock();
        let own = shared.domains.get_mut(&self.owner);
        let Some(entry) = own.and_then(|own| own.ports.entries.remove(&self.number)) else { return };
        // The other end stays, bound to nobody.
        let peer = shared.domains.get_mut(&entry.peer);
        if let Some(other) =
            peer.zip(entry.other).and_then(|(peer, other)| peer.ports.entries.get_mut(&other))
        {
            other.other = None;
        }
    }
}
