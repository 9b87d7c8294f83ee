//! Ends that never stop asking: each call ends all the same, and what one of them is given is bounded.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::Arc;
use std::thread;
use std::vec::Vec;

use super::super::back::{Tx, Vif};
use super::super::chain::Order;
use super::super::features::Accepts;
use super::super::front::Queue;
use super::super::{Checksum, Gso, GsoKind, Mac, Offload, WIRE_FRAME};
use super::{BACK, Net, TestWire, bytes, frame, frames, send, station};
use crate::ring::Back;
use crate::transport::host::{HostTransport, Machine};
use crate::transport::{Access, Granted, Transport};
use xen_abi::io::netif::{NETTXF_EXTRA_INFO, XEN_NETIF_EXTRA_TYPE_MCAST_ADD};

const PLAIN: Offload = Offload { checksum: Checksum::Unchecked, gso: None };
/// Slots of a ring in one page.
const SLOTS: u32 = 256;

/// Adds a chain of two slots to a transmit ring: the order to join group number `group`.
fn join(page: &[AtomicU32], produced: &mut u32, group: u16) {
    let slot = |number: u32| 16 + (number % SLOTS) as usize * 3;
    let (first, extra) = (slot(*produced), slot(*produced + 1));
    page[first].store(0, Relaxed);
    page[first + 1].store(u32::from(NETTXF_EXTRA_INFO) << 16, Relaxed);
    page[first + 2].store(7, Relaxed);
    page[extra].store(u32::from(XEN_NETIF_EXTRA_TYPE_MCAST_ADD) | 1 << 16, Relaxed);
    page[extra + 1].store(group.into(), Relaxed);
    *produced = produced.wrapping_add(2);
    page[0].store(*produced, Release);
}

#[test]
fn chains_that_are_no_packets_end_with_a_rings_worth() {
    let machine = Machine::new();
    let (front, back) = (machine.domain(1), machine.domain(BACK));
    let page =
        front.lend(front.buffer(1).unwrap(), BACK, Access::ReadWrite).map_err(|(error, _)| error).unwrap();
    let mapped = back.map(1, page.refs(), Access::ReadWrite).unwrap();
    let mut tx = Tx::<HostTransport>::new(Back::attach(mapped).unwrap()).unwrap();
    let (mut produced, mut orders, mut headers) = (0, 0, 512);
    join(&page, &mut produced, 0);
    // As another vCPU of the front end would: there is always one more.
    let taken = tx.take(32, &mut headers, core::time::Duration::ZERO, |order| {
        assert!(matches!(order, Order::Join(_)));
        orders += 1;
        assert!(orders <= SLOTS / 2, "it goes on for as long as the front end does");
        join(&page, &mut produced, 0);
        true
    });
    assert_eq!((taken, orders, headers), (Ok(true), SLOTS / 2, 512));
}

#[test]
fn groups_are_joined_at_once_and_a_refused_one_is_told_so() {
    let mut net = Net::new();
    let (mut one, port) = net.front(1, Accepts::ALL);
    for number in 0..100 {
        one.tx.set_group(Mac([1, 0, 0x5e, 0, 0, number]), true).unwrap();
    }
    one.tx.flush();
    net.run();
    one.tx.collect().unwrap();
    assert_eq!(one.tx.counters().errors, 36, "a front end may join 64 groups");
    assert!(net.bridge.vif(port).is_some_and(|vif: &Vif<_>| vif.broken().is_none()));
}

#[test]
fn packets_to_all_ports_are_copied_in_shares() {
    let mut net = Net::new();
    let (mut flood, port) = net.fronts(1, Accepts::ALL, 8);
    let (mut honest, _) = net.front(2, Accepts::ALL);
    let mut others: Vec<_> = (10..30).map(|domain| net.front(domain, Accepts::ALL)).collect();
    // The bytes that are judged are copied as one piece.
    let whole = frame(station(1), Mac::BROADCAST, &[7; 90]);
    let mut sizes = [1; 17];
    sizes[0] = 64;
    for queue in &mut flood {
        for _ in 0..13 {
            let mut parts = super::parts(queue, &whole, &sizes);
            assert!(queue.tx.ready(parts.len()).unwrap());
            queue.tx.send(&mut parts, &PLAIN).unwrap();
        }
        queue.tx.flush();
    }
    let own = frame(station(2), Mac::BROADCAST, b"honest");
    send(&mut honest, &own, PLAIN);
    net.bridge.poll();
    // 18 fragments for 21 ports: three packets are more than a share.
    let sent = |net: &Net| net.bridge.vif(port).unwrap().sent().packets;
    assert_eq!(sent(&net), 3);
    for (front, _) in &mut others {
        let came = bytes(front);
        assert_eq!((came.len(), came.iter().filter(|frame| **frame == own).count()), (4, 1));
    }
    net.run();
    assert_eq!(sent(&net), 104, "the others come in the rounds that follow");
}

#[test]
fn packets_to_all_ports_from_all_ports_take_no_more_memory_than_was_reserved() {
    let mut net = Net::new();
    let mut fronts: Vec<_> = (1..22).map(|domain| net.front(domain, Accepts::ALL).0).collect();
    let reserved = net.bridge.pieces();
    let mut sizes = [1; 17];
    sizes[0] = 64;
    for (front, number) in fronts.iter_mut().zip(1..) {
        for _ in 0..4 {
            let mut parts = super::parts(front, &frame(station(number), Mac::BROADCAST, &[7; 90]), &sizes);
            front.tx.send(&mut parts, &PLAIN).unwrap();
        }
        front.tx.flush();
    }
    // 21 shares are more than all ports have in a round.
    for _ in 0..10 {
        net.bridge.poll();
    }
    assert_eq!(net.bridge.pieces(), reserved);
    for front in &mut fronts {
        assert_eq!(bytes(front).len(), 20 * 4, "they come with the rounds that follow");
    }
}

#[test]
fn completed_frames_wait_by_bytes_and_each_receiver_has_its_own() {
    let mut net = Net::new();
    let (mut sender, _) = net.front(1, Accepts::ALL);
    let (mut other, _) = net.front(4, Accepts::ALL);
    // They take fragments, but no blank checksums: what goes to them is completed in the driver domain's memory.
    let plain = Accepts { fragments: true, ..Accepts::PLAIN };
    let (mut silent, silents) = net.front(2, plain);
    let (mut reader, _) = net.front(3, plain);
    for (front, number) in [(&mut silent, 2), (&mut reader, 3)] {
        send(front, &frame(station(number), station(9), b"here"), PLAIN);
    }
    net.run();
    let _ = (bytes(&mut sender), bytes(&mut other), bytes(&mut silent), bytes(&mut reader));
    let blank = Offload { checksum: Checksum::Blank, gso: None };
    let mut large = frame(station(1), station(2), &[]);
    large.resize(65_535, 3);
    let mut most = 0;
    // The receiver reads nothing: first its pages are filled, then what is completed waits.
    for _ in 0..100 {
        sender.tx.collect().unwrap();
        while sender.tx.ready(16).unwrap() {
            send(&mut sender, &large, blank);
        }
        net.bridge.poll();
        most = most.max(net.bridge.vif(silents).unwrap().waiting_bytes());
    }
    assert!((1..=256 << 10).contains(&most), "{most} bytes wait for a receiver that reads nothing");
    // Another receiver, and another sender, do not wait behind it.
    let small = frame(station(4), station(3), b"for the reader");
    send(&mut other, &small, blank);
    net.bridge.poll();
    net.bridge.poll();
    assert_eq!(bytes(&mut reader), [small]);
}

#[test]
fn a_frame_that_is_too_long_for_a_wire_is_dropped_before_it() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let wire = TestWire::add(&mut net);
    for (length, passes) in [(1518, true), (1519, false), (9000, false)] {
        let mut long = frame(station(1), station(9), &[]);
        long.resize(length, 1);
        send(&mut one, &long, PLAIN);
        net.run();
        assert_eq!(wire.taken().len(), usize::from(passes), "{length}");
    }
    // A large packet that says that its pieces are longer.
    let gso = Some(Gso { size: 8000, kind: GsoKind::Tcp4 });
    send(&mut one, &frames::tcp(4, 1, &[7; 40_000]), Offload { checksum: Checksum::Blank, gso });
    net.run();
    assert!(wire.taken().iter().all(|frame| frame.len() <= WIRE_FRAME));
}

#[test]
fn packets_of_tiny_pieces_keep_no_wire_busy() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut two, _) = net.front(2, Accepts::ALL);
    let wire = TestWire::add(&mut net);
    let large = |size, data: &[u8]| {
        let gso = Some(Gso { size, kind: GsoKind::Tcp4 });
        (frames::tcp(4, 1, data), Offload { checksum: Checksum::Blank, gso })
    };
    for (size, length, packets, frames) in
        [(1448, 65_000, 1, 45), (536, 65_000, 1, 122), (8, 65_000, 1, 512), (8, 1000, 30, 512)]
    {
        for _ in 0..packets {
            let (packet, offload) = large(size, &[7; 65_000][..length]);
            send(&mut one, &packet, offload);
        }
        let (packet, offload) = large(1448, &[8; 30_000]);
        send(&mut two, &packet, offload);
        net.bridge.poll();
        assert_eq!(wire.taken().len(), frames + 21, "{packets} packets of {length} bytes, {size} each");
        net.run();
        one.tx.collect().unwrap();
        two.tx.collect().unwrap();
    }
}

#[test]
fn a_receiver_that_reads_little_does_not_hold_its_senders_up() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut slow, _) = net.front(2, Accepts::ALL);
    let (mut other, _) = net.front(3, Accepts::ALL);
    for (front, number) in [(&mut slow, 2), (&mut other, 3)] {
        send(front, &frame(station(number), station(9), b"here"), PLAIN);
    }
    net.run();
    let _ = (bytes(&mut one), bytes(&mut slow), bytes(&mut other));
    let (mut got, mut sent) = (0, 0);
    for _ in 0..60 {
        one.tx.collect().unwrap();
        while sent < 800 && one.tx.ready(1).unwrap() {
            let to = if sent % 2 == 0 { 2 } else { 3 };
            send(&mut one, &frame(station(1), station(to), &[1; 60]), PLAIN);
            sent += 1;
        }
        for _ in 0..10 {
            net.bridge.poll();
        }
        got += bytes(&mut other).len();
        // One page at a time, often enough for no packet to wait for long.
        if let Some(packet) = slow.rx.receive().unwrap() {
            slow.rx.recycle(packet);
        }
        let _ = slow.sleep();
        thread::sleep(core::time::Duration::from_millis(2));
    }
    assert_eq!(got, 400, "of {sent} packets");
}

#[test]
fn receiving_ends_while_the_back_end_goes_on() {
    let net = Net::new();
    let mut front = Queue::new(&net.machine.domain(1), BACK, Accepts::ALL).unwrap();
    let page = net.back.map(1, &[front.ring_refs().1], Access::ReadWrite).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    // Answers each page that is offered with an error at once.
    let back = thread::spawn(move || {
        let slot = |number: u32| 16 + (number % SLOTS) as usize * 2;
        let mut answered = 0u32;
        while !stopped.load(Relaxed) {
            while page[0].load(Acquire) != answered {
                page[slot(answered)].store(answered % SLOTS, Relaxed);
                page[slot(answered) + 1].store(0xffff_0000, Relaxed);
                answered = answered.wrapping_add(1);
                page[2].store(answered, Release);
            }
        }
    });
    let mut total = 0;
    while total < 200_000 {
        let before = front.rx.counters().errors;
        assert!(matches!(front.rx.receive(), Ok(None)));
        let errors = front.rx.counters().errors - before;
        assert!(errors <= SLOTS.into(), "{errors} answers in one call");
        total += errors;
    }
    stop.store(true, Relaxed);
    back.join().unwrap();
}
