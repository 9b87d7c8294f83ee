//! A guest kernel as a transport: grants, events and time are the guest library's.
//!
//! [`Guest`] is generic over the connection to xenstore: the ring of an ordinary domain
//! ([`connect`](guest_pv_lib::xenstore::connect)), or, in the domain that serves xenstore, a client of its own server.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;
use core::time::Duration;

use alloc::string::String;
use guest_pv_lib::events::{Channel, Port as PortNumber};
use guest_pv_lib::grant::{self, Mapped, MappedReadOnly};
use guest_pv_lib::memory::{OutOfMemory, Pages, SharedPages};
use guest_pv_lib::xenstore::{Client, Link};
use guest_pv_lib::{Errno, sched, time};
use smallvec::SmallVec;

use super::{Access, Copy, CopyEnd, DomId, Error, GrantRef, Granted, Port, Transport};
use crate::store::{self, Event, Permission, Store, Transaction};

/// Pieces that one hypercall copies: bounds the stack that they take.
const BATCH: usize = 64;

/// The domain that this kernel runs in.
pub struct Guest<S> {
    store: Arc<S>,
}

impl<S> Guest<S> {
    /// The transport of drivers that use `store`.
    pub fn new(store: S) -> Self {
        Self { store: Arc::new(store) }
    }
}

impl<S> Clone for Guest<S> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone() }
    }
}

impl<S> fmt::Debug for Guest<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guest")
    }
}

impl From<OutOfMemory> for Error {
    fn from(_: OutOfMemory) -> Self {
        Self::NoMemory
    }
}

impl From<grant::Error> for Error {
    fn from(error: grant::Error) -> Self {
        match error {
            grant::Error::OutOfMemory => Self::NoMemory,
            grant::Error::NoRoom => Self::NoRoom,
            grant::Error::BadGrant => Self::BadGrant,
            grant::Error::OutOfRange => Self::OutOfRange,
            grant::Error::Status(_) => Self::Refused(Errno::EIO),
            grant::Error::Refused(errno) => Self::Refused(errno),
        }
    }
}

impl<S: Store> Transport for Guest<S> {
    type Buffer = Pages;
    type Memory = SharedPages;
    type Granted = grant::Granted;
    type Mapped = Mapped;
    type MappedReadOnly = MappedReadOnly;
    type Port = Channel;
    type Store = S;

    fn buffer(&self, pages: usize) -> Result<Pages, Error> {
        Ok(Pages::new(pages)?)
    }

    fn memory(&self, pages: usize) -> Result<SharedPages, Error> {
        Ok(Pages::new(pages)?.into())
    }

    fn lend(&self, buffer: Pages, peer: DomId, access: Access) -> Result<grant::Granted, (Error, Pages)> {
        grant::Granted::new(buffer, peer, access).map_err(|(error, buffer)| (error.into(), buffer))
    }

    fn take_back(&self, granted: grant::Granted) -> Result<Pages, grant::Granted> {
        granted.end()
    }

    fn kept_aside(&self, peer: DomId) -> usize {
        grant::kept_aside_for(peer)
    }

    fn map(&self, peer: DomId, refs: &[GrantRef], access: Access) -> Result<Mapped, Error> {
        if access != Access::ReadWrite {
            return Err(Error::BadGrant);
        }
        Ok(Mapped::new(peer, refs)?)
    }

    fn map_read_only(&self, peer: DomId, refs: &[GrantRef]) -> Result<MappedReadOnly, Error> {
        Ok(MappedReadOnly::new(peer, refs)?)
    }

    fn copy(&self, own: &SharedPages, pieces: &mut [Copy]) {
        pieces.chunks_mut(BATCH).for_each(|pieces| copy_batch(own, pieces));
    }

    fn listen(&self, peer: DomId) -> Result<Channel, Error> {
        Channel::alloc_unbound(peer).map_err(port_error)
    }

    fn connect(&self, peer: DomId, port: u32) -> Result<Channel, Error> {
        // Each poll of a back end takes its events: a front end that sends more is not listened to.
        Channel::interdomain(peer, PortNumber(port)).map(Channel::quiet).map_err(port_error)
    }

    fn store(&self) -> &S {
        &self.store
    }

    fn wait(&self, limit: Option<Duration>) {
        sched::wait(limit);
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(time::now())
    }
}

const fn port_error(errno: Errno) -> Error {
    match errno {
        Errno::ENOSPC => Error::NoRoom,
        errno => Error::Refused(errno),
    }
}

/// Copies at most [`BATCH`] pieces by one hypercall.
fn copy_batch(own: &SharedPages, pieces: &mut [Copy]) {
    let mut operations: SmallVec<[grant::Copy<'_>; BATCH]> = SmallVec::new();
    for piece in &mut *pieces {
        let operation = grant::Copy::new(source(own, piece.source), target(own, piece.target), piece.length);
        piece.result = operation.map(|operation| operations.push(operation)).map_err(Error::from);
    }
    grant::copy(&mut operations);
    // Those that were no copies at all have their error already.
    let copied = pieces.iter_mut().filter(|piece| piece.result.is_ok());
    for (piece, operation) in copied.zip(&operations) {
        piece.result = operation.result().map_err(Error::from);
    }
}

fn source(own: &SharedPages, end: CopyEnd) -> grant::Source<'_> {
    match end {
        CopyEnd::Peer { domain, reference, offset } => grant::Source::Peer { domain, reference, offset },
        CopyEnd::Own { offset } => grant::Source::Shared(own, offset),
    }
}

fn target(own: &SharedPages, end: CopyEnd) -> grant::Target<'_> {
    match end {
        CopyEnd::Peer { domain, reference, offset } => grant::Target::Peer { domain, reference, offset },
        CopyEnd::Own { offset } => grant::Target::Shared(own, offset),
    }
}

impl Granted for grant::Granted {
    fn refs(&self) -> &[GrantRef] {
        Self::refs(self)
    }
}

impl Port for Channel {
    fn number(&self) -> u32 {
        Self::number(self)
    }

    fn notify(&self) {
        Self::notify(self);
    }

    fn take(&self) -> bool {
        Self::take(self)
    }
}

impl<M, L> Store for Client<M, L>
where
    M: Deref<Target = [AtomicU32]> + Send + Sync + 'static,
    L: Link + 'static,
{
    fn read(&self, transaction: Transaction, path: &str) -> Result<Vec<u8>, store::Error> {
        Self::read(self, transaction, path)
    }

    fn write(&self, transaction: Transaction, path: &str, value: &[u8]) -> Result<(), store::Error> {
        Self::write(self, transaction, path, value)
    }

    fn mkdir(&self, transaction: Transaction, path: &str) -> Result<(), store::Error> {
        Self::mkdir(self, transaction, path)
    }

    fn remove(&self, transaction: Transaction, path: &str) -> Result<(), store::Error> {
        Self::remove(self, transaction, path)
    }

    fn directory(&self, transaction: Transaction, path: &str) -> Result<Vec<String>, store::Error> {
        Self::directory(self, transaction, path)
    }

    fn set_permissions(
        &self,
        transaction: Transaction,
        path: &str,
        permissions: &[(u16, Permission)],
    ) -> Result<(), store::Error> {
        Self::set_permissions(self, transaction, path, permissions)
    }

    fn begin(&self) -> Result<Transaction, store::Error> {
        Self::begin(self)
    }

    fn end(&self, transaction: Transaction, commit: bool) -> Result<(), store::Error> {
        Self::end(self, transaction, commit)
    }

    fn watch(&self, path: &str, token: &str) -> Result<(), store::Error> {
        Self::watch(self, path, token)
    }

    fn unwatch(&self, path: &str, token: &str) -> Result<(), store::Error> {
        Self::unwatch(self, path, token)
    }

    fn next_event(&self) -> Option<Event> {
        Self::next_event(self)
    }
}
