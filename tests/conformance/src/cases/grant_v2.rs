//! Version 2 grant tables, and the change between versions. Each case goes back to version 1.

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Mfn, Pte};
use xen_abi::GuestHandle;
use xen_abi::grant_table::*;
use xen_abi::xen::DOMID_SELF;

use super::grant::*;
use crate::call::{NO_DOMAIN, NO_FRAME, Ret, grant};
use crate::harness::pool::Page;
use crate::harness::{Env, Outcome, Verdict, check, need, same};

pub(super) fn set_version(version: u32) -> (Ret, u32) {
    let mut arg = [GnttabSetVersion { version }];
    let ret = grant(GNTTABOP_SET_VERSION, &mut arg);
    (ret, arg[0].version)
}

pub(super) fn status_frames(dom: u16, nr_frames: u32, frames: &mut [u64]) -> (Ret, i16) {
    let mut arg = [GnttabGetStatusFrames {
        nr_frames,
        dom,
        frame_list: GuestHandle::from(frames.as_mut_ptr() as u64),
        ..GnttabGetStatusFrames::default()
    }];
    (grant(GNTTABOP_GET_STATUS_FRAMES, &mut arg), arg[0].status)
}

/// Version 2 in use: the entries in page 11, the status words in page 9.
pub(super) struct V2<'a> {
    entries: Page<'a>,
    status: Page<'a>,
    pub data: Page<'a>,
    pub place: Page<'a>,
}

impl V2<'_> {
    /// Writes an entry: the second word first, as a granter does.
    pub fn set(&self, reference: u32, first: u64, second: u64) {
        self.entries.set(reference as usize * 2 + 1, second);
        self.entries.set(reference as usize * 2, first);
    }

    /// Grants the data page to this domain.
    pub fn full_page(&self, flags: u16) {
        self.set(REF, u64::from(GTF_PERMIT_ACCESS | flags), self.data.mfn().0);
    }

    /// Grants `length` bytes of it from `offset` on.
    fn sub_page(&self, flags: u16, offset: u16, length: u16) {
        let flags = u64::from(GTF_PERMIT_ACCESS | GTF_SUB_PAGE | flags);
        self.set(REF, flags | u64::from(offset) << 32 | u64::from(length) << 48, self.data.mfn().0);
    }

    /// Passes on reference `to` of domain `dom` as `reference`.
    pub fn transitive(&self, reference: u32, dom: u16, to: u32) {
        self.set(reference, u64::from(GTF_TRANSITIVE) | u64::from(dom) << 32, u64::from(to));
    }

    pub fn first(&self, reference: u32) -> u64 {
        self.entries.get(reference as usize * 2)
    }

    /// The status word of a reference.
    pub fn in_use(&self, reference: u32) -> u16 {
        let bytes = self.status.get(reference as usize / 4).to_le_bytes();
        let at = reference as usize % 4 * 2;
        u16::from_le_bytes([bytes[at], bytes[at + 1]])
    }
}

/// Runs `body` with a version 2 table, and goes back to version 1.
pub(super) fn with_v2(env: &Env, body: impl FnOnce(&V2) -> Outcome) -> Outcome {
    let entries = table(env)?;
    need("set_version", set_version(2).0)?;
    let mut frame = [0];
    let (data, place, status) = (env.page(0), env.page(1), env.page(9));
    data.set(3, 33);
    let mapped = status_frames(DOMID_SELF, 1, &mut frame);
    let outcome = match mapped {
        (Ok(_), GNTST_OKAY) => need("map", status.map(Pte::data(Mfn(frame[0]))).and(place.map(Pte::EMPTY)))
            .and_then(|()| body(&V2 { entries, status, data, place })),
        _ => Err(Verdict::Error("get_status_frames")),
    };
    need("unmap the status words", status.writable())?;
    for word in 0..512 {
        entries.set(word, 0);
    }
    same("back to version 1", set_version(1), (Ok(0), 1))?;
    outcome
}

fn copy_out(env: &Env, offset: u16, len: u16) -> i16 {
    let source = GnttabCopyPtr { domid: 0, ..end(u64::from(REF), offset) };
    copy(source, end(env.page(2).mfn().0, 0), len, GNTCOPY_SOURCE_GREF).1
}

fn copy_in(env: &Env, offset: u16, len: u16) -> i16 {
    let dest = GnttabCopyPtr { domid: 0, ..end(u64::from(REF), offset) };
    copy(end(env.page(2).mfn().0, 0), dest, len, GNTCOPY_DEST_GREF).1
}

case! {
    /// The version is told by every answer, also where it is refused or was in use already.
    fn versions(env) {
        let _ = table(env)?;
        same("the same", set_version(1), (Ok(0), 1))?;
        same("none", set_version(0), (Err(Errno::EINVAL), 1))?;
        same("unknown", set_version(3), (Err(Errno::EINVAL), 1))?;
        with_v2(env, |_| {
            same("the same", set_version(2), (Ok(0), 2))?;
            same("unknown", set_version(3), (Err(Errno::EINVAL), 2))?;
            let mut arg = [GnttabGetVersion { dom: DOMID_SELF, ..GnttabGetVersion::default() }];
            need("get_version", grant(GNTTABOP_GET_VERSION, &mut arg))?;
            same("version", arg[0].version, 2)
        })
    }
}

case! {
    /// The version of a domain that does not exist.
    fn version_of_nobody(env) {
        let _ = env;
        same("get_version", grant(GNTTABOP_GET_VERSION, &mut [GnttabGetVersion { dom: NO_DOMAIN, ..GnttabGetVersion::default() }]),
            Err(Errno::ESRCH))
    }
}

case! {
    /// Status frames are there with version 2 only, for existing domains, and not more than the table needs.
    fn frames_of_status(env) {
        let _ = table(env)?;
        let mut list = [0u64; 8];
        same("version 1", status_frames(DOMID_SELF, 1, &mut list), (Ok(0), GNTST_GENERAL_ERROR))?;
        with_v2(env, |_| {
            same("nobody", status_frames(NO_DOMAIN, 1, &mut list), (Ok(0), GNTST_BAD_DOMAIN))?;
            same("none", status_frames(DOMID_SELF, 0, &mut list), (Ok(0), GNTST_OKAY))?;
            same("too many", status_frames(DOMID_SELF, 64, &mut [0; 64]), (Ok(0), GNTST_GENERAL_ERROR))?;
            same("one", status_frames(DOMID_SELF, 1, &mut list), (Ok(0), GNTST_OKAY))?;
            let mut arg = [GnttabGetStatusFrames {
                nr_frames: 1, dom: DOMID_SELF, frame_list: GuestHandle::from(crate::call::UNMAPPED), ..GnttabGetStatusFrames::default()
            }];
            need("get_status_frames", grant(GNTTABOP_GET_STATUS_FRAMES, &mut arg))?;
            same("a list in no memory", arg[0].status, GNTST_BAD_VIRT_ADDR)
        })
    }
}

case! {
    /// The use of a version 2 entry shows in its status word, not in the entry.
    fn map_full_page(env) {
        with_v2(env, |v2| {
            v2.full_page(0);
            let handle = mapped(REF, v2.place.virt(), GNTMAP_HOST_MAP)?;
            let seen = (v2.in_use(REF), v2.first(REF), v2.place.get(3));
            same("unmap", unmap(handle, v2.place.virt(), 0), GNTST_OKAY)?;
            same("status, entry, value", seen, (GTF_READING | GTF_WRITING, u64::from(GTF_PERMIT_ACCESS), 33))?;
            same("status", v2.in_use(REF), 0)
        })
    }
}

case! {
    /// Reading only, and read-only grants.
    fn map_readonly(env) {
        with_v2(env, |v2| {
            v2.full_page(GTF_READONLY);
            same("for writing", map(REF, v2.place.virt(), GNTMAP_HOST_MAP).0, GNTST_GENERAL_ERROR)?;
            same("status", v2.in_use(REF), 0)?;
            let handle = mapped(REF, v2.place.virt(), GNTMAP_HOST_MAP | GNTMAP_READONLY)?;
            let seen = v2.in_use(REF);
            same("unmap", unmap(handle, v2.place.virt(), 0), GNTST_OKAY)?;
            same("status", (seen, v2.in_use(REF)), (GTF_READING, 0))?;
            same("copy to", copy_in(env, 0, 8), GNTST_GENERAL_ERROR)?;
            same("copy from", copy_out(env, 0, 8), GNTST_OKAY)
        })
    }
}

case! {
    /// Half a frame's worth of references, no more.
    fn beyond(env) {
        with_v2(env, |v2| {
            same("the last but one", map(255, v2.place.virt(), GNTMAP_HOST_MAP).0, GNTST_GENERAL_ERROR)?;
            same("beyond", map(511, v2.place.virt(), GNTMAP_HOST_MAP).0, GNTST_BAD_GNTREF)
        })
    }
}

case! {
    /// A part of a page may be copied from and to, not mapped, and only within its bounds.
    fn sub_page(env) {
        with_v2(env, |v2| {
            v2.data.set(13, 0x99);
            v2.sub_page(0, 100, 20);
            same("map", map(REF, v2.place.virt(), GNTMAP_HOST_MAP).0, GNTST_GENERAL_ERROR)?;
            same("all of it", copy_out(env, 100, 20), GNTST_OKAY)?;
            same("before", copy_out(env, 99, 2), GNTST_GENERAL_ERROR)?;
            same("behind", copy_out(env, 119, 2), GNTST_GENERAL_ERROR)?;
            same("nothing within", copy_out(env, 120, 0), GNTST_OKAY)?;
            same("across the page", copy_out(env, 4090, 20), GNTST_BAD_COPY_ARG)?;
            same("write", copy_in(env, 104, 8), GNTST_OKAY)?;
            same("write behind", copy_in(env, 113, 8), GNTST_GENERAL_ERROR)?;
            same("status", v2.in_use(REF), 0)
        })
    }
}

case! {
    /// A part that the granter says reaches beyond the page gives nothing beyond it.
    fn sub_page_too_large(env) {
        with_v2(env, |v2| {
            v2.sub_page(0, 4000, u16::MAX);
            same("to the end", copy_out(env, 4088, 8), GNTST_OKAY)?;
            same("across the page", copy_out(env, 4090, 8), GNTST_BAD_COPY_ARG)?;
            v2.sub_page(0, u16::MAX, u16::MAX);
            same("outside", copy_out(env, 0, 8), GNTST_GENERAL_ERROR)
        })
    }
}

case! {
    /// A transitive grant passes a grant of another domain on; that of the granter itself is not another domain's.
    fn transitive_to_self(env) {
        with_v2(env, |v2| {
            v2.transitive(REF, 0, REF + 1);
            v2.set(REF + 1, u64::from(GTF_PERMIT_ACCESS), v2.data.mfn().0);
            same("copy", copy_out(env, 0, 8), GNTST_GENERAL_ERROR)?;
            same("map", map(REF, v2.place.virt(), GNTMAP_HOST_MAP).0, GNTST_GENERAL_ERROR)?;
            same("status", (v2.in_use(REF), v2.in_use(REF + 1)), (0, 0))
        })
    }
}

case! {
    /// A transitive grant of a domain that does not exist.
    fn transitive_to_nobody(env) {
        with_v2(env, |v2| {
            v2.transitive(REF, NO_DOMAIN, REF);
            same("copy", copy_out(env, 0, 8), GNTST_GENERAL_ERROR)?;
            same("status", v2.in_use(REF), 0)
        })
    }
}

case! {
    /// A frame number that no frame has.
    fn no_frame(env) {
        with_v2(env, |v2| {
            for frame in [NO_FRAME, u64::MAX, 1 << 40] {
                v2.set(REF, u64::from(GTF_PERMIT_ACCESS), frame);
                check("map", map(REF, v2.place.virt(), GNTMAP_HOST_MAP).0 < 0)?;
                check("copy", copy_out(env, 0, 8) < 0)?;
                same("status", v2.in_use(REF), 0)?;
            }
            Ok(())
        })
    }
}

case! {
    /// The version cannot change while a grant is in use.
    fn version_in_use(env) {
        let table = table(env)?;
        grant_self(table, env.page(0).mfn(), GTF_PERMIT_ACCESS);
        let handle = mapped(REF, 0, GNTMAP_DEVICE_MAP)?;
        let refused = set_version(2);
        same("unmap", unmap(handle, 0, env.page(0).mfn().address()), GNTST_OKAY)?;
        table.set(REF as usize, 0);
        same("set_version", refused, (Err(Errno::EBUSY), 1))?;
        with_v2(env, |v2| {
            v2.full_page(0);
            let handle = mapped(REF, 0, GNTMAP_DEVICE_MAP)?;
            let refused = set_version(1);
            same("unmap", unmap(handle, 0, v2.data.mfn().address()), GNTST_OKAY)?;
            same("set_version", refused, (Err(Errno::EBUSY), 2))
        })
    }
}

case! {
    /// A change of version keeps the reserved entries and clears all others.
    fn reserved_entries(env) {
        let table = table(env)?;
        let entry = env.page(0).mfn().0 << 32 | 7 << 16 | u64::from(GTF_PERMIT_ACCESS | GTF_READONLY);
        let saved = table.get(1);
        table.set(1, entry);
        table.set(REF as usize, entry);
        let outcome = with_v2(env, |v2| {
            same("flags and domain", v2.first(1), 7 << 16 | u64::from(GTF_PERMIT_ACCESS | GTF_READONLY))?;
            same("frame", v2.entries.get(3), env.page(0).mfn().0)?;
            same("another entry", (v2.first(REF), v2.entries.get(REF as usize * 2 + 1)), (0, 0))?;
            same("status", v2.in_use(1), 0)
        });
        table.set(1, saved);
        table.set(REF as usize, 0);
        outcome
    }
}

case! {
    /// A reserved entry that version 1 cannot express prevents the change.
    fn reserved_not_representable(env) {
        with_v2(env, |v2| {
            v2.set(5, u64::from(GTF_PERMIT_ACCESS), 1 << 32);
            same("a wide frame", set_version(1), (Err(Errno::ERANGE), 2))?;
            v2.transitive(5, 0, REF);
            same("a transitive entry", set_version(1), (Err(Errno::ERANGE), 2))
        })
    }
}

case! {
    /// Exchanging entries exchanges both words.
    fn swap(env) {
        with_v2(env, |v2| {
            v2.full_page(GTF_READONLY);
            let mut arg = [GnttabSwapGrantRef { ref_a: REF, ref_b: REF + 1, status: 99, ..GnttabSwapGrantRef::default() }];
            same("swap", grant(GNTTABOP_SWAP_GRANT_REF, &mut arg), Ok(0))?;
            same("status", arg[0].status, GNTST_OKAY)?;
            same("moved", (v2.first(REF), v2.first(REF + 1), v2.entries.get(REF as usize * 2 + 3)),
                (0, u64::from(GTF_PERMIT_ACCESS | GTF_READONLY), v2.data.mfn().0))
        })
    }
}
