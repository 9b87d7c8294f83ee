//! The PV frame buffer (`io/fbif.h`).
//!
//! One shared page holds geometry, the page directory of the frame buffer and two rings of fixed-size events:
//! `in` (back end to front end) at byte 1024, `out` (front end to back end) at byte 2048. The page is shared
//! memory: use it through atomics at the documented offsets.

consts! {
    /// Out event: a rectangle changed; sent only where `request-update` is set.
    XENFB_TYPE_UPDATE: u8 = 2;
    /// Out event: geometry changed; sent only where `feature-resize` is set.
    XENFB_TYPE_RESIZE: u8 = 3;
    /// In event: how often the back end wants updates.
    XENFB_TYPE_REFRESH_PERIOD: u8 = 1;

    /// Bytes of every out event.
    XENFB_OUT_EVENT_SIZE: usize = 40;

    /// `period`: no refresh is needed.
    XENFB_NO_REFRESH: u32 = 0;

    /// Bytes of every in event.
    XENFB_IN_EVENT_SIZE: usize = 40;

    /// Bytes of the in ring.
    XENFB_IN_RING_SIZE: usize = 1024;
    /// Slots of the in ring; indexes are reduced modulo this.
    XENFB_IN_RING_LEN: usize = 25;
    /// Byte offset of the in ring in the page.
    XENFB_IN_RING_OFFS: usize = 1024;
    /// Bytes of the out ring.
    XENFB_OUT_RING_SIZE: usize = 2048;
    /// Slots of the out ring; indexes are reduced modulo this.
    XENFB_OUT_RING_LEN: usize = 51;
    /// Byte offset of the out ring in the page.
    XENFB_OUT_RING_OFFS: usize = 2048;
}

wire! {
    /// Out event: a rectangle of the frame buffer has changed.
    pub struct XenfbUpdate("struct xenfb_update", 20) {
        /// [`XENFB_TYPE_UPDATE`].
        @0 type_("type"): u8,
        @1 _pad0(): [u8; 3],
        /// Left edge, pixels.
        @4 x: i32,
        /// Top edge, pixels.
        @8 y: i32,
        /// Width, pixels.
        @12 width: i32,
        /// Height, pixels.
        @16 height: i32,
    }

    /// Out event: the frame buffer has a new geometry.
    pub struct XenfbResize("struct xenfb_resize", 24) {
        /// [`XENFB_TYPE_RESIZE`].
        @0 type_("type"): u8,
        @1 _pad0(): [u8; 3],
        /// Width, pixels.
        @4 width: i32,
        /// Height, pixels.
        @8 height: i32,
        /// Bytes per line.
        @12 stride: i32,
        /// Bits per pixel.
        @16 depth: i32,
        /// Byte offset of the first pixel in the frame buffer.
        @20 offset: i32,
    }

    /// A slot of the out ring: the first byte is the event type, which says whether the slot holds an
    /// [`XenfbUpdate`] or an [`XenfbResize`].
    #[repr(align(4))]
    pub struct XenfbOutEvent("union xenfb_out_event", 40) {
        /// The event's bytes.
        @0 pad: [u8; XENFB_OUT_EVENT_SIZE],
    }

    /// In event: refresh rate advised by the back end.
    pub struct XenfbRefreshPeriod("struct xenfb_refresh_period", 8) {
        /// [`XENFB_TYPE_REFRESH_PERIOD`].
        @0 type_("type"): u8,
        @1 _pad0(): [u8; 3],
        /// Milliseconds between updates, or [`XENFB_NO_REFRESH`].
        @4 period: u32,
    }

    /// A slot of the in ring: the first byte is the event type; unknown types are ignored.
    #[repr(align(4))]
    pub struct XenfbInEvent("union xenfb_in_event", 40) {
        /// The event's bytes.
        @0 pad: [u8; XENFB_IN_EVENT_SIZE],
    }

    /// Start of the shared page. `pd` overlaps the rings: with 4 KiB pages only the entries before byte 1024
    /// may be used.
    pub struct XenfbPage("struct xenfb_page", 2088) [shared] {
        /// Index of the next in event the front end will read.
        @0 in_cons: u32,
        /// Index one past the last in event.
        @4 in_prod: u32,
        /// Index of the next out event the back end will read.
        @8 out_cons: u32,
        /// Index one past the last out event.
        @12 out_prod: u32,
        /// Width of the frame buffer, pixels.
        @16 width: i32,
        /// Height of the frame buffer, pixels.
        @20 height: i32,
        /// Bytes per line.
        @24 line_length: u32,
        /// Bytes of the frame buffer.
        @28 mem_length: u32,
        /// Bits per pixel.
        @32 depth: u8,
        @33 _pad0(): [u8; 7],
        /// Frames of the directory pages; each lists 512 frames of the frame buffer.
        @40 pd: [u64; 256],
    }
}

abi_module! { "io/fbif.h": consts, wire }

/// Keys of the device's xenstore folders; each description says which end writes it.
pub mod keys {
    /// Front-end node: it can send update events.
    pub const XENFB_FEATURE_UPDATE: &str = "feature-update";
    /// Back-end node: it wants update events.
    pub const XENFB_REQUEST_UPDATE: &str = "request-update";
    /// Back-end node: it understands resize events.
    pub const XENFB_FEATURE_RESIZE: &str = "feature-resize";
}
