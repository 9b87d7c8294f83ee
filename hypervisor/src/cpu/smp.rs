//! The other CPUs: their areas, their start, and what CPUs ask of each other.
//!
//! A TLB flush is asked for in the target's [`PerCpu::flushes`]. While waiting, a CPU serves requests made to itself, so two CPUs that
//! flush each other with interrupts off do not wait for ever. No lock is involved.
//!
//! Work is raised as bits of a word. Who finds it empty interrupts the CPU; who does not need not: the CPU has not looked yet, or has just
//! been interrupted for what it will find there.

use super::percpu::{self, GUARD_PAGES, PerCpu, cpu, this_cpu};
use super::{
    apic, descriptors, features, flush_caches, flush_tlb_global, fpu, init_control_registers, isolation, msr,
    stub,
};
use crate::dev::{clock, power};
use crate::mm::layout::{CPU_AREA, CPU_AREAS, DIRECT_MAP};
use crate::mm::tables::{self, DATA, NoTable};
use crate::mm::{direct, early};
use crate::trap::entry::enter_guest;
use crate::{info, pv};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hypervisor_core::cpumask::{AtomicCpuMask, CpuMask, MAX_CPUS};
use hypervisor_core::ids::CpuId;
use hypervisor_core::platform::{Flush, Work};
use x86_64::instructions::interrupts::without_interrupts;

/// CPUs that take part in everything.
pub static ONLINE: AtomicCpuMask = AtomicCpuMask::new();
/// Page below 1 MiB at which the others start.
const TRAMPOLINE_PAGE: u8 = 0x08;
/// How long a CPU may take from its start-up interrupt to its first words.
const START_TIMEOUT_US: u64 = 200_000;

/// CPUs that are to flush their caches with the next TLB flush that they are asked for.
static CACHES: AtomicCpuMask = AtomicCpuMask::new();
/// Number of no CPU.
const NO_ENDER: u32 = u32::MAX;
/// The CPU that ends the machine, set before it stops the others: by it they tell its NMI from one of the platform.
static ENDER: AtomicU32 = AtomicU32::new(NO_ENDER);
/// CPUs that were stopped for that.
static STOPPED: AtomicCpuMask = AtomicCpuMask::new();
/// How long a CPU may take to stop.
const STOP_TIMEOUT_US: u64 = 1_000_000;

/// Number of the grace period that began last.
static GRACE: AtomicU64 = AtomicU64::new(0);

/// Top of the stack for the CPU that is being started.
#[unsafe(no_mangle)]
static ap_stack: AtomicU64 = AtomicU64::new(0);
static STARTING: AtomicU32 = AtomicU32::new(0);

/// Maps the area and the descriptor windows of a CPU. The boot CPU's area is in the image and mapped a second time.
///
/// # Safety
/// Once for each CPU, before it runs; `existing` is the machine address of the boot CPU's area.
pub unsafe fn map_area(id: CpuId, existing: Option<u64>) -> Result<(), NoTable> {
    let base = CPU_AREAS + u64::from(id.0) * CPU_AREA;
    for offset in (0..CPU_AREA).step_by(4096) {
        let frame = match existing {
            Some(addr) => hypervisor_core::ids::MachineAddr(addr + offset).mfn(),
            None if GUARD_PAGES.contains(&offset) => continue,
            None => early::table_frame().ok_or(NoTable)?,
        };
        let mapped = (!GUARD_PAGES.contains(&offset)).then_some((frame, DATA));
        // SAFETY: this CPU's area, where nothing was; the frames are fresh, or the boot CPU's own area.
        unsafe { tables::map_page(base + offset, mapped) }?;
    }
    let page = early::table_frame().ok_or(NoTable)?;
    for (n, word) in descriptors::reserved_gdt_page(id).enumerate() {
        // SAFETY: a fresh frame of this function's own.
        unsafe { ((direct(page.addr()) + n as u64 * 8) as *mut u64).write(word) };
    }
    let gdt = descriptors::gdt_window(id);
    // SAFETY: the page of this CPU's window that is the hypervisor's, where nothing was; the frame is fresh.
    unsafe { tables::map_page(gdt + descriptors::RESERVED_GDT_PAGE as u64 * 4096, Some((page, DATA))) }
}

/// What each CPU does for itself before it can run anything.
///
/// # Safety
/// Once per CPU, on that CPU, on the stack of its area.
pub unsafe fn init_this_cpu(id: CpuId, smep: bool, smap: bool) -> Result<(), NoTable> {
    let this = this_cpu();
    this.id.store(id.0, Ordering::Relaxed);
    this.vcpu_info.store(pv::NO_VCPU_INFO.as_ptr_mut(), Ordering::Relaxed);
    // SAFETY: as the caller promises.
    unsafe {
        descriptors::load(id);
        init_control_registers(smep, smap);
        // Write-back, write-through, UC-, UC, write-combining, write-protected, UC, UC: the layout guests are promised.
        msr::write(msr::PAT, 0x0000_0501_0007_0406);
        if features().rdtscp {
            msr::write(msr::TSC_AUX, 0);
        }
        stub::install(id)?;
    }
    fpu::init();
    apic::init(id == CpuId(0));
    this.apic_id.store(apic::id(), Ordering::Relaxed);
    Ok(())
}

/// Starts the CPUs with these APIC identifiers, one after another; answers how many came up.
pub fn start_others(apic_ids: &[u32]) -> usize {
    copy_trampoline();
    let mut up = 0;
    for (n, apic_id) in apic_ids.iter().enumerate().take(MAX_CPUS).skip(1) {
        let id = CpuId(n as u32);
        // SAFETY: each number comes once, and its CPU is started afterwards.
        if unsafe { map_area(id, None) }.is_err() {
            info!("CPU {n}: no memory for its area, left off");
            break;
        }
        if start(id, *apic_id) {
            clock::compare_with(id);
            // It takes part in everything before the next one is looked at.
            while !ONLINE.contains(id) {
                core::hint::spin_loop();
            }
            up += 1;
        } else {
            // It must not arrive later, on the stack of another one.
            apic::send_init(*apic_id);
            info!("CPU {n} (APIC {apic_id:#x}) did not start, left off");
        }
    }
    clock::end_comparisons();
    up
}

fn copy_trampoline() {
    unsafe extern "C" {
        static trampoline_start: u8;
        static trampoline_end: u8;
    }
    let to = (DIRECT_MAP + u64::from(TRAMPOLINE_PAGE) * 4096) as *mut u8;
    // SAFETY: the boot code keeps this page of low memory out of every allocator.
    unsafe {
        let start = &raw const trampoline_start;
        let len = (&raw const trampoline_end).offset_from_unsigned(start);
        core::ptr::copy_nonoverlapping(start, to, len);
    }
}

fn wait_us(us: u64, until: impl Fn() -> bool) -> bool {
    let end = clock::now().0 + us * 1000;
    while clock::now().0 < end {
        if until() {
            return true;
        }
        core::hint::spin_loop();
    }
    until()
}

fn start(id: CpuId, apic_id: u32) -> bool {
    STARTING.store(id.0, Ordering::SeqCst);
    ap_stack.store(percpu::stack_top(id), Ordering::SeqCst);
    let here = || cpu(id).online.load(Ordering::SeqCst) != 0;
    apic::send_init(apic_id);
    wait_us(200, || false);
    // The second start-up interrupt is for CPUs that missed the first (MP specification 1.4, B.4).
    (0..2).any(|_| {
        apic::send_startup(apic_id, TRAMPOLINE_PAGE);
        wait_us(START_TIMEOUT_US, here)
    })
}

/// Where another CPU arrives from the trampoline, on the stack of its area.
#[unsafe(no_mangle)]
extern "C" fn ap_start() -> ! {
    let id = CpuId(STARTING.load(Ordering::SeqCst));
    let hv = crate::machine::hv();
    // SAFETY: this CPU's own start, once.
    if unsafe { init_this_cpu(id, hv.options.smep, hv.options.smap) }.is_err() {
        crate::dev::power::halt();
    }
    this_cpu().online.store(1, Ordering::SeqCst);
    clock::await_comparison(id);
    ONLINE.insert(id);
    run()
}

/// Runs guests on this CPU from now on.
pub fn run() -> ! {
    this_cpu().work.raise(Work::RESCHEDULE);
    pv::switch::first_schedule();
    // SAFETY: the scheduler loaded a vCPU's registers there.
    unsafe { enter_guest(percpu::guest_regs()) }
}

/// Raises work on a CPU.
pub fn raise_work(id: CpuId, work: Work) {
    let this = this_cpu();
    if id == this.id() {
        this.work.raise(work);
        return;
    }
    let target = cpu(id);
    if target.work.raise(work) {
        apic::send(target.apic_id.load(Ordering::Relaxed), apic::KICK_VECTOR);
    }
}

/// Begins a grace period (see `Platform::begin_grace`) and answers its number.
pub fn begin_grace() -> u64 {
    let grace = GRACE.fetch_add(1, Ordering::SeqCst) + 1;
    ONLINE.load().iter().for_each(|id| raise_work(id, Work::QUIESCE));
    grace
}

/// Whether all CPUs were quiescent since this grace period began.
pub fn grace_is_over(grace: u64) -> bool {
    ONLINE.load().iter().all(|id| cpu(id).quiescent.load(Ordering::SeqCst) >= grace)
}

/// This CPU has nothing in progress that began before `work`: `let_go` takes away what it merely keeps.
pub fn quiesce(this: &PerCpu, let_go: impl FnOnce()) {
    let grace = GRACE.load(Ordering::SeqCst);
    let_go();
    this.quiescent.store(grace, Ordering::SeqCst);
}

/// Does what others asked this CPU to flush.
pub fn serve_flushes(this: &PerCpu) {
    // An interrupt between the load and the store would serve a later request, and the store would take that back.
    without_interrupts(|| {
        this.flushes.serve(|what| {
            flush_tlb_local(what);
            if CACHES.contains(this.id()) {
                // Before the flush: who asks during it wants another one.
                CACHES.remove(this.id());
                flush_caches();
            }
        });
    });
}

/// Flushes this CPU's TLB.
pub fn flush_tlb_local(what: Flush) {
    match what {
        Flush::All => flush_tlb_global(),
        Flush::Page(va) => {
            isolation::forget_changed(this_cpu(), va.0);
            tables::flush_page_local(va.0);
        }
    }
}

/// Flushes the TLBs of other CPUs, and returns when they have done so.
pub fn flush_others(targets: &CpuMask, what: Flush) {
    let this = this_cpu();
    let mut waits: [u64; MAX_CPUS] = [0; MAX_CPUS];
    let others = || targets.iter().filter(|id| *id != this.id());
    for id in others() {
        let target = cpu(id);
        waits[id.0 as usize] = target.flushes.ask(what);
        apic::send(target.apic_id.load(Ordering::Relaxed), apic::FLUSH_VECTOR);
    }
    for id in others() {
        let wanted = waits[id.0 as usize];
        while !cpu(id).flushes.is_done(wanted) {
            serve_flushes(this);
            core::hint::spin_loop();
        }
    }
}

/// Writes back and invalidates the caches of other CPUs, and returns when they have done so.
pub fn flush_other_caches(targets: &CpuMask) {
    let this = this_cpu().id();
    targets.iter().filter(|id| *id != this).for_each(|id| CACHES.insert(id));
    flush_others(targets, Flush::All);
}

/// Stops all other CPUs: the machine is about to end or has failed. They stop where they are, with what locks they hold. Of several
/// CPUs that call this one returns, as often as it calls; the others stop here.
///
/// The NMI reaches a CPU that runs with interrupts off; an INIT would reset the machine where it reaches the boot CPU.
pub fn stop_others() {
    let this = this_cpu().id();
    match ENDER.compare_exchange(NO_ENDER, this.0, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {}
        Err(ender) if ender == this.0 => return,
        Err(_) => power::halt(),
    }
    let online = ONLINE.load();
    let others = || online.iter().filter(|id| *id != this);
    others().for_each(|id| apic::send_nmi(cpu(id).apic_id.load(Ordering::Relaxed)));
    if others().next().is_some() {
        // One that cannot be reached must not keep the message from being printed.
        wait_us(STOP_TIMEOUT_US, || others().all(|id| STOPPED.contains(id)));
    }
}

/// For the NMI handler: stops this CPU for good if another one ends the machine.
pub fn stop_if_asked() {
    let (ender, this) = (ENDER.load(Ordering::SeqCst), this_cpu().id());
    if ender != NO_ENDER && ender != this.0 {
        STOPPED.insert(this);
        power::halt();
    }
}
