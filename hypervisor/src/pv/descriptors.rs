//! The running vCPU's GDT and LDT, as windows of its CPU (see `cpu::descriptors`).
//!
//! The core decides which frames they are and holds the references; here they are mapped. They are mapped for the hypervisor
//! only: a guest changes descriptors by hypercall.

use crate::cpu::descriptors::{LDT_SELECTOR, RESERVED_GDT_PAGE, gdt_window, ldt_window, system_descriptor};
use crate::cpu::percpu::this_cpu;
use crate::machine::{Machine, Vcpu, hv};
use crate::mm::tables::{self, flush_page_local};
use crate::pv::Guest;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use hypervisor_core::domain::Domain;
use hypervisor_core::ids::{GuestVirt, Mfn, PAGE_SIZE};
use hypervisor_core::page::{LDT_FRAMES, PageError};

const LDT_WINDOW: u64 = 16 * PAGE_SIZE as u64;
const LDT_ACCESS: u64 = 0x82;
/// Descriptors of a page.
const GDT_PER_PAGE: u32 = 512;

/// Pages of a window: the GDT's, then the LDT's.
const WINDOW_PAGES: usize = 32;
/// Where the LDT's start.
const LDT_FIRST: usize = 16;

/// The page-table entries of this CPU's window.
fn window() -> Option<&'static [AtomicU64]> {
    let this = this_cpu();
    let mut first = this.window.load(Ordering::Relaxed).cast_const();
    if first.is_null() {
        // SAFETY: this CPU's own window, whose entries only `set_window` changes: to frames that are descriptor pages.
        first = unsafe { tables::page_entries(gdt_window(this.id()), WINDOW_PAGES) }.ok()?.as_ptr();
        this.window.store(first.cast_mut(), Ordering::Relaxed);
    }
    // SAFETY: `page_entries` gave that many, in a table that stays.
    Some(unsafe { core::slice::from_raw_parts(first, WINDOW_PAGES) })
}

/// Maps or unmaps page `n` of this CPU's window. Writable, because the CPU marks descriptors accessed.
fn set_window(entries: &[AtomicU64], n: usize, frame: u64) {
    let new = if frame == 0 { 0 } else { Mfn(frame).addr().0 | tables::DATA.bits() };
    // Only this CPU writes them; the processor does not, because accessed and dirty are set.
    if entries[n].load(Ordering::Relaxed) != new {
        entries[n].store(new, Ordering::Relaxed);
        flush_page_local(gdt_window(this_cpu().id()) + (n * PAGE_SIZE) as u64);
    }
}

/// Loads the windows of this CPU from the vCPU's state.
pub fn load(domain: &Domain<Machine>, vcpu: &Vcpu) {
    let this = this_cpu();
    let Some(entries) = window() else { return };
    let pv = &vcpu.pv;
    let gdt_pages = pv.gdt_entries.load(Ordering::Relaxed).div_ceil(GDT_PER_PAGE);
    let touched = gdt_pages.max(this.gdt_pages.swap(gdt_pages, Ordering::Relaxed)) as usize;
    for (n, frame) in pv.gdt_frames.iter().enumerate().take(touched.min(RESERVED_GDT_PAGE)) {
        set_window(entries, n, frame.load(Ordering::Relaxed));
    }
    let ldt_entries = pv.ldt_entries.load(Ordering::Relaxed);
    if this.has_ldt.swap((ldt_entries != 0).into(), Ordering::Relaxed) != 0 || ldt_entries != 0 {
        for (n, frame) in hv().ldt_frames(domain, vcpu).iter().enumerate() {
            set_window(entries, LDT_FIRST + n, frame.0);
        }
    }
    load_ldtr(gdt_window(this.id()), ldt_window(this.id()), ldt_entries);
}

/// Empties the windows of this CPU, which runs no vCPU.
pub fn unload() {
    let this = this_cpu();
    let Some(entries) = window() else { return };
    for n in (0..RESERVED_GDT_PAGE).chain(LDT_FIRST..LDT_FIRST + LDT_FRAMES) {
        set_window(entries, n, 0);
    }
    this.gdt_pages.store(0, Ordering::Relaxed);
    this.has_ldt.store(0, Ordering::Relaxed);
    load_ldtr(gdt_window(this.id()), ldt_window(this.id()), 0);
}

fn load_ldtr(gdt: u64, ldt: u64, entries: u32) {
    let selector = if entries == 0 { 0 } else { LDT_SELECTOR };
    if entries != 0 {
        let at = (gdt + u64::from(LDT_SELECTOR)) as *mut [u64; 2];
        // SAFETY: the slot of the hypervisor's own GDT page that is the LDT's; the window is mapped.
        unsafe { at.write(system_descriptor(ldt, u64::from(entries) * 8 - 1, LDT_ACCESS)) };
    }
    // SAFETY: null, or the descriptor that was just written.
    unsafe { asm!("lldt {0:x}", in(reg) selector, options(nostack, preserves_flags)) };
}

/// The CPU touched the LDT window at `va`, where no page is: it is looked up again, for it may be there now. If it is not, answers
/// the guest's own address, for the fault that the guest is to see.
pub fn ldt_fault(guest: &Guest<'_>, va: u64) -> Result<(), GuestVirt> {
    let offset = va - ldt_window(this_cpu().id());
    let own = GuestVirt(guest.vcpu.pv.ldt_base.load(Ordering::Relaxed)).add(offset);
    match guest.hv.find_ldt_page(guest.domain, guest.vcpu, (offset / PAGE_SIZE as u64) as usize) {
        Ok(()) => {
            load(guest.domain, guest.vcpu);
            Ok(())
        }
        // The page is still being given up as something else: the instruction faults again, after this CPU's other work.
        Err(PageError::Restart) => Ok(()),
        Err(_) => Err(own),
    }
}

/// Whether an address lies in this CPU's LDT window.
pub fn in_ldt_window(va: u64) -> bool {
    let start = ldt_window(this_cpu().id());
    (start..start + LDT_WINDOW).contains(&va)
}
