//! Page types.
mod error;
mod info;
mod tlb;

pub use error::PageError;
pub use info::{Count, DOMID_IO, DOMID_XEN, FrameInfo, PageType, Type};
pub use tlb::TlbClock;
