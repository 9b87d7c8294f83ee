//! The states of a connection (`io/xenbus.h`): what each end publishes in its xenstore directory, and which state
//! follows which.
//!
//! ```text
//! front  Initialising ─(back InitWait: publish ring and event channel)→ Initialised ─(back Connected)→ Connected
//! back   Initialising ─(device ready)→ InitWait ─(front Initialised or Connected: map the ring)→ Connected
//! either end: Closing or Closed at the other side → Closing → (everything given back) → Closed
//! ```
//!
//! [`next`] is the whole machine as a pure function; a driver does the work that a step stands for, publishes the
//! new state, and asks again whenever its own or the other end's state changes.

use core::fmt;

use xen_abi::io::xenbus as abi;

/// A published state.
#[doc(alias = "enum xenbus_state")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Nothing is published, or nothing that is known: the other end is not there.
    #[doc(alias = "XenbusStateUnknown")]
    Unknown,
    /// The end exists.
    #[doc(alias = "XenbusStateInitialising")]
    Initialising,
    /// The back end knows its device and waits for the front end's details.
    #[doc(alias = "XenbusStateInitWait")]
    InitWait,
    /// The front end published ring and event channel.
    #[doc(alias = "XenbusStateInitialised")]
    Initialised,
    /// In use.
    #[doc(alias = "XenbusStateConnected")]
    Connected,
    /// Being shut down; what was shared is still shared.
    #[doc(alias = "XenbusStateClosing")]
    Closing,
    /// Nothing is shared any more.
    #[doc(alias = "XenbusStateClosed")]
    Closed,
    /// In use, and being changed.
    #[doc(alias = "XenbusStateReconfiguring")]
    Reconfiguring,
    /// In use, and changed.
    #[doc(alias = "XenbusStateReconfigured")]
    Reconfigured,
}

/// The states by number.
const BY_NUMBER: [(u32, State); 9] = [
    (abi::XENBUS_STATE_UNKNOWN, State::Unknown),
    (abi::XENBUS_STATE_INITIALISING, State::Initialising),
    (abi::XENBUS_STATE_INIT_WAIT, State::InitWait),
    (abi::XENBUS_STATE_INITIALISED, State::Initialised),
    (abi::XENBUS_STATE_CONNECTED, State::Connected),
    (abi::XENBUS_STATE_CLOSING, State::Closing),
    (abi::XENBUS_STATE_CLOSED, State::Closed),
    (abi::XENBUS_STATE_RECONFIGURING, State::Reconfiguring),
    (abi::XENBUS_STATE_RECONFIGURED, State::Reconfigured),
];

impl State {
    /// The state that the contents of a `state` node stand for. What is not one of the numbers counts as
    /// [`Unknown`](Self::Unknown): the other end may write anything.
    #[must_use]
    pub fn from_node(contents: &[u8]) -> Self {
        let number = core::str::from_utf8(contents).ok().and_then(|text| text.trim().parse::<u32>().ok());
        BY_NUMBER.iter().find(|(known, _)| Some(*known) == number).map_or(Self::Unknown, |(_, state)| *state)
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u32 {
        BY_NUMBER
            .iter()
            .find(|(_, state)| *state == self)
            .map_or(abi::XENBUS_STATE_UNKNOWN, |(number, _)| *number)
    }

    /// Whether the ring is in use.
    #[must_use]
    pub const fn is_connected(self) -> bool {
        matches!(self, Self::Connected | Self::Reconfiguring | Self::Reconfigured)
    }

    /// Whether this end is on its way out, or gone.
    #[must_use]
    pub const fn is_leaving(self) -> bool {
        matches!(self, Self::Closing | Self::Closed)
    }
}

impl fmt::Display for State {
    /// The contents of the node.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that uses the device.
    Front,
    /// The one that has it.
    Back,
}

/// The state that follows for the end `role` in state `own`, whose other end shows `peer`; none: wait for a change.
#[must_use]
pub const fn next(role: Role, own: State, peer: State) -> Option<State> {
    match role {
        Role::Front => next_front(own, peer),
        Role::Back => next_back(own, peer),
    }
}

const fn next_front(own: State, peer: State) -> Option<State> {
    use State::*;
    match (own, peer) {
        // A back end that goes away takes the connection with it.
        (Connected | Reconfiguring | Reconfigured | Initialised, Closing | Closed | Unknown) => Some(Closing),
        (Closing, _) => Some(Closed),
        (Initialising, InitWait) => Some(Initialised),
        // Some back ends skip a state: being connected means that they took what was published.
        (Initialised, Connected | Reconfiguring | Reconfigured) => Some(Connected),
        _ => None,
    }
}

const fn next_back(own: State, peer: State) -> Option<State> {
    use State::*;
    match (own, peer) {
        (Initialising, _) => Some(InitWait),
        (InitWait, Initialised | Connected) => Some(Connected),
        (Connected | Reconfiguring | Reconfigured, Closing | Closed | Unknown | Initialising) => {
            Some(Closing)
        }
        // What is shared is given back when the front end has stopped using it.
        (Closing, Closed | Unknown | Initialising) => Some(Closed),
        // A front end that starts anew (another kernel in the same domain) finds the device again.
        (Closed, Initialising) => Some(InitWait),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::BTreeSet;
    use std::string::ToString;
    use std::vec;

    use super::*;

    #[test]
    fn nodes_hold_decimal_numbers() {
        for (number, state) in BY_NUMBER {
            assert_eq!(state.to_string(), number.to_string());
            assert_eq!(State::from_node(number.to_string().as_bytes()), state);
        }
        for garbage in [&b""[..], b"9", b"-1", b"4x", b"99999999999999999999", b"\xff\xfe", b"connected"] {
            assert_eq!(State::from_node(garbage), State::Unknown);
        }
    }

    /// All pairs that can be reached from `start` by steps of either end in any order.
    fn reachable(start: (State, State)) -> BTreeSet<(State, State)> {
        let (mut seen, mut open) = (BTreeSet::from([start]), vec![start]);
        while let Some((front, back)) = open.pop() {
            let steps = [
                next(Role::Front, front, back).map(|front| (front, back)),
                next(Role::Back, back, front).map(|back| (front, back)),
            ];
            for pair in steps.into_iter().flatten() {
                if seen.insert(pair) {
                    open.push(pair);
                }
            }
        }
        seen
    }

    fn final_pairs(start: (State, State)) -> BTreeSet<(State, State)> {
        let rests = |&(front, back): &(State, State)| {
            next(Role::Front, front, back).is_none() && next(Role::Back, back, front).is_none()
        };
        reachable(start).into_iter().filter(rests).collect()
    }

    #[test]
    fn two_new_ends_always_get_connected() {
        let end = final_pairs((State::Initialising, State::Initialising));
        assert_eq!(end, BTreeSet::from([(State::Connected, State::Connected)]));
    }

    #[test]
    fn when_one_end_closes_both_end_up_closed() {
        for start in [(State::Closing, State::Connected), (State::Connected, State::Closing)] {
            assert_eq!(final_pairs(start), BTreeSet::from([(State::Closed, State::Closed)]), "{start:?}");
        }
    }

    #[test]
    fn a_new_front_end_is_served_after_an_old_one_vanished() {
        for back in [State::Connected, State::Closing, State::Closed, State::InitWait] {
            let end = final_pairs((State::Initialising, back));
            assert_eq!(end, BTreeSet::from([(State::Connected, State::Connected)]), "{back:?}");
        }
    }

    #[test]
    fn a_back_end_never_gives_back_what_a_front_end_may_still_use() {
        for front in [State::Initialised, State::Connected, State::Closing] {
            assert_eq!(next(Role::Back, State::Closing, front), None);
        }
    }
}
