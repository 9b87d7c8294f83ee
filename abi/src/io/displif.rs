//! The PV display (`io/displif.h`).
//!
//! Each connector has a ring ([`super::ring`]) of requests and responses, 64 bytes each, and an event page from
//! back end to front end. Display buffers and frame buffers are named by cookies, unique in the guest and never 0;
//! requests that concern no single connector go over the ring of connector 0. A response's status is 0 or a
//! negative errno.

use super::ring::RingTypes;

consts! {
    /// Protocol version, as written to xenstore.
    XENDISPL_PROTOCOL_VERSION: &str = "2";
    /// Device class in xenstore paths.
    XENDISPL_DRIVER_NAME: &str = "vdispl";
    /// Separates protocol versions.
    XENDISPL_LIST_SEPARATOR: &str = ",";
    /// Separates width and height.
    XENDISPL_RESOLUTION_SEPARATOR: &str = "x";
    /// Back end: protocol versions it knows.
    XENDISPL_FIELD_BE_VERSIONS: &str = "versions";
    /// Front end: protocol version it chose.
    XENDISPL_FIELD_FE_VERSION: &str = "version";
    /// Connector: grant reference of the request ring.
    XENDISPL_FIELD_REQ_RING_REF: &str = "req-ring-ref";
    /// Connector: event channel of the request ring.
    XENDISPL_FIELD_REQ_CHANNEL: &str = "req-event-channel";
    /// Connector: grant reference of the event page.
    XENDISPL_FIELD_EVT_RING_REF: &str = "evt-ring-ref";
    /// Connector: event channel of the event page.
    XENDISPL_FIELD_EVT_CHANNEL: &str = "evt-event-channel";
    /// Connector: `WIDTHxHEIGHT` of the visible area, pixels.
    XENDISPL_FIELD_RESOLUTION: &str = "resolution";
    /// Front end, 1: the back end may allocate buffers.
    XENDISPL_FIELD_BE_ALLOC: &str = "be-alloc";
    /// Connector: name of this instance.
    XENDISPL_FIELD_UNIQUE_ID: &str = "unique-id";

    /// Protocol version.
    XENDISPL_PROTOCOL_VERSION_INT: u32 = 2;

    /// Create a display buffer ([`XendisplDbufCreateReq`]).
    XENDISPL_OP_DBUF_CREATE: u8 = 0x10;
    /// Destroy a display buffer ([`XendisplDbufDestroyReq`]).
    XENDISPL_OP_DBUF_DESTROY: u8 = 0x11;
    /// Attach a frame buffer to a display buffer ([`XendisplFbAttachReq`]).
    XENDISPL_OP_FB_ATTACH: u8 = 0x12;
    /// Detach a frame buffer ([`XendisplFbDetachReq`]).
    XENDISPL_OP_FB_DETACH: u8 = 0x13;
    /// Set or reset the mode ([`XendisplSetConfigReq`]).
    XENDISPL_OP_SET_CONFIG: u8 = 0x14;
    /// Show a frame buffer ([`XendisplPageFlipReq`]).
    XENDISPL_OP_PG_FLIP: u8 = 0x15;
    /// Read the display's EDID ([`XendisplGetEdidReq`]); from protocol version 2.
    XENDISPL_OP_GET_EDID: u8 = 0x16;
    /// Event: a page flip has completed ([`XendisplPgFlipEvt`]).
    XENDISPL_EVT_PG_FLIP: u8 = 0x00;

    /// Bytes of one EDID block.
    XENDISPL_EDID_BLOCK_SIZE: u32 = 128;
    /// Most EDID blocks.
    XENDISPL_EDID_BLOCK_COUNT: u32 = 256;
    /// Bytes an EDID buffer must have.
    XENDISPL_EDID_MAX_SIZE: u32 = 32768;
    /// `flags`: the back end allocates the buffer and fills in the page directory.
    XENDISPL_DBUF_FLG_REQ_ALLOC: u32 = 1;

    /// Bytes of the event page.
    XENDISPL_EVENT_PAGE_SIZE: usize = 4096;
    /// Byte offset of the first event.
    XENDISPL_IN_RING_OFFS: usize = 64;
    /// Bytes of events.
    XENDISPL_IN_RING_SIZE: usize = 4032;
    /// Slots of the event page; indexes are reduced modulo this.
    XENDISPL_IN_RING_LEN: usize = 63;

    /// Bytes of one slot of the request ring.
    XEN_DISPLIF_RING_ENTRY_SIZE("sizeof(union xen_displif_sring_entry)"): usize = XenDisplifRing::ENTRY_SIZE;
    /// Slots of the request ring.
    XEN_DISPLIF_RING_SIZE("__CONST_RING_SIZE(xen_displif,4096)"): usize = XenDisplifRing::ENTRIES_PER_PAGE as usize;
}

wire! {
    /// Payload of [`XENDISPL_OP_DBUF_CREATE`].
    pub struct XendisplDbufCreateReq("struct xendispl_dbuf_create_req", 40) {
        /// Name of the new display buffer.
        @0 dbuf_cookie: u64,
        /// Width, pixels.
        @8 width: u32,
        /// Height, pixels.
        @12 height: u32,
        /// Bits per pixel.
        @16 bpp: u32,
        /// Bytes of the buffer.
        @20 buffer_sz: u32,
        /// `XENDISPL_DBUF_FLG_*`.
        @24 flags: u32,
        /// Grant reference of the first [`XendisplPageDirectory`].
        @28 gref_directory: u32,
        /// Byte offset of the data in the buffer.
        @32 data_ofs: u32,
        @36 _pad0(): [u8; 4],
    }

    /// Start of a page that lists the grant references of a buffer's pages; the list fills the page.
    pub struct XendisplPageDirectory("struct xendispl_page_directory", 8) {
        /// Grant reference of the next directory page; 0 for none.
        @0 gref_dir_next_page: u32,
        /// First of the references.
        @4 gref: [u32; 1],
    }

    /// Payload of [`XENDISPL_OP_DBUF_DESTROY`].
    pub struct XendisplDbufDestroyReq("struct xendispl_dbuf_destroy_req", 8) {
        /// Display buffer to destroy.
        @0 dbuf_cookie: u64,
    }

    /// Payload of [`XENDISPL_OP_FB_ATTACH`].
    pub struct XendisplFbAttachReq("struct xendispl_fb_attach_req", 32) {
        /// Display buffer to attach to.
        @0 dbuf_cookie: u64,
        /// Name of the new frame buffer.
        @8 fb_cookie: u64,
        /// Width, pixels.
        @16 width: u32,
        /// Height, pixels.
        @20 height: u32,
        /// FOURCC code.
        @24 pixel_format: u32,
        @28 _pad0(): [u8; 4],
    }

    /// Payload of [`XENDISPL_OP_FB_DETACH`].
    pub struct XendisplFbDetachReq("struct xendispl_fb_detach_req", 8) {
        /// Frame buffer to detach.
        @0 fb_cookie: u64,
    }

    /// Payload of [`XENDISPL_OP_SET_CONFIG`]; all zero resets the display.
    pub struct XendisplSetConfigReq("struct xendispl_set_config_req", 32) {
        /// Frame buffer to show.
        @0 fb_cookie: u64,
        /// Left edge, pixels.
        @8 x: u32,
        /// Top edge, pixels.
        @12 y: u32,
        /// Width, pixels.
        @16 width: u32,
        /// Height, pixels.
        @20 height: u32,
        /// Bits per pixel.
        @24 bpp: u32,
        @28 _pad0(): [u8; 4],
    }

    /// Payload of [`XENDISPL_OP_PG_FLIP`].
    pub struct XendisplPageFlipReq("struct xendispl_page_flip_req", 8) {
        /// Frame buffer to show.
        @0 fb_cookie: u64,
    }

    /// Payload of [`XENDISPL_OP_GET_EDID`].
    pub struct XendisplGetEdidReq("struct xendispl_get_edid_req", 8) {
        /// Bytes of the buffer, at least [`XENDISPL_EDID_MAX_SIZE`].
        @0 buffer_sz: u32,
        /// Grant reference of its first [`XendisplPageDirectory`].
        @4 gref_directory: u32,
    }

    /// Payload of the response to [`XENDISPL_OP_GET_EDID`].
    pub struct XendisplGetEdidResp("struct xendispl_get_edid_resp", 4) {
        /// Bytes of EDID written.
        @0 edid_sz: u32,
    }

    /// Payload of [`XENDISPL_EVT_PG_FLIP`].
    pub struct XendisplPgFlipEvt("struct xendispl_pg_flip_evt", 8) {
        /// Frame buffer that is shown now.
        @0 fb_cookie: u64,
    }

    /// A request.
    #[repr(align(8))]
    pub struct XendisplReq("struct xendispl_req", 64) {
        /// Chosen by the front end, echoed in the response.
        @0 id: u16,
        /// `XENDISPL_OP_*`.
        @2 operation: u8,
        /// Zero.
        @3 reserved: [u8; 5],
        /// The operation's payload.
        @8 op: [u8; 56],
    }

    /// A response.
    pub struct XendisplResp("struct xendispl_resp", 64) {
        /// Copied from the request.
        @0 id: u16,
        /// Copied from the request.
        @2 operation: u8,
        /// Zero.
        @3 reserved: u8,
        /// 0 or a negative errno.
        @4 status: i32,
        /// The response's payload.
        @8 op: [u8; 56],
    }

    /// An event.
    #[repr(align(8))]
    pub struct XendisplEvt("struct xendispl_evt", 64) {
        /// Number of the event, for the front end's use.
        @0 id: u16,
        /// `XENDISPL_EVT_*`.
        @2 type_("type"): u8,
        /// Zero.
        @3 reserved: [u8; 5],
        /// The event's payload.
        @8 op: [u8; 56],
    }

    /// Header of the event page; the events follow. Shared memory: use it through atomics.
    pub struct XendisplEventPage("struct xendispl_event_page", 64) [shared] {
        /// Index of the next event the front end will read.
        @0 in_cons: u32,
        /// Index one past the last event.
        @4 in_prod: u32,
        /// Zero.
        @8 reserved: [u8; 56],
    }
}

/// The request ring of a connector.
#[derive(Clone, Copy, Debug)]
pub struct XenDisplifRing;

impl RingTypes for XenDisplifRing {
    type Request = XendisplReq;
    type Response = XendisplResp;
}

abi_module! { "io/displif.h": consts, wire }
