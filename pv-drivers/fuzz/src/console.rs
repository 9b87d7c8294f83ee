//! The console's ends.

use core::sync::atomic::Ordering::Relaxed;

use pv_drivers::console::{Back, Front};
use pv_drivers::transport::host::HostTransport;
use pv_drivers::xenbus::{Bus, End};

use crate::input::Input;
use crate::liar::{Honest, LIAR, Liar, settle};

/// What a front end writes.
const NODES: &[&str] = &["ring-ref", "port", "state"];
/// Words of the page: input's indices and output's.
const INDICES: usize = 768;

/// The end that is lied to.
enum Side {
    Front(Front<HostTransport>),
    Back(Back<HostTransport>),
}

/// Does the same with either.
macro_rules! either {
    ($side:expr, $end:ident => $do:expr) => {
        match $side {
            Side::Front($end) => $do,
            Side::Back($end) => $do,
        }
    };
}

struct Using {
    bus: Bus<HostTransport>,
    side: Side,
}

impl Honest for Using {
    fn poll(&mut self) -> bool {
        let mut bytes = [0; 100];
        let read = either!(&mut self.side, end => end.read(&mut bytes));
        assert!(read <= bytes.len());
        self.bus.poll() | either!(&mut self.side, end => end.poll()) | (read > 0)
    }

    fn is_connected(&self) -> bool {
        either!(&self.side, end => end.is_connected())
    }
}

/// Either end, and another that lies.
pub fn console(data: &[u8]) {
    let mut input = Input(data);
    let front_lies = input.byte() & 1 == 0;
    let (mut liar, bus, path) = Liar::new("console", front_lies);
    let end = if front_lies { End::back(&bus, &path) } else { End::front(&bus, &path) };
    let Ok(end) = end else { return };
    let side = if front_lies { Side::Back(Back::new(end)) } else { Side::Front(Front::new(end)) };
    let mut using = Using { bus, side };
    connect(&mut liar, &mut using);
    assert!(using.is_connected());
    while !input.is_empty() {
        match input.below(9) {
            0 => liar.scribble(&mut input),
            1 => liar.spoil(NODES, &mut input),
            2 => liar.revoke(&mut input),
            3 if front_lies => connect(&mut liar, &mut using),
            4 | 5 => {
                let (at, value) = (INDICES + input.below(4), input.number());
                let page = liar.pages.first().and_then(Option::as_ref).map(|page| &page[..]);
                if let Some(page) = page.or_else(|| liar.mapped.first().map(|page| &page[..])) {
                    page[at].store(value, Relaxed);
                }
            }
            6 => {
                let bytes = vec![7; usize::from(input.byte()) * 10];
                assert!(either!(&mut using.side, end => end.write(&bytes)) <= bytes.len());
            }
            _ => drop(using.poll()),
        }
    }
    settle(&mut using);
    if front_lies {
        liar.machine.destroy(LIAR);
        settle(&mut using);
        assert!(!using.is_connected(), "there is no front end any more");
    } else {
        either!(&mut using.side, end => end.close());
        liar.mapped.clear();
        liar.set("state", 6);
        settle(&mut using);
        assert!(either!(&using.side, end => end.is_closed()));
    }
}

/// Connects as an end does that means it.
fn connect(liar: &mut Liar, using: &mut Using) {
    if let Side::Front(_) = using.side {
        liar.set("state", 2);
        settle(using);
        liar.map(&["ring-ref"], "port");
        liar.set("state", 4);
    } else {
        liar.set("state", 6);
        settle(using);
        liar.set("state", 1);
        settle(using);
        liar.lend();
        liar.set("ring-ref", liar.grant(0));
        liar.set("port", liar.port_number());
        liar.set("state", 3);
    }
    settle(using);
}
