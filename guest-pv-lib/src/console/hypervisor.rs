//! The hypervisor's own console (`console_io`): the first domain's, and a debug aid for others.

use xen_abi::hypercall::nr;
use xen_abi::xen::{CONSOLEIO_READ, CONSOLEIO_WRITE};

use crate::hypercall::{Errno, check, raw};

/// Writes all of `bytes`.
///
/// A hypervisor that refuses (an ordinary domain on a release build of Xen) loses them: there is no other place to
/// say so.
#[doc(alias = "CONSOLEIO_write")]
pub fn write(bytes: &[u8]) {
    for part in bytes.chunks(4096) {
        let (len, at) = (part.len() as u64, part.as_ptr() as u64);
        // SAFETY: the hypervisor reads `len` bytes at `at`, a live slice, and writes nothing.
        let _ = unsafe { raw::call3(nr::CONSOLE_IO, u64::from(CONSOLEIO_WRITE), len, at) };
    }
}

/// Reads what was typed, without waiting, and returns how many bytes that was.
///
/// # Errors
///
/// `EPERM` or `ENOSYS` where the domain may not.
#[doc(alias = "CONSOLEIO_read")]
pub fn read(buffer: &mut [u8]) -> Result<usize, Errno> {
    let len = buffer.len().min(4096);
    // SAFETY: the hypervisor writes at most `len` bytes to the exclusively borrowed buffer.
    let read = check(unsafe {
        raw::call3(nr::CONSOLE_IO, u64::from(CONSOLEIO_READ), len as u64, buffer.as_mut_ptr() as u64)
    })?;
    Ok(usize::try_from(read).map_or(len, |read| read.min(len)))
}
