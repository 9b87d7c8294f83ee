//! A disk or a network interface, and all that a front end can do wrong about it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use guest_pv_lib::events::Channel;
use guest_pv_lib::grant::{Access, Granted};
use guest_pv_lib::memory::Pages;
use xen_abi::io::blkif::{BlkifRequest, BlkifRequestIndirect};
use xen_abi::io::netif::{NetifRxRequest, NetifTxRequest};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::store::Store;
use crate::nap;
use crate::random::Random;

/// Pages that it lends: rings first, then what requests are about.
const PAGES: usize = 8;
/// Where a ring's slots begin, in bytes, and the word with the index of its requests.
const SLOTS: usize = 64;
const REQ_PROD: usize = 0;
/// Nodes that a front end writes, of any kind.
const NODES: &[&str] = &[
    "ring-ref",
    "ring-ref0",
    "ring-ref1",
    "ring-page-order",
    "event-channel",
    "protocol",
    "state",
    "state",
    "state",
    "multi-queue-num-queues",
    "queue-0/ring-ref",
    "queue-0/event-channel",
    "feature-persistent",
    "tx-ring-ref",
    "rx-ring-ref",
    "event-channel-tx",
    "event-channel-rx",
    "request-rx-copy",
    "feature-sg",
    "feature-gso-tcpv4",
    "feature-gso-tcpv6",
    "feature-no-csum-offload",
    "queue-0/tx-ring-ref",
    "request-multicast-control",
    "backend",
    "backend-id",
];

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Disk,
    Net,
}

/// A device.
pub struct Device {
    kind: Kind,
    path: String,
    /// A page that was taken away is none until the next connection.
    pages: Vec<Option<Granted>>,
    port: Option<Channel>,
}

impl Device {
    /// The device with this directory.
    pub fn new(kind: Kind, path: String) -> Self {
        Self { kind, path, pages: Vec::new(), port: None }
    }

    fn set(&self, store: &Store, name: &str, value: impl ToString) {
        store.write(&format!("{}/{name}", self.path), value.to_string().as_bytes());
    }

    /// Connects as a front end does that means it, mostly.
    pub fn connect(&mut self, store: &Store, random: &mut Random, peer: u16) {
        for state in [6, 1] {
            if !random.once_in(4) {
                self.set(store, "state", state);
                nap(4);
            }
        }
        self.pages.clear();
        let page = |n| {
            let access = if n + 1 == PAGES { Access::ReadOnly } else { Access::ReadWrite };
            Granted::new(Pages::new(1).ok()?, peer, access).ok()
        };
        self.pages = (0..PAGES).map(page).collect();
        self.port = Channel::alloc_unbound(peer).ok();
        let port = self.port.as_ref().map_or(0, Channel::number);
        match self.kind {
            Kind::Disk if random.once_in(3) => {
                self.set(store, "ring-page-order", 1);
                self.set(store, "ring-ref0", self.grant(0));
                self.set(store, "ring-ref1", self.grant(1));
            }
            Kind::Disk => self.set(store, "ring-ref", self.grant(0)),
            Kind::Net => {
                self.set(store, "tx-ring-ref", self.grant(0));
                self.set(store, "rx-ring-ref", self.grant(1));
                self.set(store, "request-rx-copy", 1);
                self.set(store, "feature-sg", random.below(2));
                self.set(store, "feature-gso-tcpv4", random.below(2));
            }
        }
        self.set(store, "event-channel", port);
        self.set(store, "feature-persistent", random.below(2));
        self.set(store, "state", if self.kind == Kind::Disk { 3 } else { 4 });
        nap(4);
    }

    fn grant(&self, page: usize) -> u32 {
        self.pages.get(page).and_then(Option::as_ref).map_or(0, |page| page.refs()[0].0)
    }

    /// The reference of one of its pages, mostly.
    fn reference(&self, random: &mut Random) -> u32 {
        match random.below(PAGES + 1) {
            PAGES => random.number(),
            page => self.grant(page),
        }
    }

    fn notify(&self) {
        if let Some(port) = &self.port {
            port.notify();
        }
    }

    /// Writes something into one of its nodes.
    pub fn spoil(&self, store: &Store, random: &mut Random) {
        let name = random.one_of(NODES);
        match random.below(5) {
            0 => self.set(store, name, self.reference(random)),
            1 => {
                let mut bytes = [0; 12];
                random.fill(&mut bytes);
                store.write(&format!("{}/{name}", self.path), &bytes);
            }
            2 => self.set(store, name, random.number()),
            _ => self.set(store, name, random.below(9)),
        }
    }

    /// Takes a page away, in use or not.
    pub fn revoke(&mut self, random: &mut Random) {
        if let Some(page) = self.pages.get_mut(random.below(PAGES)) {
            *page = None;
        }
    }

    /// Closes its port, or sends many events.
    pub fn shake(&mut self, random: &mut Random, peer: u16) {
        match random.below(3) {
            0 => self.port = None,
            1 => self.port = Channel::alloc_unbound(peer).ok(),
            _ => (0..1000).for_each(|_| self.notify()),
        }
    }

    /// Writes words anywhere into its pages, often where the indices are.
    pub fn scribble(&self, random: &mut Random) {
        let Some(Some(page)) = self.pages.get(random.below(PAGES)) else { return };
        for _ in 0..=random.below(8) {
            let end = if random.once_in(8) { 4 } else { page.len() };
            let value = if random.once_in(3) { self.reference(random) } else { random.number() };
            page[random.below(end)].store(value, Relaxed);
        }
        self.notify();
    }

    /// Requests that are nearly right.
    pub fn request(&self, random: &mut Random) {
        for _ in 0..=random.below(20) {
            match self.kind {
                Kind::Disk if random.once_in(3) => self.push(0, &self.indirect(random)),
                Kind::Disk => self.push(0, &self.direct(random)),
                Kind::Net if random.once_in(3) => {
                    let gref = self.reference(random);
                    self.push(1, &NetifRxRequest { id: random.below(300) as u16, pad: 0, gref });
                }
                Kind::Net => self.push(0, &self.packet(random)),
            }
        }
        self.notify();
    }

    fn direct(&self, random: &mut Random) -> BlkifRequest {
        let mut request = BlkifRequest::new_zeroed();
        (request.operation, request.id) = (random.below(8) as u8, random.long());
        request.nr_segments = if random.once_in(4) { random.short() as u8 } else { random.below(12) as u8 };
        request.sector_number = random.long();
        for segment in &mut request.seg {
            segment.gref = self.reference(random);
            (segment.first_sect, segment.last_sect) = (random.below(10) as u8, random.below(10) as u8);
        }
        request
    }

    fn indirect(&self, random: &mut Random) -> BlkifRequestIndirect {
        let mut request = BlkifRequestIndirect::new_zeroed();
        (request.operation, request.indirect_op) = (6, random.below(4) as u8);
        request.nr_segments = if random.once_in(4) { random.short() } else { random.below(40) as u16 };
        (request.id, request.sector_number) = (random.long(), random.below(256) as u64);
        for reference in &mut request.indirect_grefs {
            *reference = self.reference(random);
        }
        request
    }

    fn packet(&self, random: &mut Random) -> NetifTxRequest {
        // Among them some that arrive: a page begins with the address of all.
        if let Some(Some(page)) = self.pages.get(2 + random.below(PAGES - 2)) {
            page[0].store(u32::MAX, Relaxed);
            page[1].store(0x0002_ffff, Relaxed);
        }
        NetifTxRequest {
            gref: self.reference(random),
            offset: if random.once_in(3) { random.short() } else { 0 },
            flags: if random.once_in(2) { 0 } else { random.below(32) as u16 },
            id: random.below(256) as u16,
            size: if random.once_in(3) { random.short() } else { 14 + random.below(256) as u16 },
        }
    }

    /// Puts a request where the ring's index says, and moves that on.
    fn push(&self, page: usize, request: &(impl IntoBytes + Immutable)) {
        let Some(Some(page)) = self.pages.get(page) else { return };
        put(page, REQ_PROD, request);
    }
}

/// Writes a message into the slot of a ring of one page that an index names, and moves the index on.
pub fn put<M: IntoBytes + Immutable>(words: &[AtomicU32], index: usize, message: &M) {
    let slots = 1 << ((4096 - SLOTS) / size_of::<M>()).ilog2();
    let at = words[index].load(Acquire);
    let place = SLOTS + at as usize % slots * size_of::<M>();
    guest_pv_lib::words::copy_in(words, place, message.as_bytes());
    words[index].store(at.wrapping_add(1), Release);
}
