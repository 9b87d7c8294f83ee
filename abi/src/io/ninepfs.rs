//! The 9P file-system transport (`io/9pfs.h`).
//!
//! Each ring is a flex ring ([`super::ring`]): an index page with [`FlexRingIntf`] followed by the grant references of
//! the data pages, then `2^ring_order` data pages whose first half is `in` (answers) and second half `out` (requests).
//! 9P messages travel as plain bytes and may wrap.

pub use super::ring::FlexRingIntf;

consts! {
    /// Byte offset in the index page of the first grant reference.
    XEN_9PFS_REF_OFFSET("offsetof(struct xen_9pfs_data_intf, ref)"): usize = 132;
    /// Bytes of the header of every 9P message: size (u32), type (u8), tag (u16), little-endian and packed.
    XEN_9PFS_HEADER_SIZE(!"a number of the protocol's specification"): usize = 7;
}

abi_module! { "io/9pfs.h": consts }

/// Keys of the device's xenstore folders; each description says which end writes it.
pub mod keys {
    /// Back end: protocol versions it knows, separated by commas.
    pub const VERSIONS: &str = "versions";
    /// Back end, number: most rings.
    pub const MAX_RINGS: &str = "max-rings";
    /// Back end, number: largest [`FlexRingIntf::ring_order`](super::FlexRingIntf::ring_order), at most 9.
    pub const MAX_RING_PAGE_ORDER: &str = "max-ring-page-order";
    /// Front end: protocol version it chose.
    pub const VERSION: &str = "version";
    /// Front end, number: rings in use.
    pub const NUM_RINGS: &str = "num-rings";
    /// Front end: `ring-refN` is the grant reference of the index page of ring N.
    pub const RING_REF: &str = "ring-ref";
    /// Front end: `event-channel-N` is the port of ring N.
    pub const EVENT_CHANNEL: &str = "event-channel-";
    /// Front end, written by the toolstack: name by which the file system is mounted.
    pub const TAG: &str = "tag";
}
