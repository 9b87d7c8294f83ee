//! What the boot loader says, in one form for both protocols.

use hypervisor_core::MemoryRange;

/// Most ranges of the memory map and most modules that are looked at.
pub const MAX_RANGES: usize = 256;
/// See [`MAX_RANGES`].
pub const MAX_MODULES: usize = 64;

/// A boot module: bytes in memory, and a string.
#[derive(Clone, Copy, Debug, Default)]
pub struct Module {
    /// First byte.
    pub start: u64,
    /// Byte behind the last.
    pub end: u64,
    /// Machine address of its string, 0 for none.
    pub string: u64,
}

/// All of it. Lives on the boot stack, because there is no heap yet.
pub struct BootInfo {
    /// Machine address of the command line, 0 for none.
    pub cmdline: u64,
    /// Whether command lines start with a file name that is no option.
    pub names_first: bool,
    /// Modules in the loader's order.
    pub modules: [Module; MAX_MODULES],
    /// How many there are.
    pub module_count: usize,
    /// The firmware's memory map.
    pub ranges: [MemoryRange; MAX_RANGES],
    /// How many ranges there are.
    pub range_count: usize,
    /// Machine address of the RSDP, 0 when the loader does not say.
    pub rsdp: u64,
}

impl BootInfo {
    /// Nothing known.
    pub const fn new() -> Self {
        Self {
            cmdline: 0,
            names_first: false,
            modules: [Module { start: 0, end: 0, string: 0 }; MAX_MODULES],
            module_count: 0,
            ranges: [MemoryRange { start: 0, size: 0, kind: 0 }; MAX_RANGES],
            range_count: 0,
            rsdp: 0,
        }
    }

    /// Adds a range of the memory map.
    pub fn add_range(&mut self, start: u64, size: u64, kind: u32) {
        if size != 0 && self.range_count < MAX_RANGES {
            self.ranges[self.range_count] = MemoryRange { start, size, kind };
            self.range_count += 1;
        }
    }

    /// Adds a module.
    pub fn add_module(&mut self, module: Module) {
        if self.module_count < MAX_MODULES {
            self.modules[self.module_count] = module;
            self.module_count += 1;
        }
    }

    /// The modules.
    pub fn modules(&self) -> &[Module] {
        &self.modules[..self.module_count]
    }

    /// The memory map.
    pub fn ranges(&self) -> &[MemoryRange] {
        &self.ranges[..self.range_count]
    }
}
