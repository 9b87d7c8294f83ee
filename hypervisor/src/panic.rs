//! What happens when the hypervisor itself is wrong, or the hardware: everything that is known goes to the console, and the
//! machine stops.
//!
//! A CPU that crashes may hold any lock, and so may the CPUs that it stops. So a crash first stops the others, then takes the
//! serial port whoever has it ([`begin`]), and from then on writes to it directly, waiting for the transmitter.

use crate::cpu::percpu::this_cpu;
use crate::cpu::smp;
use crate::dev::{power, serial};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};
use hypervisor_core::platform::MachineEnd;
use x86_64::instructions::interrupts;

/// Crashes of the CPU that ends the machine: more than one if there is a fault while it says what is wrong.
static CRASHES: AtomicU32 = AtomicU32::new(0);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    begin();
    crate::error!("Panic on {}: {info}", this_cpu().id());
    let frame: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack)) };
    crate::trap::dump::backtrace(frame);
    finish()
}

/// Makes this the only CPU that runs, and the console its own. Returns once at most: a second CPU that crashes stops here, and
/// what goes wrong while the first one tells its story ends the story.
pub fn begin() {
    interrupts::disable();
    smp::stop_others();
    let before = CRASHES.fetch_add(1, Ordering::SeqCst);
    if before > 1 {
        power::halt();
    }
    // SAFETY: the other CPUs were just stopped.
    unsafe { serial::break_lock() };
    if before == 1 {
        crate::error!("A fault while crashing.");
        finish();
    }
}

/// Ends the machine behind the last message of a crash: `noreboot` keeps it on the screen.
pub fn finish() -> ! {
    if crate::machine::try_hv().is_some_and(|hv| !hv.options.noreboot) {
        power::end(MachineEnd::Reboot);
    }
    crate::error!("Halted.");
    power::halt()
}
