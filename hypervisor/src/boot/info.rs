//! What the boot loader says, in one form for both protocols.

use hypervisor_core::MemoryRange;
use hypervisor_core::memory_map::{self, MapError};

/// Most ranges of the memory map.
pub const MAX_RANGES: usize = 256;
/// Most bytes of a string of the loader's that are read.
pub const MAX_TEXT: u64 = 8192;
/// Most modules.
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
    /// The firmware's memory map, as it is until [`BootInfo::settle`].
    ranges: [MemoryRange; MAX_RANGES],
    /// How many ranges there are.
    range_count: usize,
    /// What did not fit, or could not be read.
    overflow: Option<MapError>,
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
            overflow: None,
            rsdp: 0,
        }
    }

    /// Remembers that what the loader says cannot be read.
    pub fn set_out_of_reach(&mut self) {
        self.overflow = Some(MapError::RecordsOutOfReach);
    }

    /// Adds a range of the memory map; answers whether there was room.
    pub fn add_range(&mut self, start: u64, size: u64, kind: u32) -> bool {
        let fits = size == 0 || self.range_count < MAX_RANGES;
        if !fits {
            self.overflow = Some(MapError::TooManyRanges);
        } else if size != 0 {
            self.ranges[self.range_count] = MemoryRange { start, size, kind };
            self.range_count += 1;
        }
        fits
    }

    /// Adds a module; answers whether there was room.
    pub fn add_module(&mut self, module: Module) -> bool {
        let fits = self.module_count < MAX_MODULES;
        if fits {
            self.modules[self.module_count] = module;
            self.module_count += 1;
        } else {
            self.overflow = Some(MapError::TooManyModules);
        }
        fits
    }

    /// Puts the memory map in order, and looks at the modules with the hypervisor's own image at `image`. Fails for what cannot be.
    #[inline(never)]
    pub fn settle(&mut self, image: (u64, u64)) -> Result<(), MapError> {
        if let Some(error) = self.overflow {
            return Err(error);
        }
        let raw = self.ranges;
        let mut bounds = [0; 2 * MAX_RANGES];
        self.range_count = memory_map::settle(&raw[..self.range_count], &mut self.ranges, &mut bounds)?;
        if self.range_count == 0 {
            // There is a sentence for that.
            return Ok(());
        }
        let modules = self.modules().iter().map(|module| (module.start, module.end));
        memory_map::check_modules(self.ranges(), image, modules)
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
