//! Other domains that end and are started again, which no hypercall does; and a console that two vCPUs keep busy.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use guest_pv_lib::smp::{self, Storage};
use guest_pv_lib::{events, println, sched, time};

use super::super::need;
use super::wait;
use crate::{Env, Missing};

/// Ticks that memory of domains which ended may be cleared in afterwards, while the CPU has nothing else to do.
const REST: u64 = 3_000_000;

/// The domains' numbers.
const NUMBERS: [(&str, u16); 4] = [("reboots", 2), ("crashes", 3), ("tables", 4), ("events", 5)];

/// Has the domain `name` end, waits until it was taken apart, built and started again, and rests for a while.
pub fn end(env: &Env, name: &str) -> Result<(), Missing> {
    let port = env.channel(name).ok_or("no channel to that domain")?;
    let (_, number) = *NUMBERS.iter().find(|(known, _)| *known == name).ok_or("no such domain")?;
    let ran = || sched::cpu_time(number).unwrap_or(0);
    let settled = |before: u64| {
        let now = ran();
        now != 0 && now == before
    };
    // It has done what it does before its end when it sleeps.
    let last = core::cell::Cell::new(0);
    wait("the domain does not get ready", || {
        settled(last.replace(ran())) && {
            pause();
            settled(last.get())
        }
    })?;
    let before = ran();
    need("notify", events::notify(port))?;
    wait("the domain does not end", || ran() < before)?;
    wait("the domain does not start again", || ran() != 0)?;
    let end = time::now() + REST;
    wait("time stands still", || time::now() > end)
}

/// Some ticks without a hypercall.
fn pause() {
    let end = time::now() + 20_000;
    while time::now() < end {
        core::hint::spin_loop();
    }
}

/// Ticks that the console is kept busy.
#[cfg(target_os = "none")]
const TALK: u64 = 12_000_000;

#[cfg(target_os = "none")]
static STORAGE: Storage<{ 16 << 10 }> = Storage::new();
/// That is over.
#[cfg(target_os = "none")]
static SAID: AtomicBool = AtomicBool::new(false);

/// The second vCPU keeps the console's ring full, this one tells the hypervisor so again and again.
#[cfg(target_os = "none")]
pub fn talk(env: &Env) -> Result<(), Missing> {
    let (_, port) = env.boot.console_ring().ok_or("no console ring")?;
    // SAFETY: the address space is the one that the domain started with; this kernel has no use for GS.
    let started = unsafe {
        smp::start(&env.boot, 1, &STORAGE, None, |_| {
            while !SAID.load(Relaxed) {
                println!("{:.>250}", "");
            }
            smp::stop()
        })
    };
    need("start", started)?;
    let end = time::now() + TALK;
    while time::now() < end {
        need("notify", events::notify(port))?;
    }
    SAID.store(true, Relaxed);
    Ok(())
}

/// On a host there is no second vCPU.
#[cfg(not(target_os = "none"))]
pub fn talk(_: &Env) -> Result<(), Missing> {
    Err("no second vCPU")
}
