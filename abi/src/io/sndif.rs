//! The PV sound card (`io/sndif.h`).
//!
//! Each stream has a ring ([`super::ring`]) of requests and responses, 64 bytes each, and an event page from back
//! end to front end. A shared buffer, passed at open, carries samples, volumes and mute states. A response's status
//! is 0 or a negative errno.

use super::ring::RingTypes;

consts! {
    /// Protocol version.
    XENSND_PROTOCOL_VERSION: u32 = 2;

    /// Signed 8-bit samples.
    XENSND_PCM_FORMAT_S8: u8 = 0;
    /// Unsigned 8-bit samples.
    XENSND_PCM_FORMAT_U8: u8 = 1;
    /// Signed 16-bit little-endian samples.
    XENSND_PCM_FORMAT_S16_LE: u8 = 2;
    /// Signed 16-bit big-endian samples.
    XENSND_PCM_FORMAT_S16_BE: u8 = 3;
    /// Unsigned 16-bit little-endian samples.
    XENSND_PCM_FORMAT_U16_LE: u8 = 4;
    /// Unsigned 16-bit big-endian samples.
    XENSND_PCM_FORMAT_U16_BE: u8 = 5;
    /// Signed 24-bit little-endian samples.
    XENSND_PCM_FORMAT_S24_LE: u8 = 6;
    /// Signed 24-bit big-endian samples.
    XENSND_PCM_FORMAT_S24_BE: u8 = 7;
    /// Unsigned 24-bit little-endian samples.
    XENSND_PCM_FORMAT_U24_LE: u8 = 8;
    /// Unsigned 24-bit big-endian samples.
    XENSND_PCM_FORMAT_U24_BE: u8 = 9;
    /// Signed 32-bit little-endian samples.
    XENSND_PCM_FORMAT_S32_LE: u8 = 10;
    /// Signed 32-bit big-endian samples.
    XENSND_PCM_FORMAT_S32_BE: u8 = 11;
    /// Unsigned 32-bit little-endian samples.
    XENSND_PCM_FORMAT_U32_LE: u8 = 12;
    /// Unsigned 32-bit big-endian samples.
    XENSND_PCM_FORMAT_U32_BE: u8 = 13;
    /// 32-bit little-endian floats in -1.0..=1.0.
    XENSND_PCM_FORMAT_F32_LE: u8 = 14;
    /// 32-bit big-endian floats in -1.0..=1.0.
    XENSND_PCM_FORMAT_F32_BE: u8 = 15;
    /// 64-bit little-endian floats in -1.0..=1.0.
    XENSND_PCM_FORMAT_F64_LE: u8 = 16;
    /// 64-bit big-endian floats in -1.0..=1.0.
    XENSND_PCM_FORMAT_F64_BE: u8 = 17;
    /// IEC 958 sub-frames, little-endian.
    XENSND_PCM_FORMAT_IEC958_SUBFRAME_LE: u8 = 18;
    /// IEC 958 sub-frames, big-endian.
    XENSND_PCM_FORMAT_IEC958_SUBFRAME_BE: u8 = 19;
    /// Mu-law.
    XENSND_PCM_FORMAT_MU_LAW: u8 = 20;
    /// A-law.
    XENSND_PCM_FORMAT_A_LAW: u8 = 21;
    /// IMA ADPCM.
    XENSND_PCM_FORMAT_IMA_ADPCM: u8 = 22;
    /// MPEG.
    XENSND_PCM_FORMAT_MPEG: u8 = 23;
    /// GSM.
    XENSND_PCM_FORMAT_GSM: u8 = 24;

    /// Open the stream ([`XensndOpenReq`]).
    XENSND_OP_OPEN: u8 = 0;
    /// Close the stream.
    XENSND_OP_CLOSE: u8 = 1;
    /// Capture into the buffer ([`XensndRwReq`]).
    XENSND_OP_READ: u8 = 2;
    /// Play from the buffer ([`XensndRwReq`]).
    XENSND_OP_WRITE: u8 = 3;
    /// Set volumes ([`XensndRwReq`]: one `i32` per channel, units of 0.001 dB).
    XENSND_OP_SET_VOLUME: u8 = 4;
    /// Read volumes ([`XensndRwReq`]).
    XENSND_OP_GET_VOLUME: u8 = 5;
    /// Mute channels ([`XensndRwReq`]: one byte in each 32-bit word per channel).
    XENSND_OP_MUTE: u8 = 6;
    /// Unmute channels ([`XensndRwReq`]).
    XENSND_OP_UNMUTE: u8 = 7;
    /// Start, pause, stop or resume ([`XensndTriggerReq`]).
    XENSND_OP_TRIGGER: u8 = 8;
    /// Narrow the ranges of parameters ([`XensndQueryHwParam`]).
    XENSND_OP_HW_PARAM_QUERY: u8 = 9;
    /// `type_`: start.
    XENSND_OP_TRIGGER_START: u8 = 0;
    /// `type_`: pause.
    XENSND_OP_TRIGGER_PAUSE: u8 = 1;
    /// `type_`: stop.
    XENSND_OP_TRIGGER_STOP: u8 = 2;
    /// `type_`: resume.
    XENSND_OP_TRIGGER_RESUME: u8 = 3;
    /// Event: the stream's position has advanced ([`XensndCurPosEvt`]).
    XENSND_EVT_CUR_POS: u8 = 0;

    /// Device class in xenstore paths.
    XENSND_DRIVER_NAME: &str = "vsnd";
    /// Separates items of lists.
    XENSND_LIST_SEPARATOR: &str = ",";
    /// Back end: protocol versions it knows.
    XENSND_FIELD_BE_VERSIONS: &str = "versions";
    /// Front end: protocol version it chose.
    XENSND_FIELD_FE_VERSION: &str = "version";
    /// Card: short name, optional.
    XENSND_FIELD_VCARD_SHORT_NAME: &str = "short-name";
    /// Card: long name, optional.
    XENSND_FIELD_VCARD_LONG_NAME: &str = "long-name";
    /// Stream: grant reference of the request ring.
    XENSND_FIELD_RING_REF: &str = "ring-ref";
    /// Stream: event channel of the request ring.
    XENSND_FIELD_EVT_CHNL: &str = "event-channel";
    /// Stream: grant reference of the event page.
    XENSND_FIELD_EVT_RING_REF: &str = "evt-ring-ref";
    /// Stream: event channel of the event page.
    XENSND_FIELD_EVT_EVT_CHNL: &str = "evt-event-channel";
    /// Device: name, optional.
    XENSND_FIELD_DEVICE_NAME: &str = "name";
    /// Stream: playback or capture.
    XENSND_FIELD_TYPE: &str = "type";
    /// Stream: name of this instance.
    XENSND_FIELD_STREAM_UNIQUE_ID: &str = "unique-id";
    /// Fewest channels (default 1).
    XENSND_FIELD_CHANNELS_MIN: &str = "channels-min";
    /// Most channels.
    XENSND_FIELD_CHANNELS_MAX: &str = "channels-max";
    /// List of sample rates, Hz.
    XENSND_FIELD_SAMPLE_RATES: &str = "sample-rates";
    /// List of sample formats.
    XENSND_FIELD_SAMPLE_FORMATS: &str = "sample-formats";
    /// Largest buffer per stream, bytes.
    XENSND_FIELD_BUFFER_SIZE: &str = "buffer-size";
    /// `type`: playback.
    XENSND_STREAM_TYPE_PLAYBACK: &str = "p";
    /// `type`: capture.
    XENSND_STREAM_TYPE_CAPTURE: &str = "c";

    /// Longest sample rate in a list, bytes.
    XENSND_SAMPLE_RATE_MAX_LEN: usize = 11;
    /// Longest sample format in a list, bytes.
    XENSND_SAMPLE_FORMAT_MAX_LEN: usize = 24;

    /// Name of [`XENSND_PCM_FORMAT_S8`].
    XENSND_PCM_FORMAT_S8_STR: &str = "s8";
    /// Name of [`XENSND_PCM_FORMAT_U8`].
    XENSND_PCM_FORMAT_U8_STR: &str = "u8";
    /// Name of [`XENSND_PCM_FORMAT_S16_LE`].
    XENSND_PCM_FORMAT_S16_LE_STR: &str = "s16_le";
    /// Name of [`XENSND_PCM_FORMAT_S16_BE`].
    XENSND_PCM_FORMAT_S16_BE_STR: &str = "s16_be";
    /// Name of [`XENSND_PCM_FORMAT_U16_LE`].
    XENSND_PCM_FORMAT_U16_LE_STR: &str = "u16_le";
    /// Name of [`XENSND_PCM_FORMAT_U16_BE`].
    XENSND_PCM_FORMAT_U16_BE_STR: &str = "u16_be";
    /// Name of [`XENSND_PCM_FORMAT_S24_LE`].
    XENSND_PCM_FORMAT_S24_LE_STR: &str = "s24_le";
    /// Name of [`XENSND_PCM_FORMAT_S24_BE`].
    XENSND_PCM_FORMAT_S24_BE_STR: &str = "s24_be";
    /// Name of [`XENSND_PCM_FORMAT_U24_LE`].
    XENSND_PCM_FORMAT_U24_LE_STR: &str = "u24_le";
    /// Name of [`XENSND_PCM_FORMAT_U24_BE`].
    XENSND_PCM_FORMAT_U24_BE_STR: &str = "u24_be";
    /// Name of [`XENSND_PCM_FORMAT_S32_LE`].
    XENSND_PCM_FORMAT_S32_LE_STR: &str = "s32_le";
    /// Name of [`XENSND_PCM_FORMAT_S32_BE`].
    XENSND_PCM_FORMAT_S32_BE_STR: &str = "s32_be";
    /// Name of [`XENSND_PCM_FORMAT_U32_LE`].
    XENSND_PCM_FORMAT_U32_LE_STR: &str = "u32_le";
    /// Name of [`XENSND_PCM_FORMAT_U32_BE`].
    XENSND_PCM_FORMAT_U32_BE_STR: &str = "u32_be";
    /// Name of [`XENSND_PCM_FORMAT_F32_LE`].
    XENSND_PCM_FORMAT_F32_LE_STR: &str = "float_le";
    /// Name of [`XENSND_PCM_FORMAT_F32_BE`].
    XENSND_PCM_FORMAT_F32_BE_STR: &str = "float_be";
    /// Name of [`XENSND_PCM_FORMAT_F64_LE`].
    XENSND_PCM_FORMAT_F64_LE_STR: &str = "float64_le";
    /// Name of [`XENSND_PCM_FORMAT_F64_BE`].
    XENSND_PCM_FORMAT_F64_BE_STR: &str = "float64_be";
    /// Name of [`XENSND_PCM_FORMAT_IEC958_SUBFRAME_LE`].
    XENSND_PCM_FORMAT_IEC958_SUBFRAME_LE_STR: &str = "iec958_subframe_le";
    /// Name of [`XENSND_PCM_FORMAT_IEC958_SUBFRAME_BE`].
    XENSND_PCM_FORMAT_IEC958_SUBFRAME_BE_STR: &str = "iec958_subframe_be";
    /// Name of [`XENSND_PCM_FORMAT_MU_LAW`].
    XENSND_PCM_FORMAT_MU_LAW_STR: &str = "mu_law";
    /// Name of [`XENSND_PCM_FORMAT_A_LAW`].
    XENSND_PCM_FORMAT_A_LAW_STR: &str = "a_law";
    /// Name of [`XENSND_PCM_FORMAT_IMA_ADPCM`].
    XENSND_PCM_FORMAT_IMA_ADPCM_STR: &str = "ima_adpcm";
    /// Name of [`XENSND_PCM_FORMAT_MPEG`].
    XENSND_PCM_FORMAT_MPEG_STR: &str = "mpeg";
    /// Name of [`XENSND_PCM_FORMAT_GSM`].
    XENSND_PCM_FORMAT_GSM_STR: &str = "gsm";

    /// Bytes of the event page.
    XENSND_EVENT_PAGE_SIZE: usize = 4096;
    /// Byte offset of the first event.
    XENSND_IN_RING_OFFS: usize = 64;
    /// Bytes of events.
    XENSND_IN_RING_SIZE: usize = 4032;
    /// Slots of the event page; indexes are reduced modulo this.
    XENSND_IN_RING_LEN: usize = 63;

    /// Bytes of one slot of the request ring.
    XEN_SNDIF_RING_ENTRY_SIZE("sizeof(union xen_sndif_sring_entry)"): usize = XenSndifRing::ENTRY_SIZE;
    /// Slots of the request ring.
    XEN_SNDIF_RING_SIZE("__CONST_RING_SIZE(xen_sndif,4096)"): usize = XenSndifRing::ENTRIES_PER_PAGE as usize;
}

wire! {
    /// Payload of [`XENSND_OP_OPEN`].
    pub struct XensndOpenReq("struct xensnd_open_req", 20) {
        /// Sample rate, Hz.
        @0 pcm_rate: u32,
        /// `XENSND_PCM_FORMAT_*`.
        @4 pcm_format: u8,
        /// Channels.
        @5 pcm_channels: u8,
        /// Zero.
        @6 reserved: u16,
        /// Bytes of the shared buffer.
        @8 buffer_sz: u32,
        /// Grant reference of its first [`XensndPageDirectory`].
        @12 gref_directory: u32,
        /// Bytes between position events; 0 for none.
        @16 period_sz: u32,
    }

    /// Start of a page that lists the grant references of a buffer's pages; the list fills the page.
    pub struct XensndPageDirectory("struct xensnd_page_directory", 8) {
        /// Grant reference of the next directory page; 0 for none.
        @0 gref_dir_next_page: u32,
        /// First of the references.
        @4 gref: [u32; 1],
    }

    /// Payload of the requests that use a part of the shared buffer.
    pub struct XensndRwReq("struct xensnd_rw_req", 8) {
        /// Byte offset in the buffer.
        @0 offset: u32,
        /// Bytes.
        @4 length: u32,
    }

    /// Payload of [`XENSND_OP_TRIGGER`].
    pub struct XensndTriggerReq("struct xensnd_trigger_req", 1) {
        /// `XENSND_OP_TRIGGER_*`.
        @0 type_("type"): u8,
    }

    /// A range of a stream parameter, both ends included.
    pub struct XensndInterval("__typeof__(((struct xensnd_query_hw_param *)0)->rates)", 8) {
        /// Smallest value.
        @0 min: u32,
        /// Largest value.
        @4 max: u32,
    }

    /// Payload of [`XENSND_OP_HW_PARAM_QUERY`] and its response. A frame is one sample of every channel.
    pub struct XensndQueryHwParam("struct xensnd_query_hw_param", 40) {
        /// Mask of `1 << XENSND_PCM_FORMAT_*`.
        @0 formats: u64,
        /// Sample rates, Hz.
        @8 rates: XensndInterval,
        /// Channels.
        @16 channels: XensndInterval,
        /// Buffer size, frames.
        @24 buffer: XensndInterval,
        /// Period size, frames.
        @32 period: XensndInterval,
    }

    /// Payload of [`XENSND_EVT_CUR_POS`].
    pub struct XensndCurPosEvt("struct xensnd_cur_pos_evt", 8) {
        /// Position of the stream, bytes.
        @0 position: u64,
    }

    /// A request.
    #[repr(align(8))]
    pub struct XensndReq("struct xensnd_req", 64) {
        /// Chosen by the front end, echoed in the response.
        @0 id: u16,
        /// `XENSND_OP_*`.
        @2 operation: u8,
        /// Zero.
        @3 reserved: [u8; 5],
        /// The operation's payload.
        @8 op: [u8; 56],
    }

    /// A response.
    #[repr(align(8))]
    pub struct XensndResp("struct xensnd_resp", 64) {
        /// Copied from the request.
        @0 id: u16,
        /// Copied from the request.
        @2 operation: u8,
        /// Zero.
        @3 reserved: u8,
        /// 0 or a negative errno.
        @4 status: i32,
        /// The response's payload.
        @8 resp: [u8; 56],
    }

    /// An event.
    #[repr(align(8))]
    pub struct XensndEvt("struct xensnd_evt", 64) {
        /// Number of the event, for the front end's use.
        @0 id: u16,
        /// `XENSND_EVT_*`.
        @2 type_("type"): u8,
        /// Zero.
        @3 reserved: [u8; 5],
        /// The event's payload.
        @8 op: [u8; 56],
    }

    /// Header of the event page; the events follow. Shared memory: use it through atomics.
    pub struct XensndEventPage("struct xensnd_event_page", 64) [shared] {
        /// Index of the next event the front end will read.
        @0 in_cons: u32,
        /// Index one past the last event.
        @4 in_prod: u32,
        /// Zero.
        @8 reserved: [u8; 56],
    }
}

/// The request ring of a stream.
#[derive(Clone, Copy, Debug)]
pub struct XenSndifRing;

impl RingTypes for XenSndifRing {
    type Request = XensndReq;
    type Response = XensndResp;
}

abi_module! { "io/sndif.h": consts, wire }
