//! A hypervisor for one domain, inside that domain: what answers the library's hypercalls in ring 0.
//!
//! - [`start`]: from the boot loader's 32-bit environment to Rust; [`loader`](super::loader): what the boot loader said; [`builder`]: the
//!   initial address space, the same as a PV domain builder makes.
//! - [`paging`]: `mmu_update` and its like as plain stores; [`cpu`]: GDT, TSS, IDT and the trap stubs.
//! - [`ports`], [`timer`], [`uart`], [`power`]: event channels, timers, console and the end, from the PC's devices.
//! - [`xen`]: the hypervisor below, if there is one (PVH).
//!
//! **Interrupts.** The upcall mask in the shared page is what the kernel sees as its interrupt flag. The processor's own is
//! on whenever the kernel runs; an interrupt that finds the mask set leaves its event pending and returns. Only under
//! PVH, where the hypervisor below would inject the same interrupt for ever, does it return with the processor's
//! flag off, to be turned on when the mask is cleared. An upcall is due after a hypercall, after an exception, and when
//! the mask is cleared, as with any hypervisor.
//!
//! **Address space.** The kernel's page tables are its own as under PV: tables are mapped read-only, machine frames are
//! pseudo-physical frames, the M2P is the P2M. Physical memory up to 4 GiB is mapped once more, in the part of the address
//! space that belongs to the hypervisor ([`PHYSICAL`]); every root table gets that part when it is pinned or loaded.
//!
//! One CPU is used.

mod builder;
mod cpu;
mod paging;
mod ports;
mod power;
pub(crate) mod start;
mod timer;
mod uart;
mod xen;

use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use x86_64::instructions::interrupts;
use xen_abi::errno::Errno;
use xen_abi::hypercall::nr;
use xen_abi::memory::{
    XENMEM_CURRENT_RESERVATION, XENMEM_DECREASE_RESERVATION, XENMEM_EXCHANGE, XENMEM_INCREASE_RESERVATION,
    XENMEM_MACHINE_MEMORY_MAP, XENMEM_MAXIMUM_RESERVATION, XENMEM_MEMORY_MAP, XENMEM_POPULATE_PHYSMAP,
    XenMemoryMap,
};
use xen_abi::xen::MulticallEntry;

pub(crate) use cpu::{USER_SELECTORS, nmis, return_address};

use super::Kind;
use crate::shared::this_vcpu;

/// Where physical memory up to [`PHYSICAL_SIZE`] is mapped.
const PHYSICAL: u64 = 0xffff_8080_0000_0000;
/// How much of it.
const PHYSICAL_SIZE: u64 = 4 << 30;

const fn error(error: Errno) -> i64 {
    -(error.0 as i64)
}

/// Answers hypercall `nr`, and delivers what is pending afterwards.
///
/// # Safety
///
/// As for the hypercall itself.
#[cold]
#[inline(never)]
pub(crate) unsafe fn hypercall(nr: u32, args: [u64; 6]) -> i64 {
    // SAFETY: the caller's promise.
    let result = unsafe { answer(nr, args) };
    deliver();
    result
}

/// # Safety
///
/// As for [`hypercall`].
unsafe fn answer(nr: u32, args: [u64; 6]) -> i64 {
    let [a1, a2, a3, ..] = args;
    let below = super::kind() == Kind::Pvh;
    // SAFETY: the caller's promise, for each of these.
    unsafe {
        match nr {
            nr::MMU_UPDATE => paging::mmu_update(a1, a2, a3),
            nr::MMUEXT_OP => paging::mmuext_op(a1, a2, a3),
            nr::UPDATE_VA_MAPPING => paging::update_va_mapping(a1, a2),
            nr::MULTICALL => multicall(a1, a2),
            // The stubs of all vectors are there from the start, and so is the entry for system calls.
            nr::SET_TRAP_TABLE | nr::CALLBACK_OP => 0,
            nr::STACK_SWITCH => cpu::stack_switch(a2),
            nr::SET_SEGMENT_BASE => cpu::set_segment_base(a1, a2),
            nr::FPU_TASKSWITCH => cpu::fpu_taskswitch(a1 != 0),
            nr::SET_DEBUGREG => cpu::set_debug_register(a1, a2),
            nr::GET_DEBUGREG => cpu::debug_register(a1),
            // Assistances are for direct paging.
            nr::VM_ASSIST => 0,
            nr::SET_GDT | nr::UPDATE_DESCRIPTOR | nr::IRET => error(Errno::ENOSYS),
            nr::VCPU_OP if below => xen::vcpu_op(args),
            nr::SCHED_OP if below => xen::sched_op(args),
            nr::GRANT_TABLE_OP if below => xen::grant_table_op(args),
            nr::MEMORY_OP if is_map(a1) => memory_map(a2),
            nr::MEMORY_OP if changes_reservation(a1) => error(Errno::ENOSYS),
            _ if below => xen::call(nr, args),
            nr::EVENT_CHANNEL_OP => ports::operation(a1, a2),
            nr::VCPU_OP => timer::vcpu_op(a1, a2, a3),
            nr::SET_TIMER_OP => timer::set(a1),
            nr::SCHED_OP => power::sched_op(a1, a2),
            nr::CONSOLE_IO => uart::console_io(a1, a2, a3),
            nr::MEMORY_OP => memory_op(a1),
            _ => error(Errno::ENOSYS),
        }
    }
}

/// # Safety
///
/// As for each of the calls in the list.
unsafe fn multicall(list: u64, count: u64) -> i64 {
    let list = core::ptr::with_exposed_provenance_mut::<MulticallEntry>(list as usize);
    for at in 0..count as usize {
        // SAFETY: the caller gives a list of that many entries, which stays while this runs.
        unsafe {
            let entry = list.add(at);
            let result = answer((*entry).op as u32, (*entry).args);
            (*entry).result = result.cast_unsigned();
        }
    }
    0
}

fn is_map(command: u64) -> bool {
    command == u64::from(XENMEM_MEMORY_MAP) || command == u64::from(XENMEM_MACHINE_MEMORY_MAP)
}

/// Frames of a PVH domain have another map behind them, which these would change: the memory stays as it is.
fn changes_reservation(command: u64) -> bool {
    let changing =
        [XENMEM_INCREASE_RESERVATION, XENMEM_DECREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP, XENMEM_EXCHANGE];
    changing.iter().any(|&changing| command == u64::from(changing))
}

/// The boot loader's memory map.
///
/// # Safety
///
/// `arg` must be the address of the command's structure.
unsafe fn memory_map(arg: u64) -> i64 {
    let arg = core::ptr::with_exposed_provenance_mut::<XenMemoryMap>(arg as usize);
    let ranges = super::loader::said().ranges();
    // SAFETY: the caller's structure names a buffer of that many entries.
    unsafe {
        let room = (*arg).nr_entries as usize;
        let buffer =
            core::ptr::with_exposed_provenance_mut::<crate::memory::Region>((*arg).buffer.addr() as usize);
        let count = ranges.len().min(room);
        buffer.copy_from_nonoverlapping(ranges.as_ptr(), count);
        (*arg).nr_entries = count as u32;
        if count < ranges.len() { error(Errno::EINVAL) } else { 0 }
    }
}

fn memory_op(command: u64) -> i64 {
    let is = |wanted: u32| command == u64::from(wanted);
    if is(XENMEM_CURRENT_RESERVATION) || is(XENMEM_MAXIMUM_RESERVATION) {
        return builder::pages().cast_signed();
    }
    error(Errno::ENOSYS)
}

/// Tells the hypervisor below, in a domain that has gone on elsewhere, where the shared page and the callback are, and
/// notes what it says about the rings. Upcalls are masked.
#[cfg(feature = "alloc")]
pub(crate) fn rejoin(start_info: &mut xen_abi::xen::StartInfo) {
    // The new page begins with nothing masked.
    interrupts::without_interrupts(|| {
        xen::init(start_info);
        crate::shared::info().vcpu[0].upcall_mask.store(1, Relaxed);
    });
}

/// Runs the upcall where one is due, as a hypervisor does on the way back to its guest.
pub(crate) fn deliver() {
    let vcpu = this_vcpu();
    while vcpu.upcall_pending.load(Relaxed) != 0 && vcpu.upcall_mask.swap(1, AcqRel) == 0 {
        crate::events::dispatch();
        vcpu.upcall_mask.store(0, Relaxed);
        after_unmask();
    }
}

/// Unmasks for user mode, unless an event is pending. Interrupts stay off until the instruction that enters it.
pub(crate) fn before_user() -> bool {
    interrupts::disable();
    let vcpu = this_vcpu();
    if vcpu.upcall_pending.load(Relaxed) != 0 {
        interrupts::enable();
        return true;
    }
    vcpu.upcall_mask.store(0, Relaxed);
    false
}

/// Interrupts are off where user mode was left.
pub(crate) fn after_user() {
    this_vcpu().upcall_mask.store(1, Relaxed);
    interrupts::enable();
}

/// Turns on what an interrupt that came at the wrong time left off.
#[inline]
pub(crate) fn after_unmask() {
    interrupts::enable();
}
