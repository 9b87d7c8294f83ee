//! Changes of page tables: plain stores, through the mapping of physical memory.
//!
//! Nothing is checked but that an entry is memory: the kernel has ring 0 and could store there itself. Pins mean nothing
//! beyond making a root table complete.

use core::ptr;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr, instructions::tlb};
use xen_abi::errno::Errno;
use xen_abi::xen::*;

use super::{PHYSICAL, PHYSICAL_SIZE, builder, error};
use crate::mmu::{Level, Mfn, Pte, index};

/// The word at a physical address.
///
/// # Safety
///
/// `at` must be an aligned address below [`PHYSICAL_SIZE`] of memory that is only accessed in this way, or by the
/// processor as a page table.
pub unsafe fn entry(at: u64) -> &'static AtomicU64 {
    let word = ptr::with_exposed_provenance::<AtomicU64>((PHYSICAL + at) as usize);
    // SAFETY: mapped for ever; the rest is the caller's promise.
    unsafe { &*word }
}

/// # Safety
///
/// As for the hypercall `mmu_update`.
pub unsafe fn mmu_update(list: u64, count: u64, done: u64) -> i64 {
    let list = ptr::with_exposed_provenance::<MmuUpdate>(list as usize);
    // SAFETY: the caller's list, entry by entry.
    let result = unsafe { each(count, |at| update(list.add(at).read())) };
    // SAFETY: as above.
    unsafe { report(result, done) }
}

/// Does one request after the other until one fails.
fn each(count: u64, mut run: impl FnMut(usize) -> i64) -> (i64, u32) {
    for at in 0..count as u32 {
        let result = run(at as usize);
        if result != 0 {
            return (result, at);
        }
    }
    (0, count as u32)
}

/// # Safety
///
/// `at` must be null or the address of a `u32` of the caller's.
unsafe fn report((result, done): (i64, u32), at: u64) -> i64 {
    if at != 0 {
        // SAFETY: the caller's promise.
        unsafe { ptr::with_exposed_provenance_mut::<u32>(at as usize).write(done) };
    }
    result
}

/// # Safety
///
/// What the entry maps must be something that the caller may map.
unsafe fn update(request: MmuUpdate) -> i64 {
    let at = request.ptr & !7;
    if request.ptr & 3 == MMU_MACHPHYS_UPDATE {
        return 0;
    }
    if at >= PHYSICAL_SIZE {
        return error(Errno::EINVAL);
    }
    // SAFETY: memory, and an entry of a table by the caller's promise.
    let entry = unsafe { entry(at) };
    if request.ptr & 3 == MMU_PT_UPDATE_PRESERVE_AD {
        const KEPT: u64 = Pte::ACCESSED | Pte::DIRTY;
        let _ = entry.fetch_update(AcqRel, Relaxed, |old| Some(request.val | (old & KEPT)));
    } else {
        entry.store(request.val, Relaxed);
    }
    0
}

/// # Safety
///
/// As for the hypercall `update_va_mapping`.
pub unsafe fn update_va_mapping(virt: u64, value: u64) -> i64 {
    let mut table = Mfn(Cr3::read().0.start_address().as_u64() >> 12);
    for level in [Level::L4, Level::L3, Level::L2] {
        // SAFETY: tables that the processor uses are memory.
        let next = Pte(unsafe { entry(table.address() + 8 * index(virt, level) as u64) }.load(Relaxed));
        match next.frame().filter(|_| next.0 & Pte::LARGE == 0) {
            Some(below) => table = below,
            None => return error(Errno::EINVAL),
        }
    }
    // SAFETY: as above; what the entry maps is the caller's promise.
    unsafe { entry(table.address() + 8 * index(virt, Level::L1) as u64) }.store(value, Relaxed);
    tlb::flush(VirtAddr::new_truncate(virt));
    0
}

/// # Safety
///
/// As for the hypercall `mmuext_op`.
pub unsafe fn mmuext_op(list: u64, count: u64, done: u64) -> i64 {
    let list = ptr::with_exposed_provenance::<MmuextOp>(list as usize);
    // SAFETY: the caller's list, entry by entry.
    let result = unsafe { each(count, |at| extended(&list.add(at).read())) };
    // SAFETY: as above.
    unsafe { report(result, done) }
}

/// # Safety
///
/// As for [`mmuext_op`].
unsafe fn extended(op: &MmuextOp) -> i64 {
    match op.cmd {
        MMUEXT_PIN_L1_TABLE | MMUEXT_PIN_L2_TABLE | MMUEXT_PIN_L3_TABLE | MMUEXT_UNPIN_TABLE => {}
        // A program runs on the kernel's table, whose kernel half the processor keeps from it.
        MMUEXT_NEW_USER_BASEPTR => {}
        // SAFETY: the caller says that it is a root table.
        MMUEXT_PIN_L4_TABLE => unsafe { builder::complete_root(Mfn(op.arg1)) },
        MMUEXT_NEW_BASEPTR => {
            // SAFETY: as above, and a switch to it is what the caller asks for.
            unsafe {
                builder::complete_root(Mfn(op.arg1));
                let root = PhysFrame::containing_address(PhysAddr::new_truncate(op.arg1 << 12));
                Cr3::write(root, Cr3Flags::empty());
            }
        }
        MMUEXT_TLB_FLUSH_LOCAL | MMUEXT_TLB_FLUSH_MULTI | MMUEXT_TLB_FLUSH_ALL => tlb::flush_all(),
        MMUEXT_INVLPG_LOCAL | MMUEXT_INVLPG_MULTI | MMUEXT_INVLPG_ALL => {
            tlb::flush(VirtAddr::new_truncate(op.arg1));
        }
        // SAFETY: writes caches back; memory stays the same.
        MMUEXT_FLUSH_CACHE | MMUEXT_FLUSH_CACHE_GLOBAL => unsafe {
            core::arch::asm!("wbinvd", options(nostack, preserves_flags));
        },
        // SAFETY: whole frames of the caller's, by its promise.
        MMUEXT_CLEAR_PAGE => unsafe { frame(op.arg1).write_bytes(0, 4096) },
        // SAFETY: as above.
        MMUEXT_COPY_PAGE => unsafe { frame(op.arg1).copy_from(frame(op.arg2), 4096) },
        _ => return error(Errno::ENOSYS),
    }
    0
}

fn frame(number: u64) -> *mut u8 {
    ptr::with_exposed_provenance_mut((PHYSICAL + (number << 12) % PHYSICAL_SIZE) as usize)
}
