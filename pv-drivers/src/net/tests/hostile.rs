//! Ends that do as they like: nothing they write may stop the other side or anybody else.

use core::sync::atomic::Ordering::Relaxed;
use std::vec::Vec;

use proptest::prelude::*;

use super::super::features::Accepts;
use super::super::front::Queue;
use super::super::{Broken, Checksum, Gso, GsoKind, MAX_FRAGMENTS, Mac, Offload};
use super::{BACK, Net, TestWire, bytes, frame, frames, send, station};
use crate::ring::Front as FrontRing;
use crate::transport::host::HostTransport;
use crate::transport::{Access, GrantRef, Granted, Transport};
use xen_abi::io::netif::{NetifTxRequest, NetifTxRing};

const PLAIN: Offload = Offload { checksum: Checksum::Unchecked, gso: None };

/// Words that are written to somewhere on a ring's page: half of them where the indices are.
fn scribbles() -> impl Strategy<Value = Vec<(usize, u32)>> {
    let at = prop_oneof![0..4usize, 16..200usize, 0..1024usize];
    let value = prop_oneof![0..40u32, any::<u32>(), (0..20u32).prop_map(|low| u32::MAX - low)];
    prop::collection::vec((at, value), 1..60)
}

/// Requests whose fields are often nearly right.
fn requests(good: Vec<u32>) -> impl Strategy<Value = Vec<NetifTxRequest>> {
    let gref = prop_oneof![prop::sample::select(good), any::<u32>()];
    let size = prop_oneof![14..2000u16, any::<u16>()];
    let request = (gref, prop_oneof![0..2000u16, any::<u16>()], 0..16u16, 0..4u16, size);
    let request =
        request.prop_map(|(gref, offset, flags, id, size)| NetifTxRequest { gref, offset, flags, id, size });
    prop::collection::vec(request, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_front_end_that_writes_anything_harms_only_itself(words in scribbles(), on_rx: bool, between in 0..5usize) {
        let mut net = Net::new();
        let (mut bad, port) = net.front(1, Accepts::ALL);
        let (mut one, _) = net.front(2, Accepts::PLAIN);
        let (mut two, _) = net.front(3, Accepts::ALL);
        let wire = TestWire::add(&mut net);
        let (tx, rx) = bad.ring_refs();
        let page = net.back.map(1, &[if on_rx { rx } else { tx }], Access::ReadWrite).unwrap();
        send(&mut bad, &frames::udp(4, b"first"), PLAIN);
        for (index, (at, value)) in words.into_iter().enumerate() {
            page[at].store(value, Relaxed);
            if index % (between + 1) == between {
                send(&mut one, &frame(station(2), Mac::BROADCAST, b"to all"), PLAIN);
                for _ in 0..3 {
                    net.bridge.poll();
                    let _ = net.bridge.sleep();
                }
                let _ = (bytes(&mut two), wire.taken());
            }
        }
        // Whatever happened: the others go on, and the bad one can be removed.
        net.bridge.poll();
        let _ = (bytes(&mut one), bytes(&mut two), wire.taken());
        net.bridge.remove(port);
        let last = frame(station(2), station(3), b"still here");
        send(&mut one, &last, PLAIN);
        net.run();
        prop_assert!(bytes(&mut two).contains(&last));
    }

    #[test]
    fn requests_that_make_no_sense_are_answered_or_end_the_connection(
        // The references that the domain below will have granted, and a few around them.
        requests in requests((8..24).collect()), accepts: bool,
    ) {
        let mut net = Net::new();
        let transport = net.machine.domain(1);
        let page = |access| transport.lend(transport.buffer(1).unwrap(), BACK, access).unwrap();
        let (tx, rx) = (page(Access::ReadWrite), page(Access::ReadWrite));
        let data: Vec<_> = (0..10).map(|_| page(Access::ReadOnly)).collect();
        let port = transport.listen(BACK).unwrap();
        let map = |granted: &<HostTransport as Transport>::Granted| {
            net.back.map(1, granted.refs(), Access::ReadWrite).unwrap()
        };
        let rings = super::Rings {
            tx: map(&tx),
            rx: map(&rx),
            tx_port: net.back.connect(1, crate::transport::Port::number(&port)).unwrap(),
            rx_port: None,
        };
        let vif = super::Vif::new(1, [rings], Accepts::ALL).unwrap();
        let port = net.bridge.add_vif(vif);
        let (mut other, _) = net.front(2, if accepts { Accepts::ALL } else { Accepts::PLAIN });
        let wire = TestWire::add(&mut net);
        let mut ring = FrontRing::<NetifTxRing, _>::new(tx).unwrap();
        for request in &requests {
            ring.push(request).unwrap();
        }
        let _ = ring.publish();
        net.run();
        let _ = (bytes(&mut other), wire.taken());
        let mut answers = 0;
        while ring.pop().unwrap().is_some() {
            answers += 1;
        }
        if net.bridge.vif(port).unwrap().broken().is_none() {
            prop_assert_eq!(answers, requests.len());
        }
        drop(data);
    }

    #[test]
    fn a_back_end_that_writes_anything_cannot_stop_the_front_end(words in scribbles(), on_rx: bool) {
        let net = Net::new();
        let mut front = Queue::new(&net.machine.domain(1), BACK, Accepts::ALL).unwrap();
        let (tx, rx) = front.ring_refs();
        let page = net.back.map(1, &[if on_rx { rx } else { tx }], Access::ReadWrite).unwrap();
        for _ in 0..5 {
            send(&mut front, &frames::udp(4, b"data"), PLAIN);
        }
        for (at, value) in words {
            page[at].store(value, Relaxed);
            while let Ok(Some(received)) = front.rx.receive() {
                let length: usize = received.parts().map(<[u8]>::len).sum();
                prop_assert!(length >= 14 && received.parts().count() <= MAX_FRAGMENTS + 1);
                front.rx.recycle(received);
            }
            let _ = front.tx.collect();
            let _ = front.sleep();
        }
    }
}

#[test]
fn a_grant_that_is_revoked_in_between_fails_its_packet_only() {
    // The reference of the first page, with the headers, or that of the second; a receiver sees the packet fail only
    // where it was known who it is.
    for (slot, seen) in [(0, 0), (1, 1)] {
        let mut net = Net::new();
        let (mut one, port) = net.front(1, Accepts::ALL);
        let (mut two, _) = net.front(2, Accepts::ALL);
        let transport = net.machine.domain(1);
        let (tx, _) = one.ring_refs();
        send(&mut one, &frame(station(1), station(2), &[3; 5000]), PLAIN);
        send(&mut one, &frame(station(1), station(2), b"kept"), PLAIN);
        let gone = transport.lend(transport.buffer(1).unwrap(), BACK, Access::ReadOnly).unwrap();
        let reference = gone.refs()[0];
        let _ = transport.take_back(gone).unwrap();
        let page = net.back.map(1, &[tx], Access::ReadWrite).unwrap();
        page[16 + slot * 3].store(reference.0, Relaxed);
        drop(page);
        net.run();
        assert_eq!(bytes(&mut two), [frame(station(1), station(2), b"kept")]);
        assert_eq!(net.bridge.vif(port).unwrap().sent().errors, 1);
        one.tx.collect().unwrap();
        assert_eq!(one.tx.counters().errors, 2, "one for each slot");
        assert_eq!(two.rx.counters().errors > 0, seen > 0);
    }
}

#[test]
fn pages_that_are_not_offered_for_writing_are_not_written() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut two, port) = net.front(2, Accepts::ALL);
    let (_, rx) = two.ring_refs();
    let transport = net.machine.domain(2);
    let page = transport.lend(transport.buffer(1).unwrap(), BACK, Access::ReadOnly).unwrap();
    let ring = net.back.map(2, &[rx], Access::ReadWrite).unwrap();
    ring[17].store(page.refs()[0].0, Relaxed);
    send(&mut one, &frame(station(1), station(2), &[9; 100]), PLAIN);
    net.run();
    assert!(page.iter().all(|word| word.load(Relaxed) == 0));
    assert!(bytes(&mut two).is_empty());
    assert_eq!(net.bridge.vif(port).unwrap().received().errors, 1);
}

#[test]
fn a_packet_of_tiny_pieces_does_not_fill_the_memory() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut two, port) = net.front(2, Accepts::PLAIN);
    let gso = Some(Gso { size: 8, kind: GsoKind::Tcp4 });
    send(&mut one, &frames::tcp(4, 1, &[7; 40_000]), Offload { checksum: Checksum::Blank, gso });
    net.bridge.poll();
    assert_eq!(net.bridge.vif(port).unwrap().received().dropped, 1, "what is behind the first pieces");
    let mut came = 0;
    for _ in 0..100 {
        net.bridge.poll();
        came += bytes(&mut two).len();
    }
    assert_eq!(came, 1024);
}

#[test]
fn a_back_end_that_keeps_pages_cannot_eat_all_memory() {
    let mut net = Net::new();
    let (mut one, _) = net.front(1, Accepts::ALL);
    let (mut two, _) = net.front(2, Accepts::ALL);
    let (_, rx) = two.ring_refs();
    let ring = net.back.map(2, &[rx], Access::ReadWrite).unwrap();
    let mut kept = Vec::new();
    let mut broken = None;
    for _ in 0..2000 {
        // Every page that is offered is mapped here, and stays so.
        for slot in 0..256 {
            let reference = GrantRef(ring[16 + slot * 2 + 1].load(Relaxed));
            kept.extend(net.back.map(2, &[reference], Access::ReadWrite).ok());
        }
        let _ = one.tx.ready(1).unwrap();
        send(&mut one, &frame(station(1), station(2), b"x"), PLAIN);
        net.bridge.poll();
        match two.rx.receive() {
            Ok(None) => {}
            Ok(Some(received)) => two.rx.recycle(received),
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    assert_eq!(broken, Some(Broken::Memory));
}
