//! A set of physical CPUs.

use crate::ids::CpuId;
use core::sync::atomic::{AtomicU64, Ordering};

/// Most physical CPUs the hypervisor brings up; further ones are left off, and the log says how many are up.
pub const MAX_CPUS: usize = 256;
const WORDS: usize = MAX_CPUS / 64;

/// A plain set of CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuMask([u64; WORDS]);

impl CpuMask {
    /// The set with no CPU.
    pub const EMPTY: CpuMask = CpuMask([0; WORDS]);
    /// The set with every possible CPU.
    pub const ALL: CpuMask = CpuMask([u64::MAX; WORDS]);

    /// The set with just `cpu`.
    pub fn of(cpu: CpuId) -> Self {
        let mut mask = Self::EMPTY;
        mask.insert(cpu);
        mask
    }

    /// Adds `cpu`.
    pub fn insert(&mut self, cpu: CpuId) {
        self.0[cpu.0 as usize / 64] |= 1 << (cpu.0 % 64);
    }

    /// Takes `cpu` out.
    pub fn remove(&mut self, cpu: CpuId) {
        self.0[cpu.0 as usize / 64] &= !(1 << (cpu.0 % 64));
    }

    /// Whether `cpu` is in the set; a CPU number beyond [`MAX_CPUS`] never is.
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0.get(cpu.0 as usize / 64).is_some_and(|w| w & (1 << (cpu.0 % 64)) != 0)
    }

    /// Whether no CPU is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.iter().fold(0, |all, w| all | w) == 0
    }

    /// Whether a CPU other than `cpu` is in the set.
    pub fn has_others(mut self, cpu: CpuId) -> bool {
        self.remove(cpu);
        !self.is_empty()
    }

    /// Whether `cpu` is in the set and no other.
    pub fn is_only(&self, cpu: CpuId) -> bool {
        let (at, bit) = (cpu.0 as usize / 64, 1 << (cpu.0 % 64));
        let differing = self.0.iter().enumerate().map(|(n, word)| word ^ if n == at { bit } else { 0 });
        at < WORDS && differing.fold(0, |all, w| all | w) == 0
    }

    /// What is in both sets.
    pub fn intersect(&self, other: &CpuMask) -> CpuMask {
        CpuMask(core::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    /// What is in either set.
    pub fn union(&self, other: &CpuMask) -> CpuMask {
        CpuMask(core::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// How many CPUs are in the set.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// What is in this set and not in the other.
    pub fn without(&self, other: &CpuMask) -> CpuMask {
        CpuMask(core::array::from_fn(|i| self.0[i] & !other.0[i]))
    }

    /// Whether all CPUs of the set are as `is` says. Cheaper than to walk over [`CpuMask::iter`].
    #[inline(always)]
    pub fn all(&self, is: impl Fn(CpuId) -> bool) -> bool {
        for (n, mut word) in (0u32..).zip(self.0) {
            while word != 0 {
                if !is(CpuId(n * 64 + word.trailing_zeros())) {
                    return false;
                }
                word &= word - 1;
            }
        }
        true
    }

    /// The CPUs in ascending order. Costs a step for each CPU of the set and one for each word of it.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + use<> {
        let (mut words, mut at) = (self.0, 0);
        core::iter::from_fn(move || {
            loop {
                let word = words.get_mut(at)?;
                if *word != 0 {
                    let bit = word.trailing_zeros();
                    *word &= *word - 1;
                    return Some(CpuId(at as u32 * 64 + bit));
                }
                at += 1;
            }
        })
    }
}

/// A set of CPUs that several CPUs change at once; each operation is atomic for itself.
#[derive(Debug, Default)]
pub struct AtomicCpuMask([AtomicU64; WORDS]);

impl AtomicCpuMask {
    /// The empty set.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; WORDS])
    }

    /// Adds `cpu`.
    pub fn insert(&self, cpu: CpuId) {
        self.0[cpu.0 as usize / 64].fetch_or(1 << (cpu.0 % 64), Ordering::SeqCst);
    }

    /// Takes `cpu` out.
    pub fn remove(&self, cpu: CpuId) {
        self.0[cpu.0 as usize / 64].fetch_and(!(1 << (cpu.0 % 64)), Ordering::SeqCst);
    }

    /// Replaces the set, word by word.
    pub fn store(&self, mask: &CpuMask) {
        for (word, value) in self.0.iter().zip(mask.0) {
            word.store(value, Ordering::SeqCst);
        }
    }

    /// Whether `cpu` is in the set.
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0.get(cpu.0 as usize / 64).is_some_and(|w| w.load(Ordering::SeqCst) & (1 << (cpu.0 % 64)) != 0)
    }

    /// A copy of the set, word by word.
    pub fn load(&self) -> CpuMask {
        CpuMask(core::array::from_fn(|i| self.0[i].load(Ordering::SeqCst)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn iteration_names_each_cpu_once_in_order() {
        let cpus = [0, 1, 63, 64, 127, 200, 255].map(CpuId);
        let mut mask = CpuMask::EMPTY;
        cpus.iter().for_each(|cpu| mask.insert(*cpu));
        assert_eq!(mask.iter().collect::<Vec<_>>(), cpus);
        assert_eq!(mask.len(), 7);
        assert_eq!(CpuMask::EMPTY.iter().count(), 0);
        assert_eq!(CpuMask::ALL.iter().count(), MAX_CPUS);
        assert_eq!(mask.without(&CpuMask::of(CpuId(64))).len(), 6);
    }

    #[test]
    fn what_is_said_of_all_is_true_of_each() {
        let cpus = [0, 1, 63, 64, 127, 200, 255].map(CpuId);
        let mut mask = CpuMask::EMPTY;
        cpus.iter().for_each(|cpu| mask.insert(*cpu));
        assert!(mask.all(|cpu| cpus.contains(&cpu)) && CpuMask::EMPTY.all(|_| false));
        for cpu in cpus {
            assert!(!mask.all(|other| other != cpu), "{cpu:?}");
        }
    }

    #[test]
    fn a_set_of_one_is_only_that_one() {
        for cpu in [0, 5, 63, 64, 200, 255].map(CpuId) {
            let mut mask = CpuMask::of(cpu);
            assert!(mask.is_only(cpu) && !CpuMask::EMPTY.is_only(cpu));
            for other in (0..MAX_CPUS as u32).map(CpuId).filter(|other| *other != cpu) {
                assert!(!mask.is_only(other), "{cpu:?} {other:?}");
                mask.insert(other);
                assert!(!mask.is_only(cpu) && !mask.is_only(other), "{cpu:?} {other:?}");
                mask.remove(other);
            }
        }
        assert!(!CpuMask::EMPTY.is_only(CpuId(9999)) && !CpuMask::of(CpuId(1)).is_only(CpuId(9999)));
    }

    #[test]
    fn a_stored_set_is_the_one_that_is_loaded() {
        let mask = CpuMask::of(CpuId(77));
        let shared = AtomicCpuMask::new();
        shared.store(&mask);
        assert_eq!(shared.load(), mask);
        assert!(shared.contains(CpuId(77)) && !shared.contains(CpuId(13)) && !shared.contains(CpuId(9999)));
    }
}
