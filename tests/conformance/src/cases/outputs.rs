//! What hypercalls tell beside their return value, where they fail: each output is written exactly where it always was.
//!
//! Kernels rely on it. Linux, for one, adds up how many requests of an `mmu_update` were done, after errors as well.

use core::sync::atomic::Ordering::Relaxed;

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::Pte;
use xen_abi::GuestHandle;
use xen_abi::domctl::*;
use xen_abi::event_channel::*;
use xen_abi::grant_table::*;
use xen_abi::hypercall::nr;
use xen_abi::memory::*;
use xen_abi::physdev::*;
use xen_abi::platform::*;
use xen_abi::sysctl::*;
use xen_abi::version::XENVER_GUEST_HANDLE;
use xen_abi::xen::*;
use zerocopy::IntoBytes;

use super::event::event;
use super::grant::{setup, table};
use super::platform::platform;
use crate::call::*;
use crate::harness::pool::Page;
use crate::harness::{check, need, same};
use crate::memory::memory;
use crate::peer::control::{domctl, sysctl};
use crate::peer::{FREE, Peer, with_peer};

/// What an output holds before.
const UNTOLD: u32 = 0x5555_5555;
/// The bit of a count that marks a batch which goes on.
const PREEMPTED: u64 = 1 << 31;
const SELF: u64 = DOMID_SELF as u64;
const NOBODY: u64 = NO_DOMAIN as u64;

/// The tables of the domain `id`, in what `mmu_update` calls `foreigndom`.
const fn tables(id: u64) -> u64 {
    (id + 1) << 16
}

/// `mmu_update` or `mmuext_op`: the answer, and how many requests are said to be done.
fn batch(nr: u32, requests: u64, count: u64, foreign: u64) -> (Ret, u32) {
    let mut done = UNTOLD;
    let ret = hc4(nr, requests, count, &raw mut done as u64, foreign);
    (ret, done)
}

/// A request that changes a word of an ordinary page, in page 0; the word is in page 1.
fn request<'a>(place: Page<'a>, target: Page<'a>) -> u64 {
    place.set(0, target.entry(0));
    place.set(1, 7);
    place.virt()
}

/// Every `grant_table_op` that takes an array.
const ARRAYS: [u32; 7] = [
    GNTTABOP_MAP_GRANT_REF,
    GNTTABOP_UNMAP_GRANT_REF,
    GNTTABOP_UNMAP_AND_REPLACE,
    GNTTABOP_COPY,
    GNTTABOP_TRANSFER,
    GNTTABOP_SWAP_GRANT_REF,
    GNTTABOP_CACHE_FLUSH,
];

/// A list of frames at `at`: the answer, and the status of the setup of a grant table.
fn setup_at(at: u64, nr_frames: u32) -> (Ret, i16) {
    let mut arg = [GnttabSetupTable {
        dom: DOMID_SELF,
        nr_frames,
        status: 99,
        frame_list: GuestHandle::from(at),
        ..GnttabSetupTable::default()
    }];
    (grant(GNTTABOP_SETUP_TABLE, &mut arg), arg[0].status)
}

/// The same of status frames.
fn status_frames_at(at: u64, nr_frames: u32) -> (Ret, i16) {
    let mut arg =
        [GnttabGetStatusFrames { dom: DOMID_SELF, nr_frames, status: 99, frame_list: GuestHandle::from(at) }];
    (grant(GNTTABOP_GET_STATUS_FRAMES, &mut arg), arg[0].status)
}

/// A machine memory map with room for so many entries: the answer, and the length that is told.
fn machine_map(entries: u32, at: u64) -> (Ret, u32) {
    let mut map =
        XenMemoryMap { nr_entries: entries, buffer: GuestHandle::from(at), ..XenMemoryMap::default() };
    (memory(XENMEM_MACHINE_MEMORY_MAP, &raw mut map as u64), map.nr_entries)
}

/// `map_pirq` of the device at a bus without devices: the answer, and the type that comes back.
fn map_pirq(type_: i32, table_base: u64) -> (Ret, i32) {
    let mut arg = PhysdevMapPirq {
        domid: DOMID_SELF,
        type_,
        index: 1,
        pirq: -1,
        bus: 0x77,
        table_base,
        ..PhysdevMapPirq::default()
    };
    (op(nr::PHYSDEV_OP, PHYSDEVOP_MAP_PIRQ, &mut arg), arg.type_)
}

returns! {
    /// Where the owner of the pages is not known, no request was done, and that is told: without requests as well.
    mmu_update_pages_of_nobody(env): [1, 4, 0].map(|count| batch(nr::MMU_UPDATE, env.page(0).virt(), count, NOBODY))
        => [(Err(Errno::ESRCH), 0); 3];
    /// So it is for the caller's own number, which is no foreign one.
    mmu_update_own_number(env): batch(nr::MMU_UPDATE, env.page(0).virt(), 1, 0) => (Err(Errno::ESRCH), 0);
    /// Where the owner of the tables is not known nothing is told, whoever owns the pages.
    mmu_update_tables_of_nobody(env): [SELF, NOBODY].map(|pages|
        batch(nr::MMU_UPDATE, env.page(0).virt(), 1, tables(NOBODY) | pages)) => [(Err(Errno::ESRCH), UNTOLD); 2];
    /// A list that is none is refused before anything is told; one that is not mapped had no request done.
    mmu_update_list(env): [HYPERVISOR, NON_CANONICAL, UNMAPPED, 0x1000].map(|at| batch(nr::MMU_UPDATE, at, 1, SELF))
        => [UNTOLD, UNTOLD, 0, 0].map(|done| (Err(Errno::EFAULT), done));
    /// A batch that goes on adds to what was told before, also where it gets no further.
    mmu_update_goes_on(env): [SELF, NOBODY].map(|foreign|
        batch(nr::MMU_UPDATE, request(env.page(0), env.page(1)), 1 | PREEMPTED, foreign))
        => [(Ok(0), UNTOLD + 1), (Err(Errno::ESRCH), UNTOLD)];
    /// A batch that goes on has a list, too.
    mmu_update_goes_on_nowhere(env): batch(nr::MMU_UPDATE, HYPERVISOR, 1 | PREEMPTED, SELF)
        => (Err(Errno::EFAULT), UNTOLD);
    /// A number that cannot be told is left out.
    mmu_update_untellable(env): [HYPERVISOR, UNMAPPED].map(|at|
        hc4(nr::MMU_UPDATE, request(env.page(0), env.page(1)), 1, at, SELF)) => [Ok(0); 2];

    /// Where the domain is not known `mmuext_op` tells nothing.
    mmuext_of_nobody(env): [NOBODY, 0].map(|id| batch(nr::MMUEXT_OP, env.page(0).virt(), 1, id))
        => [(Err(Errno::ESRCH), UNTOLD); 2];
    /// A list that is none, and one that is not mapped.
    mmuext_list(env): [HYPERVISOR, NON_CANONICAL, UNMAPPED, 0x1000].map(|at| batch(nr::MMUEXT_OP, at, 1, SELF))
        => [UNTOLD, UNTOLD, 0, 0].map(|done| (Err(Errno::EFAULT), done));
    /// The control domain may name the hypervisor, whose tables are not its own.
    mmuext_of_the_hypervisor(env): {
        let flush = MmuextOp { cmd: MMUEXT_TLB_FLUSH_LOCAL, ..MmuextOp::default() };
        batch(nr::MMUEXT_OP, &raw const flush as u64, 1, u64::from(DOMID_XEN))
    } => (Err(Errno::EPERM), 0);

    /// A list of calls that is none is refused even if it is empty.
    multicall_list(env): [HYPERVISOR, NON_CANONICAL].map(|at| hc2(nr::MULTICALL, at, 0)) => [Err(Errno::EFAULT); 2];

    /// An array of grant operations that is none is refused even if it is empty.
    grant_arrays(env): ARRAYS.map(|cmd| hc3(nr::GRANT_TABLE_OP, u64::from(cmd), HYPERVISOR, 0))
        => [Err(Errno::EFAULT); 7];
    /// A list of frames that is none is refused without a status, even if it is empty.
    frame_lists(env): [setup_at(HYPERVISOR, 1), setup_at(NON_CANONICAL, 0), status_frames_at(HYPERVISOR, 0)]
        => [(Err(Errno::EFAULT), 99); 3];
    /// The size of the table of nobody is not told.
    size_of_nobody(env): {
        let mut arg = [GnttabQuerySize { dom: NO_DOMAIN, nr_frames: UNTOLD, max_nr_frames: UNTOLD, status: 99, ..Default::default() }];
        grant(GNTTABOP_QUERY_SIZE, &mut arg).map(|_| (arg[0].status, arg[0].nr_frames, arg[0].max_nr_frames))
    } => Ok((GNTST_BAD_DOMAIN, UNTOLD, UNTOLD));
    /// A version that does not exist: the present one is told.
    unknown_version(env): {
        let mut arg = [GnttabSetVersion { version: 3 }];
        (grant(GNTTABOP_SET_VERSION, &mut arg), arg[0].version)
    } => (Err(Errno::EINVAL), 1);
    /// A mapping that fails has no handle and no address.
    failed_mapping(env): {
        let mut arg = [GnttabMapGrantRef {
            dom: NO_DOMAIN, flags: GNTMAP_HOST_MAP, host_addr: env.page(0).virt(), handle: UNTOLD, dev_bus_addr: 5,
            ..GnttabMapGrantRef::default()
        }];
        grant(GNTTABOP_MAP_GRANT_REF, &mut arg).map(|_| (arg[0].status, arg[0].handle, arg[0].dev_bus_addr))
    } => Ok((GNTST_BAD_DOMAIN, UNTOLD, 5));

    /// Ports are told where there is one.
    failed_ports(env): {
        let mut virq = EvtchnBindVirq { virq: 99, vcpu: 0, port: UNTOLD };
        let mut ipi = EvtchnBindIpi { vcpu: 99, port: UNTOLD };
        let mut pirq = EvtchnBindPirq { pirq: 1 << 20, port: UNTOLD, ..EvtchnBindPirq::default() };
        let mut near = EvtchnAllocUnbound { dom: NO_DOMAIN, remote_dom: DOMID_SELF, port: UNTOLD };
        let mut far = EvtchnBindInterdomain { remote_dom: NO_DOMAIN, remote_port: 1, local_port: UNTOLD, ..Default::default() };
        let refused = [
            event(EVTCHNOP_BIND_VIRQ, &mut virq), event(EVTCHNOP_BIND_IPI, &mut ipi), event(EVTCHNOP_BIND_PIRQ, &mut pirq),
            event(EVTCHNOP_ALLOC_UNBOUND, &mut near), event(EVTCHNOP_BIND_INTERDOMAIN, &mut far),
        ];
        (refused.iter().all(Result::is_err), [virq.port, ipi.port, pirq.port, near.port, far.local_port])
    } => (true, [UNTOLD; 5]);
    /// `map_pirq` tells how it understood the type, also where it fails for another reason; one that contradicts itself is not
    /// looked at.
    failed_pirqs(env): [map_pirq(MAP_PIRQ_TYPE_MSI_SEG, 0), map_pirq(77, 0), map_pirq(MAP_PIRQ_TYPE_MULTI_MSI, 4096)]
        => [MAP_PIRQ_TYPE_MSI, 77, MAP_PIRQ_TYPE_MULTI_MSI].map(|type_| (Err(Errno::EINVAL), type_));

    /// One byte is told of the shift keys, of the one keyboard that there is.
    shift_keys(env): [0, 1].map(|index| {
        let mut info = XenpfFirmwareInfo { type_: XEN_FW_KBD_SHIFT_FLAGS, index, u: [u64::MAX; 4] };
        platform(XENPF_FIRMWARE_INFO, &mut info).map(|_| (info.u[0] | 0xff, info.u[1]))
    }) => [Ok((u64::MAX, u64::MAX)), Err(Errno::ESRCH)];
}

/// Reads so many bytes of the log from its beginning: how many came, and where the next read would go on.
fn read_log(count: u32, buffer: u64) -> Result<(u32, u32), Errno> {
    let mut arg =
        XenSysctlReadconsole { count, buffer: GuestHandle::from(buffer), ..XenSysctlReadconsole::default() };
    sysctl(XEN_SYSCTL_READCONSOLE, &mut arg).map(|_| (arg.count, arg.index))
}

case! {
    /// Where a read of the log ended is told, also where there was no room at all.
    fn end_of_the_log(env) {
        let at = env.page(0).virt();
        let (none, start) = need("readconsole", read_log(0, at))?;
        same("nothing", none, 0)?;
        same("a byte", read_log(1, at), Ok((1, start.wrapping_add(1))))?;
        same("not mapped", read_log(1, UNMAPPED), Err(Errno::EFAULT))
    }
}

case! {
    /// A list of frames of which the first cannot be written: the second is told all the same.
    #[alone]
    fn frames_behind_a_hole(env) {
        table(env)?;
        let mut frames = [0u64; 2];
        same("both", setup(DOMID_SELF, 2, &mut frames), (Ok(0), GNTST_OKAY))?;
        let (hole, page) = (env.page(0), env.page(1));
        need("hole", hole.map(Pte::EMPTY))?;
        same("half a list", setup_at(page.virt() - 8, 2), (Ok(0), GNTST_BAD_VIRT_ADDR))?;
        same("the second", page.get(0), frames[1])
    }
}

case! {
    /// An exchange tells how far it got, unless there was nothing to do: then its argument may be read-only.
    fn exchange_in_read_only_memory(env) {
        let page = env.page(0);
        need("read-only", page.read_only())?;
        same("nothing to do", memory(XENMEM_EXCHANGE, page.virt()), Ok(0))?;
        need("writable", page.writable())?;
        // More is said to be done than there is.
        page.set(core::mem::offset_of!(XenMemoryExchange, nr_exchanged) / 8, 1);
        same("refused", memory(XENMEM_EXCHANGE, page.virt()), Err(Errno::EINVAL))?;
        need("read-only", page.read_only())?;
        same("untellable", memory(XENMEM_EXCHANGE, page.virt()), Err(Errno::EFAULT))?;
        need("writable", page.writable())
    }
}

case! {
    /// The machine's memory map needs room for one entry more than it has; too little room is not told to be so.
    fn room_for_the_machine_map(env) {
        let (_, length) = machine_map(UNTOLD, 0);
        check("a length", length > 0 && length < 150)?;
        let at = env.page(0).virt();
        same("as many", machine_map(length, at), (Err(Errno::EINVAL), length))?;
        same("one more", machine_map(length + 1, at), (Ok(0), length))?;
        same("nowhere", machine_map(length + 1, HYPERVISOR), (Err(Errno::EFAULT), length + 1))?;
        same("not mapped", machine_map(length + 1, UNMAPPED), (Err(Errno::EFAULT), length + 1))
    }
}

/// A batch that the peer makes: its answer, and how many requests it is told are done.
fn peers_batch(peer: &Peer<'_>, nr: u32, (requests, count, foreign): (u64, u64, u64)) -> (Ret, u32) {
    let done = peer.put(UNTOLD.as_bytes());
    let ret = peer.call(nr, &[requests, count, done, foreign]);
    (ret, peer.take())
}

case! {
    /// A domain without rights is refused with its first request, and told that none was done; without a request it is not refused.
    /// Who owns tables and pages is looked up before.
    #[peer]
    fn mmu_update_without_rights(env) {
        with_peer(env, |peer| {
            let (requests, own) = (peer.virt(FREE), u64::from(peer.id()));
            peer.look(FREE, |words| {
                words.0[0].store(peer.mfn(FREE).address() + 64, Relaxed);
                words.0[2].store(5, Relaxed);
            })?;
            let ask = |requests, count, foreign| peers_batch(peer, nr::MMU_UPDATE, (requests, count, foreign));
            same("its own", ask(requests, 1, SELF), (Ok(0), 1))?;
            for foreign in [0, tables(0) | SELF, tables(0)] {
                same("one", ask(requests, 1, foreign), (Err(Errno::EPERM), 0))?;
                same("none", ask(requests, 0, foreign), (Ok(0), 0))?;
                same("not mapped", ask(0x1000, 1, foreign), (Err(Errno::EFAULT), 0))?;
            }
            same("unknown", ask(requests + 16, 1, 0), (Err(Errno::ENOSYS), 0))?;
            same("own number", ask(requests, 1, own), (Err(Errno::ESRCH), 0))?;
            same("pages of nobody", ask(requests, 1, NOBODY), (Err(Errno::ESRCH), 0))?;
            same("tables of nobody", ask(requests, 1, tables(NOBODY) | SELF), (Err(Errno::ESRCH), UNTOLD))
        })
    }
}

case! {
    /// A domain without rights that names another one, or device memory, is told nothing by `mmuext_op`.
    #[peer]
    fn mmuext_without_rights(env) {
        with_peer(env, |peer| {
            let flush = u64::from(MMUEXT_TLB_FLUSH_LOCAL);
            peer.look(FREE, |words| words.0[0].store(flush, Relaxed))?;
            let ask = |foreign| peers_batch(peer, nr::MMUEXT_OP, (peer.virt(FREE), 1, foreign));
            same("its own", ask(SELF), (Ok(0), 1))?;
            for foreign in [0, u64::from(DOMID_IO), u64::from(DOMID_XEN)] {
                same("another's", ask(foreign), (Err(Errno::EPERM), UNTOLD))?;
            }
            same("own number", ask(u64::from(peer.id())), (Err(Errno::ESRCH), UNTOLD))?;
            same("nobody's", ask(NOBODY), (Err(Errno::ESRCH), UNTOLD))
        })
    }
}

case! {
    /// A domain is told the handle by which its toolstack knows it.
    #[peer]
    fn own_handle(env) {
        with_peer(env, |peer| {
            let mut found = [0u8; 16];
            need("guest_handle", peer.op(nr::XEN_VERSION, XENVER_GUEST_HANDLE, &mut found))?;
            same("as made", &found, b"conformance peer")?;
            let mut handle = XenDomctlSetdomainhandle { handle: *b"another identity" };
            need("setdomainhandle", domctl(XEN_DOMCTL_SETDOMAINHANDLE, peer.id(), &mut handle))?;
            need("guest_handle", peer.op(nr::XEN_VERSION, XENVER_GUEST_HANDLE, &mut found))?;
            same("as set", &found, b"another identity")
        })
    }
}

case! {
    /// Two sets of CPUs at once: the first is told as soon as it counts, and undone where the second is refused; of the second
    /// those are told that the first allows.
    #[peer]
    #[cpus(2)]
    fn affinities_that_are_half_set(env) {
        with_peer(env, |peer| {
            let map = |at: u64| XenctlBitmap { bitmap: at.into(), nr_bits: 8, ..XenctlBitmap::default() };
            let ask = |cmd, hard: u8, soft: u8, bad: bool| {
                let mut sets = [hard, soft];
                let at = &raw mut sets as u64;
                let mut payload = XenDomctlVcpuaffinity {
                    flags: XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT,
                    cpumap_hard: map(at),
                    cpumap_soft: map(if bad { UNMAPPED } else { at + 1 }),
                    ..XenDomctlVcpuaffinity::default()
                };
                let ret = domctl(cmd, peer.id(), &mut payload).map(|_| ());
                (ret, sets)
            };
            let (set, get) = (XEN_DOMCTL_SETVCPUAFFINITY, XEN_DOMCTL_GETVCPUAFFINITY);
            same("those that are up and allowed", ask(set, 0b1_0001, 0b1_0011, false), (Ok(()), [1, 1]))?;
            let (_, before) = ask(get, 0, 0, false);
            let (ret, sets) = ask(set, 0b1_0010, 0, true);
            same("the second cannot be read", (ret, sets[0]), (Err(Errno::EFAULT), 0b10))?;
            same("as before", ask(get, 0, 0, false), (Ok(()), before))
        })
    }
}
