//! The tree of nodes, and how one change is made in it and taken back.
//!
//! There is one version of it. A transaction keeps what it changes beside it (`transaction`) and makes its changes here
//! when it is committed; each of them can be undone until all of them are made. Each node carries two stamps, one of its
//! value and rights and one of the list of its children; each change brings a new one. A stamp never comes back.
//!
//! The tree counts steps, the unit in which all work of the server is measured: one for each node on a way.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;

use super::super::Errno;
use super::account::{Account, Accounts, NODE, Quota};
use super::children::Offspring;
use super::path::Path;
use super::rights::{Actor, Known, Rights};
use super::transaction::{Change, What};
use super::view::{Plan, View, judge};

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    pub value: Vec<u8>,
    pub rights: Rights,
    pub children: Offspring,
    /// Of value and rights.
    pub stamp: u64,
    /// Of the names of the children, and of rights: those say who may have the list.
    pub list_stamp: u64,
    /// When it was made.
    pub made: u64,
}

const _: () =
    assert!(NODE >= size_of::<Node>() + 2 * (size_of::<(Box<str>, Box<Node>)>() + size_of::<u32>()) + 5 * 16);

impl Node {
    fn new(rights: Rights, stamp: u64) -> Self {
        Self {
            value: Vec::new(),
            rights,
            children: Offspring::default(),
            stamp,
            list_stamp: stamp,
            made: stamp,
        }
    }

    /// What it costs its owner under a name of so many bytes, without its children.
    pub fn cost(&self, name: usize) -> Account {
        Account { nodes: 1, bytes: NODE + name + self.value.len() + self.rights.bytes() }
    }
}

/// What a change needs beside its node: who makes it, its stamp, the limits, and who is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub actor: &'a Actor,
    pub stamp: u64,
    pub quota: &'a Quota,
    pub known: &'a Known,
}

impl<'a> Context<'a> {
    /// What limits its maker.
    pub fn limit(&self) -> Option<&'a Quota> {
        (!self.actor.privileged).then_some(self.quota)
    }
}

/// A change that was made: what watchers must be told, and how to take it back.
#[derive(Debug)]
pub(super) struct Done {
    pub path: Path,
    /// The node's rights before; none: there was no node.
    pub before: Option<Rights>,
    pub undo: Undo,
}

/// What a change left behind.
#[derive(Debug)]
pub(super) enum Undo {
    /// The old value and stamp.
    Value(Vec<u8>, u64),
    /// So many nodes were there on the way, the lowest with this stamp of its list.
    Made(usize, u64),
    /// What was removed, and the old stamp of the list that it was in.
    Removed(Box<Node>, u64),
    /// The old rights and stamp.
    Rights(Rights, u64, u64),
}

/// See the head of the module.
#[derive(Debug)]
pub(super) struct Tree {
    pub root: Node,
    steps: Cell<u64>,
}

impl Tree {
    /// Nothing but the root, which domain 0 owns and everybody may read.
    pub fn new(accounts: &mut Accounts) -> Self {
        let root = Node::new(Rights::of_root(), 0);
        // Without a limit this is never refused.
        let _ = accounts.charge(0, root.cost(0), None);
        Self { root, steps: Cell::new(0) }
    }

    /// Steps since the start.
    pub fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// Counts a step.
    pub fn step(&self) {
        self.steps.set(self.steps.get() + 1);
    }

    /// A node.
    pub fn get(&self, path: &Path) -> Option<&Node> {
        self.step();
        let mut node = &self.root;
        for name in path.names() {
            self.step();
            node = node.children.get(name)?;
        }
        Some(node)
    }

    fn get_mut(&mut self, path: &Path) -> Option<&mut Node> {
        let mut node = &mut self.root;
        for name in path.names() {
            self.steps.set(self.steps.get() + 1);
            node = node.children.get_mut(name)?;
        }
        Some(node)
    }

    /// Makes a change, where who makes it may. None: there was nothing to do.
    pub fn apply(
        &mut self,
        change: Change,
        accounts: &mut Accounts,
        context: Context<'_>,
    ) -> Result<Option<Done>, Errno> {
        let view = View { tree: self, transaction: None };
        let plan = judge(view, &change, context)?;
        let before = self.get(&change.path).map(|node| node.rights.clone());
        let Change { path, what } = change;
        let undo = match (plan, what) {
            (Plan::Set(_), What::Write(value)) => self.set(&path, value, accounts, context)?,
            (Plan::Make { depth, rights }, what) => {
                let value = if let What::Write(value) = what { value } else { Vec::new() };
                self.make(&path, depth, &rights, value, accounts, context)?
            }
            (Plan::Remove, _) => {
                let (node, list_stamp) = self.take_out(&path, context.stamp).ok_or(Errno::ENOENT)?;
                Undo::Removed(node, list_stamp)
            }
            (Plan::Grant, What::SetRights(rights)) => self.grant(&path, rights, accounts, context)?,
            _ => return Ok(None),
        };
        Ok(Some(Done { path, before, undo }))
    }

    fn set(
        &mut self,
        path: &Path,
        value: Vec<u8>,
        accounts: &mut Accounts,
        context: Context<'_>,
    ) -> Result<Undo, Errno> {
        let node = self.get_mut(path).ok_or(Errno::ENOENT)?;
        let (owner, old, new) = (node.rights.owner(), node.value.len(), value.len());
        accounts.charge_bytes(owner, new.saturating_sub(old), context.limit())?;
        accounts.credit_bytes(owner, old.saturating_sub(new));
        let value = core::mem::replace(&mut node.value, value);
        Ok(Undo::Value(value, core::mem::replace(&mut node.stamp, context.stamp)))
    }

    /// Makes a node and those above it, of which `depth` are there.
    fn make(
        &mut self,
        path: &Path,
        depth: usize,
        rights: &Rights,
        value: Vec<u8>,
        accounts: &mut Accounts,
        context: Context<'_>,
    ) -> Result<Undo, Errno> {
        let bytes = |name: &str| NODE + name.len() + rights.bytes();
        let made = path.names().skip(depth).fold(Account { nodes: 0, bytes: value.len() }, |sum, name| {
            Account { nodes: sum.nodes + 1, bytes: sum.bytes + bytes(name) }
        });
        accounts.charge(rights.owner(), made, context.limit())?;
        let mut list_stamp = context.stamp;
        let mut result = Ok(());
        let mut node = &mut self.root;
        for (level, name) in path.names().enumerate() {
            self.steps.set(self.steps.get() + 1);
            if level >= depth {
                if level == depth {
                    list_stamp = core::mem::replace(&mut node.list_stamp, context.stamp);
                }
                result = node.children.insert(name, Box::new(Node::new(rights.clone(), context.stamp)));
            }
            match node.children.get_mut(name) {
                Some(child) => node = child,
                // For want of memory.
                None => break,
            }
        }
        if let Err(error) = result {
            self.unmake(path, depth, list_stamp);
            accounts.credit(rights.owner(), made);
            return Err(error);
        }
        node.value = value;
        Ok(Undo::Made(depth, list_stamp))
    }

    /// Takes away what [`make`](Self::make) made.
    fn unmake(&mut self, path: &Path, depth: usize, list_stamp: u64) {
        let mut node = &mut self.root;
        for (level, name) in path.names().enumerate() {
            self.steps.set(self.steps.get() + 1);
            if level == depth {
                node.list_stamp = list_stamp;
                node.children.remove(name);
                return;
            }
            match node.children.get_mut(name) {
                Some(child) => node = child,
                None => return,
            }
        }
    }

    /// Takes a node out with everything below; it stays charged. Answers the old stamp of the list that it was in, too.
    pub fn take_out(&mut self, path: &Path, stamp: u64) -> Option<(Box<Node>, u64)> {
        let name = path.names().last()?;
        let above = self.get_mut(&path.parent())?;
        let node = above.children.remove(name)?;
        Some((node, core::mem::replace(&mut above.list_stamp, stamp)))
    }

    fn grant(
        &mut self,
        path: &Path,
        rights: Rights,
        accounts: &mut Accounts,
        context: Context<'_>,
    ) -> Result<Undo, Errno> {
        let name = path.names().last().map_or(0, str::len);
        let node = self.get_mut(path).ok_or(Errno::ENOENT)?;
        let mut new = node.cost(name);
        new.bytes = new.bytes - node.rights.bytes() + rights.bytes();
        regrant(accounts, (&node.rights, node.cost(name)), (&rights, new), context.limit())?;
        let undo = Undo::Rights(core::mem::replace(&mut node.rights, rights), node.stamp, node.list_stamp);
        (node.stamp, node.list_stamp) = (context.stamp, context.stamp);
        Ok(undo)
    }

    /// Takes back the last change that was made.
    pub fn undo(&mut self, done: Done, accounts: &mut Accounts) {
        let Done { path, undo, .. } = done;
        let name = path.names().last().unwrap_or_default();
        match undo {
            Undo::Value(value, stamp) => {
                let Some(node) = self.get_mut(&path) else { return };
                let (owner, new, old) = (node.rights.owner(), node.value.len(), value.len());
                // It was charged before.
                let _ = accounts.charge_bytes(owner, old.saturating_sub(new), None);
                accounts.credit_bytes(owner, new.saturating_sub(old));
                (node.value, node.stamp) = (value, stamp);
            }
            Undo::Made(depth, list_stamp) => {
                let mut at = &self.root;
                for (level, name) in path.names().enumerate() {
                    let Some(child) = at.children.get(name) else { break };
                    at = child;
                    if level >= depth {
                        accounts.credit(at.rights.owner(), at.cost(name.len()));
                    }
                }
                self.unmake(&path, depth, list_stamp);
            }
            Undo::Removed(node, list_stamp) => {
                let Some(above) = self.get_mut(&path.parent()) else { return };
                // The room for it was there.
                let _ = above.children.insert(name, node);
                above.list_stamp = list_stamp;
            }
            Undo::Rights(rights, stamp, list_stamp) => {
                let Some(node) = self.get_mut(&path) else { return };
                let mut old = node.cost(name.len());
                old.bytes = old.bytes - node.rights.bytes() + rights.bytes();
                // It was charged before.
                let _ = regrant(accounts, (&node.rights, node.cost(name.len())), (&rights, old), None);
                (node.rights, node.stamp, node.list_stamp) = (rights, stamp, list_stamp);
            }
        }
    }

    /// Takes the rights of a domain that is gone out of a node.
    pub fn strip(&mut self, path: &Path, domain: u16, stamp: u64, accounts: &mut Accounts) {
        let Some(node) = self.get_mut(path) else { return };
        let old = node.rights.bytes();
        if node.rights.forget(domain) {
            (node.stamp, node.list_stamp) = (stamp, stamp);
            accounts.credit_bytes(node.rights.owner(), old - node.rights.bytes());
        }
    }
}

/// Charges other rights of a node, which may have another owner.
fn regrant(
    accounts: &mut Accounts,
    (old, old_cost): (&Rights, Account),
    (new, new_cost): (&Rights, Account),
    limit: Option<&Quota>,
) -> Result<(), Errno> {
    if old.owner() == new.owner() {
        let more = new_cost.bytes.saturating_sub(old_cost.bytes);
        accounts.charge_bytes(new.owner(), more, limit)?;
        accounts.credit_bytes(old.owner(), old_cost.bytes.saturating_sub(new_cost.bytes));
    } else {
        accounts.charge(new.owner(), new_cost, limit)?;
        accounts.credit(old.owner(), old_cost);
    }
    Ok(())
}
