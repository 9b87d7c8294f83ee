//! IOAPICs (82093AA datasheet, and the MADT for where they are).

use crate::mm::tables::map_device;
use alloc::vec::Vec;
use hypervisor_core::acpi::IoApicInfo;
use hypervisor_core::platform::Line;
use spin::{Mutex, Once};
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::instructions::port::Port;

const VERSION: u32 = 1;
const REDIRECTION: u32 = 0x10;
const MASK: u32 = 1 << 16;

struct IoApic {
    address: u64,
    mapped: u64,
    gsi_base: u32,
    pins: u32,
}

static IOAPICS: Once<Vec<Mutex<IoApic>>> = Once::new();

impl IoApic {
    fn read(&mut self, register: u32) -> u32 {
        // SAFETY: index and data register of a mapped IOAPIC; the lock keeps the pair together.
        unsafe {
            (self.mapped as *mut u32).write_volatile(register);
            ((self.mapped + 0x10) as *const u32).read_volatile()
        }
    }

    fn write(&mut self, register: u32, value: u32) {
        // SAFETY: as in `read`; redirection entries only name vectors with handlers.
        unsafe {
            (self.mapped as *mut u32).write_volatile(register);
            ((self.mapped + 0x10) as *mut u32).write_volatile(value);
        }
    }
}

/// Moves the PC's old interrupt controllers (8259A) to vectors that are no exceptions', where a spurious interrupt of theirs does no
/// harm, and masks all their lines.
fn retire_pics() {
    const COMMAND: [u16; 2] = [0x20, 0xa0];
    const FIRST_VECTOR: [u8; 2] = [0x20, 0x28];
    const CASCADE: [u8; 2] = [1 << 2, 2];
    for n in 0..2 {
        let mut data = Port::<u8>::new(COMMAND[n] + 1);
        // SAFETY: the controllers' own initialisation sequence (8259A datasheet, ICW1 to ICW4), then the mask.
        unsafe {
            Port::<u8>::new(COMMAND[n]).write(0x11);
            data.write(FIRST_VECTOR[n]);
            data.write(CASCADE[n]);
            data.write(0x01);
            data.write(0xff);
        }
    }
}

/// Maps the IOAPICs and masks all their lines, and those of the older controllers.
pub fn init(infos: &[IoApicInfo]) {
    retire_pics();
    IOAPICS.call_once(|| {
        let mut all = Vec::new();
        for info in infos {
            let Ok(mapped) = map_device(info.address, 0x20) else { continue };
            let mut ioapic = IoApic { address: info.address, mapped, gsi_base: info.gsi_base, pins: 0 };
            ioapic.pins = (ioapic.read(VERSION) >> 16 & 0xff) + 1;
            for pin in 0..ioapic.pins {
                ioapic.write(REDIRECTION + 2 * pin, MASK);
            }
            all.push(Mutex::new(ioapic));
        }
        all
    });
}

fn all() -> &'static [Mutex<IoApic>] {
    IOAPICS.get().map_or(&[], Vec::as_slice)
}

/// One more than the highest GSI.
pub fn gsi_count() -> u32 {
    without_interrupts(|| all().iter().map(|io| io.lock()).map(|io| io.gsi_base + io.pins).max().unwrap_or(0))
}

/// Runs `f` on the IOAPIC and pin of a GSI, with interrupts off since handlers mask lines too.
fn with_pin<R>(gsi: u32, f: impl FnOnce(&mut IoApic, u32) -> R) -> Option<R> {
    without_interrupts(|| {
        all()
            .iter()
            .map(|io| io.lock())
            .find_map(|io| {
                let pin = gsi.checked_sub(io.gsi_base).filter(|pin| *pin < io.pins)?;
                Some((io, pin))
            })
            .map(|(mut io, pin)| f(&mut io, pin))
    })
}

/// Routes a GSI to a vector of a CPU (by APIC identifier), masked. Answers whether there is such a GSI.
pub fn route(gsi: u32, line: Line, vector: u8, apic_id: u32) -> bool {
    with_pin(gsi, |io, pin| {
        let low = u32::from(vector) | u32::from(line.active_low) << 13 | u32::from(line.level) << 15 | MASK;
        io.write(REDIRECTION + 2 * pin + 1, apic_id << 24);
        io.write(REDIRECTION + 2 * pin, low);
    })
    .is_some()
}

/// Sends a GSI to another CPU (by APIC identifier). The line is masked meanwhile: an entry is two registers, and a message
/// between their changes would go astray.
pub fn set_destination(gsi: u32, apic_id: u32) {
    with_pin(gsi, |io, pin| {
        let low = io.read(REDIRECTION + 2 * pin);
        io.write(REDIRECTION + 2 * pin, low | MASK);
        io.write(REDIRECTION + 2 * pin + 1, apic_id << 24);
        io.write(REDIRECTION + 2 * pin, low);
    });
}

/// Masks or unmasks a GSI.
pub fn set_masked(gsi: u32, masked: bool) {
    with_pin(gsi, |io, pin| {
        let low = io.read(REDIRECTION + 2 * pin);
        let new = if masked { low | MASK } else { low & !MASK };
        if new != low {
            io.write(REDIRECTION + 2 * pin, new);
        }
    });
}

/// Reads a register of the IOAPIC at this machine address, for a domain that explores the machine.
pub fn read_register(address: u64, register: u32) -> Option<u32> {
    without_interrupts(|| {
        all().iter().map(|io| io.lock()).find(|io| io.address == address).map(|mut io| io.read(register))
    })
}

/// Whether a frame holds an IOAPIC's registers.
pub fn owns_frame(mfn: u64) -> bool {
    without_interrupts(|| all().iter().any(|io| io.lock().address >> 12 == mfn))
}
