//! Owners and rights, and to whom they still apply.
//!
//! A domain's number may be given to another domain after its end. Rights carry a stamp of when they were written, and a
//! domain one of since when it has been there: what was written before a domain came means an earlier one of its number, or
//! none, and gives it nothing, wherever it stands and whenever it is committed. (The rights of a domain that is gone are
//! taken out of nodes as well; this is what makes the moment at which that happens irrelevant.)

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::super::{Errno, Permission};

/// Owner and rights: never empty; the first entry names the owner and what everybody may do who is not listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    entries: Arc<[(u16, Permission)]>,
    /// The stamp of the moment at which they were written.
    written: u64,
}

impl Rights {
    /// All of it.
    ///
    /// # Errors
    ///
    /// `EINVAL` where there is no first entry.
    pub fn new(entries: &[(u16, Permission)]) -> Result<Self, Errno> {
        if entries.is_empty() { Err(Errno::EINVAL) } else { Ok(Self { entries: entries.into(), written: 0 }) }
    }

    /// A node of `owner` that nobody else may touch.
    #[must_use]
    pub fn private(owner: u16) -> Self {
        Self { entries: [(owner, Permission::None)].into(), written: 0 }
    }

    /// What the root has: domain 0 owns it, and everybody may read it.
    pub(super) fn of_root() -> Self {
        Self { entries: [(0, Permission::Read)].into(), written: 0 }
    }

    /// Who owns it.
    #[must_use]
    pub fn owner(&self) -> u16 {
        self.entries[0].0
    }

    /// The entries.
    #[must_use]
    pub fn entries(&self) -> &[(u16, Permission)] {
        &self.entries
    }

    /// The same, written at `stamp`.
    pub(super) fn at(self, stamp: u64) -> Self {
        Self { written: stamp, ..self }
    }

    /// The stamp of the moment at which they were written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Bytes of the entries, as they are charged.
    pub(super) fn bytes(&self) -> usize {
        self.entries.len() * super::account::RIGHT
    }

    /// The same without the entries that mean an earlier domain of a number that is another's now.
    pub(super) fn shown(&self, known: &Known) -> Self {
        self.filtered(|domain| known.since(domain).is_none_or(|since| since <= self.written))
    }

    /// The same for something that `actor` makes below at `stamp`: it owns what it makes, unless it is privileged and the owner is
    /// still there.
    pub(super) fn inherited(&self, actor: &Actor, known: &Known, stamp: u64) -> Self {
        let mut rights = self.filtered(|domain| known.means(domain, self.written)).at(stamp);
        let keeps = actor.privileged && known.means(self.owner(), self.written);
        if !keeps && rights.owner() != actor.domain {
            let mut entries = rights.entries.to_vec();
            entries[0].0 = actor.domain;
            rights.entries = entries.into();
        }
        rights
    }

    /// Takes out what was said of a domain that is gone; whether there was something.
    pub(super) fn forget(&mut self, domain: u16) -> bool {
        let new = self.filtered(|other| other != domain);
        core::mem::replace(self, new).entries.len() != self.entries.len()
    }

    /// The first entry, and those others whose domain passes.
    fn filtered(&self, passes: impl Fn(u16) -> bool) -> Self {
        if self.entries[1..].iter().all(|(domain, _)| passes(*domain)) {
            return self.clone();
        }
        let others = self.entries[1..].iter().filter(|(domain, _)| passes(*domain));
        let entries: Vec<_> = self.entries[..1].iter().chain(others).copied().collect();
        Self { entries: entries.into(), written: self.written }
    }

    /// What a domain may do that is not the owner.
    fn of(&self, who: Identity) -> Permission {
        let listed = self.entries[1..].iter().find(|(other, _)| *other == who.domain && self.mean(who));
        listed.unwrap_or(&self.entries[0]).1
    }

    /// Whether they were written while this very domain was there.
    fn mean(&self, who: Identity) -> bool {
        who.since <= self.written
    }
}

/// A domain, told from earlier and later ones of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub domain: u16,
    /// The stamp since when it has been there.
    pub since: u64,
}

/// The domains that are there, and since when.
#[derive(Debug)]
pub(super) struct Known(BTreeMap<u16, u64>);

impl Known {
    /// Domain 0 has always been there.
    pub fn new() -> Self {
        Self(BTreeMap::from([(0, 0)]))
    }

    /// Since when a domain has been there.
    pub fn since(&self, domain: u16) -> Option<u64> {
        self.0.get(&domain).copied()
    }

    /// Whether what was written at `written` means the domain that has this number now.
    pub fn means(&self, domain: u16, written: u64) -> bool {
        self.since(domain).is_some_and(|since| since <= written)
    }

    /// A domain is there.
    pub fn add(&mut self, domain: u16, stamp: u64) {
        self.0.insert(domain, stamp);
    }

    /// A domain is gone.
    pub fn remove(&mut self, domain: u16) {
        self.0.remove(&domain);
    }
}

/// Who does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Actor {
    /// The domain.
    pub domain: u16,
    /// Since when it has been there.
    pub since: u64,
    /// A domain in whose name it may act too.
    pub target: Option<Identity>,
    /// Whether it may do everything.
    pub privileged: bool,
}

/// Something that one may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Read,
    Write,
    Own,
}

impl Actor {
    /// Whether these rights allow it.
    pub fn may(&self, deed: Deed, rights: &Rights) -> bool {
        let one = |who: Identity| {
            who.domain == rights.owner() && rights.mean(who)
                || match deed {
                    Deed::Read => matches!(rights.of(who), Permission::Read | Permission::Both),
                    Deed::Write => matches!(rights.of(who), Permission::Write | Permission::Both),
                    Deed::Own => false,
                }
        };
        let own = Identity { domain: self.domain, since: self.since };
        self.privileged || one(own) || self.target.is_some_and(one)
    }
}
