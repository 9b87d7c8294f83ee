//! Data segments, for accesses that the hypervisor makes in a guest's place.
//!
//! In 64-bit code a segment is a base at most. In 32-bit code it is what its descriptor says, and the CPU would have checked
//! each access: so is each access here, by SDM volume 3, 3.4.5 and 5.3.

use crate::ids::GuestVirt;

const GRANULAR: u64 = 1 << 55;
const BIG: u64 = 1 << 54;
const PRESENT: u64 = 1 << 47;
const CODE_OR_DATA: u64 = 1 << 44;
const CODE: u64 = 1 << 43;
const DOWN: u64 = 1 << 42;
/// Of data: may be written; of code: may be read.
const WIDER: u64 = 1 << 41;

/// Where a segment lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    base: u64,
    /// The offsets within it; `None`: all.
    offsets: Option<(u64, u64)>,
}

impl Segment {
    /// A segment of 64-bit code.
    #[must_use]
    pub const fn flat(base: u64) -> Self {
        Self { base, offsets: None }
    }

    /// What a descriptor says; `None` where it is none of memory, or of memory that may not be read or, to `write`, written.
    #[must_use]
    pub const fn from_descriptor(descriptor: u64, write: bool) -> Option<Self> {
        let is_code = descriptor & CODE != 0;
        let allowed =
            if write { !is_code && descriptor & WIDER != 0 } else { !is_code || descriptor & WIDER != 0 };
        if descriptor & (PRESENT | CODE_OR_DATA) != PRESENT | CODE_OR_DATA || !allowed {
            return None;
        }
        let limit = descriptor & 0xffff | descriptor >> 32 & 0xf_0000;
        let limit = if descriptor & GRANULAR != 0 { limit << 12 | 0xfff } else { limit };
        let offsets = if !is_code && descriptor & DOWN != 0 {
            // It ends where offsets of its size end.
            (limit + 1, if descriptor & BIG != 0 { u32::MAX as u64 } else { u16::MAX as u64 })
        } else {
            (0, limit)
        };
        let base = descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000;
        Some(Self { base, offsets: Some(offsets) })
    }

    /// The code segment that a descriptor says; `None` where it is no code. What is executed need not be readable.
    #[must_use]
    pub const fn of_code(descriptor: u64) -> Option<Self> {
        if descriptor & CODE == 0 { None } else { Self::from_descriptor(descriptor | WIDER, false) }
    }

    /// The address of `size` bytes at `offset`; `None` where one of them is outside.
    #[must_use]
    pub fn place(self, offset: u64, size: u8) -> Option<GuestVirt> {
        let Some((first, last)) = self.offsets else {
            return Some(GuestVirt(self.base.wrapping_add(offset)));
        };
        let end = offset.checked_add(u64::from(size).saturating_sub(1))?;
        let is_inside = first <= offset && end <= last;
        is_inside.then(|| GuestVirt(self.base.wrapping_add(offset) & u64::from(u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A descriptor of 32-bit data from `base` on, with further bits.
    fn data(base: u64, limit: u64, bits: u64) -> u64 {
        let split = |value: u64, low: u64| (value & low) | (value & !low) << 32;
        split(limit, 0xffff)
            | split(base << 16 & 0xff_ffff_ffff, u64::MAX)
            | (base & 0xff00_0000) << 32
            | PRESENT
            | CODE_OR_DATA
            | BIG
            | bits
    }

    fn place(descriptor: u64, offset: u64, size: u8) -> Option<u64> {
        Segment::from_descriptor(descriptor, false).expect("readable").place(offset, size).map(|at| at.0)
    }

    #[test]
    fn rights_are_the_descriptors() {
        for (bits, read, write) in [
            (0, true, false),
            (WIDER, true, true),
            (DOWN | WIDER, true, true),
            (CODE, false, false),
            (CODE | WIDER, true, false),
        ] {
            let found =
                [false, true].map(|write| Segment::from_descriptor(data(0, 9, bits), write).is_some());
            assert_eq!(found, [read, write], "{bits:x}");
        }
        for missing in [PRESENT, CODE_OR_DATA] {
            assert_eq!(Segment::from_descriptor(data(0, 9, WIDER) & !missing, false), None);
        }
    }

    #[test]
    fn code_need_not_be_readable_and_data_is_none() {
        let code = Segment::of_code(data(0x1234_5678, 0xfff, CODE)).expect("code");
        assert_eq!(code.place(0xffe, 2), Some(GuestVirt(0x1234_5678 + 0xffe)));
        assert_eq!(code.place(0xfff, 2), None);
        assert_eq!(
            Segment::of_code(data(0, 9, CODE | DOWN)),
            Segment::of_code(data(0, 9, CODE)),
            "conforming"
        );
        assert_eq!(Segment::of_code(data(0, 9, WIDER)), None);
        assert_eq!(Segment::of_code(data(0, 9, CODE) & !PRESENT), None);
    }

    #[test]
    fn offsets_end_at_the_limit() {
        let bytes = data(0x1234_5678, 0xa_bcde, 0);
        assert_eq!(place(bytes, 0, 1), Some(0x1234_5678));
        assert_eq!(place(bytes, 0xa_bcdb, 4), Some(0x1234_5678 + 0xa_bcdb));
        assert_eq!(place(bytes, 0xa_bcdc, 4), None);
        assert_eq!(place(bytes, u64::MAX, 2), None);
        let pages = data(0xff00_0000, 1, GRANULAR);
        assert_eq!(place(pages, 0x1fff, 1), Some(0xff00_1fff));
        assert_eq!(place(pages, 0x1fff, 2), None);
        // An address has 32 bits.
        assert_eq!(place(data(0xffff_f000, 0xf_ffff, GRANULAR), 0x2000, 1), Some(0x1000));
    }

    #[test]
    fn a_segment_that_grows_down_begins_behind_its_limit() {
        let big = data(0, 0xfff, DOWN);
        assert_eq!(place(big, 0xfff, 1), None);
        assert_eq!(place(big, 0x1000, 4), Some(0x1000));
        assert_eq!(place(big, 0xffff_fffc, 4), Some(0xffff_fffc));
        assert_eq!(place(big, 0xffff_fffd, 4), None);
        let small = big & !BIG;
        assert_eq!(place(small, 0xfffc, 4), Some(0xfffc));
        assert_eq!(place(small, 0xfffd, 4), None);
    }

    #[test]
    fn in_64_bit_code_only_a_base_counts() {
        assert_eq!(Segment::flat(u64::MAX).place(2, 8), Some(GuestVirt(1)));
    }
}
