//! The network device (`io/netif.h`): the front end, the back end, and a learning bridge between back ends.
//!
//! # How packets travel
//!
//! ```text
//! front::Tx ──(transmit ring: grants of the packet's pages)──> back ──> bridge ──> back ──(receive ring)──> front::Rx
//!              pages are lent, not copied          headers are peeked at        the hypervisor copies from the
//!                                                  by grant copy                sender's pages to the receiver's
//! ```
//!
//! A front end lends each packet's pages for as long as it is under way: no byte is copied on its side. The
//! [`bridge`] copies the first bytes of every packet to see the addresses, and then lets the hypervisor copy the data
//! from the sender's pages straight into those that the receiver offered: two grant-copy hypercalls a round, however
//! many packets it moves, and no data passes through the driver domain's memory. Only a packet whose receiver
//! lacks what its sender left to it (a checksum, segmentation) is fetched, completed and sent on ([`checksum`],
//! [`segment`]).
//!
//! # Notifications
//!
//! Each end asks for an event only when it goes idle, and a front end never for transmissions that are done: it
//! collects them when it needs the room.
//!
//! # Distrust
//!
//! Everything on a ring is copied once and checked once ([`chain`]). A packet that is wrong in itself is answered with
//! an error; a ring that cannot be interpreted any more ends the connection ([`Broken`]).
//!
//! # What is left out
//!
//! The control ring (`feature-ctrl-ring`), by which a front end says how its back end is to hash packets to queues: it was made for
//! Windows. Linux's front end has none, as of 6.1, and its back end offers one but does not ask for it. Here neither end offers
//! or uses it.

pub mod back;
pub mod bridge;
pub mod chain;
pub mod checksum;
pub mod features;
pub mod front;
pub mod segment;
mod sum;
#[cfg(test)]
mod tests;

use core::fmt;
use core::str::FromStr;

use xen_abi::io::netif::{XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6};

use crate::ring;

/// The largest packet, headers included.
#[doc(alias = "XEN_NETIF_MAX_TX_SIZE")]
pub const MAX_PACKET: usize = xen_abi::io::netif::XEN_NETIF_MAX_TX_SIZE;

/// Pages that a packet may be spread over: what every back end accepts.
#[doc(alias = "XEN_NETIF_NR_SLOTS_MIN")]
pub const MAX_FRAGMENTS: usize = xen_abi::io::netif::XEN_NETIF_NR_SLOTS_MIN;

/// Bytes of an Ethernet header.
pub const ETHERNET_HEADER: usize = 14;

/// The longest frame that is put on a wire, or given to a local stack: 1,500 bytes behind the header, and the four of a VLAN's
/// tag.
pub const WIRE_FRAME: usize = ETHERNET_HEADER + 1500 + 4;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everybody.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it stands for a group of stations (or all).
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether a bridge keeps packets to it from crossing (IEEE 802.1Q, 8.6.3: 01-80-C2-00-00-0x).
    #[must_use]
    pub const fn is_link_local(self) -> bool {
        let [a, b, c, d, e, f] = self.0;
        matches!([a, b, c, d, e], [0x01, 0x80, 0xc2, 0, 0]) && f < 0x10
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The text is not six bytes in hexadecimal with colons between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAMac;

impl fmt::Display for NotAMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an Ethernet address such as 00:16:3e:01:02:03")
    }
}

impl core::error::Error for NotAMac {}

impl FromStr for Mac {
    type Err = NotAMac;

    /// `00:16:3e:01:02:03`, as xenstore has it.
    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let mut bytes = [0; 6];
        let mut parts = text.trim().split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(NotAMac)?;
            let digits = matches!(part.len(), 1 | 2) && part.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(part, 16).ok().filter(|_| digits).ok_or(NotAMac)?;
        }
        if parts.next().is_some() { Err(NotAMac) } else { Ok(Self(bytes)) }
    }
}

/// How a packet's TCP or UDP checksum stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Checksum {
    /// In the packet, and nobody looked whether it is right.
    #[default]
    Unchecked,
    /// The data is known to be good.
    #[doc(alias = "NETTXF_data_validated")]
    #[doc(alias = "NETRXF_data_validated")]
    Good,
    /// The data is good (it never left the machine), but the field only holds the sum of the pseudo header.
    #[doc(alias = "NETTXF_csum_blank")]
    #[doc(alias = "NETRXF_csum_blank")]
    Blank,
}

/// What a large packet holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    #[doc(alias = "XEN_NETIF_GSO_TYPE_TCPV4")]
    Tcp4,
    /// TCP over IPv6.
    #[doc(alias = "XEN_NETIF_GSO_TYPE_TCPV6")]
    Tcp6,
}

impl GsoKind {
    /// The number on the ring.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp4 => XEN_NETIF_GSO_TYPE_TCPV4,
            Self::Tcp6 => XEN_NETIF_GSO_TYPE_TCPV6,
        }
    }

    /// The kind with that number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            XEN_NETIF_GSO_TYPE_TCPV4 => Some(Self::Tcp4),
            XEN_NETIF_GSO_TYPE_TCPV6 => Some(Self::Tcp6),
            _ => None,
        }
    }
}

/// A packet that stands for several: whoever puts it on a wire cuts it up.
#[doc(alias = "netif_extra_info")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Bytes of payload in each piece but the last; not 0.
    pub size: u16,
    /// What it holds.
    pub kind: GsoKind,
}

/// What was left to do for whoever puts a packet on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offload {
    /// The checksum.
    pub checksum: Checksum,
    /// Segmentation. A packet to be cut up has a blank checksum, whatever `checksum` says.
    pub gso: Option<Gso>,
}

impl Offload {
    /// Whether the checksum field does not hold a checksum.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.checksum == Checksum::Blank || self.gso.is_some()
    }
}

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The ring's indices, or a slot without a request.
    Ring(ring::Error),
    /// A packet's slots do not fit each other.
    Chain,
    /// An answer to a request that was not made.
    Id,
    /// Pages that the other end said it was done with are still in its hands.
    Memory,
}

impl From<ring::Error> for Broken {
    fn from(error: ring::Error) -> Self {
        Self::Ring(error)
    }
}

impl Broken {
    /// The same in words.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Ring(_) => "the other end's ring indices are impossible",
            Self::Chain => "the other end described a packet that cannot be",
            Self::Id => "the other end answered a request that was not made",
            Self::Memory => "the other end keeps pages that it was done with",
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl From<Broken> for crate::xenbus::Error {
    fn from(broken: Broken) -> Self {
        Self::Peer(broken.reason())
    }
}

impl core::error::Error for Broken {}

/// What passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets passed on.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that were dropped for want of room.
    pub dropped: u64,
    /// Packets that were wrong.
    pub errors: u64,
}

impl Counters {
    /// Counts a packet.
    pub(crate) fn passed(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}
