//! Page-table isolation: ring 3 runs without the hypervisor's memory in its address space (Meltdown, XSA-254).
//!
//! Each CPU has two level-4 tables of its own, one that copies the loaded vCPU's kernel root and one for its user root. They have
//! the guest's entries, and of the hypervisor only what the processor and the first instructions of an entry touch: the code of
//! `trap/entry.S`, the IDT, this CPU's area (stacks, TSS, `PerCpu`), its descriptor windows and its `syscall` stub. `entry.S` loads
//! the guest's own root, which maps everything, before it calls Rust, and a copy before it leaves. What stays in reach is what Xen
//! leaves there, too: a CPU's stack may hold words of earlier work.
//!
//! # Invariants
//!
//! 1. A copy is a cache of level-4 entries, like those that a processor has: it may lag behind the guest's table only as long as a
//!    TLB may. Every flush of a CPU's whole TLB forgets its copies ([`forget`]), that of a page those that lag behind for it
//!    ([`forget_changed`]), and the next way to the guest copies anew. The core already flushes a CPU before a table that it may
//!    remember changes its use.
//! 2. A processor caches no entry that is not present, and a fault makes it look at the tables again, so a guest need not flush when
//!    it adds an entry or a right. A page fault whose level-4 entry is another one in the guest's table than in the copy is
//!    therefore no fault of the guest's: [`is_stale`] forgets the copies and the instruction runs again.
//! 3. `PerCpu::guest_cr3` is the copy that was loaded last, or that is about to be loaded with interrupts off. An entry from ring 0
//!    whose CR3 is that one comes from the few instructions between the load and `iretq`, or from the first of an entry.
//!
//! A linear level-4 entry (`pv-linear-pt`) leads from a copy to the guest's own root and so to everything: the two do not go together.

use super::percpu::{PerCpu, cpu, percpu_area, this_cpu};
use super::{descriptors, smp};
use crate::mm::layout::{CPU_AREA, HYPERVISOR_START};
use crate::mm::tables::{self, NoTable};
use crate::mm::{early, frame_words};
use crate::{cpu, info};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use hypervisor_core::cpu_policy::side_channels::{Barriers, Mitigations};
use hypervisor_core::cpumask::CpuMask;
use hypervisor_core::ids::{CpuId, MachineAddr, Mfn};
use spin::Once;

/// [`PerCpu::isolated`]: the loaded vCPU runs on a copy of its root.
pub const ISOLATED: u32 = 1 << 0;
/// [`PerCpu::isolated`]: VERW is executed on each way to the guest.
pub const VERW: u32 = 1 << 1;

static MITIGATIONS: Once<Mitigations> = Once::new();

/// A level-4 table that copies a guest's.
#[repr(C)]
pub struct Copy {
    /// Its machine address; 0 before [`prepare`].
    root: AtomicU64,
    /// CR3 of the table that it copies; 0 for none.
    of: AtomicU64,
}

/// Keeps what was decided; before the first CPU gets its `syscall` stubs.
pub fn choose(mitigations: Mitigations) {
    MITIGATIONS.call_once(|| mitigations);
}

/// What was decided.
pub fn mitigations() -> &'static Mitigations {
    MITIGATIONS.get().unwrap_or(&Mitigations::NONE)
}

/// Whether entries and exits have anything to do beside the usual, for some domain.
pub fn in_use() -> bool {
    mitigations().isolates_any() || mitigations().verw
}

/// [`PerCpu::isolated`] for a vCPU of this kind of domain.
pub fn flags(first_domain: bool) -> u32 {
    let m = mitigations();
    let isolated = if m.isolates(first_domain) { ISOLATED } else { 0 };
    isolated | if m.verw { VERW } else { 0 }
}

/// Makes the copies of each CPU. Afterwards none of the hypervisor's pages that they share may move.
///
/// # Errors
/// No frame for a table.
pub fn prepare(cpus: &CpuMask) -> Result<(), NoTable> {
    if !mitigations().isolates_any() {
        return Ok(());
    }
    let mut pages = 0;
    for id in cpus.iter() {
        let roots = [early::table_frame().ok_or(NoTable)?, early::table_frame().ok_or(NoTable)?];
        share_with(id, roots[0])?;
        // SAFETY: fresh frames for tables.
        let [first, second] = roots.map(|root| unsafe { frame_words(root) });
        second.iter().zip(first).for_each(|(to, from)| to.store(from.load(Relaxed), Relaxed));
        for (copy, root) in cpu(id).copies.iter().zip(roots) {
            copy.root.store(root.addr().0, Relaxed);
        }
        pages = tables::pages_in_slots(roots[0]);
    }
    info!("page-table isolation: {pages} pages of the hypervisor stay in reach of ring 3 on each CPU");
    Ok(())
}

/// Puts into the tables below `root` what ring 3 and the first instructions of an entry need on this CPU.
fn share_with(id: CpuId, root: Mfn) -> Result<(), NoTable> {
    unsafe extern "C" {
        static entry_text_start: u8;
        static entry_text_end: u8;
    }
    let (text, end) = (&raw const entry_text_start as u64, &raw const entry_text_end as u64);
    let area = percpu_area(id);
    let pages = (text..end).step_by(4096).chain([descriptors::idt_address(), super::stub::page(id)]);
    for va in pages.chain((area..area + CPU_AREA).step_by(4096)) {
        tables::share_page(root, va)?;
    }
    // All of the windows' table, which is this CPU's alone: its entries change with the vCPU.
    tables::share_table(root, descriptors::gdt_window(id), 1)
}

/// Forgets the copies of this CPU: the next way to a guest makes them anew.
pub fn forget(this: &PerCpu) {
    this.copies.iter().for_each(|copy| copy.of.store(0, Relaxed));
}

/// A page is flushed: copies are forgotten whose level-4 entry for it is not the table's any more.
pub fn forget_changed(this: &PerCpu, va: u64) {
    for copy in &this.copies {
        let of = copy.of.load(Relaxed);
        if of != 0 && differs(of, copy.root.load(Relaxed), va) {
            copy.of.store(0, Relaxed);
        }
    }
}

/// Whether two level-4 tables have different entries for an address that is not in the slots of the hypervisor alone.
fn differs(table: u64, copy: u64, va: u64) -> bool {
    const ACCESSED: u64 = 1 << 5;
    let index = (va >> 39 & 511) as usize;
    if (257..272).contains(&index) {
        return false;
    }
    // SAFETY: RAM that was a root when it was copied, and a table of a CPU's own: words of any content, which are compared only.
    let [table, copy] = [table, copy].map(|root| unsafe { frame_words(MachineAddr(root).mfn()) });
    (table[index].load(Relaxed) ^ copy[index].load(Relaxed)) & !ACCESSED != 0
}

fn read_cr3() -> u64 {
    let cr3: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) cr3, options(nomem, nostack, preserves_flags)) };
    cr3
}

/// From `entry.S`, with interrupts off, on the way to an isolated vCPU: answers what to load into CR3.
#[unsafe(no_mangle)]
extern "sysv64" fn isolated_root() -> u64 {
    let this = this_cpu();
    let full = read_cr3();
    let kernel = this.current().is_some_and(|current| current.vcpu().pv.kernel_mode.load(Relaxed) != 0);
    let copy = &this.copies[usize::from(kernel)];
    let root = copy.root.load(Relaxed);
    if copy.of.load(Relaxed) != full {
        copy_entries(MachineAddr(full).mfn(), MachineAddr(root).mfn());
        copy.of.store(full, Relaxed);
    }
    this.full_cr3.store(full, Relaxed);
    this.guest_cr3.store(root, Relaxed);
    root
}

/// The level-4 entries that are not the hypervisor's, and that of the machine-to-physical table, which the guest's table decides about.
fn copy_entries(from: Mfn, to: Mfn) {
    // SAFETY: the loaded vCPU's root, whose type the vCPU holds, and a table of this CPU's own.
    let [from, to] = [from, to].map(|frame| unsafe { frame_words(frame) });
    for part in [0..257, 272..512] {
        let (to, from) = (&to[part.clone()], &from[part]);
        // SAFETY: as many words as both slices have, whole ones. Another CPU may change those of the guest's table meanwhile, as the
        // first invariant lets it; those of the copy are this CPU's alone.
        unsafe {
            asm!("rep movsq", inout("rcx") to.len() => _, inout("rdi") to.as_ptr() => _, inout("rsi") from.as_ptr() => _,
                options(nostack, preserves_flags));
        }
    }
}

/// Whether a page fault at `address` is the copy's fault and not the guest's: then the copies are forgotten, and the instruction is to run
/// again.
pub fn is_stale(this: &PerCpu, address: u64) -> bool {
    let isolated = this.isolated() & ISOLATED != 0;
    let stale = isolated && differs(read_cr3(), this.guest_cr3.load(Relaxed), address);
    if stale {
        forget(this);
    }
    stale
}

/// The CPU changes from one domain to another.
pub fn domain_changed() {
    const PRED_CMD: u32 = 0x49;
    let m = mitigations();
    if m.ibpb || m.ibpb_missing {
        this_cpu().barriers[0].fetch_add(1, Relaxed);
    }
    if m.ibpb {
        // SAFETY: the processor has the register; the barrier has no effect but on predictors.
        unsafe { cpu::msr::write(PRED_CMD, 1) };
    }
}

/// How often all CPUs together came to where the barriers are.
pub fn barriers() -> Barriers {
    let sum = |which: usize| smp::ONLINE.load().iter().map(|id| cpu(id).barriers[which].load(Relaxed)).sum();
    Barriers { mitigations: *mitigations(), ibpb: sum(0), verw: sum(1) }
}

/// One line for the log.
pub fn report() {
    let m = mitigations();
    let on = |on: bool| if on { "on" } else { "off" };
    info!(
        "page-table isolation: dom0 {}, others {}; L1TF: dom0 {}, others {}; IBPB {}; VERW {}",
        on(m.isolate_dom0),
        on(m.isolate_domu),
        on(m.l1tf_dom0),
        on(m.l1tf_domu),
        if m.ibpb_missing { "not there" } else { on(m.ibpb) },
        on(m.verw),
    );
}

const _: () = assert!(HYPERVISOR_START >> 39 & 511 == 256, "the slots that copies leave out");
