//! The PV block device (`io/blkif.h`).
//!
//! One or more shared rings ([`super::ring`]) per device carry [`BlkifRequest`]s and [`BlkifResponse`]s; data pages
//! are passed by grant reference. Features and parameters are negotiated in xenstore with the [`keys`]
//! below; numbers are written in decimal and the stated default holds where a node is missing.
//!
//! Sector quantities are in units of the back end's `sector-size` only where the front end published
//! [`keys::FEATURE_LARGE_SECTOR_SIZE`]; otherwise in units of 512 bytes.

use super::ring::RingTypes;

consts! {
    /// Read into the granted segments.
    BLKIF_OP_READ: u8 = 0;
    /// Write from the granted segments.
    BLKIF_OP_WRITE: u8 = 1;
    /// Write ordered after all earlier writes and before all later ones; needs [`keys::FEATURE_BARRIER`].
    BLKIF_OP_WRITE_BARRIER: u8 = 2;
    /// Commit the volatile cache to stable storage; needs [`keys::FEATURE_FLUSH_CACHE`].
    BLKIF_OP_FLUSH_DISKCACHE: u8 = 3;
    /// Reserved for device-specific packets.
    BLKIF_OP_RESERVED_1: u8 = 4;
    /// The sectors are no longer in use ([`BlkifRequestDiscard`]); needs [`keys::FEATURE_DISCARD`].
    BLKIF_OP_DISCARD: u8 = 5;
    /// Segments are listed in granted pages
    /// ([`BlkifRequestIndirect`]); needs [`keys::FEATURE_MAX_INDIRECT_SEGMENTS`].
    BLKIF_OP_INDIRECT: u8 = 6;

    /// Segments that fit in one request slot.
    BLKIF_MAX_SEGMENTS_PER_REQUEST: usize = 11;
    /// Pages of segment descriptors in one indirect request.
    BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST: usize = 8;

    /// `flag`: all copies must become unreadable; ignored unless `discard-secure` is 1.
    BLKIF_DISCARD_SECURE: u8 = 1;

    /// The operation is not supported.
    BLKIF_RSP_EOPNOTSUPP: i16 = -2;
    /// The operation failed.
    BLKIF_RSP_ERROR: i16 = -1;
    /// The operation succeeded.
    BLKIF_RSP_OKAY: i16 = 0;

    /// Bit of the `info` node: a CD-ROM.
    VDISK_CDROM: u32 = 0x1;
    /// Bit of the `info` node: removable medium.
    VDISK_REMOVABLE: u32 = 0x2;
    /// Bit of the `info` node: read-only.
    VDISK_READONLY: u32 = 0x4;

    /// Bytes of one slot of the block ring.
    BLKIF_RING_ENTRY_SIZE("sizeof(union blkif_sring_entry)"): usize = BlkifRing::ENTRY_SIZE;
    /// Slots of a block ring of one page.
    BLKIF_RING_SIZE("__CONST_RING_SIZE(blkif,4096)"): usize = BlkifRing::ENTRIES_PER_PAGE as usize;
}

wire! {
    /// A part of one granted page to transfer.
    pub struct BlkifRequestSegment("struct blkif_request_segment", 8) {
        /// Grant reference of the page.
        @0 gref: u32,
        /// First 512-byte sector of the page to transfer, inclusive.
        @4 first_sect: u8,
        /// Last 512-byte sector of the page to transfer, inclusive.
        @5 last_sect: u8,
        @6 _pad0(): [u8; 2],
    }

    /// A read, write, barrier or flush request. `operation` also tells whether the slot is one of the other
    /// two forms.
    pub struct BlkifRequest("struct blkif_request", 112) {
        /// What to do (`BLKIF_OP_*`).
        @0 operation: u8,
        /// Valid entries of `seg`.
        @1 nr_segments: u8,
        /// Device handle; the back end ignores it except as a check.
        @2 handle: u16,
        @4 _pad0(): [u8; 4],
        /// Chosen by the front end, echoed in the response.
        @8 id: u64,
        /// First sector on the disk.
        @16 sector_number: u64,
        /// Where the data is.
        @24 seg: [BlkifRequestSegment; BLKIF_MAX_SEGMENTS_PER_REQUEST],
    }

    /// The slot's form for [`BLKIF_OP_DISCARD`].
    pub struct BlkifRequestDiscard("struct blkif_request_discard", 32) {
        /// [`BLKIF_OP_DISCARD`].
        @0 operation: u8,
        /// [`BLKIF_DISCARD_SECURE`] or zero.
        @1 flag: u8,
        /// Device handle.
        @2 handle: u16,
        @4 _pad0(): [u8; 4],
        /// Chosen by the front end, echoed in the response.
        @8 id: u64,
        /// First sector on the disk.
        @16 sector_number: u64,
        /// Number of sectors.
        @24 nr_sectors: u64,
    }

    /// The slot's form for [`BLKIF_OP_INDIRECT`]. Each granted page holds up to 512 [`BlkifRequestSegment`]s.
    pub struct BlkifRequestIndirect("struct blkif_request_indirect", 64) {
        /// [`BLKIF_OP_INDIRECT`].
        @0 operation: u8,
        /// [`BLKIF_OP_READ`] or [`BLKIF_OP_WRITE`].
        @1 indirect_op: u8,
        /// Number of segments over all pages.
        @2 nr_segments: u16,
        @4 _pad0(): [u8; 4],
        /// Chosen by the front end, echoed in the response.
        @8 id: u64,
        /// First sector on the disk.
        @16 sector_number: u64,
        /// Device handle.
        @24 handle: u16,
        @26 _pad1(): [u8; 2],
        /// Grant references of the pages of segments.
        @28 indirect_grefs: [u32; BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST],
        @60 _pad2(): [u8; 4],
    }

    /// The answer to any request.
    pub struct BlkifResponse("struct blkif_response", 16) {
        /// Copied from the request.
        @0 id: u64,
        /// Copied from the request.
        @8 operation: u8,
        @9 _pad0(): u8,
        /// Result (`BLKIF_RSP_*`).
        @10 status: i16,
        @12 _pad1(): [u8; 4],
    }
}

/// The block ring: [`BlkifRequest`] and [`BlkifResponse`].
#[derive(Clone, Copy, Debug)]
pub struct BlkifRing;

impl RingTypes for BlkifRing {
    type Request = BlkifRequest;
    type Response = BlkifResponse;
}

abi_module! { "io/blkif.h": consts, wire }

/// Keys of the device's xenstore folders; each description says which end writes it.
pub mod keys {
    /// Back end, private: `r` read-only or `w` writable.
    pub const MODE: &str = "mode";
    /// Back end, private: argument of the hotplug script.
    pub const PARAMS: &str = "params";
    /// Back end, private: `major:minor` of the backing device.
    pub const PHYSICAL_DEVICE: &str = "physical-device";
    /// Back end, private: path of the backing image.
    pub const PHYSICAL_DEVICE_PATH: &str = "physical-device-path";
    /// Back end, private: `file`, `phy` or `tap`.
    pub const TYPE: &str = "type";
    /// Back end, private, 0/1 (default 0): direct I/O to the backing store is known to be safe.
    pub const DIRECT_IO_SAFE: &str = "direct-io-safe";
    /// Back end, 0/1 (default 0): [`BLKIF_OP_WRITE_BARRIER`](super::BLKIF_OP_WRITE_BARRIER) is understood.
    pub const FEATURE_BARRIER: &str = "feature-barrier";
    /// Back end, 0/1 (default 0): [`BLKIF_OP_FLUSH_DISKCACHE`](super::BLKIF_OP_FLUSH_DISKCACHE) is
    /// understood.
    pub const FEATURE_FLUSH_CACHE: &str = "feature-flush-cache";
    /// Back end, 0/1 (default 0): [`BLKIF_OP_DISCARD`](super::BLKIF_OP_DISCARD) is understood.
    pub const FEATURE_DISCARD: &str = "feature-discard";
    /// Both ends, 0/1 (default 0): grants are kept mapped and reused; all of them writable.
    pub const FEATURE_PERSISTENT: &str = "feature-persistent";
    /// Back end, number: most segments of an indirect request; absent where
    /// [`BLKIF_OP_INDIRECT`](super::BLKIF_OP_INDIRECT) is not understood.
    pub const FEATURE_MAX_INDIRECT_SEGMENTS: &str = "feature-max-indirect-segments";
    /// Back end, number (default 0): log2 of the most ring pages.
    pub const MAX_RING_PAGE_ORDER: &str = "max-ring-page-order";
    /// Back end, number (default 1), deprecated: most ring pages, a power of two.
    pub const MAX_RING_PAGES: &str = "max-ring-pages";
    /// Back end, 0/1 (default 1): the toolstack lets the back end offer discard.
    pub const DISCARD_ENABLE: &str = "discard-enable";
    /// Back end, bytes (default 0): offset of the first discard extent.
    pub const DISCARD_ALIGNMENT: &str = "discard-alignment";
    /// Back end, bytes (default `sector-size`): size of a discard extent.
    pub const DISCARD_GRANULARITY: &str = "discard-granularity";
    /// Back end, 0/1 (default 0): [`BLKIF_DISCARD_SECURE`](super::BLKIF_DISCARD_SECURE) is understood.
    pub const DISCARD_SECURE: &str = "discard-secure";
    /// Back end, bit mask: `VDISK_*`.
    pub const INFO: &str = "info";
    /// Back end, bytes: logical block size, a power of two of at least 512.
    pub const SECTOR_SIZE: &str = "sector-size";
    /// Back end, bytes (default `sector-size`): physical block size.
    pub const PHYSICAL_SECTOR_SIZE: &str = "physical-sector-size";
    /// Back end, 64-bit number: size of the device in units of `sector-size`.
    pub const SECTORS: &str = "sectors";
    /// Front end: event channel port.
    pub const EVENT_CHANNEL: &str = "event-channel";
    /// Front end: grant reference of a one-page ring; pages of larger rings are `ring-ref0`, `ring-ref1`, ...
    pub const RING_REF: &str = "ring-ref";
    /// Front end: message ABI ([`protocols`](super::super::protocols)).
    pub const PROTOCOL: &str = "protocol";
    /// Front end, number (default 0): log2 of the ring pages in use.
    pub const RING_PAGE_ORDER: &str = "ring-page-order";
    /// Front end, number (default 1), deprecated: ring pages in use.
    pub const NUM_RING_PAGES: &str = "num-ring-pages";
    /// Front end, 0/1 (default 0): sector quantities are in units of `sector-size`.
    pub const FEATURE_LARGE_SECTOR_SIZE: &str = "feature-large-sector-size";
    /// Front end, 0/1 (default 1): 0 where the front end must not trust the back end.
    pub const TRUSTED: &str = "trusted";
    /// Front end: `disk`, `cdrom`, `floppy`, ...
    pub const DEVICE_TYPE: &str = "device-type";
    /// Front end, number: which device the guest sees.
    pub const VIRTUAL_DEVICE: &str = "virtual-device";
    /// Back end, number: most rings.
    pub const MULTI_QUEUE_MAX_QUEUES: &str = "multi-queue-max-queues";
    /// Front end, number: rings in use; from 2 on, the ring keys move under `queue-N`.
    pub const MULTI_QUEUE_NUM_QUEUES: &str = "multi-queue-num-queues";
}
