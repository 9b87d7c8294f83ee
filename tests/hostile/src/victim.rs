//! The domain beside the attackers: it does nothing to anybody, and looks whether anything is done to it.
//!
//! It fills memory with a pattern and checks it for ever, compares its page tables and the machine-to-physical table with what
//! they were, gives memory back and takes other memory (so that frames wander between it and the attackers), and measures by
//! its own clock how much of a CPU it gets and for how long it does not run. Each second it prints a line; a line with
//! `FAILED` says what is wrong.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64};

use guest_pv_lib::hypercall::raw;
use guest_pv_lib::memory::{Pages, SharedPages, balloon};
use guest_pv_lib::mmu::{Pfn, m2p};
use guest_pv_lib::{BootContext, println, time};
use xen_abi::hypercall::nr;
use xen_abi::vcpu::{VCPUOP_GET_RUNSTATE_INFO, VcpuRunstateInfo};

/// Pages that keep their frames.
const PAGES: usize = 2048;
/// Pages whose frames are exchanged, round by round.
const WANDERING: usize = 64;
/// What the upper 16 bits of every word are.
const HEAD: u64 = 0x71c7;
/// Nanoseconds between two lines.
const LINE: u64 = 1_000_000_000;
/// Wrong words that are printed.
const MOST_PRINTED: u64 = 20;

static FAILURES: AtomicU64 = AtomicU64::new(0);

/// Word `number` of the pattern: its number, and a check of that.
fn pattern(number: u32) -> u64 {
    HEAD << 48 | u64::from(number) << 16 | u64::from(check(number))
}

fn check(number: u32) -> u16 {
    (number.wrapping_mul(0x9e37_79b1) >> 16) as u16
}

/// Whether a word is one of the pattern.
pub fn is_pattern(word: u64) -> bool {
    word >> 48 == HEAD && check((word >> 16) as u32) == word as u16
}

fn failed(what: &str, where_: u64, found: u64, expected: u64) {
    if FAILURES.fetch_add(1, Relaxed) < MOST_PRINTED {
        println!("victim: FAILED {what} at {where_:#x}: {found:#x} instead of {expected:#x}");
    }
}

/// Its clock, and what that says of its share.
struct Clock {
    last: u64,
    gap: u64,
    longest: u64,
    line: u64,
    ran: u64,
    began: u64,
}

impl Clock {
    fn new() -> Self {
        let now = time::now();
        Self { last: now, gap: 0, longest: 0, line: now + LINE, ran: running(), began: now }
    }

    /// Called at least every few thousand instructions.
    fn tick(&mut self, rounds: u64) {
        let now = time::now();
        if now < self.last {
            failed("the clock goes back", 0, now, self.last);
        }
        self.gap = self.gap.max(now.saturating_sub(self.last));
        if now >= self.line {
            self.longest = self.longest.max(self.gap);
            let ran = running();
            let period = now - self.line + LINE;
            println!(
                "victim: {} s, {rounds} rounds, {} failed, share={}% gap={} us longest={} us",
                (now - self.began) / 1_000_000_000,
                FAILURES.load(Relaxed),
                (ran - self.ran) * 100 / period,
                self.gap / 1000,
                self.longest / 1000
            );
            (self.ran, self.gap) = (ran, 0);
            self.line = time::now() + LINE;
            // Its own printing is no gap.
            self.last = time::now();
            return;
        }
        self.last = now;
    }
}

/// Nanoseconds that this vCPU has run.
fn running() -> u64 {
    let mut info = VcpuRunstateInfo::default();
    // SAFETY: the command writes `info` and nothing else.
    let _ = unsafe { raw::call3(nr::VCPU_OP, u64::from(VCPUOP_GET_RUNSTATE_INFO), 0, &raw mut info as u64) };
    info.time[0]
}

fn fill(pages: &SharedPages, from: u32) {
    for (at, pair) in pages.as_chunks::<2>().0.iter().enumerate() {
        let word = pattern(from + at as u32);
        pair[0].store(word as u32, Relaxed);
        pair[1].store((word >> 32) as u32, Relaxed);
    }
}

fn look(pages: &[AtomicU32], from: u32, clock: &mut Clock, rounds: u64) {
    for (page, words) in pages.chunks(1024).enumerate() {
        for (at, pair) in words.as_chunks::<2>().0.iter().enumerate() {
            let found = u64::from(pair[0].load(Relaxed)) | u64::from(pair[1].load(Relaxed)) << 32;
            let expected = pattern(from + (page * 512 + at) as u32);
            if found != expected {
                failed("a word of memory", &raw const *pair as u64, found, expected);
            }
        }
        clock.tick(rounds);
    }
}

/// A sum of all entries of the first page tables, without the bits that the processor sets.
fn tables(boot: &BootContext) -> u64 {
    const BY_PROCESSOR: u64 = 0x60;
    let range = boot.page_tables();
    let mut sum = 0u64;
    for at in 0..(range.end.0 - range.start.0) * 512 {
        let address = boot.virt_of(range.start) + 8 * at;
        let entry = core::ptr::with_exposed_provenance::<AtomicU64>(address as usize);
        // SAFETY: the tables are mapped for reading, and their entries are atomics to everyone.
        let entry = unsafe { (*entry).load(Relaxed) } & !BY_PROCESSOR;
        sum = (sum ^ entry).wrapping_mul(0x0000_0100_0000_01b3);
    }
    sum
}

/// Checks for ever.
pub fn run(boot: &BootContext) -> ! {
    let pages = Pages::new(PAGES).expect("the description gives it enough memory");
    let pages = SharedPages::from(pages);
    fill(&pages, 0);
    let before = tables(boot);
    let mut clock = Clock::new();
    println!("victim: {PAGES} pages, {} tables", boot.page_tables().end.0 - boot.page_tables().start.0);
    let mut rounds = 0;
    loop {
        let wandering = Pages::new(WANDERING).map(SharedPages::from).ok();
        if let Some(wandering) = &wandering {
            fill(wandering, 1 << 24);
        }
        look(&pages, 0, &mut clock, rounds);
        if let Some(wandering) = &wandering {
            look(wandering, 1 << 24, &mut clock, rounds);
        }
        // As on Xen, what a living domain gives back is its own affair to clear.
        wandering.iter().flat_map(|pages| pages.iter()).for_each(|word| word.store(0, Relaxed));
        drop(wandering);
        let given = balloon::shrink(WANDERING);
        clock.tick(rounds);
        balloon::grow(given);
        clock.tick(rounds);
        let now = tables(boot);
        if now != before {
            failed("the page tables", 0, now, before);
        }
        for frame in (0..boot.used().end.0).map(Pfn) {
            let there = boot.p2m().mfn(frame).and_then(m2p);
            if there != Some(frame) {
                failed("the machine-to-physical table", frame.0, there.map_or(u64::MAX, |it| it.0), frame.0);
            }
        }
        clock.tick(rounds);
        rounds += 1;
    }
}
