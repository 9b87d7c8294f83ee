//! The PV USB host connector (`io/usbif.h`).
//!
//! Two rings ([`super::ring`]) of one page each: `urb` carries USB requests, `conn` tells the front end of devices
//! plugged and unplugged (each event answers a dummy request that the front end queued beforehand).

use super::ring::RingTypes;

consts! {
    /// Specification version: unknown.
    USB_VER_UNKNOWN: u32 = 0;
    /// Specification version: USB 1.1.
    USB_VER_USB11: u32 = 1;
    /// Specification version: USB 2.0.
    USB_VER_USB20: u32 = 2;
    /// Specification version: USB 3.0 (not supported).
    USB_VER_USB30: u32 = 3;

    /// `pipe` bits 4:0: port number, from 1.
    USBIF_PIPE_PORT_MASK: u32 = 0x1f;
    /// `pipe` bit 5: cancel the request `unlink_id` instead of submitting one.
    USBIF_PIPE_UNLINK: u32 = 0x20;
    /// `pipe` bit 7: set for device to host.
    USBIF_PIPE_DIR: u32 = 0x80;
    /// Device address, after [`USBIF_PIPE_DEV_SHIFT`].
    USBIF_PIPE_DEV_MASK: u32 = 0x7f;
    /// Position of the device address.
    USBIF_PIPE_DEV_SHIFT: u32 = 8;
    /// Endpoint, after [`USBIF_PIPE_EP_SHIFT`].
    USBIF_PIPE_EP_MASK: u32 = 0xf;
    /// Position of the endpoint.
    USBIF_PIPE_EP_SHIFT: u32 = 15;
    /// Transfer type, after [`USBIF_PIPE_TYPE_SHIFT`].
    USBIF_PIPE_TYPE_MASK: u32 = 0x3;
    /// Position of the transfer type.
    USBIF_PIPE_TYPE_SHIFT: u32 = 30;
    /// Transfer type: isochronous.
    USBIF_PIPE_TYPE_ISOC: u32 = 0;
    /// Transfer type: interrupt.
    USBIF_PIPE_TYPE_INT: u32 = 1;
    /// Transfer type: control.
    USBIF_PIPE_TYPE_CTRL: u32 = 2;
    /// Transfer type: bulk.
    USBIF_PIPE_TYPE_BULK: u32 = 3;

    /// Segments that fit in one request.
    USBIF_MAX_SEGMENTS_PER_REQUEST: usize = 16;
    /// Highest port number.
    USBIF_MAX_PORTNR: usize = 31;
    /// Bytes of each ring.
    USBIF_RING_SIZE: usize = 4096;

    /// `transfer_flags`: a short transfer is an error.
    USBIF_SHORT_NOT_OK: u16 = 0x1;

    /// Done.
    USBIF_STATUS_OK: i32 = 0;
    /// The device is gone.
    USBIF_STATUS_NODEV: i32 = -19;
    /// The request is invalid.
    USBIF_STATUS_INVAL: i32 = -22;
    /// The endpoint stalled.
    USBIF_STATUS_STALL: i32 = -32;
    /// I/O error.
    USBIF_STATUS_IOERROR: i32 = -71;
    /// The device sent too much.
    USBIF_STATUS_BABBLE: i32 = -75;
    /// The device was shut down.
    USBIF_STATUS_SHUTDOWN: i32 = -108;

    /// Unplugged.
    USBIF_SPEED_NONE: u8 = 0;
    /// Low speed.
    USBIF_SPEED_LOW: u8 = 1;
    /// Full speed.
    USBIF_SPEED_FULL: u8 = 2;
    /// High speed.
    USBIF_SPEED_HIGH: u8 = 3;

    /// Slots of the request ring.
    USB_URB_RING_SIZE: usize = UsbifUrbRing::ENTRIES_PER_PAGE as usize;
    /// Slots of the plug-event ring.
    USB_CONN_RING_SIZE: usize = UsbifConnRing::ENTRIES_PER_PAGE as usize;
}

wire! {
    /// A part of one granted page to transfer.
    pub struct UsbifRequestSegment("struct usbif_request_segment", 8) {
        /// Grant reference of the page.
        @0 gref: u32,
        /// Byte offset in the page.
        @4 offset: u16,
        /// Bytes.
        @6 length: u16,
    }

    /// Payload of an isochronous request.
    pub struct UsbifIsoc("__typeof__(((struct usbif_urb_request *)0)->u.isoc)", 8) {
        /// Milliseconds between frames.
        @0 interval: u16,
        /// First frame.
        @2 start_frame: u16,
        /// Packets to transfer.
        @4 number_of_packets: u16,
        /// Entries of `seg` that hold frame descriptors.
        @6 nr_frame_desc_segs: u16,
    }

    /// Payload of an interrupt request.
    pub struct UsbifIntr("__typeof__(((struct usbif_urb_request *)0)->u.intr)", 8) {
        /// Polling interval, milliseconds.
        @0 interval: u16,
        /// Zero.
        @2 pad: [u16; 3],
    }

    /// Payload of a cancellation.
    pub struct UsbifUnlink("__typeof__(((struct usbif_urb_request *)0)->u.unlink)", 8) {
        /// Request to cancel.
        @0 unlink_id: u16,
        /// Zero.
        @2 pad: [u16; 3],
    }

    /// A USB request.
    pub struct UsbifUrbRequest("struct usbif_urb_request", 148) {
        /// Chosen by the front end, echoed in the response.
        @0 id: u16,
        /// Entries of `seg` that hold data.
        @2 nr_buffer_segs: u16,
        /// Port, device, endpoint, direction and type (`USBIF_PIPE_*`).
        @4 pipe: u32,
        /// [`USBIF_SHORT_NOT_OK`].
        @8 transfer_flags: u16,
        /// Bytes of data.
        @10 buffer_length: u16,
        /// The 8 bytes of a control set-up packet, or [`UsbifIsoc`], [`UsbifIntr`], [`UsbifUnlink`].
        @12 u: [u8; 8],
        /// Where the data is; frame descriptors follow.
        @20 seg: [UsbifRequestSegment; USBIF_MAX_SEGMENTS_PER_REQUEST],
    }

    /// The answer to a USB request.
    pub struct UsbifUrbResponse("struct usbif_urb_response", 16) {
        /// Copied from the request.
        @0 id: u16,
        /// First frame (isochronous only).
        @2 start_frame: u16,
        /// Result (`USBIF_STATUS_*`), except isochronous.
        @4 status: i32,
        /// Bytes transferred.
        @8 actual_length: i32,
        /// Packets that failed (isochronous only).
        @12 error_count: i32,
    }

    /// A dummy request, so that the back end has a slot for an event.
    pub struct UsbifConnRequest("struct usbif_conn_request", 2) {
        /// Echoed in the event.
        @0 id: u16,
    }

    /// A device was plugged or unplugged.
    pub struct UsbifConnResponse("struct usbif_conn_response", 4) {
        /// Copied from the dummy request.
        @0 id: u16,
        /// Port, from 1 to [`USBIF_MAX_PORTNR`].
        @2 portnum: u8,
        /// `USBIF_SPEED_*`.
        @3 speed: u8,
    }
}

/// Port number of a `pipe` value.
#[must_use]
#[doc(alias = "usbif_pipeportnum")]
pub const fn usbif_pipe_portnum(pipe: u32) -> u32 {
    pipe & USBIF_PIPE_PORT_MASK
}

/// Device address of a `pipe` value.
#[must_use]
#[doc(alias = "usbif_pipedevice")]
pub const fn usbif_pipe_device(pipe: u32) -> u32 {
    (pipe >> USBIF_PIPE_DEV_SHIFT) & USBIF_PIPE_DEV_MASK
}

/// Endpoint of a `pipe` value.
#[must_use]
#[doc(alias = "usbif_pipeendpoint")]
pub const fn usbif_pipe_endpoint(pipe: u32) -> u32 {
    (pipe >> USBIF_PIPE_EP_SHIFT) & USBIF_PIPE_EP_MASK
}

/// Transfer type of a `pipe` value (`USBIF_PIPE_TYPE_*`).
#[must_use]
#[doc(alias = "usbif_pipetype")]
pub const fn usbif_pipe_type(pipe: u32) -> u32 {
    (pipe >> USBIF_PIPE_TYPE_SHIFT) & USBIF_PIPE_TYPE_MASK
}

/// The ring of USB requests.
#[derive(Clone, Copy, Debug)]
pub struct UsbifUrbRing;

impl RingTypes for UsbifUrbRing {
    type Request = UsbifUrbRequest;
    type Response = UsbifUrbResponse;
}

/// The ring of plug events.
#[derive(Clone, Copy, Debug)]
pub struct UsbifConnRing;

impl RingTypes for UsbifConnRing {
    type Request = UsbifConnRequest;
    type Response = UsbifConnResponse;
}

abi_module! { "io/usbif.h": consts, wire }

/// Keys of the device's xenstore folders; each description says which end writes it.
pub mod keys {
    /// Back end, number: ports of this connector.
    pub const NUM_PORTS: &str = "num-ports";
    /// Back end, number: 1 for USB 1.1, 2 for USB 2.0.
    pub const USB_VER: &str = "usb-ver";
    /// Back end: folder of `port/N` nodes, each naming a physical device.
    pub const PORT: &str = "port";
    /// Front end: event channel port.
    pub const EVENT_CHANNEL: &str = "event-channel";
    /// Front end: grant reference of the request ring.
    pub const URB_RING_REF: &str = "urb-ring-ref";
    /// Front end: grant reference of the plug-event ring.
    pub const CONN_RING_REF: &str = "conn-ring-ref";
    /// Front end: message ABI ([`protocols`](super::super::protocols)).
    pub const PROTOCOL: &str = "protocol";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_come_apart() {
        let pipe =
            5 | USBIF_PIPE_DIR | (0x55 << USBIF_PIPE_DEV_SHIFT) | (9 << USBIF_PIPE_EP_SHIFT) | (3 << 30);
        assert_eq!(usbif_pipe_portnum(pipe), 5);
        assert_eq!(usbif_pipe_device(pipe), 0x55);
        assert_eq!(usbif_pipe_endpoint(pipe), 9);
        assert_eq!(usbif_pipe_type(pipe), USBIF_PIPE_TYPE_BULK);
    }
}
