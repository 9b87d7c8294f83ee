//! `console_io(cmd, count, buffer)`: the machine's console, for domains that may use it themselves.

use super::{Cx, Outcome, low32};
use crate::console::{BURST, LINES};
use crate::guest_ptr::GuestPtr;
use crate::platform::Platform;
use crate::regs::Regs;
use xen_abi::errno::Errno;
use xen_abi::xen::{CONSOLEIO_READ, CONSOLEIO_WRITE};

/// Bytes that are copied at once.
const CHUNK: usize = BURST;
/// Most bytes that one read may ask for: the count comes back as a signed number.
const MAX_READ: u32 = i32::MAX as u32;

/// # Errors
/// `EPERM` for a domain that may not, `EFAULT`, `E2BIG` for a count above 2^31 - 1, `ENOSYS` for an unknown command.
pub fn console_io<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    if !cx.domain.uses_console_io() {
        return Errno::EPERM.into();
    }
    match low32(args[0]) {
        CONSOLEIO_WRITE => write(cx, args),
        CONSOLEIO_READ => read(cx, low32(args[1]), args[2]).into(),
        _ => Errno::ENOSYS.into(),
    }
}

fn write<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6]) -> Outcome {
    let mut left = low32(args[1]);
    let mut buffer = GuestPtr::<u8>::new(args[2]);
    let mut bytes = [0; CHUNK];
    let mut first = true;
    while left != 0 {
        // Where the line has no room, the domain waits for it in its own time.
        if !first && cx.hv.platform.work_pending() || !cx.hv.console_takes_text() {
            return Outcome::Again([args[0], left.into(), buffer.address().0, args[3], args[4], args[5]]);
        }
        first = false;
        let chunk = &mut bytes[..left.min(CHUNK as u32) as usize];
        let copied = buffer.read_slice(cx.hv, chunk).and_then(|()| {
            let chunk = burst(chunk);
            cx.hv.console_output(cx.domain.id, chunk);
            left -= chunk.len() as u32;
            buffer.at(chunk.len() as u64)
        });
        match copied {
            Ok(next) => buffer = next,
            Err(fault) => return Errno::from(fault).into(),
        }
    }
    Outcome::Done(0)
}

/// As much of a text as is written at a time: it ends behind the last line that may be in it.
fn burst(text: &[u8]) -> &[u8] {
    let mut ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    ends.nth(LINES - 1).map_or(text, |(last, _)| &text[..=last])
}

/// Copies out what was typed, and forgets only what arrived.
fn read<P: Platform>(cx: Cx<'_, P>, count: u32, buffer: u64) -> Result<i64, Errno> {
    if count > MAX_READ {
        return Err(Errno::E2BIG);
    }
    let buffer = GuestPtr::<u8>::new(buffer);
    let mut done: u32 = 0;
    let mut bytes = [0; CHUNK];
    while done < count {
        let room = (count - done).min(CHUNK as u32) as usize;
        let got = cx.hv.peek_console(cx.domain.id, &mut bytes[..room]);
        if got == 0 {
            break;
        }
        buffer.at(done.into())?.write_slice(cx.hv, &bytes[..got])?;
        cx.hv.consume_console(cx.domain.id, got);
        done += u32::try_from(got).map_err(|_| Errno::E2BIG)?;
    }
    Ok(done.into())
}
