//! The first guest: shows each thing that a kernel needs from the hypervisor, prints the same lines on every
//! hypervisor that gets them right, and powers off.
//!
//! With `bench` on the command line it also prints the time stamp counter at its first and at its last instruction, with
//! `module` the beginning of its module; with `crash` it ends by a mistake that nothing but the hypervisor can catch, with
//! `reboot` by asking for a restart.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use guest_pv_lib::events::{self, Port, Virq};
use guest_pv_lib::memory::{self, Region};
use guest_pv_lib::mmu::{self, Flush, Level, Mfn, Pte};
use guest_pv_lib::platform::{self, Kind};
use guest_pv_lib::sched::{self, Shutdown};
use guest_pv_lib::traps::{self, Frame, Vector};
use guest_pv_lib::{BootContext, Errno, println, time, version};
use xen_abi::xen::{MMU_NORMAL_PT_UPDATE, MmuUpdate};

guest_pv_lib::entry!(kernel, name = "hello", version = "1");

/// A step that did not go as it must, and why.
type Step = Result<(), &'static str>;

/// A step's name and its code.
type Named = (&'static str, fn(&BootContext) -> Step);

/// What is shown, in this order.
const STEPS: [Named; 6] = [
    ("interface", interface),
    ("memory map", memory_map),
    ("event upcall", event_upcall),
    ("periodic timer", periodic_timer),
    ("one-shot timer", oneshot_timer),
    ("page tables", page_tables),
];

fn kernel(boot: BootContext) -> ! {
    let bench = boot.has_option("bench");
    if bench {
        println!("first-instruction tsc={}", boot.entry_tsc());
    }
    println!("hello from a paravirtual guest");
    let mut passed = true;
    for (name, step) in STEPS {
        if let Err(why) = step(&boot) {
            println!("{name}: FAILED: {why}");
            passed = false;
        }
    }
    if boot.has_option("module") {
        show_module(&boot);
    }
    println!("{}", if passed { "hello: all steps passed" } else { "hello: some step failed" });
    if bench {
        println!("done tsc={}", time::tsc());
    }
    if boot.has_option("crash") {
        println!("not lost: {}", lose_the_stack(0));
    }
    if boot.has_option("reboot") {
        sched::shutdown(Shutdown::Reboot);
    }
    sched::shutdown(if passed { Shutdown::PowerOff } else { Shutdown::Crash })
}

/// Prints how long the module is, and its first line.
fn show_module(boot: &BootContext) {
    let module = boot.module().unwrap_or_default();
    let line = module.split(|&byte| byte == b'\n').next().and_then(|line| core::str::from_utf8(line).ok());
    println!("module: {} bytes, {:?}", module.len(), line.unwrap_or_default());
}

/// Turns a refused hypercall into the reason of a step.
fn ok<T>(result: Result<T, Errno>, what: &'static str) -> Result<T, &'static str> {
    result.map_err(|error| {
        println!("{what}: {error:?}");
        what
    })
}

fn interface(boot: &BootContext) -> Step {
    if platform::kind() == Kind::Native {
        println!("interface: none, this is the machine itself");
        return Ok(());
    }
    println!("interface: Xen {}", version::version());
    if !ok(version::Capabilities::get(), "capabilities")?.has("xen-3.0-x86_64") {
        return Err("no xen-3.0-x86_64 among the capabilities");
    }
    if !boot.start_info().magic.starts_with(b"xen-3.0-x86_64") {
        return Err("start_info has another magic");
    }
    println!("interface: xen-3.0-x86_64 guest, initial domain: {}", boot.is_initial_domain());
    Ok(())
}

fn memory_map(boot: &BootContext) -> Step {
    let mut buffer = [Region::default(); 128];
    // A domain need not have a map of its own: its memory is what start_info says.
    let regions = match memory::map(&mut buffer) {
        Err(Errno::ENOSYS) if boot.is_initial_domain() => {
            ok(memory::machine_map(&mut buffer), "machine map")?
        }
        Err(Errno::ENOSYS) => {
            // Nobody made a map: the memory is one piece.
            buffer[0] = Region { start: 0, size: boot.pages() * 4096, kind: Region::RAM };
            &buffer[..1]
        }
        map => ok(map, "memory map")?,
    };
    check_regions(regions)?;
    // Under PVH the frames have the holes of a PC's memory among them.
    let holes = if platform::kind() == Kind::Pvh { 256 } else { 0 };
    if boot.pages() <= holes || ok(memory::current_pages(), "current reservation")? < boot.pages() - holes {
        return Err("the reservation is smaller than start_info says");
    }
    check_frames(boot)?;
    println!("memory map: ordered, with RAM; every frame translates both ways");
    Ok(())
}

/// Recurses until the stack runs over, into a page that is not there to take the fault on.
fn lose_the_stack(depth: u64) -> u64 {
    let used = core::hint::black_box([depth; 32]);
    if depth == u64::MAX { depth } else { lose_the_stack(depth + 1) ^ used[7] }
}

/// Regions must be in order, apart, and some of them memory.
fn check_regions(regions: &[Region]) -> Step {
    let (mut end, mut ram) = (0, 0);
    for region in regions {
        if region.start < end {
            return Err("regions overlap or are out of order");
        }
        end = region.end().ok_or("a region does not fit into the address space")?;
        if region.kind == Region::RAM {
            ram += region.size;
        }
    }
    if ram == 0 { Err("no memory") } else { Ok(()) }
}

/// Every frame of the domain has a machine frame that translates back to it.
fn check_frames(boot: &BootContext) -> Step {
    let p2m = boot.p2m();
    for frame in (0..boot.pages()).map(mmu::Pfn) {
        let machine = p2m.mfn(frame).ok_or("a frame without a machine frame")?;
        if mmu::m2p(machine) != Some(frame) {
            return Err("the machine frame translates to another frame");
        }
    }
    Ok(())
}

static UPCALLS: AtomicU32 = AtomicU32::new(0);

fn count_upcall(_: Port) {
    UPCALLS.fetch_add(1, Ordering::Relaxed);
}

fn event_upcall(_: &BootContext) -> Step {
    let port = ok(events::bind_ipi(0), "bind_ipi")?;
    events::set_handler(port, count_upcall);
    events::unmask(port);
    ok(events::notify(port), "send")?;
    if UPCALLS.load(Ordering::Relaxed) != 0 {
        return Err("an upcall came while upcalls were masked");
    }
    events::unmask_upcalls();
    if UPCALLS.load(Ordering::Relaxed) != 1 {
        return Err("the held-back event did not arrive");
    }
    // Nothing is masked now: the hypervisor enters the upcall on the way back from the hypercall.
    ok(events::notify(port), "send")?;
    if UPCALLS.load(Ordering::Relaxed) != 2 {
        return Err("no upcall on the way back from the hypercall");
    }
    ok(events::close(port), "close")?;
    println!("event upcall: one held back by the mask, one at once");
    Ok(())
}

static TICKS: AtomicU32 = AtomicU32::new(0);

fn tick(_: Port) {
    TICKS.fetch_add(1, Ordering::Relaxed);
}

/// Blocks until a tick has come.
fn block_for_tick() {
    events::mask_upcalls();
    while TICKS.load(Ordering::Relaxed) == 0 {
        sched::block();
        events::mask_upcalls();
    }
    events::unmask_upcalls();
}

const MILLISECOND: u64 = 1_000_000;

fn periodic_timer(_: &BootContext) -> Step {
    ok(time::stop_periodic(), "stop_periodic_timer")?;
    let port = ok(events::bind_virq(Virq::TIMER), "bind_virq")?;
    // Ticks of the timer that the domain may have started with are not ours.
    let _ = events::take(port);
    events::set_handler(port, tick);
    events::unmask(port);
    let start = time::now();
    ok(time::set_periodic(10 * MILLISECOND), "set_periodic_timer")?;
    // Not by blocking: the periodic timer rests while its CPU does. And without `pause`, for which an emulator leaves
    // its translated code.
    #[allow(clippy::missing_spin_loop)]
    while TICKS.load(Ordering::Relaxed) < 10 {}
    let elapsed = time::now().saturating_sub(start);
    ok(time::stop_periodic(), "stop_periodic_timer")?;
    // The first tick may come at once, and an emulated machine may be late.
    if !(85 * MILLISECOND..5000 * MILLISECOND).contains(&elapsed) {
        println!("10 ticks took {elapsed} ns");
        return Err("10 ticks of 10 ms took a wrong time");
    }
    println!("periodic timer: 10 ticks of 10 ms");
    Ok(())
}

fn oneshot_timer(_: &BootContext) -> Step {
    for (set, delay) in [(time::set_oneshot as fn(u64) -> _, 5), (time::set_timer, 3)] {
        TICKS.store(0, Ordering::Relaxed);
        let due = time::now() + delay * MILLISECOND;
        ok(set(due), "one-shot timer")?;
        block_for_tick();
        if time::now() < due {
            return Err("a timer fired early");
        }
    }
    println!("one-shot timer: vcpu_op and set_timer_op, neither early");
    Ok(())
}

/// The page that the last step plays with; nothing else lies in it.
#[repr(C, align(4096))]
struct Page([AtomicU64; 512]);

static PAGE: Page = Page([const { AtomicU64::new(0) }; 512]);
/// Machine address of the level-1 entry that maps [`PAGE`], for the fault handler.
static ENTRY: AtomicU64 = AtomicU64::new(0);
static FRAME: AtomicU64 = AtomicU64::new(0);
static FAULTED: AtomicBool = AtomicBool::new(false);

fn page_tables(boot: &BootContext) -> Step {
    let virt = &raw const PAGE as u64;
    let (entry, before) =
        mmu::entry_address(boot, boot.root_table(), virt, Level::L1).ok_or("no entry maps the page")?;
    let frame = boot.p2m().mfn(boot.pfn_of(virt)).ok_or("the page has no frame")?;
    if before.frame() != Some(frame) || !before.is_writable() {
        return Err("the entry of the page does not map its frame for writing");
    }
    ENTRY.store(entry, Ordering::Relaxed);
    FRAME.store(frame.0, Ordering::Relaxed);

    // SAFETY: the page holds atomics of this step only, which keep their contents; writes fault and are repeated
    // once the handler has made the page writable again.
    ok(unsafe { mmu::update_va_mapping(virt, Pte::read_only(frame), Flush::Local) }, "update_va_mapping")?;
    let old = traps::set_handler(Vector::PAGE_FAULT, Some(repair));
    black_box(&PAGE).0[7].store(0x5eed, Ordering::Relaxed);
    traps::set_handler(Vector::PAGE_FAULT, old);
    if !FAULTED.load(Ordering::Relaxed) {
        return Err("a write to a read-only page did not fault");
    }
    if black_box(&PAGE).0[7].load(Ordering::Relaxed) != 0x5eed {
        return Err("the repeated write is lost");
    }
    println!("page tables: a write to a read-only page faulted, was repaired and repeated");
    refuse_writable_table(boot, virt)
}

/// The handler of the fault: makes the page writable again by `mmu_update`.
fn repair(fault: &mut Frame) {
    const WRITE_TO_PRESENT: u64 = 0b11;
    let page = &raw const PAGE as u64;
    let wrong =
        fault.error_code() & WRITE_TO_PRESENT != WRITE_TO_PRESENT || fault.fault_address() != page + 56;
    assert!(!wrong && !FAULTED.swap(true, Ordering::Relaxed), "a fault of another kind: {fault:?}");
    let pte = Pte::data(Mfn(FRAME.load(Ordering::Relaxed)));
    let request = MmuUpdate { ptr: ENTRY.load(Ordering::Relaxed) | MMU_NORMAL_PT_UPDATE, val: pte.0 };
    // SAFETY: restores the mapping that the page had.
    let done = unsafe { mmu::mmu_update(&[request]) };
    assert_eq!(done, Ok(1), "mmu_update");
}

/// The rule that direct paging stands on: a page table is never mapped for writing.
fn refuse_writable_table(boot: &BootContext, virt: u64) -> Step {
    if platform::kind() != Kind::Pv {
        return Ok(());
    }
    // SAFETY: it must be refused and change nothing; where it is not, the page's contents change, which are atomics.
    let result = unsafe { mmu::update_va_mapping(virt, Pte::data(boot.root_table()), Flush::Local) };
    if result.is_ok() {
        return Err("a page table was mapped for writing");
    }
    println!("page tables: a writable mapping of a page table is refused");
    Ok(())
}
