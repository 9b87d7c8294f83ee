//! Ends that lie: random rings, guessed grants, grants that end in the middle, and rubbish in xenstore.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;
use std::format;
use std::string::ToString;

use proptest::prelude::*;
use xen_abi::io::blkif::{BlkifRequest, BlkifRing};
use zerocopy::{FromZeros, IntoBytes};

use super::*;
use crate::ring;
use crate::store::{Store, Transaction};
use crate::transport::host::Granted as HostGranted;
use crate::transport::{Access, Granted, Port};

/// A front end by hand: a ring page and a port, and nothing that keeps it honest.
struct Liar {
    buses: [Bus<Host>; 2],
    page: HostGranted,
    port: <Host as Transport>::Port,
    back: Back<Host, RamDisk<Host>>,
}

impl Liar {
    fn new() -> Self {
        let machine = Machine::new();
        let buses = [FRONT, BACK].map(|id| Bus::new(machine.domain(id)));
        let (at_front, at_back) = machine.plug("vbd", 1, FRONT, BACK);
        let front = buses[0].transport();
        let page = front.lend(front.buffer(1).unwrap(), BACK, Access::ReadWrite).unwrap();
        let port = front.listen(BACK).unwrap();
        let disk = ram(64)(buses[1].transport());
        let back = Back::new(End::back(&buses[1], &at_back).unwrap(), disk, BackOptions::default());
        let nodes = [("ring-ref", page.refs()[0].0), ("event-channel", port.number()), ("state", 3)];
        for (name, value) in nodes {
            let path = format!("{at_front}/{name}");
            front.store().write(Transaction::NONE, &path, value.to_string().as_bytes()).unwrap();
        }
        let mut liar = Self { buses, page, port, back };
        liar.poll();
        assert!(liar.back.is_connected());
        liar
    }

    fn poll(&mut self) {
        for _ in 0..20 {
            let _ = self.buses.each_ref().map(Bus::poll);
            let _ = self.back.poll();
        }
    }

    /// The answers to raw requests.
    fn ask(&mut self, requests: &[BlkifRequest]) -> Vec<(u64, i16)> {
        // The ring's memory is the page; an end of its own forgets nothing that matters here.
        let words: &[AtomicU32] = &self.page;
        let mut ring = ring::Front::<BlkifRing, _>::attach(words).unwrap();
        for request in requests {
            ring.push(request).unwrap();
        }
        if ring.publish() {
            self.port.notify();
        }
        for _ in 0..10 {
            let _ = self.back.poll();
        }
        std::iter::from_fn(|| ring.pop().unwrap()).map(|answer| (answer.id, answer.status)).collect()
    }
}

fn request(operation: u8, sector: u64, reference: u32, first: u8, last: u8) -> BlkifRequest {
    let mut request = BlkifRequest::new_zeroed();
    (request.operation, request.nr_segments, request.sector_number) = (operation, 1, sector);
    (request.seg[0].gref, request.seg[0].first_sect, request.seg[0].last_sect) = (reference, first, last);
    request
}

#[test]
fn senseless_requests_are_answered_with_an_error() {
    let mut liar = Liar::new();
    let front = liar.buses[0].transport().clone();
    let data = front.lend(front.buffer(1).unwrap(), BACK, Access::ReadOnly).unwrap();
    let good = data.refs()[0].0;
    let with = |change: &dyn Fn(&mut BlkifRequest)| {
        let mut made = request(1, 0, good, 0, 7);
        change(&mut made);
        made
    };
    let requests = [
        (request(1, 0, good, 0, 7), 0),
        (request(0, 0, good, 0, 7), -1), // the page may not be written
        (request(1, 0, 4711, 0, 7), -1),
        (request(1, 0, good, 5, 4), -1),
        (request(1, 0, good, 0, 8), -1),
        (request(1, 57, good, 0, 7), -1),
        (request(1, u64::MAX, good, 0, 7), -1),
        (request(2, 0, good, 0, 7), -2), // a barrier, which was not offered
        (request(77, 0, good, 0, 7), -2),
        (with(&|made| made.nr_segments = 0), -1),
        (with(&|made| made.nr_segments = 12), -1),
        (with(&|made| made.nr_segments = 255), -1),
        (request(5, 60, good, 0, 7), -1), // a discard whose length is a grant and sectors
        (request(6, 0, good, 0, 7), -1),  // indirect, with rubbish behind it
        (with(&|made| (made.operation, made.nr_segments) = (3, 0)), 0),
    ];
    let raw: Vec<_> = (0..).zip(&requests).map(|(id, (made, _))| BlkifRequest { id, ..*made }).collect();
    let answers = liar.ask(&raw);
    let expected: Vec<_> = (0..).zip(&requests).map(|(id, (_, status))| (id, *status)).collect();
    assert_eq!(answers, expected);
    assert!(liar.back.is_connected());
}

#[test]
fn an_index_that_cannot_be_closes_the_device() {
    let mut liar = Liar::new();
    liar.page[0].store(33, Relaxed);
    liar.poll();
    assert!(!liar.back.is_connected());
    assert_eq!(liar.back.end().state(), crate::xenbus::State::Closing);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A front end that writes anything anywhere into the ring, valid references included.
    #[test]
    fn the_back_end_survives_any_ring(
        writes in prop::collection::vec((0usize..1024, any::<u32>(), 0u8..4, any::<bool>()), 1..400)
    ) {
        let mut liar = Liar::new();
        let front = liar.buses[0].transport().clone();
        let mut data = Some(front.lend(front.buffer(1).unwrap(), BACK, Access::ReadWrite).unwrap());
        for (word, value, kind, poll) in writes {
            let value = match kind {
                0 => value,
                1 => value % 40,
                2 => ((value % 7) << 8) | (value % 7),
                _ => data.as_ref().map_or(value, |data: &HostGranted| data.refs()[0].0),
            };
            // The indices only near what they can be, else the device closes at once.
            let value = if word < 4 { liar.page[2].load(Relaxed).wrapping_add(value % 34) } else { value };
            liar.page[word].store(value, Relaxed);
            liar.page[0].store(liar.page[2].load(Relaxed).wrapping_add(u32::from(kind)), Relaxed);
            if poll {
                let _ = liar.back.poll();
            }
            if value % 61 == 0 {
                data = None;
            }
        }
        liar.poll();
    }

    /// A back end that writes anything into the ring.
    #[test]
    fn the_front_end_survives_any_ring(
        writes in prop::collection::vec((0usize..1024, any::<u32>(), any::<bool>()), 1..200)
    ) {
        let mut pair = Pair::new(ram(64), FrontOptions::default(), BackOptions::default());
        let path = format!("{}/ring-ref", pair.front.end().path());
        let reference = pair.buses[0].value(&path).map(crate::transport::GrantRef).unwrap();
        let ring = pair.buses[1].transport().map(FRONT, &[reference], Access::ReadWrite).unwrap();
        for (word, value, small) in writes {
            if pair.front.is_connected() && pair.front.free() > 0 {
                let data = Data::Buffer(pair.buffer(&[1; 4096]));
                pair.submit(Operation::Read, u64::from(value % 8), data);
            }
            let _ = pair.front.poll();
            let value = if small { value % 33 } else { value };
            ring[if small { 16 + word % 64 } else { word }].store(value, Relaxed);
            ring[2].store(value % 35, Relaxed);
            let _ = pair.front.poll();
            while pair.front.completed().is_some() {}
        }
        pair.front.close();
        drop(ring);
        pair.settle();
        prop_assert!(pair.front.is_closed());
    }

    /// A front end's directory full of rubbish: the device closes or waits.
    #[test]
    fn the_back_end_survives_any_directory(
        nodes in prop::collection::vec((0usize..9, prop_oneof![
            Just(b"1".to_vec()), Just(b"3".to_vec()), Just(b"4294967295".to_vec()), Just(b"6".to_vec()),
            prop::collection::vec(any::<u8>(), 0..12)
        ]), 1..30)
    ) {
        const NAMES: [&str; 9] = [
            "ring-ref", "event-channel", "protocol", "ring-page-order", "multi-queue-num-queues", "ring-ref0",
            "queue-0/ring-ref", "queue-0/event-channel", "state",
        ];
        let mut pair = Pair::new(ram(64), FrontOptions::default(), BackOptions::default());
        for (name, value) in nodes {
            let path = format!("{}/{}", pair.front.end().path(), NAMES[name]);
            let _ = pair.buses[0].store().write(Transaction::NONE, &path, &value);
            for _ in 0..5 {
                let _ = (pair.buses[1].poll(), pair.back.poll());
            }
        }
    }
}

#[test]
fn a_grant_that_ends_in_the_middle_fails_one_request() {
    let mut pair = Pair::new(|_| SlowDisk::new(64), FrontOptions::default(), BackOptions::default());
    pair.back.disk_mut().may_end = false;
    let granted = pair.front.lend(pair.buffer(&[0; 4096])).unwrap();
    let reference = granted.refs()[0];
    pair.submit(Operation::Read, 0, Data::Granted(granted));
    pair.settle();
    // The transport lets a front end that is closed down take its pages back while the disk works.
    pair.machine.destroy(FRONT);
    pair.back.disk_mut().may_end = true;
    for _ in 0..10 {
        let _ = (pair.buses[1].poll(), pair.back.poll());
    }
    let gone = pair.buses[1].transport().map(FRONT, &[reference], Access::ReadOnly);
    assert!(gone.is_err());
    assert!(pair.back.is_closed());
}

#[test]
fn a_back_end_that_keeps_pages_is_left() {
    let mut pair = Pair::new(|_| SlowDisk::new(64), FrontOptions::default(), BackOptions::default());
    pair.back.disk_mut().may_end = false;
    let data = Data::Buffer(pair.buffer(&[1; 4096]));
    pair.submit(Operation::Read, 0, data);
    pair.settle();
    let path = format!("{}/ring-ref", pair.front.end().path());
    let back = pair.buses[1].transport();
    let map =
        |reference| back.map(FRONT, &[crate::transport::GrantRef(reference)], Access::ReadWrite).unwrap();
    let ring = map(pair.buses[0].value(&path).unwrap());
    // The reference of the request's first segment.
    let kept = map(ring[16 + 6].load(Relaxed));
    pair.back.disk_mut().may_end = true;
    pair.settle();
    assert_eq!(pair.front.completed().map(|done| done.result), Some(Err(Failure::Held)));
    assert!(!pair.front.is_connected());
    drop(kept);
}

#[test]
fn grants_for_good_are_all_that_a_persistent_connection_takes() {
    let machine = Machine::new();
    let buses = [FRONT, BACK].map(|id| Bus::new(machine.domain(id)));
    let (at_front, at_back) = machine.plug("vbd", 1, FRONT, BACK);
    let options = FrontOptions { persistent: true, ..Default::default() };
    let mut front = Front::new(End::front(&buses[0], &at_front).unwrap(), options);
    let back = buses[1].transport().store();
    let nodes = [
        ("feature-persistent", "1"),
        ("sectors", "64"),
        ("sector-size", "512"),
        ("physical-sector-size", "0"),
        ("state", "2"),
        ("state", "4"),
    ];
    for (name, value) in nodes {
        back.write(Transaction::NONE, &format!("{at_back}/{name}"), value.as_bytes()).unwrap();
        let _ = (buses[0].poll(), front.poll());
    }
    assert!(front.is_connected() && front.is_persistent());
    assert_eq!(front.geometry().map(|geometry| geometry.physical_block_size), Some(512), "0 is no size");
    assert_eq!(buses[0].value(&format!("{at_front}/feature-persistent")), Some(1));
    let buffer = buses[0].transport().buffer(1).unwrap();
    let make = |data| Request { tag: 0, operation: Operation::Read, sector: 0, sectors: 8, data, offset: 0 };
    let (error, request) = front.submit(make(Data::Buffer(buffer))).unwrap_err();
    assert_eq!(error, SubmitError::NotGranted);
    let Data::Buffer(buffer) = request.data else { panic!() };
    let granted = front.lend(buffer).unwrap();
    let mut bytes = [0; 4];
    bytes.as_mut_bytes().fill(1);
    words::store(&granted, 0, &bytes);
    front.submit(make(Data::Granted(granted))).unwrap();
}
