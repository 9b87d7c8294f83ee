//! Grants between two domains (grant_table.h).

use guest_pv_lib::mmu::{Mfn, Pte};
use xen_abi::GuestHandle;
use xen_abi::grant_table::*;
use xen_abi::xen::DOMID_SELF;

use crate::call::grant;
use crate::harness::pool::Page;
use crate::harness::{Env, Verdict, need, same};
use crate::peer::{FREE, Peer, with_peer};

/// A reference behind the reserved ones.
const REF: u32 = 9;

/// Page 11 with the first domain's grant table (version 1) mapped at its place.
fn table(env: &Env) -> Result<Page<'_>, Verdict> {
    let mut frames = [0u64; 1];
    let mut arg = [GnttabSetupTable {
        dom: DOMID_SELF,
        nr_frames: 1,
        frame_list: GuestHandle::from(frames.as_mut_ptr() as u64),
        ..GnttabSetupTable::default()
    }];
    need("setup_table", grant(GNTTABOP_SETUP_TABLE, &mut arg))?;
    same("setup_table", arg[0].status, GNTST_OKAY)?;
    let page = env.page(11);
    need("map", page.map(Pte::data(Mfn(frames[0]))))?;
    page.set(REF as usize, 0);
    Ok(page)
}

/// An entry of a table of version 1.
fn entry(domain: u16, frame: Mfn, flags: u16) -> u64 {
    frame.0 << 32 | u64::from(domain) << 16 | u64::from(flags)
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
            same("in use", table.get(REF as usize) as u16 & (GTF_READING | GTF_WRITING), GTF_READING | GTF_WRITING)?;
            // mov rax, [rdi]; inc qword ptr [rdi]; ret
            peer.load(FREE + 1, &[0x48, 0x8b, 0x07, 0x48, 0xff, 0x07, 0xc3])?;
            same("the peer reads", peer.run(peer.virt(FREE + 1), &[peer.virt(FREE)]), Ok(4711))?;
            same("the peer wrote", data.get(0), 4712)?;
            same("unmap", peer_unmap(peer, FREE, handle)?, GNTST_OKAY)?;
            same("unmap again", peer_unmap(peer, FREE, handle)?, GNTST_BAD_HANDLE)?;
            same("no longer in use", table.get(REF as usize) as u16 & (GTF_READING | GTF_WRITING), 0)
        })
    }
}
