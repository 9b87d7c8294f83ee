//! What a front end is given: pages that it offered are set aside for a packet, filled by the hypervisor, and answered in
//! the order of its ring.

use core::time::Duration;

use alloc::vec::Vec;

use xen_abi::io::netif::{
    NETIF_RSP_ERROR, NETRXF_EXTRA_INFO, NETRXF_MORE_DATA, NetifRxRequest, NetifRxResponse, NetifRxRing,
};
use zerocopy::transmute;

use super::super::bridge::share::{Ask, Shares};
use super::super::chain::{gso_extra, receive_flags};
use super::super::{Broken, Offload};
use crate::ring::Back;
use crate::transport::{Error, GrantRef, PAGE_SIZE, Transport};

/// How long packets wait for a front end that offers no room before they are dropped.
const PATIENCE: Duration = Duration::from_millis(20);

/// Slots that were set aside for a packet.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Number of the first, among those of this round.
    first: usize,
    /// How many.
    slots: usize,
    /// Whether the second is no page.
    extra: bool,
}

/// What becomes of a packet that wants slots.
#[derive(Debug)]
pub enum Reserved {
    /// It has them.
    Room(Room),
    /// There are too few now.
    Short,
    /// There are enough, but they are kept for packets of others.
    Kept,
}

/// The back end of a receive ring. Its slots are divided among the senders of packets, those that were completed included.
pub struct Rx<T: Transport> {
    ring: Back<NetifRxRing, T::Mapped>,
    /// The slots of this round, and the answers to them.
    requests: Vec<NetifRxRequest>,
    responses: Vec<NetifRxResponse>,
    /// What the senders took.
    shares: Shares,
    /// The most slots that were offered at once: nothing is kept for a packet that needs more.
    most: usize,
    /// Since when a packet has waited.
    short: Option<Duration>,
    /// Slots that it needs.
    needed: u32,
    /// Half slots that completed frames may take in this round. Below zero: what they took too much.
    share: i32,
    /// Whether slots were offered when this round began.
    offered: bool,
    /// Answers were written that the front end was not shown.
    answered: bool,
}

impl<T: Transport> Rx<T> {
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn new(ring: Back<NetifRxRing, T::Mapped>) -> Result<Self, Error> {
        let slots = ring.slots() as usize;
        let (mut requests, mut responses) = (Vec::new(), Vec::new());
        requests.try_reserve_exact(slots).map_err(|_| Error::NoMemory)?;
        responses.try_reserve_exact(slots).map_err(|_| Error::NoMemory)?;
        Ok(Self {
            ring,
            requests,
            responses,
            shares: Shares::new(),
            most: 0,
            short: None,
            needed: 0,
            share: 0,
            offered: false,
            answered: false,
        })
    }

    /// Sets slots aside for a packet of `length` bytes, whose sender `ask` tells.
    pub fn reserve(
        &mut self,
        length: usize,
        offload: &Offload,
        ask: Ask,
        now: Duration,
    ) -> Result<Reserved, Broken> {
        let extra = offload.gso.is_some();
        let slots = length.div_ceil(PAGE_SIZE) + usize::from(extra);
        let (ask, waiting) = (Ask { size: slots, ..ask }, self.ring.waiting()? as usize);
        self.most = self.most.max(waiting);
        let allowed = self.shares.allows(&ask, waiting, now);
        if allowed != Some(true) && slots <= self.most {
            self.shares.came_short(&ask, waiting, now);
        }
        if waiting < slots {
            // Bounded by the largest packet.
            self.needed = u32::try_from(slots).unwrap_or(u32::MAX);
            return Ok(Reserved::Short);
        }
        if allowed != Some(true) {
            return Ok(Reserved::Kept);
        }
        self.shares.take(&ask);
        (self.short, self.needed) = (None, 0);
        let room = Room { first: self.requests.len(), slots, extra };
        for slot in 0..slots {
            let Some(request) = self.ring.pop()? else { return Err(Broken::Chain) };
            self.requests.push(request);
            let response = match (slot, offload.gso) {
                (1, Some(gso)) => transmute!(gso_extra(gso)),
                _ => self.filled(request.id, slot, room, length, offload),
            };
            self.responses.push(response);
        }
        Ok(Reserved::Room(room))
    }

    /// What was at that port is gone.
    pub fn forget(&mut self, port: usize) {
        self.shares.forget(port);
    }

    /// A round begins: completed frames have half of the slots that are offered. Other packets, which come later in the round, have
    /// the rest. An odd half slot is kept: of slots that are offered one by one, completed frames have every second.
    pub fn share(&mut self) -> Result<(), Broken> {
        let slots = self.ring.waiting()?;
        self.offered = slots > 0;
        // Bounded by the ring.
        self.share = self.share.min(1) + i32::try_from(slots).unwrap_or(i32::MAX / 2);
        Ok(())
    }

    /// Whether slots are there that completed frames leave to others in this round.
    pub const fn has_had_share(&self) -> bool {
        self.offered && self.share < 2
    }

    /// Slots were set aside for a completed frame. A large one may take more than the share, which the next rounds make up for.
    pub fn charge(&mut self, room: &Room) {
        // Bounded by the largest packet.
        self.share -= 2 * i32::try_from(room.slots).unwrap_or(0);
    }

    /// The answer that says what slot number `slot` of a packet was filled with.
    fn filled(&self, id: u16, slot: usize, room: Room, length: usize, offload: &Offload) -> NetifRxResponse {
        let page = slot - usize::from(room.extra && slot > 0);
        let size = (length - page * PAGE_SIZE).min(PAGE_SIZE);
        let mut flags = if slot == 0 { receive_flags(offload) } else { 0 };
        flags |= if slot == 0 && room.extra { NETRXF_EXTRA_INFO } else { 0 };
        flags |= if size < length - page * PAGE_SIZE { NETRXF_MORE_DATA } else { 0 };
        // At most a page.
        NetifRxResponse { id, offset: 0, flags, status: i16::try_from(size).unwrap_or(NETIF_RSP_ERROR) }
    }

    /// The page for part number `page` of a packet.
    pub fn page(&self, room: &Room, page: usize) -> GrantRef {
        let slot = page + usize::from(room.extra && page > 0);
        GrantRef(self.requests[room.first + slot].gref)
    }

    /// The packet could not be put there: each of its slots is answered with an error.
    pub fn fail(&mut self, room: &Room) {
        let slots = room.first..room.first + room.slots;
        for (response, request) in self.responses[slots.clone()].iter_mut().zip(&self.requests[slots]) {
            *response = NetifRxResponse { id: request.id, offset: 0, flags: 0, status: NETIF_RSP_ERROR };
        }
    }

    /// Answers the slots of this round.
    pub fn answer(&mut self) -> Result<(), Broken> {
        self.answered |= !self.responses.is_empty();
        self.requests.clear();
        self.shares.end_round();
        for response in self.responses.drain(..) {
            self.ring.push(&response)?;
        }
        Ok(())
    }

    /// Shows the answers; true: the front end sleeps and must be sent an event.
    pub fn publish(&mut self) -> bool {
        core::mem::take(&mut self.answered) && self.ring.publish()
    }

    /// There was no room at `now`: until when a packet may wait for some. None: it has waited long enough, and with it
    /// all others until there is room again.
    pub fn patience(&mut self, now: Duration) -> Option<Duration> {
        let until = *self.short.get_or_insert(now) + PATIENCE;
        (now < until).then_some(until)
    }

    /// Where a packet waits for room, asks for an event when there is enough; true: there is.
    pub fn sleep(&mut self) -> Result<bool, Broken> {
        if self.needed == 0 || !self.ring.finish_for(self.needed)? {
            return Ok(false);
        }
        // Whoever waits looks again, and says so if it is still too little.
        self.needed = 0;
        Ok(true)
    }
}
