//! Memory as a quantity: which frames are free, how many each domain owns, and how frames move between the two. What a
//! frame is *used as* is the business of [`crate::page`].

mod alloc;
mod buddy;
mod pieces;
mod reservation;

pub use buddy::{FrameAllocator, MAX_ORDER};
pub(crate) use pieces::{Growing, Phase, Trade, Wanted};
pub use reservation::Reservation;
