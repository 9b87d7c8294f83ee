//! A picture arrives pixel by pixel, keys in order, and nonsense nowhere.

extern crate std;

use core::sync::atomic::Ordering::Relaxed;
use std::boxed::Box;
use std::format;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

use proptest::prelude::*;
use xen_abi::io::displif::{XenDisplifRing, XendisplReq};
use zerocopy::{FromZeros, IntoBytes};

use super::input::{Input, Keyboard, Source};
use super::panel::{self, Display, Panel, Picture};
use super::screen::Screen;
use crate::ring::Front;
use crate::store::{Store, Transaction};
use crate::transport::host::{HostTransport, Machine};
use crate::transport::{Access, Granted, Port, Transport};
use crate::xenbus::{Bus, Device, Driver, End};

/// Two domains and a device of some kind.
struct Pair<F, B> {
    machine: Machine,
    buses: [Bus<HostTransport>; 2],
    front: Device<HostTransport, F>,
    back: Device<HostTransport, B>,
}

impl<F: Driver<HostTransport>, B: Driver<HostTransport>> Pair<F, B> {
    fn new(kind: &str, size: &str, front: F, back: B) -> Self {
        let machine = Machine::new();
        let buses = [1, 2].map(|id| Bus::new(machine.domain(id)));
        let (front_path, back_path) = machine.plug(kind, 0, 1, 2);
        let resolution = format!("{front_path}/0/resolution");
        buses[0].store().write(Transaction::NONE, &resolution, size.as_bytes()).unwrap();
        let front = Device::new(End::front(&buses[0], &front_path).unwrap(), front);
        let back = Device::new(End::back(&buses[1], &back_path).unwrap(), back);
        Self { machine, buses, front, back }
    }

    fn run(&mut self) {
        for _ in 0..20 {
            let _ = self.buses[0].poll() | self.buses[1].poll() | self.front.poll() | self.back.poll();
        }
    }
}

/// What a panel saw: the last picture, line by line.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<(u32, Vec<u32>)>>);

impl Panel for Seen {
    fn show(&mut self, picture: &Picture<'_>) {
        let lines = (0..picture.height).flat_map(|y| (0..picture.width).map(move |x| (x, y)));
        let pixels = lines.map(|(x, y)| picture.get(x, y).unwrap()).collect();
        assert_eq!(picture.get(picture.width, 0), None);
        let mut seen = self.0.lock().unwrap();
        *seen = (seen.0 + 1, pixels);
    }

    fn clear(&mut self) {
        *self.0.lock().unwrap() = (0, Vec::new());
    }
}

fn screen(size: &str) -> (Pair<Screen<HostTransport>, Display<HostTransport>>, Seen) {
    let seen = Seen::default();
    let mut pair = Pair::new("vdispl", size, Screen::default(), Display::new(Box::new(seen.clone())));
    pair.run();
    (pair, seen)
}

#[test]
fn a_picture_is_seen_as_it_was_drawn() {
    // Large enough for a directory of two pages.
    let (mut pair, seen) = screen("1200x1000");
    assert!(pair.front.is_connected() && pair.back.is_connected());
    assert!(pair.back.driver_mut().poll());
    let colour = |x: u32, y: u32| (x * 7 + y * 1201) & 0x00ff_ffff;
    let front = pair.front.driver_mut();
    assert_eq!(front.size(), (1200, 1000));
    for (x, y) in (0..1001).flat_map(|y| (0..1201).map(move |x| (x, y))) {
        front.set(x, y, colour(x, y));
    }
    assert!(front.present().unwrap());
    assert!(!front.present().unwrap(), "not before the last one was taken");
    pair.back.driver_mut().poll();
    assert!(pair.front.driver_mut().poll().unwrap());
    let expected: Vec<u32> = (0..1000).flat_map(|y| (0..1200).map(move |x| colour(x, y))).collect();
    assert!(*seen.0.lock().unwrap() == (2, expected), "when it was configured, and when it was presented");
    for _ in 0..200 {
        assert!(pair.front.driver_mut().present().unwrap());
        pair.back.driver_mut().poll();
    }
    pair.front.close();
    pair.run();
    assert!(seen.0.lock().unwrap().1.is_empty());
    pair.front.reopen();
    pair.run();
    assert!(pair.back.driver_mut().poll() && pair.front.is_connected());
}

#[cfg(feature = "embedded-graphics")]
#[test]
fn it_is_a_draw_target() {
    use embedded_graphics_core::draw_target::DrawTarget;
    use embedded_graphics_core::geometry::{Point, Size};
    use embedded_graphics_core::pixelcolor::Rgb888;
    use embedded_graphics_core::primitives::Rectangle;

    let (mut pair, seen) = screen("64x48");
    let screen = pair.front.driver_mut();
    screen.clear(Rgb888::new(1, 2, 3)).unwrap();
    // Half of it is outside.
    screen
        .fill_solid(&Rectangle::new(Point::new(-5, 40), Size::new(10, 20)), Rgb888::new(255, 0, 0))
        .unwrap();
    screen.present().unwrap();
    pair.back.driver_mut().poll();
    let seen = seen.0.lock().unwrap();
    for (at, pixel) in seen.1.iter().enumerate() {
        let inside = at % 64 < 5 && at / 64 >= 40;
        assert_eq!(*pixel, if inside { 0x00ff_0000 } else { 0x0001_0203 });
    }
}

#[test]
fn an_impossible_resolution_does_not_connect() {
    for size in ["", "x", "0x5", "100000x10", "-1x7", "800x600x2", "800"] {
        assert!(!screen(size).0.front.is_connected(), "{size}");
    }
}

#[test]
fn keys_and_movements_arrive_in_order_and_only_as_many_as_fit() {
    let mut pair = Pair::new("vkbd", "", Keyboard::default(), Source::new((800, 600)));
    assert!(!pair.back.driver_mut().send(Input::Motion { x: 0, y: 0, wheel: 0 }), "not connected");
    pair.run();
    assert!(pair.back.driver().is_absolute());
    let inputs = [
        Input::Key { code: 30, pressed: true },
        Input::Position { x: 799, y: 5, wheel: -1 },
        Input::Motion { x: -4, y: i32::MAX, wheel: 0 },
        Input::Key { code: 30, pressed: false },
    ];
    for _ in 0..100 {
        assert!(inputs.iter().all(|input| pair.back.driver_mut().send(*input)));
        let got: Vec<_> = core::iter::from_fn(|| pair.front.driver_mut().take().unwrap()).collect();
        assert_eq!(got, inputs);
    }
    let sent = (0..100).filter(|code| pair.back.driver_mut().send(Input::Key { code: *code, pressed: true }));
    assert_eq!(sent.count(), 51);
    let got = core::iter::from_fn(|| pair.front.driver_mut().take().unwrap()).count();
    assert_eq!(got, 51);
}

#[test]
fn events_that_cannot_be_are_found_out_and_unknown_ones_ignored() {
    let mut pair = Pair::new("vkbd", "", Keyboard::default(), Source::new((800, 600)));
    pair.run();
    let reference = pair.buses[1].value("/local/domain/1/device/vkbd/0/page-gref").unwrap();
    let page =
        pair.machine.domain(2).map(1, &[crate::transport::GrantRef(reference)], Access::ReadWrite).unwrap();
    page[256].store(0x77, Relaxed);
    page[1].store(1, Relaxed);
    assert_eq!(pair.front.driver_mut().take(), Ok(None));
    page[1].store(53, Relaxed);
    assert!(pair.front.driver_mut().take().is_err());
}

#[test]
fn a_large_buffer_is_mapped_and_unmapped_in_steps() {
    // 8,192 pages.
    let (mut pair, seen) = screen("8192x1024");
    assert!(pair.front.is_connected());
    pair.front.driver_mut().set(8191, 1023, 0x12_3456);
    for _ in 0..4 {
        assert!(pair.back.driver_mut().poll());
        assert_eq!(seen.0.lock().unwrap().0, 0, "not mapped as a whole yet");
    }
    assert!(pair.back.driver_mut().poll());
    let picture = seen.0.lock().unwrap().clone();
    assert_eq!((picture.0, picture.1.last()), (1, Some(&0x12_3456)));
    assert!(!pair.back.driver_mut().poll());
}

/// Writes events of no known type until `stop`, or until so many were taken that a call took more than its share.
fn events_without_end(
    page: &[core::sync::atomic::AtomicU32],
    stop: &core::sync::atomic::AtomicBool,
    slots: u32,
) {
    (256..1024).for_each(|word| page[word].store(0x77, Relaxed));
    while !stop.load(Relaxed) && page[0].load(Relaxed) < 1 << 20 {
        page[1].store(page[0].load(Relaxed).wrapping_add(slots), Relaxed);
    }
}

#[test]
fn a_front_end_takes_a_pages_worth_of_a_call_while_events_go_on() {
    let stop = core::sync::atomic::AtomicBool::new(false);
    let mut pair = Pair::new("vkbd", "", Keyboard::default(), Source::new((800, 600)));
    pair.run();
    let reference = pair.buses[1].value("/local/domain/1/device/vkbd/0/page-gref").unwrap();
    let keys =
        pair.machine.domain(2).map(1, &[crate::transport::GrantRef(reference)], Access::ReadWrite).unwrap();
    let (mut shown, _) = screen("64x64");
    let reference = shown.buses[1].value("/local/domain/1/device/vdispl/0/0/evt-ring-ref").unwrap();
    let flips =
        shown.machine.domain(2).map(1, &[crate::transport::GrantRef(reference)], Access::ReadWrite).unwrap();
    let most_of = |page: &[core::sync::atomic::AtomicU32], mut call: Box<dyn FnMut() + '_>| {
        let mut most = 0;
        while page[0].load(Relaxed) < 200_000 {
            let before = page[0].load(Relaxed);
            call();
            most = most.max(page[0].load(Relaxed) - before);
        }
        most
    };
    std::thread::scope(|scope| {
        scope.spawn(|| events_without_end(&keys, &stop, 51));
        scope.spawn(|| events_without_end(&flips, &stop, 63));
        let keys = most_of(&keys, Box::new(|| assert_eq!(pair.front.driver_mut().take(), Ok(None))));
        let flips = most_of(&flips, Box::new(|| assert!(shown.front.driver_mut().poll().is_ok())));
        stop.store(true, Relaxed);
        assert_eq!((keys, flips), (51, 63));
    });
}

/// Numbers that are often nearly right.
fn field() -> impl Strategy<Value = u32> {
    prop_oneof![0..4u32, 8..14u32, Just(32), Just(super::FORMAT), Just(4096), any::<u32>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn requests_that_make_no_sense_are_refused(
        requests in prop::collection::vec((0x0f..0x18u8, prop::array::uniform14(field())), 1..30), scribble in any::<Option<(u16, u32)>>(),
    ) {
        let machine = Machine::new();
        let buses = [1, 2].map(|id| Bus::new(machine.domain(id)));
        let (front, path) = machine.plug("vdispl", 0, 1, 2);
        let mut back = Device::new(End::back(&buses[1], &path).unwrap(), Display::new(Box::new(Seen::default())));
        let transport = machine.domain(1);
        let lend = || transport.lend(transport.buffer(1).unwrap(), 2, Access::ReadWrite).unwrap();
        // References 8 to 13; 10 and 11 are directories of each other's.
        let pages: Vec<_> = (0..6).map(|_| lend()).collect();
        for (page, other) in [(2, 11), (3, 10)] {
            pages[page].iter().for_each(|word| word.store(12, Relaxed));
            pages[page][0].store(other, Relaxed);
        }
        let ports = [0; 2].map(|_| transport.listen(2).unwrap());
        for (name, value) in [
            ("req-ring-ref", 8),
            ("evt-ring-ref", 9),
            ("req-event-channel", ports[0].number()),
            ("evt-event-channel", ports[1].number()),
        ] {
            let path = format!("{front}/0/{name}");
            buses[0].store().write(Transaction::NONE, &path, format!("{value}").as_bytes()).unwrap();
        }
        let mut pages = pages.into_iter();
        let ring = pages.next().unwrap();
        let refs = ring.refs()[0];
        let mut ring = Front::<XenDisplifRing, _>::new(ring).unwrap();
        prop_assert_eq!(refs.0, 8);
        buses[0].store().write(Transaction::NONE, &format!("{front}/state"), b"3").unwrap();
        for _ in 0..10 {
            let _ = buses[1].poll() | back.poll();
        }
        prop_assert!(back.is_connected());
        for (operation, fields) in &requests {
            let mut request = XendisplReq { operation: *operation, ..XendisplReq::new_zeroed() };
            request.op.copy_from_slice(fields.as_bytes());
            ring.push(&request).unwrap();
            let _ = ring.publish();
            back.driver_mut().poll();
            while ring.pop().unwrap().is_some() {}
        }
        if let Some((at, value)) = scribble {
            let page = machine.domain(2).map(1, &[refs], Access::ReadWrite).unwrap();
            page[usize::from(at) % 20].store(value, Relaxed);
            drop(page);
            back.driver_mut().poll();
            panel::check(&mut back);
        }
    }
}
