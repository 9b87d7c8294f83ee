//! `domctl` (domctl.h) on memory and rights of a domain, and what is not for PV guests.

use guest_pv_lib::Errno;
use xen_abi::domctl::*;
use xen_abi::hypercall::nr;
use xen_abi::memory::*;
use xen_abi::xen::{DOMID_SELF, XenctlBitmap};

use crate::call::{BAD_POINTERS, Ret, op};
use crate::harness::{check, need, same};
use crate::peer::control::{domctl, info, plain};
use crate::peer::{FREE, PAGES, Peer, with_peer};

fn plain_op<T: zerocopy::IntoBytes + zerocopy::FromBytes + zerocopy::Immutable>(
    peer: &Peer<'_>,
    cmd: u32,
    payload: &mut T,
) -> Result<(), Errno> {
    domctl(cmd, peer.id(), payload).map(|_| ())
}

/// The first domain gives the peer more pages; answers how many it got.
fn populate(peer: &Peer<'_>, frames: &mut [u64]) -> Ret {
    let mut arg = XenMemoryReservation {
        extent_start: (frames.as_mut_ptr() as u64).into(),
        nr_extents: frames.len() as u64,
        domid: peer.id(),
        ..XenMemoryReservation::default()
    };
    op(nr::MEMORY_OP, XENMEM_POPULATE_PHYSMAP, &mut arg)
}

case! {
    /// A domain gets no more pages than its limit, which may fall below what it has.
    #[peer]
    fn limit(env) {
        with_peer(env, |peer| {
            let set = |pages: u64| plain_op(peer, XEN_DOMCTL_MAX_MEM, &mut XenDomctlMaxMem { max_memkb: 4 * pages });
            need("max_mem", set(PAGES as u64 + 2))?;
            let mut frames = [100, 101, 102, 103];
            same("only two more", populate(peer, &mut frames), Ok(2))?;
            need("max_mem", set(1))?;
            let found = need("getdomaininfo", info(peer.id()))?;
            same("pages", (found.tot_pages, found.max_pages), (PAGES as u64 + 2, 1))?;
            let mut own = XenMemoryDomain { domid: DOMID_SELF };
            same("asked by itself", peer.op(nr::MEMORY_OP, XENMEM_MAXIMUM_RESERVATION, &mut own), Ok(1))
        })
    }
}

case! {
    /// The identity by which a toolstack knows a domain.
    #[peer]
    fn handle(env) {
        with_peer(env, |peer| {
            let handle = *b"another identity";
            same("set", plain_op(peer, XEN_DOMCTL_SETDOMAINHANDLE, &mut XenDomctlSetdomainhandle { handle }), Ok(()))?;
            same("told", need("getdomaininfo", info(peer.id()))?.handle, handle)
        })
    }
}

case! {
    /// A page of stubs, one for each hypercall, which works; not over a page table, not in a frame of others.
    #[peer]
    fn hypercall_page(env) {
        with_peer(env, |peer| {
            let fill = |gmfn| plain_op(peer, XEN_DOMCTL_HYPERCALL_INIT, &mut XenDomctlHypercallInit { gmfn });
            same("fill", fill(peer.mfn(FREE).0), Ok(()))?;
            let stub = peer.virt(FREE) + 32 * u64::from(nr::XEN_VERSION);
            same("a call through it", peer.run(stub, &[0]), Ok(4 << 16 | 17))?;
            same("over a table", fill(peer.mfn(3).0), Err(Errno::EPERM))?;
            same("in another's", fill(env.page(0).mfn().0), Err(Errno::EINVAL))?;
            same("nowhere", fill(1 << 50), Err(Errno::EINVAL))
        })
    }
}

case! {
    /// What frames are used as: tables of each level, the pinned one, memory, and others' frames.
    #[peer]
    fn frame_types(env) {
        with_peer(env, |peer| {
            let [l4, l3, l2, l1, data] = [0, 1, 2, 3, FREE].map(|page| peer.mfn(page).0);
            let mut frames = [l4, l3, l2, l1, data, env.page(0).mfn().0];
            let mut list = XenDomctlGetpageframeinfo3 { num: 6, array: (frames.as_mut_ptr() as u64).into() };
            same("get", plain_op(peer, XEN_DOMCTL_GETPAGEFRAMEINFO3, &mut list), Ok(()))?;
            let want = [
                XEN_DOMCTL_PFINFO_L4TAB | XEN_DOMCTL_PFINFO_LPINTAB,
                XEN_DOMCTL_PFINFO_L3TAB,
                XEN_DOMCTL_PFINFO_L2TAB,
                XEN_DOMCTL_PFINFO_L1TAB,
                XEN_DOMCTL_PFINFO_NOTAB,
                XEN_DOMCTL_PFINFO_XTAB,
            ];
            same("types", frames, want.map(u64::from))?;
            list.num = 1025;
            same("too many", plain_op(peer, XEN_DOMCTL_GETPAGEFRAMEINFO3, &mut list), Err(Errno::E2BIG))?;
            for at in BAD_POINTERS {
                let mut list = XenDomctlGetpageframeinfo3 { num: 1, array: at.into() };
                same("bad pointer", plain_op(peer, XEN_DOMCTL_GETPAGEFRAMEINFO3, &mut list), Err(Errno::EFAULT))?;
            }
            Ok(())
        })
    }
}

case! {
    /// Ports, frames and interrupts are given within what there is.
    #[peer]
    fn permissions(env) {
        with_peer(env, |peer| {
            let ports = |first_port, nr_ports| {
                let mut payload = XenDomctlIoportPermission { first_port, nr_ports, allow_access: 1, ..XenDomctlIoportPermission::default() };
                plain_op(peer, XEN_DOMCTL_IOPORT_PERMISSION, &mut payload)
            };
            same("a port", ports(0x80, 1), Ok(()))?;
            same("no port", ports(0x80, 0), Err(Errno::EINVAL))?;
            same("beyond the last", ports(0xffff, 2), Err(Errno::EINVAL))?;
            let frames = |first_mfn, nr_mfns| {
                let mut payload = XenDomctlIomemPermission { first_mfn, nr_mfns, allow_access: 1, ..XenDomctlIomemPermission::default() };
                plain_op(peer, XEN_DOMCTL_IOMEM_PERMISSION, &mut payload)
            };
            same("a frame", frames(0xa0, 1), Ok(()))?;
            same("a range that wraps", frames(u64::MAX, 2), Err(Errno::EINVAL))?;
            let mut irq = XenDomctlIrqPermission { pirq: 100_000, allow_access: 1, ..XenDomctlIrqPermission::default() };
            same("an interrupt that does not exist", plain_op(peer, XEN_DOMCTL_IRQ_PERMISSION, &mut irq), Err(Errno::EINVAL))?;
            let mut map = XenDomctlMemoryMapping { first_mfn: u64::MAX, nr_mfns: 2, ..XenDomctlMemoryMapping::default() };
            same("a mapping that wraps", plain_op(peer, XEN_DOMCTL_MEMORY_MAPPING, &mut map), Err(Errno::EINVAL))
        })
    }
}

case! {
    /// A PV guest of this kernel has 64 bits.
    #[peer]
    fn address_size(env) {
        with_peer(env, |peer| {
            let mut size = XenDomctlAddressSize::default();
            same("get", plain_op(peer, XEN_DOMCTL_GET_ADDRESS_SIZE, &mut size), Ok(()))?;
            same("size", size.size, 64)?;
            same("set", plain_op(peer, XEN_DOMCTL_SET_ADDRESS_SIZE, &mut size), Ok(()))?;
            size.size = 16;
            same("16", plain_op(peer, XEN_DOMCTL_SET_ADDRESS_SIZE, &mut size), Err(Errno::EINVAL))
        })
    }
}

case! {
    /// The node that memory comes from.
    #[peer]
    fn node_affinity(env) {
        with_peer(env, |peer| {
            let (mut nodes, mut none) = (0u64, 0u64);
            let map = |at: *mut u64| XenDomctlNodeaffinity {
                nodemap: XenctlBitmap { bitmap: (at as u64).into(), nr_bits: 64, ..XenctlBitmap::default() },
            };
            let (mut payload, mut empty) = (map(&raw mut nodes), map(&raw mut none));
            same("get", plain_op(peer, XEN_DOMCTL_GETNODEAFFINITY, &mut payload), Ok(()))?;
            check("node 0 among them", nodes & 1 != 0)?;
            same("none", plain_op(peer, XEN_DOMCTL_SETNODEAFFINITY, &mut empty), Err(Errno::EINVAL))
        })
    }
}

case! {
    /// Commands for hardware guests, on a PV guest.
    #[peer]
    fn not_for_pv(env) {
        with_peer(env, |peer| {
            let mut bytes = [0u8; 128];
            for cmd in [XEN_DOMCTL_GETHVMCONTEXT, XEN_DOMCTL_SETHVMCONTEXT, XEN_DOMCTL_GETHVMCONTEXT_PARTIAL, XEN_DOMCTL_BIND_PT_IRQ, XEN_DOMCTL_SET_BROKEN_PAGE_P2M] {
                same("invalid", plain_op(peer, cmd, &mut bytes), Err(Errno::EINVAL))?;
            }
            same("debug_op", plain_op(peer, XEN_DOMCTL_DEBUG_OP, &mut bytes), Err(Errno::EINVAL))?;
            for cmd in [XEN_DOMCTL_IOPORT_MAPPING, XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE, XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE] {
                same("not supported", plain_op(peer, cmd, &mut bytes), Err(Errno::EOPNOTSUPP))?;
            }
            let target = |target| plain_op(peer, XEN_DOMCTL_SET_TARGET, &mut XenDomctlSetTarget { target });
            same("a target", target(0), Err(Errno::EOPNOTSUPP))?;
            same("itself as a target", target(peer.id()), Err(Errno::EINVAL))?;
            same("nobody as a target", target(0x7000), Err(Errno::ESRCH))?;
            same("shadow_op on the caller", domctl(XEN_DOMCTL_SHADOW_OP, 0, &mut bytes).map(|_| ()), Err(Errno::EINVAL))?;
            same("soft_reset of one that runs", plain(XEN_DOMCTL_SOFT_RESET, peer.id()), Err(Errno::EINVAL))
        })
    }
}
