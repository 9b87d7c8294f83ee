//! Packets as slots of a ring: one slot for each page, and extra-info slots behind the first.
//!
//! ```text
//! transmit   [first: size of the whole packet] [extra]* [fragment: its size]*
//! receive    [first: its size] [extra]* [fragment: its size]*
//! ```
//!
//! The sender shows a packet's slots all at once, so a chain that ends in the middle is a mistake, not a wait.

use alloc::vec::Vec;

use xen_abi::io::netif::{
    NETRXF_CSUM_BLANK, NETRXF_DATA_VALIDATED, NETTXF_CSUM_BLANK, NETTXF_DATA_VALIDATED, NETTXF_EXTRA_INFO,
    NETTXF_MORE_DATA, NetifExtraGso, NetifExtraInfo, NetifTxRequest, NetifTxRing, XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_GSO, XEN_NETIF_EXTRA_TYPE_MAX, XEN_NETIF_EXTRA_TYPE_MCAST_ADD,
    XEN_NETIF_EXTRA_TYPE_MCAST_DEL, XEN_NETIF_EXTRA_TYPE_NONE,
};
use zerocopy::{FromBytes, IntoBytes, transmute};

use super::{Broken, Checksum, ETHERNET_HEADER, Gso, GsoKind, MAX_FRAGMENTS, Mac, Offload};
use crate::ring::{Back, Memory};
use crate::transport::{GrantRef, PAGE_SIZE};

/// A part of a packet that lies in one page of the front end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The front end's name for the slot.
    pub id: u16,
    /// The page.
    pub reference: GrantRef,
    /// First byte in the page.
    pub offset: u16,
    /// Bytes; what does not lie within the page is refused before.
    pub length: u16,
}

/// What a front end asks for with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Send the packet.
    Send,
    /// Something that is to be answered with an error.
    Refuse,
    /// Pass on packets to that group from now on.
    #[doc(alias = "XEN_NETIF_EXTRA_TYPE_MCAST_ADD")]
    Join(Mac),
    /// Stop that.
    #[doc(alias = "XEN_NETIF_EXTRA_TYPE_MCAST_DEL")]
    Leave(Mac),
}

/// A chain that was taken from a transmit ring. Its fragments are in the list that [`take`] was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Number of fragments.
    pub fragments: u16,
    /// Number of extra-info slots, which want an answer too.
    pub extras: u16,
    /// Bytes of the whole packet.
    pub length: u16,
    /// What was left to do.
    pub offload: Offload,
    /// What to do with it.
    pub order: Order,
}

/// Takes the next chain from the back end of a transmit ring and adds its fragments to `fragments`.
///
/// # Errors
///
/// [`Broken`] where the ring cannot be interpreted any further.
#[doc(alias = "xenvif_count_requests")]
pub fn take<M: Memory>(
    ring: &mut Back<NetifTxRing, M>,
    fragments: &mut Vec<Fragment>,
) -> Result<Option<Chain>, Broken> {
    let Some(first) = ring.pop()? else { return Ok(None) };
    let mut chain = Chain {
        fragments: 0,
        extras: 0,
        length: first.size,
        offload: Offload {
            checksum: checksum_of(first.flags, NETTXF_CSUM_BLANK, NETTXF_DATA_VALIDATED),
            gso: None,
        },
        order: Order::Send,
    };
    if first.flags & NETTXF_EXTRA_INFO != 0 {
        extras(ring, &mut chain)?;
    }
    let place = fragments.len();
    fragments.push(fragment(&first));
    let (mut more, mut rest) = (first.flags & NETTXF_MORE_DATA != 0, 0u32);
    while more {
        let next = ring.pop()?.ok_or(Broken::Chain)?;
        more = next.flags & NETTXF_MORE_DATA != 0;
        rest += u32::from(next.size);
        fragments.push(fragment(&next));
    }
    // The first slot tells the packet's length; its own part is what the others leave.
    let own = u32::from(first.size).checked_sub(rest).and_then(|own| u16::try_from(own).ok());
    fragments[place].length = own.unwrap_or(0);
    let added = fragments.len() - place;
    // Bounded by the slots of a ring.
    chain.fragments = u16::try_from(added).map_err(|_| Broken::Chain)?;
    if chain.order == Order::Send && !is_plausible(&fragments[place..], first.size) {
        chain.order = Order::Refuse;
    }
    Ok(Some(chain))
}

/// Whether each fragment lies in its page and together they can be a packet.
fn is_plausible(fragments: &[Fragment], length: u16) -> bool {
    let inside = |fragment: &Fragment| {
        fragment.length != 0 && usize::from(fragment.offset) + usize::from(fragment.length) <= PAGE_SIZE
    };
    fragments.len() <= MAX_FRAGMENTS && usize::from(length) >= ETHERNET_HEADER && fragments.iter().all(inside)
}

fn fragment(request: &NetifTxRequest) -> Fragment {
    Fragment {
        id: request.id,
        reference: GrantRef(request.gref),
        offset: request.offset,
        length: request.size,
    }
}

/// Takes the extra-info slots behind a first slot.
fn extras<M: Memory>(ring: &mut Back<NetifTxRing, M>, chain: &mut Chain) -> Result<(), Broken> {
    loop {
        let slot = ring.pop()?.ok_or(Broken::Chain)?;
        let (extra, _) = NetifExtraInfo::read_from_prefix(slot.as_bytes()).map_err(|_| Broken::Chain)?;
        chain.extras += 1;
        match extra.type_ {
            XEN_NETIF_EXTRA_TYPE_GSO => match gso(&extra) {
                Some(gso) => chain.offload.gso = Some(gso),
                None => chain.order = Order::Refuse,
            },
            XEN_NETIF_EXTRA_TYPE_MCAST_ADD => chain.order = Order::Join(Mac(extra.u)),
            XEN_NETIF_EXTRA_TYPE_MCAST_DEL => chain.order = Order::Leave(Mac(extra.u)),
            // A hash that the front end computed: nothing here needs it.
            kind if kind > XEN_NETIF_EXTRA_TYPE_NONE && kind < XEN_NETIF_EXTRA_TYPE_MAX => {}
            _ => return Err(Broken::Chain),
        }
        if extra.flags & XEN_NETIF_EXTRA_FLAG_MORE == 0 {
            return Ok(());
        }
    }
}

/// The segmentation that an extra-info slot tells of.
pub(super) fn gso(extra: &NetifExtraInfo) -> Option<Gso> {
    let gso: NetifExtraGso = transmute!(extra.u);
    Some(Gso { size: gso.size, kind: GsoKind::from_number(gso.type_)? }).filter(|gso| gso.size != 0)
}

/// The extra-info slot for a segmentation.
pub(super) fn gso_extra(gso: Gso) -> NetifExtraInfo {
    let payload = NetifExtraGso { size: gso.size, type_: gso.kind.number(), pad: 0, features: 0 };
    NetifExtraInfo { type_: XEN_NETIF_EXTRA_TYPE_GSO, flags: 0, u: transmute!(payload) }
}

/// The extra-info slot that joins or leaves a multicast group.
pub(super) fn group_extra(group: Mac, join: bool) -> NetifExtraInfo {
    let type_ = if join { XEN_NETIF_EXTRA_TYPE_MCAST_ADD } else { XEN_NETIF_EXTRA_TYPE_MCAST_DEL };
    NetifExtraInfo { type_, flags: 0, u: group.0 }
}

/// How the checksum stands, from a slot's flags.
pub(super) fn checksum_of(flags: u16, blank: u16, validated: u16) -> Checksum {
    if flags & blank != 0 {
        Checksum::Blank
    } else if flags & validated != 0 {
        Checksum::Good
    } else {
        Checksum::Unchecked
    }
}

/// The flags for it in a transmit slot.
pub(super) fn transmit_flags(offload: &Offload) -> u16 {
    match offload.checksum {
        _ if offload.is_blank() => NETTXF_CSUM_BLANK | NETTXF_DATA_VALIDATED,
        Checksum::Good => NETTXF_DATA_VALIDATED,
        _ => 0,
    }
}

/// The flags for it in a receive slot.
pub(super) fn receive_flags(offload: &Offload) -> u16 {
    match offload.checksum {
        _ if offload.is_blank() => NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED,
        Checksum::Good => NETRXF_DATA_VALIDATED,
        _ => 0,
    }
}

/// An extra-info slot in the place of a transmit request.
pub(super) fn as_request(extra: NetifExtraInfo) -> NetifTxRequest {
    let mut request = NetifTxRequest { gref: 0, offset: 0, flags: 0, id: 0, size: 0 };
    request.as_mut_bytes()[..size_of::<NetifExtraInfo>()].copy_from_slice(extra.as_bytes());
    request
}

#[cfg(test)]
mod tests {
    extern crate std;
    use core::sync::atomic::AtomicU32;
    use std::sync::Arc;

    use proptest::prelude::*;
    use xen_abi::io::netif::{XEN_NETIF_EXTRA_TYPE_HASH, XEN_NETIF_GSO_TYPE_NONE};

    use super::*;
    use crate::ring::Front;

    type Page = Arc<[AtomicU32]>;

    /// Pushes the slots, shows them and takes all chains.
    fn taken(slots: &[NetifTxRequest]) -> (Result<Vec<Chain>, Broken>, Vec<Fragment>) {
        let page: Page = (0..1024).map(|_| AtomicU32::new(0)).collect();
        let mut front = Front::<NetifTxRing, _>::new(page.clone()).unwrap();
        let mut back = Back::<NetifTxRing, _>::attach(page).unwrap();
        for slot in slots {
            front.push(slot).unwrap();
        }
        let _ = front.publish();
        let mut fragments = Vec::new();
        let mut chains = Vec::new();
        let result = loop {
            match take(&mut back, &mut fragments) {
                Ok(Some(chain)) => chains.push(chain),
                Ok(None) => break Ok(chains),
                Err(broken) => break Err(broken),
            }
        };
        (result, fragments)
    }

    fn slot(id: u16, offset: u16, size: u16, flags: u16) -> NetifTxRequest {
        NetifTxRequest { gref: u32::from(id) + 100, offset, flags, id, size }
    }

    #[test]
    fn a_packet_of_three_pages_with_segmentation() {
        let gso_wanted = Gso { size: 1448, kind: GsoKind::Tcp4 };
        let flags = NETTXF_MORE_DATA | NETTXF_EXTRA_INFO | NETTXF_CSUM_BLANK | NETTXF_DATA_VALIDATED;
        let (chains, fragments) = taken(&[
            slot(5, 96, 9000, flags),
            as_request(gso_extra(gso_wanted)),
            slot(6, 0, 4096, NETTXF_MORE_DATA),
            slot(9, 10, 904, 0),
            slot(7, 0, 60, 0),
        ]);
        let chains = chains.unwrap();
        assert_eq!(chains.len(), 2);
        let offload = Offload { checksum: Checksum::Blank, gso: Some(gso_wanted) };
        let large = Chain { fragments: 3, extras: 1, length: 9000, offload, order: Order::Send };
        assert_eq!(chains[0], large);
        assert_eq!(chains[1].offload, Offload::default());
        let parts: Vec<_> =
            fragments.iter().map(|part| (part.id, part.reference.0, part.offset, part.length)).collect();
        assert_eq!(parts, [(5, 105, 96, 4000), (6, 106, 0, 4096), (9, 109, 10, 904), (7, 107, 0, 60)]);
    }

    #[test]
    fn what_is_wrong_in_itself_is_refused_alone() {
        let more = NETTXF_MORE_DATA;
        for bad in [
            &[slot(0, 0, 13, 0)][..],                     // shorter than an Ethernet header
            &[slot(0, 4000, 200, 0)],                     // beyond its page
            &[slot(0, 0, 5000, 0)],                       // the same by length
            &[slot(0, 0, 100, more), slot(1, 0, 200, 0)], // more in the parts than in the whole
            &[slot(0, 0, 100, more), slot(1, 0, 100, 0)], // nothing left for the first part
            &[slot(0, 0, 100, more), slot(1, 0, 0, 0)],   // an empty part
            &[slot(0, 0, 1500, more), slot(1, u16::MAX, u16::MAX, 0)], // offsets that overflow
        ] {
            let mut slots = bad.to_vec();
            slots.push(slot(9, 0, 60, 0));
            let (chains, _) = taken(&slots);
            let orders: Vec<_> = chains.unwrap().iter().map(|chain| chain.order).collect();
            assert_eq!(orders, [Order::Refuse, Order::Send], "{bad:?}");
        }
    }

    #[test]
    fn a_packet_of_too_many_pages_is_refused() {
        for (count, order) in [(MAX_FRAGMENTS, Order::Send), (MAX_FRAGMENTS + 1, Order::Refuse)] {
            let mut slots: Vec<_> = (0..count).map(|_| slot(1, 0, 100, NETTXF_MORE_DATA)).collect();
            slots[0].size = u16::try_from(count).unwrap() * 100;
            slots[count - 1].flags = 0;
            assert_eq!(taken(&slots).0.unwrap()[0].order, order);
        }
    }

    #[test]
    fn a_chain_without_an_end_breaks_the_connection() {
        assert_eq!(taken(&[slot(0, 0, 100, NETTXF_MORE_DATA)]).0, Err(Broken::Chain));
        assert_eq!(taken(&[slot(0, 0, 100, NETTXF_EXTRA_INFO)]).0, Err(Broken::Chain));
        let mut extra = gso_extra(Gso { size: 1, kind: GsoKind::Tcp6 });
        extra.flags = XEN_NETIF_EXTRA_FLAG_MORE;
        assert_eq!(taken(&[slot(0, 0, 100, NETTXF_EXTRA_INFO), as_request(extra)]).0, Err(Broken::Chain));
        for unknown in [XEN_NETIF_EXTRA_TYPE_NONE, XEN_NETIF_EXTRA_TYPE_MAX, 0xff] {
            extra.type_ = unknown;
            extra.flags = 0;
            assert_eq!(taken(&[slot(0, 0, 100, NETTXF_EXTRA_INFO), as_request(extra)]).0, Err(Broken::Chain));
        }
    }

    #[test]
    fn extras_are_told_apart() {
        let group = Mac([1, 0, 0x5e, 0, 0, 251]);
        let with = |extra| taken(&[slot(0, 0, 60, NETTXF_EXTRA_INFO), as_request(extra)]).0.unwrap()[0];
        assert_eq!(with(group_extra(group, true)).order, Order::Join(group));
        assert_eq!(with(group_extra(group, false)).order, Order::Leave(group));
        let hash = NetifExtraInfo { type_: XEN_NETIF_EXTRA_TYPE_HASH, flags: 0, u: [0; 6] };
        assert_eq!(with(hash).order, Order::Send);
        let mut none = gso_extra(Gso { size: 1000, kind: GsoKind::Tcp4 });
        none.u[2] = XEN_NETIF_GSO_TYPE_NONE;
        assert_eq!(with(none).order, Order::Refuse);
        assert_eq!(with(gso_extra(Gso { size: 0, kind: GsoKind::Tcp4 })).order, Order::Refuse);
    }

    proptest! {
        #[test]
        fn whatever_stands_in_the_slots_the_parts_that_pass_lie_in_their_pages(
            slots in prop::collection::vec((any::<[u8; 12]>(), 0..16u16, any::<bool>()), 0..64),
        ) {
            let slots: Vec<_> = slots.into_iter().map(|(bytes, flags, small)| {
                let mut request: NetifTxRequest = transmute!(bytes);
                request.flags = flags;
                if small {
                    request.size %= 2000;
                    request.offset %= 2000;
                }
                request
            }).collect();
            let (chains, fragments) = taken(&slots);
            let mut rest = &fragments[..];
            for chain in chains.unwrap_or_default() {
                let (own, others) = rest.split_at(chain.fragments.into());
                rest = others;
                if chain.order == Order::Send {
                    let sum: usize = own.iter().map(|part| usize::from(part.length)).sum();
                    prop_assert_eq!(sum, usize::from(chain.length));
                    for part in own {
                        prop_assert!(usize::from(part.offset) + usize::from(part.length) <= PAGE_SIZE);
                    }
                }
            }
        }
    }
}
