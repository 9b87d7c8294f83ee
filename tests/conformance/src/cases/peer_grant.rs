//! Grants between two domains (grant_table.h).

use core::sync::atomic::Ordering::Relaxed;

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Mfn, Pte};
use xen_abi::GuestHandle;
use xen_abi::domctl::XEN_DOMINF_DYING;
use xen_abi::grant_table::*;
use xen_abi::hypercall::nr;
use xen_abi::memory::{XENMEM_DECREASE_RESERVATION, XenMemoryReservation};
use xen_abi::xen::DOMID_SELF;

use crate::call::{NO_DOMAIN, grant};
use crate::harness::fault::{self, Fault, page_fault};
use crate::harness::pool::Page;
use crate::harness::{Env, Outcome, Verdict, check, need, same};
use crate::peer::control::info;
use crate::peer::{FREE, Peer, with_peer};

/// A reference behind the reserved ones.
const REF: u32 = 9;
/// What an entry says while it is mapped to read and to write.
const IN_USE: u64 = (GTF_READING | GTF_WRITING) as u64;

/// The first frame of a domain's grant table.
fn frame_of(dom: u16) -> Result<Mfn, Verdict> {
    let mut frames = [0u64; 1];
    let mut arg = [GnttabSetupTable {
        dom,
        nr_frames: 1,
        frame_list: GuestHandle::from(frames.as_mut_ptr() as u64),
        ..GnttabSetupTable::default()
    }];
    need("setup_table", grant(GNTTABOP_SETUP_TABLE, &mut arg))?;
    same("setup_table", arg[0].status, GNTST_OKAY)?;
    Ok(Mfn(frames[0]))
}

/// Page 11 with the first domain's grant table (version 1) mapped at its place.
fn table(env: &Env) -> Result<Page<'_>, Verdict> {
    let page = env.page(11);
    need("map", page.map(Pte::data(frame_of(DOMID_SELF)?)))?;
    page.set(REF as usize, 0);
    Ok(page)
}

/// An entry of a table of version 1.
fn entry(domain: u16, frame: Mfn, flags: u16) -> u64 {
    frame.0 << 32 | u64::from(domain) << 16 | u64::from(flags)
}

/// The peer grants one of its pages to a domain as [`REF`].
fn grant_page(peer: &Peer<'_>, page: usize, domain: u16, flags: u16) -> Outcome {
    set_entry(peer, entry(domain, peer.mfn(page), flags))
}

/// Sets the peer's entry [`REF`].
fn set_entry(peer: &Peer<'_>, value: u64) -> Outcome {
    peer.look_at(frame_of(peer.id())?, |table| table.0[REF as usize].store(value, Relaxed))
}

/// The peer's entry [`REF`].
fn entry_of(peer: &Peer<'_>) -> Result<u64, Verdict> {
    peer.look_at(frame_of(peer.id())?, |table| table.0[REF as usize].load(Relaxed))
}

/// The first domain maps a reference of the peer; answers status and handle.
fn map(peer: &Peer<'_>, at: u64, ref_: u32, flags: u32) -> Result<(i16, u32), Verdict> {
    let mut map = [GnttabMapGrantRef {
        host_addr: at,
        flags: GNTMAP_HOST_MAP | flags,
        ref_,
        dom: peer.id(),
        ..GnttabMapGrantRef::default()
    }];
    need("map_grant_ref", grant(GNTTABOP_MAP_GRANT_REF, &mut map))?;
    Ok((map[0].status, map[0].handle))
}

/// The first domain unmaps; answers the status.
fn unmap(at: u64, handle: u32) -> Result<i16, Verdict> {
    let mut unmap = [GnttabUnmapGrantRef { host_addr: at, handle, ..GnttabUnmapGrantRef::default() }];
    need("unmap_grant_ref", grant(GNTTABOP_UNMAP_GRANT_REF, &mut unmap))?;
    Ok(unmap[0].status)
}

/// One copy by the first domain; answers the status.
fn copy(source: GnttabCopyPtr, dest: GnttabCopyPtr, len: u16, flags: u16) -> Result<i16, Verdict> {
    let mut arg = [GnttabCopy { source, dest, len, flags, ..GnttabCopy::default() }];
    need("copy", grant(GNTTABOP_COPY, &mut arg))?;
    Ok(arg[0].status)
}

/// One end of a copy: a frame of the caller.
fn own(page: Page<'_>, offset: u16) -> GnttabCopyPtr {
    GnttabCopyPtr { u: page.mfn().0, domid: DOMID_SELF, offset, ..GnttabCopyPtr::default() }
}

/// One end of a copy: a reference of the peer.
fn theirs(peer: &Peer<'_>, ref_: u32, offset: u16) -> GnttabCopyPtr {
    GnttabCopyPtr { u: u64::from(ref_), domid: peer.id(), offset, ..GnttabCopyPtr::default() }
}

/// The peer maps a reference of the first domain at one of its pages; answers status and handle.
fn peer_map(peer: &Peer<'_>, page: usize, ref_: u32, flags: u32) -> Result<(i16, u32), Verdict> {
    let mut map = GnttabMapGrantRef {
        host_addr: peer.virt(page),
        flags: GNTMAP_HOST_MAP | flags,
        ref_,
        dom: 0,
        ..GnttabMapGrantRef::default()
    };
    need("map_grant_ref", peer.grant(GNTTABOP_MAP_GRANT_REF, &mut map))?;
    Ok((map.status, map.handle))
}

/// The peer unmaps; answers the status.
fn peer_unmap(peer: &Peer<'_>, page: usize, handle: u32) -> Result<i16, Verdict> {
    let mut unmap =
        GnttabUnmapGrantRef { host_addr: peer.virt(page), handle, ..GnttabUnmapGrantRef::default() };
    need("unmap_grant_ref", peer.grant(GNTTABOP_UNMAP_GRANT_REF, &mut unmap))?;
    Ok(unmap.status)
}

case! {
    /// The peer maps a granted page over one of its own, both see each other's writes, and unmapping tells the granter.
    #[peer]
    fn mapped_by_the_peer(env) {
        with_peer(env, |peer| {
            let (table, data) = (table(env)?, env.page(0));
            data.set(0, 4711);
            table.set(REF as usize, entry(peer.id(), data.mfn(), GTF_PERMIT_ACCESS));
            let (status, handle) = peer_map(peer, FREE, REF, 0)?;
            same("map", status, GNTST_OKAY)?;
            same("in use", table.get(REF as usize) & IN_USE, IN_USE)?;
            // mov rax, [rdi]; inc qword ptr [rdi]; ret
            peer.load(FREE + 1, &[0x48, 0x8b, 0x07, 0x48, 0xff, 0x07, 0xc3])?;
            same("the peer reads", peer.run(peer.virt(FREE + 1), &[peer.virt(FREE)]), Ok(4711))?;
            same("the peer wrote", data.get(0), 4712)?;
            same("unmap", peer_unmap(peer, FREE, handle)?, GNTST_OKAY)?;
            same("unmap again", peer_unmap(peer, FREE, handle)?, GNTST_BAD_HANDLE)?;
            same("no longer in use", table.get(REF as usize) & IN_USE, 0)
        })
    }
}

case! {
    /// A page of the peer, mapped to write: both see each other's writes.
    #[peer]
    fn mapped(env) {
        with_peer(env, |peer| {
            let place = env.page(0);
            peer.look(FREE, |page| page.0[3].store(33, Relaxed))?;
            grant_page(peer, FREE, 0, GTF_PERMIT_ACCESS)?;
            let (status, handle) = map(peer, place.virt(), REF, 0)?;
            same("map", status, GNTST_OKAY)?;
            let seen = (place.get(3), fault::write(place.virt(), 44));
            let used = entry_of(peer)? & IN_USE;
            same("unmap", unmap(place.virt(), handle)?, GNTST_OKAY)?;
            same("seen and written", seen, (33, Ok(())))?;
            same("in use", used, IN_USE)?;
            same("no longer in use", entry_of(peer)? & IN_USE, 0)?;
            same("written", peer.look(FREE, |page| page.0[0].load(Relaxed))?, 44)
        })
    }
}

case! {
    /// A page granted to read cannot be mapped to write; mapped to read, it cannot be written.
    #[peer]
    fn read_only(env) {
        with_peer(env, |peer| {
            let place = env.page(0);
            grant_page(peer, FREE, 0, GTF_PERMIT_ACCESS | GTF_READONLY)?;
            same("to write", map(peer, place.virt(), REF, 0)?.0, GNTST_GENERAL_ERROR)?;
            let (status, handle) = map(peer, place.virt(), REF, GNTMAP_READONLY)?;
            same("to read", status, GNTST_OKAY)?;
            let (read, written) = (fault::read(place.virt()), fault::write(place.virt(), 1));
            let used = entry_of(peer)? & IN_USE;
            same("unmap", unmap(place.virt(), handle)?, GNTST_OKAY)?;
            same("read", read, Ok(0))?;
            let refused = Fault::page(page_fault::PRESENT | page_fault::WRITE, place.virt());
            same("write", written, Err(refused))?;
            same("in use to read", used, u64::from(GTF_READING))
        })
    }
}

case! {
    /// What is not granted, not granted to the caller, or no grant at all.
    #[peer]
    fn not_granted(env) {
        with_peer(env, |peer| {
            let at = env.page(0).virt();
            set_entry(peer, 0)?;
            same("an empty entry", map(peer, at, REF, 0)?.0, GNTST_GENERAL_ERROR)?;
            grant_page(peer, FREE, NO_DOMAIN, GTF_PERMIT_ACCESS)?;
            same("for somebody else", map(peer, at, REF, 0)?.0, GNTST_GENERAL_ERROR)?;
            grant_page(peer, FREE, 0, GTF_ACCEPT_TRANSFER)?;
            same("for a transfer", map(peer, at, REF, 0)?.0, GNTST_GENERAL_ERROR)?;
            same("beyond the table", map(peer, at, 100_000, 0)?.0, GNTST_BAD_GNTREF)?;
            set_entry(peer, entry(0, env.page(1).mfn(), GTF_PERMIT_ACCESS))?;
            same("a frame that is not the granter's", map(peer, at, REF, 0)?.0, GNTST_BAD_PAGE)?;
            set_entry(peer, entry(0, peer.mfn(3), GTF_PERMIT_ACCESS))?;
            same("a page table, to write", map(peer, at, REF, 0)?.0, GNTST_GENERAL_ERROR)?;
            same("no longer in use", entry_of(peer)? & IN_USE, 0)?;
            let (status, handle) = map(peer, at, REF, GNTMAP_READONLY)?;
            same("a page table, to read", status, GNTST_OKAY)?;
            same("unmap", unmap(at, handle)?, GNTST_OKAY)
        })
    }
}

case! {
    /// XSA-224, XSA-234: of several mappings of one grant, each counts for itself; the entry is in use until the last
    /// of its kind is gone.
    #[peer]
    fn mapped_several_times(env) {
        with_peer(env, |peer| {
            let (first, second, third) = (env.page(0).virt(), env.page(1).virt(), env.page(2).virt());
            grant_page(peer, FREE, 0, GTF_PERMIT_ACCESS)?;
            let (a, to_write) = map(peer, first, REF, 0)?;
            let (b, to_read) = map(peer, second, REF, GNTMAP_READONLY)?;
            let (c, again) = map(peer, third, REF, 0)?;
            same("map", (a, b, c), (GNTST_OKAY, GNTST_OKAY, GNTST_OKAY))?;
            same("unmap one to write", unmap(first, to_write)?, GNTST_OKAY)?;
            same("in use", entry_of(peer)? & IN_USE, IN_USE)?;
            same("another's handle", unmap(second, again)?, GNTST_GENERAL_ERROR)?;
            same("unmap the other", unmap(third, again)?, GNTST_OKAY)?;
            same("in use to read", entry_of(peer)? & IN_USE, u64::from(GTF_READING))?;
            same("unmap that to read", unmap(second, to_read)?, GNTST_OKAY)?;
            same("no longer in use", entry_of(peer)? & IN_USE, 0)
        })
    }
}

case! {
    /// XSA-224: a mapping for devices and one for CPUs under one handle go one by one, or both at once.
    #[peer]
    fn device_and_host(env) {
        with_peer(env, |peer| {
            let at = env.page(0).virt();
            grant_page(peer, FREE, 0, GTF_PERMIT_ACCESS)?;
            let (status, handle) = map(peer, at, REF, GNTMAP_DEVICE_MAP)?;
            same("map", status, GNTST_OKAY)?;
            let take = |host_addr, dev_bus_addr| {
                let mut unmap = [GnttabUnmapGrantRef { host_addr, dev_bus_addr, handle, ..GnttabUnmapGrantRef::default() }];
                need("unmap_grant_ref", grant(GNTTABOP_UNMAP_GRANT_REF, &mut unmap)).map(|_| unmap[0].status)
            };
            same("another bus address", take(0, env.page(1).mfn().address())?, GNTST_BAD_DEV_ADDR)?;
            same("for devices", take(0, peer.mfn(FREE).address())?, GNTST_OKAY)?;
            same("in use", entry_of(peer)? & IN_USE, IN_USE)?;
            same("for CPUs", take(at, 0)?, GNTST_OKAY)?;
            same("no longer in use", entry_of(peer)? & IN_USE, 0)?;
            same("once more", take(at, 0)?, GNTST_BAD_HANDLE)
        })
    }
}

case! {
    /// A grant that its granter takes back while it is mapped stays mapped.
    #[peer]
    fn revoked_while_mapped(env) {
        with_peer(env, |peer| {
            let place = env.page(0);
            peer.look(FREE, |page| page.0[0].store(7, Relaxed))?;
            grant_page(peer, FREE, 0, GTF_PERMIT_ACCESS)?;
            let (status, handle) = map(peer, place.virt(), REF, 0)?;
            same("map", status, GNTST_OKAY)?;
            set_entry(peer, 0)?;
            let seen = place.get(0);
            same("unmap", unmap(place.virt(), handle)?, GNTST_OKAY)?;
            same("seen", seen, 7)?;
            same("nothing is left in the entry", entry_of(peer)?, 0)?;
            same("map again", map(peer, env.page(1).virt(), REF, 0)?.0, GNTST_GENERAL_ERROR)
        })
    }
}

case! {
    /// A granted page that its owner gives back while it is mapped is nobody else's before it is unmapped.
    #[peer]
    fn given_back_while_mapped(env) {
        with_peer(env, |peer| {
            let place = env.page(0);
            peer.look(FREE, |page| page.0[0].store(8, Relaxed))?;
            grant_page(peer, FREE, 0, GTF_PERMIT_ACCESS)?;
            let (status, handle) = map(peer, place.virt(), REF, 0)?;
            same("map", status, GNTST_OKAY)?;
            let frame = peer.mfn(FREE).0;
            let mut arg = XenMemoryReservation {
                extent_start: (&raw const frame as u64).into(),
                nr_extents: 1,
                domid: peer.id(),
                ..XenMemoryReservation::default()
            };
            let given = crate::call::op(nr::MEMORY_OP, XENMEM_DECREASE_RESERVATION, &mut arg);
            let pages = need("getdomaininfo", info(peer.id()))?.tot_pages;
            let seen = place.get(0);
            same("unmap", unmap(place.virt(), handle)?, GNTST_OKAY)?;
            same("decrease_reservation", given, Ok(1))?;
            same("seen", seen, 8)?;
            same("still counted", pages, crate::peer::PAGES as u64)
        })
    }
}

case! {
    /// A page of a domain that ends while it is mapped keeps its owner's shell until it is unmapped.
    #[peer]
    fn granter_ends(env) {
        let place = env.page(0);
        let (mut id, mut mapped) = (0, (GNTST_GENERAL_ERROR, 0));
        let outcome = with_peer(env, |peer| {
            id = peer.id();
            peer.look(FREE, |page| page.0[0].store(9, Relaxed))?;
            grant_page(peer, FREE, 0, GTF_PERMIT_ACCESS)?;
            mapped = map(peer, place.virt(), REF, 0)?;
            same("map", mapped.0, GNTST_OKAY)
        });
        let (seen, shell) = (place.get(0), info(id));
        same("unmap", unmap(place.virt(), mapped.1)?, GNTST_OKAY)?;
        same("with_peer finds the shell", outcome, Err(Verdict::Failure("the peer is gone")))?;
        let shell = need("getdomaininfo", shell)?;
        same("dying", shell.flags & XEN_DOMINF_DYING, XEN_DOMINF_DYING)?;
        same("seen", seen, 9)?;
        same("gone with the mapping", info(id).map(|_| ()), Err(Errno::ESRCH))
    }
}

case! {
    /// The mappings of a domain that ends are taken back: the granter's entries are no longer in use.
    #[peer]
    fn mapper_ends(env) {
        let table = table(env)?;
        let data = env.page(0);
        with_peer(env, |peer| {
            table.set(REF as usize, entry(peer.id(), data.mfn(), GTF_PERMIT_ACCESS));
            same("map", peer_map(peer, FREE, REF, 0)?.0, GNTST_OKAY)?;
            same("map again", peer_map(peer, FREE + 1, REF, GNTMAP_READONLY)?.0, GNTST_OKAY)?;
            same("in use", table.get(REF as usize) & IN_USE, IN_USE)
        })?;
        same("no longer in use", table.get(REF as usize) & IN_USE, 0)
    }
}

case! {
    /// A mapping that its mapper replaces by another moves on as the other.
    #[peer]
    fn unmap_and_replace(env) {
        with_peer(env, |peer| {
            let (place, other) = (env.page(0), env.page(1));
            other.set(0, 22);
            peer.look(FREE, |page| page.0[0].store(11, Relaxed))?;
            grant_page(peer, FREE, 0, GTF_PERMIT_ACCESS)?;
            let (status, handle) = map(peer, place.virt(), REF, 0)?;
            same("map", status, GNTST_OKAY)?;
            let before = place.get(0);
            let mut arg = [GnttabUnmapAndReplace {
                host_addr: place.virt(), new_addr: other.virt(), handle, ..GnttabUnmapAndReplace::default()
            }];
            need("unmap_and_replace", grant(GNTTABOP_UNMAP_AND_REPLACE, &mut arg))?;
            same("status", arg[0].status, GNTST_OKAY)?;
            same("before and after", (before, place.get(0)), (11, 22))?;
            same("the other place is empty", fault::read(other.virt()), Err(Fault::page(0, other.virt())))?;
            same("no longer in use", entry_of(peer)? & IN_USE, 0)
        })
    }
}

case! {
    /// Copies from and to pages of the peer, within what it grants.
    #[peer]
    fn copies(env) {
        with_peer(env, |peer| {
            let page = env.page(0);
            peer.look(FREE, |page| page.0[1].store(0x1234, Relaxed))?;
            grant_page(peer, FREE, 0, GTF_PERMIT_ACCESS)?;
            same("from", copy(theirs(peer, REF, 8), own(page, 16), 8, GNTCOPY_SOURCE_GREF)?, GNTST_OKAY)?;
            same("copied", page.get(2), 0x1234)?;
            page.set(0, 0x5678);
            same("to", copy(own(page, 0), theirs(peer, REF, 4088), 8, GNTCOPY_DEST_GREF)?, GNTST_OKAY)?;
            same("copied", peer.look(FREE, |page| page.0[511].load(Relaxed))?, 0x5678)?;
            same("across the end", copy(theirs(peer, REF, 4090), own(page, 0), 8, GNTCOPY_SOURCE_GREF)?, GNTST_BAD_COPY_ARG)?;
            grant_page(peer, FREE, 0, GTF_PERMIT_ACCESS | GTF_READONLY)?;
            same("to one to read", copy(own(page, 0), theirs(peer, REF, 0), 8, GNTCOPY_DEST_GREF)?, GNTST_GENERAL_ERROR)?;
            same("from one to read", copy(theirs(peer, REF, 0), own(page, 0), 8, GNTCOPY_SOURCE_GREF)?, GNTST_OKAY)?;
            grant_page(peer, FREE, NO_DOMAIN, GTF_PERMIT_ACCESS)?;
            same("not granted", copy(theirs(peer, REF, 0), own(page, 0), 8, GNTCOPY_SOURCE_GREF)?, GNTST_GENERAL_ERROR)?;
            same("not in use", entry_of(peer)? & IN_USE, 0)?;
            let frame = GnttabCopyPtr { u: peer.mfn(FREE).0, domid: peer.id(), ..GnttabCopyPtr::default() };
            same("by frame, without a grant", copy(frame, own(page, 0), 8, 0)?, GNTST_PERMISSION_DENIED)
        })
    }
}

/// The peer's table becomes one of version 2, and its entry [`REF`] these two words.
fn set_v2(peer: &Peer<'_>, words: [u64; 2]) -> Outcome {
    let mut version = GnttabSetVersion { version: 2 };
    need("set_version", peer.grant(GNTTABOP_SET_VERSION, &mut version))?;
    peer.look_at(frame_of(peer.id())?, |table| {
        table.0[2 * REF as usize + 1].store(words[1], Relaxed);
        table.0[2 * REF as usize].store(words[0], Relaxed);
    })
}

case! {
    /// Version 2: a grant of a part of a page is copied from within it, and not mapped.
    #[peer]
    fn part_of_a_page(env) {
        with_peer(env, |peer| {
            let page = env.page(0);
            peer.look(FREE, |page| page.0[4].store(0xabc, Relaxed))?;
            // Flags and domain; offset and length 32 each; then the frame.
            let header = u64::from(GTF_PERMIT_ACCESS | GTF_SUB_PAGE) | 32 << 32 | 32 << 48;
            set_v2(peer, [header, peer.mfn(FREE).0])?;
            same("copy", copy(theirs(peer, REF, 32), own(page, 0), 32, GNTCOPY_SOURCE_GREF)?, GNTST_OKAY)?;
            same("copied", page.get(0), 0xabc)?;
            same("before it", copy(theirs(peer, REF, 24), own(page, 0), 16, GNTCOPY_SOURCE_GREF)?, GNTST_GENERAL_ERROR)?;
            same("past it", copy(theirs(peer, REF, 56), own(page, 0), 16, GNTCOPY_SOURCE_GREF)?, GNTST_GENERAL_ERROR)?;
            same("map", map(peer, env.page(1).virt(), REF, 0)?.0, GNTST_GENERAL_ERROR)
        })
    }
}

case! {
    /// Version 2, XSA-226: a grant that leads to a grant of another domain is copied through, and not mapped.
    #[peer]
    fn transitive(env) {
        let table = table(env)?;
        with_peer(env, |peer| {
            let (source, dest) = (env.page(0), env.page(1));
            source.set(0, 0xdef);
            table.set(REF as usize, entry(peer.id(), source.mfn(), GTF_PERMIT_ACCESS | GTF_READONLY));
            // Flags, domain, and whose grant; then which.
            let header = u64::from(GTF_TRANSITIVE);
            set_v2(peer, [header, u64::from(REF)])?;
            same("copy", copy(theirs(peer, REF, 0), own(dest, 8), 8, GNTCOPY_SOURCE_GREF)?, GNTST_OKAY)?;
            same("copied", dest.get(1), 0xdef)?;
            same("map", map(peer, env.page(2).virt(), REF, GNTMAP_READONLY)?.0, GNTST_GENERAL_ERROR)?;
            same("neither is in use", table.get(REF as usize) & IN_USE, 0)?;
            table.set(REF as usize, 0);
            let cut = copy(theirs(peer, REF, 0), own(dest, 8), 8, GNTCOPY_SOURCE_GREF)?;
            check("cut off where it leads to", cut == GNTST_GENERAL_ERROR)
        })
    }
}

case! {
    /// Version 2 keeps what is in use in frames of its own (XSA-255: which are given back with the version).
    #[peer]
    fn status_frames(env) {
        with_peer(env, |peer| {
            set_v2(peer, [u64::from(GTF_PERMIT_ACCESS), peer.mfn(FREE).0])?;
            let mut frames = [0u64; 1];
            let mut arg = [GnttabGetStatusFrames {
                nr_frames: 1, dom: peer.id(), frame_list: GuestHandle::from(frames.as_mut_ptr() as u64), ..GnttabGetStatusFrames::default()
            }];
            need("get_status_frames", grant(GNTTABOP_GET_STATUS_FRAMES, &mut arg))?;
            same("get_status_frames", arg[0].status, GNTST_OKAY)?;
            let used = || peer.look_at(Mfn(frames[0]), |page| page.0[REF as usize / 4].load(Relaxed) >> (16 * (REF % 4)) & 0xffff);
            let place = env.page(0);
            let (status, handle) = map(peer, place.virt(), REF, 0)?;
            same("map", status, GNTST_OKAY)?;
            let while_mapped = used()?;
            let mut version = GnttabSetVersion { version: 1 };
            let back = peer.grant(GNTTABOP_SET_VERSION, &mut version);
            same("unmap", unmap(place.virt(), handle)?, GNTST_OKAY)?;
            same("in use", while_mapped, IN_USE)?;
            same("another version while mapped", back, Err(Errno::EBUSY))?;
            same("no longer in use", used()?, 0)?;
            let mut version = GnttabSetVersion { version: 1 };
            same("another version", peer.grant(GNTTABOP_SET_VERSION, &mut version), Ok(0))
        })
    }
}

case! {
    /// What an ordinary domain may know of another's table: nothing.
    #[peer]
    fn tables_of_others(env) {
        with_peer(env, |peer| {
            let mut size = GnttabQuerySize { dom: 0, ..GnttabQuerySize::default() };
            need("query_size", peer.grant(GNTTABOP_QUERY_SIZE, &mut size))?;
            same("size", size.status, GNTST_PERMISSION_DENIED)?;
            let mut setup = GnttabSetupTable { dom: 0, nr_frames: 1, ..GnttabSetupTable::default() };
            need("setup_table", peer.grant(GNTTABOP_SETUP_TABLE, &mut setup))?;
            same("frames", setup.status, GNTST_PERMISSION_DENIED)?;
            let mut version = GnttabGetVersion { dom: 0, ..GnttabGetVersion::default() };
            same("version", peer.grant(GNTTABOP_GET_VERSION, &mut version), Err(Errno::EPERM))
        })
    }
}
