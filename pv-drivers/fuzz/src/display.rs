//! The ends of display, keyboard and pointer.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use pv_drivers::display::FORMAT;
use pv_drivers::display::input::{Input as Event, Keyboard, Source};
use pv_drivers::display::panel::{self, Display, Panel, Picture};
use pv_drivers::display::screen::Screen;
use pv_drivers::store::{Store, Transaction};
use pv_drivers::transport::host::{HostTransport, Port};
use pv_drivers::transport::{Port as _, Transport};
use pv_drivers::xenbus::{Bus, Device, Driver, End, Error};
use xen_abi::io::displif::{XendisplReq, XendisplResp};
use zerocopy::{FromZeros, IntoBytes};

use crate::input::Input;
use crate::liar::{HONEST, Honest, LIAR, Liar, settle};

/// What the front ends write.
const FRONT_NODES: &[&str] = &[
    "0/req-ring-ref",
    "0/evt-ring-ref",
    "0/req-event-channel",
    "0/evt-event-channel",
    "page-gref",
    "event-channel",
    "request-abs-pointer",
    "version",
    "state",
];
/// What the back ends write.
const BACK_NODES: &[&str] = &["versions", "feature-abs-pointer", "width", "height", "state"];
/// Bytes of a slot of the display's ring.
const SLOT: usize = size_of::<XendisplReq>();
/// The word of a page of events with the index that the back end moves on.
const PRODUCED: usize = 1;

/// A device whose driver is asked for work after each step of the connection.
struct Using<D> {
    bus: Bus<HostTransport>,
    device: Device<HostTransport, D>,
    work: fn(&mut Device<HostTransport, D>) -> bool,
}

impl<D: Driver<HostTransport>> Honest for Using<D> {
    fn poll(&mut self) -> bool {
        self.bus.poll() | self.device.poll() | (self.work)(&mut self.device)
    }

    fn is_connected(&self) -> bool {
        self.device.is_connected()
    }
}

/// Looks at some pixels.
struct Glance;

impl Panel for Glance {
    fn show(&mut self, picture: &Picture<'_>) {
        let (right, bottom) = (picture.width - 1, picture.height - 1);
        for (x, y) in [(0, 0), (right, 0), (0, bottom), (right, bottom)] {
            assert!(picture.get(x, y).is_some_and(|pixel| pixel <= 0x00ff_ffff));
        }
        assert_eq!(picture.get(right + 1, 0), None);
    }
}

/// The back ends, and front ends that lie.
pub fn back(data: &[u8]) {
    let mut input = Input(data);
    if input.byte() & 1 == 0 {
        let work = |device: &mut Device<_, Source<_>>| {
            device.driver_mut().send(Event::Key { code: 1, pressed: true });
            false
        };
        back_end("vkbd", Source::new((800, 600)), work, &mut input);
    } else {
        let work = |device: &mut Device<_, Display<_>>| device.driver_mut().poll() | panel::check(device);
        back_end("vdispl", Display::new(Box::new(Glance)), work, &mut input);
    }
}

fn back_end<D: Driver<HostTransport>>(
    kind: &str,
    driver: D,
    work: fn(&mut Device<HostTransport, D>) -> bool,
    input: &mut Input<'_>,
) {
    let (mut liar, bus, path) = Liar::new(kind, true);
    let Ok(end) = End::back(&bus, &path) else { return };
    let mut using = Using { bus, device: Device::new(end, driver), work };
    let mut second = connect(&mut liar, &mut using);
    assert!(using.is_connected());
    while !input.is_empty() {
        match input.below(8) {
            0 => liar.scribble(input),
            1 => liar.spoil(FRONT_NODES, input),
            2 => liar.revoke(input),
            3 => second = connect(&mut liar, &mut using),
            4..=6 => request(&liar, input),
            _ => drop(using.poll()),
        }
    }
    settle(&mut using);
    drop(second);
    liar.machine.destroy(LIAR);
    settle(&mut using);
    assert!(!using.is_connected(), "there is no front end any more");
}

/// Connects as a front end does that means it; the port of events.
fn connect(liar: &mut Liar, using: &mut impl Honest) -> Option<Port> {
    liar.set("state", 6);
    settle(using);
    liar.set("state", 1);
    settle(using);
    liar.lend();
    let events = liar.transport.listen(HONEST).ok();
    for (name, page) in [("0/req-ring-ref", 0), ("0/evt-ring-ref", 1), ("page-gref", 1)] {
        liar.set(name, liar.grant(page));
    }
    // A list of pages that goes on in itself.
    if let Some(list) = &liar.pages[2] {
        list.iter().for_each(|word| word.store(liar.grant(3), Relaxed));
        list[0].store(liar.grant(2), Relaxed);
    }
    liar.set("0/req-event-channel", liar.port_number());
    liar.set("event-channel", liar.port_number());
    liar.set("0/evt-event-channel", events.as_ref().map_or(0, Port::number));
    liar.set("state", 3);
    settle(using);
    events
}

/// A request that often is nearly right.
fn request(liar: &Liar, input: &mut Input<'_>) {
    let mut request = XendisplReq::new_zeroed();
    (request.id, request.operation) = (input.u16(), 0x10 + input.byte() % 8);
    let mut fields = [0u32; 14];
    for field in &mut fields[..10] {
        *field = match input.below(6) {
            0 => liar.reference(input),
            1 => input.one_of(&[32, FORMAT, 4096, 8192]),
            2 => input.number(),
            _ => input.byte().into(),
        };
    }
    if input.below(2) == 0 {
        // The name's upper half, and what is nearly always the same.
        (fields[1], fields[4], fields[6]) = (0, 32, liar.grant(2));
        fields[5] = fields[2].wrapping_mul(fields[3]).wrapping_mul(4);
    }
    request.op.copy_from_slice(fields.as_bytes());
    liar.push(0, SLOT, &request);
}

/// The front ends, and back ends that lie.
pub fn front(data: &[u8]) {
    let mut input = Input(data);
    if input.byte() & 1 == 0 {
        let work = |device: &mut Device<_, Keyboard<_>>| match device.driver_mut().take() {
            Ok(event) => event.is_some(),
            Err(_) => device.is_connected() && fail(device, &Error::Peer("its events cannot be")),
        };
        front_end("vkbd", Keyboard::default(), work, &["page-gref"], "event-channel", &mut input);
    } else {
        let work = |device: &mut Device<_, Screen<_>>| {
            device.driver_mut().set(3, 3, 3);
            match device.driver_mut().present() {
                Ok(shown) => shown | device.driver_mut().sleep(),
                Err(why) => device.is_connected() && fail(device, &why),
            }
        };
        let pages = ["0/req-ring-ref", "0/evt-ring-ref"];
        front_end("vdispl", Screen::default(), work, &pages, "0/req-event-channel", &mut input);
    }
}

/// What one does with a back end that does not keep to the protocol.
fn fail<D: Driver<HostTransport>>(device: &mut Device<HostTransport, D>, why: &Error) -> bool {
    device.fail(why);
    true
}

fn front_end<D: Driver<HostTransport>>(
    kind: &str,
    driver: D,
    work: fn(&mut Device<HostTransport, D>) -> bool,
    pages: &[&str],
    port: &str,
    input: &mut Input<'_>,
) {
    let (mut liar, bus, path) = Liar::new(kind, false);
    bus.store().write(Transaction::NONE, &format!("{path}/0/resolution"), b"40x30").expect("its own node");
    let Ok(end) = End::front(&bus, &path) else { return };
    let mut using = Using { bus, device: Device::new(end, driver), work };
    offer(&mut liar, &mut using, pages, port);
    assert!(using.is_connected());
    while !input.is_empty() {
        match input.below(8) {
            0 => liar.scribble(input),
            1 => liar.spoil(BACK_NODES, input),
            2 => offer(&mut liar, &mut using, pages, port),
            3 => liar.mapped.clear(),
            4 => {
                let mut response = XendisplResp::new_zeroed();
                (response.operation, response.id) = (0x10 + input.byte() % 8, input.u16());
                response.status = if input.below(3) == 0 { input.number().cast_signed() } else { 0 };
                liar.answer(0, SLOT, &response);
            }
            5 => {
                if let Some(events) = liar.mapped.last() {
                    events[256 + input.below(20)].store(input.number(), Relaxed);
                    let produced = events[PRODUCED].load(Acquire);
                    events[PRODUCED].store(produced.wrapping_add(input.below(3) as u32), Release);
                }
            }
            _ => drop(using.poll()),
        }
    }
    settle(&mut using);
    using.device.close();
    settle(&mut using);
    liar.mapped.clear();
    liar.set("state", 6);
    settle(&mut using);
    assert!(using.device.is_closed());
}

/// Offers a device as a back end does that means it.
fn offer<D: Driver<HostTransport>>(liar: &mut Liar, using: &mut Using<D>, pages: &[&str], port: &str) {
    liar.mapped.clear();
    liar.set("state", 6);
    settle(using);
    liar.set("versions", 1);
    liar.set("feature-abs-pointer", 1);
    using.device.reopen();
    liar.set("state", 2);
    settle(using);
    liar.map(pages, port);
    liar.set("state", 4);
    settle(using);
}
