//! The driver domain that does its worst to the front ends of those it serves. Xenstore it serves as it should, or nobody
//! would ever connect; but it is its own to write garbage into.
//!
//! A device is offered as it should be, and connected; then anything happens to its rings, its nodes and its port for a while; then
//! it leaves, or does not, and is offered again.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use driver_domain::archive;
use driver_domain::config::{Config, Disk, Net, Served};
use driver_domain::devices::Device;
use driver_domain::domains::{Domains, Machine};
use driver_domain::nodes::{back_end, front_end};
use guest_pv_lib::events::{self, Channel};
use guest_pv_lib::sched::{Shutdown, shutdown};
use guest_pv_lib::{BootContext, console, println, words};
use pv_drivers::store::server::{Local, Server};
use pv_drivers::store::{Store, Transaction};
use pv_drivers::transport::guest::Guest;
use pv_drivers::transport::{Access, GrantRef, Transport};
use spin::Mutex;
use xen_abi::io::blkif::{BlkifRequest, BlkifResponse};
use xen_abi::io::netif::{NetifRxRequest, NetifRxResponse, NetifTxRequest, NetifTxResponse};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::nap;
use crate::random::Random;

/// How this kernel reaches others.
type Own = Guest<Local>;

/// Where a ring's slots begin, in bytes, and the word with the index of its answers.
const SLOTS: usize = 64;
const RSP_PROD: usize = 2;
/// Sectors of the disks that it pretends to have.
const SECTORS: u32 = 256;
/// Nodes of a back end, of any kind.
const NODES: &[&str] = &[
    "sectors",
    "sector-size",
    "physical-sector-size",
    "info",
    "feature-barrier",
    "feature-flush-cache",
    "feature-discard",
    "discard-granularity",
    "feature-persistent",
    "feature-max-indirect-segments",
    "max-ring-page-order",
    "multi-queue-max-queues",
    "state",
    "state",
    "state",
    "feature-rx-copy",
    "feature-sg",
    "feature-gso-tcpv4",
    "feature-gso-tcpv6",
    "feature-no-csum-offload",
    "feature-split-event-channels",
    "mac",
    "mtu",
    "frontend",
    "frontend-id",
];
/// Nodes of a front end.
const FRONT_NODES: &[&str] =
    &["backend", "backend-id", "state", "mac", "handle", "virtual-device", "ring-ref"];

/// Serves for ever.
pub fn run(boot: &BootContext, random: Random) -> ! {
    let line = core::str::from_utf8(boot.command_line()).unwrap_or_default();
    let archive = boot.module().unwrap_or_default();
    let config = match Config::read(line, archive::find(archive, archive::DESCRIPTION)) {
        Ok(config) => config,
        Err(why) => {
            println!("hostile: {why}");
            shutdown(Shutdown::PowerOff)
        }
    };
    println!("hostile: a back end for {} domains", config.served.len());
    let server = Arc::new(Mutex::new(Server::default()));
    let transport = Guest::new(Local::deferring(&server, config.own, true));
    let mut around = Around { random };
    let mut domains = Domains::new(transport, &server, config);
    loop {
        domains.serve(&mut around);
        nap(1);
    }
}

struct Around {
    random: Random,
}

impl Around {
    /// Each device gets a liar.
    fn device(
        &mut self,
        transport: &Own,
        kind: Kind,
        served: &Served,
        number: u32,
    ) -> Result<Box<dyn Device>, String> {
        let name = if kind == Kind::Disk { "vbd" } else { "vif" };
        let paths = (back_end(name, served.id, number), front_end(name, served.id, number));
        let random = Random(self.random.any());
        Ok(Box::new(Liar::new(transport, kind, served.id, paths, random)))
    }
}

impl Machine<Own> for Around {
    fn disk(&mut self, transport: &Own, served: &Served, disk: &Disk) -> Result<Box<dyn Device>, String> {
        self.device(transport, Kind::Disk, served, disk.number)
    }

    fn interface(&mut self, transport: &Own, served: &Served, net: &Net) -> Result<Box<dyn Device>, String> {
        self.device(transport, Kind::Net, served, net.number)
    }

    fn is_connected(&self, port: &Channel) -> bool {
        events::is_connected(port.port())
    }

    fn line(&mut self, name: &str, line: fmt::Arguments<'_>) {
        println!("({name}) {line}");
    }

    fn raw(&mut self, bytes: &[u8]) {
        console::write(bytes);
    }

    fn typed(&mut self, bytes: &mut [u8]) -> usize {
        console::read(bytes)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Disk,
    Net,
}

/// The back end of a device.
struct Liar {
    transport: Own,
    kind: Kind,
    peer: u16,
    /// Its directory, and the front end's.
    own: String,
    other: String,
    random: Random,
    rings: Vec<<Own as Transport>::Mapped>,
    port: Option<Channel>,
    /// How often it still answers as it should.
    calm: usize,
    /// What is to be done to this connection then.
    steps: usize,
    /// Rounds until the next step.
    pause: usize,
}

impl Device for Liar {
    fn serve(&mut self) -> bool {
        if self.pause > 0 {
            self.pause -= 1;
        } else if self.rings.is_empty() {
            self.meet();
        } else if self.calm > 0 {
            self.calm -= 1;
            self.answer();
            self.notify();
        } else if self.steps == 0 {
            self.leave();
        } else {
            self.steps -= 1;
            self.pause = if self.random.once_in(4) { self.random.below(8) } else { 0 };
            self.step();
        }
        false
    }

    fn close(&mut self) {
        self.leave();
    }

    fn is_closed(&self) -> bool {
        self.rings.is_empty()
    }
}

impl Liar {
    fn new(transport: &Own, kind: Kind, peer: u16, (own, other): (String, String), random: Random) -> Self {
        let transport = transport.clone();
        let mut liar = Self {
            transport,
            kind,
            peer,
            own,
            other,
            random,
            rings: Vec::new(),
            port: None,
            calm: 0,
            steps: 0,
            pause: 0,
        };
        liar.offer();
        liar
    }

    fn write(&self, directory: &str, name: &str, value: &[u8]) {
        // What a server refuses is not written.
        let _ = self.transport.store().write(Transaction::NONE, &format!("{directory}/{name}"), value);
    }

    fn set(&self, name: &str, value: impl ToString) {
        self.write(&self.own, name, value.to_string().as_bytes());
    }

    /// A number that the front end wrote.
    fn peers(&self, name: &str) -> Option<u32> {
        let value = self.transport.store().read(Transaction::NONE, &format!("{}/{name}", self.other)).ok()?;
        core::str::from_utf8(&value).ok()?.parse().ok()
    }

    /// Offers the device as it should be.
    fn offer(&mut self) {
        for (name, value) in [
            ("sectors", SECTORS),
            ("sector-size", 512),
            ("feature-flush-cache", 1),
            ("feature-discard", 1),
            ("feature-persistent", self.random.below(2) as u32),
            ("max-ring-page-order", 0),
            ("multi-queue-max-queues", 1),
            ("feature-max-indirect-segments", self.random.below(3) as u32 * 16),
            ("feature-rx-copy", 1),
            ("feature-sg", self.random.below(2) as u32),
            ("feature-gso-tcpv4", self.random.below(2) as u32),
            ("state", 2),
        ] {
            self.set(name, value);
        }
        self.write(&self.own, "mac", b"00:16:3e:00:00:01");
    }

    /// Connects when the front end is ready.
    fn meet(&mut self) {
        self.pause = 20;
        if !matches!(self.peers("state"), Some(3 | 4)) {
            // One that waits for something else gets it, sooner or later.
            if self.random.once_in(20) {
                self.leave();
            }
            return;
        }
        let names: &[&str] = match self.kind {
            Kind::Disk => &["ring-ref"],
            Kind::Net => &["tx-ring-ref", "rx-ring-ref"],
        };
        let map = |name: &&str| {
            self.transport.map(self.peer, &[GrantRef(self.peers(name)?)], Access::ReadWrite).ok()
        };
        self.rings = names.iter().filter_map(map).collect();
        self.port = self.peers("event-channel").and_then(|port| self.transport.connect(self.peer, port).ok());
        self.set("state", 4);
        (self.calm, self.steps) = (self.random.below(1500), self.random.below(600));
        self.pause = 0;
    }

    /// Ends the connection, mostly in a way that the front end can see.
    fn leave(&mut self) {
        self.rings.clear();
        self.port = None;
        for state in [5, 6] {
            if !self.random.once_in(4) {
                self.set("state", state);
            }
        }
        self.pause = self.random.below(40);
        self.steps = 0;
        self.offer();
    }

    fn notify(&self) {
        if let Some(port) = &self.port {
            port.notify();
        }
    }

    fn step(&mut self) {
        match self.random.below(60) {
            0 => self.scribble(),
            1 => {
                let (name, value) = self.garbage(NODES);
                self.write(&self.own, name, &value);
            }
            2 if self.random.once_in(4) => {
                let (name, value) = self.garbage(FRONT_NODES);
                self.write(&self.other, name, &value);
            }
            3 if self.random.once_in(4) => self.port = None,
            4 if self.random.once_in(4) => drop(self.rings.pop()),
            5 => (0..200).for_each(|_| self.notify()),
            6..12 => self.lie(),
            _ => self.answer(),
        }
        self.notify();
    }

    /// A node, and something that need not be its value.
    fn garbage(&mut self, names: &[&'static str]) -> (&'static str, Vec<u8>) {
        let random = &mut self.random;
        let value = match random.below(4) {
            0 => {
                let mut bytes = [0; 12];
                random.fill(&mut bytes);
                bytes.to_vec()
            }
            1 => random.number().to_string().into_bytes(),
            _ => random.below(9).to_string().into_bytes(),
        };
        (random.one_of(names), value)
    }

    /// Words anywhere in the rings, often in the indices.
    fn scribble(&mut self) {
        let at = self.random.below(self.rings.len());
        let Some(ring) = self.rings.get(at) else { return };
        for _ in 0..=self.random.below(4) {
            let end = if self.random.once_in(2) { 4 } else { ring.len() };
            ring[self.random.below(end)].store(self.random.number(), Relaxed);
        }
    }

    /// Answers what was asked, as if it were done.
    fn answer(&mut self) {
        if let (Kind::Disk, Some(ring)) = (self.kind, self.rings.first()) {
            let request: BlkifRequest = next(ring);
            if let Some(request) = there(ring).then_some(request) {
                let mut response = BlkifResponse::new_zeroed();
                (response.id, response.operation) = (request.id, request.operation);
                put::<BlkifRequest, _>(ring, &response);
            }
        }
        if let (Kind::Net, [tx, rx]) = (self.kind, &self.rings[..]) {
            if there(tx) {
                let request: NetifTxRequest = next(tx);
                let mut response = NetifTxResponse::new_zeroed();
                response.id = request.id;
                put::<NetifTxRequest, _>(tx, &response);
            }
            if there(rx) && self.random.once_in(8) {
                let request: NetifRxRequest = next(rx);
                let mut response = NetifRxResponse::new_zeroed();
                (response.id, response.status) = (request.id, 60);
                put::<NetifRxRequest, _>(rx, &response);
            }
        }
    }

    /// Answers what was not asked.
    fn lie(&mut self) {
        let random = &mut self.random;
        match (self.kind, &self.rings[..]) {
            (Kind::Disk, [ring, ..]) => {
                let mut response = BlkifResponse::new_zeroed();
                response.id = if random.once_in(3) { random.long() } else { random.below(32) as u64 };
                response.operation = random.below(8) as u8;
                response.status = -(random.below(4) as i16);
                put::<BlkifRequest, _>(ring, &response);
            }
            (Kind::Net, [tx, ..]) if random.once_in(2) => {
                let mut response = NetifTxResponse::new_zeroed();
                (response.id, response.status) = (random.below(300) as u16, random.below(3) as i16 - 1);
                put::<NetifTxRequest, _>(tx, &response);
            }
            (Kind::Net, [_, rx]) => {
                let mut response = NetifRxResponse::new_zeroed();
                response.id = if random.once_in(2) { next::<NetifRxRequest>(rx).id } else { random.short() };
                response.flags = random.below(16) as u16;
                response.offset = if random.once_in(2) { 0 } else { random.short() };
                response.status = random.short().cast_signed();
                put::<NetifRxRequest, _>(rx, &response);
            }
            _ => {}
        }
    }
}

/// Where the slot of the next answer is: it is that of its request.
fn place<R>(ring: &[core::sync::atomic::AtomicU32]) -> usize {
    let slots = 1 << ((4096 - SLOTS) / size_of::<R>()).ilog2();
    SLOTS + ring[RSP_PROD].load(Relaxed) as usize % slots * size_of::<R>()
}

/// Whether somebody asked.
fn there(ring: &[core::sync::atomic::AtomicU32]) -> bool {
    ring[0].load(core::sync::atomic::Ordering::Acquire) != ring[RSP_PROD].load(Relaxed)
}

/// The request that is to be answered next.
fn next<R: FromZeros + IntoBytes + zerocopy::FromBytes>(ring: &[core::sync::atomic::AtomicU32]) -> R {
    let mut request = R::new_zeroed();
    words::copy_out(ring, place::<R>(ring), request.as_mut_bytes());
    request
}

/// Puts an answer into the slot of request type `R`, and moves the index on.
fn put<R, M: IntoBytes + Immutable>(ring: &[core::sync::atomic::AtomicU32], message: &M) {
    words::copy_in(ring, place::<R>(ring), message.as_bytes());
    ring[RSP_PROD].fetch_add(1, core::sync::atomic::Ordering::Release);
}
