//! Multiboot 1 (specification 0.6.96, section 3.3).

use super::info::{BootInfo, Module};
use super::phys;

/// What the loader leaves in `eax`.
pub const MAGIC: u32 = 0x2bad_b002;
const CMDLINE: u32 = 1 << 2;
const MODULES: u32 = 1 << 3;
const MEMORY_MAP: u32 = 1 << 6;
const LOADER_NAME: u32 = 1 << 9;

/// Reads the multiboot information at `at`.
pub fn read(at: u64) -> BootInfo {
    let word = |offset: u64| phys::<u32>(at + offset);
    let mut info = BootInfo::new();
    let flags = word(0);
    if flags & CMDLINE != 0 {
        info.cmdline = u64::from(word(16));
    }
    if flags & MODULES != 0 {
        let table = u64::from(word(24));
        for n in 0..u64::from(word(20)) {
            let [start, end, string, _] = phys::<[u32; 4]>(table + n * 16);
            let module = Module { start: start.into(), end: end.into(), string: string.into() };
            if !info.add_module(module) {
                break;
            }
        }
    }
    if flags & MEMORY_MAP != 0 {
        let (mut entry, end) = (u64::from(word(48)), u64::from(word(48)) + u64::from(word(44)));
        while entry < end {
            let (start, size) = phys::<[u64; 2]>(entry + 4).into();
            if !info.add_range(start, size, phys::<u32>(entry + 20)) {
                break;
            }
            entry += u64::from(phys::<u32>(entry)) + 4;
        }
    }
    // GRUB 2 leaves the file name out of the strings; GRUB 1, QEMU and most others put it first.
    let name = if flags & LOADER_NAME != 0 { phys::<[u8; 6]>(u64::from(word(64))) } else { [0; 6] };
    info.names_first = !(name.starts_with(b"GRUB ") && name[5] >= b'2');
    info
}
