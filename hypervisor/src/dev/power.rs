//! Ends the machine's life: ACPI S5 and reset, else the PC's older ways.

use crate::mm::tables::map_device;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use hypervisor_core::acpi::{PowerRegisters, Register};
use hypervisor_core::platform::MachineEnd;
use spin::Once;
use x86_64::instructions::port::Port;
use x86_64::instructions::{hlt, interrupts};

static REGISTERS: Once<PowerRegisters> = Once::new();

/// Where the reset register is mapped, if it is in memory; 0 for nowhere. The CPU that ends the machine maps nothing: one that it
/// stopped may hold the page tables' lock.
static RESET_AT: AtomicU64 = AtomicU64::new(0);

/// Remembers the registers that ACPI told.
pub fn init(registers: PowerRegisters) {
    if let Some((Register::Memory(addr), _)) = registers.reset {
        RESET_AT.store(map_device(addr, 1).unwrap_or(0), Ordering::Relaxed);
    }
    REGISTERS.call_once(|| registers);
}

/// Powers off, resets or halts. Where nothing works the CPU stops.
pub fn end(how: MachineEnd) -> ! {
    interrupts::disable();
    let registers = REGISTERS.get().copied().unwrap_or_default();
    match how {
        MachineEnd::PowerOff => power_off(&registers),
        MachineEnd::Reboot => reset(&registers),
        MachineEnd::Halt => {}
    }
    halt()
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        interrupts::disable();
        hlt();
    }
}

fn power_off(registers: &PowerRegisters) {
    const SLEEP_ENABLE: u16 = 1 << 13;
    let Some((a, b)) = registers.s5 else { return };
    for (register, typ) in registers.pm1.iter().zip([a, b]) {
        if let Some(Register::Port(port)) = register {
            let mut port = Port::<u16>::new(*port);
            // SAFETY: PM1 control: keeps SCI_EN and the other bits, sets SLP_TYP and SLP_EN (ACPI 6.5, 4.8.3.2.1).
            unsafe {
                let rest = port.read() & !(7 << 10);
                port.write(rest | u16::from(typ & 7) << 10 | SLEEP_ENABLE);
            }
        }
    }
}

fn reset(registers: &PowerRegisters) {
    match registers.reset {
        // SAFETY: the register that ACPI names for a reset.
        Some((Register::Port(port), value)) => unsafe { Port::new(port).write(value) },
        Some((Register::Memory(_), value)) => {
            let at = RESET_AT.load(Ordering::Relaxed);
            if at != 0 {
                // SAFETY: `init` mapped it.
                unsafe { (at as *mut u8).write_volatile(value) };
            }
        }
        None => {}
    }
    // SAFETY: the keyboard controller's pulse of the reset line, then a triple fault: nothing runs afterwards.
    unsafe {
        Port::<u8>::new(0x64).write(0xfe);
        for _ in 0..100_000 {
            Port::<u8>::new(0x80).write(0);
        }
        let empty = [0u8; 10];
        asm!("lidt [{}]", "int3", in(reg) &empty);
    }
}
