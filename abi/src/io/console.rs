//! The shared page of the PV console (`io/console.h`).
//!
//! Two byte rings in one page: `in` carries input to the guest, `out` carries its output. The indexes run freely;
//! the byte of index `i` is at `i & (ring length - 1)`. The page is shared memory: use it through atomics at the
//! documented offsets, never through a reference to [`XenconsInterface`].

wire! {
    /// Layout of the PV console's page. The page's frame and event channel come from
    /// `start_info.console` (PV) or `HVM_PARAM_CONSOLE_PFN` / `HVM_PARAM_CONSOLE_EVTCHN`.
    pub struct XenconsInterface("struct xencons_interface", 3088) [shared] {
        /// Bytes for the guest to read.
        @0 in_("in"): [u8; 1024],
        /// Bytes the guest has written.
        @1024 out: [u8; 2048],
        /// Index of the next byte the guest will read; written by the guest.
        @3072 in_cons: u32,
        /// Index one past the last input byte; written by the back end.
        @3076 in_prod: u32,
        /// Index of the next byte the back end will read; written by the back end.
        @3080 out_cons: u32,
        /// Index one past the last output byte; written by the guest.
        @3084 out_prod: u32,
    }
}

/// Bytes of the input ring (a power of two).
pub const XENCONS_IN_SIZE: u32 = 1024;
/// Bytes of the output ring (a power of two).
pub const XENCONS_OUT_SIZE: u32 = 2048;

/// Position of index `idx` in a ring of `size` bytes (a power of two).
#[must_use]
#[doc(alias = "MASK_XENCONS_IDX")]
pub const fn mask_xencons_idx(idx: u32, size: u32) -> usize {
    (idx & size.wrapping_sub(1)) as usize
}

abi_module! { "io/console.h": wire }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_wrap_at_the_ring_length() {
        assert_eq!(mask_xencons_idx(XENCONS_OUT_SIZE + 3, XENCONS_OUT_SIZE), 3);
        assert_eq!(mask_xencons_idx(u32::MAX, XENCONS_IN_SIZE), 1023);
    }
}
