//! Page types.

mod doomed;
mod error;
mod foreign;
mod info;
mod pin;
pub mod pte;
mod ptwr;
mod refs;
mod segment;
mod teardown;
#[cfg(test)]
mod tests;
mod tlb;
mod types;
mod update;
mod validate;

pub use error::PageError;
pub use foreign::EntryPlace;
pub use info::{Count, DOMID_IO, DOMID_XEN, FrameInfo, PageType, Type};
pub use ptwr::PtWrite;
pub(crate) use segment::is_hypervisors;
pub use segment::{GDT_ENTRIES, LDT_ENTRIES, LDT_FRAMES, check_descriptor};
pub(crate) use teardown::Teardown;
pub use tlb::TlbClock;
pub use update::Walk;
pub(crate) use update::{UpdateError, Write};
pub(crate) use validate::Pages;
