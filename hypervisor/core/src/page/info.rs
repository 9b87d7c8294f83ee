//! The 16-byte record that the hypervisor keeps of every frame.
//!
//! Two words, each changed only by atomic operations. The *count word* says who owns the frame and how many references
//! keep it; the *type word* what it is used as and by how many. While a frame is free, the allocator keeps its list links
//! in them. This file knows the layout and nothing else does.

use crate::ids::DomId;
use crate::sync::Word;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use xen_abi::xen::DOMID_FIRST_RESERVED;

/// Owner of frames that are not RAM (`DOMID_IO`).
pub const DOMID_IO: DomId = DomId(0x7ff1);
/// Owner of the hypervisor's own frames (`DOMID_XEN`).
pub const DOMID_XEN: DomId = DomId(0x7ff2);

/// What a frame is used as. A frame has one type at a time; it may change only while the type count is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PageType {
    /// No typed use: ordinary references and read-only mappings only.
    None = 0,
    /// Page table of the lowest level.
    L1 = 1,
    /// Page directory.
    L2 = 2,
    /// Page directory pointer table.
    L3 = 3,
    /// Top of an address space.
    L4 = 4,
    /// Part of a guest's GDT or LDT.
    SegDesc = 5,
    /// Mapped writable somewhere.
    Writable = 6,
}

impl PageType {
    /// The type that these three bits spell. Of the two that do not exist only 7 gets into a type word: see [`Links`].
    const fn from_bits(bits: u64) -> PageType {
        match bits & 7 {
            1 => PageType::L1,
            2 => PageType::L2,
            3 => PageType::L3,
            4 => PageType::L4,
            5 => PageType::SegDesc,
            6 => PageType::Writable,
            _ => PageType::None,
        }
    }

    /// Page-table level (1..=4), if it is a page table.
    pub const fn level(self) -> Option<u8> {
        match self {
            PageType::L1 => Some(1),
            PageType::L2 => Some(2),
            PageType::L3 => Some(3),
            PageType::L4 => Some(4),
            _ => None,
        }
    }

    /// Whether it is a page table of any level.
    pub const fn is_table(self) -> bool {
        matches!(self, PageType::L1 | PageType::L2 | PageType::L3 | PageType::L4)
    }
}

/// A value of the count word.
///
/// | bits | meaning |
/// |---|---|
/// | 63..48 | owner |
/// | 47 | allocated: the owner's own reference, which `decrease_reservation` gives up |
/// | 46 | belongs to the hypervisor for good, merely shared with the owner |
/// | 45 | first frame of a free block, of the order in bits 37..32 |
/// | 44 | dirty: free, or a domain's that is being built, with what a domain that ended left in it; to be cleared before a guest gets it |
/// | 31..0 | references |
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Count(pub(crate) u64);

impl Count {
    pub(crate) const ALLOCATED: u64 = 1 << 47;
    pub(crate) const XENHEAP: u64 = 1 << 46;
    pub(crate) const FREE_HEAD: u64 = 1 << 45;
    pub(crate) const DIRTY: u64 = 1 << 44;
    const ORDER_SHIFT: u32 = 32;
    pub(crate) const REFS: u64 = 0xffff_ffff;
    /// Everything between owner and references.
    pub(crate) const FLAGS: u64 = 0xffff << 32;
    /// References beyond this are refused, so that racing increments cannot reach the neighbouring bits.
    pub(crate) const MAX_REFS: u64 = 0x7fff_ffff;

    /// A frame of `owner` with `refs` references and further `bits`.
    pub(crate) const fn new(owner: DomId, bits: u64, refs: u64) -> Count {
        Count((owner.0 as u64) << 48 | bits | refs)
    }

    /// A frame that is the hypervisor's alone.
    pub(crate) const XENS: Count = Count::new(DOMID_XEN, Self::XENHEAP, 1);

    /// A frame of `owner` that nothing but the owner's own reference holds: it has no type, since a type holds a reference.
    pub(crate) const fn idle_of(owner: DomId) -> Count {
        Self::new(owner, Self::ALLOCATED, 1)
    }

    /// The first frame of a free block.
    pub(crate) const fn free_head(order: u32) -> Count {
        Count(Self::FREE_HEAD | (order as u64) << Self::ORDER_SHIFT)
    }

    /// Whether it is a frame that is to be cleared.
    pub(crate) const fn is_dirty(self) -> bool {
        self.0 & Self::DIRTY != 0
    }

    /// Order of the free block that starts here.
    pub(crate) const fn free_order(self) -> Option<u32> {
        if self.0 & Self::FREE_HEAD != 0 { Some((self.0 >> Self::ORDER_SHIFT & 0x3f) as u32) } else { None }
    }

    /// The owner; meaningless while there are no references.
    pub const fn owner(self) -> DomId {
        DomId((self.0 >> 48) as u16)
    }

    /// Number of references.
    pub const fn refs(self) -> u64 {
        self.0 & Self::REFS
    }

    /// Whether the owner's own reference is there.
    pub const fn is_allocated(self) -> bool {
        self.0 & Self::ALLOCATED != 0
    }

    /// Whether the frame is the hypervisor's for good.
    pub const fn is_xenheap(self) -> bool {
        self.0 & Self::XENHEAP != 0
    }
}

/// A value of the type word.
///
/// | bits | meaning |
/// |---|---|
/// | 63..61 | [`PageType`] |
/// | 60 | pinned: one of the type references is held by the guest's wish |
/// | 59 | incoherent: (writable, or idle after that) it was mapped writable with another memory type than write-back, and its cache lines were not written back since; see `coherence.rs` |
/// | 58 | locked: a CPU changes entries of this table |
/// | 57 | busy: the contents are being checked or given up; bits 56 and 55 say by whom |
/// | 56 | (live) wanted: the CPU whose turn it is has the lock next; see [`FrameInfo::lock_table_in_turn`] |
/// | 55 | (live) left: one of the type references is left to the CPU that unlocks the table; see [`FrameInfo::leave_last`] |
/// | 56 | partial: (busy) nobody works on it, the next who wants it carries on |
/// | 55 | doomed: (busy) it waits on its owner's list of tables to give up |
/// | 54 or 53 | (busy, live) it has linear entries that name other tables, or such entries name it |
/// | 52..42 | (busy, live) how many |
/// | 41..32 | (busy) entries that hold references: all below this index |
/// | 56..32 | (idle) TLB clock when the last type reference went |
/// | 31..0 | (live) type references; (doomed) next frame of the list |
///
/// A frame is *busy* when bit 57 is set, else *live* when it has type references, else *idle*.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Type(pub(crate) u64);

impl Type {
    const TYPE_SHIFT: u32 = 61;
    pub(crate) const TYPE: u64 = 7 << Self::TYPE_SHIFT;
    pub(crate) const PINNED: u64 = 1 << 60;
    pub(crate) const INCOHERENT: u64 = 1 << 59;
    pub(crate) const LOCKED: u64 = 1 << 58;
    pub(crate) const BUSY: u64 = 1 << 57;
    pub(crate) const PARTIAL: u64 = 1 << 56;
    pub(crate) const DOOMED: u64 = 1 << 55;
    pub(crate) const WANTED: u64 = 1 << 56;
    pub(crate) const LEFT: u64 = 1 << 55;
    pub(crate) const LINEAR_OUT: u64 = 1 << 54;
    pub(crate) const LINEAR_IN: u64 = 1 << 53;
    const LINEAR_ONE: u64 = 1 << 42;
    const LINEAR_COUNT: u64 = 0x7ff << 42;
    /// All that is known of linear entries.
    pub(crate) const LINEAR: u64 = Self::LINEAR_OUT | Self::LINEAR_IN | Self::LINEAR_COUNT;
    pub(crate) const COUNT: u64 = 0xffff_ffff;
    /// Type references beyond this are refused.
    pub(crate) const MAX_COUNT: u64 = 0x7fff_ffff;
    const MIDDLE_SHIFT: u32 = 32;

    /// The type bits of `t`.
    pub(crate) const fn bits_of(t: PageType) -> u64 {
        (t as u64) << Self::TYPE_SHIFT
    }

    /// A live frame with its first reference.
    pub(crate) const fn first(t: PageType) -> Type {
        Type(Self::bits_of(t) | 1)
    }

    /// An idle frame that lost its last type reference at `stamp`.
    pub(crate) const fn idle(t: PageType, stamp: u32) -> Type {
        Type(Self::bits_of(t) | (stamp as u64) << Self::MIDDLE_SHIFT)
    }

    /// The frame after its last type reference, at `stamp`: still incoherent, if it was.
    pub(crate) const fn at_rest(self, stamp: u32) -> Type {
        Type(self.0 & (Self::TYPE | Self::INCOHERENT) | (stamp as u64) << Self::MIDDLE_SHIFT)
    }

    /// A busy frame of which the entries below `entries` hold references; `how` is 0, `PARTIAL`, or `DOOMED` with the next
    /// of the list.
    pub(crate) const fn busy(t: PageType, entries: usize, how: u64) -> Type {
        Type(Self::bits_of(t) | Self::BUSY | (entries as u64) << Self::MIDDLE_SHIFT | how)
    }

    /// With one linear entry more, of which the table is the `end` (`LINEAR_OUT` or `LINEAR_IN`); `None` when it is the other end
    /// of some, or of too many.
    pub(crate) const fn with_linear(self, end: u64) -> Option<Type> {
        let other = (Self::LINEAR_OUT | Self::LINEAR_IN) & !end;
        if self.0 & other != 0 || self.0 & Self::LINEAR_COUNT == Self::LINEAR_COUNT {
            return None;
        }
        Some(Type((self.0 | end) + Self::LINEAR_ONE))
    }

    /// Undoes [`Type::with_linear`]; `None` when it is not that end of any.
    pub(crate) const fn without_linear(self, end: u64) -> Option<Type> {
        if self.0 & end == 0 {
            return None;
        }
        let left = self.0 - Self::LINEAR_ONE;
        Some(Type(if left & Self::LINEAR_COUNT == 0 { left & !end } else { left }))
    }

    /// Entries that hold references, of a busy frame.
    pub(crate) const fn entries(self) -> usize {
        (self.0 >> Self::MIDDLE_SHIFT & 0x3ff) as usize
    }

    /// When the last reference went, of an idle frame.
    pub(crate) const fn stamp(self) -> u32 {
        (self.0 >> Self::MIDDLE_SHIFT & 0x1ff_ffff) as u32
    }

    /// Whether all of `bits` are set.
    pub(crate) const fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }

    /// What the frame is used as, or was last while the count is 0.
    pub const fn page_type(self) -> PageType {
        PageType::from_bits(self.0 >> Self::TYPE_SHIFT)
    }

    /// Whether [`Type::page_type`] is a page table.
    pub(crate) const fn is_table(self) -> bool {
        (self.0 >> Self::TYPE_SHIFT).wrapping_sub(PageType::L1 as u64)
            <= PageType::L4 as u64 - PageType::L1 as u64
    }

    /// Whether the contents are being checked or given up.
    pub const fn is_busy(self) -> bool {
        self.0 & Self::BUSY != 0
    }

    /// Number of type references; 0 while it is busy.
    pub const fn count(self) -> u64 {
        if self.is_busy() { 0 } else { self.0 & Self::COUNT }
    }

    /// Whether the guest pinned it.
    pub const fn is_pinned(self) -> bool {
        self.0 & Self::PINNED != 0
    }

    /// Whether a table is live and any CPU may lock it: with references, neither busy nor locked nor wanted.
    #[inline(always)]
    pub(crate) const fn is_to_be_locked(self) -> bool {
        let count = self.0 & (Self::BUSY | Self::LOCKED | Self::WANTED | Self::COUNT);
        count.wrapping_sub(1) < Self::COUNT && self.is_table()
    }

    /// Whether the only type reference of a live frame is left to the CPU that unlocks it: it is about to go.
    pub(crate) const fn is_going(self) -> bool {
        self.count() == 1 && self.has(Self::LEFT)
    }

    /// The type, if it has references.
    pub const fn live(self) -> Option<PageType> {
        if self.count() != 0 { Some(self.page_type()) } else { None }
    }
}

/// The type word of the first frame of a free block: its neighbours in a list of the allocator's, as frame numbers below
/// [`Links::END`], 0 for none.
///
/// Others may look at the word of a frame that was just freed, and change it where it says that the frame is live as something. So
/// the type that is spelt there is none: bits 63..61 are all 0 or all 1, which is bit 30 of `next`. Below them are the other bits of
/// `next` and the 31 of `previous`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Links {
    pub next: u32,
    pub previous: u32,
}

impl Links {
    /// Frames from here on cannot be linked: 8 TiB.
    pub(crate) const END: u64 = 1 << Self::BITS;
    const BITS: u32 = 31;

    pub(crate) const fn from_word(word: u64) -> Links {
        let mask = Self::END - 1;
        Links { next: (word >> Self::BITS & mask) as u32, previous: (word & mask) as u32 }
    }

    pub(crate) const fn word(self) -> u64 {
        let both = (self.next as u64) << Self::BITS | self.previous as u64;
        let top = both >> Type::TYPE_SHIFT & 1;
        both | (top * 7) << Type::TYPE_SHIFT
    }
}

/// The record of one frame, in words `W`.
#[repr(C, align(16))]
#[derive(Default)]
pub struct FrameInfo<W = AtomicU64> {
    pub(crate) count: W,
    pub(crate) type_: W,
}

const _: () = assert!(size_of::<FrameInfo>() == 16);

impl FrameInfo {
    /// Makes it as new.
    #[cfg(any(test, feature = "mock"))]
    pub(crate) fn reset(&self) {
        self.count.store(0, Ordering::Relaxed);
        self.type_.store(0, Ordering::Relaxed);
    }

    /// A frame that is neither free nor in use: what zeroed memory says. The allocator's `add_region` makes it free.
    pub const fn new() -> Self {
        Self { count: AtomicU64::new(0), type_: AtomicU64::new(0) }
    }

    /// Marks a frame that is not RAM.
    pub fn set_io(&self) {
        self.count.store(Count::new(DOMID_IO, 0, 0).0, Ordering::Relaxed);
    }

    /// Marks a frame of RAM that the hypervisor keeps for itself (its image, this table, boot modules).
    pub fn set_xen(&self) {
        self.count.store(Count::XENS.0, Ordering::Relaxed);
    }

    /// Whether the frame is not RAM.
    pub fn is_io(&self) -> bool {
        self.count().owner() == DOMID_IO
    }

    /// Whether the frame is RAM, and a domain's or nobody's: reserved identifiers own the rest.
    #[inline(always)]
    pub(crate) fn is_no_hypervisors(&self) -> bool {
        // It may change at once: the order of what is seen does not matter.
        Count(self.count.load(Ordering::Relaxed)).owner().0 < DOMID_FIRST_RESERVED
    }

    /// The owner, while somebody holds a reference.
    pub fn owner(&self) -> Option<DomId> {
        let count = self.count();
        (count.refs() != 0).then(|| count.owner())
    }
}

impl<W: Word> FrameInfo<W> {
    /// The count word now.
    #[inline]
    pub fn count(&self) -> Count {
        Count(self.count.read())
    }

    /// The type word now.
    #[inline]
    pub fn type_word(&self) -> Type {
        Type(self.type_.read())
    }
}

impl fmt::Debug for FrameInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (c, t) = (self.count(), self.type_word());
        write!(f, "{} refs {} {:?}*{}", c.owner(), c.refs(), t.page_type(), t.count())?;
        for (bit, name) in
            [(Count::ALLOCATED, " allocated"), (Count::XENHEAP, " xenheap"), (Count::FREE_HEAD, " free")]
        {
            if c.0 & bit != 0 {
                f.write_str(name)?;
            }
        }
        for (bit, name) in [
            (Type::PINNED, " pinned"),
            (Type::INCOHERENT, " incoherent"),
            (Type::LOCKED, " locked"),
            (Type::BUSY, " busy"),
        ] {
            if t.0 & bit != 0 {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}
