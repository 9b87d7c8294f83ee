//! Receivers that take only plain packets: what is completed for them comes beside what needs no completing, and from each sender.

use std::vec::Vec;

use super::super::features::Accepts;
use super::super::{Checksum, Gso, GsoKind, Mac, Offload};
use super::{Front, Net, bytes, frame, frames, send, station};

const PLAIN: Offload = Offload { checksum: Checksum::Unchecked, gso: None };

const fn large(size: u16) -> Offload {
    Offload { checksum: Checksum::Blank, gso: Some(Gso { size, kind: GsoKind::Tcp4 }) }
}

/// A TCP packet with so many bytes of data.
fn tcp(from: u8, to: u8, data: usize) -> Vec<u8> {
    let mut packet = frames::tcp(4, 1, &std::vec![from; data]);
    packet[..6].copy_from_slice(&station(to).0);
    packet[6..12].copy_from_slice(&station(from).0);
    packet
}

/// Sends as many packets as the ring has room for, which need up to so many slots each.
fn fill(front: &mut Front, packet: &[u8], slots: usize, offload: Offload) {
    front.tx.collect().unwrap();
    while front.tx.ready(slots).unwrap() {
        send(front, packet, offload);
    }
}

/// A domain whose station the bridge knows.
fn known(net: &mut Net, number: u8, accepts: Accepts) -> Front {
    let (mut front, _) = net.front(number.into(), accepts);
    send(&mut front, &frame(station(number), Mac::BROADCAST, b"here"), PLAIN);
    net.run();
    front
}

/// Up to so many packets, by the number of their sender.
fn take(front: &mut Front, most: usize, came: &mut [usize; 8]) {
    for _ in 0..most {
        let Some(packet) = front.rx.receive().unwrap() else { break };
        came[usize::from(packet.parts().next().unwrap()[11])] += 1;
        front.rx.recycle(packet);
    }
    let _ = front.sleep();
}

/// A neighbour whose packets become hundreds of frames for a receiver that offers so many pages in a round, beside one whose packets
/// are `packet`. What came of the two.
fn beside_tiny_pieces(pages: usize, packet: &[u8], slots: usize, offload: Offload) -> (usize, usize) {
    let mut net = Net::new();
    let mut victim = known(&mut net, 1, Accepts::PLAIN);
    let mut attacker = known(&mut net, 2, Accepts::ALL);
    let mut other = known(&mut net, 3, Accepts::ALL);
    let _ = bytes(&mut victim);
    let tiny = tcp(2, 1, 8192);
    let mut came = [0; 8];
    for round in 0..900 {
        fill(&mut attacker, &tiny, 4, large(8));
        fill(&mut other, packet, slots, offload);
        net.bridge.poll();
        if round == 300 {
            // By then the pages that were offered at first are filled.
            came = [0; 8];
        }
        take(&mut victim, pages, &mut came);
    }
    (came[2], came[3])
}

#[test]
fn packets_of_tiny_pieces_leave_the_receivers_pages_to_other_packets() {
    for pages in [1, 5, 32] {
        let (tiny, plain) = beside_tiny_pieces(pages, &frame(station(3), station(1), &[3; 60]), 1, PLAIN);
        assert!(tiny + plain >= pages * 500 && plain * 2 >= tiny, "{pages}: {tiny} and {plain} frames");
        assert!(
            tiny * 2 >= plain,
            "{pages}: {tiny} and {plain} frames, completed ones have their part as well"
        );
    }
}

#[test]
fn senders_of_packets_to_be_completed_take_turns() {
    for pages in [1, 5, 32] {
        let (tiny, whole) = beside_tiny_pieces(pages, &tcp(3, 1, 8000), 3, large(1448));
        assert!(tiny + whole >= pages * 500 && whole * 2 >= tiny, "{pages}: {tiny} and {whole} frames");
    }
}

/// A receiver takes all of the memory that completed frames have in a round, again and again.
#[test]
fn each_receiver_of_completed_frames_is_served_in_turn() {
    let mut net = Net::new();
    let mut attacker = known(&mut net, 1, Accepts::ALL);
    let mut greedy = known(&mut net, 2, Accepts::PLAIN);
    let mut victim = known(&mut net, 3, Accepts::PLAIN);
    let mut other = known(&mut net, 4, Accepts::ALL);
    let _ = (bytes(&mut greedy), bytes(&mut victim));
    let (to_greedy, to_victim) = (tcp(1, 2, 60_000), tcp(4, 3, 8000));
    let mut came = [0; 8];
    for _ in 0..200 {
        fill(&mut attacker, &to_greedy, 16, large(1448));
        fill(&mut other, &to_victim, 3, large(1448));
        net.bridge.poll();
        take(&mut greedy, 256, &mut came);
        take(&mut victim, 256, &mut came);
    }
    assert!(came[1] > 2000 && came[4] * 4 >= came[1], "{} and {} frames", came[1], came[4]);
}

/// A large frame takes more than its share of the pages: it goes all the same, and others are not forgotten.
#[test]
fn completed_frames_come_where_few_pages_are_offered() {
    let mut net = Net::new();
    let (mut receiver, port) = net.front(1, Accepts { fragments: true, ..Accepts::PLAIN });
    send(&mut receiver, &frame(station(1), Mac::BROADCAST, b"here"), PLAIN);
    let mut sender = known(&mut net, 2, Accepts::ALL);
    let _ = bytes(&mut receiver);
    let blank = Offload { checksum: Checksum::Blank, gso: None };
    let mut long = frame(station(2), station(1), &[]);
    long.resize(40_000, 2);
    let (mut sent, mut came) = (0, [0; 8]);
    for _ in 0..400 {
        sender.tx.collect().unwrap();
        while sent < 60 && sender.tx.ready(11).unwrap() {
            send(&mut sender, &long, blank);
            sent += 1;
        }
        let progress = net.bridge.poll();
        take(&mut receiver, 1, &mut came);
        let received = net.bridge.vif(port).unwrap().received();
        // With the packet that made the sender known.
        let all = received.packets + received.dropped == 61;
        assert!(all || progress.moved || progress.until.is_some(), "it is not forgotten");
    }
    assert!(came[2] >= 30, "{}", came[2]);
}
