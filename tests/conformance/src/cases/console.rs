//! `console_io` (xen.h).

use guest_pv_lib::Errno;
use xen_abi::hypercall::nr;
use xen_abi::xen::{CONSOLEIO_READ, CONSOLEIO_WRITE};

use crate::call::{FAULTS, Ret, all_fault, hc3};

fn console(command: u32, count: u64, at: u64) -> Ret {
    hc3(nr::CONSOLE_IO, u64::from(command), count, at)
}

returns! {
    /// Writing nothing succeeds.
    write_nothing(env): console(CONSOLEIO_WRITE, 0, env.page(0).virt()) => Ok(0);
    /// Bytes to write at a bad address.
    write_fault(env): all_fault(|at| console(CONSOLEIO_WRITE, 16, at)) => FAULTS;
    /// Reading where nothing was typed gives nothing.
    read_nothing(env): console(CONSOLEIO_READ, 16, env.page(0).virt()) => Ok(0);
    /// A command that does not exist.
    unknown_command(env): console(99, 0, 0) => Err(Errno::ENOSYS);
}
