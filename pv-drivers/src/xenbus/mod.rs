//! How two ends find each other and connect: the states that both publish in xenstore.

mod state;

pub use state::{Role, State, next};
