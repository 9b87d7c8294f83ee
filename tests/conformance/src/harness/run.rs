//! Finds the cases, runs those that are asked for, and reports.

use guest_pv_lib::sched::{Shutdown, shutdown};
use guest_pv_lib::{BootContext, println, time};

use super::{Case, Env, Verdict, fault, pool};

/// How many cases ended in which way.
#[derive(Default)]
struct Tally {
    success: u32,
    skip: u32,
    error: u32,
    failure: u32,
}

/// The kernel's entry.
pub fn main(boot: BootContext) -> ! {
    fault::init();
    if let Err(error) = time::stop_periodic() {
        println!("Bail out! stop_periodic_timer: {error:?}");
    }
    let pattern = option(boot.command_line(), b"case=").unwrap_or(b"*");
    let list = boot.has_option("list");
    let env = Env { boot };
    let wanted = |case: &&'static Case| matches(pattern, name(case).as_bytes());

    println!("TAP version 14");
    println!("1..{}", cases().iter().filter(wanted).count());
    let (mut tally, mut last, mut number) = (Tally::default(), "", 0);
    while let Some(case) = next(last) {
        last = case.name;
        if !wanted(&case) {
            continue;
        }
        number += 1;
        if list {
            println!("ok {number} - {} # SKIP{}", name(case), case.clause);
        } else if !judge(&env, case, number, &mut tally) {
            break;
        }
    }
    finish(&tally)
}

/// Runs one case and reports it; false where nothing that follows could be trusted.
fn judge(env: &Env, case: &Case, number: u32, tally: &mut Tally) -> bool {
    pool::clear(env);
    let outcome = (case.run)(env);
    let intact = pool::reclaim(env);
    let name = name(case);
    match outcome {
        Ok(()) if !intact => {
            println!("not ok {number} - {name} # ERROR a page is still in use after the case");
            tally.error += 1;
        }
        Ok(()) => {
            println!("ok {number} - {name}");
            tally.success += 1;
        }
        Err(Verdict::Skip(why)) => {
            println!("ok {number} - {name} # SKIP {why}");
            tally.skip += 1;
        }
        Err(Verdict::Error(why)) => {
            println!("not ok {number} - {name} # ERROR {why}");
            tally.error += 1;
        }
        Err(Verdict::Failure(why)) => {
            println!("#{}", case.clause);
            println!("not ok {number} - {name} # FAILURE {why}");
            tally.failure += 1;
        }
    }
    if !intact {
        println!("Bail out! the pages of the pool cannot be taken back");
    }
    intact
}

fn finish(tally: &Tally) -> ! {
    let Tally { success, skip, error, failure } = tally;
    println!("# {success} success, {skip} skip, {error} error, {failure} failure");
    let worst = match (failure, error, success) {
        (1.., ..) => "FAILURE",
        (0, 1.., _) => "ERROR",
        (0, 0, 0) => "SKIP",
        _ => "SUCCESS",
    };
    println!("Test result: {worst}");
    shutdown(Shutdown::PowerOff)
}

/// The case whose name comes next in the alphabet: an order that no build changes.
fn next(after: &str) -> Option<&'static Case> {
    cases().iter().filter(|case| case.name > after).min_by_key(|case| case.name)
}

/// A case's name without the crate and the folder.
fn name(case: &Case) -> &'static str {
    case.name.split_once("::cases::").map_or(case.name, |(_, name)| name)
}

/// What follows `key` in one of the words of `line`.
fn option<'a>(line: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    line.split(u8::is_ascii_whitespace).find_map(|word| word.strip_prefix(key))
}

/// Whether `text` matches `pattern`, in which `*` stands for any bytes.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|at| matches(rest, &text[at..])),
        Some((byte, rest)) => text.first() == Some(byte) && matches(rest, &text[1..]),
    }
}

/// The table.
#[cfg(target_os = "none")]
fn cases() -> &'static [Case] {
    unsafe extern "C" {
        static __pv_table_start: u8;
        static __pv_table_end: u8;
    }
    let (start, end) = (&raw const __pv_table_start, &raw const __pv_table_end);
    // SAFETY: the linker script puts the two symbols around the section's contents, which are `Case`s and nothing
    // else, one behind the other (their size is a multiple of the alignment that the script gives the table).
    unsafe {
        core::slice::from_raw_parts(start.cast::<Case>(), (end as usize - start as usize) / size_of::<Case>())
    }
}

#[cfg(not(target_os = "none"))]
fn cases() -> &'static [Case] {
    &[]
}
