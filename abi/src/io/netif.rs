//! The PV network device (`io/netif.h`).
//!
//! Each queue is a transmit and a receive ring ([`super::ring`]); an optional control ring configures hashing and
//! static grants. "Transmit" is from the guest. A packet is one or more slots: the first, optional extra-info slots
//! ([`NetifExtraInfo`], which overlay a request or response), then the other fragments. In a transmitted packet the
//! first slot's `size` is that of the whole packet; in a received one each slot tells its own.
//!
//! Features are negotiated in xenstore with the [`keys`] below (0/1 in decimal unless stated; absent means 0).

use super::ring::RingTypes;

consts! {
    /// Slots per packet that every back end accepts.
    XEN_NETIF_NR_SLOTS_MIN: usize = 18;
    /// Largest packet in bytes.
    XEN_NETIF_MAX_TX_SIZE: usize = 0xffff;

    /// Hash over source and destination address of an IPv4 header.
    XEN_NETIF_CTRL_HASH_TYPE_IPV4: u32 = 0x1;
    /// Hash over addresses and TCP ports of an IPv4 packet.
    XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP: u32 = 0x2;
    /// Hash over source and destination address of an IPv6 header.
    XEN_NETIF_CTRL_HASH_TYPE_IPV6: u32 = 0x4;
    /// Hash over addresses and TCP ports of an IPv6 packet.
    XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP: u32 = 0x8;
    /// No hashing: the back end steers packets as it likes.
    XEN_NETIF_CTRL_HASH_ALGORITHM_NONE: u32 = 0;
    /// Toeplitz hash with a key.
    XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ: u32 = 1;

    /// Never sent.
    XEN_NETIF_CTRL_TYPE_INVALID: u16 = 0;
    /// Which hash types are supported: response data is a mask.
    XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS: u16 = 1;
    /// Which hash types to compute: `data[0]` is a mask.
    XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS: u16 = 2;
    /// Hash key: `data[0]` grant reference, `data[1]` length in bytes.
    XEN_NETIF_CTRL_TYPE_SET_HASH_KEY: u16 = 3;
    /// Largest mapping table: response data is a number of entries.
    XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE: u16 = 4;
    /// Size of the mapping table: `data[0]` entries.
    XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE: u16 = 5;
    /// Part of the mapping table: `data[0]` grant reference, `data[1]` entries, `data[2]` first entry.
    XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING: u16 = 6;
    /// Hash algorithm: `data[0]`.
    XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM: u16 = 7;
    /// How many grants the back end keeps mapped for queue `data[0]`.
    XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE: u16 = 8;
    /// Map grants: `data[0]` queue, `data[1]` grant reference of an [`XenNetifGref`] array, `data[2]`
    /// entries. All or nothing.
    XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING: u16 = 9;
    /// Unmap grants, same arguments; each entry gets its own status.
    XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING: u16 = 10;

    /// Done.
    XEN_NETIF_CTRL_STATUS_SUCCESS: u32 = 0;
    /// The operation is not supported.
    XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED: u32 = 1;
    /// An argument is invalid.
    XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER: u32 = 2;
    /// The data is larger than the back end can take.
    XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW: u32 = 3;

    /// `flags`: map read-only.
    XEN_NETIF_CTRLF_GREF_READONLY("XEN_NETIF_CTRLF_GREF_readonly"): u16 = 0x1;

    /// The checksum field is blank: offload it.
    NETTXF_CSUM_BLANK("NETTXF_csum_blank"): u16 = 0x1;
    /// The data was checked against its checksum.
    NETTXF_DATA_VALIDATED("NETTXF_data_validated"): u16 = 0x2;
    /// The packet continues in the next request.
    NETTXF_MORE_DATA("NETTXF_more_data"): u16 = 0x4;
    /// An extra-info slot follows.
    NETTXF_EXTRA_INFO("NETTXF_extra_info"): u16 = 0x8;

    /// Invalid.
    XEN_NETIF_EXTRA_TYPE_NONE: u8 = 0;
    /// Segmentation offload ([`NetifExtraGso`]).
    XEN_NETIF_EXTRA_TYPE_GSO: u8 = 1;
    /// Add a multicast address ([`NetifExtraMcast`]).
    XEN_NETIF_EXTRA_TYPE_MCAST_ADD: u8 = 2;
    /// Remove a multicast address ([`NetifExtraMcast`]).
    XEN_NETIF_EXTRA_TYPE_MCAST_DEL: u8 = 3;
    /// Hash of the packet ([`NetifExtraHash`]).
    XEN_NETIF_EXTRA_TYPE_HASH: u8 = 4;
    /// One past the last type.
    XEN_NETIF_EXTRA_TYPE_MAX: u8 = 5;
    /// Another extra-info slot follows.
    XEN_NETIF_EXTRA_FLAG_MORE: u8 = 0x1;

    /// No segmentation.
    XEN_NETIF_GSO_TYPE_NONE: u8 = 0;
    /// TCP over IPv4.
    XEN_NETIF_GSO_TYPE_TCPV4: u8 = 1;
    /// TCP over IPv6.
    XEN_NETIF_GSO_TYPE_TCPV6: u8 = 2;

    /// The data was checked against its checksum.
    NETRXF_DATA_VALIDATED("NETRXF_data_validated"): u16 = 0x1;
    /// The checksum field is blank.
    NETRXF_CSUM_BLANK("NETRXF_csum_blank"): u16 = 0x2;
    /// The packet continues in the next response.
    NETRXF_MORE_DATA("NETRXF_more_data"): u16 = 0x4;
    /// An extra-info slot follows.
    NETRXF_EXTRA_INFO("NETRXF_extra_info"): u16 = 0x8;
    /// Deprecated: the slot is a segmentation prefix.
    NETRXF_GSO_PREFIX("NETRXF_gso_prefix"): u16 = 0x10;

    /// The packet was dropped.
    NETIF_RSP_DROPPED: i16 = -2;
    /// The request failed.
    NETIF_RSP_ERROR: i16 = -1;
    /// Done.
    NETIF_RSP_OKAY: i16 = 0;
    /// No response: answers an extra-info slot.
    NETIF_RSP_NULL: i16 = 1;

    /// Bytes of one slot of the transmit ring.
    NETIF_TX_RING_ENTRY_SIZE("sizeof(union netif_tx_sring_entry)"): usize = NetifTxRing::ENTRY_SIZE;
    /// Slots of a transmit ring of one page.
    NETIF_TX_RING_SIZE("__CONST_RING_SIZE(netif_tx,4096)"): usize = NetifTxRing::ENTRIES_PER_PAGE as usize;
    /// Bytes of one slot of the receive ring.
    NETIF_RX_RING_ENTRY_SIZE("sizeof(union netif_rx_sring_entry)"): usize = NetifRxRing::ENTRY_SIZE;
    /// Slots of a receive ring of one page.
    NETIF_RX_RING_SIZE("__CONST_RING_SIZE(netif_rx,4096)"): usize = NetifRxRing::ENTRIES_PER_PAGE as usize;
    /// Bytes of one slot of the control ring.
    XEN_NETIF_CTRL_RING_ENTRY_SIZE("sizeof(union xen_netif_ctrl_sring_entry)"): usize = XenNetifCtrlRing::ENTRY_SIZE;
    /// Slots of a control ring of one page.
    XEN_NETIF_CTRL_RING_SIZE("__CONST_RING_SIZE(xen_netif_ctrl,4096)"): usize = XenNetifCtrlRing::ENTRIES_PER_PAGE as usize;
}

wire! {
    /// A request on the control ring.
    pub struct XenNetifCtrlRequest("struct xen_netif_ctrl_request", 16) {
        /// Chosen by the front end, echoed in the response.
        @0 id: u16,
        /// What is asked (`XEN_NETIF_CTRL_TYPE_*`).
        @2 type_("type"): u16,
        /// Arguments; unused ones are zero.
        @4 data: [u32; 3],
    }

    /// A response on the control ring.
    pub struct XenNetifCtrlResponse("struct xen_netif_ctrl_response", 12) {
        /// Copied from the request.
        @0 id: u16,
        /// Copied from the request.
        @2 type_("type"): u16,
        /// Result (`XEN_NETIF_CTRL_STATUS_*`).
        @4 status: u32,
        /// Result data, by type.
        @8 data: u32,
    }

    /// One entry of a list of grants to map or unmap.
    pub struct XenNetifGref("struct xen_netif_gref", 8) {
        /// Grant reference.
        @0 ref_("ref"): u32,
        /// `XEN_NETIF_CTRLF_GREF_*`.
        @4 flags: u16,
        /// Out: `XEN_NETIF_CTRL_STATUS_*` (unmapping only).
        @6 status: u16,
    }

    /// A slot of a packet to transmit.
    pub struct NetifTxRequest("struct netif_tx_request", 12) {
        /// Grant reference of the page with the data.
        @0 gref: u32,
        /// Byte offset of the data in the page.
        @4 offset: u16,
        /// `NETTXF_*`.
        @6 flags: u16,
        /// Chosen by the front end, echoed in the response.
        @8 id: u16,
        /// Bytes: of the whole packet in its first slot, of the fragment in the others.
        @10 size: u16,
    }

    /// An extra-info slot. It overlays a transmit request or a receive response, and has no id.
    #[repr(align(2))]
    pub struct NetifExtraInfo("struct netif_extra_info", 8) {
        /// What `u` holds (`XEN_NETIF_EXTRA_TYPE_*`).
        @0 type_("type"): u8,
        /// `XEN_NETIF_EXTRA_FLAG_*`.
        @1 flags: u8,
        /// [`NetifExtraGso`], [`NetifExtraMcast`] or [`NetifExtraHash`].
        @2 u: [u8; 6],
    }

    /// Payload of [`XEN_NETIF_EXTRA_TYPE_GSO`].
    pub struct NetifExtraGso("__typeof__(((struct netif_extra_info *)0)->u.gso)", 6) {
        /// Largest payload of a segment, bytes (the path's MSS).
        @0 size: u16,
        /// `XEN_NETIF_GSO_TYPE_*`.
        @2 type_("type"): u8,
        /// Zero.
        @3 pad: u8,
        /// Extra features the segmentation needs; none is defined.
        @4 features: u16,
    }

    /// Payload of the multicast types.
    pub struct NetifExtraMcast("__typeof__(((struct netif_extra_info *)0)->u.mcast)", 6) {
        /// Ethernet address.
        @0 addr: [u8; 6],
    }

    /// Payload of [`XEN_NETIF_EXTRA_TYPE_HASH`].
    pub struct NetifExtraHash("__typeof__(((struct netif_extra_info *)0)->u.hash)", 6) {
        /// Bit number of the hash type (`log2` of `XEN_NETIF_CTRL_HASH_TYPE_*`).
        @0 type_("type"): u8,
        /// `XEN_NETIF_CTRL_HASH_ALGORITHM_*`.
        @1 algorithm: u8,
        /// The hash, little-endian.
        @2 value: [u8; 4],
    }

    /// The answer to a transmit request.
    pub struct NetifTxResponse("struct netif_tx_response", 4) {
        /// Copied from the request.
        @0 id: u16,
        /// Result (`NETIF_RSP_*`).
        @2 status: i16,
    }

    /// A buffer for one fragment to receive.
    pub struct NetifRxRequest("struct netif_rx_request", 8) {
        /// Chosen by the front end, echoed in the response.
        @0 id: u16,
        /// Zero.
        @2 pad: u16,
        /// Grant reference of the buffer page, writable.
        @4 gref: u32,
    }

    /// A received fragment. It stands in the ring slot of its request.
    pub struct NetifRxResponse("struct netif_rx_response", 8) {
        /// Copied from the request.
        @0 id: u16,
        /// Byte offset of the data in the buffer.
        @2 offset: u16,
        /// `NETRXF_*`.
        @4 flags: u16,
        /// Bytes received, or negative: `NETIF_RSP_*`.
        @6 status: i16,
    }
}

/// The transmit ring.
#[derive(Clone, Copy, Debug)]
pub struct NetifTxRing;

impl RingTypes for NetifTxRing {
    type Request = NetifTxRequest;
    type Response = NetifTxResponse;
}

/// The receive ring.
#[derive(Clone, Copy, Debug)]
pub struct NetifRxRing;

impl RingTypes for NetifRxRing {
    type Request = NetifRxRequest;
    type Response = NetifRxResponse;
}

/// The control ring.
#[derive(Clone, Copy, Debug)]
pub struct XenNetifCtrlRing;

impl RingTypes for XenNetifCtrlRing {
    type Request = XenNetifCtrlRequest;
    type Response = XenNetifCtrlResponse;
}

abi_module! { "io/netif.h": consts, wire }

/// Keys of the device's xenstore folders; each description says which end writes it.
pub mod keys {
    /// Front end: it notifies the back end of new receive requests.
    pub const FEATURE_RX_NOTIFY: &str = "feature-rx-notify";
    /// Back end: it copies into the front end's receive buffers. Named by no header, in every implementation.
    pub const FEATURE_RX_COPY: &str = "feature-rx-copy";
    /// Front end: it wants receive data copied. Named by no header, in every implementation.
    pub const REQUEST_RX_COPY: &str = "request-rx-copy";
    /// Both ends: packets of several slots are understood. Named by no header, in every implementation.
    pub const FEATURE_SG: &str = "feature-sg";
    /// Back end: separate event channels for transmit and receive.
    pub const FEATURE_SPLIT_EVENT_CHANNELS: &str = "feature-split-event-channels";
    /// Front end: port for both directions.
    pub const EVENT_CHANNEL: &str = "event-channel";
    /// Front end: port of the transmit ring.
    pub const EVENT_CHANNEL_TX: &str = "event-channel-tx";
    /// Front end: port of the receive ring.
    pub const EVENT_CHANNEL_RX: &str = "event-channel-rx";
    /// Front end: grant reference of the transmit ring.
    pub const TX_RING_REF: &str = "tx-ring-ref";
    /// Front end: grant reference of the receive ring.
    pub const RX_RING_REF: &str = "rx-ring-ref";
    /// Back end, number: most queues.
    pub const MULTI_QUEUE_MAX_QUEUES: &str = "multi-queue-max-queues";
    /// Front end, number: queues in use; from 2 on, the ring keys move under `queue-N`.
    pub const MULTI_QUEUE_NUM_QUEUES: &str = "multi-queue-num-queues";
    /// Both ends: 1 turns IPv4 checksum offload off (it is on by default).
    pub const FEATURE_NO_CSUM_OFFLOAD: &str = "feature-no-csum-offload";
    /// Both ends: IPv6 checksum offload.
    pub const FEATURE_IPV6_CSUM_OFFLOAD: &str = "feature-ipv6-csum-offload";
    /// Both ends: large TCP packets over IPv4 are understood.
    pub const FEATURE_GSO_TCPV4: &str = "feature-gso-tcpv4";
    /// Both ends: large TCP packets over IPv6 are understood.
    pub const FEATURE_GSO_TCPV6: &str = "feature-gso-tcpv6";
    /// Back end: it can filter multicast packets.
    pub const FEATURE_MULTICAST_CONTROL: &str = "feature-multicast-control";
    /// Back end: it watches the request for changes.
    pub const FEATURE_DYNAMIC_MULTICAST_CONTROL: &str = "feature-dynamic-multicast-control";
    /// Front end: apply the multicast filter.
    pub const REQUEST_MULTICAST_CONTROL: &str = "request-multicast-control";
    /// Front end (default 1): 0 where the front end must not trust the back end.
    pub const TRUSTED: &str = "trusted";
    /// Back end: a control ring is understood.
    pub const FEATURE_CTRL_RING: &str = "feature-ctrl-ring";
    /// Front end: grant reference of the control ring.
    pub const CTRL_RING_REF: &str = "ctrl-ring-ref";
    /// Front end: port of the control ring.
    pub const EVENT_CHANNEL_CTRL: &str = "event-channel-ctrl";
    /// Front end, written by the toolstack: Ethernet address of the guest. Named by no header.
    pub const MAC: &str = "mac";
    /// Front end, written by the toolstack: number of the device. Named by no header.
    pub const HANDLE: &str = "handle";
    /// Back end (default 1): 0 where the link is down.
    pub const CARRIER: &str = "carrier";
    /// Front end, bytes (default 1500): set by the toolstack.
    pub const MTU: &str = "mtu";
}
