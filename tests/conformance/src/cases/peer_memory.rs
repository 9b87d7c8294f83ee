//! Memory that moves between domains and the machine (memory.h), and what must not be left of it.

use core::sync::atomic::Ordering::Relaxed;

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Mfn, Pte};
use xen_abi::hypercall::nr;
use xen_abi::memory::*;
use xen_abi::xen::{DOMID_SELF, UVMF_INVLPG};
use zerocopy::IntoBytes;

use crate::call::{Ret, op};
use crate::harness::{check, need, same};
use crate::peer::control::info;
use crate::peer::{FREE, PAGES, Peer, map_foreign, with_peer};

/// A reservation of one page.
fn one(frame: &mut u64, domid: u16) -> XenMemoryReservation {
    XenMemoryReservation {
        extent_start: (&raw mut *frame as u64).into(),
        nr_extents: 1,
        domid,
        ..XenMemoryReservation::default()
    }
}

/// The peer gives one of its pages back. Its own mapping of it goes first.
fn give_back(peer: &Peer<'_>, page: usize) -> Ret {
    peer.call(nr::UPDATE_VA_MAPPING, &[peer.virt(page), 0, UVMF_INVLPG])?;
    let list = peer.mfn(page).0;
    let reservation = XenMemoryReservation {
        extent_start: (peer.virt(5) + 2048).into(),
        nr_extents: 1,
        domid: DOMID_SELF,
        ..XenMemoryReservation::default()
    };
    let mut bytes = [0u8; 2048];
    bytes[..size_of::<XenMemoryReservation>()].copy_from_slice(reservation.as_bytes());
    let at = peer.put(&bytes);
    let offset = 2048 - 512;
    bytes[offset..offset + 8].copy_from_slice(list.as_bytes());
    peer.put(&bytes);
    peer.call(nr::MEMORY_OP, &[u64::from(XENMEM_DECREASE_RESERVATION), at])
}

case! {
    /// A page that its owner gives back is nobody's: it can be mapped in nobody's name.
    #[peer]
    fn given_back(env) {
        with_peer(env, |peer| {
            same("decrease_reservation", give_back(peer, FREE), Ok(1))?;
            same("counted", need("getdomaininfo", info(peer.id()))?.tot_pages, PAGES as u64 - 1)?;
            let entry = Pte::data(peer.mfn(FREE)).0;
            let mapped = map_foreign(env.page(0).virt(), entry, peer.id());
            same("in its name", mapped, Err(Errno::EBUSY))?;
            same("once more", give_back(peer, FREE), Ok(0))
        })
    }
}

case! {
    /// A page that the control domain maps while its owner gives it back is given back when it is unmapped, and counts
    /// until then.
    #[peer]
    fn mapped_while_given_back(env) {
        with_peer(env, |peer| {
            let place = env.page(0);
            peer.look(FREE, |page| page.0[7].store(70, Relaxed))?;
            need("map", map_foreign(place.virt(), Pte::data(peer.mfn(FREE)).0, peer.id()))?;
            let given = give_back(peer, FREE);
            let (pages, seen) = (info(peer.id()).map(|found| found.tot_pages), place.get(7));
            need("unmap", map_foreign(place.virt(), Pte::data(place.mfn()).0, DOMID_SELF))?;
            same("decrease_reservation", given, Ok(1))?;
            same("still counted", pages, Ok(PAGES as u64))?;
            same("contents", seen, 70)?;
            same("no longer counted", info(peer.id()).map(|found| found.tot_pages), Ok(PAGES as u64 - 1))
        })
    }
}

case! {
    /// A page table in use is not given back under its domain's feet.
    #[peer]
    fn table_given_back(env) {
        let _ = env;
        with_peer(env, |peer| {
            let mut frame = peer.mfn(3).0;
            let mut by_control = one(&mut frame, peer.id());
            let given = op(nr::MEMORY_OP, XENMEM_DECREASE_RESERVATION, &mut by_control);
            same("decrease_reservation", given, Ok(1))?;
            // Its tables still refer to it: it stays theirs.
            same("counted", need("getdomaininfo", info(peer.id()))?.tot_pages, PAGES as u64)?;
            same("the peer goes on", peer.call(nr::XEN_VERSION, &[0]), Ok(4 << 16 | 17))?;
            let writable = map_foreign(env.page(0).virt(), Pte::data(Mfn(frame)).0, peer.id());
            same("still a table", writable, Err(Errno::EBUSY))
        })
    }
}

case! {
    /// XSA-217 and its kind: a frame that went back and came to another domain shows nothing of the first one, nor does the
    /// first one see what becomes of it.
    #[peer]
    fn no_trace_of_the_former_owner(env) {
        const SECRET: u64 = 0x5ec2_e7ed_da7a_0001;
        let mut frames = [0u64; PAGES];
        with_peer(env, |peer| {
            for (page, frame) in frames.iter_mut().enumerate() {
                *frame = peer.mfn(page).0;
            }
            (FREE..PAGES).try_for_each(|page| peer.look(page, |words| words.0[100].store(SECRET, Relaxed)))
        })?;
        let mut seen = 0;
        with_peer(env, |peer| {
            // The first domain built this peer and filled its pages with zeros before it ran; what the hypervisor gives now is new.
            let mut pages = [200u64, 201, 202, 203];
            let mut more = XenMemoryReservation {
                extent_start: (pages.as_mut_ptr() as u64).into(),
                nr_extents: 4,
                domid: peer.id(),
                ..XenMemoryReservation::default()
            };
            same("populate_physmap", op(nr::MEMORY_OP, XENMEM_POPULATE_PHYSMAP, &mut more), Ok(4))?;
            for page in pages {
                seen += u32::from(peer.look_at(Mfn(page), |words| words.0[100].load(Relaxed))? == SECRET);
            }
            Ok(())
        })?;
        check("nothing is left", seen == 0)
    }
}

case! {
    /// Frames are taken from and given to another domain by the control domain alone, one by one.
    #[peer]
    fn by_the_control_domain(env) {
        with_peer(env, |peer| {
            let mut frame = 0u64;
            let mut more = one(&mut frame, peer.id());
            same("increase_reservation", op(nr::MEMORY_OP, XENMEM_INCREASE_RESERVATION, &mut more), Ok(1))?;
            same("counted", info(peer.id()).map(|found| found.tot_pages), Ok(PAGES as u64 + 1))?;
            check("named", frame != 0)?;
            let mut own = env.page(0).mfn().0;
            same("not the caller's own", op(nr::MEMORY_OP, XENMEM_DECREASE_RESERVATION, &mut one(&mut own, peer.id())), Ok(0))?;
            same("back", op(nr::MEMORY_OP, XENMEM_DECREASE_RESERVATION, &mut one(&mut frame, peer.id())), Ok(1))?;
            same("counted", info(peer.id()).map(|found| found.tot_pages), Ok(PAGES as u64))
        })
    }
}
