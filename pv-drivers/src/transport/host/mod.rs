//! Several domains in one process, for tests: both ends of a driver run as they do in guests, without a hypervisor.
//!
//! A [`Machine`] holds what the hypervisor would, each domain's grants and ports, and the xenstore [`Server`], to which
//! every domain is a privileged client. A [`HostTransport`] is the machine as one domain sees it; its clones may be used from any thread. A domain that
//! waits sleeps on a `crossbeam` channel of one token, which an event or a watch puts there.
//!
//! What differs from a guest: a [`Buffer`] is copied when it is lent and when it is taken back (safe code cannot turn
//! bytes into atomic words and back), and [`map`](Transport::map) takes pages only that lie one behind the other in one
//! buffer of the peer.
//!
//! One lock guards grants and ports; nobody calls out while holding it.

mod grants;
mod ports;
#[cfg(test)]
mod tests;

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64};
use core::time::Duration;
use std::collections::BTreeMap;
use std::format;
use std::string::{String, ToString};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use std::vec::Vec;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Access, Copy, DomId, Error, GrantRef, Transport};
use crate::store::server::{Local, Server, home};
use crate::store::{Permission, Store, Transaction};

pub use grants::{Buffer, Granted, Mapped, MappedReadOnly, Memory};
pub use ports::Port;

/// All domains of the process that know each other.
#[derive(Clone, Default)]
pub struct Machine {
    shared: Arc<Mutex<Shared>>,
    store: Arc<spin::Mutex<Server>>,
    /// Nanoseconds by which its clock is ahead of the process's.
    ahead: Arc<AtomicU64>,
}

/// What the lock guards.
#[derive(Default)]
struct Shared {
    domains: BTreeMap<DomId, Domain>,
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

    /// Its xenstore, for tests that serve domains by pages.
    #[must_use]
    pub fn server(&self) -> Arc<spin::Mutex<Server>> {
        self.store.clone()
    }

    /// Puts the machine's clock forward for all domains. Waits take no notice of it.
    pub fn advance(&self, by: Duration) {
        self.ahead.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The domain of this number, made where it does not exist.
    #[must_use]
    pub fn domain(&self, id: DomId) -> HostTransport {
        let mut shared = self.lock();
        let wake = shared.domains.entry(id).or_insert_with(Domain::new).wake.clone();
        drop(shared);
        let waker = move || {
            let _ = wake.0.try_send(());
        };
        let store = Arc::new(Local::new(&self.store, id, true, Some(Arc::new(waker))));
        // As a toolstack does. A privileged client may write anywhere.
        let _ = store.write(Transaction::NONE, "domid", id.to_string().as_bytes());
        HostTransport { machine: self.clone(), id, woken: wake.1, store, start: Instant::now() }
    }

    /// Ends a domain without a word: its grants and ports are gone, its watches and nodes too. What is mapped
    /// stays mapped.
    pub fn destroy(&self, id: DomId) {
        self.lock().domains.remove(&id);
        self.store.lock().release(id);
    }

    /// Writes what a toolstack writes for a new device: both directories, which name each other. Answers the front end's
    /// and the back end's.
    pub fn plug(&self, kind: &str, id: u32, front: DomId, back: DomId) -> (String, String) {
        let toolstack = Local::new(&self.store, 0, true, None);
        let own = [format!("device/{kind}/{id}"), format!("backend/{kind}/{front}/{id}")];
        let home = [home(front), home(back)];
        for (at, names, peer) in
            [(0, ["backend", "backend-id"], back), (1, ["frontend", "frontend-id"], front)]
        {
            let path = format!("{}/{}", home[at], own[at]);
            // What is written below belongs to the same domain, and goes with it.
            let (owner, peer_reads) = (if at == 0 { front } else { back }, (peer, Permission::Read));
            let _ = toolstack.mkdir(Transaction::NONE, &path);
            let _ =
                toolstack.set_permissions(Transaction::NONE, &path, &[(owner, Permission::None), peer_reads]);
            let other = format!("{}/{}", home[1 - at], own[1 - at]);
            for (name, value) in [(names[0], other), (names[1], peer.to_string()), ("state", "1".into())] {
                // A privileged client without a transaction is refused nothing but malformed names.
                let _ = toolstack.write(Transaction::NONE, &format!("{path}/{name}"), value.as_bytes());
            }
        }
        if kind == "vbd" {
            let _ = toolstack.write(Transaction::NONE, &format!("{}/{}/mode", home[1], own[1]), b"w");
        }
        own.into()
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
    store: Arc<Local>,
    start: Instant,
}

impl HostTransport {
    /// This domain's number.
    #[must_use]
    pub fn id(&self) -> DomId {
        self.id
    }

    /// The same domain with a connection to xenstore that leaves what follows from its operations to the server's loop, as the
    /// domain has that serves xenstore.
    #[must_use]
    pub fn deferring(self) -> Self {
        let store = Arc::new(Local::deferring(&self.machine.store, self.id, true));
        Self { store, ..self }
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
    type MappedReadOnly = MappedReadOnly;
    type Port = Port;
    type Store = Local;

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

    fn kept_aside(&self, peer: DomId) -> usize {
        self.machine.with(self.id, |domain| domain.grants.kept_aside(peer)).unwrap_or(0)
    }

    fn map(&self, peer: DomId, refs: &[GrantRef], access: Access) -> Result<Mapped, Error> {
        if access != Access::ReadWrite {
            return Err(Error::BadGrant);
        }
        Mapped::new(&self.machine, self.id, peer, refs, access)
    }

    fn map_read_only(&self, peer: DomId, refs: &[GrantRef]) -> Result<MappedReadOnly, Error> {
        MappedReadOnly::new(&self.machine, self.id, peer, refs)
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

    fn store(&self) -> &Local {
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
        self.start.elapsed() + Duration::from_nanos(self.machine.ahead.load(Relaxed))
    }
}

/// Zeroed words of whole pages.
fn zeroed(pages: usize) -> Arc<[AtomicU32]> {
    (0..pages * WORDS).map(|_| AtomicU32::new(0)).collect::<Vec<_>>().into()
}

/// Words in a page.
const WORDS: usize = super::PAGE_SIZE / 4;
