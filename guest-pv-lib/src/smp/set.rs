//! Sets of CPUs.

use super::{MAX_CPUS, online, this_cpu};

const WORDS: usize = MAX_CPUS / 64;

/// A set of CPUs, by number.
#[doc(alias = "vcpumask")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuSet([u64; WORDS]);

impl CpuSet {
    /// No CPU.
    #[must_use]
    pub const fn new() -> Self {
        Self([0; WORDS])
    }

    /// Every CPU that runs.
    #[must_use]
    pub fn online() -> Self {
        let mut set = Self::new();
        online().for_each(|cpu| set.insert(cpu.number()));
        set
    }

    /// Every CPU that runs but the calling one.
    #[must_use]
    pub fn others() -> Self {
        let mut set = Self::online();
        set.remove(this_cpu().number());
        set
    }

    /// Adds a CPU. Numbers from [`MAX_CPUS`] on are nobody's and change nothing.
    pub fn insert(&mut self, number: u32) {
        if let Some(word) = self.0.get_mut(number as usize / 64) {
            *word |= 1 << (number % 64);
        }
    }

    /// Takes a CPU out.
    pub fn remove(&mut self, number: u32) {
        if let Some(word) = self.0.get_mut(number as usize / 64) {
            *word &= !(1 << (number % 64));
        }
    }

    /// Whether CPU `number` is in it.
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        self.0.get(number as usize / 64).is_some_and(|word| word & 1 << (number % 64) != 0)
    }

    /// Whether there is none in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// The bits, as hypercalls take them.
    pub(super) const fn words(&self) -> &[u64; WORDS] {
        &self.0
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        let mut set = Self::new();
        numbers.into_iter().for_each(|number| set.insert(number));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_go_in_and_out() {
        let mut set: CpuSet = [0, 63, 64, MAX_CPUS as u32 - 1].into_iter().collect();
        assert!(set.contains(63) && set.contains(64) && !set.contains(1));
        set.insert(MAX_CPUS as u32);
        assert!(!set.contains(MAX_CPUS as u32) && !set.contains(u32::MAX));
        for number in [0, 63, 64, MAX_CPUS as u32 - 1] {
            assert!(!set.is_empty());
            set.remove(number);
        }
        assert!(set.is_empty());
    }
}
