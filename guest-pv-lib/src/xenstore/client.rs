//! The client of a connection: many requests under way, answers in any order, events of watches in between.
//!
//! All of its state is behind one lock, which is held while bytes move and never while anybody waits or is woken. In a
//! kernel upcalls are masked meanwhile, so a handler may use the client, too; only [`Reply::wait`] is not for handlers.
//!
//! A request is queued whole, so requests of several callers do not mix. An answer belongs to the request whose number it
//! carries; one that nobody waits for (any more) is dropped.
//!
//! The server is the other end: however fast it writes, upcalls are masked for a ring's worth of messages at a time, a call
//! ends, and what waits here is counted in bytes.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::future::Future;
use core::ops::Deref;
use core::pin::Pin;
use core::sync::atomic::AtomicU32;
use core::task::{Context, Poll, Waker};

use xen_abi::io::xs_wire::{
    XENSTORE_PAYLOAD_MAX, XS_ERROR, XS_RESET_WATCHES, XS_WATCH, XS_WATCH_EVENT, XsdSockmsg,
};
use zerocopy::IntoBytes;

use super::message::{Assembler, Message, error_of, strings};
use super::queue::Events;
use super::{Ring, Transaction};
use crate::Errno;

/// Messages that are taken with upcalls masked: as many as the ring holds.
const AT_ONCE: usize = 64;
/// How often a call looks for more than that.
const LOOKS: usize = 16;

/// How a client reaches the server's attention and waits for it.
pub trait Link: Send + Sync {
    /// Tells the server that the ring changed.
    fn notify(&self);

    /// Returns when the server may have changed the ring; it may return earlier. Called without any lock held.
    fn wait(&self);
}

/// A watch that fired.
#[doc(alias = "XS_WATCH_EVENT")]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// The node that changed, or the watched one itself when the watch was set.
    pub path: String,
    /// What the watch was registered with.
    pub token: String,
}

/// A connection to xenstore, which any number of callers and CPUs use at once. A handler of an event may use it, too, but
/// not wait.
#[derive(Debug)]
pub struct Client<M, L> {
    ring: Ring<M>,
    link: L,
    state: spin::Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_id: u32,
    outgoing: VecDeque<u8>,
    incoming: Assembler,
    pending: BTreeMap<u32, Pending>,
    events: Events,
    event_waker: Option<Waker>,
    /// Path and token of the watches that stand, to be set again on a new connection.
    watches: BTreeSet<(String, String)>,
    /// The server does not speak the protocol: nothing works any more until a restart.
    broken: bool,
}

/// A request that was sent, or its answer.
#[derive(Debug)]
struct Pending {
    kind: u32,
    answer: Option<Result<Vec<u8>, Errno>>,
    waker: Option<Waker>,
}

impl<M: Deref<Target = [AtomicU32]>, L: Link> Client<M, L> {
    /// A client that speaks through `ring`.
    pub fn new(ring: Ring<M>, link: L) -> Self {
        Self { ring, link, state: spin::Mutex::default() }
    }

    /// How it reaches the server.
    pub const fn link(&self) -> &L {
        &self.link
    }

    /// Sends a request (`XS_*`) whose payload is `parts` joined, and returns what stands for its answer.
    ///
    /// # Errors
    ///
    /// `E2BIG` where the payload is longer than the protocol allows, `EIO` where the connection is broken.
    pub fn submit(
        &self,
        kind: u32,
        transaction: Transaction,
        parts: &[&[u8]],
    ) -> Result<Reply<'_, M, L>, Errno> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > XENSTORE_PAYLOAD_MAX as usize {
            return Err(Errno::E2BIG);
        }
        let id = self.locked(|state| {
            if state.broken {
                return Err(Errno::EIO);
            }
            let id = state.new_id();
            // Bounded by the check above.
            let header = XsdSockmsg { type_: kind, req_id: id, tx_id: transaction.0, len: len as u32 };
            state.outgoing.extend(header.as_bytes());
            parts.iter().for_each(|part| state.outgoing.extend(*part));
            state.pending.insert(id, Pending { kind, answer: None, waker: None });
            Ok(id)
        })?;
        self.poll();
        Ok(Reply { client: self, id })
    }

    /// Sends a request and waits for the payload of its answer.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit), and what the server says.
    pub fn call(&self, kind: u32, transaction: Transaction, parts: &[&[u8]]) -> Result<Vec<u8>, Errno> {
        self.submit(kind, transaction, parts)?.wait()
    }

    /// Moves bytes between the queues and the ring and wakes the callers that wait for what came. Does not wait, and ends even where
    /// the server goes on: what is left is moved by the next call.
    pub fn poll(&self) {
        for _ in 0..LOOKS {
            if !self.advance() {
                break;
            }
        }
    }

    /// Does a piece of that; whether there is more.
    fn advance(&self) -> bool {
        let mut wakers = Vec::new();
        let (moved, more) = self.locked(|state| state.pump(&self.ring, &mut wakers));
        if moved {
            self.link.notify();
        }
        wakers.into_iter().for_each(Waker::wake);
        more
    }

    /// The next event of a watch, if there is one. Does not wait.
    pub fn next_event(&self) -> Option<Event> {
        let queued = self.locked(|state| state.events.pop());
        queued.or_else(|| {
            self.poll();
            self.locked(|state| state.events.pop())
        })
    }

    /// The next event of a watch, for an executor. One task at a time is woken.
    pub fn poll_event(&self, context: &mut Context<'_>) -> Poll<Event> {
        // What a waker's clone and drop do is its executor's matter, which may want this client: not under the lock.
        let waker = context.waker().clone();
        drop(self.locked(|state| state.event_waker.replace(waker)));
        self.next_event().map_or(Poll::Pending, Poll::Ready)
    }

    /// Notes that a watch stands (or not any more), so that [`restart`](Self::restart) can set it again.
    pub(super) fn note_watch(&self, path: &str, token: &str, stands: bool) {
        self.locked(|state| {
            let watch = (path.into(), token.into());
            if stands { state.watches.insert(watch) } else { state.watches.remove(&watch) }
        });
    }

    /// Begins anew on a connection that has been reset, as after a resume: what was under way fails with `EAGAIN` (its
    /// transactions are gone), and the watches are set again, each of which fires.
    ///
    /// # Errors
    ///
    /// Of the first watch that the server refuses.
    pub fn restart(&self) -> Result<(), Errno> {
        let mut wakers = Vec::new();
        let watches = self.locked(|state| {
            state.fail_all(Errno::EAGAIN, &mut wakers);
            state.outgoing.clear();
            state.incoming = Assembler::default();
            state.broken = false;
            state.watches.clone()
        });
        wakers.into_iter().for_each(Waker::wake);
        // A server that kept the old connection's watches would refuse them as existing. Old servers do not know this.
        let _ = self.call(XS_RESET_WATCHES, Transaction::NONE, &[&[0]]);
        for (path, token) in &watches {
            self.call(XS_WATCH, Transaction::NONE, &[path.as_bytes(), &[0], token.as_bytes(), &[0]])?;
        }
        Ok(())
    }

    /// Asks the server to reset a connection that broke, and begins anew.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` where the server cannot do that; as [`restart`](Self::restart).
    pub fn reconnect(&self) -> Result<(), Errno> {
        if !self.ring.ask_reconnect() {
            return Err(Errno::EOPNOTSUPP);
        }
        self.link.notify();
        while !self.ring.is_connected() {
            self.link.wait();
        }
        self.restart()
    }

    /// Takes the answer to request `id`, if it is there.
    fn take(&self, id: u32) -> Option<Result<Vec<u8>, Errno>> {
        self.locked(|state| match state.pending.get(&id) {
            Some(Pending { answer: None, .. }) => None,
            // A request that is not there was answered and the answer taken: by `Reply`'s polling on after its end.
            _ => {
                Some(state.pending.remove(&id).and_then(|pending| pending.answer).unwrap_or(Err(Errno::EIO)))
            }
        })
    }

    fn locked<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let work = || work(&mut self.state.lock());
        if cfg!(target_os = "none") { crate::events::without_upcalls(work) } else { work() }
    }
}

impl State {
    /// A number that no request under way has.
    fn new_id(&mut self) -> u32 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if self.last_id != 0 && !self.pending.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }

    /// Moves what can be moved, and says whether anything was, and whether there may be more.
    fn pump<M: Deref<Target = [AtomicU32]>>(
        &mut self,
        ring: &Ring<M>,
        wakers: &mut Vec<Waker>,
    ) -> (bool, bool) {
        // While the server resets the ring its indices mean nothing.
        if self.broken || !ring.is_connected() {
            return (false, false);
        }
        let mut moved = self.send(ring);
        for _ in 0..AT_ONCE {
            let before = ring.replies().readable();
            match self.incoming.next(ring.replies()) {
                Ok(Some(message)) => {
                    moved = true;
                    self.deliver(message, wakers);
                }
                Ok(None) => return (moved | before.is_ok_and(|there| there > 0), false),
                Err(_) => {
                    self.broken = true;
                    self.fail_all(Errno::EIO, wakers);
                    return (moved, false);
                }
            }
        }
        (moved, true)
    }

    fn send<M: Deref<Target = [AtomicU32]>>(&mut self, ring: &Ring<M>) -> bool {
        let mut moved = false;
        // A server that takes bytes as fast as they come gets the rest by the next call.
        for _ in 0..AT_ONCE {
            if self.outgoing.is_empty() {
                break;
            }
            // Impossible indices are found on the way in, too, or the server repairs them.
            let len = ring.requests().push(self.outgoing.as_slices().0).unwrap_or(0);
            if len == 0 {
                break;
            }
            self.outgoing.drain(..len);
            moved = true;
        }
        moved
    }

    fn deliver(&mut self, message: Message, wakers: &mut Vec<Waker>) {
        let Message { header, payload } = message;
        if header.type_ == XS_WATCH_EVENT {
            return self.fire(&payload, wakers);
        }
        let Some(pending) = self.pending.get_mut(&header.req_id) else { return };
        pending.answer = Some(match header.type_ {
            XS_ERROR => Err(error_of(&payload)),
            kind if kind == pending.kind => Ok(payload),
            _ => Err(Errno::EIO),
        });
        wakers.extend(pending.waker.take());
    }

    fn fire(&mut self, payload: &[u8], wakers: &mut Vec<Waker>) {
        let mut texts = strings(payload).map(core::str::from_utf8);
        let (Some(Ok(path)), Some(Ok(token))) = (texts.next(), texts.next()) else { return };
        self.events.push(Event { path: path.into(), token: token.into() });
        wakers.extend(self.event_waker.take());
    }

    fn fail_all(&mut self, error: Errno, wakers: &mut Vec<Waker>) {
        for pending in self.pending.values_mut() {
            if pending.answer.is_none() {
                pending.answer = Some(Err(error));
            }
            wakers.extend(pending.waker.take());
        }
    }
}

/// A request that was sent: wait for its answer, look for it, or `.await` it. Dropping it drops the answer, not the
/// request.
#[must_use]
#[derive(Debug)]
pub struct Reply<'a, M: Deref<Target = [AtomicU32]>, L: Link> {
    client: &'a Client<M, L>,
    id: u32,
}

impl<M: Deref<Target = [AtomicU32]>, L: Link> Reply<'_, M, L> {
    /// Waits for the payload of the answer.
    ///
    /// # Errors
    ///
    /// What the server says; `EIO` where the connection breaks, `EAGAIN` where it begins anew.
    pub fn wait(self) -> Result<Vec<u8>, Errno> {
        loop {
            if let Some(answer) = self.check() {
                return answer;
            }
            self.client.link.wait();
        }
    }

    /// The answer, if it is there. To be called until it is, and not again.
    pub fn check(&self) -> Option<Result<Vec<u8>, Errno>> {
        self.client.take(self.id).or_else(|| {
            self.client.poll();
            self.client.take(self.id)
        })
    }
}

/// Whoever drives the executor calls [`Client::poll`] when the server's event comes.
impl<M: Deref<Target = [AtomicU32]>, L: Link> Future for Reply<'_, M, L> {
    type Output = Result<Vec<u8>, Errno>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let waker = context.waker().clone();
        drop(self.client.locked(|state| state.pending.get_mut(&self.id)?.waker.replace(waker)));
        self.check().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<M: Deref<Target = [AtomicU32]>, L: Link> Drop for Reply<'_, M, L> {
    fn drop(&mut self) {
        drop(self.client.locked(|state| state.pending.remove(&self.id)));
    }
}
