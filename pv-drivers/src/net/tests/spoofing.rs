//! Packets that name another station as their sender: they neither pass nor take over its traffic.

use core::time::Duration;
use std::vec::Vec;

use super::super::features::Accepts;
use super::super::{Checksum, Mac, Offload};
use super::{BACK, Net, Rings, TestWire, Vif, bytes, frame, send, station};
use crate::ring::Front as FrontRing;
use crate::transport::{Access, Granted, Port, Transport, words};
use xen_abi::io::netif::{NetifTxRequest, NetifTxRing};

const PLAIN: Offload = Offload { checksum: Checksum::Unchecked, gso: None };

#[test]
fn a_configured_address_is_not_taken_over() {
    let mut net = Net::new();
    let (mut one, _) = net.configured(1);
    let (mut victim, _) = net.configured(2);
    let (mut attacker, port) = net.configured(3);
    let wire = TestWire::add(&mut net);
    send(&mut attacker, &frame(station(2), Mac::BROADCAST, b"I am two"), PLAIN);
    net.run();
    assert!(bytes(&mut one).is_empty() && bytes(&mut victim).is_empty() && wire.taken().is_empty());
    let sent = *net.bridge.vif(port).unwrap().sent();
    assert_eq!((sent.packets, sent.errors), (0, 1), "dropped and counted");
    // It was never heard of, and is known all the same.
    let secret = frame(station(1), station(2), b"for two alone");
    send(&mut one, &secret, PLAIN);
    net.run();
    assert_eq!(bytes(&mut victim), [secret]);
    assert!(bytes(&mut attacker).is_empty() && wire.taken().is_empty());
    // A station behind the wire cannot either.
    wire.to_bridge.lock().unwrap().push_back(frame(station(2), station(1), b"I am two"));
    net.run();
    assert!(bytes(&mut one).is_empty());
    // What it sends in its own name still passes.
    let honest = frame(station(3), station(1), b"three");
    send(&mut attacker, &honest, PLAIN);
    net.run();
    assert_eq!(bytes(&mut one), [honest]);
}

#[test]
fn a_station_behind_a_wire_is_not_taken_over() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut attacker, port) = net.front(3, Accepts::ALL);
    let wire = TestWire::add(&mut net);
    let gateway = station(9);
    wire.to_bridge.lock().unwrap().push_back(frame(gateway, station(1), b"hello"));
    net.run();
    let _ = (bytes(&mut one), bytes(&mut attacker));
    send(&mut attacker, &frame(gateway, Mac::BROADCAST, b"I am the gateway"), PLAIN);
    net.run();
    assert!(bytes(&mut one).is_empty() && wire.taken().is_empty());
    assert_eq!(net.bridge.vif(port).unwrap().sent().errors, 1);
    let secret = frame(station(1), gateway, b"to the world");
    send(&mut one, &secret, PLAIN);
    net.run();
    assert_eq!(wire.taken(), [secret]);
    assert!(bytes(&mut attacker).is_empty());
}

#[test]
fn an_address_that_a_domain_used_first_goes_to_the_wire_that_has_it() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut attacker, _) = net.front(3, Accepts::ALL);
    let wire = TestWire::add(&mut net);
    let gateway = station(9);
    send(&mut attacker, &frame(gateway, Mac::BROADCAST, b"I am the gateway"), PLAIN);
    net.run();
    wire.to_bridge.lock().unwrap().push_back(frame(gateway, station(1), b"no, I am"));
    net.run();
    let _ = (bytes(&mut one), bytes(&mut attacker), wire.taken());
    send(&mut one, &frame(station(1), gateway, b"to the world"), PLAIN);
    net.run();
    assert_eq!((wire.taken().len(), bytes(&mut attacker).len()), (1, 0));
}

#[test]
fn what_a_station_behind_a_wire_is_sent_does_not_reach_domains_when_it_was_silent_for_long() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut attacker, _) = net.front(3, Accepts::ALL);
    let wire = TestWire::add(&mut net);
    let gateway = station(9);
    wire.to_bridge.lock().unwrap().push_back(frame(gateway, station(1), b"hello"));
    net.run();
    let _ = (bytes(&mut one), bytes(&mut attacker));
    net.machine.advance(Duration::from_secs(301));
    send(&mut attacker, &frame(gateway, Mac::BROADCAST, b"I am the gateway"), PLAIN);
    net.run();
    let secret = frame(station(1), gateway, b"to the world");
    send(&mut one, &secret, PLAIN);
    net.run();
    assert_eq!(wire.taken(), [secret]);
    assert!(bytes(&mut attacker).is_empty());
}

/// What a packet says of its sender when it is delivered is what was judged, however long it waited since, and whatever its sender made of it.
#[test]
fn a_header_that_changes_behind_the_look_does_not_pass() {
    let mut net = Net::new();
    let (mut one, _) = net.configured(1);
    let (mut two, _) = net.configured(2);
    let transport = net.machine.domain(3);
    let page = |access| transport.lend(transport.buffer(1).unwrap(), BACK, access).unwrap();
    let (tx, rx, data) = (page(Access::ReadWrite), page(Access::ReadWrite), page(Access::ReadOnly));
    let listening = transport.listen(BACK).unwrap();
    let rings = Rings {
        tx: net.back.map(3, tx.refs(), Access::ReadWrite).unwrap(),
        rx: net.back.map(3, rx.refs(), Access::ReadWrite).unwrap(),
        tx_port: net.back.connect(3, listening.number()).unwrap(),
        rx_port: None,
    };
    let mut vif = Vif::new(3, [rings], Accepts::ALL).unwrap();
    vif.set_address(net.bridge.claim(station(3)).as_ref());
    net.bridge.add_vif(vif);
    // The receiver has no page left.
    for _ in 0..1000 {
        if one.tx.ready(1).unwrap() {
            send(&mut one, &frame(station(1), station(2), b"filler"), PLAIN);
        }
        net.bridge.poll();
    }
    let mark = [0xa5; 100];
    let honest = frame(station(3), station(2), &mark);
    words::store(&data, 0, &honest);
    let mut ring = FrontRing::<NetifTxRing, _>::new(tx).unwrap();
    let size = honest.len().try_into().unwrap();
    ring.push(&NetifTxRequest { gref: data.refs()[0].0, offset: 0, flags: 0, id: 0, size }).unwrap();
    let _ = ring.publish();
    net.bridge.poll();
    assert!(ring.pop().unwrap().is_none(), "it waits");
    words::store(&data, 0, &frame(station(1), station(2), &mark));
    let mut got = Vec::new();
    for _ in 0..20 {
        got.extend(bytes(&mut two));
        let _ = two.sleep();
        net.bridge.poll();
    }
    let marked: Vec<_> = got.into_iter().filter(|frame| frame.ends_with(&mark)).collect();
    assert_eq!(marked, [honest]);
}
