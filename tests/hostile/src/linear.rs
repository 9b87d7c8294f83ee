//! What a domain can read through entries of its root that name the root: its own tables, and nothing of the hypervisor's.
//!
//! With such an entry at [`SLOT`] the hypervisor's own entries of the root are reached by addresses of the guest's half. They are
//! tried from ring 3, by hypercalls that copy from them (also on another CPU, while such entries come and go), and at last by the
//! `iret` hypercall, whose frame cannot be read there: that ends the domain.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use guest_pv_lib::hypercall::{check, raw};
use guest_pv_lib::mmu::{Level, Mfn, Pte, entry_address, index, mmu_update};
use guest_pv_lib::sched::{Shutdown, shutdown};
use guest_pv_lib::smp::{self, Cpu, Storage};
use guest_pv_lib::traps::{Frame, Vector, set_handler};
use guest_pv_lib::{BootContext, Errno, println};
use xen_abi::event_channel::EVTCHNOP_SEND;
use xen_abi::hypercall::nr;
use xen_abi::memory::XENMEM_MAXIMUM_RESERVATION;
use xen_abi::vcpu::VCPUOP_SET_PERIODIC_TIMER;
use xen_abi::xen::MmuUpdate;

/// The root's entry that names the root.
const SLOT: usize = 300;
/// The hypervisor's own entries. The first is the machine-to-physical table, which every kernel may read.
const HYPERVISOR: core::ops::RangeInclusive<usize> = 257..=271;
/// Entries of tables that are tried: the first ones, and some.
const TRIED: [usize; 6] = [0, 1, 2, 3, 322, 511];

/// The instruction that may fault, and where to go on.
static PROBE: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
/// Faults so far.
static FAULTS: AtomicU64 = AtomicU64::new(0);

/// The CPU that reads while entries come and go.
static SECOND: Storage<{ 32 << 10 }> = Storage::new();
/// The entry that comes and goes; 0 at the end.
static COMING: AtomicU64 = AtomicU64::new(0);
/// How much that CPU found.
static FOUND: AtomicU64 = AtomicU64::new(0);

/// The address whose walk takes these entries.
const fn address(indices: [usize; 4]) -> u64 {
    let [a, b, c, d] = indices;
    let low = (a << 39 | b << 30 | c << 21 | d << 12) as u64;
    (low << 16).cast_signed().wrapping_shr(16).cast_unsigned()
}

/// Tries everything.
pub fn run(boot: &BootContext) -> ! {
    set_handler(Vector::PAGE_FAULT, Some(page_fault));
    let root = boot.root_table();
    match set_root_entry(root, SLOT, Pte::read_only(root).0) {
        Ok(()) => {}
        Err(error) => {
            println!("hostile: linear entries are refused: {}", error.0);
            shutdown(Shutdown::PowerOff)
        }
    }
    its_own(boot, root);
    let (mut places, mut read, mut copied) = (0, 0, 0);
    for at in all() {
        places += 1;
        read += u64::from(ring_3_reads(at).is_some());
        copied += copies(at);
    }
    println!("hostile: linear: of {places} places ring 3 read {read}, hypercalls {copied}");
    if read + copied == 0 {
        println!("hostile: linear entries lead nowhere");
    }
    another_cpu(boot, root);
    // What a TLB may remember counts as well.
    let taken_out = set_root_entry(root, SLOT, 0).is_ok() && copies(address([SLOT, 262, 0, 1])) == 0;
    println!("hostile: linear: {} without the entry", if taken_out { "nothing" } else { "something" });
    let _ = set_root_entry(root, SLOT, Pte::read_only(root).0);
    iret_from(address([SLOT, 262, 0, 1]));
}

/// Addresses that come by the hypervisor's entries, at each level where that is possible.
fn all() -> impl Iterator<Item = u64> {
    HYPERVISOR.flat_map(|own| {
        let high = TRIED.into_iter().flat_map(move |a| TRIED.map(|b| address([SLOT, own, a, b])));
        let low = TRIED.map(|a| address([SLOT, SLOT, own, a]));
        high.chain(low).chain([address([SLOT, SLOT, SLOT, own])])
    })
}

/// The root is still there to be read, by either way.
fn its_own(boot: &BootContext, root: Mfn) {
    let here = &raw const PROBE as u64;
    let entry = entry_address(boot, root, here, Level::L4).map(|(_, entry)| entry.0);
    let at = address([SLOT; 4]) + 8 * index(here, Level::L4) as u64;
    let same = ring_3_reads(at).zip(entry).is_some_and(|(seen, entry)| (seen ^ entry) & !0x60 == 0);
    println!("hostile: linear: its own tables: {same} {}", copies(at));
}

/// Has another CPU read by entries that come and go.
fn another_cpu(boot: &BootContext, root: Mfn) {
    COMING.store(SLOT as u64, Relaxed);
    // SAFETY: nothing else uses the GS base.
    if unsafe { smp::start(boot, 1, &SECOND, None, reader) }.is_err() {
        return println!("hostile: linear: there is no other CPU");
    }
    for slot in SLOT + 1..SLOT + 101 {
        COMING.store(slot as u64, Relaxed);
        for _ in 0..3 {
            let both = [Pte::read_only(root).0, 0].map(|entry| set_root_entry(root, slot, entry));
            assert_eq!(both, [Ok(()); 2]);
        }
    }
    COMING.store(0, Relaxed);
    println!("hostile: linear: another CPU found {}", FOUND.load(Relaxed));
}

fn reader(_: &'static Cpu) -> ! {
    loop {
        match COMING.load(Relaxed) {
            0 => smp::stop(),
            slot => FOUND.fetch_add(copies(address([slot as usize, 262, 0, 1])), Relaxed),
        };
    }
}

fn set_root_entry(root: Mfn, slot: usize, entry: u64) -> Result<(), Errno> {
    let request = MmuUpdate { ptr: root.address() + 8 * slot as u64, val: entry };
    // SAFETY: nothing uses that part of the address space but this module, which reads it by instructions that may fault.
    unsafe { mmu_update(&[request]) }.map(drop).map_err(|(error, _)| error)
}

/// Reads eight bytes with the rights of ring 3.
fn ring_3_reads(at: u64) -> Option<u64> {
    let (mut value, faults) = (0u64, FAULTS.load(Relaxed));
    // SAFETY: a read changes nothing, and where it faults the handler goes on behind it.
    unsafe {
        asm!(
            "lea {next}, [rip + 2f]",
            "mov [{probe}], {next}",
            "lea {next}, [rip + 3f]",
            "mov [{probe} + 8], {next}",
            "2: mov {value}, [{at}]",
            "3:",
            next = out(reg) _,
            probe = in(reg) &raw const PROBE,
            at = in(reg) at,
            value = inout(reg) value,
            options(nostack),
        );
    }
    (FAULTS.load(Relaxed) == faults).then_some(value)
}

fn page_fault(frame: &mut Frame) {
    let [probe, next] = [PROBE[0].load(Relaxed), PROBE[1].load(Relaxed)];
    if frame.instruction_pointer() != probe {
        println!("hostile: {frame:?}");
        shutdown(Shutdown::Crash);
    }
    FAULTS.fetch_add(1, Relaxed);
    // SAFETY: right behind the instruction that faulted, which `ring_3_reads` allows for.
    unsafe { frame.set_instruction_pointer(next) };
}

/// How many of three hypercalls that copy from `at` find something there. They copy two bytes, four, and eight, for the number of a
/// domain, a port, and a period.
fn copies(at: u64) -> u64 {
    let found = |ret: i64| u64::from(check(ret) != Err(Errno::EFAULT));
    // SAFETY: they change at most the period of a timer, which nobody waits for.
    unsafe {
        found(raw::call2(nr::MEMORY_OP, u64::from(XENMEM_MAXIMUM_RESERVATION), at))
            + found(raw::call2(nr::EVENT_CHANNEL_OP, u64::from(EVTCHNOP_SEND), at))
            + found(raw::call3(nr::VCPU_OP, u64::from(VCPUOP_SET_PERIODIC_TIMER), 0, at))
    }
}

/// Makes the `iret` hypercall with the stack pointer there.
fn iret_from(at: u64) -> ! {
    // SAFETY: goes on wherever the frame says, if there is one: that would be the end of this kernel one way or another.
    unsafe { asm!("mov rsp, {at}", "syscall", at = in(reg) at, in("rax") nr::IRET, options(noreturn)) }
}
