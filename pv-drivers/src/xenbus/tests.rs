//! Two ends in one process: they connect, part, and find each other again.

extern crate std;
use std::format;
use std::string::ToString;
use std::vec::Vec;

use super::{Bus, Device, Driver, End, Error, Nodes, Role, State};
use crate::store::{Store, Transaction};
use crate::transport::Transport;
use crate::transport::host::{HostTransport, Machine};

/// What was called, in order.
#[derive(Debug, Default)]
struct Log<const FRONT: bool, const EARLY: bool> {
    calls: Vec<&'static str>,
    refuse: bool,
}

impl<const FRONT: bool, const EARLY: bool> Driver<HostTransport> for Log<FRONT, EARLY> {
    const ROLE: Role = if FRONT { Role::Front } else { Role::Back };
    const READY: State = if EARLY { State::Connected } else { State::Initialised };

    fn publish(&mut self, end: &End<HostTransport>) -> Result<Nodes, Error> {
        self.calls.push("publish");
        assert!(FRONT != (end.peers::<u32>("offer").is_none()));
        let mut nodes = Nodes::new();
        nodes.set(if FRONT { "wish" } else { "offer" }, 7);
        Ok(nodes)
    }

    fn connect(&mut self, end: &End<HostTransport>) -> Result<Nodes, Error> {
        self.calls.push("connect");
        assert_eq!(end.peers(if FRONT { "offer" } else { "wish" }), Some(7));
        if self.refuse { Err(Error::Peer("no")) } else { Ok(Nodes::new()) }
    }

    fn disconnect(&mut self, _end: &End<HostTransport>) {
        self.calls.push("disconnect");
    }
}

struct Pair<const EARLY: bool> {
    machine: Machine,
    buses: [Bus<HostTransport>; 2],
    front: Device<HostTransport, Log<true, EARLY>>,
    back: Device<HostTransport, Log<false, EARLY>>,
}

impl<const EARLY: bool> Pair<EARLY> {
    fn new() -> Self {
        let machine = Machine::new();
        let buses = [1, 2].map(|id| Bus::new(machine.domain(id)));
        machine.plug("test", 5, 1, 2);
        let [front, back] = [buses[0].front_ends("test"), buses[1].back_ends("test")];
        let front = Device::new(End::front(&buses[0], &front[0]).unwrap(), Log::default());
        let back = Device::new(End::back(&buses[1], &back[0]).unwrap(), Log::default());
        Self { machine, buses, front, back }
    }

    /// Polls until nothing happens any more.
    fn settle(&mut self) {
        for _ in 0..100 {
            let woken = self.buses.each_ref().map(Bus::poll).contains(&true);
            if !(self.front.poll() | self.back.poll() | woken) {
                return;
            }
        }
        panic!("the ends do not come to rest: {:?} {:?}", self.front, self.back);
    }

    fn states(&self) -> [State; 2] {
        [self.front.end().state(), self.back.end().state()]
    }
}

#[test]
fn both_ends_connect() {
    let mut pair = Pair::<false>::new();
    pair.settle();
    assert_eq!(pair.states(), [State::Connected; 2]);
    assert!(pair.front.is_connected() && pair.back.is_connected());
    assert_eq!(pair.front.driver().calls, ["publish", "connect"]);
    assert_eq!(pair.back.driver().calls, ["publish", "connect"]);
    assert!(!pair.front.poll() && !pair.buses[0].poll(), "at rest");
}

#[test]
fn a_front_end_may_say_connected_first() {
    let mut pair = Pair::<true>::new();
    pair.settle();
    assert_eq!(pair.states(), [State::Connected; 2]);
    assert!(pair.front.is_connected() && pair.back.is_connected());
    assert_eq!(pair.front.driver().calls, ["publish", "connect"]);
}

#[test]
fn closing_gives_back_on_both_sides_and_opening_connects_again() {
    let mut pair = Pair::<false>::new();
    pair.settle();
    pair.front.close();
    pair.settle();
    assert_eq!(pair.states(), [State::Closed; 2]);
    assert!(pair.front.is_closed() && pair.back.is_closed());
    assert_eq!(pair.back.driver().calls.last(), Some(&"disconnect"));
    pair.front.reopen();
    pair.settle();
    assert_eq!(pair.states(), [State::Connected; 2]);
    assert_eq!(pair.front.driver().calls, ["publish", "connect", "disconnect", "publish", "connect"]);
    pair.back.close();
    pair.settle();
    assert_eq!(pair.states(), [State::Closed; 2]);
    assert!(pair.front.is_closed() && pair.back.is_closed());
}

#[test]
fn a_device_that_is_taken_away_does_not_come_back() {
    let mut pair = Pair::<false>::new();
    pair.settle();
    let mut nodes = Nodes::new();
    nodes.set("online", 0);
    pair.back.end().publish(&nodes).unwrap();
    pair.front.close();
    pair.settle();
    pair.front.reopen();
    pair.settle();
    assert_eq!(pair.states(), [State::Initialising, State::Closed]);
}

#[test]
fn a_front_end_finds_a_back_end_that_was_started_anew() {
    let mut pair = Pair::<false>::new();
    pair.settle();
    pair.back.close();
    pair.settle();
    let path = pair.back.end().path().to_string();
    pair.back = Device::new(End::back(&pair.buses[1], &path).unwrap(), Log::default());
    pair.settle();
    assert_eq!(pair.states(), [State::Connected; 2]);
}

#[test]
fn a_new_kernel_in_the_front_ends_domain_is_served() {
    let mut pair = Pair::<false>::new();
    pair.settle();
    let path = pair.front.end().path().to_string();
    pair.front = Device::new(End::front(&pair.buses[0], &path).unwrap(), Log::default());
    pair.settle();
    assert_eq!(pair.states(), [State::Connected; 2]);
    assert_eq!(pair.back.driver().calls, ["publish", "connect", "disconnect", "publish", "connect"]);
}

#[test]
fn a_front_end_that_vanishes_leaves_a_closed_back_end() {
    let mut pair = Pair::<false>::new();
    pair.settle();
    pair.machine.destroy(1);
    pair.settle();
    assert_eq!(pair.states()[1], State::Closed);
    assert!(pair.back.is_closed());
}

#[test]
fn a_back_end_that_refuses_says_why() {
    let mut pair = Pair::<false>::new();
    pair.back.driver_mut().refuse = true;
    pair.settle();
    assert_eq!(pair.states(), [State::Closed; 2]);
    let error = format!("error/{}/error", pair.back.end().path());
    assert_eq!(pair.buses[1].text(&error).as_deref(), Some("no"));
}

#[test]
fn garbage_in_the_others_directory_is_waited_out() {
    let mut pair = Pair::<false>::new();
    let state = format!("{}/state", pair.back.end().path());
    for garbage in [&b"\xff"[..], b"", b"7", b"99999999999", b"4"] {
        pair.buses[1].store().write(Transaction::NONE, &state, garbage).unwrap();
        let _ = (pair.buses[0].poll(), pair.front.poll());
        assert!(!pair.front.is_connected());
    }
    assert!(End::front(&pair.buses[0], "device/test/6").is_err());
    assert_eq!(pair.buses[0].value::<u32>("domid"), Some(u32::from(pair.buses[0].transport().id())));
}

#[test]
fn a_restored_domain_finds_its_new_back_end() {
    let mut pair = Pair::<false>::new();
    pair.settle();
    // The toolstack makes the device anew, with another back end; the old one never hears of it.
    pair.machine.plug("test", 5, 1, 3);
    pair.buses[1] = Bus::new(pair.machine.domain(3));
    let path = pair.buses[1].back_ends("test").remove(0);
    pair.back = Device::new(End::back(&pair.buses[1], &path).unwrap(), Log::default());
    pair.front.resume().unwrap();
    assert!(!pair.front.is_connected());
    assert_eq!(pair.front.end().peer(), 3);
    pair.settle();
    assert_eq!(pair.states(), [State::Connected; 2]);
    assert_eq!(pair.front.driver().calls, ["publish", "connect", "disconnect", "publish", "connect"]);
    assert_eq!(pair.back.driver().calls, ["publish", "connect"]);
}

#[test]
fn a_closed_end_stays_closed_in_a_restored_domain() {
    let mut pair = Pair::<false>::new();
    pair.settle();
    pair.front.close();
    pair.settle();
    pair.machine.plug("test", 5, 1, 2);
    pair.front.resume().unwrap();
    pair.settle();
    assert_eq!(pair.states()[0], State::Closed);
    assert!(!pair.front.is_connected());
    pair.front.reopen();
    pair.settle();
    assert!(pair.front.is_connected());
}

#[test]
fn a_device_that_is_gone_after_a_restore_says_so() {
    let mut pair = Pair::<false>::new();
    pair.settle();
    let toolstack = pair.machine.domain(0);
    toolstack.store().remove(Transaction::NONE, "/local/domain/1/device").unwrap();
    assert!(matches!(pair.front.resume(), Err(Error::Peer(_))));
    assert_eq!(pair.front.driver().calls, ["publish", "connect", "disconnect"]);
}
