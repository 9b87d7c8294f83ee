//! Counting: the least of many rounds, less what the counting itself costs.

use guest_pv_lib::{println, time};

use crate::Missing;

/// Rounds that count.
pub const ROUNDS: u32 = 48;
/// Rounds before them that do not.
pub const WARM_UP: u32 = 16;

/// Ticks of `op`, which gets the number of the round.
#[inline(always)]
pub fn ticks<R>(op: impl FnMut(u32) -> R) -> u64 {
    ticks_after(|_| {}, op)
}

/// Ticks of `op`, each time after `prepare`, which does not count.
#[inline(always)]
pub fn ticks_after<P, R>(mut prepare: impl FnMut(u32) -> P, mut op: impl FnMut(u32) -> R) -> u64 {
    least(|round| {
        let _ = prepare(round);
        let start = time::tsc();
        let _ = op(round);
        time::tsc() - start
    })
    .saturating_sub(overhead())
}

/// Ticks of two operations that undo each other.
#[inline(always)]
pub fn ticks_of_pair<A, B>(mut first: impl FnMut() -> A, mut second: impl FnMut() -> B) -> (u64, u64) {
    let mut least_second = u64::MAX;
    let least_first = least(|_| {
        let start = time::tsc();
        let _ = first();
        let middle = time::tsc();
        let _ = second();
        least_second = least_second.min(time::tsc() - middle);
        middle - start
    });
    (least_first.saturating_sub(overhead()), least_second.saturating_sub(overhead()))
}

/// The least that `count` says, which gets the number of the round.
#[inline(always)]
pub fn least(mut count: impl FnMut(u32) -> u64) -> u64 {
    let mut least = u64::MAX;
    for round in 0..WARM_UP + ROUNDS {
        let ticks = count(round);
        if round >= WARM_UP {
            least = least.min(ticks);
        }
    }
    least
}

/// Ticks between two readings of the counter with nothing between.
fn overhead() -> u64 {
    least(|_| {
        let start = time::tsc();
        time::tsc() - start
    })
}

/// Reports a row.
pub fn report(key: &str, result: Result<u64, Missing>) {
    match result {
        Ok(count) => println!("micro {key}: {count}"),
        Err(reason) => println!("micro {key}: missing, {reason}"),
    }
}
