//! What hypercalls tell beside their return value, on each way out: where Xen writes an output it is written, and nowhere else.
//!
//! Guests rely on both. Linux adds up how many requests of an `mmu_update` were done, and reads that number after an error.

use super::*;
use crate::domain::{DomainConfig, VcpuRef};
use crate::ids::{CpuId, DomId, VcpuId};
use xen_abi::domctl::*;
use xen_abi::grant_table::*;
use xen_abi::memory::*;
use xen_abi::platform::*;
use xen_abi::xen::*;

/// An address that no guest has.
const NOWHERE: u64 = 0xffff_82d0_0000_0000;
/// A guest's address at which nothing is mapped.
const UNMAPPED: u64 = 0x10;
/// What outputs hold before.
const UNTOLD: u32 = 0x5555_5555;
/// Where requests are put, and where the number of those done is told.
const REQUESTS: u64 = FLAT_BASE + 0x400;
const DONE: u64 = FLAT_BASE + 0x800;
/// Requests of a continued batch are marked by this bit of the count.
const PREEMPTED: u64 = 1 << 31;
const SELF: u64 = DOMID_SELF as u64;

impl Caller {
    /// `mmu_update` or `mmuext_op`: the answer, and how many requests are said to be done.
    fn batch(&self, nr: u32, requests: u64, count: u64, foreign: u64) -> (Result<i64, Errno>, u32) {
        self.put_at(DONE, &UNTOLD);
        let answer = self.call(nr, &[requests, count, DONE, foreign]);
        (answer, u32::from_le_bytes(self.bytes(DONE)))
    }
}

/// A caller with this number, another domain 5, and a request that changes a word of a page of the caller's.
fn caller(id: u16) -> Caller {
    let caller = Caller::with_id(id);
    let page = caller.hv.alloc_domain_page(&caller.domain, 0).unwrap();
    mock::domain(&caller.hv, 5, 1, 4);
    caller.put_at(REQUESTS, &MmuUpdate { ptr: page.addr().0, val: 7 });
    caller
}

#[test]
fn mmu_update_tells_how_many_were_done() {
    let (none, told) = (UNTOLD, 0);
    let tables = |id: u64| (id + 1) << 16;
    let unknown = MmuUpdate { ptr: 5, val: 0 };
    for id in [0, 3] {
        let caller = caller(id);
        let ask = |requests, count, foreign| caller.batch(nr::MMU_UPDATE, requests, count, foreign);
        let own = u64::from(id);
        assert_eq!(ask(REQUESTS, 1, SELF), (Ok(0), 1));
        assert_eq!(ask(REQUESTS, 1 | PREEMPTED, SELF), (Ok(0), UNTOLD + 1), "goes on counting");
        assert_eq!(ask(NOWHERE, 1, SELF), (Err(Errno::EFAULT), none), "no list at all");
        assert_eq!(ask(NOWHERE, 1 | PREEMPTED, SELF), (Err(Errno::EFAULT), none), "nor in a continuation");
        assert_eq!(ask(UNMAPPED, 2, SELF), (Err(Errno::EFAULT), told));
        // The owner of the pages is not known.
        assert_eq!(ask(REQUESTS, 1, 9), (Err(Errno::ESRCH), told));
        assert_eq!(ask(REQUESTS, 0, 9), (Err(Errno::ESRCH), told));
        assert_eq!(ask(REQUESTS, 1, own), (Err(Errno::ESRCH), told), "not foreign");
        assert_eq!(ask(REQUESTS, 1 | PREEMPTED, 9), (Err(Errno::ESRCH), UNTOLD), "what was done stays done");
        // The owner of the tables is not known.
        assert_eq!(ask(REQUESTS, 1, tables(9) | SELF), (Err(Errno::ESRCH), none));
        assert_eq!(ask(REQUESTS, 1, tables(9) | 9), (Err(Errno::ESRCH), none));
        assert_eq!(ask(REQUESTS, 1, tables(own) | SELF), (Ok(0), 1));
    }
    // Rights are asked for with the first request.
    let caller = caller(3);
    let ask = |requests, count, foreign| caller.batch(nr::MMU_UPDATE, requests, count, foreign);
    for foreign in [5, tables(5) | SELF, tables(5) | 5, u64::from(DOMID_XEN)] {
        assert_eq!(ask(REQUESTS, 1, foreign), (Err(Errno::EPERM), told), "{foreign:#x}");
        assert_eq!(ask(UNMAPPED, 1, foreign), (Err(Errno::EFAULT), told), "{foreign:#x}");
        assert_eq!(ask(REQUESTS, 0, foreign), (Ok(0), told), "{foreign:#x}");
    }
    caller.put_at(REQUESTS, &unknown);
    assert_eq!(ask(REQUESTS, 1, 5), (Err(Errno::ENOSYS), told));
    // A number that cannot be told is left out.
    assert_eq!(caller.call(nr::MMU_UPDATE, &[REQUESTS, 0, UNMAPPED, SELF]), Ok(0));
}

#[test]
fn mmuext_op_tells_how_many_were_done() {
    let none = UNTOLD;
    let flush = MmuextOp { cmd: MMUEXT_TLB_FLUSH_LOCAL, ..MmuextOp::default() };
    for id in [0, 3] {
        let caller = caller(id);
        caller.put_at(REQUESTS, &flush);
        let ask = |requests, count, foreign| caller.batch(nr::MMUEXT_OP, requests, count, foreign);
        assert_eq!(ask(REQUESTS, 1, SELF), (Ok(0), 1));
        assert_eq!(ask(NOWHERE, 1, SELF), (Err(Errno::EFAULT), none));
        assert_eq!(ask(UNMAPPED, 1, SELF), (Err(Errno::EFAULT), 0));
        assert_eq!(ask(REQUESTS, 1, 9), (Err(Errno::ESRCH), none));
        assert_eq!(ask(REQUESTS, 1, id.into()), (Err(Errno::ESRCH), none));
        let others = [5, u64::from(DOMID_IO), u64::from(DOMID_XEN)];
        for other in others {
            // Whoever may name it hears that this is for its own tables only; the rest is not listened to.
            let done = if id == 0 { 0 } else { none };
            assert_eq!(ask(REQUESTS, 1, other), (Err(Errno::EPERM), done), "{other:#x}");
        }
    }
}

/// The place of a list is judged before anything else, even if it is empty.
#[test]
fn lists_that_are_none() {
    let caller = caller(0);
    assert_eq!(caller.call(nr::MULTICALL, &[NOWHERE, 0]), Err(Errno::EFAULT));
    let arrays = [
        GNTTABOP_MAP_GRANT_REF,
        GNTTABOP_UNMAP_GRANT_REF,
        GNTTABOP_UNMAP_AND_REPLACE,
        GNTTABOP_COPY,
        GNTTABOP_TRANSFER,
        GNTTABOP_SWAP_GRANT_REF,
        GNTTABOP_CACHE_FLUSH,
    ];
    for cmd in arrays {
        assert_eq!(caller.call(nr::GRANT_TABLE_OP, &[cmd.into(), NOWHERE, 0]), Err(Errno::EFAULT), "{cmd}");
        assert_eq!(caller.call(nr::GRANT_TABLE_OP, &[cmd.into(), UNMAPPED, 0]), Ok(0), "{cmd}");
    }
}

/// Frames of a grant table are told one by one, and no status is told where the list is none.
#[test]
fn frames_of_a_grant_table() {
    let caller = caller(0);
    let setup = |list: u64, nr_frames| {
        let arg = GnttabSetupTable {
            dom: DOMID_SELF,
            nr_frames,
            status: 99,
            frame_list: list.into(),
            ..Default::default()
        };
        let at = caller.put(&arg);
        let answer = caller.call(nr::GRANT_TABLE_OP, &[GNTTABOP_SETUP_TABLE.into(), at, 1]);
        let status = GuestPtr::<GnttabSetupTable>::new(at).read(&caller.hv).unwrap().status;
        (answer, status)
    };
    assert_eq!(setup(NOWHERE, 0), (Err(Errno::EFAULT), 99));
    assert_eq!(setup(NOWHERE, 1), (Err(Errno::EFAULT), 99));
    assert_eq!(setup(UNMAPPED, 1), (Ok(0), GNTST_BAD_VIRT_ADDR));
    // The first does not fit below the mapped memory, the second does.
    caller.put_at(FLAT_BASE, &0u64);
    assert_eq!(setup(REQUESTS, 2), (Ok(0), GNTST_OKAY));
    let second = caller.word(REQUESTS + 8);
    let hv = &caller.hv;
    let list = GuestPtr::<u64>::new(FLAT_BASE - 8);
    let frames = hv.setup_grant_table(&caller.domain, DomId(DOMID_SELF), 2);
    let cx = Cx { hv, domain: &caller.domain, vcpu: caller.vcpu(0) };
    assert_eq!(crate::hypercall::grant::report_frames(cx, frames, list), GNTST_BAD_VIRT_ADDR);
    assert_eq!(caller.word(FLAT_BASE), second);
    assert_ne!(second, 0);
}

/// The machine's memory map needs room for one entry more than it has, and says nothing of its length otherwise.
#[test]
fn room_for_the_machine_map() {
    let caller = caller(0);
    // Device memory far up, and with it a hole below.
    caller.domain.permissions.write().iomem.insert(0x10_0000, 0x10_ffff);
    let ask = |nr_entries, buffer: u64| {
        let map = XenMemoryMap { nr_entries, buffer: buffer.into(), ..XenMemoryMap::default() };
        let at = caller.put(&map);
        let answer = caller.call(nr::MEMORY_OP, &[XENMEM_MACHINE_MEMORY_MAP.into(), at]);
        (answer, GuestPtr::<XenMemoryMap>::new(at).read(&caller.hv).unwrap().nr_entries)
    };
    let (answer, length) = ask(7, 0);
    assert_eq!((answer, length), (Ok(0), 2));
    assert_eq!(ask(length + 1, REQUESTS), (Ok(0), length));
    caller.put_at(REQUESTS, &[0u8; 64]);
    assert_eq!(ask(length, REQUESTS), (Err(Errno::EINVAL), length));
    assert_eq!(ask(length + 1, NOWHERE), (Err(Errno::EFAULT), length + 1));
    assert_eq!(ask(length + 1, UNMAPPED), (Err(Errno::EFAULT), length + 1));
}

/// Two sets of CPUs at once: the first is told as soon as it counts, and undone where the second is refused.
#[test]
fn affinities_that_are_half_set() {
    let mut caller = caller(0);
    caller.hv.sched = crate::sched::Scheduler::new(3);
    caller.hv.platform.cpus.store(3, SeqCst);
    let other = caller.hv.create_domain(&DomainConfig::new(DomId(6))).unwrap();
    let vcpu = VcpuRef { domain: other.clone(), id: VcpuId(0) };
    let map = |at: u64| XenctlBitmap { bitmap: at.into(), nr_bits: 8, ..XenctlBitmap::default() };
    let set = |hard: u8, soft: u8, soft_at: u64| {
        caller.put_at(REQUESTS, &[hard, soft]);
        let payload = XenDomctlVcpuaffinity {
            flags: XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT,
            cpumap_hard: map(REQUESTS),
            cpumap_soft: map(soft_at),
            ..XenDomctlVcpuaffinity::default()
        };
        let mut op = XenDomctl {
            cmd: XEN_DOMCTL_SETVCPUAFFINITY,
            domain: 6,
            interface_version: XEN_DOMCTL_INTERFACE_VERSION,
            ..XenDomctl::default()
        };
        let bytes = payload.as_bytes();
        op.u[..bytes.len()].copy_from_slice(bytes);
        (caller.call(nr::DOMCTL, &[caller.put(&op)]), caller.bytes::<2>(REQUESTS))
    };
    assert_eq!(
        set(0b1_0011, 0b1_0110, REQUESTS + 1),
        (Ok(0), [0b011, 0b010]),
        "those that are up and allowed"
    );
    let before = vcpu.vcpu().sched.affinity();
    assert!(before.contains(CpuId(0)) && !before.contains(CpuId(2)));
    assert_eq!(set(0b1_0100, 0, UNMAPPED), (Err(Errno::EFAULT), [0b100, 0]));
    assert_eq!(vcpu.vcpu().sched.affinity(), before);
    assert_eq!(set(0b100, 0, REQUESTS + 1), (Err(Errno::EINVAL), [0b100, 0]));
    assert_eq!(vcpu.vcpu().sched.affinity(), before);
}

/// One byte of the union is told, of the one keyboard that there is.
#[test]
fn shift_keys() {
    let caller = caller(0);
    let ask = |index| {
        let info = XenpfFirmwareInfo { type_: XEN_FW_KBD_SHIFT_FLAGS, index, u: [u64::MAX; 4] };
        let mut op = XenPlatformOp {
            cmd: XENPF_FIRMWARE_INFO,
            interface_version: XENPF_INTERFACE_VERSION,
            ..XenPlatformOp::default()
        };
        op.u.as_mut_bytes()[..info.as_bytes().len()].copy_from_slice(info.as_bytes());
        let at = caller.put(&op);
        let answer = caller.call(nr::PLATFORM_OP, &[at]);
        let union = core::mem::offset_of!(XenPlatformOp, u) + core::mem::offset_of!(XenpfFirmwareInfo, u);
        (answer, caller.word(at + union as u64))
    };
    assert_eq!(ask(0), (Ok(0), u64::MAX << 8));
    assert_eq!(ask(1), (Err(Errno::ESRCH), u64::MAX));
}

/// A domain is told the handle by which its toolstack knows it.
#[test]
fn own_handle() {
    let caller = caller(3);
    *caller.domain.handle.lock() = *b"a toolstack's id";
    assert_eq!(caller.call(nr::XEN_VERSION, &[XENVER_GUEST_HANDLE.into(), FLAT_BASE]), Ok(0));
    assert_eq!(&caller.bytes::<16>(FLAT_BASE), b"a toolstack's id");
}
