//! A kernel that does its worst: to the domains it is connected to, as a front end to its driver domain ([`front`]) or with
//! `back` on the command line as a driver domain to those it serves ([`back`]); with `calls` to the hypervisor ([`calls`]). With
//! `victim` it is the domain beside such an attacker ([`victim`]).
//! With `shatter` it leaves no two free frames in a row (`shatter.rs`).
//! With `linear` it tries to read the hypervisor's memory through linear page-table entries (`linear.rs`).
//!
//! What it does follows from its seed. Words on the command line:
//!
//! - `seed=N`: the seed; `vary` mixes the time into it, so that each start does something else. It is printed.
//! - `back`: be a back end.
//! - `peer=N`: the domain that serves this one, 0 unless given.
//! - `life=N`: as a front end, so many seconds until an abrupt end: a crash or a reboot.
//! - `calls`, `victim`: see there.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]
// On a hosted target there is no entry, so nothing looks used.
#![cfg_attr(not(target_os = "none"), allow(dead_code, unused_imports))]

extern crate alloc;

mod back;
mod calls;
mod front;
#[cfg(target_os = "none")]
mod linear;
mod random;
mod shatter;
mod victim;

use core::str::FromStr;
use core::time::Duration;

use guest_pv_lib::{BootContext, events, println, sched, time};

use random::Random;

guest_pv_lib::entry!(kernel, name = "hostile", version = "1");

fn kernel(boot: BootContext) -> ! {
    let mut seed = option(&boot, "seed").unwrap_or(1);
    if boot.has_option("vary") {
        seed ^= time::now();
    }
    println!("hostile: seed={seed}");
    #[cfg(target_os = "none")]
    if boot.has_option("linear") {
        events::unmask_upcalls();
        linear::run(&boot);
    }
    if boot.has_option("shatter") {
        shatter::run();
    }
    let random = Random(seed);
    if boot.has_option("calls") {
        calls::run(&boot, random);
    }
    events::unmask_upcalls();
    if boot.has_option("victim") {
        victim::run(&boot);
    }
    if boot.has_option("back") { back::run(&boot, random) } else { front::run(&boot, random) }
}

/// The value of `name=value` on the command line.
fn option<V: FromStr>(boot: &BootContext, name: &str) -> Option<V> {
    let line = core::str::from_utf8(boot.command_line()).ok()?;
    let value = |word: &str| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
    line.split_ascii_whitespace().find_map(value)
}

/// Lets the others work.
fn nap(milliseconds: u64) {
    sched::wait(Some(Duration::from_millis(milliseconds)));
}
