//! Memory types: what a guest wrote past the caches has to be in them before the hypervisor judges it.
//!
//! The hypervisor reads and writes all RAM write-back, and so does the hardware that walks page tables. A domain that drives devices may
//! map RAM with another memory type (PWT, PCD and PAT of an L1 entry). What it writes by such a mapping may go to memory while
//! a cache still holds the line as it was, clean. The hypervisor would then judge the cached line; sooner or later the line is
//! evicted, and the processor walks a table that was never looked at (CVE-2022-26364, XSA-402).
//!
//! So a frame that was ever mapped writable like that is *incoherent*, a bit of its type word, until its lines are written back and
//! invalidated:
//!
//! - The bit is set while the mapping's type reference is held and before the entry is stored. So before a CPU can write by the
//!   mapping, the frame is incoherent, and as long as that reference is there it has no other type. All changes of type words
//!   between writable and idle keep the bit.
//! - When the frame becomes a table or a descriptor page, the lines are written back after the frame has become busy, and before its
//!   contents are read. By then no CPU can write to it: those that could, have flushed their TLBs, and the instructions that do so
//!   empty write-combining buffers, too (SDM Vol. 3, "Buffering of Write Combining Memory Locations"). It cannot become writable again
//!   before it has been judged.
//! - When the frame leaves its domain, all CPUs flush first, then the lines are written back: the next owner of the frame starts with
//!   caches and memory that agree.
//!
//! Every memory type but write-back counts, whatever a processor's own snooping makes of it. Mappings for reading only change nothing
//! in memory and do not count, nor do device registers, which never become anything else. Entries of level 2 and up cannot have memory types,
//! and mappings of grants are write-back. No other domain has such frames, and for theirs there is nothing to do.

use super::info::{FrameInfo, Type};
use crate::Hypervisor;
use crate::ids::{Mfn, PAGE_SIZE};
use crate::platform::{GuestFrame, Platform};
use crate::sync::Word;

impl<W: Word> FrameInfo<W> {
    /// Notes that memory and caches may differ from now on. The caller holds a `Writable` reference for the mapping that it makes.
    pub(crate) fn mark_incoherent(&self) {
        self.type_.set_bits(Type::INCOHERENT);
    }

    /// Whether memory and caches may differ.
    #[inline(always)]
    pub(crate) fn is_incoherent(&self) -> bool {
        self.type_word().has(Type::INCOHERENT)
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Brings caches and memory into agreement for a frame that no CPU can write to but by write-back mappings.
    #[cold]
    #[inline(never)]
    pub(crate) fn write_back(&self, mfn: Mfn) {
        self.platform.flush_cache_lines(GuestFrame::held(mfn), 0, PAGE_SIZE);
    }

    /// [`Hypervisor::write_back`] for an incoherent frame that nothing refers to any more, after the last TLB forgot it.
    #[cold]
    #[inline(never)]
    pub(crate) fn write_back_unused(&self, mfn: Mfn, info: &FrameInfo) {
        self.flush_since(self.frames.tlb().time_of(info.type_word().stamp()));
        self.write_back(mfn);
    }
}
