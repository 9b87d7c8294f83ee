//! What the ends of a network device tell each other in xenstore.

use xen_abi::io::netif::keys;

use super::{Checksum, GsoKind, Offload};
use crate::transport::Transport;
use crate::xenbus::{End, Nodes};

/// What an end can take: the other one sends nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepts {
    /// Packets of more than one slot.
    #[doc(alias = "feature-sg")]
    pub fragments: bool,
    /// Large TCP packets over IPv4.
    #[doc(alias = "feature-gso-tcpv4")]
    pub gso_tcp4: bool,
    /// Large TCP packets over IPv6.
    #[doc(alias = "feature-gso-tcpv6")]
    pub gso_tcp6: bool,
    /// Blank checksums over IPv4.
    #[doc(alias = "feature-no-csum-offload")]
    pub blank4: bool,
    /// Blank checksums over IPv6.
    #[doc(alias = "feature-ipv6-csum-offload")]
    pub blank6: bool,
}

impl Accepts {
    /// What both ends of this crate can take.
    pub const ALL: Self =
        Self { fragments: true, gso_tcp4: true, gso_tcp6: true, blank4: true, blank6: true };

    /// Nothing but plain packets of one slot.
    pub const PLAIN: Self =
        Self { fragments: false, gso_tcp4: false, gso_tcp6: false, blank4: false, blank6: false };

    /// Reads what the other end published. What is missing has the value that `io/netif.h` gives it.
    #[must_use]
    pub fn of_peer<T: Transport>(end: &End<T>) -> Self {
        Self {
            fragments: end.peer_has(keys::FEATURE_SG),
            gso_tcp4: end.peer_has(keys::FEATURE_GSO_TCPV4),
            gso_tcp6: end.peer_has(keys::FEATURE_GSO_TCPV6),
            blank4: !end.peer_has(keys::FEATURE_NO_CSUM_OFFLOAD),
            blank6: end.peer_has(keys::FEATURE_IPV6_CSUM_OFFLOAD),
        }
    }

    /// Names it for the other end.
    pub fn publish(&self, nodes: &mut Nodes) {
        for (key, value) in [
            (keys::FEATURE_SG, self.fragments),
            (keys::FEATURE_GSO_TCPV4, self.gso_tcp4),
            (keys::FEATURE_GSO_TCPV6, self.gso_tcp6),
            (keys::FEATURE_NO_CSUM_OFFLOAD, !self.blank4),
            (keys::FEATURE_IPV6_CSUM_OFFLOAD, self.blank6),
        ] {
            nodes.set(key, u8::from(value));
        }
    }

    /// Whether a packet of `length` bytes over IP version `version` (0: not IP) can be given to that end as it is.
    #[must_use]
    pub fn takes(&self, offload: &Offload, length: usize, version: u8) -> bool {
        let segmented = match offload.gso.map(|gso| gso.kind) {
            None => true,
            Some(GsoKind::Tcp4) => self.gso_tcp4,
            Some(GsoKind::Tcp6) => self.gso_tcp6,
        };
        let checksum = offload.gso.is_some()
            || offload.checksum != Checksum::Blank
            || if version == 6 { self.blank6 } else { self.blank4 };
        segmented && checksum && (self.fragments || length <= crate::transport::PAGE_SIZE)
    }
}
