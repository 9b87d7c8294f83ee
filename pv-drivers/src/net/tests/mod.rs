//! Both ends of the network device in one process, with the bridge between them.

extern crate std;

mod budgets;
mod completing;
mod connecting;
mod fair;
pub(super) mod frames;
mod hostile;
mod moving;
mod sharing;
mod spoofing;
mod uplink;

use std::boxed::Box;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

use super::back::{Rings, Vif};
use super::bridge::{Bridge, PortId, Wire};
use super::features::Accepts;
use super::front::{Part, Queue};
use super::{Mac, Offload};
use crate::transport::host::{HostTransport, Machine};
use crate::transport::{Access, PAGE_SIZE, Port, Transport};

type Front = Queue<HostTransport>;

/// The domain of the bridge.
const BACK: u16 = 5;

/// A bridge and the domains around it.
struct Net {
    machine: Machine,
    back: HostTransport,
    bridge: Bridge<HostTransport>,
}

impl Net {
    fn new() -> Self {
        let machine = Machine::new();
        let back = machine.domain(BACK);
        let bridge = Bridge::new(back.clone()).unwrap();
        Self { machine, back, bridge }
    }

    /// The rings of a front end's queue.
    fn rings(&self, domain: u16, front: &Front) -> Rings<HostTransport> {
        let (tx, rx) = front.ring_refs();
        let map = |reference| self.back.map(domain, &[reference], Access::ReadWrite).unwrap();
        let tx_port = self.back.connect(domain, front.port().number()).unwrap();
        Rings { tx: map(tx), rx: map(rx), tx_port, rx_port: None }
    }

    /// A domain with one queue that takes what `accepts` says.
    fn front(&mut self, domain: u16, accepts: Accepts) -> (Front, PortId) {
        let (mut fronts, port) = self.fronts(domain, accepts, 1);
        (fronts.remove(0), port)
    }

    fn fronts(&mut self, domain: u16, accepts: Accepts, queues: usize) -> (Vec<Front>, PortId) {
        let transport = self.machine.domain(domain);
        let fronts: Vec<_> =
            (0..queues).map(|_| Queue::new(&transport, BACK, Accepts::ALL).unwrap()).collect();
        let rings: Vec<_> = fronts.iter().map(|front| self.rings(domain, front)).collect();
        let vif = Vif::new(domain, rings, accepts).unwrap();
        (fronts, self.bridge.add_vif(vif))
    }

    /// A domain whose device is configured with `station(number)`, `number` being the domain's.
    fn configured(&mut self, number: u8) -> (Front, PortId) {
        let domain = u16::from(number);
        let front = Queue::new(&self.machine.domain(domain), BACK, Accepts::ALL).unwrap();
        let mut vif = Vif::new(domain, [self.rings(domain, &front)], Accepts::ALL).unwrap();
        vif.set_address(self.bridge.claim(station(number)).as_ref());
        (front, self.bridge.add_vif(vif))
    }

    /// Moves all that can be moved.
    fn run(&mut self) {
        for _ in 0..1000 {
            if !self.bridge.poll().moved && !self.bridge.sleep() {
                return;
            }
        }
        panic!("the bridge does not come to rest");
    }
}

/// The frame in pages as a stack would lay it out: `sizes` bytes each, and the rest in whole pages.
fn parts(
    front: &mut Front,
    frame: &[u8],
    sizes: &[usize],
) -> Vec<Part<<HostTransport as Transport>::Buffer>> {
    let (mut rest, mut sizes) = (frame, sizes.iter());
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let size = sizes.next().copied().unwrap_or(PAGE_SIZE).min(rest.len());
        let offset = if size < 1000 { 96 } else { 0 };
        let mut page = front.tx.page().unwrap();
        page.as_mut()[offset..offset + size].copy_from_slice(&rest[..size]);
        parts.push(Part { page, offset: offset.try_into().unwrap(), length: size.try_into().unwrap() });
        rest = &rest[size..];
    }
    parts
}

fn send(front: &mut Front, frame: &[u8], offload: Offload) {
    let mut parts = parts(front, frame, &[]);
    assert!(front.tx.ready(parts.len()).unwrap());
    front.tx.send(&mut parts, &offload).unwrap();
    front.tx.flush();
}

/// Everything that came, in order.
fn received(front: &mut Front) -> Vec<(Vec<u8>, Offload)> {
    let mut all = Vec::new();
    while let Some(packet) = front.rx.receive().unwrap() {
        all.push((packet.parts().collect::<Vec<_>>().concat(), packet.offload));
        front.rx.recycle(packet);
    }
    all
}

/// Only the bytes.
fn bytes(front: &mut Front) -> Vec<Vec<u8>> {
    received(front).into_iter().map(|(bytes, _)| bytes).collect()
}

const fn station(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, number])
}

/// A frame of a protocol that nobody looks into.
fn frame(from: Mac, to: Mac, data: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &[0x88, 0xb5], data].concat()
}

/// A wire that a test holds the other end of.
#[derive(Clone, Default)]
struct TestWire {
    to_bridge: Arc<Mutex<VecDeque<Vec<u8>>>>,
    from_bridge: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Wire for TestWire {
    fn transmit(&mut self, frame: &[u8]) -> bool {
        self.from_bridge.lock().unwrap().push(frame.to_vec());
        true
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
        let frame = self.to_bridge.lock().unwrap().pop_front();
        frame.inspect(|frame| take(frame)).is_some()
    }

    fn sleep(&mut self) -> bool {
        !self.to_bridge.lock().unwrap().is_empty()
    }
}

impl TestWire {
    fn add(net: &mut Net) -> Self {
        let wire = Self::default();
        net.bridge.add_wire(Box::new(wire.clone()));
        wire
    }

    fn taken(&self) -> Vec<Vec<u8>> {
        core::mem::take(&mut self.from_bridge.lock().unwrap())
    }
}
