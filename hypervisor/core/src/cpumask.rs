//! A set of physical CPUs.

use crate::ids::CpuId;
use core::sync::atomic::{AtomicU64, Ordering};

/// Most physical CPUs the hypervisor brings up; further ones are named in the log and left off.
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

    /// What is in both sets.
    pub fn intersect(&self, other: &CpuMask) -> CpuMask {
        CpuMask(core::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    /// What is in either set.
    pub fn union(&self, other: &CpuMask) -> CpuMask {
        CpuMask(core::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// The CPUs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + '_ {
        let mut words = self.0;
        (0..WORDS).flat_map(move |at| {
            let word = &mut words[at];
            let mut left = core::mem::take(word);
            core::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(CpuId(at as u32 * 64 + bit))
            })
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

    /// A copy of the set, word by word.
    pub fn load(&self) -> CpuMask {
        CpuMask(core::array::from_fn(|i| self.0[i].load(Ordering::SeqCst)))
    }
}
