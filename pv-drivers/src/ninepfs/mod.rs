//! A file system of another domain (`io/9pfs.h`): messages of 9P2000.L over rings of bytes.
//!
//! - [`back`] serves a [`tree::Tree`] of files in memory; [`server`] is what it answers, without any ring.
//! - [`front`] connects, and reads and writes files by their path.
//! - [`message`] has the numbers of the protocol, and how fields are laid out.
//!
//! Each end writes whole messages into its direction of the ring, piece by piece where there is no room for all of it, and
//! sends an event after each piece ([`ring`]). The back end works on one message of a ring at a time.
//!
//! What a front end sends is limited: the bytes that a tree holds, its nodes and names included, the handles of a
//! connection, and the size of a message. None of it is believed before it was checked.

pub mod back;
pub mod contents;
pub mod front;
pub mod message;
pub mod ring;
pub mod server;
#[cfg(test)]
mod tests;
pub mod tree;

/// The only dialect that is spoken here.
pub const DIALECT: &str = "9P2000.L";
