//! What the boot loader said, by either protocol: the command line, the first module, the memory map.
//!
//! It is read once, into memory of the image, before any other memory is used: the loader's records lie anywhere.

use spin::Once;
use xen_abi::hvm_start_info::XEN_HVM_START_MAGIC_VALUE;
use xen_abi::xen::MAX_GUEST_CMDLINE;

use crate::memory::Region;

/// What a multiboot loader leaves in `eax` (Multiboot 0.6.96, 3.2).
pub const MULTIBOOT: u32 = 0x2bad_b002;
/// Most ranges of the memory map that are looked at.
const MAX_RANGES: usize = 64;
/// Where the PC's first megabyte ends.
const MEGABYTE: u64 = 1 << 20;

/// All of it.
#[derive(Clone, Debug)]
pub struct Said {
    /// The command line, zero-terminated.
    pub command_line: [u8; MAX_GUEST_CMDLINE],
    /// The first module: where, and how many bytes.
    pub module: Option<(u64, u64)>,
    /// Where the firmware's root table is, if the loader knows.
    pub rsdp: Option<u64>,
    ranges: [Region; MAX_RANGES],
    count: usize,
}

static SAID: Once<Said> = Once::new();

/// Keeps it.
pub fn keep(said: Said) -> &'static Said {
    SAID.call_once(|| said)
}

/// What was kept.
///
/// # Panics
///
/// Before [`keep`].
pub fn said() -> &'static Said {
    SAID.get().expect("the entry keeps it before anything else runs")
}

/// Physical memory.
pub trait Memory {
    /// The bytes at `at`.
    fn read<const N: usize>(&self, at: u64) -> [u8; N];
}

fn word(memory: &impl Memory, at: u64) -> u64 {
    u32::from_le_bytes(memory.read(at)).into()
}

fn long(memory: &impl Memory, at: u64) -> u64 {
    u64::from_le_bytes(memory.read(at))
}

impl Said {
    const fn new() -> Self {
        Self {
            command_line: [0; MAX_GUEST_CMDLINE],
            module: None,
            rsdp: None,
            ranges: [Region { start: 0, size: 0, kind: 0 }; MAX_RANGES],
            count: 0,
        }
    }

    /// Reads what a loader with `magic` in `eax` left at `info`.
    pub fn read(memory: &impl Memory, magic: u32, info: u64) -> Self {
        let mut said = Self::new();
        if magic == MULTIBOOT {
            said.multiboot(memory, info);
        } else if word(memory, info) == u64::from(XEN_HVM_START_MAGIC_VALUE) {
            said.pvh(memory, info);
        }
        said
    }

    /// The memory map.
    pub fn ranges(&self) -> &[Region] {
        &self.ranges[..self.count]
    }

    /// The end of the range of memory that begins at or below 1 MiB and goes beyond it: where kernels are loaded. It ends
    /// where a range begins that is no memory: the maps of some machines have such within memory, and they count.
    pub fn memory_end(&self) -> Option<u64> {
        let ends =
            self.ranges().iter().filter(|range| range.kind == Region::RAM && { range.start } <= MEGABYTE);
        let end = ends.filter_map(Region::end).filter(|end| *end > MEGABYTE).max()?;
        let others = self.ranges().iter().filter(|range| range.kind != Region::RAM);
        let behind = others.filter(|range| range.end().is_none_or(|end| end > MEGABYTE));
        let end = behind.map(|range| range.start).fold(end, u64::min);
        (end > MEGABYTE).then_some(end)
    }

    /// Takes a memory map from elsewhere, where the loader gave none: `fetch` fills it in and says how many ranges it
    /// has.
    pub fn complete(&mut self, fetch: impl FnOnce(&mut [Region]) -> usize) {
        if self.count == 0 {
            self.count = fetch(&mut self.ranges).min(MAX_RANGES);
        }
    }

    fn add(&mut self, start: u64, size: u64, kind: u32) {
        if size != 0 && self.count < MAX_RANGES {
            self.ranges[self.count] = Region { start, size, kind };
            self.count += 1;
        }
    }

    fn take_line(&mut self, memory: &impl Memory, at: u64) {
        // The last byte stays the terminator.
        for (offset, byte) in (0u64..).zip(&mut self.command_line[..MAX_GUEST_CMDLINE - 1]) {
            let [read] = memory.read(at + offset);
            if at == 0 || read == 0 {
                break;
            }
            *byte = read;
        }
    }

    /// Multiboot 0.6.96, 3.3.
    fn multiboot(&mut self, memory: &impl Memory, info: u64) {
        let flags = word(memory, info);
        if flags & 1 << 2 != 0 {
            self.take_line(memory, word(memory, info + 16));
        }
        if flags & 1 << 3 != 0 && word(memory, info + 20) > 0 {
            let first = word(memory, info + 24);
            let (start, end) = (word(memory, first), word(memory, first + 4));
            self.module = Some((start, end.saturating_sub(start)));
        }
        if flags & 1 << 6 != 0 {
            let mut at = word(memory, info + 48);
            let end = at + word(memory, info + 44);
            while at < end {
                self.add(
                    long(memory, at + 4),
                    long(memory, at + 12),
                    u32::from_le_bytes(memory.read(at + 20)),
                );
                at += word(memory, at) + 4;
            }
        } else if flags & 1 != 0 {
            self.add(MEGABYTE, word(memory, info + 8) << 10, Region::RAM);
        }
    }

    /// arch-x86/hvm/start_info.h; the types of its memory map are those of the firmware's.
    fn pvh(&mut self, memory: &impl Memory, info: u64) {
        self.take_line(memory, long(memory, info + 24));
        self.rsdp = Some(long(memory, info + 32)).filter(|&at| at != 0);
        if word(memory, info + 12) > 0 {
            let first = long(memory, info + 16);
            self.module = Some((long(memory, first), long(memory, first + 8)));
        }
        if word(memory, info + 4) >= 1 {
            let map = long(memory, info + 40);
            for entry in (0..word(memory, info + 48)).map(|index| map + index * 24) {
                let kind = u32::from_le_bytes(memory.read(entry + 16));
                self.add(long(memory, entry), long(memory, entry + 8), kind);
            }
        }
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

    fn memory(pieces: &[(usize, &[u8])]) -> Bytes {
        let mut memory = Bytes(std::vec![0; 0x1000]);
        for (at, bytes) in pieces {
            memory.0[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        memory
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn line(said: &Said) -> &[u8] {
        said.command_line.split(|&byte| byte == 0).next().unwrap()
    }

    #[test]
    fn multiboot_gives_line_module_and_map() {
        let info = words(&[0x4c, 0, 0, 0, 0x200, 1, 0x300, 0, 0, 0, 0, 48, 0x400]);
        let map = words(&[20, 0, 0, 0x9_fc00, 0, 1, 20, 0x10_0000, 0, 0x700_0000, 0, 1]);
        let memory = memory(&[
            (0x100, &info),
            (0x200, b"kernel a b"),
            (0x300, &words(&[0x5000, 0x5123])),
            (0x400, &map),
        ]);
        let said = Said::read(&memory, MULTIBOOT, 0x100);
        assert_eq!((line(&said), said.module, said.rsdp), (&b"kernel a b"[..], Some((0x5000, 0x123)), None));
        assert_eq!((said.ranges().len(), said.memory_end()), (2, Some(0x710_0000)));
    }

    #[test]
    fn memory_ends_where_something_else_begins_within_it() {
        let mut said = Said::new();
        said.add(0, 0x1000_0000, Region::RAM);
        said.add(0xf_0000, 0x1_0000, 2);
        assert_eq!(said.memory_end(), Some(0x1000_0000), "below 1 MiB");
        said.add(0x800_0000, 0x1000, 2);
        assert_eq!(said.memory_end(), Some(0x800_0000));
        said.add(0x700_0000, u64::MAX, 2);
        assert_eq!(said.memory_end(), Some(0x700_0000), "its end is beyond all");
        said.add(0xf_0000, 0x2_0000, 2);
        assert_eq!(said.memory_end(), None);
    }

    #[test]
    fn pvh_gives_line_module_map_and_tables() {
        let info = words(&[XEN_HVM_START_MAGIC_VALUE, 1, 0, 1, 0x300, 0, 0x200, 0, 0x777, 0, 0x400, 0, 1, 0]);
        let map = words(&[0, 0, 0x1000_0000, 0, 1, 0]);
        let module = words(&[0x5000, 0, 0x10, 0]);
        let memory = memory(&[(0x100, &info), (0x200, b"a"), (0x300, &module), (0x400, &map)]);
        let said = Said::read(&memory, 0, 0x100);
        assert_eq!((line(&said), said.module, said.rsdp), (&b"a"[..], Some((0x5000, 0x10)), Some(0x777)));
        assert_eq!(said.memory_end(), Some(0x1000_0000));
    }

    #[test]
    fn a_stranger_says_nothing_and_a_long_line_ends() {
        let said = Said::read(&memory(&[]), 0, 0x100);
        assert_eq!((line(&said), said.module, said.memory_end()), (&b""[..], None, None));
        let info = words(&[4, 0, 0, 0, 0x200]);
        let said = Said::read(&memory(&[(0x100, &info), (0x200, &[b'x'; 0xe00])]), MULTIBOOT, 0x100);
        assert_eq!(line(&said).len(), MAX_GUEST_CMDLINE - 1);
    }
}
