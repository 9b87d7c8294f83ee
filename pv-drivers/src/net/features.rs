//! What the ends of a network device tell each other in xenstore.

use alloc::format;

use xen_abi::io::netif::keys;

use super::{Checksum, GsoKind, Offload};
use crate::store::{Error, Store, Transaction};

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

    /// Reads what the end with directory `directory` published. What is missing has the value that `io/netif.h`
    /// gives it.
    pub fn read(store: &impl Store, directory: &str) -> Self {
        let set = |key: &str| flag(store, directory, key);
        Self {
            fragments: set(keys::FEATURE_SG),
            gso_tcp4: set(keys::FEATURE_GSO_TCPV4),
            gso_tcp6: set(keys::FEATURE_GSO_TCPV6),
            blank4: !set(keys::FEATURE_NO_CSUM_OFFLOAD),
            blank6: set(keys::FEATURE_IPV6_CSUM_OFFLOAD),
        }
    }

    /// Publishes it.
    ///
    /// # Errors
    ///
    /// Those of xenstore.
    pub fn write(&self, store: &impl Store, transaction: Transaction, directory: &str) -> Result<(), Error> {
        for (key, value) in [
            (keys::FEATURE_SG, self.fragments),
            (keys::FEATURE_GSO_TCPV4, self.gso_tcp4),
            (keys::FEATURE_GSO_TCPV6, self.gso_tcp6),
            (keys::FEATURE_NO_CSUM_OFFLOAD, !self.blank4),
            (keys::FEATURE_IPV6_CSUM_OFFLOAD, self.blank6),
        ] {
            let value: &[u8] = if value { b"1" } else { b"0" };
            store.write(transaction, &format!("{directory}/{key}"), value)?;
        }
        Ok(())
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

/// Whether a node holds a number other than 0.
pub(super) fn flag(store: &impl Store, directory: &str, key: &str) -> bool {
    number(store, directory, key).is_some_and(|value| value != 0)
}

/// The number in a node.
pub(super) fn number(store: &impl Store, directory: &str, key: &str) -> Option<u32> {
    let value = store.read(Transaction::NONE, &format!("{directory}/{key}")).ok()?;
    core::str::from_utf8(&value).ok()?.trim().parse().ok()
}
