//! The back end: serves a tree to one front end.

use alloc::format;
use alloc::vec::Vec;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;

use xen_abi::io::ninepfs::keys;

use super::message::Writer;
use super::ring::{Broken, MAX_ORDER, Messages, described};
use super::server::{Session, SharedTree};
use crate::transport::{Access, GrantRef, PAGE_SIZE, Port, Transport};
use crate::xenbus::{self, Driver, End, Error, Nodes, Role};

/// Rings of a device.
const MAX_RINGS: usize = 4;
/// The longest message that is agreed to. Each ring holds one each way, which is all that a connection holds beside the
/// tree and its handles.
const LARGEST: u32 = 256 << 10;
/// Messages of one ring that are answered in a round.
const BUDGET: usize = 32;
/// What those may cost before the next round goes on: see [`Session::answer`].
const COST: usize = 256 << 10;

/// One ring.
struct Ring<T: Transport> {
    messages: Messages<T::Mapped>,
    port: T::Port,
}

/// The driver of one front end's device: `xenbus::Device<T, Server<T>>` connects it, [`poll`](Self::poll) serves.
pub struct Server<T: Transport> {
    tree: SharedTree,
    rings: Vec<Ring<T>>,
    session: Option<Session>,
    reply: Writer,
    broken: Option<Broken>,
}

impl<T: Transport> Server<T> {
    /// A device that shows `tree`.
    #[must_use]
    pub fn new(tree: SharedTree) -> Self {
        Self { tree, rings: Vec::new(), session: None, reply: Writer::default(), broken: None }
    }

    /// Answers what came; true: there was something.
    pub fn poll(&mut self) -> bool {
        let Some(session) = self.session.as_mut().filter(|_| self.broken.is_none()) else { return false };
        let mut moved = false;
        for ring in &mut self.rings {
            let _ = ring.port.take();
            match serve(ring, session, &mut self.reply) {
                Ok(found) => moved |= found,
                Err(broken) => {
                    self.broken = Some(broken);
                    return true;
                }
            }
        }
        moved
    }

    /// Why nothing is answered any more, if so.
    #[must_use]
    pub const fn broken(&self) -> Option<Broken> {
        self.broken
    }
}

/// Closes a device whose front end does not keep to the protocol; true: it did.
pub fn check<T: Transport>(device: &mut xenbus::Device<T, Server<T>>) -> bool {
    let broken = device.is_connected().then(|| device.driver().broken()).flatten();
    if let Some(broken) = broken {
        device.fail(&broken.into());
    }
    broken.is_some()
}

/// Answers the messages of one ring.
fn serve<T: Transport>(
    ring: &mut Ring<T>,
    session: &mut Session,
    reply: &mut Writer,
) -> Result<bool, Broken> {
    let moved = answer(&mut ring.messages, session, reply)?;
    if moved {
        ring.port.notify();
    }
    Ok(moved)
}

/// Answers messages as far as a round may; true: there was something.
pub(super) fn answer<M: Deref<Target = [AtomicU32]>>(
    messages: &mut Messages<M>,
    session: &mut Session,
    reply: &mut Writer,
) -> Result<bool, Broken> {
    let (mut moved, mut cost) = (messages.flush()?, 0);
    for _ in 0..BUDGET {
        // An answer that does not fit stops the ring until its front end has read on.
        if !messages.is_sent() || cost >= COST {
            break;
        }
        moved |= messages.receive(session.largest())?;
        let Some(message) = messages.message() else { break };
        cost += session.answer(message, reply);
        messages.done();
        moved |= messages.send(reply.finish())?;
    }
    Ok(moved)
}

impl<T: Transport> Driver<T> for Server<T> {
    const ROLE: Role = Role::Back;

    fn publish(&mut self, _end: &End<T>) -> Result<Nodes, Error> {
        let mut nodes = Nodes::new();
        nodes.set(keys::VERSIONS, 1);
        nodes.set(keys::MAX_RINGS, MAX_RINGS);
        nodes.set(keys::MAX_RING_PAGE_ORDER, MAX_ORDER);
        Ok(nodes)
    }

    fn connect(&mut self, end: &End<T>) -> Result<Nodes, Error> {
        let count = end.peers(keys::NUM_RINGS).unwrap_or(0);
        if end.peers(keys::VERSION) != Some(1) || !(1..=MAX_RINGS).contains(&count) {
            return Err(Error::Peer("the front end wants another version or number of rings"));
        }
        self.rings = (0..count).map(|number| map(end, number)).collect::<Result<_, _>>()?;
        self.session = Some(Session::new(self.tree.clone(), LARGEST));
        self.broken = None;
        Ok(Nodes::new())
    }

    fn disconnect(&mut self, _end: &End<T>) {
        self.rings.clear();
        self.session = None;
    }
}

/// Maps one ring.
fn map<T: Transport>(end: &End<T>, number: usize) -> Result<Ring<T>, Error> {
    let (transport, peer) = (end.transport(), end.peer());
    let read = |key: &str| end.peers::<u32>(&format!("{key}{number}"));
    let (reference, port) = read(keys::RING_REF)
        .zip(read(keys::EVENT_CHANNEL))
        .ok_or(Error::Peer("the front end names no ring or no event channel"))?;
    let index = transport.map(peer, &[GrantRef(reference)], Access::ReadWrite)?;
    let refs = described(&index).ok_or(Error::Peer("the front end's ring is too large"))?;
    let data = transport.map(peer, &refs, Access::ReadWrite)?;
    debug_assert_eq!(data.len() * 4, refs.len() * PAGE_SIZE);
    Ok(Ring { messages: Messages::new(index, data, true), port: transport.connect(peer, port)? })
}

impl<T: Transport> core::fmt::Debug for Server<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Server")
            .field("rings", &self.rings.len())
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}
