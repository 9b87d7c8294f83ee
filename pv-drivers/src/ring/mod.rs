//! The shared ring of `io/ring.h`: requests one way, responses the other, in the same slots.
//!
//! # How it works
//!
//! The ring's memory starts with four indices: `req_prod` and `rsp_event` are the front end's to write, `rsp_prod`
//! and `req_event` the back end's. Indices count messages since the connection began and wrap at 2^32; the slot of
//! message `i` is `i` modulo the number of slots, a power of two. Each end keeps its own position privately and
//! publishes it when it wants the other to see a batch.
//!
//! A request occupies its slot until its response was written over it and taken, so at most as many requests are
//! under way as there are slots:
//!
//! ```text
//! front.consumed <= rsp_prod <= back.produced <= back.consumed <= req_prod <= front.produced
//!                      and front.produced - front.consumed <= slots
//! ```
//!
//! # Notifications
//!
//! An end that goes to sleep first writes into its event index the message that shall wake it, and then looks once
//! more ([`Front::finish`], [`Back::finish`]). The other end, after publishing, compares ([`Front::publish`],
//! [`Back::publish`]) and sends an event only where that message is among the new ones. Between the write of one
//! index and the read of the other lies a full fence on both sides: one of the two always sees the other.
//!
//! # Distrust
//!
//! The other end can write anything at any time. Messages are copied out once, and an index that breaks the order
//! above is [`Error::Corrupt`]: the end that finds it should close the connection.

mod back;
mod front;
mod memory;
#[cfg(test)]
mod orders;
#[cfg(test)]
mod tests;

use core::fmt;

pub use back::Back;
pub use front::Front;
pub use memory::{Memory, Word};
pub use xen_abi::io::ring::RingTypes;

/// Why a ring operation was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Every slot holds a request or an answer that was not taken yet.
    Full,
    /// A response to a request that nobody made (a mistake of the own side).
    Unasked,
    /// The other side published an index that cannot be.
    Corrupt,
    /// The memory does not hold the header and one slot.
    TooSmall,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the ring is full",
            Self::Unasked => "a response without a request",
            Self::Corrupt => "the other end of the ring published an impossible index",
            Self::TooSmall => "the memory is too small for a ring",
        })
    }
}

impl core::error::Error for Error {}
