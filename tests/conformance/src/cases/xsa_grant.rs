//! Regressions behind published advisories on grant tables.
//!
//! Advisories of this field that a lone guest cannot check: 218, 228 and 384 (races between CPUs), 268 and 295 (other
//! architectures), 313 and 314 (debug features, barriers), 345 and 397 (the hypervisor's own mappings), 349 and 350
//! (frontends and backends in guests), 386 and 395 (IOMMU and passthrough), 388 and 412 (other kinds of guests).

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Mfn, Pte};
use xen_abi::GuestHandle;
use xen_abi::grant_table::*;
use xen_abi::hypercall::nr;
use xen_abi::memory::*;
use xen_abi::xen::{DOMID_SELF, MMUEXT_PIN_L1_TABLE};

use super::grant::*;
use super::grant_map::with_grant;
use super::grant_table::{flush, swap};
use super::grant_v2::{set_version, status_frames, with_v2};
use crate::call::{grant, mmuext, op, va_mapping};
use crate::harness::fault;
use crate::harness::{check, need, same};

const HOST: u32 = GNTMAP_HOST_MAP;
const DEVICE: u32 = GNTMAP_DEVICE_MAP;
const READONLY: u32 = GNTMAP_READONLY;

case! {
    /// XSA-18: references to exchange are checked before they are used as indices.
    fn xsa_018_swap_bounds(env) {
        let _ = table(env)?;
        for reference in [1 << 16, 1 << 31, u32::MAX] {
            same("first", swap(reference, REF), GNTST_BAD_GNTREF)?;
            same("second", swap(REF, reference), GNTST_BAD_GNTREF)?;
            same("both", swap(reference, reference), GNTST_BAD_GNTREF)?;
        }
        Ok(())
    }
}

case! {
    #[alone]
    /// XSA-134: exchanging references before the table was ever set up.
    fn xsa_134_swap_first(env) {
        let _ = env;
        let status = swap(REF, REF + 1);
        check("answered", status == GNTST_OKAY || status == GNTST_BAD_GNTREF)?;
        same("beyond", swap(1 << 16, REF), GNTST_BAD_GNTREF)
    }
}

case! {
    /// XSA-214, XSA-217: a page in use is not given away, and stays whole.
    fn xsa_217_transfer_in_use(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let handle = mapped(REF, 0, DEVICE)?;
            let mut arg = [GnttabTransfer { mfn: setup.data.mfn().0, ref_: REF, ..GnttabTransfer::default() }];
            need("transfer", grant(GNTTABOP_TRANSFER, &mut arg))?;
            same("unmap", unmap(handle, 0, setup.data.mfn().address()), GNTST_OKAY)?;
            same("transfer", arg[0].status, GNTST_BAD_PAGE)?;
            same("contents", setup.data.get(3), 33)
        })
    }
}

case! {
    /// XSA-224: a mapping for host and devices holds the page twice, and each half gives back exactly what it took.
    fn xsa_224_halves_are_counted(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let at = setup.place.virt();
            let (status, handle, bus) = map(REF, at, HOST | DEVICE);
            same("map", status, GNTST_OKAY)?;
            same("unmap host", unmap(handle, at, 0), GNTST_OKAY)?;
            same("unmap host again", unmap(handle, at, 0), GNTST_OKAY)?;
            need("read-only", setup.data.read_only())?;
            // The device can write still: no page table may be here.
            let pinned = mmuext(MMUEXT_PIN_L1_TABLE, setup.data.mfn().0, 0);
            need("writable", setup.data.writable())?;
            same("unmap device", unmap(handle, 0, bus), GNTST_OKAY)?;
            check("held by the device", pinned.is_err())?;
            setup.is_released()
        })
    }
}

case! {
    /// XSA-224: a device mapping that asked for reading only gives back no right to write that it never had.
    fn xsa_224_readonly_device(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let reading = mapped(REF, 0, DEVICE | READONLY)?;
            let writing = mapped(REF, setup.place.virt(), HOST)?;
            same("unmap reading", unmap(reading, 0, setup.data.mfn().address()), GNTST_OKAY)?;
            same("written", fault::write(setup.place.virt() + 24, 44), Ok(()))?;
            same("unmap writing", unmap(writing, setup.place.virt(), 0), GNTST_OKAY)?;
            same("value", setup.data.get(3), 44)?;
            setup.is_released()
        })
    }
}

case! {
    /// XSA-226: a transitive grant that names itself, or another one of its kind, comes to an end.
    fn xsa_226_transitive_loops(env) {
        with_v2(env, |v2| {
            let to = env.page(2);
            let source = GnttabCopyPtr { domid: 0, ..end(u64::from(REF), 0) };
            for target in [REF, REF + 1, u32::MAX] {
                v2.transitive(REF, 0, target);
                v2.transitive(REF + 1, 0, REF);
                same("copy", copy(source, end(to.mfn().0, 0), 8, GNTCOPY_SOURCE_GREF), (Ok(0), GNTST_GENERAL_ERROR))?;
                same("in use", (v2.in_use(REF), v2.in_use(REF + 1)), (0, 0))?;
            }
            Ok(())
        })
    }
}

case! {
    /// XSA-227: the entry to map by must be aligned, and in a level-1 table of the domain.
    fn xsa_227_entry_places(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let entry = setup.place_entry()?;
            for place in [
                entry + 1, entry + 4, entry + 7, env.page(2).entry(0), env.boot.root_table().address() + 8 * 300,
                setup.table.virt(), !7,
            ] {
                same("status", map(REF, place, HOST | GNTMAP_CONTAINS_PTE).0, GNTST_GENERAL_ERROR)?;
                same("in use", in_use(setup.table, REF), 0)?;
            }
            setup.is_released()
        })
    }
}

case! {
    /// XSA-230: the "in use" flags stay while any mapping that they stand for does.
    fn xsa_230_flags_stay(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let bus = setup.data.mfn().address();
            let reading = [mapped(REF, 0, DEVICE | READONLY)?, mapped(REF, 0, DEVICE | READONLY)?];
            let writing = [mapped(REF, 0, DEVICE)?, mapped(REF, setup.place.virt(), HOST)?];
            same("one writer less", unmap(writing[0], 0, bus), GNTST_OKAY)?;
            same("flags", in_use(setup.table, REF), GTF_READING | GTF_WRITING)?;
            same("one reader less", unmap(reading[0], 0, bus), GNTST_OKAY)?;
            same("flags", in_use(setup.table, REF), GTF_READING | GTF_WRITING)?;
            same("no writer", unmap(writing[1], setup.place.virt(), 0), GNTST_OKAY)?;
            same("flags", in_use(setup.table, REF), GTF_READING)?;
            same("nobody", unmap(reading[1], 0, bus), GNTST_OKAY)?;
            same("flags", in_use(setup.table, REF), 0)
        })
    }
}

case! {
    /// XSA-232: the caches of a page that nobody owns are not the domain's to flush.
    fn xsa_232_flush_of_nobodys(env) {
        let page = env.page(0);
        let mut frame = page.mfn().0;
        need("unmap", page.map(Pte::EMPTY))?;
        let reservation = |frame: &mut u64| XenMemoryReservation {
            extent_start: GuestHandle::from(frame as *mut u64 as u64), nr_extents: 1, domid: DOMID_SELF,
            ..XenMemoryReservation::default()
        };
        same("given up", op(nr::MEMORY_OP, XENMEM_DECREASE_RESERVATION, &mut reservation(&mut frame)), Ok(1))?;
        let answer = flush(frame << 12, 0, 64, GNTTAB_CACHE_CLEAN);
        let mut new = page.pfn().0;
        same("got back", op(nr::MEMORY_OP, XENMEM_POPULATE_PHYSMAP, &mut reservation(&mut new)), Ok(1))?;
        page.adopt(Mfn(new));
        need("map", page.writable())?;
        check("refused", answer.is_err())
    }
}

case! {
    /// XSA-234: a mapping is undone only where the entry has its frame and its right to write.
    fn xsa_234_entry_replaced(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let at = setup.place.virt();
            let handle = mapped(REF, at, HOST | READONLY)?;
            let with = |entry: Pte| {
                need("replace", va_mapping(at, entry.0, 2))?;
                Ok(unmap(handle, at, 0))
            };
            let refused = [
                with(Pte::data(setup.data.mfn()))?, with(Pte::data(env.page(2).mfn()))?,
                with(Pte::read_only(env.page(2).mfn()))?, with(Pte::EMPTY)?,
            ];
            same("another entry", refused, [GNTST_GENERAL_ERROR; 4])?;
            same("in use", in_use(setup.table, REF), GTF_READING)?;
            same("an entry like it", with(Pte::read_only(setup.data.mfn()))?, GNTST_OKAY)?;
            setup.is_released()
        })
    }
}

case! {
    /// XSA-234: a handle for reading does not undo a mapping for writing of the same frame.
    fn xsa_234_other_handle(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let (first, second) = (setup.place.virt(), env.page(2).virt());
            let writing = mapped(REF, first, HOST)?;
            let reading = mapped(REF, second, HOST | READONLY)?;
            let crossed = [unmap(reading, first, 0), unmap(writing, second, 0)];
            same("unmap", unmap(writing, first, 0), GNTST_OKAY)?;
            same("unmap", unmap(reading, second, 0), GNTST_OKAY)?;
            same("crossed", crossed, [GNTST_GENERAL_ERROR; 2])?;
            setup.is_released()
        })
    }
}

case! {
    /// XSA-236: a grant can be mapped very often; where the count is full the answer is an error, and every
    /// mapping can be undone.
    fn xsa_236_many_pins(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let mut handles = [0u32; 300];
            let mut made = 0;
            let mut refused = GNTST_OKAY;
            for slot in &mut handles {
                let (status, handle, _) = map(REF, 0, DEVICE | READONLY);
                if status != GNTST_OKAY {
                    refused = status;
                    break;
                }
                *slot = handle;
                made += 1;
            }
            for handle in &handles[..made] {
                same("unmap", unmap(*handle, 0, setup.data.mfn().address()), GNTST_OKAY)?;
            }
            same("made, then refused", (made, refused), (128, GNTST_GENERAL_ERROR))?;
            setup.is_released()
        })
    }
}

case! {
    /// XSA-255: version 2 is not left while a status frame is mapped; XSA-379: nor can one be mapped afterwards.
    fn xsa_255_status_frames(env) {
        let _ = table(env)?;
        need("set_version", set_version(2).0)?;
        let mut frame = [0];
        need("get_status_frames", status_frames(DOMID_SELF, 1, &mut frame).0)?;
        let page = env.page(2);
        let held = page.map(Pte::data(Mfn(frame[0]))).is_ok();
        let refused = set_version(1);
        need("unmap", page.writable())?;
        same("back", set_version(1), (Ok(0), 1))?;
        check("mapped", held)?;
        same("while mapped", refused, (Err(Errno::EBUSY), 2))?;
        check("mapped afterwards", page.map(Pte::data(Mfn(frame[0]))).is_err())?;
        need("writable", page.writable())
    }
}

case! {
    /// XSA-316: every failure of a mapping is a negative status.
    fn xsa_316_failures_are_negative(env) {
        with_grant(env, GTF_PERMIT_ACCESS | GTF_READONLY, |setup| {
            let at = setup.place.virt();
            for (reference, place, flags) in [
                (REF, at, HOST), (REF, at, DEVICE), (REF, 0, HOST | READONLY), (REF + 1, at, HOST), (1 << 20, at, HOST),
                (REF, 4, HOST | READONLY | GNTMAP_CONTAINS_PTE), (REF, at, 0),
            ] {
                check("negative", map(reference, place, flags).0 < 0)?;
            }
            Ok(())
        })
    }
}

case! {
    /// XSA-318: every copy of a batch gets its status, however long the batch is.
    fn xsa_318_every_copy_answered(env) {
        let (from, to) = (env.page(0).mfn().0, env.page(2).mfn().0);
        let one = GnttabCopy { source: end(from, 0), dest: end(to, 0), len: 4096, status: 99, ..GnttabCopy::default() };
        let mut copies = [one; 64];
        for copy in copies.iter_mut().skip(1).step_by(2) {
            copy.source.offset = 1;
        }
        same("copy", grant(GNTTABOP_COPY, &mut copies), Ok(0))?;
        for pair in copies.chunks(2) {
            same("status", [pair[0].status, pair[1].status], [GNTST_OKAY, GNTST_BAD_COPY_ARG])?;
        }
        Ok(())
    }
}

case! {
    /// XSA-382: no more status frames are told than there are.
    fn xsa_382_status_frames_told(env) {
        with_v2(env, |_| {
            let mut list = [7u64; 64];
            for frames in [2, 64, 1 << 16, u32::MAX] {
                same("too many", status_frames(DOMID_SELF, frames, &mut list), (Ok(0), GNTST_GENERAL_ERROR))?;
            }
            same("nothing written", list, [7; 64])
        })
    }
}

case! {
    /// XSA-394: undoing a host mapping that was never made undoes nothing.
    fn xsa_394_never_mapped(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let bus = setup.data.mfn().address();
            let handle = mapped(REF, 0, DEVICE)?;
            let answer = unmap(handle, setup.place.virt(), 0);
            same("in use", in_use(setup.table, REF), GTF_READING | GTF_WRITING)?;
            same("unmap", unmap(handle, 0, bus), GNTST_OKAY)?;
            same("host half", answer, GNTST_OKAY)?;
            setup.is_released()
        })
    }
}
