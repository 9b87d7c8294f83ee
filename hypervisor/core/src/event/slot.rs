//! Ports as lock-free readable words.

use alloc::boxed::Box;
use core::sync::atomic::AtomicU64;
use spin::Once;

/// Ports in one chunk: a chunk fills one page.
pub const CHUNK: usize = 512;

/// All ports of a domain, in chunks that are made when first needed.
pub struct SlotTable(Box<[Once<Box<[AtomicU64; CHUNK]>>]>);

impl SlotTable {
    /// No port yet.
    pub fn new() -> Self {
        Self((0..256).map(|_| Once::new()).collect())
    }
}

impl Default for SlotTable {
    fn default() -> Self {
        Self::new()
    }
}
