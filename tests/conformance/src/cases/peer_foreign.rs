//! What the control domain does to another domain's frames and page tables (xen.h, `foreigndom`).

use core::sync::atomic::Ordering::Relaxed;

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Mfn, Pte};
use xen_abi::hypercall::nr;
use xen_abi::xen::*;

use crate::call::{NO_DOMAIN, Ret, hc4, mmu_batch};
use crate::harness::fault::{self, Fault, page_fault};
use crate::harness::{Env, Outcome, need, same};
use crate::peer::{FREE, Peer, map_foreign, with_peer};

/// `mmuext_op` on the peer's frames.
fn mmuext(peer: &Peer<'_>, cmd: u32, arg1: u64, arg2: u64) -> Ret {
    let request = MmuextOp { cmd, arg1, arg2, ..MmuextOp::default() };
    hc4(nr::MMUEXT_OP, &raw const request as u64, 1, 0, u64::from(peer.id()))
}

/// `mmu_update` in tables of the peer, of frames of the peer.
fn update(peer: &Peer<'_>, ptr: u64, val: u64) -> Ret {
    let id = u32::from(peer.id());
    mmu_batch(&[MmuUpdate { ptr, val }], (id + 1) << 16 | id).0
}

/// The machine address of the entry that maps a page of the peer.
fn entry_of(peer: &Peer<'_>, page: usize) -> u64 {
    peer.mfn(3).address() + 8 * page as u64
}

/// Runs `body` with a frame of the peer mapped at page 0 of the pool.
fn with_mapping(env: &Env, peer: &Peer<'_>, entry: Pte, body: impl FnOnce(u64) -> Outcome) -> Outcome {
    let place = env.page(0);
    need("map", map_foreign(place.virt(), entry.0, peer.id()))?;
    let outcome = body(place.virt());
    need("unmap", map_foreign(place.virt(), Pte::data(place.mfn()).0, DOMID_SELF))?;
    outcome
}

case! {
    /// A frame of the peer, mapped to write and to read only.
    #[peer]
    fn mapping(env) {
        with_peer(env, |peer| {
            let frame = peer.mfn(FREE);
            with_mapping(env, peer, Pte::data(frame), |at| same("write", fault::write(at + 8, 5), Ok(())))?;
            with_mapping(env, peer, Pte::read_only(frame), |at| {
                same("read", fault::read(at + 8), Ok(5))?;
                let refused = Fault::page(page_fault::PRESENT | page_fault::WRITE, at);
                same("write", fault::write(at, 6), Err(refused))
            })?;
            // mov rax, [rdi]; ret
            peer.load(FREE + 1, &[0x48, 0x8b, 0x07, 0xc3])?;
            same("the peer reads", peer.run(peer.virt(FREE + 1), &[peer.virt(FREE) + 8]), Ok(5))
        })
    }
}

case! {
    /// A frame is mapped in its owner's name, and in no other.
    #[peer]
    fn wrong_owner(env) {
        with_peer(env, |peer| {
            let (place, theirs) = (env.page(0), Pte::data(peer.mfn(FREE)).0);
            let own = Pte::data(place.mfn()).0;
            let other = Pte::data(env.page(1).mfn()).0;
            same("one's own in the peer's", map_foreign(place.virt(), other, peer.id()), Err(Errno::EBUSY))?;
            same("by one's own number", map_foreign(place.virt(), own, 0), Err(Errno::ESRCH))?;
            same("in nobody's", map_foreign(place.virt(), theirs, NO_DOMAIN), Err(Errno::ESRCH))?;
            same("the peer's as one's own", map_foreign(place.virt(), theirs, DOMID_SELF), Err(Errno::EBUSY))
        })
    }
}

case! {
    /// The peer's page tables cannot be written by the control domain's mappings, only read.
    #[peer]
    fn tables_are_read_only(env) {
        with_peer(env, |peer| {
            for table in 0..4 {
                let writable = map_foreign(env.page(0).virt(), Pte::data(peer.mfn(table)).0, peer.id());
                same("writable", writable, Err(Errno::EBUSY))?;
            }
            with_mapping(env, peer, Pte::read_only(peer.mfn(3)), |at| {
                let entry = need("read", fault::read(at + 8 * FREE as u64))?;
                same("the entry of a page", Pte(entry).frame(), Some(peer.mfn(FREE)))
            })
        })
    }
}

case! {
    /// A frame that the control domain can write cannot become a page table of the peer, until it lets go of it.
    #[peer]
    fn writable_here_is_no_table_there(env) {
        with_peer(env, |peer| {
            // The peer's own writable mapping goes first.
            need("unmap", update(peer, entry_of(peer, FREE), 0))?;
            let frame = peer.mfn(FREE);
            with_mapping(env, peer, Pte::data(frame), |_| {
                same("pin", mmuext(peer, MMUEXT_PIN_L1_TABLE, frame.0, 0), Err(Errno::EINVAL))
            })?;
            same("pin", mmuext(peer, MMUEXT_PIN_L1_TABLE, frame.0, 0), Ok(0))?;
            let writable = map_foreign(env.page(0).virt(), Pte::data(frame).0, peer.id());
            same("writable", writable, Err(Errno::EBUSY))?;
            same("unpin", mmuext(peer, MMUEXT_UNPIN_TABLE, frame.0, 0), Ok(0))?;
            with_mapping(env, peer, Pte::data(frame), |at| same("write", fault::write(at, 1), Ok(())))
        })
    }
}

case! {
    /// Entries in the peer's tables, changed by the control domain.
    #[peer]
    fn entries_of_others(env) {
        with_peer(env, |peer| {
            peer.look(FREE, |page| page.0[0].store(1, Relaxed))?;
            peer.look(FREE + 1, |page| page.0[0].store(2, Relaxed))?;
            peer.load(FREE + 2, &[0x48, 0x8b, 0x07, 0xc3])?;
            let read = || peer.run(peer.virt(FREE + 2), &[peer.virt(FREE)]);
            same("before", read(), Ok(1))?;
            let moved = Pte::data(peer.mfn(FREE + 1)).0 | Pte::USER;
            same("change", update(peer, entry_of(peer, FREE), moved), Ok(0))?;
            let flush = MmuextOp { cmd: MMUEXT_TLB_FLUSH_LOCAL, ..MmuextOp::default() };
            let at = peer.put(zerocopy::IntoBytes::as_bytes(&flush));
            same("flush", peer.call(nr::MMUEXT_OP, &[at, 1, 0, u64::from(DOMID_SELF)]), Ok(0))?;
            same("after", read(), Ok(2))?;
            let own = Pte::data(env.page(0).mfn()).0;
            same("a frame of somebody else", update(peer, entry_of(peer, FREE), own), Err(Errno::EBUSY))?;
            same("its own table, writable", update(peer, entry_of(peer, FREE), Pte::data(peer.mfn(3)).0), Err(Errno::EBUSY))?;
            same("no table", update(peer, peer.mfn(FREE).address(), moved), Ok(0))?;
            same("a table of somebody else", update(peer, env.page(0).mfn().address(), moved), Err(Errno::EINVAL))
        })
    }
}

case! {
    /// The machine-to-physical entries of the peer's frames.
    #[peer]
    fn machine_to_physical(env) {
        with_peer(env, |peer| {
            let update = |frame: Mfn, domain: u32| {
                mmu_batch(&[MmuUpdate { ptr: frame.address() | MMU_MACHPHYS_UPDATE, val: 0x1234 }], domain).0
            };
            let id = u32::from(peer.id());
            same("of the peer", update(peer.mfn(FREE), id), Ok(0))?;
            same("read", guest_pv_lib::mmu::m2p(peer.mfn(FREE)).map(|frame| frame.0), Some(0x1234))?;
            same("one's own, in the peer's name", update(env.page(0).mfn(), id), Err(Errno::EINVAL))
        })
    }
}

case! {
    /// Whole pages of the peer, cleared and copied by the control domain.
    #[peer]
    fn whole_pages(env) {
        with_peer(env, |peer| {
            let (from, to) = (peer.mfn(FREE), peer.mfn(FREE + 1));
            peer.look(FREE, |page| page.0[511].store(77, Relaxed))?;
            same("copy", mmuext(peer, MMUEXT_COPY_PAGE, to.0, from.0), Ok(0))?;
            same("copied", peer.look(FREE + 1, |page| page.0[511].load(Relaxed))?, 77)?;
            same("clear", mmuext(peer, MMUEXT_CLEAR_PAGE, to.0, 0), Ok(0))?;
            same("cleared", peer.look(FREE + 1, |page| page.0[511].load(Relaxed))?, 0)?;
            same("a table", mmuext(peer, MMUEXT_CLEAR_PAGE, peer.mfn(3).0, 0), Err(Errno::EINVAL))?;
            same("one's own", mmuext(peer, MMUEXT_CLEAR_PAGE, env.page(0).mfn().0, 0), Err(Errno::EINVAL))
        })
    }
}

case! {
    /// What is about the calling vCPU is not done in another domain's name.
    #[peer]
    fn not_for_others(env) {
        with_peer(env, |peer| {
            for cmd in [MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR, MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_TLB_FLUSH_ALL, MMUEXT_SET_LDT] {
                same("refused", mmuext(peer, cmd, peer.mfn(0).0, 0), Err(Errno::EPERM))?;
            }
            same("unpin of what is not pinned", mmuext(peer, MMUEXT_UNPIN_TABLE, peer.mfn(FREE).0, 0), Err(Errno::EINVAL))
        })
    }
}
