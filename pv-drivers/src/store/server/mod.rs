//! The xenstore server: one tree for all domains, its rights, watches, transactions and quotas.
//!
//! [`Server`] does what clients ask and keeps what they will be told. It knows no rings and no time:
//!
//! ```text
//! a domain's shared page ─► link::Link ─► wire::answer ─┐
//! the same process ───────► local::Local ───────────────┴─► Server ─► tree, transactions, watches
//! ```
//!
//! A client is a [`Connection`]. What it is allowed depends on its domain and on whether it is privileged, as a
//! toolstack is. Every path, number and length that arrives is an allegation of that domain: a mistake is an error
//! answer, and what one domain can use up is limited by a [`Quota`].

mod link;
mod local;
mod path;
#[cfg(test)]
mod tests;
mod transaction;
mod tree;
mod watch;
mod wire;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

pub use self::link::Link;
pub use self::local::Local;
pub use self::path::{Path, home};
use self::transaction::{Change, Transaction};
pub use self::tree::{Actor, Quota, Rights};
use self::tree::{Context, Deed, Tree};
use self::watch::{Special, Watch};
pub use self::wire::Message;
use super::{Errno, Event, Transaction as Id};

/// A client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection(u32);

/// Something that a privileged client asks of whoever runs the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A domain is there; its shared page and its port are these.
    #[doc(alias = "XS_INTRODUCE")]
    Introduce {
        /// Which.
        domain: u16,
        /// Frame of the page, in the domain's own numbering.
        frame: u64,
        /// Its end of the event channel.
        port: u32,
    },
    /// A domain is gone.
    #[doc(alias = "XS_RELEASE")]
    Release(u16),
}

/// Called when something waits for a client. It must not call the server.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// What is kept of a client.
struct Client {
    actor: Actor,
    transactions: BTreeMap<u32, Transaction>,
    last_transaction: u32,
    watches: Vec<Watch>,
    events: VecDeque<Event>,
    /// Bytes of these.
    held: usize,
    waker: Option<Waker>,
}

/// See the head of the module.
pub struct Server {
    tree: Tree,
    quota: Quota,
    clients: BTreeMap<Connection, Client>,
    last_connection: u32,
    last_stamp: u64,
    introduced: BTreeSet<u16>,
    special: [Rights; 2],
    actions: VecDeque<Action>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("tree", &self.tree)
            .field("introduced", &self.introduced)
            .finish_non_exhaustive()
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new(Quota::default())
    }
}

impl Server {
    /// An empty tree.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self {
            tree: Tree::new(),
            quota,
            clients: BTreeMap::new(),
            last_connection: 0,
            last_stamp: 0,
            introduced: BTreeSet::new(),
            special: [Rights::private(0), Rights::private(0)],
            actions: VecDeque::new(),
        }
    }

    /// A new client. A privileged one may do everything.
    pub fn connect(&mut self, domain: u16, privileged: bool, waker: Option<Waker>) -> Connection {
        self.last_connection += 1;
        let client = Client {
            actor: Actor { domain, target: None, privileged },
            transactions: BTreeMap::new(),
            last_transaction: 0,
            watches: Vec::new(),
            events: VecDeque::new(),
            held: 0,
            waker,
        };
        self.clients.insert(Connection(self.last_connection), client);
        Connection(self.last_connection)
    }

    /// A client is gone, with its watches and transactions.
    pub fn disconnect(&mut self, connection: Connection) {
        self.clients.remove(&connection);
    }

    /// A domain is there: tells those who watch for it.
    pub fn introduce(&mut self, domain: u16) {
        self.introduced.insert(domain);
        self.fire_special(Special::Introduce);
    }

    /// A domain is gone: with it its clients, its nodes, and all rights that it had. Tells those who watch for it.
    pub fn release(&mut self, domain: u16) {
        self.clients.retain(|_, client| client.actor.domain != domain);
        self.introduced.remove(&domain);
        let (before, stamp) = (self.tree.clone(), self.next_stamp());
        for path in self.tree.forget(domain, stamp) {
            if let Ok(path) = Path::parse(&path, 0) {
                self.fire(&before, &Change::Remove(path));
            }
        }
        self.fire_special(Special::Release);
    }

    /// Whether a domain was introduced.
    #[must_use]
    pub fn is_introduced(&self, domain: u16) -> bool {
        self.introduced.contains(&domain)
    }

    /// What a privileged client asked for.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn next_stamp(&mut self) -> u64 {
        self.last_stamp += 1;
        self.last_stamp
    }

    fn client(&mut self, connection: Connection) -> Result<&mut Client, Errno> {
        self.clients.get_mut(&connection).ok_or(Errno::ENOTCONN)
    }

    /// The tree that a client sees, and how to note in its transaction what it saw.
    fn look<R>(
        &mut self,
        connection: Connection,
        id: Id,
        path: &str,
        work: impl FnOnce(&Tree, &Path, &Actor) -> Result<R, Errno>,
        note: impl FnOnce(&mut Transaction, &Path),
    ) -> Result<R, Errno> {
        let quota = self.quota;
        let client = self.clients.get_mut(&connection).ok_or(Errno::ENOTCONN)?;
        let path = Path::parse(path, client.actor.domain)?;
        if id == Id::NONE {
            return work(&self.tree, &path, &client.actor);
        }
        let transaction = client.transactions.get_mut(&id.0).ok_or(Errno::ENOENT)?;
        let result = work(&transaction.tree, &path, &client.actor);
        note(transaction, &path);
        check_touched(transaction, &client.actor, &quota)?;
        result
    }

    fn change(&mut self, connection: Connection, id: Id, change: Change) -> Result<(), Errno> {
        let (stamp, quota) = (self.next_stamp(), self.quota);
        let client = self.clients.get_mut(&connection).ok_or(Errno::ENOTCONN)?;
        let context = Context { actor: &client.actor, stamp, quota: &quota };
        if id != Id::NONE {
            let transaction = client.transactions.get_mut(&id.0).ok_or(Errno::ENOENT)?;
            check_touched(transaction, &client.actor, &quota)?;
            return transaction.change(change, context);
        }
        let before = self.tree.clone();
        if change.apply(&mut self.tree, context)? {
            self.fire(&before, &change);
        }
        Ok(())
    }

    /// The value of a node.
    ///
    /// # Errors
    ///
    /// `EINVAL` (no valid path), `ENOENT`, `EACCES`.
    pub fn read(&mut self, connection: Connection, id: Id, path: &str) -> Result<Vec<u8>, Errno> {
        let work = |tree: &Tree, path: &Path, actor: &Actor| {
            Ok(tree.allowed(path, actor, Deed::Read)?.value.to_vec())
        };
        self.look(connection, id, path, work, Transaction::saw)
    }

    /// The names of a node's children, and a number that changes with them.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn directory(
        &mut self,
        connection: Connection,
        id: Id,
        path: &str,
    ) -> Result<(Vec<String>, u64), Errno> {
        let work = |tree: &Tree, path: &Path, actor: &Actor| {
            let node = tree.allowed(path, actor, Deed::Read)?;
            Ok((node.children.keys().cloned().collect(), node.list_stamp))
        };
        self.look(connection, id, path, work, Transaction::saw_list)
    }

    /// Owner and rights of a node. `@introduceDomain` and `@releaseDomain` have some, too.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn rights(&mut self, connection: Connection, id: Id, path: &str) -> Result<Rights, Errno> {
        if let Some(special) = Special::named(path) {
            return Ok(self.special[special as usize].clone());
        }
        let work = |tree: &Tree, path: &Path, actor: &Actor| {
            Ok(tree.allowed(path, actor, Deed::Read)?.rights.clone())
        };
        self.look(connection, id, path, work, Transaction::saw)
    }

    /// Sets a value; the node and those above it are made where they are missing.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `EACCES`, `ENOSPC` (too large, too many nodes).
    pub fn write(&mut self, connection: Connection, id: Id, path: &str, value: &[u8]) -> Result<(), Errno> {
        let path = self.parse(connection, path)?;
        self.change(connection, id, Change::Write(path, value.into()))
    }

    /// Makes a node where it is missing.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn mkdir(&mut self, connection: Connection, id: Id, path: &str) -> Result<(), Errno> {
        let path = self.parse(connection, path)?;
        self.change(connection, id, Change::Mkdir(path))
    }

    /// Removes a node with everything below it.
    ///
    /// # Errors
    ///
    /// `EINVAL` (the root), `EACCES`, `ENOENT` where even the node above is missing.
    pub fn remove(&mut self, connection: Connection, id: Id, path: &str) -> Result<(), Errno> {
        let path = self.parse(connection, path)?;
        self.change(connection, id, Change::Remove(path))
    }

    /// Sets owner and rights.
    ///
    /// # Errors
    ///
    /// `EACCES` unless the client owns the node, `EPERM` where it would give it away, `ENOSPC`.
    pub fn set_rights(
        &mut self,
        connection: Connection,
        id: Id,
        path: &str,
        rights: Rights,
    ) -> Result<(), Errno> {
        if let Some(special) = Special::named(path) {
            if !self.client(connection)?.actor.privileged {
                return Err(Errno::EACCES);
            }
            self.special[special as usize] = rights;
            return Ok(());
        }
        let path = self.parse(connection, path)?;
        self.change(connection, id, Change::SetRights(path, rights))
    }

    fn parse(&mut self, connection: Connection, path: &str) -> Result<Path, Errno> {
        Path::parse(path, self.client(connection)?.actor.domain)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    ///
    /// `ENOSPC` where too many are under way.
    pub fn begin(&mut self, connection: Connection) -> Result<Id, Errno> {
        let (quota, tree) = (self.quota, self.tree.clone());
        let client = self.client(connection)?;
        if !client.actor.privileged && client.transactions.len() >= quota.transactions {
            return Err(Errno::ENOSPC);
        }
        loop {
            client.last_transaction = client.last_transaction.wrapping_add(1);
            let id = client.last_transaction;
            // 0 is no transaction, and one that is old may still have a number that came round again.
            if id != 0 && !client.transactions.contains_key(&id) {
                client.transactions.insert(id, Transaction::new(&tree));
                return Ok(Id(id));
            }
        }
    }

    /// Ends a transaction: all of its changes are made now, or none.
    ///
    /// # Errors
    ///
    /// `ENOENT` where there is none, `EAGAIN` where somebody changed what it saw.
    pub fn end(&mut self, connection: Connection, id: Id, commit: bool) -> Result<(), Errno> {
        let client = self.clients.get_mut(&connection).ok_or(Errno::ENOTCONN)?;
        let transaction = client.transactions.remove(&id.0).ok_or(Errno::ENOENT)?;
        if !commit {
            return Ok(());
        }
        if !transaction.still_true(&self.tree) {
            return Err(Errno::EAGAIN);
        }
        let (actor, quota) = (client.actor, self.quota);
        let (before, mut tree, mut done) = (self.tree.clone(), self.tree.clone(), Vec::new());
        for change in transaction.into_changes() {
            let context = Context { actor: &actor, stamp: self.next_stamp(), quota: &quota };
            // It was possible in the transaction's own tree, and is not any more.
            if change.apply(&mut tree, context).map_err(|_| Errno::EAGAIN)? {
                done.push(change);
            }
        }
        self.tree = tree;
        done.iter().for_each(|change| self.fire(&before, change));
        Ok(())
    }

    /// Lets a domain act in the name of another one too, as a device model does.
    ///
    /// # Errors
    ///
    /// `ENOENT` where it has no client.
    pub fn set_target(&mut self, domain: u16, target: u16) -> Result<(), Errno> {
        let mut found = Err(Errno::ENOENT);
        for client in self.clients.values_mut().filter(|client| client.actor.domain == domain) {
            client.actor.target = Some(target);
            found = Ok(());
        }
        found
    }

    /// The next event for a client.
    pub fn next_event(&mut self, connection: Connection) -> Option<Event> {
        self.clients.get_mut(&connection)?.take_event()
    }

    /// Ends all watches and transactions of a client.
    ///
    /// # Errors
    ///
    /// `ENOTCONN`.
    pub fn reset(&mut self, connection: Connection) -> Result<(), Errno> {
        let client = self.client(connection)?;
        client.watches.clear();
        client.transactions.clear();
        client.events.clear();
        client.held = 0;
        Ok(())
    }

    /// What a privileged client can learn of the server as a whole.
    fn summary(&self) -> String {
        let watches: usize = self.clients.values().map(|client| client.watches.len()).sum();
        let domains: Vec<_> = self.introduced.iter().map(ToString::to_string).collect();
        alloc::format!("clients {}\nwatches {watches}\ndomains {}\n", self.clients.len(), domains.join(" "))
    }
}

fn check_touched(transaction: &Transaction, actor: &Actor, quota: &Quota) -> Result<(), Errno> {
    let is_full = transaction.touched() > quota.touched || transaction.held() > quota.held;
    if !actor.privileged && is_full { Err(Errno::ENOSPC) } else { Ok(()) }
}
