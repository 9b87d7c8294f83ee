//! `argo.h`: messages between domains through rings that the hypervisor writes
//! (`__HYPERVISOR_argo_op(cmd, arg1, arg2, arg3, arg4)`).
//!
//! A receiver registers a ring for a port, for one partner or for anybody. A sender names source and destination and
//! passes up to [`XEN_ARGO_MAXIOV`] buffers; the hypervisor copies them, with a header, into the ring and notifies
//! the receiver by `VIRQ_ARGO`. The receiver alone writes `rx_ptr`; the hypervisor never trusts it. The ring is shared
//! memory: use it through atomics at the documented offsets.

use crate::GuestHandle;

consts! {
    /// Registers a ring: [`XenArgoRegisterRing`], guest frames (`u64` each), their number, flags.
    XEN_ARGO_OP_REGISTER_RING("XEN_ARGO_OP_register_ring"): u32 = 1;
    /// Removes a ring: [`XenArgoUnregisterRing`].
    XEN_ARGO_OP_UNREGISTER_RING("XEN_ARGO_OP_unregister_ring"): u32 = 2;
    /// Sends: [`XenArgoSendAddr`], [`XenArgoIov`]s, their number, message type. `-EAGAIN` where the ring is
    /// full: a notification follows.
    XEN_ARGO_OP_SENDV("XEN_ARGO_OP_sendv"): u32 = 3;
    /// Asks about rings: [`XenArgoRingData`] and its entries, or null.
    XEN_ARGO_OP_NOTIFY("XEN_ARGO_OP_notify"): u32 = 4;
    /// Flag: fail where the ring is already registered.
    XEN_ARGO_REGISTER_FLAG_FAIL_EXIST: u32 = 1;

    /// Most bytes of a ring: 16 MiB.
    XEN_ARGO_MAX_RING_SIZE: u64 = 0x100_0000;

    /// Most buffers of one message.
    XEN_ARGO_MAXIOV: usize = 8;
    /// Messages in a ring are padded to a multiple of this.
    XEN_ARGO_MSG_SLOT_SIZE: usize = 16;

    /// Any partner (the same as `DOMID_INVALID`).
    XEN_ARGO_DOMID_ANY: u16 = 0x7ff4;
    /// Answer: the ring exists.
    XEN_ARGO_RING_EXISTS: u16 = 0x1;
    /// Answer: it takes messages from anybody.
    XEN_ARGO_RING_SHARED: u16 = 0x2;
    /// Answer: it is empty.
    XEN_ARGO_RING_EMPTY: u16 = 0x4;
    /// Answer: the space asked for is free.
    XEN_ARGO_RING_SUFFICIENT: u16 = 0x8;
    /// Answer: the space asked for exceeds the ring.
    XEN_ARGO_RING_EMSGSIZE: u16 = 0x10;
    /// Answer: too many domains wait for space.
    XEN_ARGO_RING_EBUSY: u16 = 0x20;
}

wire! {
    /// A buffer of a message.
    pub struct XenArgoIov("struct xen_argo_iov", 16) {
        /// Where it is.
        @0 iov_hnd: GuestHandle<u8>,
        /// Its bytes.
        @8 iov_len: u32,
        /// Zero.
        @12 pad: u32,
    }

    /// An address.
    pub struct XenArgoAddr("struct xen_argo_addr", 8) {
        /// Port.
        @0 aport: u32,
        /// Domain.
        @4 domain_id: u16,
        /// Zero.
        @6 pad: u16,
    }

    /// From where to where.
    pub struct XenArgoSendAddr("struct xen_argo_send_addr", 16) {
        /// Sender.
        @0 src: XenArgoAddr,
        /// Receiver.
        @8 dst: XenArgoAddr,
    }

    /// Header of a ring; its bytes follow.
    pub struct XenArgoRing("struct xen_argo_ring", 64) [shared] {
        /// Where the receiver reads next; a multiple of [`XEN_ARGO_MSG_SLOT_SIZE`].
        @0 rx_ptr: u32,
        /// Where the hypervisor writes next.
        @4 tx_ptr: u32,
        /// Zero.
        @8 reserved: [u8; 56],
    }

    /// Argument of [`XEN_ARGO_OP_REGISTER_RING`].
    pub struct XenArgoRegisterRing("struct xen_argo_register_ring", 12) {
        /// Port.
        @0 aport: u32,
        /// Who may send, or [`XEN_ARGO_DOMID_ANY`].
        @4 partner_id: u16,
        /// Zero.
        @6 pad: u16,
        /// Bytes of the ring, a multiple of [`XEN_ARGO_MSG_SLOT_SIZE`].
        @8 len: u32,
    }

    /// Argument of [`XEN_ARGO_OP_UNREGISTER_RING`].
    pub struct XenArgoUnregisterRing("struct xen_argo_unregister_ring", 8) {
        /// Port.
        @0 aport: u32,
        /// Partner given when registering.
        @4 partner_id: u16,
        /// Zero.
        @6 pad: u16,
    }

    /// A question about one ring and its answer.
    pub struct XenArgoRingDataEnt("struct xen_argo_ring_data_ent", 20) {
        /// Which ring.
        @0 ring: XenArgoAddr,
        /// Out: `XEN_ARGO_RING_*`.
        @8 flags: u16,
        /// Zero.
        @10 pad: u16,
        /// Bytes of payload wanted; 0 not to ask. Where they are not free, a notification follows.
        @12 space_required: u32,
        /// Out: largest message the ring can hold.
        @16 max_message_size: u32,
    }

    /// Argument of [`XEN_ARGO_OP_NOTIFY`]; `nent` [`XenArgoRingDataEnt`]s follow.
    pub struct XenArgoRingData("struct xen_argo_ring_data", 8) {
        /// How many.
        @0 nent: u32,
        /// Zero.
        @4 pad: u32,
    }

    /// What precedes each message in a ring.
    pub struct XenArgoRingMessageHeader("struct xen_argo_ring_message_header", 16) {
        /// Bytes of header and payload, without padding.
        @0 len: u32,
        /// Sender.
        @4 source: XenArgoAddr,
        /// Chosen by the sender.
        @12 message_type: u32,
    }
}

abi_module! { "argo.h": consts, wire }
