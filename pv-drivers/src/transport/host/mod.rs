//! Several domains in one process, for tests: both ends of a driver run as they do in guests, without a hypervisor.
//!
//! A [`Machine`] holds what the hypervisor and xenstore would: each domain's grants and ports, and the tree. A
//! [`HostTransport`] is the machine as one domain sees it; its clones may be used from any thread. A domain that
//! waits sleeps on a `crossbeam` channel of one token, which an event or a watch puts there.
//!
//! What differs from a guest: a [`Buffer`] is copied when it is lent and when it is taken back (safe code cannot turn
//! bytes into atomic words and back), and [`map`](Transport::map) takes pages only that lie one behind the other in one
//! buffer of the peer.
//!
//! One lock guards everything; nobody calls out while holding it.

mod grants;
mod ports;
mod store;
#[cfg(test)]
mod tests;

use core::fmt;
use core::sync::atomic::AtomicU32;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use std::vec::Vec;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Access, Copy, DomId, Error, GrantRef, Transport};

pub use grants::{Buffer, Granted, Mapped, Memory};
pub use ports::Port;
pub use store::HostStore;

/// All domains of the process that know each other.
#[derive(Clone, Default)]
pub struct Machine {
    shared: Arc<Mutex<Shared>>,
}

/// What the lock guards.
#[derive(Default)]
struct Shared {
    domains: BTreeMap<DomId, Domain>,
    tree: store::Tree,
}

/// What the machine knows of one domain.
struct Domain {
    grants: grants::Table,
    ports: ports::Table,
    /// Holds a token from the moment at which something happened until somebody waited for it.
    wake: (Sender<()>, Receiver<()>),
}

impl Domain {
    fn new() -> Self {
        Self { grants: grants::Table::default(), ports: ports::Table::default(), wake: bounded(1) }
    }

    /// Wakes whoever waits in this domain, or the next who would.
    fn wake(&self) {
        // A full channel holds the token already.
        let _ = self.wake.0.try_send(());
    }
}

impl Machine {
    /// A machine without domains.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The domain of this number, made where it does not exist.
    #[must_use]
    pub fn domain(&self, id: DomId) -> HostTransport {
        let mut shared = self.lock();
        let domain = shared.domains.entry(id).or_insert_with(Domain::new);
        let woken = domain.wake.1.clone();
        drop(shared);
        let store = HostStore::new(self.clone(), id);
        store.introduce();
        HostTransport { machine: self.clone(), id, woken, store, start: Instant::now() }
    }

    /// Ends a domain without a word: its grants and ports are gone, its watches too. What is mapped stays mapped, and
    /// what it wrote to xenstore stays written.
    pub fn destroy(&self, id: DomId) {
        let mut shared = self.lock();
        shared.domains.remove(&id);
        shared.tree.forget(id);
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A test that failed while it held the lock shall not hide its message behind others.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The domain, if it exists still.
    fn with<R>(&self, id: DomId, work: impl FnOnce(&mut Domain) -> R) -> Option<R> {
        self.lock().domains.get_mut(&id).map(work)
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Machine")
    }
}

/// The machine as one domain sees it.
#[derive(Clone, Debug)]
pub struct HostTransport {
    machine: Machine,
    id: DomId,
    woken: Receiver<()>,
    store: HostStore,
    start: Instant,
}

impl HostTransport {
    /// This domain's number.
    #[must_use]
    pub fn id(&self) -> DomId {
        self.id
    }

    /// The machine that it is part of.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }
}

impl Transport for HostTransport {
    type Buffer = Buffer;
    type Memory = Memory;
    type Granted = Granted;
    type Mapped = Mapped;
    type Port = Port;
    type Store = HostStore;

    fn buffer(&self, pages: usize) -> Result<Buffer, Error> {
        Ok(Buffer::new(pages))
    }

    fn memory(&self, pages: usize) -> Result<Memory, Error> {
        Ok(Memory::new(pages))
    }

    fn lend(&self, buffer: Buffer, peer: DomId, access: Access) -> Result<Granted, (Error, Buffer)> {
        Granted::new(&self.machine, self.id, buffer, peer, access)
    }

    fn take_back(&self, granted: Granted) -> Result<Buffer, Granted> {
        granted.end()
    }

    fn map(&self, peer: DomId, refs: &[GrantRef], access: Access) -> Result<Mapped, Error> {
        Mapped::new(&self.machine, self.id, peer, refs, access)
    }

    fn copy(&self, own: &Memory, pieces: &mut [Copy]) {
        for piece in pieces {
            piece.result = grants::copy(&self.machine, self.id, own, piece);
        }
    }

    fn listen(&self, peer: DomId) -> Result<Port, Error> {
        Port::listen(&self.machine, self.id, peer)
    }

    fn connect(&self, peer: DomId, port: u32) -> Result<Port, Error> {
        Port::connect(&self.machine, self.id, peer, port)
    }

    fn store(&self) -> &HostStore {
        &self.store
    }

    fn wait(&self, limit: Option<Duration>) {
        // A machine without this domain holds no sender any more: then there is nothing to wait for.
        match limit {
            Some(limit) => drop(self.woken.recv_timeout(limit)),
            None => drop(self.woken.recv()),
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Zeroed words of whole pages.
fn zeroed(pages: usize) -> Arc<[AtomicU32]> {
    (0..pages * WORDS).map(|_| AtomicU32::new(0)).collect::<Vec<_>>().into()
}

/// Words in a page.
const WORDS: usize = super::PAGE_SIZE / 4;
