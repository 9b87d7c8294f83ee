//! What the hypervisor reads from ACPI's static tables: CPUs, IOAPICs, interrupt overrides, timers, power registers.
//!
//! The firmware's tables are bytes like any others here: each is copied out whole, its length and checksum are checked, and
//! what is not there or makes no sense is left out. A machine without ACPI gets the PC's defaults: one CPU, no
//! IOAPIC. Offsets are those of the ACPI 6.5 specification, chapter 5.2.

#[cfg(test)]
mod tests;

use crate::platform::Line;
use alloc::vec;
use alloc::vec::Vec;

/// An IOAPIC as the MADT lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApicInfo {
    /// Machine address of its registers.
    pub address: u64,
    /// First GSI that it serves.
    pub gsi_base: u32,
}

/// An ISA interrupt that does not go straight to the GSI of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// ISA interrupt.
    pub irq: u8,
    /// Its GSI.
    pub gsi: u32,
    /// How the line signals.
    pub line: Line,
}

/// A register in memory or I/O space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// Machine address.
    Memory(u64),
    /// I/O port.
    Port(u16),
}

/// Power registers of the FADT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PowerRegisters {
    /// Reset register and the value to write.
    pub reset: Option<(Register, u8)>,
    /// PM1a and PM1b control registers.
    pub pm1: [Option<Register>; 2],
    /// `SLP_TYP` values of S5 for PM1a and PM1b.
    pub s5: Option<(u8, u8)>,
}

/// Memory-mapped PCI configuration space, as the MCFG lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmConfig {
    /// Machine address of bus 0, device 0, function 0, whether it is among the buses or not.
    pub address: u64,
    /// PCI segment group.
    pub segment: u16,
    /// First and last bus.
    pub buses: (u8, u8),
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcpiInfo {
    /// Local APIC and ACPI processor identifiers of usable CPUs.
    pub cpus: Vec<(u32, u32)>,
    /// IOAPICs.
    pub ioapics: Vec<IoApicInfo>,
    /// ISA overrides.
    pub overrides: Vec<Override>,
    /// Machine address of the HPET's registers.
    pub hpet: Option<u64>,
    /// PM timer (3.579545 MHz).
    pub pm_timer: Option<Register>,
    /// Power registers.
    pub power: PowerRegisters,
    /// Memory-mapped PCI configuration space.
    pub mmconfig: Vec<MmConfig>,
    /// Machine address of the RSDP, 0 for none.
    pub rsdp: u64,
}

/// The machine's memory, as far as it can be read.
pub trait Memory {
    /// Copies bytes from a machine address; `None` when they are not all there.
    fn read(&self, at: u64, out: &mut [u8]) -> Option<()>;
}

/// Bytes of the header of every table.
const HEADER: usize = 36;
/// Longest table that is read: a DSDT has some hundred KiB.
const LONGEST: u32 = 16 << 20;
/// Most tables that a root table may name.
const MOST_TABLES: usize = 1024;

/// Reads the tables. `rsdp` is what the boot loader said, 0 for nothing: then the BIOS area is searched.
pub fn read(memory: &impl Memory, rsdp: u64) -> AcpiInfo {
    let mut info = AcpiInfo { rsdp, ..AcpiInfo::default() };
    if rsdp == 0 {
        info.rsdp = find_rsdp(memory).unwrap_or(0);
    }
    for table in tables(memory, info.rsdp).unwrap_or_default() {
        match table.bytes.get(..4) {
            Some(b"APIC") => read_madt(&table, &mut info),
            Some(b"FACP") => read_fadt(memory, &table, &mut info),
            Some(b"MCFG") => read_mcfg(&table, &mut info),
            Some(b"HPET") => info.hpet = table.u64(44),
            _ => {}
        }
    }
    info
}

/// A table, or any other stretch of bytes with numbers in it.
struct Bytes {
    bytes: Vec<u8>,
}

impl Bytes {
    fn read(memory: &impl Memory, at: u64, length: usize) -> Option<Self> {
        let mut bytes = vec![0; length];
        memory.read(at, &mut bytes)?;
        Some(Self { bytes })
    }

    /// A whole table: its header names its length, and all of its bytes sum up to 0.
    fn table(memory: &impl Memory, at: u64) -> Option<Self> {
        let length = Self::read(memory, at, HEADER)?.u32(4).filter(|length| *length <= LONGEST)?;
        let table = Self::read(memory, at, usize::try_from(length).ok()?)?;
        (table.bytes.len() >= HEADER && sums_to_zero(&table.bytes)).then_some(table)
    }

    fn u8(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// A generic address structure (5.2.3.2); address 0 means that there is no such register.
    fn register(&self, at: usize) -> Option<Register> {
        let address = self.u64(at + 4).filter(|address| *address != 0)?;
        match self.u8(at)? {
            0 => Some(Register::Memory(address)),
            1 => u16::try_from(address).ok().map(Register::Port),
            _ => None,
        }
    }

    /// The register of a structure that newer tables have, else the port of the field that all have.
    fn register_or_port(&self, extended: usize, port: usize) -> Option<Register> {
        let old = || self.u32(port).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        self.register(extended).or_else(|| old().map(Register::Port))
    }
}

fn sums_to_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

/// Where in the BIOS area the RSDP is (5.2.5.1).
fn find_rsdp(memory: &impl Memory) -> Option<u64> {
    let ebda = Bytes::read(memory, 0x40e, 2)
        .and_then(|word| word.u16(0))
        .map_or(0, |segment| u64::from(segment) << 4);
    let areas = [(ebda, ebda + 1024), (0xe_0000, 0x10_0000)];
    let usable = areas.into_iter().filter(|(start, _)| *start >= 0x400);
    usable.flat_map(|(start, end)| (start..end).step_by(16)).find(|at| is_rsdp(memory, *at))
}

fn is_rsdp(memory: &impl Memory, at: u64) -> bool {
    let found = Bytes::read(memory, at, 20);
    found.is_some_and(|rsdp| rsdp.bytes.starts_with(b"RSD PTR ") && sums_to_zero(&rsdp.bytes))
}

/// All tables that the root table names and that are whole.
fn tables(memory: &impl Memory, rsdp: u64) -> Option<Vec<Bytes>> {
    if rsdp == 0 || !is_rsdp(memory, rsdp) {
        return None;
    }
    let pointer = Bytes::read(memory, rsdp, 36).or_else(|| Bytes::read(memory, rsdp, 20))?;
    let extended = pointer.u8(15)? >= 2 && sums_to_zero(&pointer.bytes);
    let xsdt = pointer.u64(24).filter(|at| extended && *at != 0).and_then(|at| Bytes::table(memory, at));
    let (root, width) = match xsdt {
        Some(root) => (root, 8),
        None => (Bytes::table(memory, pointer.u32(16)?.into())?, 4),
    };
    let entry = |at| if width == 8 { root.u64(at) } else { root.u32(at).map(u64::from) };
    let entries = (HEADER..).step_by(width).map_while(entry).take(MOST_TABLES);
    Some(entries.filter_map(|at| Bytes::table(memory, at)).collect())
}

/// The interrupt controllers (5.2.12).
fn read_madt(madt: &Bytes, info: &mut AcpiInfo) {
    let mut at = 44;
    while let (Some(kind), Some(length)) = (madt.u8(at), madt.u8(at + 1)) {
        let end = at + usize::from(length);
        if length < 2 || end > madt.bytes.len() {
            return;
        }
        let entry = Bytes { bytes: madt.bytes[at..end].to_vec() };
        // One that is too short for its kind is left out.
        let _ = read_controller(kind, &entry, info);
        at = end;
    }
}

fn read_controller(kind: u8, entry: &Bytes, info: &mut AcpiInfo) -> Option<()> {
    const ENABLED: u32 = 1;
    match kind {
        0 if entry.u32(4)? & ENABLED != 0 => {
            info.cpus.push((entry.u8(3)?.into(), entry.u8(2)?.into()));
        }
        1 => info.ioapics.push(IoApicInfo { address: entry.u32(4)?.into(), gsi_base: entry.u32(8)? }),
        2 => {
            // Polarity in bits 1..0, trigger in bits 3..2; the ISA bus's own are active high and edge.
            let flags = entry.u16(8)?;
            let line = Line { level: flags >> 2 & 3 == 3, active_low: flags & 3 == 3 };
            info.overrides.push(Override { irq: entry.u8(3)?, gsi: entry.u32(4)?, line });
        }
        9 if entry.u32(8)? & ENABLED != 0 => info.cpus.push((entry.u32(4)?, entry.u32(12)?)),
        _ => {}
    }
    Some(())
}

/// Memory-mapped configuration space (PCI Firmware 3.3, 4.1.2).
fn read_mcfg(mcfg: &Bytes, info: &mut AcpiInfo) {
    const ENTRY: usize = 16;
    let entry = |at| {
        let buses = (mcfg.u8(at + 10)?, mcfg.u8(at + 11)?);
        // The whole entry must be there.
        mcfg.u32(at + 12)?;
        Some(MmConfig { address: mcfg.u64(at)?, segment: mcfg.u16(at + 8)?, buses })
    };
    info.mmconfig.extend((HEADER + 8..).step_by(ENTRY).map_while(entry));
}

/// The fixed registers (5.2.9).
fn read_fadt(memory: &impl Memory, fadt: &Bytes, info: &mut AcpiInfo) {
    const RESET_SUPPORTED: u32 = 1 << 10;
    info.pm_timer = fadt.register_or_port(208, 76);
    info.power.pm1 = [fadt.register_or_port(172, 64), fadt.register_or_port(184, 68)];
    if fadt.u32(112).is_some_and(|flags| flags & RESET_SUPPORTED != 0) {
        info.power.reset = fadt.register(116).zip(fadt.u8(128));
    }
    let dsdt = fadt.u64(140).filter(|at| *at != 0).or_else(|| fadt.u32(40).map(u64::from));
    info.power.s5 = dsdt.and_then(|at| Bytes::table(memory, at)).and_then(|dsdt| find_s5(&dsdt.bytes));
}

/// The `\_S5` package of the DSDT without an AML interpreter: the name, then `PackageOp PkgLength NumElements` and two
/// byte constants (7.4.2 and 20.2.5.4).
fn find_s5(aml: &[u8]) -> Option<(u8, u8)> {
    const PACKAGE: u8 = 0x12;
    const BYTE_PREFIX: u8 = 0x0a;
    let at = aml.windows(5).position(|w| w == [b'_', b'S', b'5', b'_', PACKAGE])?;
    let length_byte = *aml.get(at + 5)?;
    let mut rest = aml.get(at + 6 + usize::from(length_byte >> 6) + 1..)?.iter().copied();
    let mut constant = || match rest.next()? {
        BYTE_PREFIX => rest.next(),
        0 => Some(0),
        1 => Some(1),
        _ => None,
    };
    Some((constant()?, constant()?))
}
