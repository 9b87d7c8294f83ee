//! Device interrupts: vectors, and the way from a vector to the domain that serves it.
//!
//! An interrupt handler only notes that a vector came and raises `Work::IRQ`; the core takes the noted interrupts one
//! by one ([`take`]) on the way back to a guest, where it may hold locks. A level-triggered line is masked by the handler and
//! stays so until the guest says that it served the device. An interrupt arrives at the boot CPU until the core names another one.

use super::{ioapic, pci, serial};
use crate::cpu::apic;
use crate::cpu::descriptors::INT80_VECTOR;
use crate::cpu::percpu::{cpu, this_cpu};
use alloc::collections::BTreeMap;
use core::sync::atomic::{AtomicU32, Ordering};
use hypervisor_core::acpi::Override;
use hypervisor_core::ids::{CpuId, Pirq};
use hypervisor_core::pci::{Used, judge_write, may_reach_capability};
use hypervisor_core::platform::{Line, MsiRequest, PciAddress, Work};
use spin::Mutex;
use xen_abi::errno::Errno;

/// First and last vector that devices get.
const VECTORS: core::ops::RangeInclusive<u8> = 0x30..=0xef;
const LEVEL: u32 = 1 << 31;
const CONSOLE: u32 = 1 << 30;

/// By vector: interrupt number plus one and flags; 0 for a vector that nobody has.
static OWNERS: [AtomicU32; 256] = [const { AtomicU32::new(0) }; 256];
/// The line of the console, which no domain can have.
static CONSOLE_GSI: AtomicU32 = AtomicU32::new(u32::MAX);
/// Vectors that came and were not taken yet.
static ARRIVED: [AtomicU32; 8] = [const { AtomicU32::new(0) }; 8];

#[derive(Clone, Debug)]
enum Source {
    Gsi(Line),
    Msi { device: PciAddress, entry: pci::MsiEntry },
}

struct Irq {
    source: Source,
    vector: u8,
    masked: bool,
    cpu: CpuId,
}

impl Irq {
    fn new(source: Source, vector: u8) -> Self {
        Self { source, vector, masked: true, cpu: CpuId(0) }
    }

    fn device(&self) -> Option<PciAddress> {
        match self.source {
            Source::Gsi(_) => None,
            Source::Msi { device, .. } => Some(device),
        }
    }
}

static IRQS: Mutex<BTreeMap<u32, Irq>> = Mutex::new(BTreeMap::new());

/// Which GSI an ISA interrupt is on, and how it signals.
pub fn isa_route(overrides: &[Override], irq: u8) -> (u32, Line) {
    overrides
        .iter()
        .find(|o| o.irq == irq)
        .map_or((u32::from(irq), Line { level: false, active_low: false }), |o| (o.gsi, o.line))
}

/// Claims a free vector for an interrupt number; no vector is left when all are taken.
fn claim_vector(owner: u32) -> Result<u8, Errno> {
    VECTORS
        .filter(|v| usize::from(*v) != INT80_VECTOR)
        .find(|v| {
            OWNERS[usize::from(*v)].compare_exchange(0, owner, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        })
        .ok_or(Errno::ENOSPC)
}

fn apic_id(id: CpuId) -> u32 {
    cpu(id).apic_id.load(Ordering::Relaxed)
}

fn boot_apic_id() -> u32 {
    apic_id(CpuId(0))
}

/// Routes the console's interrupt to the hypervisor itself; answers whether there is such a line.
pub fn route_console(gsi: u32, line: Line) -> bool {
    let Ok(vector) = claim_vector(CONSOLE) else { return false };
    let routed = ioapic::route(gsi, line, vector, boot_apic_id());
    if routed {
        CONSOLE_GSI.store(gsi, Ordering::Relaxed);
        ioapic::set_masked(gsi, false);
    }
    routed
}

/// A device interrupt arrived at this vector on this CPU; interrupts are off.
pub fn arrived(vector: u8) {
    let owner = OWNERS[usize::from(vector)].load(Ordering::Relaxed);
    if owner == CONSOLE {
        if serial::interrupt() {
            this_cpu().work.raise(Work::CONSOLE);
        }
    } else if owner != 0 {
        if owner & LEVEL != 0 {
            ioapic::set_masked((owner & !LEVEL) - 1, true);
        }
        ARRIVED[usize::from(vector / 32)].fetch_or(1 << (vector % 32), Ordering::Relaxed);
        this_cpu().work.raise(Work::IRQ);
    }
    apic::eoi();
}

/// The next interrupt that arrived and was not taken yet; higher vectors first.
pub fn take() -> Option<Pirq> {
    for (n, word) in ARRIVED.iter().enumerate().rev() {
        let set = word.load(Ordering::Relaxed);
        if set != 0 {
            let bit = set.ilog2();
            word.fetch_and(!(1 << bit), Ordering::Relaxed);
            let owner = OWNERS[n * 32 + bit as usize].load(Ordering::Relaxed) & !LEVEL;
            if let Some(pirq) = owner.checked_sub(1) {
                return Some(Pirq(pirq));
            }
        }
    }
    None
}

/// Routes a GSI, masked; again with another trigger if the guest changes its mind. Fails with `EBUSY` for the console's.
pub fn route_gsi(gsi: u32, line: Line) -> Result<(), Errno> {
    if gsi >= ioapic::gsi_count() {
        return Err(Errno::EINVAL);
    }
    if gsi == CONSOLE_GSI.load(Ordering::Relaxed) {
        return Err(Errno::EBUSY);
    }
    let mut irqs = IRQS.lock();
    let owner = (gsi + 1) | if line.level { LEVEL } else { 0 };
    let vector = match irqs.get(&gsi) {
        Some(irq) if matches!(irq.source, Source::Gsi(old) if old == line) => return Ok(()),
        Some(irq) => irq.vector,
        None => claim_vector(owner)?,
    };
    OWNERS[usize::from(vector)].store(owner, Ordering::Relaxed);
    irqs.insert(gsi, Irq::new(Source::Gsi(line), vector));
    if ioapic::route(gsi, line, vector, boot_apic_id()) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Programs MSIs of a device, masked, and numbers them from the first free number above the GSIs.
pub fn map_msi(request: &MsiRequest) -> Result<Pirq, Errno> {
    if request.count != 1 {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut irqs = IRQS.lock();
    let first = ioapic::gsi_count();
    let number = (first..).find(|n| !irqs.contains_key(n)).ok_or(Errno::ENOSPC)?;
    let (entry, table) = pci::find_msi(request)?;
    let vector = claim_vector(number + 1)?;
    if let Some(table) = table {
        pci::begin_msix(request.device, &table);
    }
    pci::program_msi(request.device, &entry, vector, boot_apic_id());
    irqs.insert(number, Irq::new(Source::Msi { device: request.device, entry }, vector));
    Ok(Pirq(number))
}

/// Gives an interrupt back: masked, and its vector free.
pub fn unmap(pirq: Pirq) -> Result<(), Errno> {
    set_masked(pirq, true);
    let mut irqs = IRQS.lock();
    let irq = irqs.remove(&pirq.0).ok_or(Errno::EINVAL)?;
    if let Source::Msi { device, entry } = irq.source {
        pci::disable_msi(device, &entry);
    }
    drop(irqs);
    OWNERS[usize::from(irq.vector)].store(0, Ordering::Relaxed);
    Ok(())
}

/// Masks or unmasks an interrupt; nothing happens for one that is not routed.
pub fn set_masked(pirq: Pirq, masked: bool) {
    let mut irqs = IRQS.lock();
    let Some(irq) = irqs.get_mut(&pirq.0) else { return };
    irq.masked = masked;
    match &irq.source {
        Source::Gsi(_) => ioapic::set_masked(pirq.0, masked),
        Source::Msi { device, entry } => pci::set_msi_masked(*device, entry, masked),
    }
}

/// Lets an interrupt arrive at another CPU; nothing happens for one that is not routed.
pub fn set_cpu(pirq: Pirq, cpu: CpuId) {
    let mut irqs = IRQS.lock();
    let Some(irq) = irqs.get_mut(&pirq.0).filter(|irq| irq.cpu != cpu) else { return };
    irq.cpu = cpu;
    match &irq.source {
        Source::Gsi(_) => ioapic::set_destination(pirq.0, apic_id(cpu)),
        Source::Msi { device, entry } => pci::set_msi_destination(*device, entry, apic_id(cpu)),
    }
}

/// Writes the messages of a function again, masked or not as they were.
pub fn restore_msi(of: PciAddress) {
    for irq in IRQS.lock().values() {
        if let Source::Msi { device, entry } = &irq.source
            && *device == of
        {
            pci::program_msi(*device, entry, irq.vector, apic_id(irq.cpu));
            pci::set_msi_masked(*device, entry, irq.masked);
        }
    }
}

/// Reserves a function's MSI-X table, or gives it back: see `Platform::msix_reserve`.
pub fn reserve_msix(device: PciAddress, take: bool) -> Result<(), Errno> {
    let irqs = IRQS.lock();
    let in_use = irqs.values().any(|irq| irq.device() == Some(device));
    pci::reserve_msix(device, take, in_use)
}

/// Has the first domain's write of `size` bytes at `offset` of a function's configuration space done by `write`, as far as it is allowed.
/// What is judged stays so until it is written.
#[inline(never)]
pub fn judge_config_write(device: PciAddress, offset: u16, size: u8, value: u32, write: &dyn Fn(u32)) {
    if !may_reach_capability(offset, size) {
        return write(value);
    }
    let irqs = IRQS.lock();
    // Messages of the first segment only are the hypervisor's.
    let msix = device.segment == 0 && (pci::is_known(device) || pci::uses_msix(device));
    let msi = |irq: &Irq| match irq.source {
        Source::Msi { device: of, entry: pci::MsiEntry::Msi { .. } } if of == device => Some(irq.masked),
        _ => None,
    };
    let used = Used { msi: irqs.values().find_map(msi), msix };
    if let Some(value) = judge_write(&|at| pci::read(device, at), used, offset, size, value) {
        write(value);
    }
}

/// Whether the guest must say when it served this interrupt.
pub fn needs_eoi(pirq: Pirq) -> bool {
    IRQS.lock().get(&pirq.0).is_some_and(|irq| matches!(irq.source, Source::Gsi(line) if line.level))
}
