//! The back end of a device: what it offers a front end, and its place at the bridge while it is connected.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Mutex;
use xen_abi::io::netif::keys;

use super::super::Broken;
use super::super::bridge::{Bridge, Claim, PortId};
use super::super::features::Accepts;
use super::{Rings, Vif};
use crate::transport::{Access, GrantRef, Transport};
use crate::xenbus::{self, Driver, End, Error, Nodes, Role};

/// Queues that a front end may have.
const MAX_QUEUES: usize = 8;

/// A bridge that several devices are ports of.
pub type SharedBridge<T> = Arc<Mutex<Bridge<T>>>;

/// The driver of one front end's device: `xenbus::Device<T, Net<T>>` connects it to the bridge.
#[derive(Debug)]
pub struct Net<T: Transport> {
    bridge: SharedBridge<T>,
    /// The device's address, from its creation until it is dropped: no other port takes it over while the device is not connected.
    address: Option<Claim>,
    port: Option<PortId>,
}

impl<T: Transport> Net<T> {
    /// The device of `end`, which becomes a port of `bridge` when it is connected. The address that the end's own directory
    /// names is the device's from now on.
    #[must_use]
    pub fn new(bridge: SharedBridge<T>, end: &End<T>) -> Self {
        let mut net = Self { bridge, address: None, port: None };
        net.claim(end);
        net
    }

    /// Claims the address that the own directory names, which the toolstack wrote and the front end cannot change.
    fn claim(&mut self, end: &End<T>) {
        let wanted = end.own(keys::MAC);
        if self.address.as_ref().map(Claim::address) == wanted {
            return;
        }
        let mut bridge = self.bridge.lock();
        if let Some(old) = self.address.take() {
            bridge.release(old);
        }
        self.address = wanted.and_then(|address| bridge.claim(address));
    }

    /// Its port at the bridge.
    #[must_use]
    pub const fn port(&self) -> Option<PortId> {
        self.port
    }

    /// Why nothing is moved any more, if so.
    #[must_use]
    pub fn broken(&self) -> Option<Broken> {
        self.bridge.lock().vif(self.port?)?.broken()
    }
}

/// Closes a device whose front end does not keep to the protocol; true: it did.
pub fn check<T: Transport>(device: &mut xenbus::Device<T, Net<T>>) -> bool {
    let broken = device.is_connected().then(|| device.driver().broken()).flatten();
    if let Some(broken) = broken {
        device.fail(&broken.into());
    }
    broken.is_some()
}

impl<T: Transport> Driver<T> for Net<T> {
    const ROLE: Role = Role::Back;

    fn publish(&mut self, end: &End<T>) -> Result<Nodes, Error> {
        self.claim(end);
        let mut nodes = Nodes::new();
        Accepts::ALL.publish(&mut nodes);
        nodes.set(keys::FEATURE_RX_COPY, 1);
        nodes.set(keys::FEATURE_SPLIT_EVENT_CHANNELS, 1);
        nodes.set(keys::FEATURE_MULTICAST_CONTROL, 1);
        nodes.set(keys::MULTI_QUEUE_MAX_QUEUES, MAX_QUEUES);
        Ok(nodes)
    }

    fn connect(&mut self, end: &End<T>) -> Result<Nodes, Error> {
        if !end.peer_has(keys::REQUEST_RX_COPY) {
            return Err(Error::Peer("the front end does not want received packets copied"));
        }
        let count = end.peers(keys::MULTI_QUEUE_NUM_QUEUES).unwrap_or(1);
        if !(1..=MAX_QUEUES).contains(&count) {
            return Err(Error::Peer("the front end asks for more queues than were offered"));
        }
        let queues: Vec<_> = (0..count).map(|number| rings(end, number, count)).collect::<Result<_, _>>()?;
        let mut vif = Vif::new(end.peer(), queues, Accepts::of_peer(end))?;
        vif.set_filter(end.peer_has(keys::REQUEST_MULTICAST_CONTROL));
        self.leave();
        self.claim(end);
        vif.set_address(self.address.as_ref());
        self.port = Some(self.bridge.lock().add_vif(vif));
        Ok(Nodes::new())
    }

    fn disconnect(&mut self, _end: &End<T>) {
        self.leave();
    }
}

impl<T: Transport> Net<T> {
    fn leave(&mut self) {
        if let Some(port) = self.port.take() {
            self.bridge.lock().remove(port);
        }
    }
}

impl<T: Transport> Drop for Net<T> {
    fn drop(&mut self) {
        self.leave();
        if let Some(address) = self.address.take() {
            self.bridge.lock().release(address);
        }
    }
}

/// Maps one queue's rings and binds its event channels.
fn rings<T: Transport>(end: &End<T>, number: usize, count: usize) -> Result<Rings<T>, Error> {
    let place = if count == 1 { "".into() } else { format!("queue-{number}/") };
    let read = |key: &str| end.peers::<u32>(&format!("{place}{key}"));
    let (transport, peer) = (end.transport(), end.peer());
    let map = |key: &str| {
        let reference = read(key).ok_or(Error::Peer("the front end names no ring"))?;
        Ok::<_, Error>(transport.map(peer, &[GrantRef(reference)], Access::ReadWrite)?)
    };
    let (tx, rx) = (map(keys::TX_RING_REF)?, map(keys::RX_RING_REF)?);
    let (tx_port, rx_port) = match (read(keys::EVENT_CHANNEL_TX), read(keys::EVENT_CHANNEL_RX)) {
        (Some(tx), Some(rx)) => (tx, Some(rx)),
        _ => (read(keys::EVENT_CHANNEL).ok_or(Error::Peer("the front end names no event channel"))?, None),
    };
    let tx_port = transport.connect(peer, tx_port)?;
    let rx_port = rx_port.map(|port| transport.connect(peer, port)).transpose()?;
    Ok(Rings { tx, rx, tx_port, rx_port })
}
