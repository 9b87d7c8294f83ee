//! The micro-benchmark kernel: boots as the first domain and counts, for each primitive of the hypervisor, the ticks
//! of the time-stamp counter from before it to after it. Under QEMU's `-icount` a tick is an instruction.
//!
//! A row is one line on the console, `micro KEY: COUNT`, or `micro KEY: missing, REASON`; `micro done` is the last.
//! What the guest itself does around a primitive is as short as the interface lets it be (see [`stubs`]), and each
//! count is the least of many rounds after some that warm up: interrupts and first uses drop out.
//!
//! Words on the kernel's command line: `only=PART` counts the rows whose key contains `PART`; `peer` counts only what
//! needs a second CPU; `barriers` has the hypervisor say at the end how many barriers against side channels were due (its debug key b);
//! `latency` counts something else, how long the hypervisor does not look at the work that waits for its
//! CPU, in lines `latency KEY: TICKS` (see [`rows::busy`]).
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]
// On a hosted target there is no entry, so nothing looks used.
#![cfg_attr(not(target_os = "none"), allow(dead_code, unused_imports))]

mod beside;
mod call;
mod measure;
mod pool;
mod rows;
mod stubs;

use guest_pv_lib::events::Port;
use guest_pv_lib::sched::{Shutdown, shutdown};
use guest_pv_lib::{BootContext, println, time};

guest_pv_lib::entry!(kernel, name = "micro", version = "1");

/// What the rows have to work with.
pub struct Env {
    /// How the domain was started.
    pub boot: BootContext,
}

impl Env {
    /// This domain's port of the event channel to the domain `name`, if they were described with one.
    pub fn channel(&self, name: &str) -> Option<Port> {
        const OPTION: &[u8] = b"paravane.channel.";
        let mut words = self.boot.command_line().split(u8::is_ascii_whitespace);
        let number = words
            .find_map(|word| word.strip_prefix(OPTION)?.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        str::from_utf8(number).ok()?.parse().ok().map(Port)
    }
}

/// Why a row could not be counted.
pub type Missing = &'static str;

fn kernel(boot: BootContext) -> ! {
    if let Err(error) = time::stop_periodic() {
        println!("stop_periodic_timer: {error:?}");
    }
    let (with_peer, busy) = (boot.has_option("peer"), boot.has_option("latency"));
    let env = Env { boot };
    beside::run(&env);
    if busy {
        // With the library's own entries: events come while hypercalls are under way.
        rows::busy(&env);
        println!("micro done");
        shutdown(Shutdown::PowerOff)
    }
    stubs::install(&env);
    if with_peer {
        rows::two_cpus(&env)
    } else {
        rows::one_cpu(&env)
    }
    if env.boot.has_option("barriers") {
        rows::show_barriers();
    }
    println!("micro done");
    shutdown(Shutdown::PowerOff)
}
