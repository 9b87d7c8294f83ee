//! Xenstore: the tree of small values by which domains find each other's devices.
//!
//! - [`ring`]: the shared page of a connection, either end.
//! - [`message`]: what travels through it: headers, strings, permissions, names of errors.
//! - [`Client`] (feature `alloc`): a connection that many callers use at once. It waits for answers, or hands out
//!   [`Reply`]s that are futures, and queues the events of watches.
//! - [`connect`]: the client of a guest, over the page that `start_info` names.
//!
//! Requests flow from callers through the client's outgoing queue into the ring; whoever looks next ([`Client::poll`], any
//! waiting caller) moves what came back to the replies and events it belongs to.

#[cfg(feature = "alloc")]
mod client;
#[cfg(feature = "alloc")]
mod guest;
pub mod message;
#[cfg(feature = "alloc")]
mod operations;
#[cfg(feature = "alloc")]
mod queue;
pub mod ring;
#[cfg(all(test, feature = "alloc"))]
mod tests;

#[cfg(feature = "alloc")]
pub use client::{Client, Event, Link, Reply};
#[cfg(feature = "alloc")]
pub use guest::{GuestLink, GuestRing, connect};
pub use message::Permission;
pub use ring::Ring;

/// A transaction that is under way. 0 stands for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Transaction(pub u32);

impl Transaction {
    /// Outside of any transaction.
    #[doc(alias = "XBT_NIL")]
    pub const NONE: Self = Self(0);
}
