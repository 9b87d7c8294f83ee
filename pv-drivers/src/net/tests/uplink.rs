//! A wire that is always short of room: each sender has its part of it.

use core::sync::atomic::Ordering::Relaxed;
use std::boxed::Box;
use std::vec::Vec;

use super::super::Mac;
use super::super::features::Accepts;
use super::sharing::{LARGE, Narrow, send_up_to};
use super::{Front, Net, bytes, frame, frames, send, station};

/// A bridge with a narrow wire, behind which there is station 9.
fn narrow() -> (Net, Narrow) {
    let (mut net, wire) = (Net::new(), Narrow::default());
    net.bridge.add_wire(Box::new(wire.clone()));
    wire.wire.to_bridge.lock().unwrap().push_back(frame(station(9), Mac::BROADCAST, b"here"));
    net.run();
    (net, wire)
}

/// Frames of each station that get to the wire in so many rounds, in each of which it has room for three more.
fn rounds(net: &mut Net, wire: &Narrow, count: usize, mut fill: impl FnMut()) -> [usize; 9] {
    let mut came = [0; 9];
    for _ in 0..count {
        fill();
        wire.room.fetch_add(3, Relaxed);
        net.bridge.poll();
        for frame in wire.wire.taken() {
            came[usize::from(frame[11])] += 1;
        }
    }
    came
}

/// Single frames from that station to station 9, as many as the ring has room for.
fn flood(front: &mut Front, from: u8) {
    send_up_to(front, &mut 0, usize::MAX, |_| frame(station(from), station(9), &[from; 60]));
}

/// The largest packet, or one as long as that, of pieces of ordinary size.
fn large(from: u8, length: usize) -> Vec<u8> {
    let mut packet = frames::tcp(4, 1, &[7; 65_000][..length]);
    packet[..6].copy_from_slice(&station(9).0);
    packet[6..12].copy_from_slice(&station(from).0);
    packet
}

#[test]
fn large_packets_have_their_part_of_a_wire_beside_single_frames() {
    for length in [65_000, 14_000] {
        let (mut net, wire) = narrow();
        let (mut flooding, _) = net.front(1, Accepts::ALL);
        let (mut victim, _) = net.front(2, Accepts::ALL);
        let packet = large(2, length);
        let came = rounds(&mut net, &wire, 1500, || {
            flood(&mut flooding, 1);
            victim.tx.collect().unwrap();
            while victim.tx.ready(17).unwrap() {
                send(&mut victim, &packet, LARGE);
            }
        });
        let all = came[1] + came[2];
        assert!(all > 4000 && came[1] * 3 >= all && came[2] * 3 >= all, "{came:?}");
    }
}

#[test]
fn broadcasts_have_their_part_of_a_wire_beside_two_that_flood_it() {
    let (mut net, wire) = narrow();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut two, _) = net.front(2, Accepts::ALL);
    let mut idle: Vec<_> = (10..14).map(|domain| net.front(domain, Accepts::ALL).0).collect();
    let (mut victim, _) = net.front(3, Accepts::ALL);
    let (mut sent, mut seen) = (0, 0);
    let came = rounds(&mut net, &wire, 1500, || {
        flood(&mut one, 1);
        flood(&mut two, 2);
        send_up_to(&mut victim, &mut sent, usize::MAX, |_| frame(station(3), Mac::BROADCAST, &[3; 60]));
        seen += bytes(&mut idle[0]).len();
        idle.iter_mut().skip(1).for_each(|front| drop(bytes(front)));
        idle.iter_mut().for_each(|front| _ = front.sleep());
    });
    seen += bytes(&mut idle[0]).len();
    let all = came[1] + came[2] + came[3];
    assert!(all > 4000 && came[3] * 4 >= all, "{came:?}");
    assert!((came[3]..=sent).contains(&seen), "{seen}: what gets to the wire gets to the other ports, once");
}
