//! Switching a PC off: what ACPI's tables say about the state S5 (ACPI 6.5: 4.8.3, 5.2.9, 7.4.2).
//!
//! The registers stand in a table. The value to write is in the DSDT, which is a program; but the object `_S5_` is a
//! constant in every known one, so it is searched for and read without running anything.

use crate::platform::loader::Memory;

/// Tables of a list that are looked at, and bytes of a DSDT: what a broken table says is not followed for ever.
const MAX_TABLES: u64 = 64;
/// See [`MAX_TABLES`].
const MAX_DSDT: u64 = 1 << 20;
/// The bit that makes it happen.
const SLEEP_ENABLE: u16 = 1 << 13;

/// How to switch off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftOff {
    registers: [u16; 2],
    types: [u16; 2],
}

fn word(memory: &impl Memory, at: u64) -> u64 {
    u32::from_le_bytes(memory.read(at)).into()
}

impl SoftOff {
    /// Finds it, from the root pointer at `rsdp` or from where a PC's firmware keeps that.
    pub fn find(memory: &impl Memory, rsdp: Option<u64>) -> Option<Self> {
        let is_root = |&at: &u64| memory.read(at) == *b"RSD PTR ";
        let rsdp = rsdp.or_else(|| (0xe_0000..0x10_0000).step_by(16).find(is_root))?;
        let fadt = Self::fadt(memory, rsdp)?;
        let port = |offset| u16::try_from(word(memory, fadt + offset)).unwrap_or(0);
        let registers = [port(64), port(68)];
        let types = Self::types(memory, word(memory, fadt + 40))?;
        (registers[0] != 0).then_some(Self { registers, types })
    }

    /// What to write, and where.
    pub fn writes(&self) -> impl Iterator<Item = (u16, u16)> {
        let pairs = self.registers.into_iter().zip(self.types);
        pairs
            .filter(|(register, _)| *register != 0)
            .map(|(register, kind)| (register, kind << 10 | SLEEP_ENABLE))
    }

    /// The table with the registers, by the root table of 64-bit addresses or the older one.
    fn fadt(memory: &impl Memory, rsdp: u64) -> Option<u64> {
        let [revision] = memory.read(rsdp + 15);
        let (table, size) = if revision >= 2 {
            (u64::from_le_bytes(memory.read(rsdp + 24)), 8)
        } else {
            (word(memory, rsdp + 16), 4)
        };
        let entries = word(memory, table + 4).saturating_sub(36) / size;
        (0..entries.min(MAX_TABLES))
            .map(|entry| table + 36 + entry * size)
            .map(|at| if size == 8 { u64::from_le_bytes(memory.read(at)) } else { word(memory, at) })
            .find(|&at| memory.read(at) == *b"FACP")
    }

    /// The first two elements of the package `_S5_`: `0x12`, its length in one byte, the number of elements, and elements that
    /// are `0x0a` and a byte, or 0 or 1 for themselves.
    fn types(memory: &impl Memory, dsdt: u64) -> Option<[u16; 2]> {
        let end = dsdt + word(memory, dsdt + 4).min(MAX_DSDT);
        let at = (dsdt + 36..end).find(|&at| memory.read(at) == *b"_S5_\x12")?;
        let mut next = at + 7;
        let mut element = || {
            let [first, second] = memory.read(next);
            next += if first == 0x0a { 2 } else { 1 };
            match first {
                0x0a => Some(u16::from(second & 7)),
                0 | 1 => Some(first.into()),
                _ => None,
            }
        };
        let first = element()?;
        Some([first, element().unwrap_or(first)])
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    struct Bytes(Vec<u8>);

    impl Memory for Bytes {
        fn read<const N: usize>(&self, at: u64) -> [u8; N] {
            self.0.get(at as usize..at as usize + N).map_or([0; N], |bytes| bytes.try_into().unwrap())
        }
    }

    impl Bytes {
        fn put(&mut self, at: usize, bytes: &[u8]) {
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Root pointer at 0xf0000, root table at 0x1000, FADT at 0x2000, DSDT at 0x3000.
    fn machine() -> Bytes {
        let mut memory = Bytes(std::vec![0; 1 << 20]);
        memory.put(0xf_0000, b"RSD PTR ");
        memory.put(0xf_0010, &0x1000u32.to_le_bytes());
        memory.put(0x1004, &44u32.to_le_bytes());
        memory.put(0x1024, &[0, 0x50, 0, 0, 0, 0x20, 0, 0]);
        memory.put(0x2000, b"FACP");
        memory.put(0x2028, &0x3000u32.to_le_bytes());
        memory.put(0x2040, &0x604u32.to_le_bytes());
        memory.put(0x3004, &100u32.to_le_bytes());
        memory.put(0x3030, b"_S5_\x12\x06\x04\x0a\x05\x01\x00\x00");
        memory
    }

    #[test]
    fn the_registers_and_the_type_come_from_the_tables() {
        let off = SoftOff::find(&machine(), None).unwrap();
        assert_eq!(off.writes().collect::<Vec<_>>(), [(0x604, 5 << 10 | SLEEP_ENABLE)]);
        let mut two = machine();
        two.put(0x2044, &0x704u32.to_le_bytes());
        let off = SoftOff::find(&two, Some(0xf_0000)).unwrap();
        assert_eq!(off.writes().nth(1), Some((0x704, 1 << 10 | SLEEP_ENABLE)));
    }

    #[test]
    fn without_tables_there_is_no_way() {
        let mut memory = machine();
        memory.put(0x3030, b"_S4_");
        assert_eq!(SoftOff::find(&memory, None), None);
        assert_eq!(SoftOff::find(&Bytes(Vec::new()), None), None);
    }
}
