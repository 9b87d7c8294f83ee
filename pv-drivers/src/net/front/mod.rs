//! The front end: queues of a transmit and a receive ring each, and what a network stack needs of them.
//!
//! [`Net`] is the driver that connects them; a program polls its `xenbus::Device`, and [`check`]s it.
//! With the feature `smoltcp` a [`Queue`] is a `smoltcp::phy::Device`.

mod device;
#[cfg(feature = "smoltcp")]
mod phy;
mod rx;
mod tx;

use alloc::sync::Arc;

pub use device::{Net, check};
pub use rx::{Received, Rx};
pub use tx::{NotSent, Part, Tx};

use super::Broken;
use super::features::Accepts;
use crate::ring::Front;
use crate::transport::{self, Access, DomId, GrantRef, Granted, Port, Transport};

/// Pages that a back end may keep after it said that it was done with them, before the connection counts as broken.
const MOST_LOST: usize = 64;

/// A transmit and a receive ring with one event channel.
pub struct Queue<T: Transport> {
    /// Sending.
    pub tx: Tx<T>,
    /// Receiving.
    pub rx: Rx<T>,
    port: Arc<T::Port>,
    rings: (GrantRef, GrantRef),
    broken: Option<Broken>,
    #[cfg(feature = "smoltcp")]
    phy: phy::State<T>,
}

impl<T: Transport> Queue<T> {
    /// Makes the rings, lends them to `peer`, and fills the receive ring. What the back end must be told of is
    /// [`ring_refs`](Self::ring_refs) and [`port`](Self::port).
    ///
    /// # Errors
    ///
    /// Those of the transport.
    pub fn new(transport: &T, peer: DomId, accepts: Accepts) -> Result<Self, transport::Error> {
        let port = Arc::new(transport.listen(peer)?);
        let tx = ring_page(transport, peer)?;
        let rx = ring_page(transport, peer)?;
        let rings = (tx.refs()[0], rx.refs()[0]);
        let (tx, rx) = (Front::new(tx), Front::new(rx));
        // A page holds a ring: the message sizes are constants.
        let (tx, rx) =
            (tx.map_err(|_| transport::Error::OutOfRange)?, rx.map_err(|_| transport::Error::OutOfRange)?);
        let tx = Tx::new(transport.clone(), peer, port.clone(), tx, accepts);
        let rx = Rx::new(transport.clone(), peer, port.clone(), rx)?;
        Ok(Self {
            tx,
            rx,
            port,
            rings,
            broken: None,
            #[cfg(feature = "smoltcp")]
            phy: phy::State::default(),
        })
    }

    /// References of the transmit and of the receive ring.
    #[must_use]
    pub const fn ring_refs(&self) -> (GrantRef, GrantRef) {
        self.rings
    }

    /// The event channel.
    #[must_use]
    pub fn port(&self) -> &T::Port {
        &self.port
    }

    /// What went wrong while somebody used the queue who was not told, or told it to [`set_broken`](Self::set_broken).
    #[must_use]
    pub const fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// The queue cannot go on: [`check`] will close the device.
    pub fn set_broken(&mut self, broken: Broken) {
        self.broken = Some(broken);
    }

    /// Whether an event came since the last call.
    #[must_use]
    pub fn take_event(&self) -> bool {
        self.port.take()
    }

    /// Before sleeping: shows all that was sent, offers all pages, and asks for an event with the next packet (and the
    /// next finished one, where there is no room to send). True: there is work already.
    #[must_use = "true means: do not sleep"]
    pub fn sleep(&mut self) -> bool {
        if self.broken.is_some() {
            return false;
        }
        let found = self.prepare_to_sleep();
        self.broken = found.err();
        found.unwrap_or(true)
    }

    fn prepare_to_sleep(&mut self) -> Result<bool, Broken> {
        self.tx.flush();
        let finished = !self.tx.ready(1)? && self.tx.sleep()?;
        Ok(self.rx.sleep()? || finished)
    }
}

impl<T: Transport> core::fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Queue")
            .field("tx", &self.tx)
            .field("rx", &self.rx)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

fn ring_page<T: Transport>(transport: &T, peer: DomId) -> Result<T::Granted, transport::Error> {
    transport.lend(transport.buffer(1)?, peer, Access::ReadWrite).map_err(|(error, _)| error)
}
