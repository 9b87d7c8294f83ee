//! Memory as a quantity: which frames are free, how many each domain owns, and the `memory_op` hypercalls that move
//! frames between the two. What a frame is *used as* is the business of [`crate::page`].

mod buddy;
mod reservation;

pub use buddy::{FrameAllocator, MAX_ORDER};
pub use reservation::Reservation;
