//! `mmu_update`, `mmuext_op` and `update_va_mapping` for other domains and for device memory (xen.h), and the edges of
//! their arguments.

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Level, Pte, entry_address};
use xen_abi::hypercall::nr;
use xen_abi::xen::*;

use crate::call::*;
use crate::harness::pool::{Page, SPARE};
use crate::harness::{Env, Verdict, need, same};

/// A frame of the old VGA text buffer: device memory that the first domain may use.
const DEVICE: u64 = 0xb8;

/// Machine address of the level-1 entry of `page`.
fn slot(env: &Env, page: Page<'_>) -> Result<u64, Verdict> {
    let slot = entry_address(&env.boot, env.boot.root_table(), page.virt(), Level::L1);
    slot.map(|(at, _)| at).ok_or(Verdict::Error("no entry maps the page"))
}

/// What the level-1 entry of `page` says.
fn entry(env: &Env, page: Page<'_>) -> Result<u64, Verdict> {
    let slot = entry_address(&env.boot, env.boot.root_table(), page.virt(), Level::L1);
    slot.map(|(_, entry)| entry.0).ok_or(Verdict::Error("no entry maps the page"))
}

fn mmu_for(ptr: u64, val: u64, tables: u32, pages: u16) -> Ret {
    mmu_batch(&[MmuUpdate { ptr, val }], tables << 16 | u32::from(pages)).0
}

fn mmuext_for(domain: u16, cmd: u32, arg1: u64) -> Ret {
    let op = MmuextOp { cmd, arg1, ..MmuextOp::default() };
    hc4(nr::MMUEXT_OP, &raw const op as u64, 1, 0, u64::from(domain))
}

fn map_for(env: &Env, entry: u64, domain: u16) -> Ret {
    hc4(nr::UPDATE_VA_MAPPING_OTHERDOMAIN, env.page(0).virt(), entry, UVMF_INVLPG, u64::from(domain))
}

/// Every command of `mmuext_op` about the calling vCPU or domain.
const OWN_BUSINESS: [u32; 12] = [
    MMUEXT_NEW_BASEPTR,
    MMUEXT_NEW_USER_BASEPTR,
    MMUEXT_TLB_FLUSH_LOCAL,
    MMUEXT_INVLPG_LOCAL,
    MMUEXT_TLB_FLUSH_MULTI,
    MMUEXT_INVLPG_MULTI,
    MMUEXT_TLB_FLUSH_ALL,
    MMUEXT_INVLPG_ALL,
    MMUEXT_FLUSH_CACHE,
    MMUEXT_FLUSH_CACHE_GLOBAL,
    MMUEXT_SET_LDT,
    MMUEXT_PIN_L1_TABLE,
];

returns! {
    /// A domain is not foreign to itself: its own number names nobody.
    own_number_for_pages(env): mmu_for(slot(env, env.page(0))?, 0, 0, 0) => Err(Errno::ESRCH);
    /// As the owner of the tables it may name itself.
    own_number_for_tables(env): mmu_for(slot(env, env.page(0))?, Pte::read_only(env.page(0).mfn()).0, 1, DOMID_SELF)
        => Ok(0);
    /// The numbers that mean something special own no tables.
    special_table_owners(env): [DOMID_SELF, DOMID_IO, DOMID_XEN].map(|id|
        mmu_for(env.page(0).entry(0), 0, u32::from(id) + 1, DOMID_SELF)) => [Err(Errno::ESRCH); 3];
    /// RAM is no device memory.
    ram_as_device_memory(env): mmu_for(slot(env, env.page(0))?, Pte::data(env.page(1).mfn()).0, 0, DOMID_IO)
        => Err(Errno::EBUSY);
    /// An entry that maps nothing maps nothing of anybody's.
    nothing_of_device_memory(env): mmu_for(slot(env, env.page(0))?, 0, 0, DOMID_IO) => Ok(0);
    /// Data pages of nobody's cannot be named for the M2P.
    m2p_of_device_memory(env): mmu_for(env.page(0).mfn().address() | MMU_MACHPHYS_UPDATE, 0, 0, DOMID_IO)
        => Err(Errno::EINVAL);
    /// Tables above level 1 map tables of their owner's only.
    level_2_of_device_memory(env): {
        let at = entry_address(&env.boot, env.boot.root_table(), SPARE, Level::L2).map_or(0, |(at, _)| at);
        mmu_for(at, 0, 0, DOMID_IO)
    } => Err(Errno::EINVAL);
    /// There are four commands.
    unknown_commands(env): [4, 5, 6, 7].map(|cmd| mmu(env.page(0).entry(0) | cmd, 0)) => [Err(Errno::ENOSYS); 4];
    /// A list in the hypervisor's part is none, even without requests.
    no_requests_nowhere(env): [nr::MMU_UPDATE, nr::MMUEXT_OP].map(|call|
        [HYPERVISOR, NON_CANONICAL].map(|at| hc4(call, at, 0, 0, u64::from(DOMID_SELF))))
        => [[Err(Errno::EFAULT); 2]; 2];
    /// Without requests the domain is looked at all the same.
    no_requests_of_nobody(env): [nr::MMU_UPDATE, nr::MMUEXT_OP].map(|call|
        hc4(call, env.page(0).virt(), 0, 0, u64::from(NO_DOMAIN))) => [Err(Errno::ESRCH); 2];

    /// Base pointers, flushes and the LDT are the caller's own business.
    own_business(env): OWN_BUSINESS.map(|cmd| mmuext_for(DOMID_IO, cmd, 0))
        => OWN_BUSINESS.map(|cmd| if cmd == MMUEXT_PIN_L1_TABLE { Err(Errno::EINVAL) } else { Err(Errno::EPERM) });
    /// A domain is not foreign to itself.
    mmuext_own_number(env): mmuext_for(0, MMUEXT_TLB_FLUSH_LOCAL, 0) => Err(Errno::ESRCH);
    /// Device memory has no tables and no pages to clear.
    pages_of_device_memory(env): [MMUEXT_PIN_L1_TABLE, MMUEXT_UNPIN_TABLE, MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE]
        .map(|cmd| mmuext_for(DOMID_IO, cmd, env.page(0).mfn().0)) => [Err(Errno::EINVAL); 4];
    /// Large pages are offered to nobody.
    mark_super_for_others(env): [MMUEXT_MARK_SUPER, MMUEXT_UNMARK_SUPER].map(|cmd| mmuext_for(DOMID_IO, cmd, 0))
        => [Err(Errno::EOPNOTSUPP); 2];
    /// All caches of all CPUs, for a domain with devices.
    flush_cache_global(env): mmuext(MMUEXT_FLUSH_CACHE_GLOBAL, 0, 0) => Ok(0);
    /// Bits of vCPUs that do not exist are ignored.
    flush_multi_too_many(env): {
        let cpus = u64::MAX;
        [MMUEXT_TLB_FLUSH_MULTI, MMUEXT_INVLPG_MULTI].map(|cmd| mmuext(cmd, env.page(0).virt(), &raw const cpus as u64))
    } => [Ok(0); 2];

    /// The mapping of one's own by number is none of another domain.
    other_domain_own_number(env): map_for(env, Pte::data(env.page(0).mfn()).0, 0) => Err(Errno::ESRCH);
    /// RAM is no device memory.
    other_domain_io_ram(env): map_for(env, Pte::data(env.page(1).mfn()).0, DOMID_IO) => Err(Errno::EBUSY);
    /// Device memory.
    other_domain_io(env): map_for(env, Pte::read_only(guest_pv_lib::mmu::Mfn(DEVICE)).0, DOMID_IO) => Ok(0);
    /// A flush of both kinds is no flush.
    both_kinds_of_flush(env): va_mapping(env.page(0).virt(), Pte::data(env.page(0).mfn()).0, 3 | UVMF_ALL) => Ok(0);
    /// A kind of flush without a scope is one on this CPU.
    local_flush(env): [UVMF_TLB_FLUSH, UVMF_INVLPG].map(|kind|
        va_mapping(env.page(0).virt(), Pte::data(env.page(0).mfn()).0, kind | UVMF_LOCAL)) => [Ok(0); 2];
    /// A flush on the CPUs of a set of vCPUs.
    multi_flush(env): {
        let cpus = 1u64;
        [UVMF_TLB_FLUSH, UVMF_INVLPG].map(|kind|
            va_mapping(env.page(0).virt(), Pte::data(env.page(0).mfn()).0, kind | &raw const cpus as u64))
    } => [Ok(0); 2];
    /// A refused entry flushes nothing: the set of CPUs is not looked at.
    refused_before_the_flush(env): va_mapping(env.page(0).virt(), NO_FRAME << 12 | 3, UVMF_INVLPG | HYPERVISOR)
        => Err(Errno::EPERM);
}

case! {
    /// Device memory that is mapped like RAM is made uncached; what the kernel chose otherwise stays.
    fn device_memory(env) {
        const UC: u64 = 0x18;
        let page = env.page(0);
        let map = |flags: u64| va_mapping(page.virt(), DEVICE << 12 | Pte::PRESENT | flags, UVMF_INVLPG);
        for (chosen, stored) in [(0, UC), (0x08, UC), (0x10, 0x10), (UC, UC), (0x80, 0x80), (0x88, UC)] {
            same("map", map(chosen), Ok(0))?;
            same("memory type", entry(env, page)? & 0x98, stored)?;
        }
        same("for others' eyes", mmu_for(slot(env, page)?, DEVICE << 12 | 1, 0, DOMID_IO), Ok(0))
    }
}

case! {
    /// A page with descriptors is no place for other data.
    fn descriptor_page(env) {
        let page = env.page(0);
        need("read-only", page.read_only())?;
        let frame = page.mfn().0;
        need("set_gdt", hc2(nr::SET_GDT, &raw const frame as u64, 1))?;
        let (update, clear) = (mmu(page.entry(0), 0), mmuext(MMUEXT_CLEAR_PAGE, frame, 0));
        let copy = mmuext(MMUEXT_COPY_PAGE, frame, env.page(1).mfn().0);
        let from = mmuext(MMUEXT_COPY_PAGE, env.page(1).mfn().0, frame);
        need("no GDT", hc2(nr::SET_GDT, 0, 0))?;
        same("mmu_update", update, Err(Errno::EINVAL))?;
        same("clear", clear, Err(Errno::EINVAL))?;
        same("copy to it", copy, Err(Errno::EINVAL))?;
        same("copy from it", from, Ok(0))
    }
}

case! {
    /// A table may be copied from, and a page onto itself.
    fn copies(env) {
        let (page, root) = (env.page(0), env.boot.root_table());
        same("a table", mmuext(MMUEXT_COPY_PAGE, page.mfn().0, root.0), Ok(0))?;
        let kernel = entry_address(&env.boot, root, page.virt(), Level::L4).map(|(_, entry)| entry.0);
        same("its last entry", Some(page.get(511)), kernel)?;
        page.set(3, 33);
        same("itself", mmuext(MMUEXT_COPY_PAGE, page.mfn().0, page.mfn().0), Ok(0))?;
        same("unchanged", page.get(3), 33)
    }
}

case! {
    /// The number of requests that were done counts on from nothing, whatever was there; also where one faults.
    fn done_before_a_hole(env) {
        // The list ends with the page: what follows it is not mapped.
        let (list, hole, data) = (env.page(0), env.page(1), env.page(2));
        if hole.virt() != list.virt() + 4096 {
            return Err(Verdict::Error("the pool is not contiguous"));
        }
        need("unmap", hole.map(Pte::EMPTY))?;
        for (n, value) in [11, 22].into_iter().enumerate() {
            list.set(508 + 2 * n, data.entry(n));
            list.set(509 + 2 * n, value);
        }
        let mut done = 77u32;
        let ret = hc4(nr::MMU_UPDATE, list.virt() + 508 * 8, 5, &raw mut done as u64, u64::from(DOMID_SELF));
        same("update", ret, Err(Errno::EFAULT))?;
        same("done", (done, data.get(0), data.get(1)), (2, 11, 22))
    }
}

case! {
    /// An entry that is not present may say anything.
    fn anything_that_is_not_present(env) {
        let (page, other) = (env.page(0), env.page(1));
        need("read-only", page.read_only())?;
        need("pin", mmuext(MMUEXT_PIN_L1_TABLE, page.mfn().0, 0))?;
        // Bits of a swapped-out page, far beyond any memory.
        const SWAPPED: u64 = 0x800f_ffff_ffff_f000 | 0xffe;
        let ret = mmu(page.entry(0), SWAPPED);
        let stored = page.get(0);
        let back = mmu(page.entry(0), Pte::data(other.mfn()).0);
        need("unpin", mmuext(MMUEXT_UNPIN_TABLE, page.mfn().0, 0))?;
        same("update", (ret, stored, back), (Ok(0), SWAPPED, Ok(0)))
    }
}
