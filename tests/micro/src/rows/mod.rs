//! The rows, in the order in which they are counted.

mod calls;
mod domains;
mod emulation;
mod grants;
pub mod latency;
mod page_tables;
mod user_mode;
mod vcpus;

use guest_pv_lib::println;

use crate::measure::report;
use crate::{Env, Missing};

/// A row: its key, and what counts it.
type Row = (&'static str, fn(&Env) -> Result<u64, Missing>);

/// Counts what needs one CPU.
pub fn one_cpu(env: &Env) {
    for rows in [
        calls::ROWS,
        page_tables::ROWS,
        user_mode::ROWS,
        emulation::ROWS,
        grants::ROWS,
        vcpus::ROWS,
        domains::ROWS,
    ] {
        run(env, rows);
    }
}

/// Counts how long the hypervisor does not look at the work that waits for its CPU.
pub fn busy(env: &Env) {
    latency::all(env);
}

/// Has the hypervisor log its count of barriers; only ours has that key.
pub fn show_barriers() {
    domains::debug_key(b'b');
}

/// Counts what needs two CPUs.
pub fn two_cpus(env: &Env) {
    run(env, vcpus::PEER_ROWS);
}

fn run(env: &Env, rows: &[Row]) {
    for (key, count) in rows {
        if wanted(env, key) {
            report(key, count(env));
        }
    }
}

/// Whether the command line asks for this row.
fn wanted(env: &Env, key: &str) -> bool {
    const OPTION: &[u8] = b"only=";
    let mut words = env.boot.command_line().split(u8::is_ascii_whitespace);
    words.find_map(|word| word.strip_prefix(OPTION)).is_none_or(|part| {
        key.as_bytes().windows(part.len().max(1)).any(|window| window == part) || part.is_empty()
    })
}

/// Turns a refused hypercall into the reason why a row is missing.
fn need<T, E: core::fmt::Debug>(what: Missing, result: Result<T, E>) -> Result<T, Missing> {
    result.map_err(|error| {
        println!("{what}: {error:?}");
        what
    })
}
