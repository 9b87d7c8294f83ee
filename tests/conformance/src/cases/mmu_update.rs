//! `mmu_update` (xen.h): page-table entries named by their machine address, and M2P entries.

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Level, Pfn, Pte, entry_address, m2p};
use xen_abi::hypercall::nr;
use xen_abi::xen::{
    DOMID_SELF, MMU_MACHPHYS_UPDATE, MMU_PT_UPDATE_NO_TRANSLATE, MMU_PT_UPDATE_PRESERVE_AD,
    MMUEXT_INVLPG_LOCAL, MmuUpdate,
};

use crate::call::{FAULTS, NO_DOMAIN, NO_FRAME, all_fault, hc4, mmu, mmu_batch, mmuext};
use crate::harness::pool::{Page, SPARE};
use crate::harness::{Env, Verdict, check, need, same};

const SELF: u32 = DOMID_SELF as u32;

/// Machine address of the level-1 entry that maps `page`, and the entry.
fn slot(env: &Env, page: Page<'_>) -> Result<(u64, Pte), Verdict> {
    entry_address(&env.boot, env.boot.root_table(), page.virt(), Level::L1)
        .ok_or(Verdict::Error("no entry maps the page"))
}

returns! {
    /// No requests, nothing to do, and that is what is reported.
    nothing(env): mmu_batch(&[], SELF) => (Ok(0), 0);
    /// A table in a frame that does not exist.
    no_such_table(env): mmu(NO_FRAME << 12, 0) => Err(Errno::EINVAL);
    /// An M2P entry of a frame that does not exist.
    no_such_m2p_entry(env): mmu(NO_FRAME << 12 | MMU_MACHPHYS_UPDATE, 0) => Err(Errno::EINVAL);
    /// Data pages of a domain that does not exist.
    unknown_domain(env): mmu_batch(&[MmuUpdate::default()], u32::from(NO_DOMAIN)).0 => Err(Errno::ESRCH);
    /// Page tables of a domain that does not exist.
    unknown_table_domain(env): mmu_batch(&[MmuUpdate::default()], (u32::from(NO_DOMAIN) + 1) << 16 | SELF).0
        => Err(Errno::ESRCH);
    /// Bad pointers.
    fault(env): all_fault(|at| hc4(nr::MMU_UPDATE, at, 1, 0, u64::from(SELF))) => FAULTS;
}

case! {
    /// A word of an ordinary writable page may be written, too.
    fn ordinary_page(env) {
        let page = env.page(0);
        same("update", mmu(page.entry(9), 0x1234_5678_9abc_def0), Ok(0))?;
        same("value", page.get(9), 0x1234_5678_9abc_def0)
    }
}

case! {
    /// The entry of a page is changed and takes effect.
    fn level_1_entry(env) {
        let (place, other) = (env.page(0), env.page(1));
        let (at, _) = slot(env, place)?;
        other.set(0, 77);
        same("update", mmu(at, Pte::data(other.mfn()).0), Ok(0))?;
        // Stale translations are the guest's affair.
        need("flush", mmuext(MMUEXT_INVLPG_LOCAL, place.virt(), 0))?;
        same("read", place.get(0), 77)
    }
}

case! {
    /// A frame that is no memory is taken for a device's, and this is none that the domain may use.
    fn no_such_frame(env) {
        let (at, before) = slot(env, env.page(0))?;
        same("update", mmu(at, NO_FRAME << 12 | 3), Err(Errno::EPERM))?;
        same("the entry is as it was", slot(env, env.page(0))?.1.frame(), before.frame())
    }
}

case! {
    /// A table cannot be mapped for writing through any table.
    fn writable_table(env) {
        let (at, _) = slot(env, env.page(0))?;
        same("update", mmu(at, Pte::data(env.boot.root_table()).0), Err(Errno::EBUSY))
    }
}

case! {
    /// Requests run in order up to the first that fails; the number of those done is reported.
    fn stops_at_the_first_error(env) {
        let page = env.page(0);
        let requests = [
            MmuUpdate { ptr: page.entry(0), val: 1 },
            MmuUpdate { ptr: NO_FRAME << 12, val: 2 },
            MmuUpdate { ptr: page.entry(2), val: 3 },
        ];
        same("update", mmu_batch(&requests, SELF), (Err(Errno::EINVAL), 1))?;
        same("the first", page.get(0), 1)?;
        same("the last", page.get(2), 0)
    }
}

case! {
    /// A batch of many requests is done as a whole, also where the hypervisor interrupts itself.
    fn large_batch(env) {
        let page = env.page(0);
        let mut requests = [MmuUpdate::default(); 512];
        for (index, request) in requests.iter_mut().enumerate() {
            *request = MmuUpdate { ptr: page.entry(index), val: index as u64 * 3 };
        }
        same("update", mmu_batch(&requests, SELF), (Ok(0), 512))?;
        check("all values", (0..512).all(|index| page.get(index) == index as u64 * 3))
    }
}

case! {
    /// The bad address of the count of done requests is no error.
    fn done_pointer_fault(env) {
        let page = env.page(0);
        let request = MmuUpdate { ptr: page.entry(0), val: 8 };
        let ret = hc4(nr::MMU_UPDATE, &raw const request as u64, 1, crate::call::NON_CANONICAL, u64::from(SELF));
        same("update", ret, Ok(0))?;
        same("value", page.get(0), 8)
    }
}

case! {
    /// PRESERVE_AD keeps accessed and dirty of the old entry; the plain command does not.
    fn preserve_accessed_and_dirty(env) {
        const AD: u64 = Pte::ACCESSED | Pte::DIRTY;
        let page = env.page(0);
        let (at, _) = slot(env, page)?;
        page.set(0, 1);
        let plain = Pte::read_only(page.mfn()).0 & !AD;
        same("with", mmu(at | MMU_PT_UPDATE_PRESERVE_AD, plain), Ok(0))?;
        same("kept", slot(env, page)?.1.0 & AD, AD)?;
        same("without", mmu(at, plain), Ok(0))?;
        same("dropped", slot(env, page)?.1.0 & Pte::DIRTY, 0)
    }
}

case! {
    /// NO_TRANSLATE is the plain command for a domain that is not translated.
    fn no_translate(env) {
        let page = env.page(0);
        let (at, _) = slot(env, page)?;
        same("update", mmu(at | MMU_PT_UPDATE_NO_TRANSLATE, Pte::read_only(page.mfn()).0), Ok(0))
    }
}

case! {
    /// The M2P entry of an own frame can be set, and shows in the mapped table.
    fn m2p_entry(env) {
        let page = env.page(0);
        let at = page.mfn().address() | MMU_MACHPHYS_UPDATE;
        same("update", mmu(at, 0x12345), Ok(0))?;
        let seen = m2p(page.mfn());
        need("restore", mmu(at, page.pfn().0))?;
        same("m2p", seen, Some(Pfn(0x12345)))
    }
}

case! {
    /// Entries of the root that cover the hypervisor's part are not the guest's to write.
    fn hypervisor_root_slot(env) {
        let root = env.boot.root_table();
        same("slot 256", mmu(root.address() + 8 * 256, 0), Err(Errno::EINVAL))?;
        same("slot 271", mmu(root.address() + 8 * 271, 0), Err(Errno::EINVAL))
    }
}

case! {
    /// Large pages are not offered to PV guests.
    fn large_page(env) {
        let (at, _) = entry_address(&env.boot, env.boot.root_table(), SPARE, Level::L2)
            .ok_or(Verdict::Error("no level-2 table"))?;
        let entry = Pte::data(env.page(0).mfn()).0 & !0x1f_f000 | Pte::LARGE;
        same("update", mmu(at, entry), Err(Errno::EINVAL))
    }
}

case! {
    /// A level-2 entry must point to a page that can be a level-1 table: this one is mapped for writing.
    fn level_2_entry_to_writable_page(env) {
        let (at, _) = entry_address(&env.boot, env.boot.root_table(), SPARE, Level::L2)
            .ok_or(Verdict::Error("no level-2 table"))?;
        same("update", mmu(at, Pte::table(env.page(0).mfn()).0), Err(Errno::EINVAL))
    }
}

case! {
    /// A new level-1 table is validated entry by entry, hooked in, used, and taken out again.
    fn hook_in_a_table(env) {
        let (table, data) = (env.page(0), env.page(1));
        let (at, before) = entry_address(&env.boot, env.boot.root_table(), SPARE, Level::L2)
            .ok_or(Verdict::Error("no level-2 table"))?;
        same("unused so far", before, Pte::EMPTY)?;
        data.set(1, 99);
        table.set(7, Pte::data(data.mfn()).0);
        need("read-only", table.read_only())?;
        same("hook in", mmu(at, Pte::table(table.mfn()).0), Ok(0))?;
        let seen = crate::harness::fault::read(SPARE + 7 * 4096 + 8);
        let meanwhile = table.writable();
        same("take out", mmu(at, 0), Ok(0))?;
        same("a writable mapping meanwhile", meanwhile, Err(Errno::EBUSY))?;
        same("read through it", seen, Ok(99))?;
        same("a writable mapping afterwards", table.writable(), Ok(()))
    }
}

case! {
    /// A table with an entry that the guest may not have is refused as a whole.
    fn hook_in_a_bad_table(env) {
        let table = env.page(0);
        let (at, _) = entry_address(&env.boot, env.boot.root_table(), SPARE, Level::L2)
            .ok_or(Verdict::Error("no level-2 table"))?;
        table.set(100, Pte::data(env.boot.root_table()).0);
        need("read-only", table.read_only())?;
        same("hook in", mmu(at, Pte::table(table.mfn()).0), Err(Errno::EBUSY))?;
        same("an ordinary page again", table.writable(), Ok(()))
    }
}
