//! A transaction: its own version of the tree, what it saw, and what it changed.
//!
//! At the end each thing seen is compared with the tree as it is then; where nothing of it changed, the changes are
//! made again, in order, in that tree. So two transactions that touch different things never disturb each other, even
//! below the same node.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::super::Errno;
use super::path::Path;
use super::tree::{Context, Rights, Tree};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Write(Path, Arc<[u8]>),
    Mkdir(Path),
    Remove(Path),
    SetRights(Path, Rights),
}

impl Change {
    pub fn path(&self) -> &Path {
        match self {
            Self::Write(path, _) | Self::Mkdir(path) | Self::Remove(path) | Self::SetRights(path, _) => path,
        }
    }

    /// Bytes of what it says.
    fn bytes(&self) -> usize {
        let value = if let Self::Write(_, value) = self { value.len() } else { 0 };
        self.path().as_str().len() + value
    }

    /// Makes the change. Answers whether anything is different.
    pub fn apply(&self, tree: &mut Tree, context: Context<'_>) -> Result<bool, Errno> {
        match self {
            Self::Write(path, value) => tree.write(path, value, context).map(|()| true),
            Self::Mkdir(path) => tree.mkdir(path, context),
            Self::Remove(path) => match tree.remove(path, context) {
                // What is to go was not there: just as well, if the one above is.
                Err(Errno::ENOENT) if tree.get(&path.parent()).is_some() => Ok(false),
                result => result.map(|()| true),
            },
            Self::SetRights(path, rights) => tree.set_rights(path, rights, context).map(|()| true),
        }
    }
}

/// What was seen of a node.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Value or rights, or that it is missing.
    content: bool,
    /// The names of its children.
    list: bool,
}

/// A transaction under way.
#[derive(Debug)]
pub(super) struct Transaction {
    base: Tree,
    /// The tree as the transaction sees it.
    pub tree: Tree,
    seen: BTreeMap<Path, Seen>,
    changes: Vec<Change>,
    held: usize,
}

impl Transaction {
    pub fn new(tree: &Tree) -> Self {
        Self { base: tree.clone(), tree: tree.clone(), seen: BTreeMap::new(), changes: Vec::new(), held: 0 }
    }

    /// Bytes of the paths and values that it keeps.
    pub fn held(&self) -> usize {
        self.held
    }

    /// How much it touched.
    pub fn touched(&self) -> usize {
        self.seen.len() + self.changes.len()
    }

    /// Its owner saw the value or the rights of a node, or that there is none.
    pub fn saw(&mut self, path: &Path) {
        self.note(path).content = true;
    }

    /// Its owner saw the names of a node's children.
    pub fn saw_list(&mut self, path: &Path) {
        self.note(path).list = true;
    }

    fn note(&mut self, path: &Path) -> &mut Seen {
        let held = &mut self.held;
        self.seen.entry(path.clone()).or_insert_with(|| {
            *held += path.as_str().len();
            Seen::default()
        })
    }

    /// Makes a change in the transaction's own tree.
    pub fn change(&mut self, change: Change, context: Context<'_>) -> Result<(), Errno> {
        if change.apply(&mut self.tree, context)? {
            self.held += change.bytes();
            self.changes.push(change);
        } else {
            self.saw(change.path());
        }
        Ok(())
    }

    /// Whether everything that was seen is still so in `tree`.
    pub fn still_true(&self, tree: &Tree) -> bool {
        self.seen.iter().all(|(path, seen)| {
            let (then, now) = (self.base.get(path), tree.get(path));
            let same_content = then.map(|node| node.stamp) == now.map(|node| node.stamp);
            let same_list = then.map(|node| node.list_stamp) == now.map(|node| node.list_stamp);
            (!seen.content || same_content) && (!seen.list || same_list)
        })
    }

    /// The changes, in order.
    pub fn into_changes(self) -> Vec<Change> {
        self.changes
    }
}
