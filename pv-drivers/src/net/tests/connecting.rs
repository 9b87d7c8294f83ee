//! From xenstore to packets: what each end publishes, and that connections come and go.

use std::string::{String, ToString};
use std::sync::Arc;
use std::vec::Vec;
use std::{format, thread};

use spin::Mutex;

use super::super::back::{self, SharedBridge};
use super::super::bridge::Bridge;
use super::super::features::Accepts;
use super::super::front;
use super::super::{Broken, Checksum, Mac, Offload};
use super::{BACK, bytes, frame, send, station};
use crate::store::{Store, Transaction};
use crate::transport::host::{HostTransport, Machine};
use crate::transport::{Access, GrantRef, Transport};
use crate::xenbus::{Bus, Device, End, MOST_KEPT, State};

type FrontDevice = Device<HostTransport, front::Net<HostTransport>>;
type BackDevice = Device<HostTransport, back::Net<HostTransport>>;

/// A bridge with devices of several domains.
struct Host {
    machine: Machine,
    bus: Bus<HostTransport>,
    bridge: SharedBridge<HostTransport>,
    backs: Vec<BackDevice>,
    fronts: Vec<(Bus<HostTransport>, FrontDevice)>,
}

impl Host {
    fn new() -> Self {
        let machine = Machine::new();
        let transport = machine.domain(BACK);
        let bridge = Arc::new(Mutex::new(Bridge::new(transport.clone()).unwrap()));
        Self { machine, bus: Bus::new(transport), bridge, backs: Vec::new(), fronts: Vec::new() }
    }

    /// A domain with a device that wants so many queues.
    fn add(&mut self, domain: u16, queues: u32) {
        let bus = Bus::new(self.machine.domain(domain));
        self.machine.plug("vif", 0, domain, BACK);
        bus.store().write(Transaction::NONE, "device/vif/0/mac", b"00:16:3e:00:00:07").unwrap();
        let path = format!("backend/vif/{domain}/0");
        let back = End::back(&self.bus, &path).unwrap();
        let driver = back::Net::new(self.bridge.clone(), &back);
        self.backs.push(Device::new(back, driver));
        let front = End::front(&bus, "device/vif/0").unwrap();
        self.fronts.push((bus, Device::new(front, front::Net::new(queues))));
    }

    fn run(&mut self) {
        for _ in 0..100 {
            let mut moved = self.bus.poll();
            for back in &mut self.backs {
                moved |= back.poll() | back::check(back);
            }
            for (bus, front) in &mut self.fronts {
                moved |= bus.poll() | front.poll() | front::check(front);
            }
            moved |= self.bridge.lock().poll().moved;
            if !moved && !self.bridge.lock().sleep() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn queue(&mut self, domain: usize) -> &mut super::Front {
        &mut self.fronts[domain].1.driver_mut().queues()[0]
    }

    /// The frontend's view of a node.
    fn node(&self, domain: usize, name: &str) -> Option<String> {
        self.fronts[domain].0.text(&format!("device/vif/0/{name}"))
    }
}

const PLAIN: Offload = Offload { checksum: Checksum::Unchecked, gso: None };

#[test]
fn two_domains_connect_and_talk_and_a_domain_that_starts_anew_is_served_again() {
    let mut host = Host::new();
    host.add(1, 1);
    host.add(2, 3);
    host.run();
    assert!(host.fronts.iter().all(|(_, front)| front.is_connected()));
    assert_eq!(host.fronts[0].1.driver().mac(), Some(Mac([0, 0x16, 0x3e, 0, 0, 7])));
    assert_eq!(host.fronts[0].1.driver().mtu(), 1500);
    assert_eq!(host.fronts[1].1.driver_mut().queues().len(), 3);
    // The keys are where Linux looks for them.
    assert!(host.node(0, "tx-ring-ref").is_some() && host.node(0, "event-channel").is_some());
    assert!(host.node(1, "tx-ring-ref").is_none() && host.node(1, "queue-2/rx-ring-ref").is_some());
    assert_eq!(host.node(1, "multi-queue-num-queues").as_deref(), Some("3"));
    assert_eq!(host.node(1, "request-rx-copy").as_deref(), Some("1"));
    let hello = frame(station(1), Mac::BROADCAST, b"hello");
    send(host.queue(0), &hello, PLAIN);
    host.run();
    let got: Vec<_> = host.fronts[1].1.driver_mut().queues().iter_mut().flat_map(bytes).collect();
    assert_eq!(got, core::slice::from_ref(&hello));
    host.fronts[1].1.close();
    host.run();
    assert!(host.fronts[1].1.is_closed() && host.backs[1].end().state() == State::Closed);
    assert_eq!(host.bridge.lock().ids().count(), 1);
    host.fronts[1].1.reopen();
    host.run();
    assert_eq!((host.bridge.lock().ids().count(), host.fronts[1].1.is_connected()), (2, true));
    send(host.queue(1), &hello, PLAIN);
    host.run();
    assert_eq!(bytes(host.queue(0)), [hello]);
}

#[test]
fn only_what_works_is_offered() {
    let mut host = Host::new();
    host.add(1, 1);
    host.run();
    let offered = host.bus.store().directory(Transaction::NONE, "backend/vif/1/0").unwrap();
    let offered: Vec<_> =
        offered.iter().filter(|name| name.starts_with("feature")).map(String::as_str).collect();
    assert_eq!(
        offered,
        [
            "feature-gso-tcpv4",
            "feature-gso-tcpv6",
            "feature-ipv6-csum-offload",
            "feature-multicast-control",
            "feature-no-csum-offload",
            "feature-rx-copy",
            "feature-sg",
            "feature-split-event-channels",
        ]
    );
    assert_eq!(Accepts::of_peer(host.fronts[0].1.end()), Accepts::ALL);
    assert_eq!(Accepts::of_peer(host.backs[0].end()), Accepts::ALL);
}

#[test]
fn a_front_end_that_breaks_the_ring_is_cut_off_and_others_are_not() {
    let mut host = Host::new();
    host.add(1, 1);
    host.add(2, 1);
    host.run();
    let reference = host.queue(0).ring_refs().0;
    // The ring's page, seen from the other side: more requests than there are slots.
    let page = host.machine.domain(BACK).map(1, &[reference], crate::transport::Access::ReadWrite).unwrap();
    page[0].store(5000, core::sync::atomic::Ordering::Relaxed);
    drop(page);
    host.run();
    assert!(!host.backs[0].is_connected() && host.backs[1].is_connected());
    let reason = host.bus.text("error/backend/vif/1/0/error").unwrap();
    assert_eq!(reason, Broken::Ring(crate::ring::Error::Corrupt).to_string());
}

#[test]
fn a_front_end_with_nonsense_in_xenstore_is_refused() {
    for (name, value) in [
        ("multi-queue-num-queues", "9"),
        ("multi-queue-num-queues", "0"),
        ("tx-ring-ref", "4000000000"),
        ("rx-ring-ref", "what"),
        ("event-channel", "77777"),
        ("request-rx-copy", "0"),
    ] {
        let mut host = Host::new();
        let bus = Bus::new(host.machine.domain(1));
        host.machine.plug("vif", 0, 1, BACK);
        let end = End::back(&host.bus, "backend/vif/1/0").unwrap();
        let driver = back::Net::new(host.bridge.clone(), &end);
        host.backs.push(Device::new(end, driver));
        host.run();
        let queue = front::Queue::new(&host.machine.domain(1), BACK, Accepts::ALL).unwrap();
        let (tx, rx) = queue.ring_refs();
        let port = crate::transport::Port::number(queue.port());
        let good = [
            ("tx-ring-ref", tx.0.to_string()),
            ("rx-ring-ref", rx.0.to_string()),
            ("event-channel", port.to_string()),
            ("request-rx-copy", "1".into()),
        ];
        let put = |name: &str, value: &str| {
            bus.store().write(Transaction::NONE, &format!("device/vif/0/{name}"), value.as_bytes()).unwrap();
        };
        good.iter().for_each(|(name, value)| put(name, value));
        put(name, value);
        put("state", "4");
        host.run();
        assert!(!host.backs[0].is_connected(), "{name} = {value}");
        assert_eq!(host.bridge.lock().ids().count(), 0);
    }
}

/// A whole stack on either side: a connection over blank checksums, with threads that sleep.
#[cfg(feature = "smoltcp")]
#[test]
fn two_stacks_talk_tcp() {
    use core::time::Duration;
    use std::vec;

    use smoltcp::iface::{Config, Interface, SocketSet};
    use smoltcp::socket::tcp;
    use smoltcp::time::Instant;
    use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Address};

    const BYTES: usize = 200_000;
    let mut host = Host::new();
    host.add(1, 1);
    host.add(2, 1);
    host.run();
    let done = Arc::new(core::sync::atomic::AtomicBool::new(false));
    let mut threads = Vec::new();
    for (number, (_, mut device)) in (1u8..).zip(host.fronts.drain(..)) {
        let done = done.clone();
        threads.push(thread::spawn(move || {
            let transport = device.end().transport().clone();
            let queue = &mut device.driver_mut().queues()[0];
            let now = || Instant::from_micros(i64::try_from(transport.now().as_micros()).unwrap());
            let config = Config::new(EthernetAddress(station(number).0).into());
            let mut interface = Interface::new(config, queue, now());
            interface.update_ip_addrs(|all| {
                all.push(IpCidr::new(Ipv4Address::new(10, 0, 0, number).into(), 24)).unwrap()
            });
            let buffer = || tcp::SocketBuffer::new(vec![0; 16384]);
            let mut sockets = SocketSet::new(Vec::new());
            let handle = sockets.add(tcp::Socket::new(buffer(), buffer()));
            let socket = sockets.get_mut::<tcp::Socket>(handle);
            if number == 1 {
                socket.listen(80).unwrap();
            } else {
                socket.connect(interface.context(), (Ipv4Address::new(10, 0, 0, 1), 80), 4000).unwrap();
            }
            let (mut sent, mut got) = (0, Vec::new());
            while !done.load(core::sync::atomic::Ordering::Relaxed) {
                let _ = queue.take_event();
                interface.poll(now(), queue, &mut sockets);
                let socket = sockets.get_mut::<tcp::Socket>(handle);
                while number == 2 && socket.can_send() && sent < BYTES {
                    let piece: Vec<u8> =
                        (sent..BYTES.min(sent + 1000)).map(|byte| (byte % 251).to_le_bytes()[0]).collect();
                    sent += socket.send_slice(&piece).unwrap();
                }
                while number == 1 && socket.can_recv() {
                    got.extend(socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap());
                }
                if got.len() == BYTES {
                    done.store(true, core::sync::atomic::Ordering::Relaxed);
                }
                interface.poll(now(), queue, &mut sockets);
                if !queue.sleep() {
                    transport.wait(Some(Duration::from_millis(5)));
                }
            }
            assert_eq!(queue.broken(), None);
            got
        }));
    }
    while !done.load(core::sync::atomic::Ordering::Relaxed) {
        let mut bridge = host.bridge.lock();
        let _ = bridge.take_event();
        if !bridge.poll().moved && !bridge.sleep() {
            host.bus.transport().wait(Some(Duration::from_millis(5)));
        }
    }
    let got: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(got[0].iter().enumerate().all(|(at, byte)| *byte == (at % 251).to_le_bytes()[0]));
    let counted: Vec<_> = host.bridge.lock().ids().collect();
    let (sent, received) = host.bridge.lock().counters(counted[0]).unwrap();
    assert!(received.bytes > BYTES as u64 && sent.packets > 0 && sent.errors + received.errors == 0);
}

#[test]
fn a_device_has_the_address_that_its_own_directory_says() {
    let mut host = Host::new();
    for domain in [1, 2] {
        host.add(domain, 1);
        let mac = format!("02:00:00:00:00:{domain:02x}");
        let path = format!("backend/vif/{domain}/0/mac");
        host.bus.store().write(Transaction::NONE, &path, mac.as_bytes()).unwrap();
    }
    host.run();
    send(host.queue(1), &frame(station(1), Mac::BROADCAST, b"I am one"), PLAIN);
    host.run();
    assert!(bytes(host.queue(0)).is_empty());
    let port = host.backs[1].driver().port().unwrap();
    assert_eq!(host.bridge.lock().vif(port).unwrap().sent().errors, 1);
    // The front end's own node changes nothing.
    assert_eq!(host.fronts[1].1.driver().mac(), Some(Mac([0, 0x16, 0x3e, 0, 0, 7])));
}

#[test]
fn a_back_end_that_keeps_pages_and_begins_anew_is_left_in_the_end() {
    let machine = Machine::new();
    let back = machine.domain(BACK);
    let bus = Bus::new(machine.domain(1));
    let (_, path) = machine.plug("vif", 0, 1, BACK);
    let mut front: FrontDevice = Device::new(End::front(&bus, "device/vif/0").unwrap(), front::Net::new(1));
    let put = |name: &str, value: &[u8]| {
        back.store().write(Transaction::NONE, &format!("{path}/{name}"), value).unwrap();
    };
    put("feature-rx-copy", b"1");
    let mut kept = Vec::new();
    let run = |front: &mut FrontDevice, state: &[u8]| {
        put("state", state);
        for _ in 0..10 {
            let _ = bus.poll() | front.poll();
        }
    };
    let map = |reference: u32| back.map(1, &[GrantRef(reference)], Access::ReadWrite);
    let mut connections = 0;
    for _ in 0..20 {
        run(&mut front, b"2");
        let Some(ring) = bus.value("device/vif/0/rx-ring-ref").and_then(|ring| map(ring).ok()) else { break };
        for slot in 0..256 {
            kept.push(map(ring[17 + slot * 2].load(core::sync::atomic::Ordering::Relaxed)).unwrap());
        }
        run(&mut front, b"4");
        assert!(front.is_connected());
        connections += 1;
        run(&mut front, b"5");
        run(&mut front, b"6");
    }
    assert_eq!((connections, kept.len()), (4, MOST_KEPT));
    let reason = bus.text("error/device/vif/0/error");
    assert!(reason.is_some_and(|reason| reason.contains("keeps pages")) && front.is_closed());
    // It can be used again once the back end has let go.
    drop(kept);
    front.reopen();
    run(&mut front, b"2");
    run(&mut front, b"4");
    assert!(front.is_connected());
}

#[test]
fn a_configured_address_is_its_devices_while_that_is_not_connected() {
    let mut host = Host::new();
    for domain in 1..=3 {
        host.add(domain, 1);
        let mac = format!("02:00:00:00:00:{domain:02x}");
        let path = format!("backend/vif/{domain}/0/mac");
        host.bus.store().write(Transaction::NONE, &path, mac.as_bytes()).unwrap();
    }
    host.run();
    // The first domain starts anew.
    host.fronts[0].1.close();
    host.run();
    assert!(!host.backs[0].is_connected());
    send(host.queue(1), &frame(station(1), station(3), b"I am one"), PLAIN);
    host.run();
    assert!(bytes(host.queue(2)).is_empty());
    send(host.queue(2), &frame(station(3), station(1), b"for one alone"), PLAIN);
    host.run();
    assert!(bytes(host.queue(1)).is_empty());
    host.fronts[0].1.reopen();
    host.run();
    let late = frame(station(3), station(1), b"now it is there");
    send(host.queue(2), &late, PLAIN);
    host.run();
    assert_eq!((bytes(host.queue(0)), bytes(host.queue(1)).len()), (std::vec![late], 0));
    // Its end frees the address.
    drop(host.backs.remove(0));
    let moved = frame(station(1), station(3), b"I am the next one");
    send(host.queue(1), &moved, PLAIN);
    host.run();
    assert_eq!(bytes(host.queue(2)), [moved]);
}
