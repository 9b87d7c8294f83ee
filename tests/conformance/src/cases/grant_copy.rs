//! Copying by grant, version 1 tables; the granter is the domain itself.

use xen_abi::grant_table::*;
use xen_abi::xen::{DOMID_IO, DOMID_SELF};

use super::grant::*;
use super::grant_map::with_grant;
use crate::call::{NO_DOMAIN, NO_FRAME, grant};
use crate::harness::{check, need, same};

/// Status of a copy of `len` bytes.
fn status(source: GnttabCopyPtr, dest: GnttabCopyPtr, len: u16, flags: u16) -> i16 {
    let (ret, status) = copy(source, dest, len, flags);
    if ret.is_ok() { status } else { i16::MAX }
}

/// The granted page, from this byte on.
fn granted(offset: u16) -> GnttabCopyPtr {
    GnttabCopyPtr { domid: 0, ..end(u64::from(REF), offset) }
}

case! {
    /// Bytes go to where they belong whatever the alignment, and those around stay.
    fn unaligned(env) {
        let (from, to) = (env.page(0), env.page(2));
        for word in 0..16 {
            from.set(word, u64::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8]) + (word as u64) * 0x0808_0808_0808_0808);
            to.set(word, u64::MAX);
        }
        same("copy", status(end(from.mfn().0, 3), end(to.mfn().0, 13), 9, 0), GNTST_OKAY)?;
        same("before", to.get(0), u64::MAX)?;
        same("first word", to.get(1).to_le_bytes(), [255, 255, 255, 255, 255, 4, 5, 6])?;
        same("second word", to.get(2).to_le_bytes(), [7, 8, 9, 10, 11, 12, 255, 255])?;
        same("behind", to.get(3), u64::MAX)
    }
}

case! {
    /// No bytes at all is no error, if both ends are good.
    fn nothing(env) {
        let (from, to) = (env.page(0), env.page(2));
        same("copy", status(end(from.mfn().0, 0), end(to.mfn().0, 0), 0, 0), GNTST_OKAY)?;
        same("at the end", status(end(from.mfn().0, 4096), end(to.mfn().0, 4096), 0, 0), GNTST_OKAY)?;
        same("beyond", status(end(from.mfn().0, 4097), end(to.mfn().0, 0), 0, 0), GNTST_BAD_COPY_ARG)?;
        same("no frame", status(end(NO_FRAME, 0), end(to.mfn().0, 0), 0, 0), GNTST_BAD_PAGE)
    }
}

case! {
    /// Source and destination must each lie within a page.
    fn across_pages(env) {
        let (from, to) = (env.page(0), env.page(2));
        let (from, to) = (|at| end(from.mfn().0, at), |at| end(to.mfn().0, at));
        same("source", status(from(4090), to(0), 7, 0), GNTST_BAD_COPY_ARG)?;
        same("destination", status(from(0), to(4090), 7, 0), GNTST_BAD_COPY_ARG)?;
        same("a whole page and more", status(from(0), to(0), 4097, 0), GNTST_BAD_COPY_ARG)?;
        same("the largest numbers", status(from(u16::MAX), to(u16::MAX), u16::MAX, 0), GNTST_BAD_COPY_ARG)?;
        same("up to the end", status(from(4090), to(4090), 6, 0), GNTST_OKAY)
    }
}

case! {
    /// A frame that is not granted is the caller's own, named by `DOMID_SELF` and not by its number.
    fn frames_of_others(env) {
        let (from, to) = (env.page(0), env.page(2));
        let other = GnttabCopyPtr { domid: 0, ..end(from.mfn().0, 0) };
        same("source", status(other, end(to.mfn().0, 0), 8, 0), GNTST_PERMISSION_DENIED)?;
        same("destination", status(end(to.mfn().0, 0), other, 8, 0), GNTST_PERMISSION_DENIED)
    }
}

case! {
    /// A frame of a domain that does not exist, or that only names a kind of memory. Releases of Xen 4.17 differ in what
    /// they judge first: 4.17.5 that only `DOMID_SELF` names frames, 4.17.7 that the domain exists.
    fn frames_of_no_domain(env) {
        let (from, to) = (env.page(0), env.page(2));
        for domid in [DOMID_IO, NO_DOMAIN] {
            let other = GnttabCopyPtr { domid, ..end(from.mfn().0, 0) };
            for (end, status) in [
                ("source", status(other, end(to.mfn().0, 0), 8, 0)),
                ("destination", status(end(to.mfn().0, 0), other, 8, 0)),
            ] {
                check(end, [GNTST_PERMISSION_DENIED, GNTST_BAD_DOMAIN].contains(&status))?;
            }
        }
        Ok(())
    }
}

case! {
    /// A frame that does not exist or is not the domain's.
    fn bad_frames(env) {
        let page = env.page(0);
        for frame in [NO_FRAME, u64::MAX, 0xfee00] {
            same("source", status(end(frame, 0), end(page.mfn().0, 0), 8, 0), GNTST_BAD_PAGE)?;
            same("destination", status(end(page.mfn().0, 0), end(frame, 0), 8, 0), GNTST_BAD_PAGE)?;
        }
        Ok(())
    }
}

case! {
    /// A page table is no destination, but may be read.
    fn page_tables(env) {
        let (page, root) = (env.page(0), env.boot.root_table().0);
        same("destination", status(end(page.mfn().0, 0), end(root, 0), 8, 0), GNTST_GENERAL_ERROR)?;
        same("source", status(end(root, 0), end(page.mfn().0, 0), 8, 0), GNTST_OKAY)
    }
}

case! {
    /// A granter that does not exist.
    fn granter_unknown(env) {
        let page = env.page(0);
        let nobody = GnttabCopyPtr { domid: NO_DOMAIN, ..end(u64::from(REF), 0) };
        same("source", status(nobody, end(page.mfn().0, 0), 8, GNTCOPY_SOURCE_GREF), GNTST_BAD_DOMAIN)?;
        same("destination", status(end(page.mfn().0, 0), nobody, 8, GNTCOPY_DEST_GREF), GNTST_BAD_DOMAIN)
    }
}

case! {
    /// `DOMID_SELF` as granter is the caller.
    fn granter_self(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let to = env.page(2);
            same("copy", status(end(u64::from(REF), 24), end(to.mfn().0, 0), 8, GNTCOPY_SOURCE_GREF), GNTST_OKAY)?;
            same("value", to.get(0), 33)?;
            same("both ends", status(granted(24), granted(0), 8, GNTCOPY_SOURCE_GREF | GNTCOPY_DEST_GREF), GNTST_OKAY)?;
            same("value", setup.data.get(0), 33)
        })
    }
}

case! {
    /// Entries that grant nothing, another kind, or to somebody else.
    fn unfit_entries(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let (to, frame) = (env.page(2), setup.data.mfn().0 << 32);
            for entry in [
                0, frame | u64::from(GTF_ACCEPT_TRANSFER), frame | u64::from(GTF_TRANSITIVE),
                frame | 5 << 16 | u64::from(GTF_PERMIT_ACCESS),
            ] {
                setup.table.set(REF as usize, entry);
                same("source", status(granted(0), end(to.mfn().0, 0), 8, GNTCOPY_SOURCE_GREF), GNTST_GENERAL_ERROR)?;
                same("the entry", setup.table.get(REF as usize), entry)?;
            }
            setup.table.set(REF as usize, 0);
            Ok(())
        })
    }
}

case! {
    /// A reference beyond the table.
    fn beyond(env) {
        let to = env.page(2);
        for reference in [512, 1 << 31, u64::from(u32::MAX)] {
            let source = GnttabCopyPtr { domid: 0, ..end(reference, 0) };
            same("source", status(source, end(to.mfn().0, 0), 8, GNTCOPY_SOURCE_GREF), GNTST_BAD_GNTREF)?;
        }
        Ok(())
    }
}

case! {
    /// Copying to a grant that allows writing; its use ends with the copy.
    fn to_grant(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let from = env.page(2);
            from.set(0, 77);
            same("copy", status(end(from.mfn().0, 0), granted(80), 8, GNTCOPY_DEST_GREF), GNTST_OKAY)?;
            same("value", setup.data.get(10), 77)
        })
    }
}

case! {
    /// A grant that is mapped may be copied from and to meanwhile, and stays in use.
    fn while_mapped(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let other = env.page(2);
            let handle = mapped(REF, 0, GNTMAP_DEVICE_MAP | GNTMAP_READONLY)?;
            same("in use", in_use(setup.table, REF), GTF_READING)?;
            same("read", status(granted(24), end(other.mfn().0, 0), 8, GNTCOPY_SOURCE_GREF), GNTST_OKAY)?;
            same("write", status(end(other.mfn().0, 0), granted(0), 8, GNTCOPY_DEST_GREF), GNTST_OKAY)?;
            same("in use", in_use(setup.table, REF), GTF_READING)?;
            same("unmap", unmap(handle, 0, setup.data.mfn().address()), GNTST_OKAY)?;
            same("values", (other.get(0), setup.data.get(0)), (33, 33))
        })
    }
}

case! {
    /// A failed copy leaves neither pins nor flags.
    fn failure_releases(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let to = env.page(2);
            for _ in 0..300 {
                same("past the page", status(granted(4090), end(to.mfn().0, 0), 8, GNTCOPY_SOURCE_GREF), GNTST_BAD_COPY_ARG)?;
                same("to nowhere", status(granted(0), end(NO_FRAME, 0), 8, GNTCOPY_SOURCE_GREF), GNTST_BAD_PAGE)?;
            }
            same("in use", in_use(setup.table, REF), 0)?;
            setup.is_released()
        })
    }
}

case! {
    /// Bits of the flags that mean nothing are ignored.
    fn unknown_flags(env) {
        let (from, to) = (env.page(0), env.page(2));
        same("copy", status(end(from.mfn().0, 0), end(to.mfn().0, 0), 8, 0xfffc), GNTST_OKAY)
    }
}

case! {
    /// Every copy of a batch has its status, those after a failure too; the last one's effect is there.
    fn batch(env) {
        let (from, to) = (env.page(0), env.page(2));
        from.set(0, 5);
        let one = |source, at| GnttabCopy {
            source: end(source, 0), dest: end(to.mfn().0, at), len: 8, status: 99, ..GnttabCopy::default()
        };
        let frame = from.mfn().0;
        let mut copies = [one(frame, 0), one(NO_FRAME, 8), one(frame, 4095), one(frame, 24)];
        same("copy", grant(GNTTABOP_COPY, &mut copies), Ok(0))?;
        same("status", copies.map(|copy| copy.status), [GNTST_OKAY, GNTST_BAD_PAGE, GNTST_BAD_COPY_ARG, GNTST_OKAY])?;
        same("values", (to.get(0), to.get(1), to.get(3)), (5, 0, 5))
    }
}

case! {
    /// A transfer gives nothing away that is in use, is not the domain's, or does not exist.
    fn transfer_refused(env) {
        let page = env.page(0);
        page.set(0, 9);
        for mfn in [page.mfn().0, env.boot.root_table().0, NO_FRAME, 0xfee00] {
            let mut arg = [GnttabTransfer { mfn, domid: NO_DOMAIN, ref_: REF, status: 99, ..GnttabTransfer::default() }];
            need("transfer", grant(GNTTABOP_TRANSFER, &mut arg))?;
            same("status", arg[0].status, GNTST_BAD_PAGE)?;
        }
        same("still there", page.get(0), 9)?;
        let mut arg = [GnttabTransfer { mfn: page.mfn().0, domid: DOMID_SELF, ref_: REF, ..GnttabTransfer::default() }];
        need("transfer", grant(GNTTABOP_TRANSFER, &mut arg))?;
        same("to oneself", arg[0].status, GNTST_BAD_PAGE)
    }
}
