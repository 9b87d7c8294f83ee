//! An end of a device that lies: it writes anything into pages that it shares and into its nodes, and takes grants away.
//!
//! It is a domain with pages and a port for a front end's role, and with mappings of the other's pages for a back end's.
//! The other end is whatever [`Honest`] says.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use pv_drivers::store::{Store, Transaction};
use pv_drivers::transport::host::{Granted, HostTransport, Machine, Mapped, Port};
use pv_drivers::transport::{Access, GrantRef, Granted as _, PAGE_SIZE, Port as _, Transport, words};
use pv_drivers::xenbus::Bus;
use zerocopy::{Immutable, IntoBytes};

use crate::input::Input;

/// The domain that lies.
pub const LIAR: u16 = 1;
/// The domain that does not.
pub const HONEST: u16 = 2;

/// Rounds after which an end that nobody talks to must have come to rest.
const ROUNDS: usize = 3000;
/// Pages of a lying front end: rings first, then what requests are about.
const PAGES: usize = 6;
/// Words of a ring's header: indices, and where the slots begin in bytes.
const REQ_PROD: usize = 0;
const RSP_PROD: usize = 2;
const SLOTS: usize = 64;

/// The end that is lied to.
pub trait Honest {
    /// Does all that is to do now; whether something was.
    fn poll(&mut self) -> bool;

    /// Whether it believes the liar to be there.
    fn is_connected(&self) -> bool;
}

/// Polls until nothing happens any more.
///
/// # Panics
/// When it goes on for ever.
pub fn settle(honest: &mut impl Honest) {
    let rests = (0..ROUNDS).any(|_| !honest.poll());
    assert!(rests, "it goes on although nobody talks to it");
}

/// The domain itself and its directory of the device.
pub struct Liar {
    pub machine: Machine,
    pub transport: HostTransport,
    /// Its nodes, and the other end's.
    pub own: String,
    pub other: String,
    /// Pages that it lends. A page that was taken away is none until the next connection.
    pub pages: Vec<Option<Granted>>,
    pub port: Option<Port>,
    /// Pages of the other end.
    pub mapped: Vec<Mapped>,
}

impl Liar {
    /// A liar with one end of a device of this kind, and the bus of the other end with the path of its nodes.
    pub fn new(kind: &str, is_front: bool) -> (Self, Bus<HostTransport>, String) {
        let machine = Machine::new();
        let (transport, bus) = (machine.domain(LIAR), Bus::new(machine.domain(HONEST)));
        let (front, back) = if is_front { (LIAR, HONEST) } else { (HONEST, LIAR) };
        let (at_front, at_back) = machine.plug(kind, 0, front, back);
        let (own, other) = if is_front { (at_front, at_back) } else { (at_back, at_front) };
        let home = format!("/local/domain/{HONEST}/{other}");
        let liar =
            Self { machine, transport, own, other: home, pages: Vec::new(), port: None, mapped: Vec::new() };
        (liar, bus, other)
    }

    /// Writes one of its nodes.
    pub fn write(&self, name: &str, value: impl AsRef<[u8]>) {
        // What the server refuses is not written.
        let _ =
            self.transport.store().write(Transaction::NONE, &format!("{}/{name}", self.own), value.as_ref());
    }

    /// The same with a number.
    pub fn set(&self, name: &str, value: impl ToString) {
        self.write(name, value.to_string());
    }

    /// Writes something into one of these nodes, or removes it.
    pub fn spoil(&self, names: &[&str], input: &mut Input<'_>) {
        let name = input.one_of(names);
        match input.below(6) {
            0 => {
                let path = format!("{}/{name}", self.own);
                let _ = self.transport.store().remove(Transaction::NONE, &path);
            }
            1 => self.set(name, self.reference(input)),
            2 => {
                let length = input.below(16);
                self.write(name, input.take(length));
            }
            3 => self.set(name, input.number()),
            _ => self.set(name, input.below(10)),
        }
    }

    /// New pages, all zero, and a new port.
    pub fn lend(&mut self) {
        self.pages.clear();
        let buffer = || self.transport.buffer(1).ok();
        let page = |n| {
            // The last one cannot be written by the other end.
            let access = if n + 1 == PAGES { Access::ReadOnly } else { Access::ReadWrite };
            self.transport.lend(buffer()?, HONEST, access).ok()
        };
        self.pages = (0..PAGES).map(page).collect();
        self.port = self.transport.listen(HONEST).ok();
    }

    /// The reference of a page.
    pub fn grant(&self, page: usize) -> u32 {
        self.pages.get(page).and_then(Option::as_ref).map_or(0, |page| page.refs()[0].0)
    }

    /// The port's number.
    pub fn port_number(&self) -> u32 {
        self.port.as_ref().map_or(0, Port::number)
    }

    /// Sends an event.
    pub fn notify(&self) {
        if let Some(port) = &self.port {
            port.notify();
        }
    }

    /// The reference of one of its pages, mostly.
    pub fn reference(&self, input: &mut Input<'_>) -> u32 {
        match input.below(8) {
            7 => input.number(),
            page => self.grant(page),
        }
    }

    /// Takes a page away, in use or not.
    pub fn revoke(&mut self, input: &mut Input<'_>) {
        if let Some(page) = self.pages.get_mut(input.below(PAGES)) {
            *page = None;
        }
    }

    /// Writes a word anywhere into a shared page.
    pub fn scribble(&self, input: &mut Input<'_>) {
        let (page, at) = (input.below(PAGES), input.u16());
        let value = if input.below(3) == 0 { self.reference(input) } else { input.number() };
        let mine = self.pages.get(page).and_then(Option::as_ref).map(|page| &page[..]);
        let words = mine.or_else(|| Some(&self.mapped.get(page % self.mapped.len().max(1))?[..]));
        if let Some(words) = words {
            // Half of them where the indices are.
            let end = if at & 1 == 0 { 4 } else { words.len() };
            words[usize::from(at >> 1) % end].store(value, Relaxed);
        }
    }

    /// Puts a request into the ring of a page, as an end that keeps to the layout does.
    pub fn push(&self, page: usize, slot_bytes: usize, request: &(impl IntoBytes + Immutable)) {
        let Some(page) = self.pages.get(page).and_then(Option::as_ref) else { return };
        put(page, REQ_PROD, slot_bytes, request);
        self.notify();
    }

    /// Puts a response into a ring of the other end.
    pub fn answer(&self, ring: usize, slot_bytes: usize, response: &(impl IntoBytes + Immutable)) {
        if let Some(ring) = self.mapped.get(ring) {
            put(ring, RSP_PROD, slot_bytes, response);
        }
        self.notify();
    }

    /// Maps the pages that the other end names in its nodes, and binds its port.
    pub fn map(&mut self, refs: &[&str], port: &str) {
        let value = |name: &str| {
            let path = format!("{}/{name}", self.other);
            let value = self.transport.store().read(Transaction::NONE, &path).ok()?;
            String::from_utf8(value).ok()?.parse::<u32>().ok()
        };
        let map = |name: &&str| {
            let reference = GrantRef(value(name)?);
            self.transport.map(HONEST, &[reference], Access::ReadWrite).ok()
        };
        self.mapped = refs.iter().filter_map(map).collect();
        self.port =
            value(port).and_then(|port| self.transport.connect(HONEST, port).ok()).or(self.port.take());
    }
}

/// Writes a message into the slot that an index names, and moves the index on.
fn put(
    words: &[core::sync::atomic::AtomicU32],
    index: usize,
    slot_bytes: usize,
    message: &(impl IntoBytes + Immutable),
) {
    let at = words[index].load(Acquire);
    let slots = 1 << ((PAGE_SIZE - SLOTS) / slot_bytes).ilog2();
    words::store(words, SLOTS + at as usize % slots * slot_bytes, message.as_bytes());
    words[index].store(at.wrapping_add(1), Release);
}
