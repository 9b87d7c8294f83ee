//! The network device's ends.

use std::sync::Arc;

use pv_drivers::net::back;
use pv_drivers::net::bridge::Bridge;
use pv_drivers::net::front;
use pv_drivers::net::front::Part;
use pv_drivers::net::{Checksum, Offload};
use pv_drivers::store::{Store, Transaction};
use pv_drivers::transport::Transport;
use pv_drivers::transport::host::{HostTransport, Machine};
use pv_drivers::xenbus::{Bus, Device, End};
use spin::Mutex;
use xen_abi::io::netif::{NetifRxRequest, NetifRxResponse, NetifTxRequest, NetifTxResponse};
use zerocopy::FromZeros;

use crate::input::Input;
use crate::liar::{HONEST, Honest, LIAR, Liar, settle};

type FrontDevice = Device<HostTransport, front::Net<HostTransport>>;
type BackDevice = Device<HostTransport, back::Net<HostTransport>>;

/// What a front end writes.
const FRONT_NODES: &[&str] = &[
    "tx-ring-ref",
    "rx-ring-ref",
    "event-channel",
    "event-channel-tx",
    "event-channel-rx",
    "request-rx-copy",
    "feature-rx-notify",
    "feature-sg",
    "feature-gso-tcpv4",
    "feature-gso-tcpv6",
    "feature-no-csum-offload",
    "multi-queue-num-queues",
    "request-multicast-control",
    "queue-0/tx-ring-ref",
    "state",
];
/// What a back end writes.
const BACK_NODES: &[&str] = &[
    "feature-rx-copy",
    "feature-sg",
    "feature-gso-tcpv4",
    "feature-gso-tcpv6",
    "feature-no-csum-offload",
    "feature-split-event-channels",
    "feature-multicast-control",
    "multi-queue-max-queues",
    "mac",
    "mtu",
    "state",
];
/// Bytes of the slots.
const TX_SLOT: usize = size_of::<NetifTxRequest>();
const RX_SLOT: usize = size_of::<NetifRxRequest>();
/// The other domain on the bridge.
const GUEST: u16 = 3;
/// Nothing is left to do for the packet.
const PLAIN: Offload = Offload { checksum: Checksum::Unchecked, gso: None };

/// A bridge with two devices: the liar's and a decent domain's.
struct Served {
    bus: Bus<HostTransport>,
    bridge: back::SharedBridge<HostTransport>,
    backs: Vec<BackDevice>,
    guest_bus: Bus<HostTransport>,
    guest: FrontDevice,
}

impl Served {
    fn new(machine: &Machine, bus: Bus<HostTransport>, path: &str) -> Option<Self> {
        let bridge = Arc::new(Mutex::new(Bridge::new(bus.transport().clone()).ok()?));
        let (at_front, at_back) = machine.plug("vif", 0, GUEST, HONEST);
        let back = |path| {
            let end = End::back(&bus, path).ok()?;
            let driver = back::Net::new(bridge.clone(), &end);
            Some(Device::new(end, driver))
        };
        let backs = vec![back(path)?, back(&at_back)?];
        let guest_bus = Bus::new(machine.domain(GUEST));
        let guest = Device::new(End::front(&guest_bus, &at_front).ok()?, front::Net::new(1));
        Some(Self { bus, bridge, backs, guest_bus, guest })
    }

    /// What the decent domain received since the last time.
    fn received(&mut self) -> usize {
        drain(&mut self.guest)
    }

    fn greet(&mut self) {
        send(&mut self.guest, 60);
    }
}

impl Honest for Served {
    fn poll(&mut self) -> bool {
        let mut moved = self.bus.poll() | self.guest_bus.poll() | self.guest.poll();
        for back in &mut self.backs {
            moved |= back.poll() | back::check(back);
        }
        let mut bridge = self.bridge.lock();
        let passed = bridge.poll().moved;
        moved | passed | bridge.sleep()
    }

    fn is_connected(&self) -> bool {
        self.backs[0].is_connected()
    }
}

/// Takes all packets of a device; how many.
fn drain(device: &mut FrontDevice) -> usize {
    let mut count = 0;
    for queue in device.driver_mut().queues() {
        loop {
            match queue.rx.receive() {
                Ok(Some(packet)) => {
                    count += 1;
                    assert!(packet.len() >= packet.parts().map(<[u8]>::len).sum());
                    queue.rx.recycle(packet);
                }
                Ok(None) => break,
                Err(broken) => {
                    queue.set_broken(broken);
                    break;
                }
            }
        }
    }
    count
}

/// Sends a frame to all, if there is room.
fn send(device: &mut FrontDevice, length: u16) {
    let Some(queue) = device.driver_mut().queues().first_mut() else { return };
    match queue.tx.ready(1) {
        Ok(true) => {}
        Ok(false) => return,
        Err(broken) => return queue.set_broken(broken),
    }
    let Some(mut page) = queue.tx.page() else { return };
    page.as_mut()[..14].copy_from_slice(&[255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
    let mut parts = vec![Part { page, offset: 0, length }];
    // A packet that does not fit is lost.
    let _ = queue.tx.send(&mut parts, &PLAIN);
    queue.tx.flush();
}

/// A back end on a bridge, and a front end that lies. Another domain on the bridge is served all the same.
pub fn back(data: &[u8]) {
    let mut input = Input(data);
    let (mut liar, bus, path) = Liar::new("vif", true);
    let Some(mut served) = Served::new(&liar.machine, bus, &path) else { return };
    connect(&mut liar, &mut served, input.byte());
    assert!(served.is_connected() && served.guest.is_connected());
    while !input.is_empty() {
        match input.below(10) {
            0 => liar.scribble(&mut input),
            1 => liar.spoil(FRONT_NODES, &mut input),
            2 => liar.revoke(&mut input),
            3 => connect(&mut liar, &mut served, input.byte()),
            4..=6 => transmit(&liar, &mut input),
            7 => {
                let request =
                    NetifRxRequest { id: input.u16() % 300, pad: 0, gref: liar.reference(&mut input) };
                liar.push(1, RX_SLOT, &request);
            }
            8 => served.greet(),
            _ => {
                served.poll();
                served.received();
            }
        }
    }
    // A ring that its owner does not fill holds nobody up: what the bridge says to the decent domain arrives.
    served.greet();
    while served.poll() && served.received() > 0 {}
    liar.machine.destroy(LIAR);
    settle_receiving(&mut served);
    assert!(!served.is_connected(), "there is no front end any more");
    assert!(served.guest.is_connected(), "another domain lost its device");
    let wire = Wire::default();
    served.bridge.lock().add_wire(Box::new(wire.clone()));
    served.greet();
    settle_receiving(&mut served);
    assert_eq!(*wire.0.lock(), 1, "another domain is not served any more");
}

/// Polls until nothing happens any more, and takes what arrives meanwhile.
fn settle_receiving(served: &mut Served) {
    settle(served);
    while served.received() > 0 {
        settle(served);
    }
}

/// Counts frames.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<usize>>);

impl pv_drivers::net::bridge::Wire for Wire {
    fn transmit(&mut self, _frame: &[u8]) -> bool {
        *self.0.lock() += 1;
        true
    }

    fn receive(&mut self, _take: &mut dyn FnMut(&[u8])) -> bool {
        false
    }
}

fn connect(liar: &mut Liar, served: &mut Served, features: u8) {
    liar.set("state", 6);
    settle_receiving(served);
    liar.set("state", 1);
    settle_receiving(served);
    liar.lend();
    for node in FRONT_NODES {
        let _ = liar.transport.store().remove(Transaction::NONE, &format!("{}/{node}", liar.own));
    }
    liar.set("tx-ring-ref", liar.grant(0));
    liar.set("rx-ring-ref", liar.grant(1));
    liar.set("event-channel", liar.port_number());
    liar.set("request-rx-copy", 1);
    for (bit, name) in ["feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6"].iter().enumerate() {
        liar.set(name, features >> bit & 1);
    }
    liar.set("state", 4);
    settle_receiving(served);
}

fn transmit(liar: &Liar, input: &mut Input<'_>) {
    let size = if input.below(3) == 0 { input.u16() } else { 14 + u16::from(input.byte()) };
    let request = NetifTxRequest {
        gref: liar.reference(input),
        offset: if input.below(3) == 0 { input.u16() } else { 0 },
        flags: u16::from(input.byte() & input.byte()) % 32,
        id: input.byte().into(),
        size,
    };
    liar.push(0, TX_SLOT, &request);
}

struct Using {
    bus: Bus<HostTransport>,
    front: FrontDevice,
}

impl Honest for Using {
    fn poll(&mut self) -> bool {
        let moved = self.bus.poll() | self.front.poll() | front::check(&mut self.front);
        let woken = self.front.driver_mut().queues().iter_mut().any(|queue| queue.sleep());
        (drain(&mut self.front) > 0) | moved | woken
    }

    fn is_connected(&self) -> bool {
        self.front.is_connected()
    }
}

/// A front end, and a back end that lies.
pub fn front(data: &[u8]) {
    let mut input = Input(data);
    let (mut liar, bus, path) = Liar::new("vif", false);
    let Ok(end) = End::front(&bus, &path) else { return };
    let mut using = Using { front: Device::new(end, front::Net::new(1)), bus };
    offer(&mut liar, &mut using, input.byte());
    assert!(using.is_connected());
    while !input.is_empty() {
        match input.below(9) {
            0 => liar.scribble(&mut input),
            1 => liar.spoil(BACK_NODES, &mut input),
            2 => offer(&mut liar, &mut using, input.byte()),
            3 => {
                let mut response = NetifTxResponse::new_zeroed();
                (response.id, response.status) = (input.byte().into(), i16::from(input.byte() % 3) - 1);
                liar.answer(0, TX_SLOT, &response);
            }
            4 | 5 => {
                let mut response = NetifRxResponse::new_zeroed();
                (response.id, response.flags) = (input.byte().into(), u16::from(input.byte() & input.byte()));
                (response.offset, response.status) = (input.byte().into(), input.u16().cast_signed());
                liar.answer(1, RX_SLOT, &response);
            }
            6 => send(&mut using.front, u16::from(input.byte()) * 16),
            7 => liar.mapped.clear(),
            _ => drop(using.poll()),
        }
    }
    settle(&mut using);
    using.front.close();
    settle(&mut using);
    liar.mapped.clear();
    liar.set("state", 6);
    settle(&mut using);
    assert!(using.front.is_closed());
}

fn offer(liar: &mut Liar, using: &mut Using, features: u8) {
    liar.mapped.clear();
    liar.set("state", 6);
    settle(using);
    liar.set("feature-rx-copy", 1);
    for (bit, name) in ["feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6"].iter().enumerate() {
        liar.set(name, features >> bit & 1);
    }
    liar.set("multi-queue-max-queues", 1);
    using.front.reopen();
    liar.set("state", 2);
    settle(using);
    liar.map(&["tx-ring-ref", "rx-ring-ref"], "event-channel");
    liar.set("state", 4);
    settle(using);
}
