//! The panic handler: says what and where, and ends the domain as crashed.

use core::panic::PanicInfo;
use core::sync::atomic::AtomicBool;

use crate::sched::{Shutdown, shutdown};

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    static PANICKED: AtomicBool = AtomicBool::new(false);
    // A panic while the first one is being reported says no more than that.
    crate::traps::once(&PANICKED, || {
        crate::console::emergency(format_args!("CPU {}: {info}\n", crate::smp::this_cpu().number()));
    });
    shutdown(Shutdown::Crash)
}
