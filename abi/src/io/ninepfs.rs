//! The 9P file-system transport (`io/9pfs.h`).
//!
//! Each ring is a flex ring ([`super::ring`]): an index page with [`FlexRingIntf`] followed by the grant references of
//! the data pages, then `2^ring_order` data pages whose first half is `in` (answers) and second half `out` (requests).
//! 9P messages travel as plain bytes and may wrap.

consts! {
    /// Byte offset in the index page of the first grant reference.
    XEN_9PFS_REF_OFFSET("offsetof(struct xen_9pfs_data_intf, ref)"): usize = 132;
    /// Bytes of the header of every 9P message: size (u32), type (u8), tag (u16), little-endian and packed.
    XEN_9PFS_HEADER_SIZE(!"a number of the protocol's specification"): usize = 7;
}

pub use super::ring::FlexRingIntf;

abi_module! { "io/9pfs.h": consts }
