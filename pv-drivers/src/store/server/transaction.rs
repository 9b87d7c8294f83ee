//! A transaction: what it saw, and what it changed, kept beside the tree.
//!
//! It sees the tree as it is, through its own changes ([`Delta`]). Of each thing that it saw it notes the stamp that it saw
//! first. At the end each is compared with the tree as it is then; where nothing of it changed, the changes are made in
//! the tree, in order (`commit`). So two transactions that touch different things never disturb each other, even below the
//! same node, and one under way keeps nothing of the tree alive: all that it keeps is its own and is charged to its domain.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::super::Errno;
use super::account::{CHANGE, DELTA, SEEN, TRANSACTION};
use super::children::Children;
use super::path::Path;
use super::rights::Rights;
use super::tree::{Context, Done, Tree};
use super::view::{Plan, View, judge};

/// One change.
#[derive(Debug)]
pub(super) struct Change {
    pub path: Path,
    pub what: What,
}

/// What is done to a node.
#[derive(Debug)]
pub(super) enum What {
    Write(Vec<u8>),
    Mkdir,
    Remove,
    SetRights(Rights),
}

impl Change {
    /// Bytes of what it says.
    fn said(&self) -> usize {
        let value = if let What::Write(value) = &self.what { value.len() } else { 0 };
        self.path.as_str().len() + value
    }

    /// Bytes that it takes.
    fn bytes(&self) -> usize {
        let rights = if let What::SetRights(rights) = &self.what { rights.bytes() } else { 0 };
        CHANGE + self.said() + rights
    }
}

const _: () = assert!(CHANGE >= 2 * size_of::<Change>() + size_of::<Done>() + 2 * 16);

/// The stamps of a node when it was seen first; none for what was not looked at, and no stamp for what was missing.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Of value and rights.
    content: Option<Option<u64>>,
    /// Of the names of its children, and of rights.
    list: Option<Option<u64>>,
}

const _: () = assert!(SEEN >= 2 * size_of::<(Path, Seen)>() + 2 * 16);

impl Seen {
    /// Whether all that was seen is so still.
    fn is_true(&self, tree: &Tree, path: &Path) -> bool {
        let node = tree.get(path);
        let same = |then: Option<Option<u64>>, now| then.is_none_or(|then| then == now);
        same(self.content, node.map(|node| node.stamp)) && same(self.list, node.map(|node| node.list_stamp))
    }
}

/// What became of a node and of those below it.
#[derive(Debug, Default)]
pub(super) struct Delta {
    /// The tree's node of this name, with all below, is not seen.
    pub hides: bool,
    /// The transaction made it. It hides another one then.
    pub is_made: bool,
    /// There was none of this name when the transaction made it.
    is_fresh: bool,
    /// The change that wrote its value last.
    pub value: Option<usize>,
    /// Of a node that the transaction made or wrote: it sees that one even where another client removes it.
    pub rights: Option<Rights>,
    /// Where the names of its children changed: of the last time.
    pub list_stamp: u64,
    /// Nodes that were made, here and below.
    made: usize,
    pub children: Children<Self>,
}

const _: () = assert!(DELTA >= 2 * size_of::<(Box<str>, Delta)>() + 16);

impl Delta {
    /// The one at a path, made with those above it where it is missing.
    fn at(&mut self, path: &Path) -> Result<&mut Self, Errno> {
        let mut delta = self;
        for name in path.names() {
            if delta.children.get(name).is_none() {
                delta.children.insert(name, Self::default())?;
            }
            // Was there, or was just put there.
            delta = delta.children.get_mut(name).ok_or(Errno::ENOSPC)?;
        }
        Ok(delta)
    }

    /// The one at a path.
    fn get(&self, path: &Path) -> Option<&Self> {
        let mut delta = self;
        for name in path.names() {
            delta = delta.children.get(name)?;
        }
        Some(delta)
    }

    /// Whether a node, or one above it, was missing when the transaction made it.
    fn is_fresh_above(&self, path: &Path) -> bool {
        let mut delta = Some(self);
        path.names().any(|name| {
            delta = delta.and_then(|delta| delta.children.get(name));
            delta.is_some_and(|delta| delta.is_fresh)
        })
    }

    /// Whether another client removed a node on the way to a path, below which something was changed here.
    fn is_cut(&self, tree: &Tree, path: &Path) -> bool {
        let (mut delta, mut base) = (self, Some(&tree.root));
        for name in path.names() {
            tree.step();
            match delta.children.get(name) {
                Some(child) if !child.hides => delta = child,
                _ => return false,
            }
            base = base.and_then(|node| node.children.get(name));
            if base.is_none() && delta.rights.is_none() {
                return true;
            }
        }
        false
    }

    /// Bytes of those that are missing on the way to a path.
    fn missing(&self, path: &Path) -> usize {
        let mut delta = Some(self);
        path.names()
            .map(|name| {
                delta = delta.and_then(|delta| delta.children.get(name));
                if delta.is_some() { 0 } else { DELTA + name.len() }
            })
            .sum()
    }
}

/// A transaction under way.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// What became of the root.
    pub root: Delta,
    seen: BTreeMap<Path, Seen>,
    changes: Vec<Change>,
    /// Bytes of the paths and values that it keeps.
    pub held: usize,
    /// Bytes that its domain is charged.
    pub charged: usize,
    /// It saw one thing in two states: it cannot be committed.
    is_torn: bool,
    /// It removed nodes that it had not made.
    removes: bool,
}

impl Transaction {
    pub fn new() -> Self {
        Self { charged: TRANSACTION, ..Self::default() }
    }

    /// How much it touched.
    pub fn touched(&self) -> usize {
        self.seen.len() + self.changes.len()
    }

    /// The value that a change wrote.
    pub fn value(&self, change: usize) -> &[u8] {
        match self.changes.get(change).map(|change| &change.what) {
            Some(What::Write(value)) => value,
            _ => &[],
        }
    }

    /// Bytes that noting a path takes.
    pub fn note_bytes(&self, path: &Path) -> usize {
        if self.seen.contains_key(path.as_str()) { 0 } else { SEEN + path.as_str().len() }
    }

    /// Its owner saw a node, or that there is none: the names of its children (`list`), or value or rights.
    pub fn saw(&mut self, tree: &Tree, path: &Path, list: bool) {
        if !self.seen.contains_key(path.as_str()) {
            self.held += path.as_str().len();
            self.seen.insert(path.clone(), Seen::default());
        }
        let Some(seen) = self.seen.get_mut(path.as_str()) else { return };
        let node = tree.get(path);
        // What the transaction made and shows, with nothing below but its own, is not what it would find by now.
        let is_hidden = node.is_some() && self.root.is_fresh_above(path);
        let (first, now) = if list {
            (&mut seen.list, node.map(|node| node.list_stamp))
        } else {
            (&mut seen.content, node.map(|node| node.stamp))
        };
        self.is_torn |= is_hidden || self.root.is_cut(tree, path) || *first.get_or_insert(now) != now;
    }

    /// What is seen where a change comes to nothing: the node, and where it is missing the one above, whose rights allowed the
    /// change, unless those are the transaction's own.
    fn notes(&self, path: &Path, is_there: bool) -> impl Iterator<Item = Path> + use<> {
        let above = Some(path.parent()).filter(|above| {
            let is_own = self.root.get(above).is_some_and(|delta| delta.rights.is_some());
            !is_there && !is_own
        });
        core::iter::once(path.clone()).chain(above)
    }

    /// Makes a change as its owner sees the tree from then on, charged by `charge`. Answers what was removed of its own.
    pub fn change(
        &mut self,
        tree: &Tree,
        change: Change,
        owned: usize,
        context: Context<'_>,
        mut charge: impl FnMut(usize) -> Result<(), Errno>,
    ) -> Result<Option<Delta>, Errno> {
        self.is_torn |= self.root.is_cut(tree, &change.path);
        let plan = judge(View { tree, transaction: Some(self) }, &change, context)?;
        let more = match &plan {
            Plan::Nothing { is_there } => {
                self.notes(&change.path, *is_there).map(|path| self.note_bytes(&path)).sum()
            }
            _ => change.bytes() + self.root.missing(&change.path),
        };
        let made = match &plan {
            Plan::Make { depth, .. } => change.path.names().count() - depth,
            _ => 0,
        };
        // What it removed of the tree is not counted here, but when it is committed.
        let owned = if self.removes { 0 } else { owned };
        if context.limit().is_some_and(|quota| made > 0 && owned + self.root.made + made > quota.nodes) {
            return Err(Errno::ENOSPC);
        }
        charge(more)?;
        self.charged += more;
        self.changes.try_reserve(1).map_err(|_| Errno::ENOSPC)?;
        let (number, stamp) = (self.changes.len(), context.stamp);
        let mut gone = None;
        match plan {
            Plan::Nothing { is_there } => {
                let notes: Vec<_> = self.notes(&change.path, is_there).collect();
                notes.iter().for_each(|path| self.saw(tree, path, false));
                return Ok(None);
            }
            Plan::Set(rights) => {
                let delta = self.root.at(&change.path)?;
                (delta.value, delta.rights) = (Some(number), Some(rights));
            }
            Plan::Make { depth, rights } => self.make(&change, number, depth, &rights, stamp)?,
            Plan::Remove => gone = Some(self.remove(&change.path, stamp)?),
            Plan::Grant => {
                if let What::SetRights(rights) = &change.what {
                    self.root.at(&change.path)?.rights = Some(rights.clone());
                }
            }
        }
        self.held += change.said();
        self.changes.push(change);
        Ok(gone)
    }

    fn make(
        &mut self,
        change: &Change,
        number: usize,
        depth: usize,
        rights: &Rights,
        stamp: u64,
    ) -> Result<(), Errno> {
        let levels = change.path.names().count();
        // First all places, so that nothing is left half made.
        self.root.at(&change.path)?;
        let mut delta = &mut self.root;
        for (level, name) in change.path.names().enumerate() {
            delta.made += levels - depth.max(level);
            if level == depth {
                delta.list_stamp = stamp;
            }
            let Some(child) = delta.children.get_mut(name) else { return Err(Errno::ENOSPC) };
            delta = child;
            if level >= depth {
                delta.made += 1;
                delta.is_fresh = !delta.hides;
                (delta.hides, delta.is_made) = (true, true);
                (delta.rights, delta.list_stamp) = (Some(rights.clone()), stamp);
            }
        }
        delta.value = matches!(change.what, What::Write(_)).then_some(number);
        Ok(())
    }

    fn remove(&mut self, path: &Path, stamp: u64) -> Result<Delta, Errno> {
        let delta = self.root.at(path)?;
        let gone = core::mem::replace(delta, Delta { hides: true, ..Delta::default() });
        let (mut above, levels) = (&mut self.root, path.names().count());
        for (level, name) in path.names().enumerate() {
            above.made -= gone.made;
            if level + 1 == levels {
                above.list_stamp = stamp;
            }
            let Some(child) = above.children.get_mut(name) else { break };
            above = child;
        }
        self.removes |= !gone.is_made;
        Ok(gone)
    }

    /// Whether what was seen of the next paths behind `last` is still so; how far it looked, or none where that was all.
    pub fn check_next(&self, tree: &Tree, last: Option<&Path>) -> Result<Option<&Path>, Errno> {
        use core::ops::Bound::{Excluded, Unbounded};
        if self.is_torn {
            return Err(Errno::EAGAIN);
        }
        let from = last.map_or(Unbounded, |last| Excluded(last.as_str()));
        let Some((path, seen)) = self.seen.range::<str, _>((from, Unbounded)).next() else { return Ok(None) };
        if seen.is_true(tree, path) { Ok(Some(path)) } else { Err(Errno::EAGAIN) }
    }

    /// Takes the changes out, in order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        core::mem::take(&mut self.changes)
    }

    /// Frees a piece of what it saw and would have changed; false: nothing of that is left.
    pub fn free_some(&mut self) -> bool {
        self.changes.pop().is_some() || self.seen.pop_first().is_some()
    }
}
