//! Sending: the front end of a transmit ring.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use xen_abi::io::netif::{
    NETIF_RSP_NULL, NETIF_RSP_OKAY, NETTXF_EXTRA_INFO, NETTXF_MORE_DATA, NetifExtraInfo, NetifTxRequest,
    NetifTxRing,
};

use super::super::chain::{as_request, group_extra, gso_extra, transmit_flags};
use super::super::features::Accepts;
use super::super::{Broken, Counters, ETHERNET_HEADER, MAX_FRAGMENTS, MAX_PACKET, Mac, Offload};
use crate::ring::Front;
use crate::transport::{Access, DomId, Granted, PAGE_SIZE, Port, Transport};

/// A part of a packet to send: a page and what of it.
#[derive(Debug)]
pub struct Part<B> {
    /// The page.
    pub page: B,
    /// First byte.
    pub offset: u16,
    /// Bytes.
    pub length: u16,
}

/// Why a packet was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// The ring has no room; wait for an event.
    NoRoom,
    /// It is empty, too large, of too many parts, or a part lies outside of its page.
    Malformed,
    /// No grant reference is left.
    NoGrant,
}

/// The transmit half of a queue.
pub struct Tx<T: Transport> {
    transport: T,
    peer: DomId,
    port: Arc<T::Port>,
    pub(super) ring: Front<NetifTxRing, T::Granted>,
    /// What each number of a request stands for.
    lent: Box<[Option<T::Granted>]>,
    /// Numbers that are not under way.
    free: Vec<u16>,
    /// The parts of the packet that is being sent.
    lending: Vec<Part<T::Granted>>,
    /// Pages that were sent and came back.
    pages: Vec<T::Buffer>,
    /// Pages that the back end did not let go.
    lost: usize,
    accepts: Accepts,
    counters: Counters,
}

impl<T: Transport> Tx<T> {
    pub(super) fn new(
        transport: T,
        peer: DomId,
        port: Arc<T::Port>,
        ring: Front<NetifTxRing, T::Granted>,
        accepts: Accepts,
    ) -> Self {
        let slots = u16::try_from(ring.slots()).unwrap_or(u16::MAX);
        Self {
            transport,
            peer,
            port,
            ring,
            lent: (0..slots).map(|_| None).collect(),
            free: (0..slots).rev().collect(),
            lending: Vec::new(),
            pages: Vec::new(),
            lost: 0,
            accepts,
            counters: Counters::default(),
        }
    }

    /// What the back end takes.
    #[must_use]
    pub const fn accepts(&self) -> &Accepts {
        &self.accepts
    }

    /// What was sent.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A page to write a packet into: one that came back, or a new one while the ring has room. Its contents are what
    /// was sent with it before.
    pub fn page(&mut self) -> Option<T::Buffer> {
        self.pages.pop().or_else(|| if self.has_room(1) { self.transport.buffer(1).ok() } else { None })
    }

    /// Gives back a page that was not sent.
    pub fn give_back(&mut self, page: T::Buffer) {
        self.pages.push(page);
    }

    /// Whether a packet of `parts` pages can be sent now. Looks for finished ones only where the room is short.
    ///
    /// # Errors
    ///
    /// [`Broken`].
    pub fn ready(&mut self, parts: usize) -> Result<bool, Broken> {
        if !self.has_room(parts) {
            self.collect()?;
        }
        Ok(self.has_room(parts))
    }

    fn has_room(&self, parts: usize) -> bool {
        // One slot more: for the segmentation.
        self.ring.free() as usize > parts && self.free.len() >= parts
    }

    /// Lends the packet's pages, `parts` in order, to the back end. It is sent with the next [`flush`](Self::flush).
    /// `parts` is empty afterwards, and as it was where the packet was not sent.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn send(&mut self, parts: &mut Vec<Part<T::Buffer>>, offload: &Offload) -> Result<(), NotSent> {
        let length: usize = parts.iter().map(|part| usize::from(part.length)).sum();
        let inside = |part: &Part<T::Buffer>| {
            part.length != 0 && usize::from(part.offset) + usize::from(part.length) <= PAGE_SIZE
        };
        let malformed = !(ETHERNET_HEADER..=MAX_PACKET).contains(&length) || parts.len() > MAX_FRAGMENTS;
        if malformed || !parts.iter().all(inside) {
            return Err(NotSent::Malformed);
        }
        if !self.has_room(parts.len()) {
            return Err(NotSent::NoRoom);
        }
        self.lend_all(parts)?;
        let mut lending = core::mem::take(&mut self.lending);
        // Just checked: at most `MAX_PACKET`.
        let (whole, last) = (u16::try_from(length).unwrap_or(u16::MAX), lending.len() - 1);
        for (index, part) in lending.drain(..).enumerate() {
            self.slot(part, (index == 0).then_some((whole, offload)), index == last);
        }
        self.lending = lending;
        self.counters.passed(length);
        Ok(())
    }

    /// Grants all parts, or none.
    fn lend_all(&mut self, parts: &mut Vec<Part<T::Buffer>>) -> Result<(), NotSent> {
        let mut refused = None;
        let mut rest = parts.drain(..);
        for Part { page, offset, length } in rest.by_ref() {
            match self.transport.lend(page, self.peer, Access::ReadOnly) {
                Ok(page) => self.lending.push(Part { page, offset, length }),
                Err((_, page)) => {
                    refused = Some(Part { page, offset, length });
                    break;
                }
            }
        }
        let Some(refused) = refused else { return Ok(()) };
        // None of them was shown to the peer, so that none can be in use.
        let transport = &self.transport;
        let back = self.lending.drain(..).filter_map(|Part { page, offset, length }| {
            Some(Part { page: transport.take_back(page).ok()?, offset, length })
        });
        let all: Vec<_> = back.chain([refused]).chain(rest).collect();
        *parts = all;
        Err(NotSent::NoGrant)
    }

    /// Fills one slot, and that of the segmentation behind a first one.
    fn slot(&mut self, part: Part<T::Granted>, first: Option<(u16, &Offload)>, last: bool) {
        let Some(id) = self.free.pop() else { return };
        let reference = part.page.refs()[0];
        let gso = first.and_then(|(_, offload)| offload.gso);
        let mut flags = first.map_or(0, |(_, offload)| transmit_flags(offload));
        flags |= if last { 0 } else { NETTXF_MORE_DATA };
        flags |= if gso.is_some() { NETTXF_EXTRA_INFO } else { 0 };
        let size = first.map_or(part.length, |(whole, _)| whole);
        self.push(&NetifTxRequest { gref: reference.0, offset: part.offset, flags, id, size });
        self.lent[usize::from(id)] = Some(part.page);
        if let Some(gso) = gso {
            self.push(&as_request(gso_extra(gso)));
        }
    }

    /// Asks the back end to pass on packets to a multicast group, or no longer.
    ///
    /// # Errors
    ///
    /// [`NotSent::NoRoom`].
    #[doc(alias = "XEN_NETIF_EXTRA_TYPE_MCAST_ADD")]
    pub fn set_group(&mut self, group: Mac, join: bool) -> Result<(), NotSent> {
        if !self.has_room(1) {
            return Err(NotSent::NoRoom);
        }
        let id = self.free.pop().ok_or(NotSent::NoRoom)?;
        let extra: NetifExtraInfo = group_extra(group, join);
        self.push(&NetifTxRequest { gref: 0, offset: 0, flags: NETTXF_EXTRA_INFO, id, size: 0 });
        self.push(&as_request(extra));
        Ok(())
    }

    /// Writes a slot; [`has_room`](Self::has_room) was asked before.
    fn push(&mut self, request: &NetifTxRequest) {
        let pushed = self.ring.push(request);
        debug_assert!(pushed.is_ok(), "the room was checked");
    }

    /// Shows what was sent to the back end, and wakes it where it sleeps.
    pub fn flush(&mut self) {
        if self.ring.publish() {
            self.port.notify();
        }
    }

    /// Takes the answers that are there, and the pages back.
    ///
    /// # Errors
    ///
    /// [`Broken`].
    pub fn collect(&mut self) -> Result<(), Broken> {
        while let Some(response) = self.ring.pop()? {
            if response.status == NETIF_RSP_NULL {
                continue;
            }
            let lent = self.lent.get_mut(usize::from(response.id)).ok_or(Broken::Id)?;
            match lent.take() {
                Some(page) => self.finished(page)?,
                // A group was joined or left: the number is in use, but no page.
                None if !self.free.contains(&response.id) => {}
                None => return Err(Broken::Id),
            }
            self.free.push(response.id);
            if response.status != NETIF_RSP_OKAY {
                self.counters.errors += 1;
            }
        }
        Ok(())
    }

    /// Takes a page back that the back end says it is done with.
    fn finished(&mut self, page: T::Granted) -> Result<(), Broken> {
        match self.transport.take_back(page) {
            Ok(page) => self.pages.push(page),
            // Still mapped there: the transport keeps it until that ends.
            Err(_) => {
                self.lost += 1;
                if self.lost > super::MOST_LOST {
                    return Err(Broken::Memory);
                }
            }
        }
        Ok(())
    }

    /// Before sleeping for want of room: asks for an event with the next answer. True: one is there already.
    ///
    /// # Errors
    ///
    /// [`Broken`].
    #[must_use = "true means: do not sleep"]
    pub fn sleep(&mut self) -> Result<bool, Broken> {
        Ok(self.ring.finish()?)
    }
}

impl<T: Transport> core::fmt::Debug for Tx<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Tx")
            .field("accepts", &self.accepts)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}
