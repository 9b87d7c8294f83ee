//! Packets that name another station as their sender: they neither pass nor take over its traffic.

use core::time::Duration;

use super::super::features::Accepts;
use super::super::{Checksum, Mac, Offload};
use super::{Net, TestWire, bytes, frame, send, station};

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
