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
use core::sync::atomic::Ordering;
use hypervisor_core::domain::Domain;
use hypervisor_core::ids::{GuestVirt, Mfn, PAGE_SIZE};
use hypervisor_core::page::LDT_FRAMES;

const LDT_WINDOW: u64 = 16 * PAGE_SIZE as u64;
const LDT_ACCESS: u64 = 0x82;

/// Maps or unmaps a page of a window. Writable, because the CPU marks descriptors accessed.
fn set_window(va: u64, frame: u64) {
    let Ok(entry) = tables::page_entry(va) else { return };
    let new = if frame == 0 { 0 } else { Mfn(frame).addr().0 | tables::DATA.bits() };
    if entry.swap(new, Ordering::Relaxed) != new {
        flush_page_local(va);
    }
}

/// Loads the windows of this CPU from the vCPU's state.
pub fn load(domain: &Domain<Machine>, vcpu: &Vcpu) {
    let cpu = this_cpu().id();
    let (gdt, ldt) = (gdt_window(cpu), ldt_window(cpu));
    for (n, frame) in vcpu.pv.gdt_frames.iter().enumerate().take(RESERVED_GDT_PAGE) {
        set_window(gdt + (n * PAGE_SIZE) as u64, frame.load(Ordering::Relaxed));
    }
    for (n, frame) in hv().ldt_frames(domain, vcpu).iter().enumerate() {
        set_window(ldt + (n * PAGE_SIZE) as u64, frame.0);
    }
    load_ldtr(gdt, ldt, vcpu.pv.ldt_entries.load(Ordering::Relaxed));
}

/// Empties the windows of this CPU, which runs no vCPU.
pub fn unload() {
    let cpu = this_cpu().id();
    let (gdt, ldt) = (gdt_window(cpu), ldt_window(cpu));
    let pages = (0..RESERVED_GDT_PAGE).map(|n| gdt + (n * PAGE_SIZE) as u64);
    let pages = pages.chain((0..LDT_FRAMES).map(|n| ldt + (n * PAGE_SIZE) as u64));
    pages.for_each(|va| set_window(va, 0));
    load_ldtr(gdt, ldt, 0);
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
    let pv = &guest.vcpu.pv;
    let offset = va - ldt_window(this_cpu().id());
    let base = GuestVirt(pv.ldt_base.load(Ordering::Relaxed));
    let own = base.add(offset);
    guest
        .hv
        .set_ldt(guest.domain, guest.vcpu, base, pv.ldt_entries.load(Ordering::Relaxed))
        .map_err(|_| own)?;
    load(guest.domain, guest.vcpu);
    let page = (offset / PAGE_SIZE as u64) as usize;
    if guest.hv.ldt_frames(guest.domain, guest.vcpu)[page].0 == 0 { Err(own) } else { Ok(()) }
}

/// Whether an address lies in this CPU's LDT window.
pub fn in_ldt_window(va: u64) -> bool {
    let start = ldt_window(this_cpu().id());
    (start..start + LDT_WINDOW).contains(&va)
}
