//! The hypervisor's part of every address space: L4 slots 256..=271, the hole that the PV ABI leaves
//! (`HYPERVISOR_VIRT_START` and `_END`, arch-x86/xen-x86_64.h).
//!
//! | slot | start | what |
//! |---|---|---|
//! | 256 | `0xffff800000000000` | machine-to-physical table, readable by guests |
//! | 257 | `0xffff808000000000` | frame table |
//! | 258 | `0xffff810000000000` | per-CPU windows on the current vCPU's GDT and LDT |
//! | 259 | `0xffff818000000000` | device registers, uncached |
//! | 261 | `0xffff828000000000` | frames of the heap that are in no row |
//! | 261 | `0xffff82d080000000` | image; 1 GiB above it the CPU areas, 512 MiB above those the syscall stubs |
//! | 262..271 | `0xffff830000000000` | direct map of all RAM |
//!
//! All address spaces share the level-3 tables behind these slots, which are made at boot and never go away, so a
//! change below them needs no walk over address spaces.

use hypervisor_core::cpumask::MAX_CPUS;

/// First byte of the hypervisor's range.
pub const HYPERVISOR_START: u64 = 0xffff_8000_0000_0000;
/// First byte behind it.
pub const HYPERVISOR_END: u64 = 0xffff_8800_0000_0000;
/// Machine-to-physical table, 8 bytes a frame.
pub const M2P: u64 = 0xffff_8000_0000_0000;
/// First byte behind the part of the range that is the M2P's: all that guests can see.
pub const M2P_END: u64 = FRAME_TABLE;
/// Frame table, 16 bytes a frame.
pub const FRAME_TABLE: u64 = 0xffff_8080_0000_0000;
/// Descriptor-table windows, [`DESCRIPTOR_WINDOW`] bytes a CPU.
pub const DESCRIPTOR_WINDOWS: u64 = 0xffff_8100_0000_0000;
/// Bytes between two CPUs' windows, of which each uses 16 pages for the GDT and 16 for the LDT: what one level-1 table maps, so that a
/// CPU's isolated page tables reach its own window alone (`cpu::isolation`).
pub const DESCRIPTOR_WINDOW: u64 = 2 << 20;
/// Device registers.
pub const DEVICES: u64 = 0xffff_8180_0000_0000;
/// First byte behind them: the machine addresses below the difference can be mapped.
pub const DEVICES_END: u64 = DEVICES + (1 << 39);
/// Frames that are not in a row, side by side for the heap.
pub const HEAP_WINDOW: u64 = 0xffff_8280_0000_0000;
/// First byte behind that (320 GiB).
pub const HEAP_WINDOW_END: u64 = 0xffff_82d0_0000_0000;
/// Where machine address 0 would be in the image's mapping.
pub const IMAGE_BASE: u64 = 0xffff_82d0_8000_0000;
/// CPU areas: stack and per-CPU data, [`CPU_AREA`] bytes a CPU.
pub const CPU_AREAS: u64 = IMAGE_BASE + 0x4000_0000;
/// Bytes of one CPU area; also its alignment, by which a CPU finds its own.
pub const CPU_AREA: u64 = 0x2_0000;
const _: () = assert!(CPU_AREAS + MAX_CPUS as u64 * CPU_AREA <= STUBS);
/// Pages with the CPUs' `syscall` entry stubs, one a CPU. Within 2 GiB of the image and of the CPU areas.
pub const STUBS: u64 = IMAGE_BASE + 0x6000_0000;
/// Direct map.
pub const DIRECT_MAP: u64 = 0xffff_8300_0000_0000;
/// First byte behind the direct map: the most RAM there can be is the difference (5 TiB).
pub const DIRECT_MAP_END: u64 = HYPERVISOR_END;

/// Whether `len` bytes at `va` are canonical and outside the hypervisor's range, so that a guest may name them. What its page
/// tables say there is another question: see `uaccess`.
pub fn guest_range_ok(va: u64, len: usize) -> bool {
    let Some(end) = va.checked_add(len as u64) else { return false };
    end <= 1 << 47 || va >= HYPERVISOR_END
}
