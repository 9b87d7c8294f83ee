//! A learning bridge: packets go to the port where their receiver was last seen, or to all where it was not.
//!
//! A port is either the back end of a domain's device ([`Vif`]) or a [`Wire`]: a network card, or a stack in the driver
//! domain itself. [`Bridge::poll`] moves a batch of packets; the round it works in is described in `forward`.
//!
//! # Addresses
//!
//! The configured address of a domain's device is that device's from its creation to its end, connected or not
//! ([`Bridge::claim`]). A packet that names it as its sender at any other port is dropped and counted, as is one from a
//! domain that names a station behind a wire. A packet to it is dropped while the device is not connected.
//!
//! # Room and order
//!
//! Packets of one queue to one receiver stay in order. One whose only receiver offers no room waits in its sender's pages, and so do
//! those to the same receiver behind it; those to others pass. A receiver that offers no room for 20 ms loses packets until it does.
//! A packet waits for 100 ms at most: it may be one of so many to a slow receiver that the ring is full, which does not show what
//! else its sender has. Then no packet of that ring to that receiver waits for 200 ms. So a receiver that reads slowly delays what its senders
//! have for others by 100 ms at most, and costs them none of it. What goes to everybody waits for wires, and for no domain. What one domain sends is
//! copied in a round as far as its share allows; who came short of something in a round, be it that a packet waits or that it is
//! lost, is served first soon (`turn`).
//!
//! A wire has room for so many frames ([`Wire::room`]), and is waited for like any other receiver. Where it has too little, each
//! sender has the same number of frames of it, however many of them are one packet. So it is with the pages that a front end offers
//! (`share`). What all ports share in a round is divided among those that have packets (`turn`).
//!
//! # What a receiver cannot take
//!
//! A packet with a blank checksum or a large one goes to a receiver that did not agree to it by way of the
//! driver domain's memory, where it is completed or cut up. What then waits for the receiver's pages is limited in bytes for
//! each receiver, and divided among its senders, who take turns. One packet can become hundreds of frames: while other packets want
//! the receiver's pages, completed frames have half of them. A wire never sees anything but plain frames of at most [`WIRE_FRAME`](super::WIRE_FRAME) bytes.

mod forward;
mod packet;
mod route;
pub(super) mod share;
mod staging;
mod table;
mod turn;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

pub(super) use self::forward::CUT_BUDGET;
use self::share::Shares;
use self::staging::Staging;
use self::table::Table;
use self::turn::Turn;
use super::back::Vif;
use super::{Counters, Mac};
use crate::transport::{Error, Transport};

/// Whatever takes and gives plain Ethernet frames with complete checksums.
pub trait Wire: Send {
    /// Sends a frame. False: there is no room, and it is lost.
    fn transmit(&mut self, frame: &[u8]) -> bool;

    /// How many frames it takes now. Packets of domains wait for room, as far as packets wait at all.
    fn room(&mut self) -> usize {
        usize::MAX
    }

    /// The most frames that it ever has [room](Self::room) for. Of a packet that becomes more than two thirds of them, the rest is
    /// lost.
    fn capacity(&self) -> usize {
        usize::MAX
    }

    /// Whether no frame is under way: there will not be more room than there is.
    fn is_idle(&self) -> bool {
        true
    }

    /// Hands the next frame that came in to `take`. False: there is none.
    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> bool;

    /// Before sleeping: asks for an event with the next frame, where that must be asked for. True: one is there.
    fn sleep(&mut self) -> bool {
        false
    }
}

/// The number of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(usize);

/// The right of one device to its configured address: [`Bridge::claim`] makes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim(Mac);

impl Claim {
    /// The address.
    #[must_use]
    pub const fn address(&self) -> Mac {
        self.0
    }
}

/// What a port is.
enum Port<T: Transport> {
    Vif(Box<Vif<T>>),
    Wire {
        wire: Box<dyn Wire>,
        sent: Counters,
        received: Counters,
        /// Frames that this round completes for it.
        planned: usize,
        /// What each port has of its room.
        shares: Shares,
    },
}

impl<T: Transport> Port<T> {
    fn vif_mut(&mut self) -> Option<&mut Vif<T>> {
        match self {
            Self::Vif(vif) => Some(vif),
            Self::Wire { .. } => None,
        }
    }
}

/// What is to be done after a [`Bridge::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Something was moved, or a connection broke: see to it and poll again before sleeping.
    pub moved: bool,
    /// A packet waits for room until then: poll again at that time at the latest.
    pub until: Option<Duration>,
}

/// The bridge.
pub struct Bridge<T: Transport> {
    transport: T,
    ports: Vec<Option<Port<T>>>,
    table: Table,
    staging: Staging<T>,
    turn: Turn,
    round: forward::Round,
}

impl<T: Transport> Bridge<T> {
    /// A bridge without ports.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(transport: T) -> Result<Self, Error> {
        let staging = Staging::new(&transport)?;
        Ok(Self {
            transport,
            ports: Vec::new(),
            table: Table::default(),
            staging,
            turn: Turn::default(),
            round: forward::Round::new()?,
        })
    }

    fn add(&mut self, port: Port<T>) -> PortId {
        let free = self.ports.iter().position(Option::is_none);
        let number = free.unwrap_or(self.ports.len());
        if number == self.ports.len() {
            self.ports.push(None);
        }
        self.ports[number] = Some(port);
        PortId(number)
    }

    /// Keeps `address` for one device, until it is [released](Self::release). None: it is a group's, or another device has it.
    #[must_use]
    pub fn claim(&mut self, address: Mac) -> Option<Claim> {
        self.table.claim(address).then_some(Claim(address))
    }

    /// The device is no more: its address is free.
    pub fn release(&mut self, claim: Claim) {
        self.table.release(claim.0);
    }

    /// Adds the back end of a domain's device.
    pub fn add_vif(&mut self, vif: Vif<T>) -> PortId {
        let address = vif.address;
        let port = self.add(Port::Vif(Box::new(vif)));
        if let Some(address) = address {
            self.table.fix(address, port.0);
        }
        port
    }

    /// Adds a network card or a local stack.
    pub fn add_wire(&mut self, wire: Box<dyn Wire>) -> PortId {
        let (sent, received) = (Counters::default(), Counters::default());
        self.add(Port::Wire { wire, sent, received, planned: 0, shares: Shares::new() })
    }

    /// Removes a port and forgets what was behind it, but not whose its configured address is. The back end is dropped, and with
    /// it what it had mapped.
    pub fn remove(&mut self, port: PortId) {
        if let Some(place) = self.ports.get_mut(port.0) {
            *place = None;
        }
        for other in self.ports.iter_mut().flatten() {
            match other {
                Port::Wire { shares, .. } => shares.forget(port.0),
                Port::Vif(vif) => vif.queues.iter_mut().for_each(|queue| queue.rx.forget(port.0)),
            }
        }
        self.table.forget_port(port.0);
    }

    /// All ports.
    pub fn ids(&self) -> impl Iterator<Item = PortId> {
        self.ports.iter().enumerate().filter(|(_, port)| port.is_some()).map(|(number, _)| PortId(number))
    }

    /// The back end at `port`.
    #[must_use]
    pub fn vif(&self, port: PortId) -> Option<&Vif<T>> {
        match self.ports.get(port.0)?.as_ref()? {
            Port::Vif(vif) => Some(vif),
            Port::Wire { .. } => None,
        }
    }

    /// The same, to change it.
    pub fn vif_mut(&mut self, port: PortId) -> Option<&mut Vif<T>> {
        vif_at(&mut self.ports, port.0)
    }

    /// What came in at `port`, and what went out there.
    #[must_use]
    pub fn counters(&self, port: PortId) -> Option<(Counters, Counters)> {
        match self.ports.get(port.0)?.as_ref()? {
            Port::Vif(vif) => Some((*vif.sent(), *vif.received())),
            Port::Wire { sent, received, .. } => Some((*sent, *received)),
        }
    }

    /// Pieces that a round has memory for.
    #[cfg(test)]
    pub(super) const fn pieces(&self) -> usize {
        self.round.pieces()
    }

    /// Takes the events of all back ends; true: one came.
    #[must_use]
    pub fn take_event(&self) -> bool {
        self.vifs().fold(false, |came, vif| came | vif.take_event())
    }

    fn vifs(&self) -> impl Iterator<Item = &Vif<T>> {
        self.ports.iter().flatten().filter_map(|port| match port {
            Port::Vif(vif) => Some(&**vif),
            Port::Wire { .. } => None,
        })
    }

    /// Before sleeping, when [`poll`](Self::poll) moved nothing: asks for the events that make it worth to poll
    /// again. True: there is work already.
    #[must_use = "true means: do not sleep"]
    pub fn sleep(&mut self) -> bool {
        let mut work = false;
        for port in self.ports.iter_mut().flatten() {
            match port {
                Port::Wire { wire, .. } => work |= wire.sleep(),
                Port::Vif(vif) if vif.broken.is_none() => match sleep(vif) {
                    Ok(found) => work |= found,
                    Err(broken) => {
                        vif.broken = Some(broken);
                        work = true;
                    }
                },
                Port::Vif(_) => {}
            }
        }
        work
    }
}

/// Asks for the events of one back end.
fn sleep<T: Transport>(vif: &mut Vif<T>) -> Result<bool, super::Broken> {
    let mut work = false;
    for queue in &mut vif.queues {
        // What waits for its receiver is woken by that one; what comes behind it may be to another.
        work |= queue.tx.sleep()?;
        // So is a completed frame that waits for the receiver.
        work |= queue.rx.sleep()?;
    }
    Ok(work)
}

fn vif_at<T: Transport>(ports: &mut [Option<Port<T>>], number: usize) -> Option<&mut Vif<T>> {
    ports.get_mut(number)?.as_mut()?.vif_mut()
}

impl<T: Transport> fmt::Debug for Bridge<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge").field("ports", &self.ports.len()).finish_non_exhaustive()
    }
}
