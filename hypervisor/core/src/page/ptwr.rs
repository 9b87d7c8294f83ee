//! Writes of a guest to its own page tables by plain instructions.
//!
//! Tables are mapped read-only, so such a write faults. The binary decodes the instruction and asks here to do it as if it
//! were an `mmu_update`: "writable page tables", as PV guests know them.

use super::update::{UpdateError, Walk, Write};
use super::validate::Pages;
use super::{PageError, pte};
use crate::Hypervisor;
use crate::hypercall::Cx;
use crate::ids::GuestVirt;
use crate::platform::Platform;
use core::sync::atomic::Ordering::Acquire;

/// How an emulated write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PtWrite {
    /// The entry was changed.
    Done,
    /// The entry was not what the compare-and-exchange expected, but this (in the operand's size).
    Differs(u64),
    /// Return to the guest and let it execute the instruction again: something has to be done before.
    Retry,
    /// This address is no read-only mapping of one of the guest's tables: the fault is the guest's.
    NotATable,
    /// The new entry was refused: the fault is the guest's.
    Refused,
}

impl<P: Platform> Hypervisor<P> {
    /// Writes `bytes` (1, 2, 4 or 8) bytes of `new` at `va`, which the calling vCPU maps read-only as `walk` says, into a
    /// page-table entry. With `old` the write happens only if the bytes there are `old`.
    pub fn emulate_pt_write(
        &self,
        cx: Cx<'_, P>,
        va: GuestVirt,
        walk: &Walk,
        old: Option<u64>,
        new: u64,
        bytes: u32,
    ) -> PtWrite {
        if !matches!(bytes, 1 | 2 | 4 | 8) || !va.0.is_multiple_of(u64::from(bytes)) {
            return PtWrite::NotATable;
        }
        let domain = &**cx.domain;
        if walk.entry & (pte::PRESENT | pte::RW) != pte::PRESENT {
            return PtWrite::NotATable;
        }
        let table = pte::frame_of(walk.entry);
        let Ok(Some(t)) = self.lock_table_of(domain, table) else { return PtWrite::NotATable };
        let index = (va.0 & 0xfff) as usize / 8;
        let part = Part::new(va, bytes);
        let now = self.platform.frame_words(table)[index].load(Acquire);
        let how = match old {
            Some(old) if part.of(now) != part.cut(old) => Err(part.of(now)),
            Some(_) => Ok(Write::IfEqual(now)),
            None => Ok(Write::Plain),
        };
        let answer = how.map_err(UpdateError::Differs).and_then(|how| {
            let place = (table, t, index);
            self.update_entry(domain, &Pages::Of(domain), place, part.put(now, new), how)
        });
        self.known_frame(table).unlock_table();
        match answer {
            Ok(()) => PtWrite::Done,
            Err(UpdateError::Page(PageError::Restart)) => {
                self.finish_doomed(domain);
                PtWrite::Retry
            }
            Err(UpdateError::Page(_)) => PtWrite::Refused,
            // Whether the hardware changed another part of the entry meanwhile, the guest must not see.
            Err(UpdateError::Differs(seen)) if old.is_some_and(|old| part.of(seen) == part.cut(old)) => {
                PtWrite::Retry
            }
            Err(UpdateError::Differs(seen)) => PtWrite::Differs(part.of(seen)),
        }
    }
}

/// Which part of an entry an operand covers.
struct Part {
    shift: u32,
    mask: u64,
}

impl Part {
    fn new(va: GuestVirt, bytes: u32) -> Part {
        Part { shift: (va.0 & 7) as u32 * 8, mask: u64::MAX >> (64 - bytes * 8) }
    }

    /// The operand in the entry.
    fn of(&self, entry: u64) -> u64 {
        entry >> self.shift & self.mask
    }

    /// A register's value in the operand's size.
    fn cut(&self, value: u64) -> u64 {
        value & self.mask
    }

    /// The entry with the operand replaced.
    fn put(&self, entry: u64, value: u64) -> u64 {
        entry & !(self.mask << self.shift) | self.cut(value) << self.shift
    }
}
