//! A learning bridge: packets go to the port where their receiver was last seen, or to all where it was not.
//!
//! A port is either the back end of a domain's device ([`Vif`]) or a [`Wire`]: a network card, or a stack in the driver
//! domain itself. [`Bridge::poll`] moves a batch of packets; the round it works in is described in `forward`.
//!
//! # Addresses
//!
//! The configured address of a domain's device is at that device's port for good. A packet that names it as its sender
//! at any other port is dropped and counted, as is one from a domain that names a station behind a wire.
//!
//! # Room and order
//!
//! Packets of one queue stay in order. The first one whose only receiver offers no room waits in its sender's pages, and
//! those behind it wait too; a receiver that offers none for 20 ms loses packets until it does. What goes to
//! everybody never waits.
//!
//! # What a receiver cannot take
//!
//! A packet with a blank checksum or a large one goes to a receiver that did not agree to it by way of the
//! driver domain's memory, where it is completed or cut up. A wire never sees anything but plain frames.

mod forward;
mod route;
mod staging;
mod table;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use self::staging::Staging;
use self::table::Table;
use super::Counters;
use super::back::Vif;
use crate::transport::{Error, Transport};

/// Whatever takes and gives plain Ethernet frames with complete checksums.
pub trait Wire: Send {
    /// Sends a frame. False: there is no room, and it is lost.
    fn transmit(&mut self, frame: &[u8]) -> bool;

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

/// What a port is.
enum Port<T: Transport> {
    Vif(Box<Vif<T>>),
    Wire { wire: Box<dyn Wire>, sent: Counters, received: Counters },
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
    /// Frames that were completed for a receiver, to be sent with the next round.
    late: VecDeque<(usize, Vec<u8>)>,
    /// The port that is served first.
    turn: usize,
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
            late: VecDeque::new(),
            turn: 0,
            round: forward::Round::default(),
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
        self.add(Port::Wire { wire, sent: Counters::default(), received: Counters::default() })
    }

    /// Removes a port and forgets what was behind it. The back end is dropped, and with it what it had mapped.
    pub fn remove(&mut self, port: PortId) {
        if let Some(place) = self.ports.get_mut(port.0) {
            *place = None;
        }
        self.table.forget_port(port.0);
        self.late.retain(|(to, _)| *to != port.0);
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
        let mut work = !self.late.is_empty();
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
        // A queue whose first packet waits for its receiver is woken by that one.
        work |= !queue.tx.is_waiting() && queue.tx.sleep()?;
        work |= queue.rx.sleep()?;
    }
    Ok(work)
}

fn vif_at<T: Transport>(ports: &mut [Option<Port<T>>], number: usize) -> Option<&mut Vif<T>> {
    ports.get_mut(number)?.as_mut()?.vif_mut()
}

impl<T: Transport> fmt::Debug for Bridge<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge")
            .field("ports", &self.ports.len())
            .field("late", &self.late.len())
            .finish_non_exhaustive()
    }
}
