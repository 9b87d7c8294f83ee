//! Memory as a quantity: which frames are free, how many each domain owns, and how frames move between the two. What a
//! frame is *used as* is the business of [`crate::page`].

mod alloc;
mod buddy;
mod claim;
mod pieces;
mod reservation;
#[cfg(test)]
mod tests;

pub use buddy::{FrameAllocator, MAX_ORDER};
pub(crate) use claim::{Claim, Taker, frames_for};
pub(crate) use pieces::{Growing, Phase, Trade, Wanted};
pub use reservation::Reservation;
