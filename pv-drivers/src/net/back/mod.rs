//! The back end: what a front end connected to, as a port of a [`Bridge`](super::bridge::Bridge).
//!
//! A [`Vif`] takes packets off its front end's transmit rings and has pages of its front end to fill; the bridge
//! moves the data. It keeps no packet: one that nobody has room for stays where it is, in its sender's pages.

mod device;
mod lanes;
mod late;
mod list;
mod rx;
mod tx;

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use xen_abi::io::netif::{NetifRxRing, NetifTxRing};

pub use device::{Net, SharedBridge, check};
pub(super) use lanes::{Head, Lanes};
pub(super) use rx::{Reserved, Room, Rx};
pub(super) use tx::{HEADER, Tx, status};

use super::bridge::{CUT_BUDGET, Claim};
use super::features::Accepts;
use super::{Broken, Counters, Mac};
use crate::ring::Back;
use crate::transport::{DomId, Port, Transport};
use crate::xenbus::Error;
use late::Late;

/// Groups that a front end may join.
const MAX_GROUPS: usize = 64;

/// The rings of one queue, mapped, and its event channels.
pub struct Rings<T: Transport> {
    /// The transmit ring's pages.
    pub tx: T::Mapped,
    /// The receive ring's pages.
    pub rx: T::Mapped,
    /// The event channel of both, or of the transmit ring alone.
    pub tx_port: T::Port,
    /// That of the receive ring, where it has its own.
    pub rx_port: Option<T::Port>,
}

impl<T: Transport> core::fmt::Debug for Rings<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Rings").field("split", &self.rx_port.is_some()).finish_non_exhaustive()
    }
}

/// One queue.
pub(super) struct Queue<T: Transport> {
    pub tx: Tx<T>,
    pub rx: Rx<T>,
    tx_port: T::Port,
    rx_port: Option<T::Port>,
}

impl<T: Transport> Queue<T> {
    fn new(rings: Rings<T>) -> Result<Self, Error> {
        let tx = Back::<NetifTxRing, _>::attach(rings.tx).map_err(Broken::from)?;
        let rx = Back::<NetifRxRing, _>::attach(rings.rx).map_err(Broken::from)?;
        Ok(Self { tx: Tx::new(tx)?, rx: Rx::new(rx)?, tx_port: rings.tx_port, rx_port: rings.rx_port })
    }

    /// Shows the answers to the front end, and wakes it where it sleeps.
    pub fn publish(&mut self) {
        let (tx, rx) = (self.tx.publish(), self.rx.publish());
        match &self.rx_port {
            Some(port) => {
                if rx {
                    port.notify();
                }
                if tx {
                    self.tx_port.notify();
                }
            }
            None if tx || rx => self.tx_port.notify(),
            None => {}
        }
    }

    /// Takes the events; true: one came.
    fn take_event(&self) -> bool {
        let rx = self.rx_port.as_ref().is_some_and(Port::take);
        self.tx_port.take() | rx
    }
}

/// The back end of one device of one front end.
pub struct Vif<T: Transport> {
    pub(super) domain: DomId,
    pub(super) queues: Vec<Queue<T>>,
    /// The address that the device was configured with.
    pub(super) address: Option<Mac>,
    /// What the front end takes.
    pub(super) accepts: Accepts,
    /// Frames that were completed for the front end, to be sent with the next round.
    pub(super) late: Late,
    /// Whether it has packets beyond its part of a round.
    pub(super) wants_more: bool,
    /// Frames that its packets may still become in this round on their way to wires.
    pub(super) cut_left: usize,
    /// Whether it wants only packets of groups that it joined.
    filter: bool,
    pub(super) groups: Groups,
    /// Why nothing is moved any more.
    pub(super) broken: Option<Broken>,
    /// Whether the bridge has told of it.
    pub(super) is_known_broken: bool,
    /// Packets that the front end sent.
    pub(super) sent: Counters,
    /// Packets that it was given.
    pub(super) received: Counters,
}

impl<T: Transport> Vif<T> {
    /// Connects to the rings of `domain`.
    ///
    /// # Errors
    ///
    /// [`Error::Peer`]: the rings are no rings. [`Error::Transport`]: there is no memory for what they hold.
    pub fn new(
        domain: DomId,
        queues: impl IntoIterator<Item = Rings<T>>,
        accepts: Accepts,
    ) -> Result<Self, Error> {
        let queues = queues.into_iter().map(Queue::new).collect::<Result<_, _>>()?;
        Ok(Self {
            domain,
            queues,
            address: None,
            accepts,
            late: Late::default(),
            wants_more: false,
            cut_left: CUT_BUDGET,
            filter: false,
            groups: Groups::default(),
            broken: None,
            is_known_broken: false,
            sent: Counters::default(),
            received: Counters::default(),
        })
    }

    /// The device's configured address, which it has [claimed](super::bridge::Bridge::claim): the bridge gives no other port
    /// packets to it, and takes none from it there.
    pub fn set_address(&mut self, address: Option<&Claim>) {
        self.address = address.map(Claim::address);
    }

    /// Whether only packets of groups that the front end joined are passed on to it.
    #[doc(alias = "request-multicast-control")]
    pub fn set_filter(&mut self, filter: bool) {
        self.filter = filter;
    }

    /// Why nothing is moved any more, if so. The connection should be closed then.
    #[must_use]
    pub const fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// Packets that the front end sent.
    #[must_use]
    pub const fn sent(&self) -> &Counters {
        &self.sent
    }

    /// Packets that it was given.
    #[must_use]
    pub const fn received(&self) -> &Counters {
        &self.received
    }

    /// Bytes of frames that were completed for the front end and wait for its pages.
    #[must_use]
    pub const fn waiting_bytes(&self) -> usize {
        self.late.bytes()
    }

    /// Takes the events of all queues; true: one came.
    #[must_use]
    pub fn take_event(&self) -> bool {
        self.queues.iter().fold(false, |came, queue| came | queue.take_event())
    }

    /// Whether a packet to `to` is for this front end.
    pub(super) fn wants(&self, to: Mac) -> bool {
        !self.filter || !to.is_group() || to == Mac::BROADCAST || self.groups.0.contains(&to)
    }
}

/// The multicast groups that a front end joined: at most [`MAX_GROUPS`].
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeSet<Mac>);

impl Groups {
    /// False: the address is no group's, or the front end is in too many groups.
    pub fn join(&mut self, group: Mac) -> bool {
        let room = self.0.len() < MAX_GROUPS || self.0.contains(&group);
        if room && group.is_group() {
            self.0.insert(group);
        }
        room && group.is_group()
    }

    /// False: the address is no group's.
    pub fn leave(&mut self, group: Mac) -> bool {
        self.0.remove(&group);
        group.is_group()
    }
}

impl<T: Transport> core::fmt::Debug for Vif<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Vif")
            .field("domain", &self.domain)
            .field("queues", &self.queues.len())
            .field("accepts", &self.accepts)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}
