//! Reads and writes of I/O ports whose width a guest chose.

use x86_64::instructions::port::Port;

/// Reads `size` bytes (1, 2, else 4) from a port.
///
/// # Safety
/// Reading this port must not harm the hypervisor: it is the domain's, or one that a module of ours guards.
pub unsafe fn read(port: u16, size: u8) -> u32 {
    // SAFETY: as the caller promises.
    unsafe {
        match size {
            1 => u32::from(Port::<u8>::new(port).read()),
            2 => u32::from(Port::<u16>::new(port).read()),
            _ => Port::<u32>::new(port).read(),
        }
    }
}

/// Writes the low `size` bytes (1, 2, else 4) of `value` to a port.
///
/// # Safety
/// As for [`read`].
pub unsafe fn write(port: u16, size: u8, value: u32) {
    // SAFETY: as the caller promises.
    unsafe {
        match size {
            1 => Port::<u8>::new(port).write(value as u8),
            2 => Port::<u16>::new(port).write(value as u16),
            _ => Port::<u32>::new(port).write(value),
        }
    }
}
