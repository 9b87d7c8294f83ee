//! Segment descriptors of guests: which are harmless, the frames of a GDT and an LDT, and changes of single descriptors.
//!
//! A descriptor may give a guest nothing that the hypervisor does not mean to give: nothing below ring 3, no system segment
//! but a call gate, and that one only in a form that faults, for the hypervisor to emulate.

use super::info::PageType;
use super::{PageError, pte};
use crate::Hypervisor;
use crate::domain::{Domain, Vcpu};
use crate::ids::{GuestVirt, Mfn};
use crate::platform::{FrameWords, GuestFrame, Platform};
use core::sync::atomic::Ordering::{Relaxed, Release};

/// Descriptors per frame.
const PER_FRAME: u32 = 512;
/// Entries of the GDT that belong to the guest: 14 frames (`FIRST_RESERVED_GDT_ENTRY`, arch-x86/xen.h).
pub const GDT_ENTRIES: u32 = 14 * PER_FRAME;
/// Most entries of an LDT.
pub const LDT_ENTRIES: u32 = 8192;
/// Frames of the largest LDT.
pub const LDT_FRAMES: usize = (LDT_ENTRIES / PER_FRAME) as usize;

// Bits of a descriptor as one 64-bit word (SDM Vol. 3, 3.4.5).
const PRESENT: u64 = 1 << 47;
const DPL: u64 = 3 << 45;
const CODE_OR_DATA: u64 = 1 << 44;
const TYPE: u64 = 15 << 40;
const CALL_GATE: u64 = 12 << 40;
/// Reserved bits of a 64-bit call gate's upper half.
const GATE_RESERVED: u64 = 0xff << 32;
const SELECTOR_SHIFT: u32 = 16;
/// Guest kernels run in ring 3.
const RING: u64 = 3;

/// A descriptor in the form in which a guest may have it, or `None`.
pub fn check_descriptor(descriptor: u64) -> Option<u64> {
    if descriptor & PRESENT == 0 {
        return Some(descriptor);
    }
    let fixed = descriptor & !DPL | RING << 45;
    if descriptor & CODE_OR_DATA != 0 {
        return Some(fixed);
    }
    match descriptor & TYPE {
        // The second half of a call gate.
        0 => Some(descriptor),
        CALL_GATE => check_gate(descriptor),
        _ => None,
    }
}

/// A call gate: made DPL 0, so that every use faults; the DPL it had is kept in the selector's RPL.
fn check_gate(descriptor: u64) -> Option<u64> {
    let selector = descriptor >> SELECTOR_SHIFT & 0xffff;
    if !gate_selector_ok(selector) || descriptor & GATE_RESERVED != 0 {
        return None;
    }
    let selector = selector & !3 | RING;
    Some(descriptor & !(DPL | 0xffff << SELECTOR_SHIFT) | selector << SELECTOR_SHIFT)
}

/// Whether a gate may lead to this code selector: one of the guest's own segments, or the 64-bit code segment that the
/// hypervisor lends to guests. A null selector is harmless.
fn gate_selector_ok(selector: u64) -> bool {
    const IN_LDT: u64 = 4;
    // FLAT_RING3_CS64 (arch-x86/xen-x86_64.h).
    const LENT_CODE: u64 = 0xe033;
    selector >> 3 < u64::from(GDT_ENTRIES) || selector == LENT_CODE || selector & IN_LDT != 0
}

/// Checks a whole frame of descriptors, bringing each into the form that is allowed.
pub(crate) fn check_frame(words: &FrameWords) -> Result<(), PageError> {
    for word in words {
        let descriptor = word.load(Relaxed);
        if descriptor & PRESENT == 0 {
            continue;
        }
        let fixed = check_descriptor(descriptor).ok_or(PageError::BadEntry)?;
        if fixed != descriptor {
            word.store(fixed, Relaxed);
        }
    }
    Ok(())
}

impl<P: Platform> Hypervisor<P> {
    /// Makes `frames` the guest's part of a vCPU's GDT, with `entries` descriptors in all, and drops the old one. The vCPU is the
    /// calling one or down; loading it is the caller's business.
    ///
    /// # Errors
    /// [`PageError::BadEntry`] for too many, or what a frame is refused for; [`PageError::Restart`].
    pub fn set_gdt(
        &self,
        domain: &Domain<P>,
        vcpu: &Vcpu<P>,
        frames: &[Mfn],
        entries: u32,
    ) -> Result<(), PageError> {
        if entries > GDT_ENTRIES || frames.len() != entries.div_ceil(PER_FRAME) as usize {
            return Err(PageError::BadEntry);
        }
        let mut checked = false;
        for (i, mfn) in frames.iter().enumerate() {
            let known = self.is_checked(*mfn);
            // What was checked stays so, and is not checked again when the hypercall is made again.
            let taken = if !known && checked && self.platform.work_pending() {
                Err(PageError::Restart)
            } else {
                self.get_page_and_type(domain, *mfn, PageType::SegDesc)
            };
            if let Err(error) = taken {
                frames[..i].iter().for_each(|mfn| self.put_page_and_type(*mfn));
                return Err(error);
            }
            checked |= !known;
        }
        self.drop_gdt(vcpu);
        for (slot, mfn) in vcpu.pv.gdt_frames.iter().zip(frames) {
            slot.store(mfn.0, Relaxed);
        }
        vcpu.pv.gdt_entries.store(entries, Relaxed);
        Ok(())
    }

    /// Whether a frame is a descriptor page: it is not checked again when it is taken as one.
    fn is_checked(&self, mfn: Mfn) -> bool {
        self.frame(mfn).is_some_and(|info| info.type_word().page_type() == PageType::SegDesc)
    }

    /// Takes the guest's part of a vCPU's GDT away.
    pub fn drop_gdt(&self, vcpu: &Vcpu<P>) {
        vcpu.pv.gdt_entries.store(0, Relaxed);
        for slot in &vcpu.pv.gdt_frames {
            match slot.swap(0, Relaxed) {
                0 => {}
                mfn => self.put_page_and_type(Mfn(mfn)),
            }
        }
    }

    /// Makes `entries` descriptors at `base` the calling vCPU's LDT. Every page of it is checked now and stays a descriptor
    /// page until the LDT or the address space changes; one that cannot be had is left out, and using it faults.
    ///
    /// # Errors
    /// [`PageError::BadEntry`] for too many entries or an address that is unaligned or no guest's; [`PageError::Restart`] when a page
    /// is still being given up as something else, or this CPU has other work before all are checked: the old LDT stays then.
    pub fn set_ldt(
        &self,
        domain: &Domain<P>,
        vcpu: &Vcpu<P>,
        base: GuestVirt,
        entries: u32,
    ) -> Result<(), PageError> {
        let bad_base = base.0 & 0xfff != 0 || !is_guests(base);
        if entries > LDT_ENTRIES || entries != 0 && bad_base {
            return Err(PageError::BadEntry);
        }
        let base = if entries == 0 { GuestVirt(0) } else { base };
        let (frames, found) = self.get_ldt_pages(domain, vcpu, base, entries);
        if !found {
            put_frames(self, frames);
            return Err(PageError::Restart);
        }
        vcpu.pv.ldt_base.store(base.0, Relaxed);
        vcpu.pv.ldt_entries.store(entries, Relaxed);
        self.replace_ldt_pages(domain, vcpu, frames);
        Ok(())
    }

    /// Looks up the pages of a vCPU's LDT anew: its base is a virtual address, so they are others in another address space. What
    /// would have to wait is left out: the fault that its use takes looks it up again.
    pub(crate) fn find_ldt_pages(&self, domain: &Domain<P>, vcpu: &Vcpu<P>) {
        let base = GuestVirt(vcpu.pv.ldt_base.load(Relaxed));
        let (frames, _) = self.get_ldt_pages(domain, vcpu, base, vcpu.pv.ldt_entries.load(Relaxed));
        self.replace_ldt_pages(domain, vcpu, frames);
    }

    /// Looks up one page of a vCPU's LDT, the `page`-th, which is used and was left out.
    ///
    /// # Errors
    /// What the page is refused for; [`PageError::Restart`] while it is being given up as something else.
    pub fn find_ldt_page(&self, domain: &Domain<P>, vcpu: &Vcpu<P>, page: usize) -> Result<(), PageError> {
        let end = vcpu.pv.ldt_entries.load(Relaxed).div_ceil(PER_FRAME) as usize;
        let cr3 = vcpu.pv.guest_table.get().filter(|_| page < end).ok_or(PageError::BadEntry)?;
        let base = GuestVirt(vcpu.pv.ldt_base.load(Relaxed));
        let mfn = self.ldt_frame(cr3, base, page)?;
        self.get_page_and_type(domain, mfn, PageType::SegDesc)?;
        let old = {
            let mut all = domain.pages.ldts.lock();
            core::mem::replace(&mut all.entry(vcpu.id).or_insert([Mfn(0); LDT_FRAMES])[page], mfn)
        };
        if old.0 != 0 {
            self.put_page_and_type(old);
        }
        Ok(())
    }

    /// References to the pages of an LDT, and whether it is as complete as it gets: `false` when one waits to be given up, or this CPU
    /// has other work first and has got on.
    fn get_ldt_pages(
        &self,
        domain: &Domain<P>,
        vcpu: &Vcpu<P>,
        base: GuestVirt,
        entries: u32,
    ) -> ([Mfn; LDT_FRAMES], bool) {
        let (mut frames, mut found, mut good, mut bad) = ([Mfn(0); LDT_FRAMES], true, false, false);
        // Without a root there is nothing to find either.
        let Some(cr3) = vcpu.pv.guest_table.get() else { return (frames, found) };
        for (page, frame) in frames.iter_mut().enumerate().take(entries.div_ceil(PER_FRAME) as usize) {
            let Ok(mfn) = self.ldt_frame(cr3, base, page) else { continue };
            let known = self.is_checked(mfn);
            if !known && (good || bad) && self.platform.work_pending() {
                // A page that is refused is checked anew each time: that is no progress. What is left out is looked up when it is used.
                found &= !good;
                break;
            }
            match self.get_page_and_type(domain, mfn, PageType::SegDesc) {
                Ok(()) => {
                    *frame = mfn;
                    good |= !known;
                }
                Err(error) => {
                    found &= error != PageError::Restart;
                    bad = true;
                }
            }
        }
        (frames, found)
    }

    /// The frame that the `page`-th page of an LDT is in.
    fn ldt_frame(&self, cr3: Mfn, base: GuestVirt, page: usize) -> Result<Mfn, PageError> {
        let entry = self.walk(cr3, base.add(page as u64 * 4096)).ok_or(PageError::BadEntry)?.entry;
        if entry & pte::PRESENT == 0 { Err(PageError::BadEntry) } else { Ok(pte::frame_of(entry)) }
    }

    fn replace_ldt_pages(&self, domain: &Domain<P>, vcpu: &Vcpu<P>, frames: [Mfn; LDT_FRAMES]) {
        self.drop_ldt_pages(domain, vcpu);
        if vcpu.pv.ldt_entries.load(Relaxed) != 0 {
            domain.pages.ldts.lock().insert(vcpu.id, frames);
        }
    }

    /// Takes a vCPU's LDT away.
    pub fn drop_ldt(&self, domain: &Domain<P>, vcpu: &Vcpu<P>) {
        vcpu.pv.ldt_entries.store(0, Relaxed);
        self.drop_ldt_pages(domain, vcpu);
    }

    fn drop_ldt_pages(&self, domain: &Domain<P>, vcpu: &Vcpu<P>) {
        if let Some(frames) = domain.pages.ldts.lock().remove(&vcpu.id) {
            put_frames(self, frames);
        }
    }

    /// The frames of a vCPU's LDT, in order; frame 0 where there is none.
    pub fn ldt_frames(&self, domain: &Domain<P>, vcpu: &Vcpu<P>) -> [Mfn; LDT_FRAMES] {
        domain.pages.ldts.lock().get(&vcpu.id).copied().unwrap_or([Mfn(0); LDT_FRAMES])
    }

    /// Writes one descriptor at a machine address of the domain's: into a descriptor page, or any other page that may be
    /// written.
    ///
    /// # Errors
    /// [`PageError::BadEntry`] for the descriptor or an unaligned address, or what the page is refused for.
    pub fn update_descriptor(
        &self,
        domain: &Domain<P>,
        address: u64,
        descriptor: u64,
    ) -> Result<(), PageError> {
        if !address.is_multiple_of(8) {
            return Err(PageError::BadEntry);
        }
        let descriptor = check_descriptor(descriptor).ok_or(PageError::BadEntry)?;
        let mfn = Mfn(address >> 12);
        let now = self.frame(mfn).ok_or(PageError::BadFrame)?.type_word().page_type();
        let t = if now == PageType::SegDesc { now } else { PageType::Writable };
        self.get_page_and_type(domain, mfn, t)?;
        self.platform.words(GuestFrame::held(mfn))[(address as usize & 0xfff) / 8].store(descriptor, Release);
        self.put_page_and_type(mfn);
        Ok(())
    }
}

/// Drops the references to the pages of an LDT.
fn put_frames<P: Platform>(hv: &Hypervisor<P>, frames: [Mfn; LDT_FRAMES]) {
    frames.into_iter().filter(|mfn| mfn.0 != 0).for_each(|mfn| hv.put_page_and_type(mfn));
}

/// Whether an address is canonical and outside of the hypervisor's own range.
#[inline]
pub(crate) fn is_guests(va: GuestVirt) -> bool {
    // In units of sixteen L4 entries, from the lowest of the upper half on: the hypervisor's come first, what is not canonical last.
    const ENTRIES: u32 = 39 + 4;
    (va.0.wrapping_add(1 << 47) >> ENTRIES).wrapping_sub(1) < 31
}

/// Whether an address lies in the hypervisor's own range.
pub(crate) fn is_hypervisors(va: GuestVirt) -> bool {
    pte::HYPERVISOR_SLOTS.contains(&pte::index(va.0, 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_addresses_end_where_the_hypervisors_begin() {
        let ends = [0, 0x7fff_ffff_ffff, 0xffff_8800_0000_0000, u64::MAX];
        assert!(ends.iter().all(|va| is_guests(GuestVirt(*va))));
        for slot in 0..512u64 {
            let va = (slot << 39).cast_signed() << 16 >> 16;
            for va in [va, va + (1 << 39) - 1].map(|va| GuestVirt(va.cast_unsigned())) {
                assert!(va.is_canonical());
                assert_eq!(is_guests(va), !is_hypervisors(va), "{va:?}");
            }
        }
        for bit in 47..64 {
            assert!(!is_guests(GuestVirt(1 << bit)), "bit {bit} alone is not canonical");
        }
    }
}
