//! The connection to xenstore: used as it should be, never for longer than a moment, and as it should not.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use guest_pv_lib::events::Port;
use guest_pv_lib::xenstore::{Client, Link, Ring, Transaction};
use guest_pv_lib::{BootContext, events, sched, time};
use xen_abi::io::xs_wire::{
    XENSTORE_CONNECTED, XENSTORE_PAYLOAD_MAX, XENSTORE_RECONNECT, XENSTORE_RING_SIZE, XS_DIRECTORY,
    XS_TRANSACTION_START, XS_TYPE_COUNT, XS_WATCH, XS_WRITE, XsdSockmsg,
};
use zerocopy::IntoBytes;

use super::page::{self, GuestPage};
use crate::nap;
use crate::random::Random;

/// How long an answer is waited for, in nanoseconds.
const PATIENCE: u64 = 200_000_000;
/// Words of the page behind the rings: indices, features, connection, error.
const INDICES: usize = 512;
const REQ_CONS: usize = 512;
const REQ_PROD: usize = 513;
const RSP_CONS: usize = 514;
const RSP_PROD: usize = 515;
const CONNECTION: usize = 517;
/// What paths are made of.
const PIECES: &[&str] = &[
    "/",
    "local",
    "domain",
    "0",
    "1",
    "2",
    "3",
    "device",
    "backend",
    "vbd",
    "vif",
    "data",
    "x",
    "state",
    "@introduceDomain",
    "//",
    "\0",
    "-_",
    "error",
    "control/shutdown",
];
/// What else is in a message.
const WORDS: &[&[u8]] =
    &[b"\0", b"b1\0", b"w2\0", b"n0\0", b"r65535\0", b"T\0", b"F\0", b"0\0", b"4294967296\0", b"token"];

/// How the server is told, and waited for, shortly.
#[derive(Clone, Copy, Debug)]
struct Bell(Port);

impl Link for Bell {
    fn notify(&self) {
        let _ = events::notify(self.0);
    }

    fn wait(&self) {
        events::without_upcalls(|| {
            let _ = sched::poll(&[self.0], Some(time::now() + 1_000_000));
            let _ = events::take(self.0);
        });
    }
}

/// The connection.
pub struct Store {
    page: GuestPage,
    bell: Bell,
    client: Client<GuestPage, Bell>,
}

impl Store {
    /// The connection of this domain, if it has one.
    pub fn new(boot: &BootContext) -> Option<Self> {
        let (frame, port) = boot.store_ring()?;
        let (page, bell) = (page::store(frame)?, Bell(port));
        Some(Self { page, bell, client: Client::new(Ring::new(page)?, bell) })
    }

    /// Asks as one should; none where there is no answer in time, or an error.
    fn call(&self, kind: u32, parts: &[&[u8]]) -> Option<Vec<u8>> {
        let reply = self.client.submit(kind, Transaction::NONE, parts).ok()?;
        let end = time::now() + PATIENCE;
        while time::now() < end {
            if let Some(answer) = reply.check() {
                return answer.ok();
            }
            self.bell.wait();
        }
        None
    }

    /// Writes a node, whatever the server thinks of it.
    pub fn write(&self, path: &str, value: &[u8]) {
        self.page[RSP_CONS].store(self.page[RSP_PROD].load(Acquire), Release);
        self.send(XS_WRITE, 0, &[path.as_bytes(), b"\0", value].concat());
    }

    /// The names below a node.
    pub fn list(&self, path: &str) -> Vec<String> {
        let names = self.call(XS_DIRECTORY, &[path.as_bytes(), b"\0"]).unwrap_or_default();
        let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// Does something that no domain should.
    pub fn shout(&mut self, random: &mut Random) {
        match random.below(12) {
            0..=4 => drop((0..5).all(|_| self.any_message(random))),
            5 => self.flood(random, XS_WRITE),
            6 => self.flood(random, XS_WATCH),
            7 => self.flood(random, XS_TRANSACTION_START),
            8 => {
                let mut bytes = [0; 64];
                random.fill(&mut bytes);
                let _ = self.append(&bytes);
                self.linger(random);
            }
            9 => {
                self.page.scribble(random, INDICES, 7);
                self.linger(random);
            }
            10 => {
                // It says that it asks more than it does, and goes.
                let header = XsdSockmsg { type_: XS_WRITE, req_id: 1, tx_id: 0, len: random.number() };
                let _ = self.append(header.as_bytes());
                self.linger(random);
            }
            // It does not take its answers.
            _ => drop((0..100).all(|_| self.any_message(random))),
        }
        if random.once_in(4) {
            self.page[RSP_CONS].store(self.page[RSP_PROD].load(Acquire), Release);
            self.bell.notify();
        }
        if random.once_in(16) {
            self.restart();
        }
    }

    /// Gives the server time to see what is there, and begins anew.
    fn linger(&mut self, random: &mut Random) {
        self.bell.notify();
        nap(1 + random.below(20) as u64);
        self.restart();
    }

    /// A message with a header that is right.
    fn any_message(&self, random: &mut Random) -> bool {
        let mut payload = Vec::new();
        for _ in 0..random.below(7) {
            payload.extend_from_slice(random.one_of(PIECES).as_bytes());
        }
        payload.push(0);
        for _ in 0..random.below(4) {
            payload.extend_from_slice(random.one_of(WORDS));
        }
        if random.once_in(16) {
            payload.resize(random.below(XENSTORE_PAYLOAD_MAX as usize + 8), b'x');
        }
        let kind = random.below(XS_TYPE_COUNT as usize + 2) as u32;
        let transaction = if random.once_in(2) { 0 } else { random.below(12) as u32 };
        self.send(kind, transaction, &payload)
    }

    /// Many requests of one kind, until a quota ends them.
    fn flood(&self, random: &mut Random, kind: u32) {
        let first = random.below(4000);
        for n in first..first + 200 {
            let value = if random.once_in(8) { 2000 } else { 4 };
            let mut payload = format!("data/x{n}").into_bytes();
            payload.push(0);
            payload.resize(payload.len() + value, b'v');
            if kind == XS_WATCH {
                payload.push(0);
            }
            if !self.send(kind, 0, if kind == XS_TRANSACTION_START { b"\0" } else { &payload }) {
                return;
            }
        }
    }

    /// False: the server does not listen.
    fn send(&self, type_: u32, tx_id: u32, payload: &[u8]) -> bool {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let header = XsdSockmsg { type_, req_id: 7, tx_id, len };
        self.append(header.as_bytes()) && self.append(payload)
    }

    /// Appends bytes to the requests, and takes answers without a look at them. False: there was no room for too long.
    fn append(&self, bytes: &[u8]) -> bool {
        let end = time::now() + PATIENCE / 10;
        for byte in bytes {
            let at = self.page[REQ_PROD].load(Relaxed);
            while at.wrapping_sub(self.page[REQ_CONS].load(Acquire)) >= XENSTORE_RING_SIZE {
                self.page[RSP_CONS].store(self.page[RSP_PROD].load(Acquire), Release);
                self.bell.notify();
                self.bell.wait();
                if time::now() > end {
                    return false;
                }
            }
            let place = (at % XENSTORE_RING_SIZE) as usize;
            guest_pv_lib::words::copy_in(&self.page, place, &[*byte]);
            self.page[REQ_PROD].store(at.wrapping_add(1), Release);
        }
        self.bell.notify();
        true
    }

    /// Asks the server to begin anew, and begins anew.
    fn restart(&mut self) {
        self.page[CONNECTION].store(XENSTORE_RECONNECT, Release);
        let end = time::now() + PATIENCE;
        while self.page[CONNECTION].load(Acquire) != XENSTORE_CONNECTED && time::now() < end {
            self.bell.notify();
            self.bell.wait();
        }
        if let Some(ring) = Ring::new(self.page) {
            self.client = Client::new(ring, self.bell);
        }
    }
}
