//! The connection of a guest: the page and the port that `start_info` names.

use core::ops::Deref;
use core::sync::atomic::AtomicU32;

use super::{Client, Link, Ring};
use crate::events::{self, Channel};
use crate::mmu::{Flush, Pte, update_va_mapping};
use crate::{BootContext, Errno, sched, time};

/// The longest that a waiter sleeps without looking, in nanoseconds: another CPU may have taken the event that it
/// waits for before it went to sleep.
const LOOK: u64 = 2_000_000;

/// A whole page of the image, over which the ring's frame is mapped.
#[repr(C, align(4096))]
#[derive(Debug)]
struct Slot([AtomicU32; 1024]);

static SLOT: Slot = Slot([const { AtomicU32::new(0) }; 1024]);

/// The page that the domain shares with the xenstore server.
#[derive(Debug)]
pub struct GuestRing(&'static [AtomicU32]);

impl Deref for GuestRing {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        self.0
    }
}

/// The event channel between a guest and the xenstore server.
#[derive(Debug)]
pub struct GuestLink(Channel);

impl GuestLink {
    /// The channel. It fires when the server changed the ring.
    #[must_use]
    pub const fn channel(&self) -> &Channel {
        &self.0
    }
}

impl Link for GuestLink {
    fn notify(&self) {
        self.0.notify();
    }

    fn wait(&self) {
        let port = self.0.port();
        // Upcalls are masked, so that an event which comes just before the poll is still pending in it.
        events::without_upcalls(|| {
            let _ = sched::poll(&[port], Some(time::now() + LOOK));
            if events::take(port) {
                // The event may be that of a watch, for which somebody else is about to sleep.
                sched::note_event();
            }
        });
    }
}

/// The connection of this domain. Once for each start of the domain: two clients of one ring take each other's answers.
///
/// # Errors
///
/// `ENODEV` where the domain was given none: the first domain, or a domain without a toolstack.
#[doc(alias("store_mfn", "store_evtchn"))]
pub fn connect(boot: &BootContext) -> Result<Client<GuestRing, GuestLink>, Errno> {
    let (frame, port) = boot.store_ring().ok_or(Errno::ENODEV)?;
    // SAFETY: the page belongs to `SLOT` alone, whose type allows any contents and any change; the frame is the one
    // that the domain builder set aside for this purpose.
    unsafe { update_va_mapping(&raw const SLOT as u64, Pte::data(frame), Flush::All) }?;
    let ring = Ring::new(GuestRing(&SLOT.0)).ok_or(Errno::EINVAL)?;
    Ok(Client::new(ring, GuestLink(Channel::from_port(port)?)))
}
