//! The tree of a process' domains: xenstore without permissions and quotas.

use core::fmt;
use std::borrow::ToOwned;
use std::collections::{BTreeMap, VecDeque};
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use super::{Machine, Shared};
use crate::store::{Error, Event, Permission, Store, Transaction};
use crate::transport::{DomId, Errno};

type Nodes = BTreeMap<String, Vec<u8>>;

/// What all connections share.
#[derive(Default)]
pub(super) struct Tree {
    nodes: Nodes,
    /// Counts changes.
    version: u64,
    transactions: BTreeMap<u32, Open>,
    last: u32,
    watches: Vec<Watch>,
    events: BTreeMap<DomId, VecDeque<Event>>,
}

/// A transaction: what it sees, and what it did.
struct Open {
    owner: DomId,
    version: u64,
    nodes: Nodes,
    changed: Vec<String>,
}

/// A watch of one connection.
struct Watch {
    owner: DomId,
    path: String,
    token: String,
    /// Whether events name nodes relative to the domain's own directory, as the watch did.
    relative: bool,
}

/// The node above.
fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent).filter(|parent| !parent.is_empty())
}

/// Whether `path` is `above` or below it.
fn is_within(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || above == "/")
}

fn home(domain: DomId) -> String {
    format!("/local/domain/{domain}")
}

impl Tree {
    /// Forgets what a domain that is gone waited for.
    pub(super) fn forget(&mut self, domain: DomId) {
        self.watches.retain(|watch| watch.owner != domain);
        self.transactions.retain(|_, open| open.owner != domain);
        self.events.remove(&domain);
    }

    fn nodes(&self, owner: DomId, transaction: Transaction) -> Result<&Nodes, Error> {
        match transaction {
            Transaction::NONE => Ok(&self.nodes),
            Transaction(id) => {
                let open = self.transactions.get(&id).filter(|open| open.owner == owner);
                open.map(|open| &open.nodes).ok_or(Errno::ENOENT)
            }
        }
    }
}

impl Shared {
    /// Changes the tree, or what a transaction sees of it.
    fn change(
        &mut self,
        owner: DomId,
        transaction: Transaction,
        path: &str,
        work: impl FnOnce(&mut Nodes) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if transaction == Transaction::NONE {
            work(&mut self.tree.nodes)?;
            self.changed(&[path.to_owned()]);
            return Ok(());
        }
        let open = self.tree.transactions.get_mut(&transaction.0).filter(|open| open.owner == owner);
        let open = open.ok_or(Errno::ENOENT)?;
        work(&mut open.nodes)?;
        open.changed.push(path.to_owned());
        Ok(())
    }

    /// Tells those who watch.
    fn changed(&mut self, paths: &[String]) {
        self.tree.version += 1;
        for path in paths {
            for watch in &self.tree.watches {
                // Whoever watches below a node that was removed hears of it as well.
                let hit = if is_within(path, &watch.path) {
                    path
                } else if is_within(&watch.path, path) && !self.tree.nodes.contains_key(&watch.path) {
                    &watch.path
                } else {
                    continue;
                };
                let home = home(watch.owner) + "/";
                let shown = if watch.relative { hit.strip_prefix(&home).unwrap_or(hit) } else { hit };
                let event = Event { path: shown.to_owned(), token: watch.token.clone() };
                self.tree.events.entry(watch.owner).or_default().push_back(event);
                if let Some(domain) = self.domains.get(&watch.owner) {
                    domain.wake();
                }
            }
        }
    }
}

/// A domain's connection to the tree.
#[derive(Clone)]
pub struct HostStore {
    machine: Machine,
    owner: DomId,
}

impl HostStore {
    pub(super) fn new(machine: Machine, owner: DomId) -> Self {
        Self { machine, owner }
    }

    /// Makes the domain's directory.
    pub(super) fn introduce(&self) {
        let known = self.read(Transaction::NONE, "domid").is_ok();
        if !known {
            // Outside of a transaction writing cannot fail here.
            let _ = self.write(Transaction::NONE, "domid", self.owner.to_string().as_bytes());
        }
    }

    fn absolute(&self, path: &str) -> Result<String, Error> {
        let path = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("{}/{path}", home(self.owner)),
        };
        let names = path.split('/').skip(1);
        let is_name = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_@".contains(&byte))
        };
        if path == "/" || names.into_iter().all(is_name) { Ok(path) } else { Err(Errno::EINVAL) }
    }
}

impl fmt::Debug for HostStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostStore({})", self.owner)
    }
}

impl Store for HostStore {
    fn read(&self, transaction: Transaction, path: &str) -> Result<Vec<u8>, Error> {
        let path = self.absolute(path)?;
        let shared = self.machine.lock();
        shared.tree.nodes(self.owner, transaction)?.get(&path).cloned().ok_or(Errno::ENOENT)
    }

    fn write(&self, transaction: Transaction, path: &str, value: &[u8]) -> Result<(), Error> {
        let path = self.absolute(path)?;
        let mut shared = self.machine.lock();
        shared.change(self.owner, transaction, &path, |nodes| {
            let mut above = parent(&path);
            while let Some(node) = above {
                nodes.entry(node.to_owned()).or_default();
                above = parent(node);
            }
            nodes.insert(path.clone(), value.to_vec());
            Ok(())
        })
    }

    fn mkdir(&self, transaction: Transaction, path: &str) -> Result<(), Error> {
        match self.read(transaction, path) {
            Err(Errno::ENOENT) => self.write(transaction, path, b""),
            other => other.map(drop),
        }
    }

    fn remove(&self, transaction: Transaction, path: &str) -> Result<(), Error> {
        let path = self.absolute(path)?;
        let mut shared = self.machine.lock();
        shared.change(self.owner, transaction, &path, |nodes| {
            let has_parent = parent(&path).is_none_or(|parent| nodes.contains_key(parent));
            if !has_parent {
                return Err(Errno::ENOENT);
            }
            nodes.retain(|node, _| !is_within(node, &path));
            Ok(())
        })
    }

    fn directory(&self, transaction: Transaction, path: &str) -> Result<Vec<String>, Error> {
        let path = self.absolute(path)?;
        let shared = self.machine.lock();
        let nodes = shared.tree.nodes(self.owner, transaction)?;
        if path != "/" && !nodes.contains_key(&path) {
            return Err(Errno::ENOENT);
        }
        let below = format!("{}/", path.trim_end_matches('/'));
        let names = nodes.keys().filter_map(|node| node.strip_prefix(&below));
        Ok(names.filter(|name| !name.contains('/')).map(ToOwned::to_owned).collect())
    }

    fn set_permissions(
        &self,
        transaction: Transaction,
        path: &str,
        _permissions: &[(u16, Permission)],
    ) -> Result<(), Error> {
        self.read(transaction, path).map(drop)
    }

    fn begin(&self) -> Result<Transaction, Error> {
        let tree = &mut self.machine.lock().tree;
        tree.last += 1;
        let nodes = tree.nodes.clone();
        let open = Open { owner: self.owner, version: tree.version, nodes, changed: Vec::new() };
        tree.transactions.insert(tree.last, open);
        Ok(Transaction(tree.last))
    }

    fn end(&self, transaction: Transaction, commit: bool) -> Result<(), Error> {
        let mut shared = self.machine.lock();
        shared.tree.nodes(self.owner, transaction)?;
        let Some(open) = shared.tree.transactions.remove(&transaction.0) else { return Err(Errno::ENOENT) };
        if !commit || open.changed.is_empty() {
            return Ok(());
        }
        if open.version != shared.tree.version {
            return Err(Errno::EAGAIN);
        }
        shared.tree.nodes = open.nodes;
        shared.changed(&open.changed);
        Ok(())
    }

    fn watch(&self, path: &str, token: &str) -> Result<(), Error> {
        let absolute = self.absolute(path)?;
        let mut shared = self.machine.lock();
        let is_same =
            |watch: &Watch| watch.owner == self.owner && watch.path == absolute && watch.token == token;
        if shared.tree.watches.iter().any(is_same) {
            return Err(Errno::EEXIST);
        }
        let event = Event { path: path.to_owned(), token: token.to_owned() };
        let relative = !path.starts_with('/');
        let watch = Watch { owner: self.owner, path: absolute, token: token.to_owned(), relative };
        shared.tree.watches.push(watch);
        shared.tree.events.entry(self.owner).or_default().push_back(event);
        if let Some(domain) = shared.domains.get(&self.owner) {
            domain.wake();
        }
        Ok(())
    }

    fn unwatch(&self, path: &str, token: &str) -> Result<(), Error> {
        let absolute = self.absolute(path)?;
        let watches = &mut self.machine.lock().tree.watches;
        let before = watches.len();
        watches.retain(|w| !(w.owner == self.owner && w.path == absolute && w.token == token));
        if watches.len() < before { Ok(()) } else { Err(Errno::ENOENT) }
    }

    fn next_event(&self) -> Option<Event> {
        self.machine.lock().tree.events.get_mut(&self.owner)?.pop_front()
    }
}
