//! `multicall(list, count)`: several hypercalls for one entry into the hypervisor.
//!
//! Each entry's result is written into it, whatever the entry came to; that of `iret` as far as the address space that it returns
//! to lets it be. The batch stops between two entries when the CPU has other work, and within
//! an entry when that is preempted: the entry is then rewritten to go on where it stopped, and the batch is made again
//! from there.

use super::{Cx, Outcome, call, low32};
use crate::guest_ptr::GuestPtr;
use crate::platform::{GuestFault, Platform};
use crate::regs::Regs;
use core::mem::offset_of;
use xen_abi::errno::Errno;
use xen_abi::hypercall::nr;
use xen_abi::xen::MulticallEntry;
use zerocopy::FromZeros;

/// # Errors
/// `EFAULT` for a list that is no guest's, even without entries, and for an entry that cannot be read, or whose result cannot be
/// written; the ones before it are done.
pub fn multicall<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], regs: &mut Regs) -> Outcome {
    let mut at = GuestPtr::<MulticallEntry>::new(args[0]);
    let mut left = low32(args[1]);
    // With entries, the first one's read finds the same.
    if left == 0 && !at.is_plausible() {
        return Errno::EFAULT.into();
    }
    // One place for all entries: they are many, and each is copied in whole.
    let mut entry = MulticallEntry::new_zeroed();
    while left != 0 {
        match one(cx, at, &mut entry, regs) {
            Ok(Step::Next) => {}
            Ok(Step::Stop) => return Outcome::RegsReplaced,
            Ok(Step::Again) => return again(at, left, args),
            Err(fault) => return Errno::from(fault).into(),
        }
        left -= 1;
        at = match at.at(1) {
            Ok(next) => next,
            Err(_) if left == 0 => break,
            Err(fault) => return Errno::from(fault).into(),
        };
        if left != 0 && cx.hv.platform.work_pending() {
            return again(at, left, args);
        }
    }
    Outcome::Done(0)
}

/// The batch is made again from this entry on.
fn again(at: GuestPtr<MulticallEntry>, left: u32, args: &[u64; 6]) -> Outcome {
    Outcome::Again([at.address().0, left.into(), args[2], args[3], args[4], args[5]])
}

enum Step {
    Next,
    Again,
    Stop,
}

fn one<P: Platform>(
    cx: Cx<'_, P>,
    at: GuestPtr<MulticallEntry>,
    entry: &mut MulticallEntry,
    regs: &mut Regs,
) -> Result<Step, GuestFault> {
    at.read_into(cx.hv, entry)?;
    let outcome = match entry.op {
        nested if nested == u64::from(nr::MULTICALL) => Errno::EINVAL.into(),
        op => call(cx, op, &entry.args, regs),
    };
    match outcome {
        Outcome::Done(result) => {
            at.field::<i64>(offset_of!(MulticallEntry, result))?.write(cx.hv, &result)?;
            Ok(Step::Next)
        }
        Outcome::Again(args) => {
            entry.args = args;
            at.write(cx.hv, entry)?;
            Ok(Step::Again)
        }
        Outcome::RegsReplaced => {
            let result = at.field::<u64>(offset_of!(MulticallEntry, result))?;
            // The return is made: nobody can be told that this failed.
            let _ = result.write(cx.hv, &regs.rax);
            Ok(Step::Stop)
        }
    }
}
