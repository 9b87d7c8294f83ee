//! PV keyboard, pointer and multi-touch (`io/kbdif.h`).
//!
//! One shared page holds ring indexes and two rings of fixed-size events: `in` (back end to front end) at byte 1024,
//! `out` (none defined) at byte 3072. The page is shared memory: use it through atomics at the documented offsets.

consts! {
    /// In event: relative pointer movement ([`XenkbdMotion`]).
    XENKBD_TYPE_MOTION: u8 = 1;
    /// Never sent.
    XENKBD_TYPE_RESERVED: u8 = 2;
    /// In event: key or button ([`XenkbdKey`]).
    XENKBD_TYPE_KEY: u8 = 3;
    /// In event: absolute pointer position ([`XenkbdPosition`]).
    XENKBD_TYPE_POS: u8 = 4;
    /// In event: multi-touch ([`XenkbdMtouch`]).
    XENKBD_TYPE_MTOUCH: u8 = 5;

    /// A contact was made.
    XENKBD_MT_EV_DOWN: u8 = 0;
    /// A contact was released.
    XENKBD_MT_EV_UP: u8 = 1;
    /// A contact moved.
    XENKBD_MT_EV_MOTION: u8 = 2;
    /// End of a group of events that belong together.
    XENKBD_MT_EV_SYN: u8 = 3;
    /// The shape of a contact changed.
    XENKBD_MT_EV_SHAPE: u8 = 4;
    /// The orientation of a contact changed.
    XENKBD_MT_EV_ORIENT: u8 = 5;

    /// Device class in xenstore paths.
    XENKBD_DRIVER_NAME: &str = "vkbd";
    /// Back end, 1: expose no keyboard.
    XENKBD_FIELD_FEAT_DSBL_KEYBRD: &str = "feature-disable-keyboard";
    /// Back end, 1: expose no pointer.
    XENKBD_FIELD_FEAT_DSBL_POINTER: &str = "feature-disable-pointer";
    /// Back end, 1: can report absolute coordinates.
    XENKBD_FIELD_FEAT_ABS_POINTER: &str = "feature-abs-pointer";
    /// Back end, 1: can report unscaled coordinates in 0..=0x7fff.
    XENKBD_FIELD_FEAT_RAW_POINTER: &str = "feature-raw-pointer";
    /// Back end, 1: can report multi-touch.
    XENKBD_FIELD_FEAT_MTOUCH: &str = "feature-multi-touch";
    /// Front end, 1: wants absolute coordinates.
    XENKBD_FIELD_REQ_ABS_POINTER: &str = "request-abs-pointer";
    /// Front end, 1: wants unscaled coordinates; needs `request-abs-pointer`.
    XENKBD_FIELD_REQ_RAW_POINTER: &str = "request-raw-pointer";
    /// Front end, 1: wants multi-touch events.
    XENKBD_FIELD_REQ_MTOUCH: &str = "request-multi-touch";
    /// Front end: grant reference of the shared page.
    XENKBD_FIELD_RING_GREF: &str = "page-gref";
    /// Front end: event channel port.
    XENKBD_FIELD_EVT_CHANNEL: &str = "event-channel";
    /// Back end: largest X coordinate, pixels.
    XENKBD_FIELD_WIDTH: &str = "width";
    /// Back end: largest Y coordinate, pixels.
    XENKBD_FIELD_HEIGHT: &str = "height";
    /// Back end: width of the touch area, pixels.
    XENKBD_FIELD_MT_WIDTH: &str = "multi-touch-width";
    /// Back end: height of the touch area, pixels.
    XENKBD_FIELD_MT_HEIGHT: &str = "multi-touch-height";
    /// Back end: number of simultaneous contacts.
    XENKBD_FIELD_MT_NUM_CONTACTS: &str = "multi-touch-num-contacts";
    /// Back end: name of this instance.
    XENKBD_FIELD_UNIQUE_ID: &str = "unique-id";
    /// Front end, obsolete: frame number of the shared page.
    XENKBD_FIELD_RING_REF: &str = "page-ref";

    /// Bytes of every in event.
    XENKBD_IN_EVENT_SIZE: usize = 40;

    /// Bytes of every out event.
    XENKBD_OUT_EVENT_SIZE: usize = 40;

    /// Bytes of the in ring.
    XENKBD_IN_RING_SIZE: usize = 2048;
    /// Slots of the in ring; indexes are reduced modulo this.
    XENKBD_IN_RING_LEN: usize = 51;
    /// Byte offset of the in ring in the page.
    XENKBD_IN_RING_OFFS: usize = 1024;
    /// Bytes of the out ring.
    XENKBD_OUT_RING_SIZE: usize = 1024;
    /// Slots of the out ring; indexes are reduced modulo this.
    XENKBD_OUT_RING_LEN: usize = 25;
    /// Byte offset of the out ring in the page.
    XENKBD_OUT_RING_OFFS: usize = 3072;
}

wire! {
    /// In event: the pointer moved relatively.
    pub struct XenkbdMotion("struct xenkbd_motion", 16) {
        /// [`XENKBD_TYPE_MOTION`].
        @0 type_("type"): u8,
        @1 _pad0(): [u8; 3],
        /// Movement to the right.
        @4 rel_x: i32,
        /// Movement downwards.
        @8 rel_y: i32,
        /// Wheel movement.
        @12 rel_z: i32,
    }

    /// In event: a key or a pointer button changed.
    pub struct XenkbdKey("struct xenkbd_key", 8) {
        /// [`XENKBD_TYPE_KEY`].
        @0 type_("type"): u8,
        /// 1 where pressed, 0 where released.
        @1 pressed: u8,
        @2 _pad0(): [u8; 2],
        /// Linux input key code (`KEY_*`, `BTN_*`).
        @4 keycode: u32,
    }

    /// In event: the pointer is at an absolute position.
    pub struct XenkbdPosition("struct xenkbd_position", 16) {
        /// [`XENKBD_TYPE_POS`].
        @0 type_("type"): u8,
        @1 _pad0(): [u8; 3],
        /// X in frame-buffer pixels (or 0..=0x7fff where raw).
        @4 abs_x: i32,
        /// Y in frame-buffer pixels (or 0..=0x7fff where raw).
        @8 abs_y: i32,
        /// Wheel movement.
        @12 rel_z: i32,
    }

    /// Payload of `XENKBD_MT_EV_DOWN` and `XENKBD_MT_EV_MOTION`.
    pub struct XenkbdMtouchPos("__typeof__(((struct xenkbd_mtouch *)0)->u.pos)", 8) {
        /// X, pixels.
        @0 abs_x: i32,
        /// Y, pixels.
        @4 abs_y: i32,
    }

    /// Payload of `XENKBD_MT_EV_SHAPE`: the ellipse that approximates a contact.
    pub struct XenkbdMtouchShape("__typeof__(((struct xenkbd_mtouch *)0)->u.shape)", 8) {
        /// Length of the longer axis, pixels.
        @0 major: u32,
        /// Length of the shorter axis, pixels.
        @4 minor: u32,
    }

    /// In event: multi-touch.
    #[repr(align(4))]
    pub struct XenkbdMtouch("struct xenkbd_mtouch", 16) {
        /// [`XENKBD_TYPE_MTOUCH`].
        @0 type_("type"): u8,
        /// Which change (`XENKBD_MT_EV_*`).
        @1 event_type: u8,
        /// Which contact, below the advertised number of contacts.
        @2 contact_id: u8,
        /// Zero.
        @3 reserved: [u8; 5],
        /// [`XenkbdMtouchPos`], [`XenkbdMtouchShape`], or for `XENKBD_MT_EV_ORIENT` an `i16`: clockwise angle
        /// of the longer axis to the positive Y axis, degrees in -180..=180.
        @8 u: [u8; 8],
    }

    /// A slot of the in ring: the first byte is the event type; unknown types are ignored.
    #[repr(align(4))]
    pub struct XenkbdInEvent("union xenkbd_in_event", 40) {
        /// The event's bytes.
        @0 pad: [u8; XENKBD_IN_EVENT_SIZE],
    }

    /// A slot of the out ring. No out event is defined.
    pub struct XenkbdOutEvent("union xenkbd_out_event", 40) {
        /// The event's bytes.
        @0 pad: [u8; XENKBD_OUT_EVENT_SIZE],
    }

    /// Start of the shared page.
    pub struct XenkbdPage("struct xenkbd_page", 16) [shared] {
        /// Index of the next in event the front end will read.
        @0 in_cons: u32,
        /// Index one past the last in event.
        @4 in_prod: u32,
        /// Index of the next out event the back end will read.
        @8 out_cons: u32,
        /// Index one past the last out event.
        @12 out_prod: u32,
    }
}

abi_module! { "io/kbdif.h": consts, wire }
