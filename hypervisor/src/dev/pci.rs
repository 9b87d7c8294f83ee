//! PCI configuration space by ports 0xcf8 and 0xcfc, and message-signalled interrupts.
//!
//! The hypervisor programs MSI and MSI-X entries itself (PCI Local Bus 3.0, 6.8): a domain that could write a message could raise
//! any vector on any CPU. Only segment 0 and the first 256 bytes are reached, where these capabilities are. Which writes of the first
//! domain pass, by the ports or by memory-mapped configuration space, is judged by `hypervisor_core::pci`.

use super::port;
use crate::machine::hv;
use crate::mm::layout::{DEVICES, DEVICES_END};
use crate::mm::tables::map_device;
use alloc::vec::Vec;
use hypervisor_core::ids::{MachineAddr, Mfn};
use hypervisor_core::pci::{CAP_MSI, CAP_MSIX, Frames, Msi, MsiX, find_capability, function_at};
use hypervisor_core::platform::{MsiRequest, PciAddress};
use hypervisor_core::rwlock::RwLock;
use spin::Mutex;
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::instructions::port::Port;
use xen_abi::errno::Errno;

/// Data port: the word that port 0xcf8 addresses.
const DATA: u16 = 0xcfc;
const MSI_ENABLE: u32 = 1 << 16;
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_MASK_ALL: u32 = 1 << 30;

/// Address and data port belong together; the hypervisor's own accesses and those emulated for a domain share the lock.
static PORTS: Mutex<()> = Mutex::new(());

/// Where a message lives.
#[derive(Clone, Debug)]
pub enum MsiEntry {
    /// A capability, as it was found.
    Msi {
        /// Where its parts are.
        layout: Msi,
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

/// See [`guest_read`]. What the hypervisor uses of messages is not the domain's to write.
#[inline(never)]
pub fn guest_write(address: u32, byte: u16, size: u8, value: u32) {
    let [offset, devfn, bus, _] = address.to_le_bytes();
    let device = PciAddress { segment: 0, bus, devfn };
    // Bits 30..24 are reserved, or, on some of AMD's processors, further bits of the offset: judged without them, not more is allowed.
    super::irq::judge_config_write(device, u16::from(offset & !3) + byte, size, value, &|value| {
        // SAFETY: the domain is privileged to write configuration space.
        with_word(address, |_| unsafe { port::write(DATA + byte, size, value) });
    });
}

/// Whether a function answers.
fn exists(device: PciAddress) -> bool {
    device.segment == 0 && read(device, 0) & 0xffff != 0xffff
}

/// Functions that the first domain reported, in order. As in Xen on a machine without IOMMU, the hypervisor does not look for them before.
static REPORTED: Mutex<Vec<PciAddress>> = Mutex::new(Vec::new());

/// Whether the first domain reported a function.
pub fn is_known(device: PciAddress) -> bool {
    REPORTED.lock().binary_search(&device).is_ok()
}

/// The first domain reports a function, or its end.
pub fn set_known(device: PciAddress, known: bool) {
    let mut reported = REPORTED.lock();
    match reported.binary_search(&device) {
        Err(at) if known => reported.insert(at, device),
        Ok(at) if !known => {
            reported.remove(at);
        }
        _ => {}
    }
}

/// Finds what a request names, and the MSI-X table that it is in. Fails with `ENODEV`, or `EINVAL` when the table has no such entry.
pub fn find_msi(request: &MsiRequest) -> Result<(MsiEntry, Option<MsiX>), Errno> {
    let device = request.device;
    if !is_known(device) || !exists(device) {
        return Err(Errno::ENODEV);
    }
    let read = &|at| read(device, at);
    if request.table_base == 0 {
        let cap = find_capability(read, CAP_MSI).ok_or(Errno::ENODEV)?;
        let word = read(cap);
        return Ok((MsiEntry::Msi { layout: Msi::new(cap, word), control: word }, None));
    }
    find_capability(read, CAP_MSIX).ok_or(Errno::ENODEV)?;
    let found = MsiX::find(read).ok_or(Errno::EINVAL)?;
    let entry = found.entry(request.entry).ok_or(Errno::EINVAL)?;
    Ok((MsiEntry::MsiX { cap: found.at, at: TableEntry::map(entry)? }, Some(found)))
}

/// A function's MSI-X table that the hypervisor uses.
struct Table {
    device: PciAddress,
    /// Where it is, and its pending bits: no domain may map these frames writable.
    frames: [Option<Frames>; 2],
    /// Messages that are mapped.
    users: u32,
    /// Reserved by the first domain.
    reserved: bool,
}

static TABLES: RwLock<Vec<Table>> = RwLock::new(Vec::new());

/// A message of a function is mapped to this table from now on. As in Xen, mappings of its frames that are there already stay.
#[inline(never)]
pub fn begin_msix(device: PciAddress, table: &MsiX) {
    let mut tables = TABLES.write();
    match tables.iter_mut().find(|table| table.device == device) {
        Some(table) => table.users += 1,
        None => tables.push(Table { device, frames: table.frames, users: 1, reserved: false }),
    }
}

/// A message of a function's MSI-X table is not mapped any more.
#[inline(never)]
pub fn end_msix(device: PciAddress) {
    change_table(device, |table| table.users -= 1);
}

fn change_table(device: PciAddress, change: impl FnOnce(&mut Table)) {
    let mut tables = TABLES.write();
    let Some(at) = tables.iter().position(|table| table.device == device) else { return };
    change(&mut tables[at]);
    if tables[at].users == 0 && !tables[at].reserved {
        tables.swap_remove(at);
    }
}

/// Whether the hypervisor uses a function's MSI-X table.
pub fn uses_msix(device: PciAddress) -> bool {
    TABLES.read().iter().any(|table| table.device == device)
}

/// Reserves a function's MSI-X table, or gives it back: see `Platform::msix_reserve`.
pub fn reserve_msix(device: PciAddress, take: bool, in_use: bool) -> Result<(), Errno> {
    if in_use || take == uses_msix(device) {
        return Err(Errno::EBUSY);
    }
    let read = &|at| read(device, at);
    if !exists(device) || find_capability(read, CAP_MSIX).is_none() {
        return Err(Errno::ENODEV);
    }
    if take {
        let frames = MsiX::find(read).ok_or(Errno::ENXIO)?.frames;
        TABLES.write().push(Table { device, frames, users: 0, reserved: true });
    } else {
        change_table(device, |table| table.reserved = false);
    }
    Ok(())
}

/// Whether domains may map this frame for reading only: MSI-X tables in use, memory-mapped configuration space.
#[inline(never)]
pub fn is_read_only(mfn: Mfn) -> bool {
    let holds = |frames: &Frames| (frames.0..=frames.1).contains(&mfn.0);
    TABLES.read().iter().any(|table| table.frames.iter().flatten().any(holds))
        || mapped_function(mfn).is_some()
}

/// The function whose memory-mapped configuration space is at a frame.
fn mapped_function(mfn: Mfn) -> Option<PciAddress> {
    hv().machine.mmconfig.iter().find_map(|region| function_at(region, mfn.0))
}

/// The first domain writes to device memory that no domain may write to: `size` bytes at `offset` of the frame, aligned to their size.
/// In configuration space that is done as far as it is allowed; elsewhere nothing is. Answers `false` where no such write can be.
#[inline(never)]
pub fn write_device_page(mfn: Mfn, offset: u16, size: u8, value: u64) -> bool {
    let Some(device) = mapped_function(mfn) else { return true };
    if size > 4 {
        return false;
    }
    super::irq::judge_config_write(device, offset, size, value as u32, &|value| {
        let Ok(at) = map_device(mfn.addr().0 + u64::from(offset), size.into()) else { return };
        // SAFETY: configuration space of a function, which the domain is privileged to write, in a page that stays mapped. It is no RAM: what
        // domains map as device memory is none.
        unsafe {
            match size {
                1 => (at as *mut u8).write_volatile(value as u8),
                2 => (at as *mut u16).write_volatile(value as u16),
                _ => (at as *mut u32).write_volatile(value),
            }
        }
    });
    true
}

/// Where a message to the CPU with this APIC identifier is written (SDM volume 3, 11.11.1).
fn message_address(apic_id: u32) -> u32 {
    0xfee0_0000 | (apic_id & 0xff) << 12
}

/// Sends a message to another CPU from now on: one word, which is changed at once.
pub fn set_msi_destination(device: PciAddress, entry: &MsiEntry, apic_id: u32) {
    let address = message_address(apic_id);
    match *entry {
        MsiEntry::Msi { layout, .. } => write(device, layout.address, address),
        MsiEntry::MsiX { ref at, .. } => at.write(0, address),
    }
}

/// Writes the message of `vector` to the CPU with this APIC identifier. MSI-X entries start masked.
pub fn program_msi(device: PciAddress, entry: &MsiEntry, vector: u8, apic_id: u32) {
    let address = message_address(apic_id);
    let data = u32::from(vector);
    match *entry {
        MsiEntry::Msi { layout, .. } => {
            write(device, layout.address, address);
            if let Some(high) = layout.high {
                write(device, high, 0);
            }
            write(device, layout.data, read(device, layout.data) & !0xffff | data);
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
        MsiEntry::Msi { layout: Msi { at, mask: Some(mask), .. }, control } => {
            write(device, mask, u32::from(masked));
            write(device, at, control & !(7 << 20) | MSI_ENABLE);
        }
        MsiEntry::Msi { layout: Msi { at, .. }, control } => {
            let enable = if masked { 0 } else { MSI_ENABLE };
            write(device, at, control & !(MSI_ENABLE | 7 << 20) | enable);
        }
        // Bit 0 of its last word masks it.
        MsiEntry::MsiX { ref at, .. } => at.write(3, u32::from(masked)),
    }
}

/// Ends a message for good.
pub fn disable_msi(device: PciAddress, entry: &MsiEntry) {
    match *entry {
        MsiEntry::Msi { layout, control } => write(device, layout.at, control & !MSI_ENABLE),
        MsiEntry::MsiX { .. } => end_msix(device),
    }
}
