//! Finds the cases, runs those that are asked for, and reports.

use guest_pv_lib::sched::{Shutdown, shutdown};
use guest_pv_lib::{BootContext, print, println, time};

use super::attribute::lacks;
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
    let line = boot.command_line();
    let patterns = option(line, b"case=").unwrap_or(b"*");
    let after = option(line, b"after=").unwrap_or(b"");
    let list = boot.has_option("list");
    let env = Env { boot };
    let wanted = |case: &&'static Case| {
        let name = case.name().as_bytes();
        name > after && selected(patterns, name, case.is_alone() && !list)
    };

    println!("TAP version 14");
    println!("1..{}", cases().iter().filter(wanted).count());
    let (mut tally, mut last, mut number) = (Tally::default(), "", 0);
    while let Some(case) = next(last) {
        last = case.name();
        if !wanted(&case) {
            continue;
        }
        number += 1;
        if list {
            print!("ok {number} - {last} # SKIP");
            case.clause().for_each(|line| print!(" {line}"));
            println!();
        } else if !judge(&env, case, number, &mut tally) {
            break;
        }
    }
    finish(&tally)
}

/// Runs one case; an early word from the harness where it cannot run here.
fn outcome(env: &Env, case: &Case) -> Result<(), Verdict> {
    if let Some(why) = lacks(&env.boot, case.attributes) {
        return Err(Verdict::Skip(why));
    }
    (case.run)(env)?;
    match case.end() {
        Some(_) => Err(Verdict::Failure("the domain lives on")),
        None => Ok(()),
    }
}

/// Runs one case and reports it; false where nothing that follows could be trusted.
fn judge(env: &Env, case: &Case, number: u32, tally: &mut Tally) -> bool {
    let name = case.name();
    // Where nothing follows, the host knows by this which case ended the domain.
    println!("# begin {name}");
    pool::clear(env);
    let outcome = outcome(env, case);
    let intact = case.is_alone() || pool::reclaim(env);
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
            case.clause().for_each(|line| println!("# {line}"));
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
    cases().iter().filter(|case| case.name() > after).min_by_key(|case| case.name())
}

/// Whether one of the comma-separated `patterns` matches; a case that is `alone` must be named in full.
fn selected(patterns: &[u8], name: &[u8], alone: bool) -> bool {
    patterns
        .split(|byte| *byte == b',')
        .any(|pattern| if alone { pattern == name } else { matches(pattern, name) })
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
pub fn cases() -> &'static [Case] {
    unsafe extern "C" {
        #[cfg_attr(not(target_os = "none"), link_name = "__start_pv_table")]
        static __pv_table_start: u8;
        #[cfg_attr(not(target_os = "none"), link_name = "__stop_pv_table")]
        static __pv_table_end: u8;
    }
    let (start, end) = (&raw const __pv_table_start, &raw const __pv_table_end);
    // SAFETY: the linker puts the two symbols around the section's contents, which are `Case`s and nothing else, one
    // behind the other (their size is a multiple of the alignment that the section has).
    unsafe {
        core::slice::from_raw_parts(start.cast::<Case>(), (end as usize - start as usize) / size_of::<Case>())
    }
}
