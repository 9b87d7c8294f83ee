//! Split-driver protocols: the headers under `io/` of Xen's public interface, one module each.
//!
//! Front end (guest) and back end (driver domain) share pages by grant references and notify each other by event
//! channels; parameters are negotiated in xenstore ([`xenbus`] states, one folder per device and end). Messages in
//! shared memory must be copied out before they are checked, because the peer can change them at any time.

pub mod blkif;
pub mod console;
pub mod displif;
pub mod fbif;
pub mod kbdif;
pub mod netif;
pub mod ninepfs;
pub mod pciif;
pub mod protocols;
pub mod ring;
pub mod sndif;
pub mod usbif;
pub mod xenbus;
pub mod xs_wire;

abi_module! {
    children: blkif, console, displif, fbif, kbdif, netif, ninepfs, pciif, protocols, ring, sndif, usbif, xenbus, xs_wire
}
