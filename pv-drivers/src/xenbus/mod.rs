//! How two ends find each other and connect, by what both publish in xenstore.
//!
//! - [`Bus`] is a domain's view of xenstore for drivers: it hands the events of watches to whoever set them
//!   ([`Watch`]), and finds devices ([`Bus::front_ends`], [`Bus::back_ends`]).
//! - [`End`] is one end of a device: its directory, the other end's, and the [`State`] of each.
//! - [`Device`] moves an end through the states and calls its [`Driver`] for the work that each step stands for.
//!
//! Data flows one way: a program polls the bus, which marks the watches that fired; it polls each device, which reads
//! the other end's state where its watch was marked, and steps. Nothing waits, except for xenstore's answers.
//!
//! What the other end writes is a string of its choice: a number that is none counts as missing, and a state that
//! does not fit is waited out.

mod bus;
mod device;
mod end;
mod state;
#[cfg(test)]
mod tests;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

pub use bus::{Bus, Watch};
pub use device::{Device, Driver, MOST_KEPT};
pub use end::End;
pub use state::{Role, State, next};

use crate::{store, transport};

/// Why an end does not connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Xenstore refused.
    Store(store::Error),
    /// The own domain cannot.
    Transport(transport::Error),
    /// The other end published something that cannot be used.
    Peer(&'static str),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<transport::Error> for Error {
    fn from(error: transport::Error) -> Self {
        Self::Transport(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => write!(f, "xenstore: {error}"),
            Self::Transport(error) => error.fmt(f),
            Self::Peer(what) => f.write_str(what),
        }
    }
}

impl core::error::Error for Error {}

/// Nodes to be published: names below the end's directory, and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes(Vec<(String, String)>);

impl Nodes {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn set(&mut self, name: impl Into<String>, value: impl ToString) {
        self.0.push((name.into(), value.to_string()));
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}
