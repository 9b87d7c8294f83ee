//! Which resources of the machine a domain may use: I/O memory, I/O ports, interrupts.
//!
//! Each kind is a set of numbers, kept as sorted, disjoint, non-adjacent ranges: the few holes that dom0 has make a
//! handful of ranges, so a lookup is a short binary search.

use crate::ids::{Mfn, Pirq};
use alloc::vec::Vec;

/// A set of `u64`, as sorted inclusive ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet(Vec<(u64, u64)>);

impl RangeSet {
    /// The set with nothing in it.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The set with every number in it.
    pub fn all() -> Self {
        let mut set = Self::new();
        set.insert(0, u64::MAX);
        set
    }

    /// Adds `first..=last`; nothing when `first > last`.
    pub fn insert(&mut self, mut first: u64, mut last: u64) {
        if first > last {
            return;
        }
        // Everything that overlaps or touches the new range melts into it.
        let from = self.0.partition_point(|r| r.1 < first && first - r.1 > 1);
        let to = self.0.partition_point(|r| r.0 <= last || r.0 - last == 1);
        if from < to {
            first = first.min(self.0[from].0);
            last = last.max(self.0[to - 1].1);
        }
        self.0.splice(from..to, [(first, last)]);
    }

    /// Takes `first..=last` out.
    pub fn remove(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let from = self.0.partition_point(|r| r.1 < first);
        let to = self.0.partition_point(|r| r.0 <= last);
        if from >= to {
            return;
        }
        let (low, high) = (self.0[from].0, self.0[to - 1].1);
        let left = (low < first).then(|| (low, first - 1));
        let right = (high > last).then(|| (last + 1, high));
        self.0.splice(from..to, left.into_iter().chain(right));
    }

    /// Whether all of `first..=last` is in the set.
    pub fn contains(&self, first: u64, last: u64) -> bool {
        let i = self.0.partition_point(|r| r.1 < first);
        self.0.get(i).is_some_and(|r| r.0 <= first && last <= r.1 && first <= last)
    }

    /// The ranges in ascending order, both ends inclusive.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }
}

/// The resources of the machine that a domain may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Frames (by mfn) that are not RAM and that the domain may map.
    pub iomem: RangeSet,
    /// I/O ports.
    pub ioports: RangeSet,
    /// Interrupts (by pirq).
    pub irqs: RangeSet,
}

impl Permissions {
    /// Nothing is allowed.
    pub const fn none() -> Self {
        Self { iomem: RangeSet::new(), ioports: RangeSet::new(), irqs: RangeSet::new() }
    }

    /// Everything is allowed.
    pub fn all() -> Self {
        let mut ioports = RangeSet::new();
        ioports.insert(0, 0xffff);
        Self { iomem: RangeSet::all(), ioports, irqs: RangeSet::all() }
    }

    /// Takes away what is in `other`.
    pub fn take_away(&mut self, other: &Permissions) {
        other.iomem.iter().for_each(|(first, last)| self.iomem.remove(first, last));
        other.ioports.iter().for_each(|(first, last)| self.ioports.remove(first, last));
        other.irqs.iter().for_each(|(first, last)| self.irqs.remove(first, last));
    }

    /// Whether the domain may map this non-RAM frame.
    pub fn allows_iomem(&self, mfn: Mfn) -> bool {
        self.iomem.contains(mfn.0, mfn.0)
    }

    /// Whether the domain may use all of the `len` ports from `port` on.
    pub fn allows_port(&self, port: u16, len: u16) -> bool {
        len != 0 && self.ioports.contains(u64::from(port), u64::from(port) + u64::from(len) - 1)
    }

    /// Whether the domain may use this interrupt.
    pub fn allows_irq(&self, irq: Pirq) -> bool {
        self.irqs.contains(u64::from(irq.0), u64::from(irq.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn everything_and_nothing() {
        let (all, none) = (Permissions::all(), Permissions::none());
        assert!(all.allows_iomem(Mfn(0xfee00)) && all.allows_port(0xffff, 1) && all.allows_irq(Pirq(9)));
        assert!(!none.allows_iomem(Mfn(0)) && !none.allows_port(0, 1) && !none.allows_irq(Pirq(0)));
        assert!(!all.allows_port(0xffff, 2), "a run of ports past the end");
        assert!(!all.allows_port(0, 0), "an empty run of ports is no access");
    }

    proptest! {
        #[test]
        fn behaves_like_a_set_of_numbers(ops in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..64), 0..40)) {
            let (mut set, mut model) = (RangeSet::new(), [false; 64]);
            for (add, a, b) in ops {
                if add { set.insert(a, b) } else { set.remove(a, b) }
                for slot in model.iter_mut().take(b as usize + 1).skip(a as usize) {
                    *slot = add;
                }
            }
            for (n, expected) in model.iter().enumerate() {
                prop_assert_eq!(set.contains(n as u64, n as u64), *expected);
            }
            let ranges: Vec<_> = set.iter().collect();
            prop_assert!(ranges.iter().all(|r| r.0 <= r.1));
            prop_assert!(ranges.windows(2).all(|w| w[0].1 + 1 < w[1].0), "ranges neither overlap nor touch");
        }
    }
}
