//! Display, keyboard and pointer of another domain (`io/displif.h`, `io/kbdif.h`).
//!
//! - [`screen`] is the front end of a display: a frame buffer that this domain draws in, with the feature
//!   `embedded-graphics` as a draw target of that crate.
//! - [`panel`] is its back end: it maps the frame buffer for reading, and hands each picture to whoever shows it.
//! - [`input`] has both ends of keyboard and pointer.
//! - [`events`] is the page by which events go from back to front.
//!
//! All memory is shared by grants: neither end needs rights over the other's memory, as the older protocol of
//! `io/fbif.h` would have it, which names machine frames.

pub mod events;
pub mod input;
pub mod panel;
pub mod screen;
#[cfg(test)]
mod tests;

/// The most pixels in a line, and lines.
pub const MAX_SIDE: u32 = 8192;

/// The format that is spoken here, as DRM names it (`XR24`): 32 bits a pixel, 0x00RRGGBB, little-endian.
pub const FORMAT: u32 = u32::from_le_bytes(*b"XR24");

/// Bytes of a pixel.
const PIXEL: u32 = 4;
