//! Which CPUs may still translate through entries that are gone.
//!
//! A global clock ticks whenever some CPU begins to flush its whole TLB. A frame that loses its last type reference notes the
//! time in its type word; a CPU notes the tick at which its last whole flush began. The frame may take a type that
//! conflicts with the old one once every CPU of its domain began a flush *after* that note. Guests flush so often by
//! themselves (every switch of address spaces) that nearly all of these conflicts find nothing left to flush.
//!
//! That order is one of memory as well. A CPU counts its tick by an instruction that all others see before it goes on, then drops
//! its translations, then reads entries anew. Who removes an entry makes the removal visible before the time is read: by an
//! exchange ([`super::update::write`]), for a plain store may wait in the CPU while a later read is served, and a CPU that flushes in
//! between would find the old entry again and look clean. So one of the two holds: the flush counted its tick after the
//! time was read, and reads the entry after its removal; or the time that was read has the tick in it, and the CPU is not clean by it.
//! Where a table goes with its entries, what named the table was removed like that before; where a frame becomes free, its last
//! reference was dropped by such an instruction before the time is noted. No other fence is needed.
//!
//! The clock, the CPUs' notes and the time at which a frame became free have 64 bits: they never wrap. A type word has room for
//! the lowest 25 bits of a time only ([`TlbClock::stamp`]). [`TlbClock::time_of`] completes such a stamp to the *latest* time
//! that has these bits and is not in the future. The true time has these bits and is not in the future either, so the answer
//! is never earlier than it: a stamp that is older than 2^25 ticks looks younger than it is, which can cost a flush and can
//! never save one. For that reason nothing has to be done when the short stamps wrap.

use crate::cpumask::{CpuMask, MAX_CPUS};
use crate::ids::CpuId;
use crate::sync::Word;
use core::sync::atomic::AtomicU64;

/// Bits of a stamp.
pub(crate) const STAMP_BITS: u32 = 25;
const STAMP_MASK: u64 = (1 << STAMP_BITS) - 1;

/// The clock of whole TLB flushes.
pub type TlbClock = Clock<AtomicU64, MAX_CPUS>;

/// [`TlbClock`] over words `W`, for `CPUS` CPUs.
#[derive(Debug)]
pub struct Clock<W, const CPUS: usize> {
    now: W,
    /// By CPU: when its last whole flush began; 0 for none.
    flushed: [W; CPUS],
    /// When a frame became free last; 0 for never.
    freed: W,
}

impl TlbClock {
    /// A clock at its beginning: no CPU ever flushed.
    pub const fn new() -> Self {
        Self {
            now: AtomicU64::new(1),
            flushed: [const { AtomicU64::new(0) }; MAX_CPUS],
            freed: AtomicU64::new(0),
        }
    }

    /// The CPUs of `cpus` that did not flush since `time`.
    pub fn stale(&self, cpus: &CpuMask, time: u64) -> CpuMask {
        let mut stale = *cpus;
        for cpu in cpus.iter() {
            if self.is_clean(cpu, time) {
                stale.remove(cpu);
            }
        }
        stale
    }
}

impl<W: Word, const CPUS: usize> Clock<W, CPUS> {
    /// The time.
    pub(crate) fn now(&self) -> u64 {
        self.now.read()
    }

    /// What a frame notes when an entry that named it was removed: the lowest bits of the time.
    pub fn stamp(&self) -> u32 {
        (self.now() & STAMP_MASK) as u32
    }

    /// The latest time that a stamp, read before this call, can mean.
    pub fn time_of(&self, stamp: u32) -> u64 {
        // The stamp was made of an earlier value of the same word, so the difference is at most the time itself.
        let now = self.now();
        now - (now.wrapping_sub(stamp.into()) & STAMP_MASK)
    }

    /// Begins a whole flush; the answer goes to [`Clock::flushed`] when it is done.
    pub fn begin_flush(&self) -> u64 {
        self.now.add(1).wrapping_add(1)
    }

    /// `cpu` finished a whole flush that began with `tick`. Of two that end in another order than they began, the later note
    /// stands, which may be the older tick: that errs on the safe side.
    pub fn flushed(&self, cpu: CpuId, tick: u64) {
        if let Some(note) = self.flushed.get(cpu.0 as usize) {
            note.exchange(tick);
        }
    }

    /// Whether `cpu` began a flush after `time` and finished it.
    pub fn is_clean(&self, cpu: CpuId, time: u64) -> bool {
        self.flushed[cpu.0 as usize].read() > time
    }

    /// Notes that a frame becomes free now, whose former user may still see it. An older note never replaces a younger one.
    pub fn note_freed(&self) {
        let now = self.now();
        let mut noted = self.freed.read();
        while noted < now {
            match self.freed.replace(noted, now) {
                Ok(_) => return,
                Err(other) => noted = other,
            }
        }
    }

    /// When a frame became free last; 0 for never.
    pub fn last_freed(&self) -> u64 {
        self.freed.read()
    }
}

impl Default for TlbClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
impl<W: Word, const CPUS: usize> Clock<W, CPUS> {
    /// Lets `ticks` pass in which no CPU that a test looks at flushes.
    pub(crate) fn pass(&self, ticks: u64) {
        self.now.add(ticks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::pte::PRESENT;
    use crate::page::update::{Write, write};
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64 as Checked;
    use loom::thread;
    use proptest::prelude::*;
    use std::vec::Vec;

    const CPU: CpuId = CpuId(3);

    #[test]
    fn a_flush_clears_what_was_noted_before_it() {
        let clock = TlbClock::new();
        let before = clock.time_of(clock.stamp());
        assert!(!clock.is_clean(CPU, before));
        let tick = clock.begin_flush();
        let during = clock.time_of(clock.stamp());
        clock.flushed(CPU, tick);
        assert!(clock.is_clean(CPU, before));
        assert!(
            !clock.is_clean(CPU, during),
            "an entry removed while the flush ran may have been cached after it"
        );
        assert_eq!(clock.stale(&CpuMask::of(CPU), before), CpuMask::EMPTY);
        assert_eq!(clock.stale(&CpuMask::of(CPU), during), CpuMask::of(CPU));
    }

    #[test]
    fn wrapping_errs_on_the_safe_side() {
        let clock = TlbClock::new();
        clock.pass(STAMP_MASK - 1);
        let before = clock.stamp();
        let tick = clock.begin_flush();
        clock.flushed(CPU, tick);
        assert!(clock.is_clean(CPU, clock.time_of(before)), "across the wrap of the stamp");
        clock.pass(1 << STAMP_BITS);
        assert!(!clock.is_clean(CPU, clock.time_of(before)), "too old to tell: flush");
    }

    /// A CPU that never flushed looked clean to a stamp of half a period before.
    #[test]
    fn a_cpu_that_never_flushed_is_never_clean() {
        let clock = TlbClock::new();
        for _ in 0..8 {
            clock.pass(1 << (STAMP_BITS - 2));
            assert!(!clock.is_clean(CPU, clock.time_of(clock.stamp())));
        }
    }

    #[test]
    fn an_older_free_does_not_replace_a_younger_one() {
        let clock = TlbClock::new();
        assert_eq!(clock.last_freed(), 0);
        clock.pass(41);
        clock.note_freed();
        assert_eq!(clock.last_freed(), 42);
        clock.freed.exchange(50);
        clock.note_freed();
        assert_eq!(clock.last_freed(), 50);
    }

    /// A step of a history.
    #[derive(Clone, Debug)]
    enum Step {
        /// Time passes.
        Pass(u64),
        /// A CPU flushes, and meanwhile so many other flushes begin.
        Flush(usize, u64),
        /// A frame loses its last type reference.
        Idle(usize),
        /// A frame becomes free.
        Freed,
    }

    fn step() -> impl Strategy<Value = Step> {
        let period = 1u64 << STAMP_BITS;
        let long = prop_oneof![
            0..4u64,
            period / 2 - 2..period / 2 + 2,
            period - 2..period + 2,
            3 * period - 2..3 * period + 2,
            0..1u64 << 40,
        ];
        prop_oneof![
            2 => long.prop_map(Step::Pass),
            3 => (0..CPUS, 0..3u64).prop_map(|(cpu, others)| Step::Flush(cpu, others)),
            3 => (0..FRAMES).prop_map(Step::Idle),
            1 => Just(Step::Freed),
        ]
    }

    const CPUS: usize = 3;
    const FRAMES: usize = 4;

    proptest! {
        #[test]
        fn no_cpu_is_clean_that_did_not_flush(steps in prop::collection::vec(step(), 1..80)) {
            let clock = TlbClock::new();
            // The naive model: when things really happened, counted in steps, and at which time of the clock.
            let mut flushes = [None::<usize>; CPUS];
            let mut frames: [Option<(usize, u64, u32)>; FRAMES] = [None; FRAMES];
            let mut freed = None::<usize>;
            for (n, step) in steps.iter().enumerate() {
                match *step {
                    Step::Pass(ticks) => clock.pass(ticks),
                    Step::Flush(cpu, others) => {
                        let tick = clock.begin_flush();
                        clock.pass(others);
                        clock.flushed(CpuId(cpu as u32), tick);
                        flushes[cpu] = Some(n);
                    }
                    Step::Idle(frame) => frames[frame] = Some((n, clock.now(), clock.stamp())),
                    Step::Freed => {
                        clock.note_freed();
                        freed = Some(n);
                    }
                }
                for (cpu, flush) in flushes.iter().enumerate() {
                    let id = CpuId(cpu as u32);
                    for (since, time, stamp) in frames.iter().flatten() {
                        let really = flush.is_some_and(|flush| flush > *since);
                        let clean = clock.is_clean(id, clock.time_of(*stamp));
                        prop_assert!(really || !clean, "cpu {} looks clean at step {}", cpu, n);
                        let recent = clock.now() - time <= STAMP_MASK;
                        prop_assert!(!recent || clean == really, "a flush for nothing at step {}", n);
                    }
                    if let Some(freed) = freed {
                        let really = flush.is_some_and(|flush| flush > freed);
                        prop_assert_eq!(clock.is_clean(id, clock.last_freed()), really);
                    }
                }
            }
        }
    }

    /// One CPU reads an entry into its TLB at any time and flushes; another removes the entry. Where it then finds the CPU clean, the
    /// CPU does not have the entry any more, and does not get it again.
    #[test]
    fn who_is_clean_has_flushed() {
        struct World {
            entry: Checked,
            cached: Checked,
            clock: Clock<Checked, 1>,
        }
        loom::model(|| {
            let [entry, cached, now] = [PRESENT, 0, 1].map(Checked::new);
            let clock = Clock { now, flushed: [Checked::new(0)], freed: Checked::new(0) };
            let world = Arc::new(World { entry, cached, clock });
            let guest = {
                let world = world.clone();
                thread::spawn(move || {
                    let World { entry, cached, clock } = &*world;
                    cached.exchange(entry.read());
                    let tick = clock.begin_flush();
                    cached.exchange(0);
                    cached.exchange(entry.read());
                    clock.flushed(CpuId(0), tick);
                })
            };
            let World { entry, cached, clock } = &*world;
            write(entry, PRESENT, 0, Write::Plain).expect("no comparison");
            let stamp = clock.stamp();
            if clock.is_clean(CpuId(0), clock.time_of(stamp)) {
                assert_eq!(cached.read(), 0, "a stale translation");
            }
            guest.join().unwrap();
        });
    }

    /// Two CPUs free a frame each: the note is not older than either.
    #[test]
    fn frees_meet() {
        loom::model(|| {
            let [now, freed] = [1, 0].map(Checked::new);
            let clock = Arc::new(Clock { now, flushed: [Checked::new(0)], freed });
            let free = |clock: &Clock<Checked, 1>| {
                let time = clock.now();
                clock.note_freed();
                assert!(clock.last_freed() >= time);
                clock.begin_flush();
            };
            let others: Vec<_> = (0..2)
                .map(|_| {
                    let clock = clock.clone();
                    thread::spawn(move || free(&clock))
                })
                .collect();
            others.into_iter().for_each(|other| other.join().unwrap());
        });
    }
}
