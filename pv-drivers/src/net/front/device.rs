//! The front end of a device: what it tells its back end, and its queues while they are connected.

use alloc::format;
use alloc::vec::Vec;

use xen_abi::io::netif::keys;

use super::super::features::Accepts;
use super::super::{Broken, Mac};
use super::Queue;
use crate::transport::{Port, Transport};
use crate::xenbus::{self, Driver, End, Error, Nodes, Role, State};

/// What a packet may hold behind its Ethernet header, where nobody says otherwise.
const MTU: u16 = 1500;

/// The driver of a network device: `xenbus::Device<T, Net<T>>` connects it.
#[derive(Debug)]
pub struct Net<T: Transport> {
    wanted: u32,
    queues: Vec<Queue<T>>,
    mac: Option<Mac>,
    mtu: u16,
    filter: bool,
}

impl<T: Transport> Net<T> {
    /// A device with up to `queues` queues (one, where 0 is said).
    #[must_use]
    pub fn new(queues: u32) -> Self {
        Self { wanted: queues.max(1), queues: Vec::new(), mac: None, mtu: MTU, filter: false }
    }

    /// Packets of multicast groups shall only come where they are joined
    /// ([`Tx::set_group`](super::Tx::set_group)), if the back end can do that. To be said before the device connects.
    #[doc(alias = "request-multicast-control")]
    pub fn filter_groups(&mut self) {
        self.filter = true;
    }

    /// The queues: none while the device is not connected.
    pub fn queues(&mut self) -> &mut [Queue<T>] {
        &mut self.queues
    }

    /// The address that the toolstack chose, once the device was connected.
    #[must_use]
    pub const fn mac(&self) -> Option<Mac> {
        self.mac
    }

    /// The most that a packet holds behind its Ethernet header.
    #[must_use]
    pub const fn mtu(&self) -> u16 {
        self.mtu
    }

    /// What went wrong in a queue.
    #[must_use]
    pub fn broken(&self) -> Option<Broken> {
        self.queues.iter().find_map(Queue::broken)
    }
}

/// Closes a device one of whose queues cannot go on; true: it did.
pub fn check<T: Transport>(device: &mut xenbus::Device<T, Net<T>>) -> bool {
    let broken = device.is_connected().then(|| device.driver().broken()).flatten();
    if let Some(broken) = broken {
        device.fail(&broken.into());
    }
    broken.is_some()
}

impl<T: Transport> Driver<T> for Net<T> {
    const ROLE: Role = Role::Front;
    const READY: State = State::Connected;

    fn publish(&mut self, end: &End<T>) -> Result<Nodes, Error> {
        if !end.peer_has(keys::FEATURE_RX_COPY) {
            return Err(Error::Peer("the back end does not copy received packets"));
        }
        let (accepts, transport) = (Accepts::of_peer(end), end.transport());
        let most = end.peers(keys::MULTI_QUEUE_MAX_QUEUES).unwrap_or(1).max(1);
        let mut queues = Vec::new();
        for _ in 0..self.wanted.min(most) {
            queues.push(Queue::new(transport, end.peer(), accepts)?);
        }
        self.mac = end.own(keys::MAC);
        self.mtu = end.own(keys::MTU).unwrap_or(MTU);
        let mut nodes = Nodes::new();
        Accepts::ALL.publish(&mut nodes);
        nodes.set(keys::REQUEST_RX_COPY, 1);
        nodes.set(keys::FEATURE_RX_NOTIFY, 1);
        if self.filter && end.peer_has(keys::FEATURE_MULTICAST_CONTROL) {
            nodes.set(keys::REQUEST_MULTICAST_CONTROL, 1);
        }
        if end.peers::<u32>(keys::MULTI_QUEUE_MAX_QUEUES).is_some() {
            nodes.set(keys::MULTI_QUEUE_NUM_QUEUES, queues.len());
        }
        for (number, queue) in queues.iter().enumerate() {
            let place = if queues.len() == 1 { "".into() } else { format!("queue-{number}/") };
            let (tx, rx) = queue.ring_refs();
            nodes.set(format!("{place}{}", keys::TX_RING_REF), tx.0);
            nodes.set(format!("{place}{}", keys::RX_RING_REF), rx.0);
            nodes.set(format!("{place}{}", keys::EVENT_CHANNEL), queue.port().number());
        }
        self.queues = queues;
        Ok(nodes)
    }

    fn connect(&mut self, _end: &End<T>) -> Result<Nodes, Error> {
        Ok(Nodes::new())
    }

    fn disconnect(&mut self, _end: &End<T>) {
        self.queues.clear();
    }
}
