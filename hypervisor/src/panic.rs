//! What happens when the hypervisor itself is wrong: everything that is known goes to the console, and the machine stops.

use crate::cpu::percpu::this_cpu;
use crate::dev::{power, serial};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};
use hypervisor_core::platform::MachineEnd;
use x86_64::instructions::interrupts;

static PANICKED: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    interrupts::disable();
    // A second panic, here or on another CPU, must not garble the first.
    if PANICKED.swap(true, Ordering::SeqCst) {
        power::halt();
    }
    crate::cpu::smp::stop_others();
    // SAFETY: the other CPUs were just stopped.
    unsafe { serial::break_lock() };
    crate::error!("Panic on {}: {info}", this_cpu().id());
    let frame: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack)) };
    crate::trap::dump::backtrace(frame);
    if crate::machine::try_hv().is_some_and(|hv| !hv.options.noreboot) {
        power::end(MachineEnd::Reboot);
    }
    crate::error!("Halted.");
    power::halt()
}
