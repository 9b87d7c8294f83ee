//! Which vCPU's context a CPU has loaded, and how it changes.
//!
//! The registers of the loaded vCPU are in the CPU's register frame (`percpu::guest_regs`), its segment bases, FPU, debug
//! registers and page tables in the CPU itself. A CPU with nothing to run keeps what is loaded and halts; only when another vCPU is
//! chosen is the old context saved. Then the scheduler is told, and the old vCPU may run elsewhere.

use super::{NO_VCPU_INFO, debug, descriptors, segments};
use crate::cpu::percpu::{PerCpu, guest_regs, this_cpu};
use crate::cpu::{self, fpu, isolation, smp};
use crate::machine::{Hv, Machine, Vcpu, hv};
use crate::mm::{direct, tables};
use crate::trap::nmi;
use core::sync::atomic::Ordering;
use hypervisor_core::domain::{Domain, PvState, VcpuFlags, VcpuRef};
use hypervisor_core::ids::{MachineAddr, Mfn};
use hypervisor_core::platform::Work;
use x86_64::instructions::interrupts;

/// Loads the root of the running vCPU's present mode.
#[inline(always)]
fn load_root(pv: &PvState) {
    match pv.root() {
        // SAFETY: a root that a vCPU has is a validated L4 table, which holds the hypervisor's slots, and keeps its type
        // until the vCPU gives it up.
        Some(root) => unsafe { cpu::write_cr3(root.addr().0) },
        None => end_without_root(),
    }
}

/// The running vCPU has no root for the mode that it is to run in: its domain ends. `reschedule` lets no such vCPU on a CPU,
/// and what changes a mode looks first; so this is a mistake of ours, and does not become the machine's end. The vCPU's
/// other root stays loaded until this CPU chooses anew.
#[cold]
fn end_without_root() {
    // The log's lock is none to wait for with interrupts off (`mm::heap`).
    interrupts::enable();
    if let Some(current) = this_cpu().current() {
        hv().end_rootless(current);
    }
}

/// Loads the address space of the running vCPU's present mode, with nothing of the one before left in the TLB.
pub fn load_page_tables(pv: &PvState) {
    load_root(pv);
    cpu::flush_tlb_global();
}

/// Changes the running vCPU between kernel and user mode: address space and GS base. User pages are global, so they stay in
/// the TLB; kernel pages are not and go.
#[inline(always)]
pub fn toggle_mode(pv: &PvState) {
    let kernel = pv.kernel_mode.load(Ordering::Relaxed) ^ 1;
    pv.kernel_mode.store(kernel, Ordering::Relaxed);
    segments::exchange_gs();
    load_root(pv);
}

/// Changes the address space only, for a look at the kernel's memory while user code runs; to be called twice.
pub fn toggle_tables(pv: &PvState) {
    pv.kernel_mode.store(pv.kernel_mode.load(Ordering::Relaxed) ^ 1, Ordering::Relaxed);
    load_root(pv);
}

/// Points this CPU at the `vcpu_info` of the vCPU that it runs, or at what that has in its place.
pub fn load_vcpu_info(this: &PerCpu, vcpu: &Vcpu) {
    let addr = vcpu.pv.vcpu_info.load(Ordering::Relaxed);
    let at = match addr {
        0 => vcpu.pv.without_info.as_ptr().cast_mut(),
        addr => direct(MachineAddr(addr)) as *mut _,
    };
    this.vcpu_info.store(at, Ordering::Relaxed);
}

/// Does what was raised for this CPU, with interrupts on.
pub fn do_work(hv: &Hv) {
    let this = this_cpu();
    loop {
        let work = this.work.take();
        if work.is_empty() {
            return;
        }
        serve(hv, work);
        if work.contains(Work::RESCHEDULE) {
            reschedule(hv);
        }
    }
}

/// Does all raised work but the choice of a vCPU.
fn serve(hv: &Hv, work: Work) {
    if work.contains(Work::QUIESCE) {
        smp::quiesce(this_cpu(), let_go_of_dying);
    }
    if work.contains(Work::IRQ) {
        hv.deliver_pirqs();
    }
    if work.contains(Work::CONSOLE) {
        hv.console_work();
    }
    if work.contains(Work::TIMER) {
        hv.run_timers();
    }
    if work.contains(Work::PLATFORM_NMI) {
        nmi::judge(hv);
    }
    if work.contains(Work::CONVICTED) {
        hv.end_convicted();
    }
}

/// Chooses the vCPU to run, and waits for one while there is none.
fn reschedule(hv: &Hv) {
    let this = this_cpu();
    loop {
        // What an idle CPU keeps loaded may run elsewhere by now: it is not this CPU's to go on with.
        let running = this.current().filter(|_| this.running.load(Ordering::Relaxed) != 0);
        let next = hv.schedule(running);
        let Some(next) = next else {
            idle(hv);
            continue;
        };
        if let Some(root) = next.vcpu().pv.root() {
            switch_to(hv, next, root);
            return;
        }
        hv.refuse_chosen(&next);
    }
}

/// The first choice on this CPU.
pub fn first_schedule() {
    interrupts::enable();
    do_work(hv());
}

/// Nothing to run: the loaded vCPU is parked, so that another CPU may take it, and this CPU halts until it is to choose
/// again. Everything but the page tables stays loaded, in case the same vCPU comes back. Before it halts, it clears memory of domains
/// that ended.
fn idle(hv: &Hv) {
    park(hv);
    let this = this_cpu();
    loop {
        interrupts::disable();
        let work = this.work.take();
        if work.is_empty() {
            if hv.frames.any_dirty() {
                interrupts::enable();
                hv.scrub_free_frames();
            } else {
                interrupts::enable_and_hlt();
            }
            continue;
        }
        interrupts::enable();
        serve(hv, work);
        if work.contains(Work::RESCHEDULE) {
            return;
        }
    }
}

/// Saves the loaded vCPU, if one is running here, and lets it go.
fn park(hv: &Hv) {
    let this = this_cpu();
    let Some(current) = this.current().filter(|_| this.running.load(Ordering::Relaxed) != 0) else { return };
    save(current.vcpu());
    if !current.vcpu().sched.is_up() {
        // It comes up again from registers that another vCPU gives it.
        current.vcpu().arch.loaded_on.store(u32::MAX, Ordering::Relaxed);
    }
    this.running.store(0, Ordering::Relaxed);
    hv.vcpu_switched(Some(current), None);
}

/// Loads the hypervisor's own root in place of a vCPU's.
pub fn leave_page_tables() {
    // SAFETY: the hypervisor's own root.
    unsafe { cpu::write_cr3(tables::root().addr().0) };
    cpu::flush_tlb_global();
}

/// Gives up what an idle CPU keeps loaded of a vCPU that never runs again. Its page tables went when it was parked.
fn let_go_of_dying() {
    let this = this_cpu();
    let parked = this.running.load(Ordering::Relaxed) == 0;
    if !parked || !this.current().is_some_and(|current| current.domain.is_dying()) {
        return;
    }
    this.vcpu_info.store(NO_VCPU_INFO.as_ptr_mut(), Ordering::Relaxed);
    descriptors::unload();
    // SAFETY: this CPU's own, and the reference above is not used any more.
    drop(unsafe { this.set_current(None) });
    isolation::domain_changed();
}

/// Puts what the CPU has of this vCPU where another CPU can load it from.
fn save(vcpu: &Vcpu) {
    // SAFETY: the frame below PerCpu is this CPU's own, and holds the registers of the loaded vCPU.
    unsafe { core::ptr::copy_nonoverlapping(guest_regs(), &raw mut *vcpu.saved.lock(), 1) };
    segments::save(vcpu);
    // Between two vCPUs XCR0 is all that there is, so that all of it is saved and restored.
    // SAFETY: allowed by its nature.
    unsafe { fpu::change_xcr0(vcpu.arch.xcr0.load(Ordering::Relaxed), fpu::supported_xcr0()) };
    // With CR0.TS set, saving would fault.
    fpu::set_task_switched(false);
    vcpu.arch.fpu.lock().save();
}

/// Runs `next` on this CPU from now on. `root` is the one for its mode.
fn switch_to(hv: &Hv, next: VcpuRef<Machine>, root: Mfn) {
    let this = this_cpu();
    let running = this.running.load(Ordering::Relaxed) != 0;
    let same = this.current().is_some_and(|current| current.is(&next));
    if same && running {
        return;
    }
    if running && let Some(current) = this.current() {
        save(current.vcpu());
    }
    // What an idle CPU kept loaded is still the vCPU's, unless another CPU ran it meanwhile.
    let kept = same && next.vcpu().arch.loaded_on.load(Ordering::Relaxed) == this.id().0;
    // SAFETY: this CPU's own; the references above are not used any more.
    let prev = unsafe { this.set_current(Some(next)) };
    let Some(next) = this.current() else { return };
    let vcpu = next.vcpu();
    vcpu.arch.loaded_on.store(this.id().0, Ordering::Relaxed);
    this.running.store(1, Ordering::Relaxed);
    // Before its entries can be in the TLB: whoever flushes must not miss this CPU.
    next.domain.dirty_cpus.insert(this.id());
    this.set_isolated(isolation::flags(next.domain.privileged));
    // SAFETY: as in `load_root`; a vCPU that is chosen keeps its root.
    unsafe { cpu::write_cr3(root.addr().0) };
    cpu::flush_tlb_global();
    load_vcpu_info(this, vcpu);
    if !kept {
        load(&next.domain, vcpu);
    }
    if vcpu.pv.has_flags(VcpuFlags::NMI_PENDING) {
        this.work.raise(Work::NMI);
    }
    cpu::load_guest_cr4(vcpu.pv.cr4.load(Ordering::Relaxed));
    if cpu::features().rdtscp {
        // SAFETY: the register is the guest's to read.
        unsafe { cpu::msr::write(cpu::msr::TSC_AUX, vcpu.arch.msrs.tsc_aux.load(Ordering::Relaxed).into()) };
    }
    // SAFETY: the guest's value passed the checks of `xsetbv`.
    unsafe { fpu::change_xcr0(fpu::supported_xcr0(), vcpu.arch.xcr0.load(Ordering::Relaxed)) };
    fpu::set_task_switched(vcpu.pv.has_flags(VcpuFlags::TASK_SWITCHED));
    hv.vcpu_switched(prev.as_ref().filter(|_| running), Some(next));
    if let Some(prev) = prev.filter(|prev| prev.domain.id != next.domain.id) {
        isolation::domain_changed();
        prev.domain.dirty_cpus.remove(this.id());
    }
}

/// Loads everything of this vCPU but its page tables.
fn load(domain: &Domain<Machine>, vcpu: &Vcpu) {
    // SAFETY: the frame below PerCpu is this CPU's own; no guest's registers are in use there now.
    unsafe { core::ptr::copy_nonoverlapping(&raw const *vcpu.saved.lock(), guest_regs(), 1) };
    descriptors::load(domain, vcpu);
    let lost = segments::restore(vcpu);
    vcpu.arch.fpu.lock().restore();
    debug::load_all(vcpu);
    if let Some(selectors) = lost {
        // SAFETY: as above.
        super::bounce::failsafe(&super::Guest::current(this_cpu()), unsafe { &mut *guest_regs() }, selectors);
    }
}
