//! What is short is divided over time among those that want it: a wire's room, a receiver's pages, the places for headers and the
//! staging memory. One sender that asks for much, asks for what can never be, or is asked first when something comes, leaves the
//! others their part.

use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use std::boxed::Box;
use std::sync::Arc;
use std::vec::Vec;

use super::super::bridge::Wire;
use super::super::features::Accepts;
use super::super::{Checksum, Gso, GsoKind, Mac, Offload};
use super::{Front, Net, TestWire, bytes, frame, frames, send, station};

const PLAIN: Offload = Offload { checksum: Checksum::Unchecked, gso: None };
/// How long a round lasts.
const ROUND: Duration = Duration::from_micros(10);

const fn large(size: u16) -> Offload {
    Offload { checksum: Checksum::Blank, gso: Some(Gso { size, kind: GsoKind::Tcp4 }) }
}

/// Keeps a ring full of packets.
fn fill(front: &mut Front, packet: &[u8], offload: Offload) {
    front.tx.collect().unwrap();
    while front.tx.ready(packet.len().div_ceil(4096) + 1).unwrap() {
        send(front, packet, offload);
    }
}

/// A TCP packet between two stations.
fn stream(from: u8, to: u8, length: usize) -> Vec<u8> {
    let mut packet = frames::tcp(4, 1, &[7; 65_000][..length]);
    packet[..6].copy_from_slice(&station(to).0);
    packet[6..12].copy_from_slice(&station(from).0);
    packet
}

/// A card with room for 192 frames.
#[derive(Clone, Default)]
struct Card {
    wire: TestWire,
    inside: Arc<AtomicUsize>,
}

impl Card {
    const FRAMES: usize = 192;

    /// With station 99 behind it.
    fn add(net: &mut Net) -> Self {
        let card = Self::default();
        net.bridge.add_wire(Box::new(card.clone()));
        card.wire.to_bridge.lock().unwrap().push_back(frame(station(99), Mac::BROADCAST, b"here"));
        net.run();
        card
    }

    /// Sends so many frames, and counts them by their senders.
    fn drain(&self, rate: usize, sent: &mut [usize; 16]) {
        let inside = self.inside.load(Relaxed);
        self.inside.store(inside - inside.min(rate), Relaxed);
        self.wire.taken().iter().for_each(|frame| sent[usize::from(frame[11])] += 1);
    }
}

impl Wire for Card {
    fn transmit(&mut self, frame: &[u8]) -> bool {
        let has_room = self.inside.load(Relaxed) < Self::FRAMES;
        self.inside.fetch_add(usize::from(has_room), Relaxed);
        has_room && self.wire.transmit(frame)
    }

    fn room(&mut self) -> usize {
        Self::FRAMES - self.inside.load(Relaxed)
    }

    fn capacity(&self) -> usize {
        Self::FRAMES
    }

    fn is_idle(&self) -> bool {
        self.inside.load(Relaxed) == 0
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
        self.wire.receive(take)
    }
}

/// What a victim with so many queues sends by a card in `rounds` rounds beside interfaces that ask for much with one queue, and
/// have a small frame with another one every second round.
fn beside_claims(rate: usize, greedy: usize, queues: usize, claim: &[u8], offload: Offload) -> usize {
    let mut net = Net::new();
    let card = Card::add(&mut net);
    let mut others: Vec<_> =
        (1..=greedy as u16).map(|domain| net.fronts(domain, Accepts::ALL, 8).0).collect();
    let (mut victim, _) = net.fronts(9, Accepts::ALL, queues);
    let mut sent = [0; 16];
    for round in 0..CLAIM_ROUNDS {
        for (fronts, number) in others.iter_mut().zip(1..) {
            let mut claim = claim.to_vec();
            claim[11] = number;
            fill(&mut fronts[5], &claim, offload);
            fronts[4].tx.collect().unwrap();
            if round % 2 == 0 && fronts[4].tx.ready(1).unwrap() {
                send(&mut fronts[4], &frame(station(number), station(99), &[number; 60]), PLAIN);
            }
        }
        let packet = frame(station(9), station(99), &[9; 1486]);
        for front in &mut victim {
            // Few enough that none waits for too long.
            front.tx.collect().unwrap();
            while front.tx.ready(256 - 64).unwrap() {
                send(front, &packet, PLAIN);
            }
        }
        net.machine.advance(ROUND);
        net.bridge.poll();
        card.drain(rate, &mut sent);
    }
    sent[9]
}

const CLAIM_ROUNDS: usize = 600;

#[test]
fn a_claim_on_a_wire_that_is_never_met_leaves_the_others_their_part() {
    // Of the first kind nothing is ever sent; the second is more frames than the card has.
    let claims =
        [(frame(station(1), station(99), &[7; 4000]), large(7)), (stream(1, 99, 64_000), large(125))];
    for (claim, offload) in &claims {
        for rate in [16, 192] {
            for greedy in [1, 3] {
                for queues in [1, 8] {
                    let wanted = (32 * queues).min(rate);
                    let due = wanted.min(rate / (greedy + 1)) * CLAIM_ROUNDS;
                    let came = beside_claims(rate, greedy, queues, claim, *offload);
                    let what = "frames of the victim";
                    assert!(
                        came * 3 >= due * 2,
                        "{came} of {due} {what}; {rate} a round, {greedy} beside {queues}"
                    );
                }
            }
        }
    }
}

/// Packets that come to a receiver that reads now and then, in percent: it is flooded by one with so many queues, and a wire or
/// another domain sends so many each round.
fn to_a_reader(by_wire: bool, queues: usize, every: usize, jitter: u64, per_round: usize) -> usize {
    let mut net = Net::new();
    let wire = TestWire::add(&mut net);
    let (mut reader, _) = net.front(9, Accepts::ALL);
    let (mut greedy, _) = net.fronts(1, Accepts::ALL, queues);
    let (mut other, _) = net.front(3, Accepts::ALL);
    send(&mut reader, &frame(station(9), Mac::BROADCAST, b"here"), PLAIN);
    net.run();
    let (mut waiting, mut next, mut seed, mut came) = (0, every, 12_345u64, 0);
    let rounds = 2000;
    for round in 0..rounds {
        let flood = frame(station(1), station(9), &[1; 60]);
        greedy.iter_mut().for_each(|front| fill(front, &flood, PLAIN));
        if by_wire {
            let mut to = wire.to_bridge.lock().unwrap();
            (0..per_round).for_each(|_| to.push_back(frame(station(2), station(9), &[2; 60])));
        } else {
            waiting += per_round;
            other.tx.collect().unwrap();
            while waiting > 0 && other.tx.ready(1).unwrap() {
                send(&mut other, &frame(station(3), station(9), &[3; 60]), PLAIN);
                waiting -= 1;
            }
        }
        net.machine.advance(ROUND);
        net.bridge.poll();
        if round + 1 >= next {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            next = round + 1 + every + usize::try_from((seed >> 33) % jitter).unwrap();
            came += bytes(&mut reader).iter().filter(|frame| frame[14] != 1).count();
            let _ = reader.sleep();
        }
    }
    came * 100 / (rounds * per_round)
}

#[test]
fn a_receiver_that_reads_now_and_then_has_pages_for_all_of_its_senders() {
    for queues in [1, 8] {
        for (every, jitter, per_round) in
            [(1, 1, 16), (4, 1, 16), (4, 5, 16), (20, 1, 4), (20, 11, 3), (30, 1, 3), (30, 21, 2)]
        {
            for by_wire in [false, true] {
                let came = to_a_reader(by_wire, queues, every, jitter, per_round);
                let from = if by_wire { "a wire" } else { "a domain" };
                assert!(came >= 80, "{came} % from {from}: {queues} queues, each {every}+0..{jitter} rounds");
            }
        }
    }
}

#[test]
fn idle_ports_and_many_queues_leave_a_sender_its_part_of_the_headers() {
    for (greedy, idle) in [(1u16, 0u16), (2, 0), (2, 40), (3, 0), (3, 40)] {
        let mut net = Net::new();
        let mut others: Vec<_> = (1..=greedy).map(|domain| net.fronts(domain, Accepts::ALL, 8).0).collect();
        let (mut victim, port) = net.front(9, Accepts::ALL);
        let _idle: Vec<_> = (10..10 + idle).map(|domain| net.front(domain, Accepts::ALL)).collect();
        // To stations of their own: they go nowhere.
        let own = |number: u8| frame(station(number), station(number), &[number; 60]);
        let rounds = 200;
        let before = net.bridge.vif(port).unwrap().sent().packets;
        for _ in 0..rounds {
            for (fronts, number) in others.iter_mut().zip(1..) {
                fronts.iter_mut().for_each(|front| fill(front, &own(number), PLAIN));
            }
            fill(&mut victim, &own(9), PLAIN);
            net.bridge.poll();
        }
        let sent = net.bridge.vif(port).unwrap().sent().packets - before;
        assert!(sent >= 31 * rounds, "{sent} in {rounds} rounds beside {greedy}, and {idle} idle ones");
    }
}

#[test]
fn packets_that_no_wire_takes_have_no_staging_memory() {
    let kinds = [
        (PLAIN, frame(station(1), station(99), &[7; 65_521])),
        (large(9000), stream(1, 99, 64_000)),
        // These are sent, and what they take is divided.
        (large(1448), stream(1, 99, 64_000)),
    ];
    for (kind, (offload, packet)) in kinds.iter().enumerate() {
        for greedy in [1u16, 4] {
            let mut net = Net::new();
            let wire = TestWire::add(&mut net);
            wire.to_bridge.lock().unwrap().push_back(frame(station(99), Mac::BROADCAST, b"here"));
            net.run();
            let mut others: Vec<_> =
                (1..=greedy).map(|domain| net.fronts(domain, Accepts::ALL, 2).0).collect();
            let (mut victim, port) = net.front(9, Accepts::ALL);
            let rounds = 150;
            for _ in 0..rounds {
                for (fronts, number) in others.iter_mut().zip(1..) {
                    let mut packet = packet.clone();
                    packet[11] = number;
                    fronts.iter_mut().for_each(|front| fill(front, &packet, *offload));
                }
                fill(&mut victim, &frame(station(9), station(99), &[9; 1486]), PLAIN);
                net.bridge.poll();
                let _ = wire.taken();
            }
            let sent = net.bridge.vif(port).unwrap().sent().packets;
            assert!(sent >= 31 * rounds, "{sent} in {rounds} rounds beside {greedy} of kind {kind}");
        }
    }
}
