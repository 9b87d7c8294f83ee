//! A packet on its way through the bridge, as far as its first bytes tell.

use super::super::segment::can_be_cut;
use super::super::{MAX_PACKET, Mac, Offload, WIRE_FRAME, checksum};
use super::Wire;
use super::forward::CUT_BUDGET;
use super::share::Ask;
use super::staging::Place;

/// The packet that is being routed.
pub struct Packet<'p> {
    pub from: usize,
    pub header: &'p [u8],
    pub length: usize,
    pub offload: Offload,
    /// Where it is in the staging memory, if it is there.
    pub own: Option<Place>,
    /// Its sender, to those that have accounts of senders.
    pub ask: Ask,
}

impl Packet<'_> {
    /// Whom it is for.
    pub fn receiver(&self) -> Mac {
        self.header.first_chunk().map_or(Mac::BROADCAST, |bytes| Mac(*bytes))
    }

    /// Who it says sent it.
    pub fn sender(&self) -> Mac {
        self.header.get(6..).and_then(<[u8]>::first_chunk).map_or(Mac::BROADCAST, |bytes| Mac(*bytes))
    }

    /// Plain frames that it becomes on a wire, at most.
    pub fn frames(&self) -> usize {
        let piece = self.offload.gso.map_or(MAX_PACKET, |gso| usize::from(gso.size)).max(1);
        self.length.div_ceil(piece).clamp(1, CUT_BUDGET)
    }

    /// Whether frames that a wire takes can be made of it, as far as its beginning tells.
    pub fn fits_wire(&self) -> bool {
        match self.offload.gso {
            None => self.length <= WIRE_FRAME,
            Some(gso) => can_be_cut(self.header, self.length, gso, WIRE_FRAME),
        }
    }

    /// What it asks a wire for: two thirds of what that ever has at most. So others have room beside a packet that waits for it,
    /// and the largest packet in pieces of 536 bytes (the least that all hosts take) has room on a card. More frames are lost.
    pub fn claim(&self, wire: &dyn Wire) -> Ask {
        let capacity = wire.capacity();
        Ask { size: self.frames().min(capacity - capacity / 3), ..self.ask }
    }

    /// The version of IP, where it matters.
    pub fn version(&self) -> u8 {
        if self.offload.is_blank() {
            checksum::network(self.header).map_or(0, |network| network.version)
        } else {
            0
        }
    }
}
