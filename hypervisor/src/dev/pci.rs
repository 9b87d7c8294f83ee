//! PCI configuration space by ports 0xcf8 and 0xcfc, and message-signalled interrupts.
//!
//! The hypervisor programs MSI and MSI-X entries itself (PCI Local Bus 3.0, 6.8): a domain that could write a message could raise
//! any vector on any CPU. Only segment 0 and the first 256 bytes are reached, where these capabilities are.

use super::port;
use crate::machine::hv;
use crate::mm::layout::{DEVICES, DEVICES_END};
use crate::mm::tables::map_device;
use alloc::collections::BTreeSet;
use hypervisor_core::ids::MachineAddr;
use hypervisor_core::platform::{MsiRequest, PciAddress};
use spin::Mutex;
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::instructions::port::Port;
use xen_abi::errno::Errno;

/// Data port: the word that port 0xcf8 addresses.
const DATA: u16 = 0xcfc;
const CAP_MSI: u8 = 0x05;
const CAP_MSIX: u8 = 0x11;
const MSI_64BIT: u32 = 1 << 23;
const MSI_MASKABLE: u32 = 1 << 24;
const MSI_ENABLE: u32 = 1 << 16;
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_MASK_ALL: u32 = 1 << 30;

/// Address and data port belong together; the hypervisor's own accesses and those emulated for a domain share the lock.
static PORTS: Mutex<()> = Mutex::new(());

/// Where a message lives.
#[derive(Clone, Debug)]
pub enum MsiEntry {
    /// Capability at this offset, and its first word as it was found.
    Msi {
        /// Offset of the capability.
        cap: u8,
        /// Its first word.
        control: u32,
    },
    /// Entry of an MSI-X table.
    MsiX {
        /// Offset of the capability.
        cap: u8,
        /// The entry.
        at: TableEntry,
    },
}

/// A mapped entry of an MSI-X table. Only [`TableEntry::map`] makes them.
#[derive(Clone, Debug)]
pub struct TableEntry(u64);

impl TableEntry {
    /// Maps the entry at a machine address, which a domain chose: it wrote the base address register. Fails with `EINVAL` where that
    /// is RAM, or no address of a device.
    fn map(at: u64) -> Result<Self, Errno> {
        const BYTES: u64 = 16;
        let is_ram = |at: u64| hv().frame(MachineAddr(at).mfn()).is_some_and(|frame| !frame.is_io());
        if !at.is_multiple_of(BYTES) || at >= DEVICES_END - DEVICES || is_ram(at) {
            return Err(Errno::EINVAL);
        }
        map_device(at, BYTES).map(Self).map_err(|_| Errno::ENOMEM)
    }

    /// Writes one of its four words.
    fn write(&self, word: u8, value: u32) {
        let at = (self.0 + u64::from(word & 3) * 4) as *mut u32;
        // SAFETY: within the entry, whose page stays mapped, and is none of RAM.
        unsafe { at.write_volatile(value) }
    }
}

fn config_address(device: PciAddress, offset: u8) -> u32 {
    1 << 31 | u32::from(device.bus) << 16 | u32::from(device.devfn) << 8 | u32::from(offset & !3)
}

/// Runs `f` with the data port after addressing a word.
fn with_word<R>(address: u32, f: impl FnOnce(Port<u32>) -> R) -> R {
    without_interrupts(|| {
        let _guard = PORTS.lock();
        // SAFETY: addresses a configuration word; what is done with it is the caller's.
        unsafe { Port::<u32>::new(0xcf8).write(address) };
        f(Port::new(DATA))
    })
}

/// Reads an aligned word of configuration space.
pub fn read(device: PciAddress, offset: u8) -> u32 {
    // SAFETY: configuration reads have no side effect that matters to the hypervisor.
    with_word(config_address(device, offset), |mut port| unsafe { port.read() })
}

/// Writes an aligned word of configuration space.
fn write(device: PciAddress, offset: u8, value: u32) {
    // SAFETY: only MSI capabilities are written, with messages that this module made.
    with_word(config_address(device, offset), |mut port| unsafe { port.write(value) });
}

/// A domain's access to configuration data: `size` bytes at byte `byte` of the word at `address`.
pub fn guest_read(address: u32, byte: u16, size: u8) -> u32 {
    // SAFETY: the domain is privileged to read configuration space.
    with_word(address, |_| unsafe { port::read(DATA + byte, size) })
}

/// See [`guest_read`].
pub fn guest_write(address: u32, byte: u16, size: u8, value: u32) {
    // SAFETY: the domain is privileged to write configuration space.
    with_word(address, |_| unsafe { port::write(DATA + byte, size, value) });
}

/// Whether a function answers.
fn exists(device: PciAddress) -> bool {
    device.segment == 0 && read(device, 0) & 0xffff != 0xffff
}

/// Functions that the first domain reported. As in Xen on a machine without IOMMU, nobody looks for them before.
static REPORTED: Mutex<BTreeSet<PciAddress>> = Mutex::new(BTreeSet::new());

/// Whether the first domain reported a function.
pub fn is_known(device: PciAddress) -> bool {
    REPORTED.lock().contains(&device)
}

/// The first domain reports a function, or its end.
pub fn set_known(device: PciAddress, known: bool) {
    let mut reported = REPORTED.lock();
    if known {
        reported.insert(device);
    } else {
        reported.remove(&device);
    }
}

/// Whether a function has MSI-X.
pub fn has_msix(device: PciAddress) -> bool {
    exists(device) && find_capability(device, CAP_MSIX).is_some()
}

fn find_capability(device: PciAddress, id: u8) -> Option<u8> {
    if read(device, 4) >> 16 & 0x10 == 0 {
        return None;
    }
    let mut at = read(device, 0x34) as u8 & !3;
    // A list of more than 48 capabilities does not fit into the space: such a list goes in circles.
    for _ in 0..48 {
        if at < 0x40 {
            return None;
        }
        let word = read(device, at);
        if word as u8 == id {
            return Some(at);
        }
        at = (word >> 8) as u8 & !3;
    }
    None
}

/// Finds what a request names. Fails with `ENODEV`, or `EINVAL` when the table has no such entry.
pub fn find_msi(request: &MsiRequest) -> Result<MsiEntry, Errno> {
    let device = request.device;
    if !is_known(device) || !exists(device) {
        return Err(Errno::ENODEV);
    }
    if request.table_base == 0 {
        let cap = find_capability(device, CAP_MSI).ok_or(Errno::ENODEV)?;
        return Ok(MsiEntry::Msi { cap, control: read(device, cap) });
    }
    let cap = find_capability(device, CAP_MSIX).ok_or(Errno::ENODEV)?;
    if request.entry > read(device, cap) >> 16 & 0x7ff {
        return Err(Errno::EINVAL);
    }
    let table = read(device, cap + 4);
    let bar = memory_bar(device, (table & 7) as u8).ok_or(Errno::EINVAL)?;
    let entry =
        bar.checked_add(u64::from(table & !7) + u64::from(request.entry) * 16).ok_or(Errno::EINVAL)?;
    Ok(MsiEntry::MsiX { cap, at: TableEntry::map(entry)? })
}

/// Address in a memory base address register.
fn memory_bar(device: PciAddress, index: u8) -> Option<u64> {
    let offset = 0x10 + index.checked_mul(4).filter(|o| *o <= 20)?;
    let low = read(device, offset);
    if low & 1 != 0 {
        return None;
    }
    let high = if low & 6 == 4 && index < 5 { u64::from(read(device, offset + 4)) << 32 } else { 0 };
    Some(high | u64::from(low & !15))
}

/// Where a message to the CPU with this APIC identifier is written (SDM volume 3, 11.11.1).
fn message_address(apic_id: u32) -> u32 {
    0xfee0_0000 | (apic_id & 0xff) << 12
}

/// Sends a message to another CPU from now on: one word, which is changed at once.
pub fn set_msi_destination(device: PciAddress, entry: &MsiEntry, apic_id: u32) {
    let address = message_address(apic_id);
    match *entry {
        MsiEntry::Msi { cap, .. } => write(device, cap + 4, address),
        MsiEntry::MsiX { ref at, .. } => at.write(0, address),
    }
}

/// Writes the message of `vector` to the CPU with this APIC identifier. MSI-X entries start masked.
pub fn program_msi(device: PciAddress, entry: &MsiEntry, vector: u8, apic_id: u32) {
    let address = message_address(apic_id);
    let data = u32::from(vector);
    match *entry {
        MsiEntry::Msi { cap, control } => {
            write(device, cap + 4, address);
            let wide = control & MSI_64BIT != 0;
            if wide {
                write(device, cap + 8, 0);
            }
            let data_at = cap + if wide { 12 } else { 8 };
            write(device, data_at, read(device, data_at) & !0xffff | data);
            set_msi_masked(device, entry, true);
        }
        MsiEntry::MsiX { cap, ref at } => {
            // Masked first; the message is an address in two words, and data.
            for (word, value) in [(3, 1), (0, address), (1, 0), (2, data)] {
                at.write(word, value);
            }
            let control = read(device, cap);
            write(device, cap, control & !MSIX_MASK_ALL | MSIX_ENABLE);
        }
    }
}

/// Masks or unmasks a message. An MSI without mask bits is switched as a whole.
pub fn set_msi_masked(device: PciAddress, entry: &MsiEntry, masked: bool) {
    match *entry {
        MsiEntry::Msi { cap, control } if control & MSI_MASKABLE != 0 => {
            let mask_at = cap + if control & MSI_64BIT != 0 { 16 } else { 12 };
            write(device, mask_at, u32::from(masked));
            write(device, cap, control & !(7 << 20) | MSI_ENABLE);
        }
        MsiEntry::Msi { cap, control } => {
            let enable = if masked { 0 } else { MSI_ENABLE };
            write(device, cap, control & !(MSI_ENABLE | 7 << 20) | enable);
        }
        // Bit 0 of its last word masks it.
        MsiEntry::MsiX { ref at, .. } => at.write(3, u32::from(masked)),
    }
}

/// Ends a message for good.
pub fn disable_msi(device: PciAddress, entry: &MsiEntry) {
    if let MsiEntry::Msi { cap, control } = *entry {
        write(device, cap, control & !MSI_ENABLE);
    }
}
