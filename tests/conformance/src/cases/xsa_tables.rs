//! The flaws behind Xen's published advisories on page tables, one case each: what a hypervisor with the flaw does wrong.
//!
//! Not to be seen by a guest of one vCPU, and so not here: XSA-241, 242, 401 and 345 (races between CPUs), 45, 252, 264 and 290
//! (time that an operation takes; the cases here check that interrupted operations end right), 402 and 404 (stale cache
//! lines, which no emulator has), 254, 273, 289 and 407 (speculation), 80, 275, 291 and 378 (device page tables), 219, 243, 249, 280,
//! 294, 408, 430 and 438 (shadow page tables, which nothing here uses), 185 and 23 (32-bit kernels), 176 (large pages that are not
//! offered), 292 (needs knowledge of the CPU's tags). Those on stores that are emulated are in `pt_writes.rs`.

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Level, Mfn, Pte, entry_address};
use xen_abi::hypercall::nr;
use xen_abi::vcpu::*;
use xen_abi::xen::*;

use crate::call::*;
use crate::harness::pool::{Page, SPARE, two_tables};
use crate::harness::{Env, Outcome, Verdict, check, fault, need, same};
use crate::memory::nothing_left;

fn pin(level: u32, page: Page<'_>) -> Ret {
    mmuext(MMUEXT_PIN_L1_TABLE + level - 1, page.mfn().0, 0)
}

fn unpin(page: Page<'_>) -> Ret {
    mmuext(MMUEXT_UNPIN_TABLE, page.mfn().0, 0)
}

/// Pages 0 to 3 as tables of levels 1 to 4 that name each other in `entries` places each.
fn tree(env: &Env, entries: usize) -> Result<[Page<'_>; 4], Verdict> {
    let tables = [0, 1, 2, 3].map(|at| env.page(at));
    for page in tables {
        need("writable", page.writable())?;
    }
    for pair in tables.windows(2) {
        for entry in 0..entries {
            pair[1].set(entry, Pte::table(pair[0].mfn()).0);
        }
    }
    for page in tables {
        need("read-only", page.read_only())?;
    }
    Ok(tables)
}

/// None of the tables is one any more, and nothing holds them.
fn free(tables: [Page<'_>; 4]) -> Outcome {
    for page in tables {
        same("an ordinary page", page.writable(), Ok(()))?;
        nothing_left(page)?;
    }
    Ok(())
}

case! {
    /// XSA-58: a pin that was refused because the table was pinned already took a reference with it, or gave one too many.
    fn xsa_058_refused_pins(env) {
        let tables = tree(env, 2)?;
        need("pin", pin(4, tables[3]))?;
        for level in 1..=4 {
            same("pinned already, or another type", pin(level, tables[3]), Err(Errno::EINVAL))?;
        }
        same("a table below", pin(3, tables[2]), Ok(0))?;
        same("unpin", unpin(tables[3]), Ok(0))?;
        same("the root is free", tables[3].writable(), Ok(()))?;
        same("the pinned one is not", tables[1].writable(), Err(Errno::EBUSY))?;
        same("unpin", unpin(tables[2]), Ok(0))?;
        free(tables)
    }
}

case! {
    /// XSA-148: a level-2 entry was made a large page, and so a window on any memory, by changing just that bit.
    fn xsa_148_large_page_bit(env) {
        let tables = tree(env, 1)?;
        need("pin", pin(2, tables[1]))?;
        let before = tables[1].get(0);
        for bits in [Pte::LARGE, Pte::LARGE | Pte::ACCESSED, Pte::LARGE | 1 << 12, Pte::LARGE | 1 << 9] {
            same("large", mmu(tables[1].entry(0), before | bits), Err(Errno::EINVAL))?;
            let keep = tables[1].entry(0) | MMU_PT_UPDATE_PRESERVE_AD;
            same("large, keeping bits", mmu(keep, before | bits), Err(Errno::EINVAL))?;
        }
        same("as it was", tables[1].get(0), before)?;
        same("unpin", unpin(tables[1]), Ok(0))
    }
}

case! {
    /// XSA-148, at levels 3 and 4.
    fn xsa_148_large_page_bit_above(env) {
        let tables = tree(env, 1)?;
        need("pin", pin(4, tables[3]))?;
        for table in &tables[2..] {
            let before = table.get(0);
            same("large", mmu(table.entry(0), before | Pte::LARGE), Err(Errno::EINVAL))?;
            same("as it was", table.get(0), before)?;
        }
        same("unpin", unpin(tables[3]), Ok(0))
    }
}

case! {
    /// XSA-167: commands on large pages did not check the frame.
    fn xsa_167_large_page_marks(env) {
        let _ = env;
        for frame in [0, NO_FRAME, 1 << 52, u64::MAX] {
            for cmd in [MMUEXT_MARK_SUPER, MMUEXT_UNMARK_SUPER] {
                same("refused", mmuext(cmd, frame, 0), Err(Errno::EOPNOTSUPP))?;
            }
        }
        Ok(())
    }
}

case! {
    /// XSA-182: an entry through which a root showed itself read-only was made writable, since nothing else changed in it.
    fn xsa_182_writable_root(env) {
        const SLOT: usize = 300;
        let root = env.boot.root_table();
        let at = root.address() + 8 * SLOT as u64;
        let shown = Pte::read_only(root).0;
        need("show", mmu(at, shown))?;
        let mut tries = [Ok(0); 3];
        for (result, bits) in tries.iter_mut().zip([0, Pte::DIRTY, Pte::NO_EXECUTE]) {
            *result = mmu(at, (shown | Pte::WRITABLE) ^ bits);
        }
        let keep = mmu(at | MMU_PT_UPDATE_PRESERVE_AD, shown | Pte::WRITABLE);
        // Where it is writable the root is written here: an entry that maps nothing.
        let window = [SLOT; 4].iter().fold(0u64, |va, slot| va << 9 | *slot as u64) << 12 | 0xffff << 48;
        let written = fault::write(window + 8 * 301, 0x7000);
        same("take out", mmu(at, 0), Ok(0))?;
        same("writable", tries, [Err(Errno::EINVAL); 3])?;
        same("writable, keeping bits", keep, Err(Errno::EINVAL))?;
        check("not written", written.is_err())
    }
}

case! {
    /// XSA-240: tables that show each other in a long chain were given up one within the other, without end.
    fn xsa_240_chains(env) {
        let roots: [Page<'_>; 6] = core::array::from_fn(|at| env.page(at));
        // Each would show the next one: at most one link in a row.
        for pair in roots.windows(2) {
            pair[0].set(9, Pte::read_only(pair[1].mfn()).0);
        }
        for root in roots {
            need("read-only", root.read_only())?;
        }
        let mut pinned = [false; 6];
        for (root, pinned) in roots.into_iter().zip(&mut pinned).rev() {
            *pinned = pin(4, root).is_ok();
        }
        // From the end: the last shows nothing, the one before shows it, the next would be the second link and is none.
        check("not all in a row", pinned[5] && pinned[4] && !pinned[3])?;
        check("never three", !pinned.windows(3).any(|three| three == [true; 3]))?;
        for (root, pinned) in roots.into_iter().zip(pinned) {
            same("unpin", unpin(root).is_ok(), pinned)?;
        }
        for root in roots {
            same("an ordinary page", root.writable(), Ok(()))?;
            nothing_left(root)?;
        }
        Ok(())
    }
}

case! {
    /// XSA-248: pages that the hypervisor uses itself, whose numbers show in each root, could be mapped.
    fn xsa_248_pages_of_the_hypervisor(env) {
        let (copy, place) = (env.page(0), env.page(1));
        need("copy", mmuext(MMUEXT_COPY_PAGE, copy.mfn().0, env.boot.root_table().0))?;
        for slot in 256..272 {
            let entry = Pte(copy.get(slot));
            // One of the entries may show the root itself.
            let Some(frame) = entry.frame().filter(|frame| *frame != env.boot.root_table()) else { continue };
            for wanted in [Pte::data(frame), Pte::read_only(frame), Pte(Pte::read_only(frame).0 | 0x18)] {
                check("refused", place.map(wanted).is_err())?;
            }
            check("no table", mmuext(MMUEXT_PIN_L1_TABLE, frame.0, 0).is_err())?;
            check("no source", mmuext(MMUEXT_COPY_PAGE, place.mfn().0, frame.0).is_err())?;
        }
        Ok(())
    }
}

case! {
    /// XSA-279: flushes of addresses that are none were given to an instruction that faults on them.
    fn xsa_279_flushes_of_no_address(env) {
        let cpus = 1u64;
        for address in [NON_CANONICAL, 1 << 47, 0xffff_7fff_ffff_f000, HYPERVISOR, u64::MAX] {
            same("local", mmuext(MMUEXT_INVLPG_LOCAL, address, 0), Ok(0))?;
            same("all", mmuext(MMUEXT_INVLPG_ALL, address, 0), Ok(0))?;
            same("multi", mmuext(MMUEXT_INVLPG_MULTI, address, &raw const cpus as u64), Ok(0))?;
        }
        for address in [NON_CANONICAL, 1 << 47, 0xffff_7fff_ffff_f000, HYPERVISOR] {
            let ret = va_mapping(address, Pte::data(env.page(0).mfn()).0, UVMF_INVLPG | UVMF_ALL);
            same("update_va_mapping", ret, Err(Errno::EINVAL))?;
        }
        Ok(())
    }
}

case! {
    /// XSA-286: a flush of one page left translations of tables that a root shows, so an old level-1 table was read,
    /// or written, through the new address.
    fn xsa_286_flush_of_one_page(env) {
        let (at, tables, data) = two_tables(env)?;
        need("hook in", mmu(at, Pte::table(tables[0].mfn()).0))?;
        let before = fault::read(SPARE);
        need("another table", mmu(at, Pte::table(tables[1].mfn()).0))?;
        need("flush", mmuext(MMUEXT_INVLPG_LOCAL, SPARE, 0))?;
        // The entry that is changed now must be the new table's, not one that an old translation leads to.
        let change = va_mapping(SPARE, Pte::read_only(data[0].mfn()).0, UVMF_INVLPG);
        let after = fault::read(SPARE);
        let (old, new) = (tables[0].get(0), tables[1].get(0));
        need("take out", mmu(at, 0))?;
        same("before", before, Ok(100))?;
        same("change", (change, after), (Ok(0), Ok(100)))?;
        same("the old table", Pte(old).frame(), Some(data[0].mfn()))?;
        same("the new one", Pte(new).frame(), Some(data[0].mfn()))?;
        check("changed there", old & Pte::WRITABLE != 0 && new & Pte::WRITABLE == 0)
    }
}

case! {
    /// XSA-299 and 310: a tree that is refused deep down, after parts of it were found good, kept references to those parts.
    fn xsa_299_refused_trees(env) {
        for bad_level in 1..4 {
            let tables = tree(env, 8)?;
            let bad = tables[bad_level - 1];
            need("writable", bad.writable())?;
            // The last of many entries is one that nobody may have: a table mapped for writing, or a frame that is none.
            let entry = if bad_level == 1 { Pte::data(env.boot.root_table()).0 } else { NO_FRAME << 12 | 7 };
            bad.set(511, entry);
            need("read-only", bad.read_only())?;
            for level in (bad_level as u32..=4).rev() {
                check("refused", pin(level, tables[level as usize - 1]).is_err())?;
            }
            same("unpin of none", unpin(tables[3]), Err(Errno::EINVAL))?;
            need("writable", bad.writable())?;
            bad.set(511, 0);
            need("read-only", bad.read_only())?;
            same("without it", pin(4, tables[3]), Ok(0))?;
            same("unpin", unpin(tables[3]), Ok(0))?;
            free(tables)?;
            for table in tables {
                for word in 0..512 {
                    table.set(word, 0);
                }
            }
        }
        Ok(())
    }
}

case! {
    /// XSA-299 and 310: pins and unpins that are interrupted and go on leave the same behind as those that are not.
    fn xsa_310_interrupted_pins(env) {
        let tables = tree(env, 256)?;
        for delay in 0..48u64 {
            // An event becomes pending some time during the next calls; nobody takes it.
            let mut timer = VcpuSetSingleshotTimer {
                timeout_abs_ns: guest_pv_lib::time::now() + delay * 1_000,
                ..VcpuSetSingleshotTimer::default()
            };
            need("timer", vcpu(VCPUOP_SET_SINGLESHOT_TIMER, 0, &mut timer))?;
            same("pin", pin(4, tables[3]), Ok(0))?;
            same("a part", pin(2, tables[1]), Ok(0))?;
            same("unpin", unpin(tables[3]), Ok(0))?;
            same("the rest", unpin(tables[1]), Ok(0))?;
        }
        let _ = vcpu(VCPUOP_STOP_SINGLESHOT_TIMER, 0, &mut 0u64);
        free(tables)
    }
}

case! {
    /// XSA-309: entries that show tables were counted wrong where a tree was refused: the tables kept their part in a
    /// link that was not there.
    fn xsa_309_links_of_refused_trees(env) {
        let (a, b) = (env.page(0), env.page(1));
        a.set(0, Pte::read_only(b.mfn()).0);
        a.set(1, NO_FRAME << 12 | 7);
        for page in [a, b] {
            need("read-only", page.read_only())?;
        }
        need("pin", pin(4, b))?;
        check("refused", pin(4, a).is_err())?;
        need("writable", a.writable())?;
        a.set(0, 0);
        a.set(1, 0);
        need("read-only", a.read_only())?;
        need("pin", pin(4, a))?;
        same("the other way round", mmu(b.entry(0), Pte::read_only(a.mfn()).0), Ok(0))?;
        same("unpin", (unpin(b), unpin(a)), (Ok(0), Ok(0)))?;
        nothing_left(a)?;
        nothing_left(b)
    }
}

case! {
    /// XSA-154: device memory was mapped with different memory types at once.
    fn xsa_154_memory_types(env) {
        const DEVICE: Mfn = Mfn(0xb8);
        let pages = [env.page(0), env.page(1)];
        for (page, flags) in pages.into_iter().zip([0, 0x08]) {
            need("map", page.map(Pte(Pte::data(DEVICE).0 | flags)))?;
            let entry = entry_address(&env.boot, env.boot.root_table(), page.virt(), Level::L1);
            same("uncached", entry.map(|(_, entry)| entry.0 & 0x98), Some(0x18))?;
        }
        Ok(())
    }
}

case! {
    /// Tables cannot be taken back while a vCPU runs on them, however often they are unpinned.
    fn root_in_use(env) {
        let root = env.boot.root_table();
        let unpinned = mmuext(MMUEXT_UNPIN_TABLE, root.0, 0);
        let writable = env.page(0).map(Pte::data(root));
        if unpinned.is_ok() {
            need("pin", mmuext(MMUEXT_PIN_L4_TABLE, root.0, 0))?;
        }
        same("writable", writable, Err(Errno::EBUSY))?;
        let root = [root.0];
        same("no descriptors", hc2(nr::SET_GDT, root.as_ptr() as u64, 1), Err(Errno::EINVAL))
    }
}
