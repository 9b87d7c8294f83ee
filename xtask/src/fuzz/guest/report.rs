//! What the attackers and the victim say of themselves, added up.
//!
//! An attacker prints how often it made each hypercall since its life began, a few numbers in each line; the last word on a
//! number counts. A line that is torn, as by a ring that it wrote into itself, is left out.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use anyhow::{Result, bail};
use xen_abi::hypercall::Hypercall;

/// Seeds that are remembered for each attacker.
const REMEMBERED: usize = 3;
/// The last of the attackers' counts: all numbers above.
const OTHERS: u64 = 63;

/// Hypercalls of one number: made, and without an error.
type Counts = BTreeMap<u64, (u64, u64)>;

/// What was heard so far.
#[derive(Debug, Default)]
pub struct Report {
    /// By prefix of its lines: the seed of an attacker's present life, and what it did.
    lives: BTreeMap<String, (u64, Counts)>,
    /// Of lives that are over.
    over: Counts,
    count: u64,
    seeds: BTreeMap<String, VecDeque<u64>>,
    /// How often each share of a CPU was seen.
    shares: BTreeMap<u64, u64>,
    longest: u64,
    /// Machines that came to their end.
    boots: u64,
}

impl Report {
    /// Machines that came to their end.
    #[must_use]
    pub fn boots(&self) -> u64 {
        self.boots
    }

    /// A machine came to its end.
    pub fn end_boot(&mut self) {
        self.end_lives();
        self.boots += 1;
    }

    /// What was counted, to go on from later.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("boots {}\nlives {}\nlongest {}\n", self.boots, self.count, self.longest);
        let shares = self.shares.iter().map(|(share, seen)| format!("share {share} {seen}\n"));
        let calls = self.over.iter().map(|(number, (made, done))| format!("calls {number} {made} {done}\n"));
        text.extend(shares.chain(calls));
        text
    }

    /// Reads [`Report::to_text`].
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(text: &str) -> Result<Self> {
        let mut report = Self::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let what = words.next().unwrap_or_default();
            let numbers = words.map(str::parse).collect::<Result<Vec<u64>, _>>()?;
            match (what, &numbers[..]) {
                ("boots", [boots]) => report.boots = *boots,
                ("lives", [lives]) => report.count = *lives,
                ("longest", [longest]) => report.longest = *longest,
                ("share", [share, seen]) => drop(report.shares.insert(*share, *seen)),
                ("calls", [number, made, done]) => drop(report.over.insert(*number, (*made, *done))),
                _ => bail!("what is `{line}`?"),
            }
        }
        Ok(report)
    }

    /// Reads a line.
    pub fn line(&mut self, line: &str) {
        let (prefix, says) = line.split_once("calls: seed=").unwrap_or(("", ""));
        if let Some((seed, counts)) = read(says) {
            self.life(prefix, seed, counts);
        }
        if super::of_victim(line).is_some() {
            if let Some(share) = after(line, "share=") {
                *self.shares.entry(share).or_default() += 1;
            }
            self.longest = self.longest.max(after(line, "longest=").unwrap_or(0));
        }
    }

    fn life(&mut self, prefix: &str, seed: u64, counts: Counts) {
        match self.lives.get_mut(prefix) {
            Some((same, life)) if *same == seed => life.extend(counts),
            _ => {
                if let Some((_, counts)) = self.lives.insert(prefix.to_owned(), (seed, counts)) {
                    add(&mut self.over, &counts);
                }
                self.count += 1;
                let seeds = self.seeds.entry(prefix.to_owned()).or_default();
                seeds.push_back(seed);
                if seeds.len() > REMEMBERED {
                    seeds.pop_front();
                }
            }
        }
    }

    /// The machine has ended: so have all lives.
    pub fn end_lives(&mut self) {
        for (_, counts) in std::mem::take(&mut self.lives).into_values() {
            add(&mut self.over, &counts);
        }
    }

    fn counts(&self) -> Counts {
        let mut all = self.over.clone();
        self.lives.values().for_each(|(_, counts)| add(&mut all, counts));
        all
    }

    /// Hypercalls so far.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.counts().values().map(|count| count.0).sum()
    }

    /// Lives so far.
    #[must_use]
    pub fn lives(&self) -> u64 {
        self.count
    }

    /// The seeds of each attacker's last lives, the present one last.
    #[must_use]
    pub fn last_seeds(&self) -> String {
        let of = |(prefix, seeds): (&String, &VecDeque<u64>)| format!("{prefix}{seeds:?}");
        self.seeds.iter().map(of).collect::<Vec<_>>().join(" ")
    }

    /// All of it.
    #[must_use]
    pub fn summary(&self, seed: u64) -> Summary {
        // Half of the seconds are seen before the middle one.
        let mut left = self.shares.values().sum::<u64>() / 2;
        let middle = self.shares.iter().find(|(_, seen)| match left.checked_sub(**seen) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        });
        Summary {
            seed,
            boots: self.boots,
            lives: self.count,
            counts: self.counts(),
            share: middle.map_or(0, |(share, _)| *share),
            longest: self.longest,
        }
    }
}

fn add(all: &mut Counts, counts: &Counts) {
    for (number, (made, succeeded)) in counts {
        let sum = all.entry(*number).or_default();
        *sum = (sum.0 + made, sum.1 + succeeded);
    }
}

/// The number behind `key`.
fn after(line: &str, key: &str) -> Option<u64> {
    let rest = line.split_once(key)?.1;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Reads what stands behind `seed=`: the seed, and `by=NUMBER:MADE/SUCCEEDED,...`.
fn read(says: &str) -> Option<(u64, Counts)> {
    let seed = says.split(' ').next()?.parse().ok()?;
    let (_, by) = says.split_once(" by=")?;
    let one = |text: &str| {
        let (number, counts) = text.split_once(':')?;
        let (made, succeeded) = counts.split_once('/')?;
        Some((number.parse().ok()?, (made.parse().ok()?, succeeded.parse().ok()?)))
    };
    let counts: Option<Counts> = by.trim().split_terminator(',').map(one).collect();
    counts.map(|counts| (seed, counts))
}

/// What came of a run.
#[derive(Debug)]
pub struct Summary {
    /// What it began with.
    pub seed: u64,
    /// Machines.
    pub boots: u64,
    /// Lives of attackers.
    pub lives: u64,
    /// By number: hypercalls made, and without an error. The last number stands for all above.
    pub counts: BTreeMap<u64, (u64, u64)>,
    /// The victim's usual share of one CPU, in percent.
    pub share: u64,
    /// For how long the victim did not run at most, in microseconds.
    pub longest: u64,
}

impl Summary {
    /// Hypercalls made.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.counts.values().map(|count| count.0).sum()
    }
}

impl fmt::Display for Summary {
    /// A table for a page of the documentation, and a sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| hypercall | made | without an error | share |\n|---|---:|---:|---:|")?;
        let (mut all, mut done) = (0, 0);
        for (number, (made, succeeded)) in &self.counts {
            let name = Hypercall::by_nr(*number).map_or("-", |call| call.name);
            let name = if *number == OTHERS { "others" } else { name };
            writeln!(f, "| {number} {name} | {made} | {succeeded} | {} % |", percent(*succeeded, *made))?;
            (all, done) = (all + made, done + succeeded);
        }
        writeln!(f, "| all | {all} | {done} | {} % |\n", percent(done, all))?;
        write!(
            f,
            "{all} hypercalls of {} numbers in {} lives on {} machines; the victim had {} % of a CPU and did not run for \
             {} us at most; nothing found (seed {})",
            self.counts.len(),
            self.lives,
            self.boots,
            self.share,
            self.longest,
            self.seed
        )
    }
}

fn percent(part: u64, whole: u64) -> u64 {
    part * 100 / whole.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_life_counts() {
        let mut report = Report::default();
        for line in [
            "(d2) calls: seed=7 made=3 traps=14:2,",
            "(d2) calls: seed=7 by=1:2/1,26:1/0,",
            "(d2) calls: seed=7 by=1:4/2,",
            "(d2) calls: seed=7 by=1:4/2,2",
            "(d3) calls: seed=8 by=63:1/0,",
            "(d2) calls: seed=9 by=1:1/1,",
            "(d1) victim: 2 s, 9 rounds, 0 failed, share=66% gap=100 us longest=2500 us",
        ] {
            report.line(line);
        }
        assert_eq!((report.made(), report.lives()), (7, 3));
        assert_eq!(report.last_seeds(), "(d2) [7, 9] (d3) [8]");
        report.end_lives();
        let summary = report.summary(7);
        assert_eq!(summary.counts[&1], (5, 3));
        assert_eq!((summary.share, summary.longest), (66, 2500));
        let text = summary.to_string();
        assert!(text.contains("| 1 mmu_update | 5 | 3 | 60 % |"), "{text}");
        assert!(text.contains("7 hypercalls of 3 numbers in 3 lives"), "{text}");
    }

    #[test]
    fn what_was_counted_is_read_again() {
        let mut report = Report::default();
        for line in [
            "(d2) calls: seed=7 by=1:4/2,26:3/3,",
            "(d1) victim: 2 s, 9 rounds, 0 failed, share=66% gap=100 us longest=2500 us",
            "(d1) victim: 3 s, 9 rounds, 0 failed, share=20% gap=100 us longest=2500 us",
            "(d1) victim: 4 s, 9 rounds, 0 failed, share=70% gap=100 us longest=2500 us",
        ] {
            report.line(line);
        }
        report.end_boot();
        let again = Report::parse(&report.to_text()).unwrap();
        assert_eq!((again.made(), again.lives(), again.boots()), (7, 1, 1));
        let summary = again.summary(7);
        assert_eq!((summary.share, summary.longest), (66, 2500));
        assert_eq!(again.to_text(), report.to_text());
        assert!(Report::parse("calls 1 2").is_err());
    }
}
