//! Several CPUs: as many as the domain has, at most four.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64};
use core::time::Duration;

use guest_pv_lib::events::{self, Channel, Port};
use guest_pv_lib::mmu::{Flush, Mfn, Pte, update_va_mapping};
use guest_pv_lib::smp::{self, Cpu, CpuSet, State, Storage, tlb};
use guest_pv_lib::sync::PvMutex;
use guest_pv_lib::{BootContext, Errno, println, sched, time};
use xen_abi::xen::DOMID_SELF;

use crate::{Step, check, ok};

const MOST: u32 = 4;

static STORAGE: [Storage<{ 32 << 10 }>; MOST as usize - 1] = [const { Storage::new() }; MOST as usize - 1];
static STOP: AtomicBool = AtomicBool::new(false);

/// What the other CPUs run: events, and now and then what [`each`] asks for.
fn main(this: &'static Cpu) -> ! {
    events::unmask_upcalls();
    while !STOP.load(SeqCst) {
        if let Some(work) = work(this) {
            work(this);
            DONE.fetch_add(1, SeqCst);
        }
        sched::wait(None);
    }
    smp::stop()
}

/// What each CPU is to do outside an upcall; null or a `fn(&Cpu)`.
static WORK: [AtomicPtr<()>; MOST as usize] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MOST as usize];
static DONE: AtomicU32 = AtomicU32::new(0);

fn work(this: &Cpu) -> Option<fn(&'static Cpu)> {
    let work = WORK[this.number() as usize].swap(core::ptr::null_mut(), SeqCst);
    // SAFETY: null is `None`; anything else `each` put there.
    unsafe { core::mem::transmute::<*mut (), Option<fn(&'static Cpu)>>(work) }
}

/// Lets all CPUs do `work` at the same time, outside upcalls, and waits for them.
pub fn each(work: fn(&'static Cpu)) {
    DONE.store(0, SeqCst);
    let others = smp::online().count() as u32 - 1;
    for cpu in smp::online().skip(1) {
        WORK[cpu.number() as usize].store(work as *mut (), SeqCst);
        smp::wake(cpu.number());
    }
    work(smp::this_cpu());
    while DONE.load(SeqCst) != others {
        sched::yield_now();
    }
}

/// Waits until `condition` holds; false where it takes too long.
pub fn soon(condition: impl Fn() -> bool) -> bool {
    let end = time::now() + 10_000_000_000;
    while !condition() {
        if time::now() > end {
            return false;
        }
        sched::yield_now();
    }
    true
}

pub fn start(boot: &BootContext) -> Step {
    events::unmask_upcalls();
    let mut cpus = 1;
    for (number, storage) in (1..).zip(&STORAGE) {
        if smp::is_up(number).is_err() {
            break;
        }
        // SAFETY: the root table is the one the domain started with; nothing here uses GS.
        let cpu = ok(unsafe { smp::start(boot, number, storage, None, main) }, "start")?;
        check(soon(|| cpu.state() == State::Online), "a CPU did not come up")?;
        check(smp::is_up(number) == Ok(true), "a CPU that runs is not up")?;
        // SAFETY: refused.
        let again = unsafe { smp::start(boot, number, storage, None, main) };
        check(again.err() == Some(Errno::EEXIST), "a CPU was started twice")?;
        cpus += 1;
    }
    check(smp::online().count() == cpus, "another number of CPUs is online")?;
    // SAFETY: refused.
    let beyond = unsafe { smp::start(boot, 500, &STORAGE[0], None, main) };
    check(beyond.err() == Some(Errno::ENOENT), "a CPU that does not exist was started")?;
    println!("start: {cpus} CPUs");
    Ok(())
}

static RAN: AtomicU64 = AtomicU64::new(0);

fn call_all(this: &'static Cpu) {
    for _ in 0..50 {
        smp::run_on(&CpuSet::online(), &|cpu| {
            RAN.fetch_add(1 << (16 * cpu.number()), SeqCst);
        });
    }
    // A borrow of this stack, from other CPUs.
    let seen = AtomicU32::new(0);
    smp::run_on(&CpuSet::others(), &|cpu| {
        seen.fetch_or(1 << cpu.number(), SeqCst);
    });
    let all = smp::online().fold(0, |bits, cpu| bits | 1 << cpu.number());
    assert_eq!(seen.load(SeqCst) | 1 << this.number(), all);
}

pub fn calls(_: &BootContext) -> Step {
    each(call_all);
    let cpus = smp::online().count() as u64;
    let ran = RAN.load(SeqCst);
    let exact = (0..cpus).all(|number| ran >> (16 * number) & 0xffff == 50 * cpus);
    check(exact, "a call did not run exactly once on each CPU")?;
    println!("calls: every CPU on every CPU at the same time, each exactly once");
    Ok(())
}

static FIRED: AtomicU32 = AtomicU32::new(0);

fn note(_: Port) {
    FIRED.fetch_or(1 << smp::this_cpu().number(), SeqCst);
}

pub fn events(_: &BootContext) -> Step {
    for cpu in smp::online() {
        let (number, only) = (cpu.number(), 1 << cpu.number());
        let ipi = ok(Channel::bind_ipi(number), "bind_ipi")?;
        ipi.set_handler(note);
        FIRED.store(0, SeqCst);
        ipi.notify();
        check(soon(|| FIRED.load(SeqCst) != 0) && FIRED.load(SeqCst) == only, "an IPI on another CPU")?;
        ipi.mask();
        ipi.notify();
        FIRED.store(0, SeqCst);
        ipi.unmask();
        check(soon(|| FIRED.load(SeqCst) != 0), "unmasking for another CPU lost the event")?;
        check(FIRED.load(SeqCst) == only, "unmasking ran the handler on another CPU")?;

        let here = ok(Channel::alloc_unbound(DOMID_SELF), "alloc_unbound")?;
        let there = ok(Channel::interdomain(DOMID_SELF, here.port()), "interdomain")?;
        here.set_handler(note);
        ok(here.move_to(number), "bind_vcpu")?;
        FIRED.store(0, SeqCst);
        there.notify();
        check(soon(|| FIRED.load(SeqCst) != 0) && FIRED.load(SeqCst) == only, "a channel did not move")?;
    }
    println!("events: to every CPU by IPI, after unmasking, and by a channel that moved there");
    Ok(())
}

static SLEPT: AtomicU32 = AtomicU32::new(0);

fn look_at_clock(_: &'static Cpu) {
    for _ in 0..3 {
        let (before, limit) = (time::now(), Duration::from_millis(2));
        while time::now() < before + 2_000_000 {
            sched::wait(Some(limit));
        }
        // A second, for clocks of an emulator that are not quite alike.
        if time::now() - before < 5_000_000_000 {
            SLEPT.fetch_add(1, SeqCst);
        }
    }
}

pub fn clocks(_: &BootContext) -> Step {
    each(look_at_clock);
    check(SLEPT.load(SeqCst) == 3 * smp::online().count() as u32, "a sleep of 2 ms took seconds")?;
    println!("clocks: every CPU has one, and sleeps by it");
    Ok(())
}

/// A page of its own, for a mapping that changes.
#[repr(C, align(4096))]
struct Page([AtomicU64; 512]);

static PAGES: [Page; 3] = [const { Page([const { AtomicU64::new(0) }; 512]) }; 3];

/// Maps one page over with another one's frame while every CPU has the old translation, and flushes in three ways.
pub fn translations(boot: &BootContext) -> Step {
    let address = |page: usize| &raw const PAGES[page] as u64;
    let frame = |page: usize| boot.p2m().mfn(boot.pfn_of(address(page))).ok_or("no frame");
    let frames = [frame(1)?, frame(2)?];
    for (page, word) in [(1, 100), (2, 200)] {
        PAGES[page].0[0].store(word, SeqCst);
    }
    let everyone = CpuSet::online();
    let flushes: [fn(&CpuSet, u64); 4] = [
        |set, page| tlb::flush_on(set, tlb::What::Page(page)),
        |_, page| tlb::flush_everywhere(tlb::What::Page(page)),
        |set, _| tlb::flush_on(set, tlb::What::All),
        |_, _| tlb::flush_everywhere(tlb::What::All),
    ];
    for (round, flush) in flushes.into_iter().enumerate() {
        // SAFETY: the page has atomics only, and so have the frames that come under it; all are this kernel's.
        ok(unsafe { map(address(0), frames[round % 2]) }, "update_va_mapping")?;
        flush(&everyone, address(0));
        let (expected, wrong) = ([100, 200][round % 2], AtomicU32::new(0));
        smp::run_on(&everyone, &|_| {
            if core::hint::black_box(&PAGES[0]).0[0].load(SeqCst) != expected {
                wrong.fetch_add(1, SeqCst);
            }
        });
        check(wrong.load(SeqCst) == 0, "a CPU kept an old translation")?;
    }
    println!("translations: flushed on every CPU, of a page and all");
    Ok(())
}

/// # Safety
///
/// As for `update_va_mapping`.
unsafe fn map(address: u64, frame: Mfn) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { update_va_mapping(address, Pte::data(frame), Flush::None) }
}

const ROUNDS: u64 = 2000;

static PLAIN: PvMutex<u64> = PvMutex::new(0);
static IN_UPCALL: PvMutex<u64> = PvMutex::new(0);
static IPIS: [AtomicU32; MOST as usize] = [const { AtomicU32::new(0) }; MOST as usize];

/// Takes a lock, while upcalls on the same CPU take another one.
fn count(this: &'static Cpu) {
    let next = (this.number() + 1) % smp::online().count() as u32;
    for round in 0..ROUNDS {
        *PLAIN.lock() += 1;
        if round % 16 == 0 {
            let _ = events::notify(Port(IPIS[next as usize].load(Relaxed)));
        }
        if round % 64 == 0 {
            // So that others find the lock taken by a CPU that does not run.
            let guard = PLAIN.lock();
            sched::yield_now();
            drop(guard);
        }
    }
}

pub fn locks(_: &BootContext) -> Step {
    // As many as there can be.
    let mut channels = [const { None::<Channel> }; MOST as usize];
    for (cpu, slot) in smp::online().zip(&mut channels) {
        let channel = ok(Channel::bind_ipi(cpu.number()), "bind_ipi")?;
        channel.set_handler(|_| {
            let mut guard = IN_UPCALL.lock();
            *guard += 1;
            if guard.is_multiple_of(8) {
                sched::yield_now();
            }
        });
        IPIS[cpu.number() as usize].store(channel.number(), Relaxed);
        *slot = Some(channel);
    }
    each(count);
    check(*PLAIN.lock() == ROUNDS * smp::online().count() as u64, "two CPUs were in one lock")?;
    check(soon(|| *events::without_upcalls(|| IN_UPCALL.lock()) != 0), "no upcall took its lock")?;
    println!("locks: every CPU {ROUNDS} times, upcalls in between");
    Ok(())
}

pub fn stop(_: &BootContext) -> Step {
    STOP.store(true, SeqCst);
    let set = CpuSet::others();
    for number in (1..MOST).filter(|&number| set.contains(number)) {
        smp::wake(number);
        check(soon(|| smp::is_up(number) == Ok(false)), "a CPU did not go down")?;
    }
    check(smp::online().count() == 1, "a CPU that went down is online")?;
    smp::run_on(&CpuSet::online(), &|_| ());
    println!("stop: one CPU is left");
    Ok(())
}
