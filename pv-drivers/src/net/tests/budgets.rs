//! Ends that never stop asking: each call ends all the same, and what one of them is given is bounded.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::Arc;
use std::thread;

use super::super::back::{Tx, Vif};
use super::super::chain::Order;
use super::super::features::Accepts;
use super::super::front::Queue;
use super::super::{Checksum, Mac, Offload};
use super::{BACK, Net, bytes, frame, send, station};
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
    let mut tx = Tx::<HostTransport>::new(Back::attach(mapped).unwrap());
    let (mut produced, mut orders, mut headers) = (0, 0, 512);
    join(&page, &mut produced, 0);
    // As another vCPU of the front end would: there is always one more.
    let taken = tx.take(32, &mut headers, |order| {
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
    while total < 10_000 {
        let before = front.rx.counters().errors;
        assert!(matches!(front.rx.receive(), Ok(None)));
        let errors = front.rx.counters().errors - before;
        assert!(errors <= SLOTS.into(), "{errors} answers in one call");
        total += errors;
        thread::yield_now();
    }
    stop.store(true, Relaxed);
    back.join().unwrap();
}
