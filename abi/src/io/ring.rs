//! The shared request/response ring of `io/ring.h` and its "flex" byte-ring cousin.
//!
//! A ring page starts with a 64-byte header of four free-running 32-bit indexes and private bytes; the rest is an
//! array of slots, each large enough for one request or one response. The number of slots is the largest power of
//! two that fits. Indexes are never reduced modulo the size when stored: only slot selection masks them, so that
//! `producer - consumer` (wrapping) is the number of unread messages.
//!
//! The types here describe bytes only. Shared pages must be accessed through atomics at the documented offsets,
//! never through a reference to [`SringHeader`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

consts! {
    /// Byte offset of `req_prod` in a ring page.
    SRING_REQ_PROD_OFFSET("offsetof(struct blkif_sring, req_prod)"): usize = 0;
    /// Byte offset of `req_event` in a ring page.
    SRING_REQ_EVENT_OFFSET("offsetof(struct blkif_sring, req_event)"): usize = 4;
    /// Byte offset of `rsp_prod` in a ring page.
    SRING_RSP_PROD_OFFSET("offsetof(struct blkif_sring, rsp_prod)"): usize = 8;
    /// Byte offset of `rsp_event` in a ring page.
    SRING_RSP_EVENT_OFFSET("offsetof(struct blkif_sring, rsp_event)"): usize = 12;
    /// Byte offset of the protocol-private bytes in a ring page.
    SRING_PVT_OFFSET("offsetof(struct blkif_sring, pvt)"): usize = 16;
    /// Byte offset of the first slot in a ring page.
    SRING_RING_OFFSET("offsetof(struct blkif_sring, ring)"): usize = 64;

    /// log2 of the page size of all ring protocols and hypercall interfaces.
    XEN_PAGE_SHIFT: u32 = 12;
}

wire! {
    /// The header of a shared ring page, the same for every protocol (C: the part of `struct NAME_sring`
    /// before `ring`). A fresh ring has all indexes 0 and both event indexes 1.
    pub struct SringHeader(!"every protocol has its own struct; the offsets are checked as constants", 64) [shared] {
        /// Index one past the last request the front end has published.
        @0 req_prod: u32,
        /// The back end asks to be notified when `req_prod` passes this index.
        @4 req_event: u32,
        /// Index one past the last response the back end has published.
        @8 rsp_prod: u32,
        /// The front end asks to be notified when `rsp_prod` passes this index.
        @12 rsp_event: u32,
        /// Protocol-private bytes (`netif.smartpoll_active`, `tapif_user.msg`).
        @16 pvt: [u8; 4],
        @20 _pad0(): [u8; 44],
    }

    /// The index page of a flex ring protocol (C: `struct NAME_data_intf`), up to the array of grant
    /// references that follows it. Each direction has its own cache line.
    pub struct FlexRingIntf("struct xen_9pfs_data_intf", 132) [shared] {
        /// Index one past the last byte the front end has read.
        @0 in_cons: u32,
        /// Index one past the last byte the back end has written.
        @4 in_prod: u32,
        /// Padding up to the next cache line; zero.
        @8 pad1: [u8; 56],
        /// Index one past the last byte the back end has read.
        @64 out_cons: u32,
        /// Index one past the last byte the front end has written.
        @68 out_prod: u32,
        /// Padding up to the next cache line; zero.
        @72 pad2: [u8; 56],
        /// log2 of the number of pages of the data area, both directions together.
        @128 ring_order: u32,
    }
}

/// A free-running ring index (C: `RING_IDX`).
pub type RingIdx = u32;

/// Bytes of a page in every I/O protocol, whatever page size the guest uses.
pub const XEN_PAGE_SIZE: usize = 1 << XEN_PAGE_SHIFT;

/// A request/response protocol over a shared ring: which two messages share a slot.
pub trait RingTypes {
    /// What the front end sends.
    type Request: FromBytes + IntoBytes + KnownLayout + Immutable;
    /// What the back end answers.
    type Response: FromBytes + IntoBytes + KnownLayout + Immutable;

    /// Bytes of one slot: a C union of request and response.
    const ENTRY_SIZE: usize = entry_size::<Self::Request, Self::Response>();

    /// Slots of a ring of one page.
    const ENTRIES_PER_PAGE: u32 = ring_size(XEN_PAGE_SIZE, Self::ENTRY_SIZE);
}

/// Bytes of a C union of `A` and `B`.
#[must_use]
pub const fn entry_size<A, B>() -> usize {
    let size = if size_of::<A>() > size_of::<B>() { size_of::<A>() } else { size_of::<B>() };
    let align = if align_of::<A>() > align_of::<B>() { align_of::<A>() } else { align_of::<B>() };
    size.next_multiple_of(align)
}

/// Slots of `entry_size` bytes in a ring of `bytes` bytes (header included), rounded down to a power of two;
/// 0 where not even one slot fits. C: `__CONST_RING_SIZE`.
#[must_use]
#[doc(alias = "__CONST_RING_SIZE")]
#[doc(alias = "__RING_SIZE")]
pub const fn ring_size(bytes: usize, entry_size: usize) -> u32 {
    if entry_size == 0 || bytes < SRING_RING_OFFSET {
        return 0;
    }
    let slots = (bytes - SRING_RING_OFFSET) / entry_size;
    if slots == 0 {
        return 0;
    }
    let log2 = slots.ilog2();
    if log2 > 31 { 1 << 31 } else { 1 << log2 }
}

/// Byte offset in the ring page(s) of the slot that `index` selects in a ring of `entries` slots (a power of two).
#[must_use]
pub const fn slot_offset(index: RingIdx, entries: u32, entry_size: usize) -> usize {
    SRING_RING_OFFSET + (index & entries.wrapping_sub(1)) as usize * entry_size
}

/// Whether publishing messages up to `new` (from `old`) passes the event index that the peer set, so that the
/// peer must be notified. C: `RING_PUSH_REQUESTS_AND_CHECK_NOTIFY`.
#[must_use]
pub const fn must_notify(old: RingIdx, new: RingIdx, event: RingIdx) -> bool {
    new.wrapping_sub(event) < new.wrapping_sub(old)
}

/// Bytes of one direction of a flex ring whose data area is `2^order` pages. C: `XEN_FLEX_RING_SIZE`.
///
/// `None` where the result exceeds 2^31, which no ring index can address.
#[must_use]
#[doc(alias = "XEN_FLEX_RING_SIZE")]
pub const fn flex_ring_size(order: u32) -> Option<u32> {
    match order.checked_add(XEN_PAGE_SHIFT - 1) {
        Some(shift) => 1u32.checked_shl(shift),
        None => None,
    }
}

/// Bytes queued in one direction of a flex ring of `ring_size` bytes (a power of two). C: `NAME_queued`.
///
/// Indexes come from shared memory: the answer is at most `ring_size` whatever they hold.
#[must_use]
pub const fn flex_queued(prod: RingIdx, cons: RingIdx, ring_size: u32) -> u32 {
    if prod == cons {
        return 0;
    }
    let used = prod.wrapping_sub(cons) & ring_size.wrapping_sub(1);
    if used == 0 { ring_size } else { used }
}

abi_module! { "io/ring.h", "io/9pfs.h", "io/blkif.h": consts, wire }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_down_to_powers_of_two() {
        assert_eq!(ring_size(4096, 112), 32);
        assert_eq!(ring_size(4096, 12), 256);
        assert_eq!(ring_size(4096, 64), 32);
        assert_eq!(ring_size(64, 1), 0);
        assert_eq!(ring_size(63, 1), 0);
        assert_eq!(ring_size(4096, 0), 0);
        assert_eq!(ring_size(65 + 63, 64), 1);
    }

    #[test]
    fn slots_wrap() {
        assert_eq!(slot_offset(0, 32, 112), 64);
        assert_eq!(slot_offset(33, 32, 112), 64 + 112);
        assert_eq!(slot_offset(u32::MAX, 32, 112), 64 + 31 * 112);
    }

    #[test]
    fn notification_follows_the_event_index() {
        assert!(must_notify(0, 1, 1));
        assert!(!must_notify(1, 2, 1));
        assert!(must_notify(u32::MAX, 1, 0));
        assert!(!must_notify(5, 5, 5));
    }

    #[test]
    fn flex_rings_count_wrapped_bytes() {
        assert_eq!(flex_ring_size(0), Some(2048));
        assert_eq!(flex_ring_size(20), Some(1 << 31));
        assert_eq!(flex_ring_size(21), None);
        assert_eq!(flex_ring_size(u32::MAX), None);
        assert_eq!(flex_queued(0, 0, 2048), 0);
        assert_eq!(flex_queued(2048, 0, 2048), 2048);
        assert_eq!(flex_queued(3, u32::MAX, 2048), 4);
        assert_eq!(flex_queued(7, 1, 2048), 6);
    }
}
