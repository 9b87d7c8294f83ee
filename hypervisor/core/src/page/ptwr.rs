//! Writes of a guest to its own page tables by plain instructions.
//!
//! Tables are mapped read-only, so such a write faults. The binary decodes the instruction and asks here to do it as if it
//! were an `mmu_update`: "writable page tables", as PV guests know them.

use super::update::{UpdateError, Write};
use super::validate::Pages;
use super::{PageError, PageType, pte};
use crate::Hypervisor;
use crate::hypercall::Cx;
use crate::ids::{GuestVirt, Mfn};
use crate::platform::{GuestFrame, Platform};
use core::sync::atomic::Ordering::Acquire;
use xen_abi::xen::VMASST_TYPE_WRITABLE_PAGETABLES;

/// How an emulated write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PtWrite {
    /// The entry was changed.
    Done,
    /// The entry was not what the compare-and-exchange expected, but this (in the operand's size).
    Differs(u64),
    /// Return to the guest and let it execute the instruction again: something has to be done before.
    Retry,
    /// This is no live L1 table of the guest's, or no aligned part of an entry: the fault is the guest's.
    NotATable,
    /// The new entry was refused: the fault is the guest's.
    Refused,
}

/// A page that a guest maps for reading and may write to nevertheless, by way of emulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOnlyPage {
    /// An L1 table.
    Table(Mfn),
    /// A frame of device memory that no domain may write to. A privileged domain's writes there are the platform's to judge: most do
    /// nothing.
    Device(Mfn),
}

impl<P: Platform> Hypervisor<P> {
    /// What the calling vCPU's kernel maps at `va`, if it is such a page. For tables the guest must have asked for it
    /// (`VMASST_TYPE_writable_pagetables`), unless it is privileged. A quick look: whether it is true any more is found out by
    /// [`Hypervisor::emulate_pt_write`].
    pub fn read_only_page(&self, cx: Cx<'_, P>, va: GuestVirt) -> Option<ReadOnlyPage> {
        let walk = self.walk(cx.vcpu.pv.guest_table.get()?, va)?;
        if walk.entry & (pte::PRESENT | pte::RW) != pte::PRESENT {
            return None;
        }
        let (mfn, privileged) = (pte::frame_of(walk.entry), cx.domain.privileged);
        match self.frame(mfn) {
            Some(info) if info.type_word().page_type() == PageType::L1 => {
                let asked = privileged || cx.domain.has_vm_assist(VMASST_TYPE_WRITABLE_PAGETABLES);
                asked.then_some(ReadOnlyPage::Table(mfn))
            }
            Some(info) if !info.is_io() => None,
            _ => (privileged && self.platform.mmio_reserved(mfn)).then_some(ReadOnlyPage::Device(mfn)),
        }
    }

    /// Writes `bytes` (1, 2, 4 or 8) bytes of `new` into an entry of the L1 table `table`, which the calling vCPU maps at `va` for
    /// reading. With `old` the write happens only if the bytes there are `old`.
    pub fn emulate_pt_write(
        &self,
        cx: Cx<'_, P>,
        table: Mfn,
        va: GuestVirt,
        old: Option<u64>,
        new: u64,
        bytes: u32,
    ) -> PtWrite {
        if !matches!(bytes, 1 | 2 | 4 | 8) || !va.0.is_multiple_of(u64::from(bytes)) {
            return PtWrite::NotATable;
        }
        let domain = &**cx.domain;
        let t = match self.lock_table_of(domain, table) {
            Ok(Some(t)) => t,
            Err(PageError::Restart) => return PtWrite::Retry,
            _ => return PtWrite::NotATable,
        };
        if t != PageType::L1 {
            self.unlock_table(table);
            return PtWrite::NotATable;
        }
        let index = (va.0 & 0xfff) as usize / 8;
        let part = Part::new(va, bytes);
        let slot = &self.platform.words(GuestFrame::held(table))[index & 511];
        let now = slot.load(Acquire);
        let how = match old {
            Some(old) if part.of(now) != part.cut(old) => Err(part.of(now)),
            None if bytes == 8 => Ok(Write::Plain),
            // The rest of the entry must not change meanwhile.
            _ => Ok(Write::IfEqual(now)),
        };
        let answer = how
            .map_err(UpdateError::Differs)
            .and_then(|how| self.update_l1(domain, &Pages::Of(domain), slot, part.put(now, new), how));
        self.unlock_table(table);
        match answer {
            Ok(()) => PtWrite::Done,
            Err(UpdateError::Page(PageError::Restart)) => {
                // Some of what is in the way goes now, the rest when the instruction faults again.
                let _ = self.work_off_doomed(domain);
                PtWrite::Retry
            }
            // An L1 entry names no table.
            Err(UpdateError::Page(_) | UpdateError::Unchecked(..)) => PtWrite::Refused,
            // Whether the hardware changed another part of the entry meanwhile, the guest must not see.
            Err(UpdateError::Differs(seen)) if old.is_none_or(|old| part.of(seen) == part.cut(old)) => {
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
