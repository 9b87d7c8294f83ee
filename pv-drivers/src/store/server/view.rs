//! What a client sees: the tree, through the changes of its transaction where it is in one; and what may be done there.

use core::cmp::Ordering;

use super::super::Errno;
use super::path::Path;
use super::rights::{Actor, Deed, Rights};
use super::transaction::{Change, Delta, Transaction, What};
use super::tree::{Context, Node, Tree};

/// See the head of the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub tree: &'a Tree,
    pub transaction: Option<&'a Transaction>,
}

/// A node as it is seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight<'a> {
    /// In the tree; none where the transaction made it, or hides it.
    base: Option<&'a Node>,
    delta: Option<&'a Delta>,
    transaction: Option<&'a Transaction>,
    tree: &'a Tree,
}

/// How far the way to a node leads.
struct Walk<'a> {
    /// The lowest node on the way.
    last: Sight<'a>,
    /// How many there are, without the root.
    depth: usize,
    is_there: bool,
}

impl<'a> View<'a> {
    fn walk(self, path: &Path) -> Walk<'a> {
        let delta = self.transaction.map(|transaction| &transaction.root);
        let root = &self.tree.root;
        let mut last = Sight { base: Some(root), delta, transaction: self.transaction, tree: self.tree };
        let mut depth = 0;
        for name in path.names() {
            self.tree.step();
            let Some(next) = last.child(name) else { return Walk { last, depth, is_there: false } };
            last = next;
            depth += 1;
        }
        Walk { last, depth, is_there: true }
    }

    /// A node that `actor` may do something with. That one is missing is told only to those who may read what is above it.
    pub fn allowed(self, path: &Path, actor: &Actor, deed: Deed) -> Result<Sight<'a>, Errno> {
        self.walk(path).allowed(actor, deed)
    }
}

impl<'a> Walk<'a> {
    fn allowed(&self, actor: &Actor, deed: Deed) -> Result<Sight<'a>, Errno> {
        match self.is_there {
            true if actor.may(deed, self.last.rights()) => Ok(self.last),
            false if actor.may(Deed::Read, self.last.rights()) => Err(Errno::ENOENT),
            _ => Err(Errno::EACCES),
        }
    }
}

impl<'a> Sight<'a> {
    fn child(self, name: &str) -> Option<Self> {
        let delta = self.delta.and_then(|delta| delta.children.get(name));
        let base = match delta {
            Some(delta) if delta.hides => None,
            _ => self.base.and_then(|node| node.children.get(name)),
        };
        let is_there = base.is_some() || delta.is_some_and(|delta| delta.rights.is_some());
        is_there.then_some(Self { base, delta, ..self })
    }

    /// Its rights.
    pub fn rights(self) -> &'a Rights {
        let own = self.delta.and_then(|delta| delta.rights.as_ref());
        // Whatever is seen has rights in the tree or the transaction, so the root's are not used.
        own.or(self.base.map(|node| &node.rights)).unwrap_or(&self.tree.root.rights)
    }

    /// Its value.
    pub fn value(self) -> &'a [u8] {
        match self.delta.and_then(|delta| delta.value).zip(self.transaction) {
            Some((change, transaction)) => transaction.value(change),
            None => self.base.map_or(&[], |node| &node.value),
        }
    }

    /// A number that changes with the names of its children.
    pub fn list_stamp(self) -> u64 {
        let own = self.delta.map_or(0, |delta| delta.list_stamp);
        self.base.map_or(0, |node| node.list_stamp).max(own)
    }

    /// The names of its children, in order: a step for each that the tree or the transaction has.
    pub fn names(self) -> impl Iterator<Item = &'a str> {
        let (mut in_base, mut in_delta) = (0, 0);
        core::iter::from_fn(move || {
            loop {
                self.tree.step();
                let base = self.base.and_then(|node| node.children.at(in_base)).map(|(name, _)| name);
                let own = self.delta.and_then(|delta| delta.children.at(in_delta));
                let order = match (base, own) {
                    (Some(base), Some((own, _))) => base.cmp(own),
                    (Some(_), None) => Ordering::Less,
                    (None, _) => Ordering::Greater,
                };
                in_base += usize::from(order.is_le());
                in_delta += usize::from(order.is_ge());
                let (name, delta) =
                    if order.is_lt() { (base?, None) } else { own.map(|(n, d)| (n, Some(d)))? };
                let is_base = order.is_le() && !delta.is_some_and(|delta| delta.hides);
                if is_base || delta.is_some_and(|delta| delta.rights.is_some()) {
                    return Some(name);
                }
            }
        })
    }
}

/// What a change comes to.
#[derive(Debug)]
pub(super) enum Plan {
    /// It is there, or is gone, already.
    Nothing {
        is_there: bool,
    },
    /// The value of a node with these rights.
    Set(Rights),
    /// A node and those above it, of which `depth` are there.
    Make {
        depth: usize,
        rights: Rights,
    },
    Remove,
    /// A node's rights.
    Grant,
}

/// What a change comes to in a view, if who makes it may.
pub(super) fn judge(view: View<'_>, change: &Change, context: Context<'_>) -> Result<Plan, Errno> {
    let Context { actor, quota, known, stamp } = context;
    let walk = view.walk(&change.path);
    match &change.what {
        What::Write(value) if !actor.privileged && value.len() > quota.value => Err(Errno::ENOSPC),
        What::Write(_) | What::Mkdir if !walk.is_there => {
            if !actor.may(Deed::Write, walk.last.rights()) {
                return Err(Errno::EACCES);
            }
            let rights = walk.last.rights().inherited(actor, known, stamp);
            Ok(Plan::Make { depth: walk.depth, rights })
        }
        What::Write(_) => walk.allowed(actor, Deed::Write).map(|node| Plan::Set(node.rights().clone())),
        What::Mkdir => walk.allowed(actor, Deed::Write).map(|_| Plan::Nothing { is_there: true }),
        What::Remove if change.path.is_root() => Err(Errno::EINVAL),
        What::Remove => match walk.allowed(actor, Deed::Write) {
            // What is to go was not there: just as well, if the one above is.
            Err(Errno::ENOENT) if walk.depth + 1 == change.path.names().count() => {
                Ok(Plan::Nothing { is_there: false })
            }
            result => result.map(|_| Plan::Remove),
        },
        What::SetRights(rights) => {
            let old = walk.allowed(actor, Deed::Own)?.rights().owner();
            if !actor.privileged && rights.owner() != old {
                return Err(Errno::EPERM);
            }
            if !actor.privileged && rights.entries().len() > quota.rights {
                return Err(Errno::ENOSPC);
            }
            // Its owner went while the transaction was under way.
            if !known.means(rights.owner(), rights.written()) {
                return Err(Errno::EAGAIN);
            }
            Ok(Plan::Grant)
        }
    }
}
