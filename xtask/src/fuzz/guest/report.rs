//! What the attackers and the victim say of themselves, added up.
//!
//! An attacker prints how often it made each hypercall since its life began, a few numbers in each line; the last word on a
//! number counts. A line that is torn, as by a ring that it wrote into itself, is left out.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

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
    shares: Vec<u64>,
    longest: u64,
}

impl Report {
    /// Reads a line.
    pub fn line(&mut self, line: &str) {
        let (prefix, says) = line.split_once("calls: seed=").unwrap_or(("", ""));
        if let Some((seed, counts)) = read(says) {
            self.life(prefix, seed, counts);
        }
        if super::of_victim(line).is_some() {
            self.shares.extend(after(line, "share="));
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
        // The first and the last second are not whole ones.
        let mut shares = self.shares.clone();
        shares.sort_unstable();
        Summary {
            seed,
            lives: self.count,
            counts: self.counts(),
            share: shares.get(shares.len() / 2).copied().unwrap_or(0),
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
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (made, succeeded)) in &self.counts {
            let name = Hypercall::by_nr(*number).map_or("-", |call| call.name);
            let name = if *number == OTHERS { "others" } else { name };
            writeln!(f, "{number:>4} {name:<30} {made:>12} made {succeeded:>12} without an error")?;
        }
        write!(
            f,
            "{} hypercalls of {} numbers in {} lives; the victim had {} % of a CPU and did not run for {} us at most; \
             nothing found (seed {})",
            self.made(),
            self.counts.len(),
            self.lives,
            self.share,
            self.longest,
            self.seed
        )
    }
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
        assert!(summary.to_string().contains("mmu_update"), "{summary}");
    }
}
