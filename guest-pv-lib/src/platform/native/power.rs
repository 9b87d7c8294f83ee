//! Giving up the CPU: until something happens, or for good.

use core::ptr;
use core::sync::atomic::Ordering::Relaxed;

use x86_64::instructions::interrupts;
use x86_64::instructions::port::Port;
use xen_abi::errno::Errno;
use xen_abi::sched::*;

use super::start::Physical;
use super::{error, timer};
use crate::platform::acpi::SoftOff;
use crate::platform::loader;
use crate::shared::{self, this_vcpu};

/// `sched_op`.
///
/// # Safety
///
/// `arg` must be what the command takes.
pub unsafe fn sched_op(command: u64, arg: u64) -> i64 {
    let at = arg as usize;
    match u32::try_from(command) {
        Ok(SCHEDOP_YIELD) => 0,
        Ok(SCHEDOP_BLOCK) => block(),
        // SAFETY: the caller's promise.
        Ok(SCHEDOP_POLL) => unsafe { poll(&*ptr::with_exposed_provenance::<SchedPoll>(at)) },
        // SAFETY: the caller's promise.
        Ok(SCHEDOP_SHUTDOWN) => end(unsafe { (*ptr::with_exposed_provenance::<SchedShutdown>(at)).reason }),
        _ => error(Errno::ENOSYS),
    }
}

/// Unmasks upcalls and halts until one is due; the way back from the hypercall delivers it.
pub fn block() -> i64 {
    let vcpu = this_vcpu();
    // An interrupt that finds the mask clear runs the upcall itself, so none may come before the halt.
    interrupts::disable();
    vcpu.upcall_mask.store(0, Relaxed);
    if vcpu.upcall_pending.load(Relaxed) == 0 {
        interrupts::enable_and_hlt();
    } else {
        interrupts::enable();
    }
    0
}

/// Halts, with upcalls as they are, until one of the ports is pending or the time is up.
///
/// # Safety
///
/// The list of ports must be the caller's.
unsafe fn poll(arg: &SchedPoll) -> i64 {
    let ports = ptr::with_exposed_provenance::<u32>(arg.ports.addr() as usize);
    // SAFETY: the caller's promise.
    let ports = unsafe { core::slice::from_raw_parts(ports, arg.nr_ports as usize) };
    let is_pending = |&port: &u32| {
        let word = shared::info().pending.get(port as usize / 64);
        word.is_some_and(|word| word.load(Relaxed) & 1 << (port % 64) != 0)
    };
    let over = || arg.timeout != 0 && crate::time::now() >= arg.timeout;
    timer::wake_at(arg.timeout);
    loop {
        interrupts::disable();
        if ports.iter().any(is_pending) || over() {
            interrupts::enable();
            timer::wake_at(0);
            return 0;
        }
        interrupts::enable_and_hlt();
    }
}

/// Ends everything: switches off by ACPI, or resets.
fn end(reason: u32) -> ! {
    interrupts::disable();
    if reason == SHUTDOWN_REBOOT {
        // SAFETY: the chipset's reset register, then the keyboard controller's reset line: nothing runs after them.
        unsafe {
            Port::<u8>::new(0xcf9).write(6);
            Port::<u8>::new(0x64).write(0xfe);
        }
    } else if let Some(off) = SoftOff::find(&Physical, loader::said().rsdp) {
        for (register, value) in off.writes() {
            // SAFETY: the registers that the firmware names for switching off.
            unsafe { Port::<u16>::new(register).write(value) };
        }
    }
    loop {
        x86_64::instructions::hlt();
    }
}
