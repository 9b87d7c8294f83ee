//! Memory types: what the variable-range MTRRs say (SDM volume 3, 12.11; platform.h `XENPF_*_memtype`).
//!
//! The registers stay as the firmware set them, alike on all CPUs: the boot code reads them once into [`MemoryTypes`]. The
//! control domain can read them, and is told that no register is free where it asks for a range that none of them
//! covers; page tables and the PAT are the way to give a page another type.

use alloc::vec::Vec;

use xen_abi::errno::Errno;
use xen_abi::platform::{XenpfAddMemtype, XenpfDelMemtype, XenpfReadMemtype};

/// Valid bit of a mask register.
const VALID: u64 = 1 << 11;
/// Types that a range can have: UC, WC, WT, WP, WB.
const TYPES: [u32; 5] = [0, 1, 4, 5, 6];

/// The variable-range registers.
#[derive(Clone, Debug, Default)]
pub struct MemoryTypes {
    /// IA32_MTRR_PHYSBASE and IA32_MTRR_PHYSMASK, by number; empty on a CPU without MTRRs.
    pub registers: Vec<(u64, u64)>,
    /// Bits of a machine address.
    pub address_bits: u32,
}

/// A range of frames that has a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u64,
    frames: u64,
    kind: u32,
}

impl MemoryTypes {
    /// Frames that a machine address can name.
    fn frames(&self) -> u64 {
        1 << (self.address_bits.clamp(32, 52) - 12)
    }

    /// What a register says; none where it is not in use.
    fn range(&self, (base, mask): (u64, u64)) -> Option<Range> {
        let limit = self.frames() - 1;
        let mask_frames = mask >> 12 & limit;
        // A mask without an address bit would cover everything: such a register is not in use either.
        let used = mask & VALID != 0 && mask_frames != 0;
        used.then(|| Range {
            first: base >> 12 & limit,
            frames: 1 << mask_frames.trailing_zeros(),
            kind: u32::from(base.to_le_bytes()[0]),
        })
    }

    /// The register that a command names.
    fn register(&self, number: u32) -> Result<(u64, u64), Errno> {
        let at = usize::try_from(number).map_err(|_| Errno::EINVAL)?;
        self.registers.get(at).copied().ok_or(Errno::EINVAL)
    }

    /// `XENPF_read_memtype`.
    ///
    /// # Errors
    /// `EINVAL`: there is no such register.
    pub fn read(&self, asked: &mut XenpfReadMemtype) -> Result<(), Errno> {
        let found = self.range(self.register(asked.reg)?);
        let range = found.unwrap_or(Range { first: 0, frames: 0, kind: 0 });
        (asked.mfn, asked.nr_mfns, asked.type_) = (range.first, range.frames, range.kind);
        Ok(())
    }

    /// `XENPF_add_memtype`: finds the register that gives the range this type already.
    ///
    /// # Errors
    /// `ENXIO` without MTRRs; `EINVAL` for a type or a range that no register can hold, or where another type
    /// covers part of it; `ENOSPC` where a register would have to be set.
    pub fn add(&self, asked: &mut XenpfAddMemtype) -> Result<(), Errno> {
        if self.registers.is_empty() {
            return Err(Errno::ENXIO);
        }
        let end =
            asked.mfn.checked_add(asked.nr_mfns).filter(|end| *end <= self.frames()).ok_or(Errno::EINVAL)?;
        let aligned = asked.nr_mfns.is_power_of_two() && asked.mfn.is_multiple_of(asked.nr_mfns);
        if !aligned || !TYPES.contains(&asked.type_) {
            return Err(Errno::EINVAL);
        }
        for (number, register) in (0..).zip(&self.registers) {
            let Some(range) = self.range(*register) else { continue };
            let apart = end <= range.first || asked.mfn >= range.first + range.frames;
            let within = asked.mfn >= range.first && end <= range.first + range.frames;
            match (apart, range.kind == asked.type_) {
                (true, _) => {}
                (false, true) if within => {
                    (asked.handle, asked.reg) = (0, number);
                    return Ok(());
                }
                (false, _) => return Err(Errno::EINVAL),
            }
        }
        Err(Errno::ENOSPC)
    }

    /// `XENPF_del_memtype`.
    ///
    /// # Errors
    /// `EINVAL` where no such register or handle was given; `ENXIO`: the firmware's registers are not taken away.
    pub fn remove(&self, asked: &XenpfDelMemtype) -> Result<(), Errno> {
        self.register(asked.reg)?;
        Err(if asked.handle == 0 { Errno::ENXIO } else { Errno::EINVAL })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2 GiB to 4 GiB uncached, as QEMU's firmware sets it, and two registers without a range.
    fn types() -> MemoryTypes {
        let registers = alloc::vec![(0x8000_0000, 0xff_8000_0800), (6, 0xff_ffff_f000), (6, 0x800)];
        MemoryTypes { registers, address_bits: 40 }
    }

    fn add(mfn: u64, nr_mfns: u64, type_: u32) -> Result<u32, Errno> {
        let mut asked = XenpfAddMemtype { mfn, nr_mfns, type_, reg: 77, ..XenpfAddMemtype::default() };
        types().add(&mut asked).map(|()| asked.reg)
    }

    #[test]
    fn registers_are_read_as_ranges() {
        let read = |reg| {
            let mut asked = XenpfReadMemtype { reg, ..XenpfReadMemtype::default() };
            types().read(&mut asked).map(|()| (asked.mfn, asked.nr_mfns, asked.type_))
        };
        assert_eq!(read(0), Ok((0x8_0000, 0x8_0000, 0)));
        assert_eq!(read(1), Ok((0, 0, 0)), "not valid");
        assert_eq!(read(2), Ok((0, 0, 0)), "no address bits");
        assert_eq!(read(3), Err(Errno::EINVAL));
        assert_eq!(read(u32::MAX), Err(Errno::EINVAL));
    }

    #[test]
    fn ranges_are_found_or_refused() {
        assert_eq!(add(0x9_0000, 0x1000, 0), Ok(0));
        assert_eq!(add(0x9_0000, 0x1000, 1), Err(Errno::EINVAL), "of another type");
        assert_eq!(add(0, 0x10_0000, 0), Err(Errno::EINVAL), "more than the register covers");
        assert_eq!(add(0, 0x1000, 6), Err(Errno::ENOSPC));
        assert_eq!(add(0x1000, 0, 0), Err(Errno::EINVAL));
        assert_eq!(add(0x1800, 0x1000, 0), Err(Errno::EINVAL), "not aligned");
        assert_eq!(add(0x9_0000, 0x1000, 2), Err(Errno::EINVAL), "no such type");
        assert_eq!(add(1 << 28, 1, 6), Err(Errno::EINVAL), "beyond the machine's addresses");
        assert_eq!(add(u64::MAX, 1, 6), Err(Errno::EINVAL));
        assert_eq!(MemoryTypes::default().add(&mut XenpfAddMemtype::default()), Err(Errno::ENXIO));
    }
}
