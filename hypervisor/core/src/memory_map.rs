//! The firmware's memory map, made fit to be believed: sorted, without overlaps, and what two ranges claim is what the more careful
//! one says. And whether boot modules lie where modules can.
//!
//! There is no heap when this is needed, so everything is done within slices of the caller's.

use crate::MemoryRange;
use crate::order::sort_few;
use core::fmt;

/// RAM, in the numbers of E820.
pub const RAM: u32 = 1;

/// Why a machine cannot be booted with what its firmware and its loader say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// There are more ranges than fit.
    TooManyRanges,
    /// This range ends beyond the last address.
    RangeWraps(u64),
    /// There are more modules than fit.
    TooManyModules,
    /// This module, counted from 1, ends before it begins.
    ModuleEnds(usize),
    /// This module is not in RAM.
    ModuleNotInRam(usize),
    /// What the loader says lies where the boot code cannot read.
    RecordsOutOfReach,
    /// These two modules, or a module and the hypervisor (0), share bytes.
    ModulesOverlap(usize, usize),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyRanges => f.write_str("the memory map has too many ranges"),
            Self::RangeWraps(start) => {
                write!(f, "the range of the memory map at {start:#x} ends beyond the last address")
            }
            Self::TooManyModules => f.write_str("there are too many boot modules"),
            Self::ModuleEnds(n) => write!(f, "boot module {n} ends before it begins"),
            Self::ModuleNotInRam(n) => write!(f, "boot module {n} is not in RAM as the memory map has it"),
            Self::RecordsOutOfReach => f.write_str("the boot loader's records are not below 4 GiB"),
            Self::ModulesOverlap(0, n) => write!(f, "boot module {n} overlaps the hypervisor"),
            Self::ModulesOverlap(a, b) => write!(f, "boot modules {a} and {b} overlap"),
        }
    }
}

/// Who wins where two ranges overlap: RAM never, reserved memory always, and in between what must be kept longer.
fn rank(kind: u32) -> u32 {
    match kind {
        RAM => 0,
        3 => 1,
        4 => 2,
        2 => 5,
        5 => 4,
        _ => 3,
    }
}

fn end_of(range: &MemoryRange) -> Result<u64, MapError> {
    range.start.checked_add(range.size).ok_or(MapError::RangeWraps(range.start))
}

/// Puts `map` in order, ranges that touch and are of one kind as one, and answers how many are in `to`, whose other elements stay as
/// they are. `bounds` is room for twice as many numbers as there are ranges.
///
/// # Errors
/// [`MapError::RangeWraps`]; [`MapError::TooManyRanges`] when `to` (at most twice as many as in `map` are needed) or `bounds` are too
/// short.
pub fn settle(map: &[MemoryRange], to: &mut [MemoryRange], bounds: &mut [u64]) -> Result<usize, MapError> {
    let bounds = bounds.get_mut(..2 * map.len()).ok_or(MapError::TooManyRanges)?;
    for (range, pair) in map.iter().zip(bounds.as_chunks_mut::<2>().0) {
        *pair = [range.start, end_of(range)?];
    }
    sort_few(bounds, |bound| *bound);
    let mut count = 0;
    for pair in bounds.windows(2) {
        let &[start, end] = pair else { continue };
        let covers = |range: &&MemoryRange| range.start <= start && end - range.start <= range.size;
        if start == end {
            continue;
        }
        let Some(kind) =
            map.iter().filter(covers).map(|range| range.kind).max_by_key(|kind| (rank(*kind), *kind))
        else {
            continue;
        };
        match to[..count].last_mut() {
            Some(last) if last.kind == kind && last.start + last.size == start => last.size += end - start,
            _ => {
                *to.get_mut(count).ok_or(MapError::TooManyRanges)? =
                    MemoryRange { start, size: end - start, kind };
                count += 1;
            }
        }
    }
    Ok(count)
}

/// Looks whether boot modules (`start..end`) can be what they say: in RAM of this settled map, and nothing that overlaps another
/// one or the hypervisor's own image.
///
/// # Errors
/// What is wrong with the first one that cannot be.
pub fn check_modules(
    map: &[MemoryRange],
    image: (u64, u64),
    modules: impl Iterator<Item = (u64, u64)> + Clone,
) -> Result<(), MapError> {
    let overlap = |a: (u64, u64), b: (u64, u64)| a.0.max(b.0) < a.1.min(b.1);
    for (n, module) in modules.clone().enumerate() {
        let number = n + 1;
        let (start, end) = module;
        if end < start {
            return Err(MapError::ModuleEnds(number));
        }
        // Of a settled map: RAM that touches is one range. An empty module has no byte, but an address that is mapped.
        let last = end.max(start.saturating_add(1));
        let within = |range: &MemoryRange| {
            range.kind == RAM && range.start <= start && last - range.start <= range.size
        };
        if !map.iter().any(within) {
            return Err(MapError::ModuleNotInRam(number));
        }
        if overlap(module, image) {
            return Err(MapError::ModulesOverlap(0, number));
        }
        if let Some(other) = modules.clone().take(n).position(|other| overlap(module, other)) {
            return Err(MapError::ModulesOverlap(other + 1, number));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec::Vec;
    use proptest::prelude::*;
    use std::vec;

    const NONE: MemoryRange = MemoryRange { start: 0, size: 0, kind: 0 };

    fn range(start: u64, end: u64, kind: u32) -> MemoryRange {
        MemoryRange { start, size: end - start, kind }
    }

    fn settled(map: &[MemoryRange]) -> Result<Vec<MemoryRange>, MapError> {
        let (mut to, mut bounds) = (vec![NONE; 2 * map.len()], vec![0; 2 * map.len()]);
        let count = settle(map, &mut to, &mut bounds)?;
        to.truncate(count);
        Ok(to)
    }

    /// The map of a usual PC stays as it is, in whatever order its ranges come.
    #[test]
    fn a_good_map_is_kept() {
        let good = [
            range(0, 0x9fc00, RAM),
            range(0x9fc00, 0xa0000, 2),
            range(0xf0000, 0x10_0000, 2),
            range(0x10_0000, 0x3ffe_0000, RAM),
            range(0x3ffe_0000, 0x4000_0000, 3),
            range(0x1_0000_0000, 0x2_0000_0000, RAM),
        ];
        assert_eq!(settled(&good).unwrap(), good);
        let mut turned = good;
        turned.reverse();
        assert_eq!(settled(&turned).unwrap(), good);
        assert_eq!(settled(&[]), Ok(vec![]));
    }

    #[test]
    fn reserved_wins_and_ram_is_counted_once() {
        let map = [range(0, 0x8000, RAM), range(0x2000, 0x3000, 2), range(0x1000, 0x9000, RAM)];
        let expected = [range(0, 0x2000, RAM), range(0x2000, 0x3000, 2), range(0x3000, 0x9000, RAM)];
        assert_eq!(settled(&map).unwrap(), expected);
        let acpi = [range(0, 0x4000, 3), range(0x1000, 0x2000, 4), range(0x3000, 0x5000, 77)];
        let expected = [
            range(0, 0x1000, 3),
            range(0x1000, 0x2000, 4),
            range(0x2000, 0x3000, 3),
            range(0x3000, 0x5000, 77),
        ];
        assert_eq!(settled(&acpi).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_is_said() {
        let wraps = [MemoryRange { start: u64::MAX - 5, size: 7, kind: RAM }];
        assert_eq!(settled(&wraps), Err(MapError::RangeWraps(u64::MAX - 5)));
        assert!(settled(&[MemoryRange { start: u64::MAX - 5, size: 5, kind: 2 }]).is_ok());
        let two = [range(0, 1, RAM), range(5, 6, RAM)];
        assert_eq!(settle(&two, &mut [NONE; 1], &mut [0; 4]), Err(MapError::TooManyRanges));
        assert_eq!(settle(&two, &mut [NONE; 4], &mut [0; 3]), Err(MapError::TooManyRanges));
        let map = [range(0x10_0000, 0x4000_0000, RAM), range(0x4000_0000, 0x4001_0000, 2)];
        let image = (0x20_0000, 0x30_0000);
        let check = |modules: &[(u64, u64)]| check_modules(&map, image, modules.iter().copied());
        assert_eq!(check(&[(0x40_0000, 0x50_0000), (0x50_0000, 0x50_0001), (0x50_0001, 0x50_0001)]), Ok(()));
        assert_eq!(check(&[(0x40_0000, 0x3f_ffff)]), Err(MapError::ModuleEnds(1)));
        for wrong in [(0x3fff_ffff, 0x4000_0001), (0x8000_0000, 0x8000_0000), (0xf_ffff, 0x11_0000), (1, 2)] {
            assert_eq!(
                check(&[(0x40_0000, 0x50_0000), wrong]),
                Err(MapError::ModuleNotInRam(2)),
                "{wrong:x?}"
            );
        }
        assert_eq!(check(&[(u64::MAX, u64::MAX)]), Err(MapError::ModuleNotInRam(1)));
        assert_eq!(check(&[(0x2f_ffff, 0x40_0000)]), Err(MapError::ModulesOverlap(0, 1)));
        let twice = check(&[(0x40_0000, 0x50_0000), (0x60_0000, 0x70_0000), (0x4f_ffff, 0x51_0000)]);
        assert_eq!(twice, Err(MapError::ModulesOverlap(1, 3)));
        assert_eq!(twice.unwrap_err().to_string(), "boot modules 1 and 3 overlap");
    }

    /// A small machine, whose bytes can be looked at one by one.
    fn maps() -> impl Strategy<Value = Vec<MemoryRange>> {
        let one =
            (0u64..60, 0u64..30, 0u32..7).prop_map(|(start, size, kind)| MemoryRange { start, size, kind });
        prop::collection::vec(one, 0..12)
    }

    proptest! {
        /// Against a look at each byte: it is what the highest claim on it says, and the result is sorted, without overlaps, and has no
        /// two ranges that could be one.
        #[test]
        fn each_byte_is_what_the_most_careful_range_says(map in maps()) {
            let result = settled(&map).unwrap();
            let at = |map: &[MemoryRange], byte: u64| {
                let here = map.iter().filter(|r| r.start <= byte && byte < r.start + r.size).map(|r| r.kind);
                here.max_by_key(|kind| (rank(*kind), *kind))
            };
            for byte in 0..100 {
                prop_assert_eq!(at(&result, byte), at(&map, byte), "byte {}", byte);
                let claims = |kind| map.iter().any(|r| r.kind == kind && r.start <= byte && byte < r.start + r.size);
                prop_assert!(!claims(2) || at(&result, byte) == Some(2));
                let only_ram = map.iter().all(|r| r.kind == RAM || !(r.start..r.start + r.size).contains(&byte));
                prop_assert!(at(&result, byte) != Some(RAM) || only_ram);
            }
            for pair in result.windows(2) {
                let end = pair[0].start + pair[0].size;
                prop_assert!(end < pair[1].start || end == pair[1].start && pair[0].kind != pair[1].kind);
            }
            prop_assert!(result.iter().all(|r| r.size != 0) && settled(&result).unwrap() == result);
        }

        /// No map and no module makes it panic.
        #[test]
        fn anything_is_survived(
            map in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u32>()), 0..8),
            modules in prop::collection::vec((any::<u64>(), any::<u64>()), 0..8),
        ) {
            let map: Vec<_> = map.into_iter().map(|(start, size, kind)| MemoryRange { start, size, kind }).collect();
            if let Ok(map) = settled(&map) {
                let _ = check_modules(&map, (0, 5), modules.into_iter());
            }
        }
    }
}
