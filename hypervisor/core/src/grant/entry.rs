//! One grant: the words that the guest writes, and what the hypervisor keeps while the grant is in use.
//!
//! A version 1 entry is one 64-bit word: flags, domain, frame. A version 2 entry is two words, and its "in use" flags
//! are in a status word of their own, of 16 bits.

use super::{GrantError, User};
use crate::ids::{DomId, GrantRef, Mfn};
use crate::sync::Word;
use core::sync::atomic::{AtomicU64, Ordering};
use xen_abi::grant_table::*;

/// Attempts at an entry that the guest changes at the same time; it may do so legally a few times.
const TRIES: u32 = 5;

/// The bit of each count that is full: where there are as many users of any kind, a grant takes no more of either, as in Xen.
const FULL: u32 = 0x8080_8080;
/// Bits of a count.
const COUNT_BITS: u32 = 8;

/// Users of a grant, by kind: four counts in one word, from the lowest of host mappings that read, device mappings that read, host
/// mappings that write, device mappings that write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pins(u32);

/// Which pins one use takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PinKinds {
    pub host: bool,
    pub device: bool,
    pub readonly: bool,
}

impl PinKinds {
    /// One for each count that this use is in.
    fn counts(self) -> u32 {
        let kinds = u32::from(self.host) | u32::from(self.device) << COUNT_BITS;
        if self.readonly { kinds } else { kinds << (2 * COUNT_BITS) }
    }
}

impl Pins {
    pub const NONE: Self = Self(0);

    pub fn any(&self) -> bool {
        self.0 != 0
    }

    pub fn any_writer(&self) -> bool {
        self.0 >> (2 * COUNT_BITS) != 0
    }

    /// The pins with one use more; `None` when a count is full.
    pub fn plus(self, kinds: PinKinds) -> Option<Self> {
        // None of the counts is above 127, so none runs into its neighbour.
        (self.0 & FULL == 0).then(|| Self(self.0 + kinds.counts()))
    }

    /// The pins with one use less. A count of 0 stays 0.
    pub fn minus(self, kinds: PinKinds) -> Self {
        // A count's highest bit, or what 127 more carries into it.
        let some = (((self.0 & !FULL) + !FULL) | self.0) & FULL;
        Self(self.0 - (kinds.counts() & some >> (COUNT_BITS - 1)))
    }
}

/// What a grant gives access to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The frame.
    pub mfn: Mfn,
    /// First byte within it, and number of bytes.
    pub start: u16,
    pub length: u16,
    /// Only copies may use it: it covers less than a page, or it is another domain's page.
    pub copy_only: bool,
    /// A transitive grant: the grant that it passes on.
    pub via: Option<(DomId, GrantRef)>,
}

/// What the hypervisor keeps of a grant; meaningful while there are pins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Active {
    pub pins: Pins,
    /// The domain that uses it.
    pub user: DomId,
    pub target: Target,
}

impl Active {
    pub const UNUSED: Active = Active {
        pins: Pins::NONE,
        user: DomId(0),
        target: Target { mfn: Mfn::INVALID, start: 0, length: 0, copy_only: false, via: None },
    };

    /// Whether using it for `user` needs flags in the shared entry that are not set yet.
    pub fn needs_status(&self, user: User) -> bool {
        !self.pins.any() || !user.readonly && !self.pins.any_writer()
    }
}

/// The shared words of one entry.
pub(super) enum Shared<'a> {
    V1(&'a AtomicU64),
    V2 { words: [&'a AtomicU64; 2], status: StatusWord<'a> },
}

/// A 16-bit status within the 64-bit word that is accessed.
pub(super) struct StatusWord<'a, W = AtomicU64> {
    pub word: &'a W,
    pub shift: u32,
}

/// Flags and domain as read from an entry at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header(u64);

impl Header {
    fn flags(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    fn domain(self) -> DomId {
        DomId((self.0 >> 16 & 0xffff) as u16)
    }

    fn kind(self) -> u16 {
        self.flags() & GTF_TYPE_MASK
    }

    /// Whether the entry lets `user` in; `map`: for a mapping, which needs a whole page of the granter's own.
    fn admits(self, user: User, map: bool) -> bool {
        let kind_fits = match self.kind() {
            GTF_PERMIT_ACCESS => !map || self.flags() & GTF_SUB_PAGE == 0,
            GTF_TRANSITIVE => !map,
            _ => false,
        };
        kind_fits && self.domain() == user.domain
    }

    fn readonly(self) -> bool {
        self.flags() & GTF_READONLY != 0
    }
}

impl<W: Word> StatusWord<'_, W> {
    fn set(&self, flags: u16) {
        self.word.set_bits(u64::from(flags) << self.shift);
    }

    fn clear(&self, flags: u16) {
        self.word.clear_bits(u64::from(flags) << self.shift);
    }

    /// The flags as they are now.
    pub fn load(&self) -> u16 {
        (self.word.read() >> self.shift & 0xffff) as u16
    }

    /// Writes all the flags. The guest only reads them.
    pub fn store(&self, flags: u16) {
        let flips = u64::from(self.load() ^ flags) << self.shift;
        self.word.flip_bits(flips);
    }
}

fn in_use_flags(user: User) -> u16 {
    if user.readonly { GTF_READING } else { GTF_READING | GTF_WRITING }
}

impl Shared<'_> {
    fn header(&self) -> Header {
        match self {
            Shared::V1(word) | Shared::V2 { words: [word, _], .. } => Header(word.load(Ordering::SeqCst)),
        }
    }

    /// Whether the entry passes on another domain's grant.
    pub fn is_transitive(&self) -> bool {
        matches!(self, Shared::V2 { .. }) && self.header().kind() == GTF_TRANSITIVE
    }

    /// Marks the entry as in use by `user`, after checking that it lets that user in. `pinned`: somebody uses it already,
    /// so that only the right to write is judged.
    #[inline(always)]
    pub fn set_in_use(&self, user: User, pinned: bool, map: bool) -> Result<(), GrantError> {
        match self {
            Shared::V1(word) => set_v1(*word, user, pinned, map),
            Shared::V2 { words: [first, _], status } => set_v2(*first, status, user, pinned, map),
        }
    }

    /// Takes back flags that no pin calls for any more, after a use that was `readonly`.
    pub fn clear_unused(&self, pins: &Pins, readonly: bool) {
        let mut flags = if pins.any() { 0 } else { GTF_READING };
        if !readonly && !pins.any_writer() {
            flags |= GTF_WRITING;
        }
        if flags == 0 {
            return;
        }
        match self {
            Shared::V1(word) => {
                word.fetch_and(!u64::from(flags), Ordering::SeqCst);
            }
            Shared::V2 { status, .. } => status.clear(flags),
        }
    }

    /// The frame that the entry names, and the part of it.
    pub fn target(&self) -> Target {
        match self {
            Shared::V1(word) => whole_page(Mfn(word.load(Ordering::SeqCst) >> 32)),
            Shared::V2 { words: [first, second], .. } => {
                let (first, second) = (first.load(Ordering::SeqCst), second.load(Ordering::SeqCst));
                if Header(first).flags() & GTF_SUB_PAGE == 0 {
                    return whole_page(Mfn(second));
                }
                let start = (first >> 32 & 0xffff) as u16;
                let length = (first >> 48) as u16;
                Target { mfn: Mfn(second), start, length, copy_only: true, via: None }
            }
        }
    }

    /// The domain and reference that a transitive entry passes on.
    pub fn passes_on(&self) -> Option<(DomId, GrantRef)> {
        let Shared::V2 { words: [first, second], .. } = self else { return None };
        let domain = DomId((first.load(Ordering::SeqCst) >> 32 & 0xffff) as u16);
        let reference = GrantRef((second.load(Ordering::SeqCst) & u64::from(u32::MAX)) as u32);
        Some((domain, reference))
    }

    /// Commits the entry to a transfer of a page from `giver`.
    pub fn commit_transfer(&self, giver: DomId) -> Result<(), GrantError> {
        let (Shared::V1(word) | Shared::V2 { words: [word, _], .. }) = self;
        let mut old = word.load(Ordering::SeqCst);
        for _ in 0..TRIES {
            if Header(old).flags() != GTF_ACCEPT_TRANSFER || Header(old).domain() != giver {
                return Err(GrantError::General);
            }
            let new = old | u64::from(GTF_TRANSFER_COMMITTED);
            match word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Ok(()),
                Err(now) => old = now,
            }
        }
        Err(GrantError::General)
    }

    /// Tells the receiver which frame it got, and that it has it.
    pub fn complete_transfer(&self, mfn: Mfn) {
        match self {
            Shared::V1(word) => {
                // The receiver leaves a committed entry alone; what it writes all the same only garbles its own entry.
                let old = word.load(Ordering::SeqCst);
                let flips = (old ^ mfn.0 << 32) & !u64::from(u32::MAX);
                word.fetch_xor(flips, Ordering::SeqCst);
                word.fetch_or(u64::from(GTF_TRANSFER_COMPLETED), Ordering::SeqCst);
            }
            Shared::V2 { words: [first, second], .. } => {
                second.store(mfn.0, Ordering::SeqCst);
                first.fetch_or(u64::from(GTF_TRANSFER_COMPLETED), Ordering::SeqCst);
            }
        }
    }
}

const fn whole_page(mfn: Mfn) -> Target {
    Target { mfn, start: 0, length: 4096, copy_only: false, via: None }
}

/// Version 1: flags and right are in one word, which changes at once.
pub(super) fn set_v1<W: Word>(word: &W, user: User, pinned: bool, map: bool) -> Result<(), GrantError> {
    let mut old = word.read();
    for _ in 0..TRIES {
        let header = Header(old);
        // Version 1 knows no transitive grants: its entries of that kind are refused.
        let admitted = header.kind() == GTF_PERMIT_ACCESS && header.admits(user, map);
        if !pinned && !admitted || !user.readonly && header.readonly() {
            return Err(GrantError::General);
        }
        let new = old | u64::from(in_use_flags(user));
        match word.replace(old, new) {
            Ok(_) => return Ok(()),
            Err(now) => old = now,
        }
    }
    Err(GrantError::General)
}

/// Version 2: the flags are in a word of their own. `header` is the first word of the entry.
pub(super) fn set_v2<W: Word>(
    header: &W,
    status: &StatusWord<'_, W>,
    user: User,
    pinned: bool,
    map: bool,
) -> Result<(), GrantError> {
    let refused = || {
        let header = Header(header.read());
        !pinned && !header.admits(user, map) || !user.readonly && header.readonly()
    };
    if refused() {
        return Err(GrantError::General);
    }
    status.set(in_use_flags(user));
    // The guest may have revoked the entry before it could see the flags.
    if refused() {
        status.clear(if pinned { GTF_WRITING } else { GTF_READING | GTF_WRITING });
        return Err(GrantError::General);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Four counts in a word are what four counts are.
        #[test]
        fn pins_are_four_counts(uses in prop::collection::vec(any::<(bool, bool, bool, bool)>(), 1..600)) {
            let (mut pins, mut counts) = (Pins::NONE, [0u32; 4]);
            for (more, host, device, readonly) in uses {
                let kinds = PinKinds { host, device, readonly };
                let mine = if readonly { [0, 1] } else { [2, 3] };
                let added = mine.into_iter().zip([host, device]).filter(|(_, is)| *is).map(|(at, _)| at);
                if more {
                    let full = counts.contains(&128);
                    prop_assert_eq!(pins.plus(kinds).is_none(), full);
                    if let Some(next) = pins.plus(kinds) {
                        pins = next;
                        added.for_each(|at| counts[at] += 1);
                    }
                } else {
                    pins = pins.minus(kinds);
                    added.for_each(|at| counts[at] = counts[at].saturating_sub(1));
                }
                let word = counts.iter().rev().fold(0, |word, count| word << 8 | count);
                prop_assert_eq!(pins, Pins(word));
                prop_assert_eq!(pins.any(), word != 0);
                prop_assert_eq!(pins.any_writer(), counts[2] + counts[3] != 0);
            }
        }
    }
}
