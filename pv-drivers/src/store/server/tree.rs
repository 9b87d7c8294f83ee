//! The tree of nodes: values, owners, rights, and what each domain may do with them.
//!
//! Nodes are shared between versions of the tree (a changed node is copied with those above it), so that a
//! transaction's own version costs nothing until it changes something. Each node carries two stamps, one of its value
//! and rights and one of the list of its children; each change brings a new one. A stamp never comes back: two nodes
//! of one path with the same stamp are the same in that respect, in whatever version they are.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use super::super::{Errno, Permission};
use super::path::Path;

/// Owner and rights: never empty; the first entry names the owner and what everybody may do who is not listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights(Vec<(u16, Permission)>);

impl Rights {
    /// All of it.
    ///
    /// # Errors
    ///
    /// `EINVAL` where there is no first entry.
    pub fn new(entries: &[(u16, Permission)]) -> Result<Self, Errno> {
        if entries.is_empty() { Err(Errno::EINVAL) } else { Ok(Self(entries.to_vec())) }
    }

    /// A node of `owner` that nobody else may touch.
    #[must_use]
    pub fn private(owner: u16) -> Self {
        Self(vec![(owner, Permission::None)])
    }

    /// Who owns it.
    #[must_use]
    pub fn owner(&self) -> u16 {
        self.0[0].0
    }

    /// The entries.
    #[must_use]
    pub fn entries(&self) -> &[(u16, Permission)] {
        &self.0
    }

    /// The same for something that `actor` makes below: it owns what it makes, unless it is privileged.
    fn inherited(&self, actor: &Actor) -> Self {
        let mut rights = self.clone();
        if !actor.privileged {
            rights.0[0].0 = actor.domain;
        }
        rights
    }

    /// What `domain` may do that is not the owner.
    fn of(&self, domain: u16) -> Permission {
        let listed = self.0[1..].iter().find(|(other, _)| *other == domain);
        listed.unwrap_or(&self.0[0]).1
    }

    /// Takes out what was said of a domain that is gone; its number may be given to another one.
    fn forget(&mut self, domain: u16) -> bool {
        let before = self.0.len();
        let mut first = true;
        self.0.retain(|(other, _)| core::mem::take(&mut first) || *other != domain);
        self.0.len() != before
    }
}

/// Who does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The domain.
    pub domain: u16,
    /// A domain in whose name it may act too.
    pub target: Option<u16>,
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
    pub(super) fn may(&self, deed: Deed, rights: &Rights) -> bool {
        let one = |domain: u16| {
            domain == rights.owner()
                || match deed {
                    Deed::Read => matches!(rights.of(domain), Permission::Read | Permission::Both),
                    Deed::Write => matches!(rights.of(domain), Permission::Write | Permission::Both),
                    Deed::Own => false,
                }
        };
        self.privileged || one(self.domain) || self.target.is_some_and(one)
    }
}

/// What unprivileged domains may use up, each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Nodes that it owns.
    pub nodes: usize,
    /// Bytes of a value.
    pub value: usize,
    /// Entries of a node's rights.
    pub rights: usize,
    /// Watches.
    pub watches: usize,
    /// Transactions under way.
    pub transactions: usize,
    /// Nodes that one transaction touches.
    pub touched: usize,
    /// Bytes of paths and values that one transaction keeps, and of paths and tokens of the events that wait.
    pub held: usize,
    /// Events that wait until it takes them; further ones are lost.
    pub events: usize,
}

impl Default for Quota {
    /// As xenstored's; the bytes of all transactions together come to what it allows a domain.
    fn default() -> Self {
        Self {
            nodes: 1000,
            value: 2048,
            rights: 5,
            watches: 128,
            transactions: 10,
            touched: 1024,
            held: 200 << 10,
            events: 2048,
        }
    }
}

/// A node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Shared with other versions of the node, whose owner may not have paid for them.
    pub value: Arc<[u8]>,
    pub rights: Rights,
    pub children: BTreeMap<String, Arc<Node>>,
    /// Of value and rights.
    pub stamp: u64,
    /// Of the names of the children.
    pub list_stamp: u64,
}

impl Node {
    fn new(rights: Rights, stamp: u64) -> Self {
        Self { value: Arc::default(), rights, children: BTreeMap::new(), stamp, list_stamp: stamp }
    }
}

/// A version of the tree.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    root: Arc<Node>,
    /// Nodes that each domain owns.
    owned: BTreeMap<u16, usize>,
}

/// What a change needs beside its node: who makes it, its stamp, and the limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub actor: &'a Actor,
    pub stamp: u64,
    pub quota: &'a Quota,
}

impl Tree {
    /// Nothing but the root, which domain 0 owns and everybody may read.
    pub fn new() -> Self {
        let rights = Rights(vec![(0, Permission::Read)]);
        Self { root: Arc::new(Node::new(rights, 0)), owned: BTreeMap::from([(0, 1)]) }
    }

    /// A node.
    pub fn get(&self, path: &Path) -> Option<&Node> {
        let mut node = &self.root;
        for name in path.names() {
            node = node.children.get(name)?;
        }
        Some(node)
    }

    /// The lowest node that there is on the way to `path`.
    fn nearest(&self, path: &Path) -> &Node {
        let mut node = &self.root;
        for name in path.names() {
            match node.children.get(name) {
                Some(child) => node = child,
                None => break,
            }
        }
        node
    }

    /// A node that `actor` may do something with. That one is missing is told only to those who may read what is
    /// above it.
    pub fn allowed(&self, path: &Path, actor: &Actor, deed: Deed) -> Result<&Node, Errno> {
        match self.get(path) {
            Some(node) if actor.may(deed, &node.rights) => Ok(node),
            Some(_) => Err(Errno::EACCES),
            None if actor.may(Deed::Read, &self.nearest(path).rights) => Err(Errno::ENOENT),
            None => Err(Errno::EACCES),
        }
    }

    /// How many nodes a domain owns.
    #[cfg(test)]
    pub fn owned_by(&self, domain: u16) -> usize {
        self.owned.get(&domain).copied().unwrap_or(0)
    }

    /// Sets a value; the node and those above it are made where they are missing.
    pub fn write(&mut self, path: &Path, value: &Arc<[u8]>, context: Context<'_>) -> Result<(), Errno> {
        if !context.actor.privileged && value.len() > context.quota.value {
            return Err(Errno::ENOSPC);
        }
        if self.get(path).is_none() {
            self.make(path, context)?;
        }
        self.allowed(path, context.actor, Deed::Write)?;
        let node = self.change(path).ok_or(Errno::ENOENT)?;
        (node.value, node.stamp) = (value.clone(), context.stamp);
        Ok(())
    }

    /// Makes a node where it is missing; answers whether it was.
    pub fn mkdir(&mut self, path: &Path, context: Context<'_>) -> Result<bool, Errno> {
        if self.get(path).is_some() {
            return self.allowed(path, context.actor, Deed::Write).map(|_| false);
        }
        self.make(path, context).map(|()| true)
    }

    /// Makes a missing node and those above it.
    fn make(&mut self, path: &Path, context: Context<'_>) -> Result<(), Errno> {
        let Context { actor, stamp, quota } = context;
        let nearest = self.nearest(path);
        if !actor.may(Deed::Write, &nearest.rights) {
            return Err(Errno::EACCES);
        }
        let rights = nearest.rights.inherited(actor);
        let mut made = 0;
        let mut node = &mut self.root;
        for name in path.names() {
            let above = Arc::make_mut(node);
            if !above.children.contains_key(name) {
                above.list_stamp = stamp;
                above.children.insert(name.into(), Arc::new(Node::new(rights.clone(), stamp)));
                made += 1;
            }
            // Was there, or was just put there.
            node = above.children.get_mut(name).ok_or(Errno::EIO)?;
        }
        let owned = self.owned.entry(rights.owner()).or_default();
        *owned += made;
        if !actor.privileged && *owned > quota.nodes {
            self.cut(path, made)?;
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    /// Takes the lowest `count` nodes of a path away again.
    fn cut(&mut self, path: &Path, count: usize) -> Result<(), Errno> {
        let mut top = path.clone();
        for _ in 1..count {
            top = top.parent();
        }
        self.take_out(&top, None)
    }

    /// Removes a node with everything below.
    pub fn remove(&mut self, path: &Path, context: Context<'_>) -> Result<(), Errno> {
        if path.is_root() {
            return Err(Errno::EINVAL);
        }
        self.allowed(path, context.actor, Deed::Write)?;
        self.take_out(path, Some(context.stamp))
    }

    fn take_out(&mut self, path: &Path, stamp: Option<u64>) -> Result<(), Errno> {
        let name = path.names().last().ok_or(Errno::EINVAL)?;
        let above = self.change(&path.parent()).ok_or(Errno::ENOENT)?;
        let gone = above.children.remove(name).ok_or(Errno::ENOENT)?;
        if let Some(stamp) = stamp {
            above.list_stamp = stamp;
        }
        self.disown(&gone);
        Ok(())
    }

    /// A node and those below are not owned any more.
    fn disown(&mut self, node: &Node) {
        self.count(node.rights.owner(), -1);
        node.children.values().for_each(|child| self.disown(child));
    }

    fn count(&mut self, owner: u16, change: isize) {
        let owned = self.owned.entry(owner).or_default();
        *owned = owned.saturating_add_signed(change);
        if *owned == 0 {
            self.owned.remove(&owner);
        }
    }

    /// Sets owner and rights. Only a privileged domain gives a node to another owner.
    pub fn set_rights(&mut self, path: &Path, rights: &Rights, context: Context<'_>) -> Result<(), Errno> {
        let Context { actor, quota, .. } = context;
        let old = self.allowed(path, actor, Deed::Own)?.rights.owner();
        if !actor.privileged && rights.owner() != old {
            return Err(Errno::EPERM);
        }
        if !actor.privileged && rights.0.len() > quota.rights {
            return Err(Errno::ENOSPC);
        }
        let node = self.change(path).ok_or(Errno::ENOENT)?;
        (node.rights, node.stamp) = (rights.clone(), context.stamp);
        self.count(old, -1);
        self.count(rights.owner(), 1);
        Ok(())
    }

    /// A node to be changed: a copy where another version of the tree has it too.
    fn change(&mut self, path: &Path) -> Option<&mut Node> {
        let mut node = Arc::make_mut(&mut self.root);
        for name in path.names() {
            node = Arc::make_mut(node.children.get_mut(name)?);
        }
        Some(node)
    }

    /// Removes what a domain that is gone owned, and all rights that it had. Answers the topmost nodes that are gone.
    pub fn forget(&mut self, domain: u16, stamp: u64) -> Vec<String> {
        let mut gone = Vec::new();
        if let Some(root) = forgotten(&self.root, domain, stamp, &mut String::new(), &mut gone) {
            self.root = Arc::new(root);
        }
        for path in &gone {
            let Ok(path) = Path::parse(path, 0) else { continue };
            // Only now, so that each node below is counted for its own owner.
            let _ = self.take_out(&path, Some(stamp));
        }
        gone
    }
}

/// A node without the rights of `domain`, if there were any in it or below; nodes that it owned are named in `gone`.
fn forgotten(node: &Node, domain: u16, stamp: u64, at: &mut String, gone: &mut Vec<String>) -> Option<Node> {
    let mut new = None;
    for (name, child) in &node.children {
        let length = at.len();
        at.push('/');
        at.push_str(name);
        if child.rights.owner() == domain {
            gone.push(at.clone());
        } else if let Some(changed) = forgotten(child, domain, stamp, at, gone) {
            new.get_or_insert_with(|| node.clone()).children.insert(name.clone(), Arc::new(changed));
        }
        at.truncate(length);
    }
    let mut rights = node.rights.clone();
    if rights.forget(domain) {
        let new = new.get_or_insert_with(|| node.clone());
        (new.rights, new.stamp) = (rights, stamp);
    }
    new
}
