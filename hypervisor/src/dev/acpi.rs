//! What the hypervisor reads from ACPI's static tables: CPUs, IOAPICs, interrupt overrides, timers, power registers.
//!
//! The tables are read through the direct map, at boot only. A machine without ACPI gets the PC's defaults: one CPU, no
//! IOAPIC.

use crate::mm::layout::DIRECT_MAP;
use crate::mm::tables;
use acpi::address::{AddressSpace, GenericAddress};
use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiHandler, AcpiTables, HpetInfo, PhysicalMapping};
use alloc::vec::Vec;
use core::ptr::NonNull;
use hypervisor_core::platform::Line;

/// An IOAPIC as the MADT lists it.
#[derive(Clone, Copy, Debug)]
pub struct IoApicInfo {
    /// Machine address of its registers.
    pub address: u64,
    /// First GSI that it serves.
    pub gsi_base: u32,
}

/// An ISA interrupt that does not go straight to the GSI of its number.
#[derive(Clone, Copy, Debug)]
pub struct Override {
    /// ISA interrupt.
    pub irq: u8,
    /// Its GSI.
    pub gsi: u32,
    /// How the line signals.
    pub line: Line,
}

/// A register in memory or I/O space.
#[derive(Clone, Copy, Debug)]
pub enum Register {
    /// Machine address.
    Memory(u64),
    /// I/O port.
    Port(u16),
}

/// Power registers of the FADT.
#[derive(Clone, Copy, Debug, Default)]
pub struct PowerRegisters {
    /// Reset register and the value to write.
    pub reset: Option<(Register, u8)>,
    /// PM1a and PM1b control registers.
    pub pm1: [Option<Register>; 2],
    /// `SLP_TYP` values of S5 for PM1a and PM1b.
    pub s5: Option<(u8, u8)>,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct AcpiInfo {
    /// Local APIC and ACPI processor identifiers of usable CPUs.
    pub cpus: Vec<(u32, u32)>,
    /// IOAPICs.
    pub ioapics: Vec<IoApicInfo>,
    /// ISA overrides.
    pub overrides: Vec<Override>,
    /// Registers of the HPET.
    pub hpet: Option<u64>,
    /// PM timer (3.579545 MHz).
    pub pm_timer: Option<Register>,
    /// Power registers.
    pub power: PowerRegisters,
    /// Machine address of the RSDP.
    pub rsdp: u64,
}

#[derive(Clone, Copy)]
struct DirectMap;

impl AcpiHandler for DirectMap {
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> PhysicalMapping<Self, T> {
        // Tables above what is mapped as RAM at boot are mapped on demand by the direct map's extension.
        let end = (address + size) as u64;
        assert!(tables::extend_direct_map(end).is_ok(), "no memory to map an ACPI table");
        let at = NonNull::new((DIRECT_MAP + address as u64) as *mut T).expect("the direct map is not at 0");
        // SAFETY: mapped above, for ever.
        unsafe { PhysicalMapping::new(address, at, size, size, *self) }
    }

    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {}
}

/// Reads the tables. `rsdp` is what the boot loader said, 0 for nothing: then the BIOS area is searched.
pub fn read(rsdp: u64) -> AcpiInfo {
    let mut info = AcpiInfo::default();
    // SAFETY: the handler maps what the tables name; the crate checks signatures and checksums.
    let tables = unsafe {
        match rsdp {
            0 => AcpiTables::search_for_rsdp_bios(DirectMap),
            at => AcpiTables::from_rsdp(DirectMap, at as usize),
        }
    };
    info.rsdp = if rsdp != 0 { rsdp } else { find_rsdp() };
    let Ok(tables) = tables else { return info };
    if let Ok(madt) = tables.find_table::<Madt>() {
        read_madt(&madt, &mut info);
    }
    info.hpet = HpetInfo::new(&tables).ok().map(|hpet| hpet.base_address as u64);
    if let Ok(fadt) = tables.find_table::<Fadt>() {
        read_fadt(&fadt, &tables, &mut info);
    }
    info
}

/// Where in the BIOS area the RSDP is (ACPI 6.5, 5.2.5.1), for the first domain; 0 for nowhere.
fn find_rsdp() -> u64 {
    // SAFETY: the first MiB is in the direct map.
    let at = |addr: u64| unsafe { ((DIRECT_MAP + addr) as *const [u8; 8]).read() };
    // SAFETY: as above.
    let ebda = u64::from(unsafe { ((DIRECT_MAP + 0x40e) as *const u16).read() }) << 4;
    let areas = [(ebda, ebda + 1024), (0xe_0000, 0x10_0000)];
    areas
        .into_iter()
        .filter(|(start, _)| *start >= 0x400)
        .flat_map(|(start, end)| (start..end).step_by(16))
        .find(|addr| at(*addr) == *b"RSD PTR ")
        .unwrap_or(0)
}

fn read_madt(madt: &PhysicalMapping<DirectMap, Madt>, info: &mut AcpiInfo) {
    const ENABLED: u32 = 1;
    for entry in madt.get().entries() {
        match entry {
            MadtEntry::LocalApic(e) if { e.flags } & ENABLED != 0 => {
                info.cpus.push((u32::from(e.apic_id), u32::from(e.processor_id)));
            }
            MadtEntry::LocalX2Apic(e) if { e.flags } & ENABLED != 0 => {
                info.cpus.push(({ e.x2apic_id }, { e.processor_uid }));
            }
            MadtEntry::IoApic(e) => info.ioapics.push(IoApicInfo {
                address: e.io_apic_address.into(),
                gsi_base: { e.global_system_interrupt_base },
            }),
            MadtEntry::InterruptSourceOverride(e) => info.overrides.push(Override {
                irq: e.irq,
                gsi: { e.global_system_interrupt },
                // Polarity in bits 1..0, trigger in bits 3..2; the ISA bus's own are active high and edge.
                line: Line { level: { e.flags } >> 2 & 3 == 3, active_low: { e.flags } & 3 == 3 },
            }),
            _ => {}
        }
    }
}

fn register(address: &GenericAddress) -> Option<Register> {
    match address.address_space {
        AddressSpace::SystemMemory => Some(Register::Memory(address.address)),
        AddressSpace::SystemIo => u16::try_from(address.address).ok().map(Register::Port),
        _ => None,
    }
}

fn read_fadt(fadt: &Fadt, tables: &AcpiTables<DirectMap>, info: &mut AcpiInfo) {
    info.pm_timer = fadt.pm_timer_block().ok().flatten().as_ref().and_then(register);
    info.power.pm1 = [
        fadt.pm1a_control_block().ok().as_ref().and_then(register),
        fadt.pm1b_control_block().ok().flatten().as_ref().and_then(register),
    ];
    let flags = fadt.flags;
    if flags.supports_system_reset_via_fadt() {
        info.power.reset =
            fadt.reset_register().ok().as_ref().and_then(register).map(|r| (r, fadt.reset_value));
    }
    info.power.s5 = tables.dsdt().ok().and_then(|dsdt| {
        assert!(tables::extend_direct_map((dsdt.address + dsdt.length as usize) as u64).is_ok());
        // SAFETY: mapped above; nothing writes ACPI tables.
        let aml = unsafe {
            core::slice::from_raw_parts((DIRECT_MAP + dsdt.address as u64) as *const u8, dsdt.length as usize)
        };
        find_s5(aml)
    });
}

/// The `\_S5` package of the DSDT without an AML interpreter: the name, then `PackageOp PkgLength NumElements` and two
/// byte constants (ACPI 6.5, 7.4.2 and 20.2.5.4).
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
