//! Packets arrive whole, once, in order, where they belong, and in a form that the receiver takes.

use std::vec::Vec;

use proptest::prelude::*;

use super::super::checksum::Transport as Segment;
use super::super::features::Accepts;
use super::super::front::NotSent;
use super::super::{Checksum, Gso, GsoKind, Mac, Offload};
use super::{Net, TestWire, bytes, frame, frames, parts, received, send, station};

const PLAIN: Offload = Offload { checksum: Checksum::Unchecked, gso: None };
const BLANK: Offload = Offload { checksum: Checksum::Blank, gso: None };
const GOOD: Offload = Offload { checksum: Checksum::Good, gso: None };
const LARGE: Offload =
    Offload { checksum: Checksum::Blank, gso: Some(Gso { size: 1448, kind: GsoKind::Tcp4 }) };

/// A frame of `frames` with its addresses changed.
fn between(mut frame: Vec<u8>, from: Mac, to: Mac) -> Vec<u8> {
    frame[..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&from.0);
    frame
}

#[test]
fn what_is_not_known_goes_everywhere_and_what_is_known_to_one() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut two, _) = net.front(2, Accepts::ALL);
    let (mut three, _) = net.front(3, Accepts::ALL);
    let question = frame(station(1), station(2), b"who are you?");
    send(&mut one, &question, PLAIN);
    net.run();
    assert_eq!((bytes(&mut two), bytes(&mut three)), ([question.clone()].into(), [question].into()));
    assert!(bytes(&mut one).is_empty(), "not back to the sender");
    let answer = frame(station(2), station(1), &[7; 1486]);
    send(&mut two, &answer, PLAIN);
    net.run();
    assert_eq!(bytes(&mut one), [answer]);
    assert!(bytes(&mut three).is_empty());
    let all = frame(station(1), Mac::BROADCAST, b"hello");
    send(&mut one, &all, PLAIN);
    net.run();
    assert_eq!((bytes(&mut two), bytes(&mut three)), ([all.clone()].into(), [all].into()));
    let link_local = frame(station(1), Mac([1, 0x80, 0xc2, 0, 0, 0]), b"spanning tree");
    send(&mut one, &link_local, PLAIN);
    net.run();
    assert!(bytes(&mut two).is_empty());
}

#[test]
fn a_port_that_was_removed_is_not_sent_to_and_its_place_is_used_again() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut two, port) = net.front(2, Accepts::ALL);
    send(&mut two, &frame(station(2), Mac::BROADCAST, b"here"), PLAIN);
    net.run();
    assert_eq!(bytes(&mut one).len(), 1);
    net.bridge.remove(port);
    send(&mut one, &frame(station(1), station(2), b"gone?"), PLAIN);
    net.run();
    let (mut three, other) = net.front(3, Accepts::ALL);
    assert_eq!(port, other);
    let late = frame(station(1), station(2), b"moved");
    send(&mut one, &late, PLAIN);
    net.run();
    assert_eq!(bytes(&mut three), [late], "forgotten, so sent everywhere");
    assert!(one.tx.ready(200).unwrap(), "all were answered");
}

#[test]
fn offloads_pass_between_those_that_agreed() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut two, _) = net.front(2, Accepts::ALL);
    let large = frames::tcp(4, 1, &[3; 60_000]);
    for (packet, offload) in
        [(&large, LARGE), (&frames::tcp(6, 1, b"x"), BLANK), (&frames::udp(4, b"y"), GOOD)]
    {
        send(&mut one, packet, offload);
        net.run();
        assert_eq!(received(&mut two), [(packet.clone(), offload)]);
    }
    let (sent, _) = net.bridge.counters(net.bridge.ids().next().unwrap()).unwrap();
    assert_eq!((sent.packets, sent.errors, sent.dropped), (3, 0, 0));
}

/// What `front` got, put together: every piece must be right on its own.
fn stream(pieces: &[Vec<u8>]) -> Vec<u8> {
    let payload = |piece: &Vec<u8>| {
        let segment = Segment::find(piece).expect("TCP");
        assert!(segment.is_right(piece) && piece.len() <= 1514);
        piece[segment.start + 20..segment.end].to_vec()
    };
    pieces.iter().map(payload).collect::<Vec<_>>().concat()
}

#[test]
fn a_wire_gets_complete_frames_and_gives_them() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let wire = TestWire::add(&mut net);
    let mut blank = frames::udp(4, b"question");
    let right = blank.clone();
    Segment::find(&blank).unwrap().blank(&mut blank);
    assert_ne!(blank, right);
    send(&mut one, &blank, BLANK);
    net.run();
    assert_eq!(wire.taken(), [right]);
    let data: Vec<u8> = (0..50_000u32).map(|byte| byte.to_le_bytes()[0]).collect();
    let mut large = frames::tcp(4, 77, &data);
    Segment::find(&large).unwrap().blank(&mut large);
    send(&mut one, &large, LARGE);
    net.run();
    let pieces = wire.taken();
    assert_eq!((pieces.len(), stream(&pieces)), (35, data));
    let answer = between(frames::udp(4, b"answer"), station(9), station(1));
    wire.to_bridge.lock().unwrap().extend([answer.clone(), b"short".to_vec()]);
    net.run();
    assert_eq!(received(&mut one), [(answer, PLAIN)]);
}

#[test]
fn who_did_not_agree_gets_complete_frames() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut two, _) = net.front(2, Accepts::PLAIN);
    let data: Vec<u8> = (0..40_000u32).map(|byte| byte.to_be_bytes()[3]).collect();
    let mut large = frames::tcp(4, u32::MAX - 5000, &data);
    Segment::find(&large).unwrap().blank(&mut large);
    send(&mut one, &large, LARGE);
    let mut small = frames::udp(6, b"small");
    let right = small.clone();
    Segment::find(&small).unwrap().blank(&mut small);
    send(&mut one, &small, BLANK);
    net.run();
    let mut got = received(&mut two);
    assert!(got.iter().all(|(_, offload)| *offload == GOOD));
    assert_eq!(got.pop().unwrap().0, right);
    let pieces: Vec<_> = got.into_iter().map(|(bytes, _)| bytes).collect();
    assert_eq!(stream(&pieces), data);
    // What is only too large cannot be made to fit.
    let jumbo = between(frame(station(1), station(2), &[1; 5000]), station(1), station(2));
    send(&mut one, &jumbo, PLAIN);
    net.run();
    assert!(bytes(&mut two).is_empty());
}

#[test]
fn packets_wait_for_room_and_stay_in_order() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut two, _) = net.front(2, Accepts::ALL);
    send(&mut two, &frame(station(2), Mac::BROADCAST, b"here"), PLAIN);
    net.run();
    let numbered =
        |number: u32| frame(station(1), station(2), &[&number.to_le_bytes()[..], &[0; 60]].concat());
    let (mut sent, mut got) = (0u32, Vec::new());
    while got.len() < 2000 {
        while sent < 2000 && one.tx.ready(1).unwrap() {
            send(&mut one, &numbered(sent), PLAIN);
            sent += 1;
        }
        // Far more than there are pages on the other side.
        for _ in 0..20 {
            net.bridge.poll();
        }
        got.extend(bytes(&mut two));
        assert!(!two.sleep() || !got.is_empty());
    }
    assert_eq!(got, (0..2000).map(numbered).collect::<Vec<_>>());
}

#[test]
fn a_receiver_without_room_is_waited_for_only_so_long() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut two, slow) = net.front(2, Accepts::ALL);
    let (mut three, _) = net.front(3, Accepts::ALL);
    for (front, number) in [(&mut two, 2), (&mut three, 3)] {
        send(front, &frame(station(number), Mac::BROADCAST, b"here"), PLAIN);
    }
    net.run();
    let mut until = None;
    for _ in 0..300 {
        let _ = one.tx.ready(1);
        send(&mut one, &frame(station(1), station(2), &[1; 100]), PLAIN);
        until = until.or(net.bridge.poll().until);
        if until.is_some() {
            break;
        }
    }
    assert!(until.is_some(), "256 pages are filled at most");
    send(&mut one, &frame(station(1), station(3), b"behind"), PLAIN);
    net.bridge.poll();
    assert_eq!(bytes(&mut three).len(), 2, "the broadcast, and what is not held up");
    std::thread::sleep(std::time::Duration::from_millis(25));
    net.run();
    assert_eq!(bytes(&mut three).len(), 0);
    assert!(net.bridge.counters(slow).unwrap().1.dropped > 0);
    assert_eq!(bytes(&mut two).len(), 256);
}

#[test]
fn groups_are_filtered_where_that_was_asked_for() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut two, port) = net.front(2, Accepts::ALL);
    net.bridge.vif_mut(port).unwrap().set_filter(true);
    let group = Mac([1, 0, 0x5e, 0, 0, 251]);
    let packet = frame(station(1), group, b"to the group");
    let mut try_once = |two: &mut super::Front| {
        send(&mut one, &packet, PLAIN);
        net.run();
        bytes(two).len()
    };
    assert_eq!(try_once(&mut two), 0);
    two.tx.set_group(group, true).unwrap();
    two.tx.flush();
    assert_eq!(try_once(&mut two), 1);
    two.tx.set_group(group, false).unwrap();
    two.tx.flush();
    assert_eq!(try_once(&mut two), 0);
    for _ in 0..600 {
        two.tx.ready(1).unwrap();
        if two.tx.set_group(group, true) == Err(NotSent::NoRoom) {
            two.tx.flush();
            net.run();
        }
    }
}

#[test]
fn a_connection_stays_on_one_of_several_queues() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut many, _) = net.fronts(2, Accepts::ALL, 4);
    send(&mut many[3], &between(frames::udp(4, b"here"), station(2), station(7)), PLAIN);
    net.run();
    assert_eq!(received(&mut one).len(), 1);
    let mut used = [0; 4];
    for port in 0..64u8 {
        let mut packet = between(frames::udp(4, b"data"), station(1), station(2));
        packet[35] = port;
        let mut queues = std::collections::BTreeSet::new();
        for _ in 0..3 {
            send(&mut one, &packet, PLAIN);
            net.run();
            let got: Vec<_> = many.iter_mut().map(|front| bytes(front).len()).collect();
            assert_eq!(got.iter().sum::<usize>(), 1);
            queues.insert(got.iter().position(|count| *count == 1).unwrap());
        }
        assert_eq!(queues.len(), 1);
        used[*queues.first().unwrap()] += 1;
    }
    assert!(used.iter().all(|count| *count > 0), "{used:?}");
}

#[test]
fn malformed_packets_are_given_back() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let mut none = Vec::new();
    assert_eq!(one.tx.send(&mut none, &PLAIN), Err(NotSent::Malformed));
    let mut short = parts(&mut one, &[0; 13], &[]);
    assert_eq!(one.tx.send(&mut short, &PLAIN), Err(NotSent::Malformed));
    let mut outside = parts(&mut one, &[0; 60], &[]);
    outside[0].offset = 4090;
    assert_eq!(one.tx.send(&mut outside, &PLAIN), Err(NotSent::Malformed));
    assert_eq!((short.len(), outside.len()), (1, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Packets of all sizes and layouts, in both directions at once.
    #[test]
    fn every_byte_arrives(
        packets in prop::collection::vec((any::<bool>(), 1..60_000usize, prop::collection::vec(1..4000usize, 0..3)), 1..30),
    ) {
        let mut net = Net::new();
        let (mut one, _) = net.front(1, Accepts::ALL);
        let (mut two, _) = net.front(2, Accepts::ALL);
        let mut expected = [Vec::new(), Vec::new()];
        let mut got = [Vec::new(), Vec::new()];
        for (index, (back, length, sizes)) in packets.into_iter().enumerate() {
            let data: Vec<u8> = (0..length).map(|byte| (byte * 7 + index).to_le_bytes()[0]).collect();
            let (front, from, to) = if back { (&mut two, 2, 1) } else { (&mut one, 1, 2) };
            let packet = frame(station(from), station(to), &data);
            let mut pages = parts(front, &packet, &sizes);
            while !front.tx.ready(pages.len()).unwrap() {
                net.bridge.poll();
            }
            front.tx.send(&mut pages, &PLAIN).unwrap();
            front.tx.flush();
            expected[usize::from(!back)].push(packet);
            if index % 3 == 0 {
                net.run();
                got[0].extend(bytes(&mut one));
                got[1].extend(bytes(&mut two));
            }
        }
        net.run();
        got[0].extend(bytes(&mut one));
        got[1].extend(bytes(&mut two));
        prop_assert!(got == expected);
    }
}
