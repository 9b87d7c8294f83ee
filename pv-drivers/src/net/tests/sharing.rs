//! What one port takes, or does not take, leaves the others their part.

use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use std::boxed::Box;
use std::sync::Arc;
use std::thread;
use std::time::Instant;
use std::vec::Vec;

use super::super::bridge::Wire;
use super::super::features::Accepts;
use super::super::{Checksum, Gso, GsoKind, Mac, Offload};
use super::{Front, Net, TestWire, bytes, frame, frames, send, station};

const PLAIN: Offload = Offload { checksum: Checksum::Unchecked, gso: None };
pub(super) const LARGE: Offload =
    Offload { checksum: Checksum::Blank, gso: Some(Gso { size: 1448, kind: GsoKind::Tcp4 }) };

/// Makes the bridge know the stations.
fn introduce(net: &mut Net, fronts: &mut [(&mut Front, u8)]) {
    for (front, number) in &mut *fronts {
        send(front, &frame(station(*number), Mac::BROADCAST, b"here"), PLAIN);
        net.run();
    }
    for (front, _) in fronts {
        let _ = bytes(front);
    }
}

/// Lets `sender` send while its ring has room, `count` packets in all; answers how many it has sent.
pub(super) fn send_up_to(
    sender: &mut Front,
    sent: &mut usize,
    count: usize,
    packet: impl Fn(usize) -> Vec<u8>,
) {
    sender.tx.collect().unwrap();
    while *sent < count && sender.tx.ready(1).unwrap() {
        send(sender, &packet(*sent), PLAIN);
        *sent += 1;
    }
}

/// How long one packet is under way that a domain sends behind `count` to a receiver that offers a page each 15 ms.
fn time_behind(count: usize) -> Duration {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut slow, _) = net.front(2, Accepts::ALL);
    let (mut other, _) = net.front(3, Accepts::ALL);
    introduce(&mut net, &mut [(&mut one, 1), (&mut slow, 2), (&mut other, 3)]);
    let to = |number| frame(station(1), station(number), &[1; 60]);
    // The receiver's pages are all filled.
    let mut filled = 0;
    loop {
        let most = filled + 1;
        send_up_to(&mut one, &mut filled, most, |_| to(2));
        if net.bridge.poll().until.is_some() {
            break;
        }
    }
    let (mut sent, start, mut offered) = (0, Instant::now(), Instant::now());
    while start.elapsed() < Duration::from_secs(3) {
        send_up_to(&mut one, &mut sent, count + 1, |number| to(if number < count { 2 } else { 3 }));
        for _ in 0..10 {
            net.bridge.poll();
        }
        if !bytes(&mut other).is_empty() {
            break;
        }
        if offered.elapsed() >= Duration::from_millis(15) {
            offered = Instant::now();
            if let Some(packet) = slow.rx.receive().unwrap() {
                slow.rx.recycle(packet);
            }
            let _ = slow.sleep();
        }
        thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

#[test]
fn what_is_far_behind_packets_to_a_slow_receiver_arrives() {
    let time = time_behind(200);
    assert!(time < Duration::from_millis(250), "{time:?}");
}

#[test]
fn what_the_senders_ring_does_not_show_yet_arrives() {
    let time = time_behind(700);
    assert!(time < Duration::from_millis(500), "{time:?}");
}

#[test]
fn a_receiver_that_takes_bursts_loses_nothing() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut two, port) = net.front(2, Accepts::ALL);
    introduce(&mut net, &mut [(&mut one, 1), (&mut two, 2)]);
    let numbered = |number: usize| frame(station(1), station(2), &number.to_le_bytes());
    let (mut sent, mut got) = (0, Vec::new());
    while got.len() < 4000 {
        let burst = Instant::now();
        while burst.elapsed() < Duration::from_millis(1) {
            send_up_to(&mut one, &mut sent, 4000, numbered);
            net.bridge.poll();
        }
        got.extend(bytes(&mut two));
        let _ = two.sleep();
        assert_eq!(net.bridge.vif(port).unwrap().received().dropped, 0);
    }
    assert!(got.into_iter().eq((0..4000).map(numbered)));
}

/// Two senders that always have more than their part, and as many idle ports behind them that the first one is served before the
/// second one in most rounds.
struct Pair {
    net: Net,
    greedy: Vec<Front>,
    modest: Front,
    idle: Vec<Front>,
}

impl Pair {
    fn new(queues: usize) -> Self {
        let mut net = Net::new();
        let (greedy, _) = net.fronts(1, Accepts::ALL, queues);
        let (modest, _) = net.front(2, Accepts::ALL);
        let idle = (10..28).map(|domain| net.front(domain, Accepts::ALL).0).collect();
        Self { net, greedy, modest, idle }
    }

    /// What the two sent: packets that were passed on.
    fn sent(&self) -> [u64; 2] {
        let mut ids = self.net.bridge.ids();
        [(); 2].map(|()| self.net.bridge.vif(ids.next().unwrap()).unwrap().sent().packets)
    }
}

#[test]
fn the_staging_memory_goes_to_each_port_in_turn() {
    let mut pair = Pair::new(8);
    let wire = TestWire::add(&mut pair.net);
    wire.to_bridge.lock().unwrap().push_back(frame(station(9), Mac::BROADCAST, b"here"));
    pair.net.run();
    let large = |from: u8| {
        let mut packet = frames::tcp(4, 1, &[7; 60_000]);
        packet[..6].copy_from_slice(&station(9).0);
        packet[6..12].copy_from_slice(&station(from).0);
        packet
    };
    let fill = |front: &mut Front, number| {
        front.tx.collect().unwrap();
        while front.tx.ready(15).unwrap() {
            send(front, &large(number), LARGE);
        }
    };
    for _ in 0..42 {
        pair.greedy.iter_mut().for_each(|front| fill(front, 1));
        fill(&mut pair.modest, 2);
        pair.net.bridge.poll();
    }
    let [greedy, modest] = pair.sent();
    assert!(wire.taken().len() > 4000 && modest * 2 >= greedy, "{greedy} and {modest} packets");
}

#[test]
fn a_receivers_pages_are_every_senders_in_turn() {
    let mut pair = Pair::new(1);
    let receiver = &mut pair.idle[10];
    introduce(&mut pair.net, &mut [(receiver, 9)]);
    let packet = |from: u8| move |_| frame(station(from), station(9), &[from]);
    let (mut came, mut sent) = ([0; 3], [0, 0]);
    for _ in 0..420 {
        send_up_to(&mut pair.greedy[0], &mut sent[0], usize::MAX, packet(1));
        send_up_to(&mut pair.modest, &mut sent[1], usize::MAX, packet(2));
        pair.net.bridge.poll();
        // As many pages are offered as one sender has packets in a round.
        for _ in 0..32 {
            let Some(packet) = pair.idle[10].rx.receive().unwrap() else { break };
            came[usize::from(packet.parts().next().unwrap()[14])] += 1;
            pair.idle[10].rx.recycle(packet);
        }
        let _ = pair.idle[10].sleep();
    }
    let [_, greedy, modest] = came;
    assert!(greedy + modest > 4000 && modest * 2 >= greedy, "{greedy} and {modest} packets");
}

/// A sender that has a little for others beside what it sends to a receiver that is busy.
#[test]
fn a_trickle_to_another_costs_a_sender_no_packets() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut busy, port) = net.front(2, Accepts::ALL);
    let (mut other, _) = net.front(3, Accepts::ALL);
    introduce(&mut net, &mut [(&mut one, 1), (&mut busy, 2), (&mut other, 3)]);
    let numbered = |to, number: usize| frame(station(1), station(to), &number.to_le_bytes());
    let (mut sent, mut got, mut beside) = ([0usize; 2], Vec::new(), Vec::new());
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(600) {
        one.tx.collect().unwrap();
        // As a connection does: so many are under way. Each waits from one round to the next, however long that is.
        while sent[0] < got.len() + 256 + 20 && one.tx.ready(2).unwrap() {
            send(&mut one, &numbered(2, sent[0]), PLAIN);
            sent[0] += 1;
        }
        send(&mut one, &numbered(3, sent[1]), PLAIN);
        sent[1] += 1;
        for _ in 0..10 {
            net.bridge.poll();
        }
        beside.extend(bytes(&mut other));
        assert_eq!(beside.len(), sent[1], "what is for others does not wait");
        // It offers little, and often enough.
        for _ in 0..20 {
            let Some(packet) = busy.rx.receive().unwrap() else { break };
            got.push(packet.parts().collect::<Vec<_>>().concat());
            busy.rx.recycle(packet);
        }
        let _ = busy.sleep();
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(net.bridge.vif(port).unwrap().received().dropped, 0);
    let count = got.len();
    assert!(count > 300 && got.into_iter().eq((0..count).map(|number| numbered(2, number))), "{count}");
    assert!(beside.into_iter().eq((0..sent[1]).map(|number| numbered(3, number))));
}

/// Three send to the same receiver, which offers less in a round than one of them asks for; one has something for others as well.
#[test]
fn a_sender_with_mixed_traffic_keeps_its_turn() {
    let mut pair = Pair::new(1);
    for (place, number) in [(10, 9), (11, 8)] {
        introduce(&mut pair.net, &mut [(&mut pair.idle[place], number)]);
    }
    let _ = bytes(&mut pair.idle[10]);
    let (mut came, mut sent, mut rounds) = ([0; 4], [0; 3], 0);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(700) {
        send_up_to(&mut pair.greedy[0], &mut sent[0], usize::MAX, |_| frame(station(1), station(9), &[1]));
        send_up_to(&mut pair.modest, &mut sent[1], usize::MAX, |_| frame(station(2), station(9), &[2]));
        send_up_to(&mut pair.idle[0], &mut sent[2], usize::MAX, |count| {
            frame(station(3), station(if count % 8 == 0 { 8 } else { 9 }), &[3])
        });
        pair.net.bridge.poll();
        for _ in 0..16 {
            let Some(packet) = pair.idle[10].rx.receive().unwrap() else { break };
            came[usize::from(packet.parts().next().unwrap()[14])] += 1;
            pair.idle[10].rx.recycle(packet);
        }
        let _ = (pair.idle[10].sleep(), bytes(&mut pair.idle[11]));
        rounds += 1;
        if rounds % 4 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    let [_, one, two, mixed] = came;
    assert!(one + two + mixed > 1000 && mixed * 4 >= one + two, "{one}, {two} and {mixed} packets");
}

/// More packets can go in one round than there are places for their headers: the others go with the next one, once.
#[test]
fn packets_that_find_no_place_for_their_header_go_once() {
    let mut net = Net::new();
    let (mut receiver, _) = net.fronts(100, Accepts::ALL, 4);
    send(&mut receiver[0], &frame(station(100), Mac::BROADCAST, b"here"), PLAIN);
    net.run();
    let mut senders: Vec<_> = (1..21).map(|domain| net.front(domain, Accepts::ALL).0).collect();
    let packet = |from: usize, number: usize| {
        let mut packet = frames::udp(4, &[from as u8, number as u8, (number >> 8) as u8]);
        packet[..6].copy_from_slice(&station(100).0);
        packet[6..12].copy_from_slice(&station(from as u8).0);
        // They are of many connections, and so for all queues.
        packet[35] = (from * 7 + number) as u8;
        packet
    };
    let (mut sent, mut got) = ([0; 20], Vec::new());
    for _ in 0..40 {
        for (from, front) in senders.iter_mut().enumerate() {
            send_up_to(front, &mut sent[from], 120, |number| packet(from, number));
        }
        net.bridge.poll();
        if got.is_empty() && sent.iter().all(|count| *count == 120) {
            for _ in 0..20 {
                net.bridge.poll();
            }
        }
        receiver.iter_mut().for_each(|front| {
            got.extend(bytes(front));
            let _ = front.sleep();
        });
    }
    let mut expected: Vec<_> =
        (0..20).flat_map(|from| (0..120).map(move |number| packet(from, number))).collect();
    expected.sort_unstable();
    got.sort_unstable();
    assert!(got.len() >= 1024, "{}", got.len());
    let mut once = got.clone();
    once.dedup();
    assert_eq!(once.len(), got.len(), "each comes once");
    assert!(got.iter().all(|packet| expected.binary_search(packet).is_ok()), "whole");
}

/// A card that has room for so many frames, and always something under way.
#[derive(Clone, Default)]
pub(super) struct Narrow {
    pub(super) wire: TestWire,
    pub(super) room: Arc<AtomicUsize>,
}

impl Wire for Narrow {
    fn transmit(&mut self, frame: &[u8]) -> bool {
        let has_room = self.room.fetch_update(Relaxed, Relaxed, |room| room.checked_sub(1)).is_ok();
        has_room && self.wire.transmit(frame)
    }

    fn room(&mut self) -> usize {
        self.room.load(Relaxed)
    }

    fn is_idle(&self) -> bool {
        false
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
        self.wire.receive(take)
    }
}

#[test]
fn packets_wait_for_room_on_a_wire_and_those_to_others_do_not() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut two, _) = net.front(2, Accepts::ALL);
    introduce(&mut net, &mut [(&mut one, 1), (&mut two, 2)]);
    let narrow = Narrow::default();
    let port = net.bridge.add_wire(Box::new(narrow.clone()));
    narrow.wire.to_bridge.lock().unwrap().push_back(frame(station(9), Mac::BROADCAST, b"here"));
    net.run();
    let _ = (bytes(&mut one), bytes(&mut two));
    let mut large = frames::tcp(4, 1, &[7; 14_000]);
    large[..6].copy_from_slice(&station(9).0);
    large[6..12].copy_from_slice(&station(1).0);
    let numbered = |number: usize| frame(station(1), station(9), &number.to_le_bytes());
    (0..100).for_each(|number| send(&mut one, &numbered(number), PLAIN));
    send(&mut one, &large, LARGE);
    let beside = frame(station(1), station(2), b"beside");
    send(&mut one, &beside, PLAIN);
    let (mut sent, mut came) = (Vec::new(), Vec::new());
    for round in 0..50 {
        let until = net.bridge.poll().until;
        assert!(round > 4 || until.is_some(), "what waits is looked at again");
        came.extend(bytes(&mut two));
        sent.extend(narrow.wire.taken());
        // The large one is ten frames.
        narrow.room.store(if sent.len() < 100 { 8 } else { 10 }, Relaxed);
    }
    assert_eq!(came, [beside]);
    assert_eq!(sent.len(), 110);
    assert!(sent[..100].iter().cloned().eq((0..100).map(numbered)));
    assert_eq!(net.bridge.counters(port).unwrap().1.dropped, 0);
}

/// The largest packet, to a station behind a wire: it is completed in the driver domain's memory.
fn largest(from: u8) -> Vec<u8> {
    frame(station(from), station(9), &[7; 65_521])
}

/// A wire with [`largest`]'s receiver behind it.
fn quiet_wire(net: &mut Net) -> TestWire {
    let wire = TestWire::add(net);
    wire.to_bridge.lock().unwrap().push_back(frame(station(9), Mac::BROADCAST, b"here"));
    net.run();
    wire
}

#[test]
fn the_largest_packet_finds_room_beside_busy_wires() {
    // What the wires bring is for the sender, or goes out by the same wire as the packet.
    for to in [1, 9] {
        let mut net = Net::new();
        let (mut one, port) = net.front(1, Accepts::ALL);
        let quiet = quiet_wire(&mut net);
        introduce(&mut net, &mut [(&mut one, 1)]);
        let busy: Vec<_> = (0..3).map(|_| TestWire::add(&mut net)).collect();
        let before = net.bridge.vif(port).unwrap().sent().packets;
        send(&mut one, &largest(1), PLAIN);
        for (number, wire) in busy.iter().enumerate() {
            let mut long = frame(station(20 + number as u8), station(to), &[]);
            long.resize(1518, 1);
            wire.to_bridge.lock().unwrap().extend((0..100).map(|_| long.clone()));
        }
        net.bridge.poll();
        let _ = quiet.taken();
        let left: usize = busy.iter().map(|wire| wire.to_bridge.lock().unwrap().len()).sum();
        assert!(left < 300 - 128, "{left} frames are not taken");
        assert_eq!(net.bridge.vif(port).unwrap().sent().packets - before, 1, "to {to}");
    }
}

/// One queue of each of two devices takes all of the staging memory, in turn: their other queues never have any.
#[test]
fn what_never_finds_room_in_the_staging_memory_is_lost() {
    for [first, second] in [[0, 0], [0, 1], [1, 0], [1, 1]] {
        let mut net = Net::new();
        let (mut one, _) = net.fronts(1, Accepts::ALL, 2);
        let (mut two, _) = net.fronts(2, Accepts::ALL, 2);
        let _quiet = quiet_wire(&mut net);
        let fill = |front: &mut Front, number| {
            front.tx.collect().unwrap();
            while front.tx.ready(16).unwrap() {
                send(front, &largest(number), PLAIN);
            }
        };
        let mut round = |one: &mut [Front]| {
            fill(&mut one[first], 1);
            fill(&mut two[second], 2);
            net.bridge.poll();
        };
        (0..6).for_each(|_| round(&mut one));
        fill(&mut one[1 - first], 1);
        let start = Instant::now();
        while !one[1 - first].tx.ready(16).unwrap() {
            round(&mut one);
            assert!(start.elapsed() < Duration::from_secs(5), "queues {first} and {second}");
        }
    }
}
