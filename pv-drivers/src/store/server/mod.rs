//! The xenstore server: one tree for all domains, its rights, watches, transactions and quotas.
//!
//! [`Server`] does what clients ask and keeps what they will be told. It knows no rings and no time:
//!
//! ```text
//! a domain's shared page ─► link::Link ─► wire::request ─┐
//! the same process ───────► local::Local ────────────────┴─► Server ─► tree, transactions, watches
//! ```
//!
//! A client is a [`Connection`]. What it is allowed depends on its domain and on whether it is privileged, as a
//! toolstack is. Every path, number and length that arrives is an allegation of that domain: a mistake is an error
//! answer, and what one domain can make the server keep is limited by a [`Quota`] and charged to that domain (`account`).
//!
//! # Work in steps
//!
//! What takes more than one step for each name of a path is a `Job` (`work`): committing a transaction, telling watchers,
//! freeing what was removed, forgetting a domain that is gone. Jobs belong to the client that caused them. A domain's link
//! works on them with a budget, and takes no further request before they are done: what a domain causes, it waits
//! for, and others only as long as one budget. While the changes of a transaction are being made, other domains' requests
//! wait as well, so no client sees a part of them; each that has one, and each that defers, gives its own budget to the commit,
//! and a loop gives it time as well ([`Server::go_on`]). Afterwards each client that waited has its turn before the one that committed can
//! ask for more: a domain that ends one transaction after the other keeps the others waiting no longer than for one. What
//! belongs to no client any more, [`Server::poll`] works on, and a loop gives that time as well: a domain that starts anew waits
//! until the one before it is forgotten (`forget`).
//!
//! The methods of [`Server`] are for those who cannot wait: each finishes the jobs of its client, and the commit that another
//! one has begun. A client that defers ([`Local::deferring`]), as the driver domain's own, leaves its jobs to
//! [`Server::poll`]. It asks [`Server::is_ready`] first and comes back later where something is under way: so one
//! domain's transaction, or the watches of all, never make an operation of the driver domain a long one.

mod account;
mod children;
mod forget;
mod link;
mod local;
mod path;
mod queue;
mod rights;
#[cfg(test)]
mod tests;
mod transaction;
mod tree;
mod view;
mod watch;
mod wire;
mod work;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

pub use self::account::Quota;
use self::account::{Accounts, CLIENT};
use self::forget::Walk;
pub use self::link::Link;
pub use self::local::Local;
pub use self::path::{Path, home};
use self::queue::Events;
pub use self::rights::Rights;
use self::rights::{Actor, Deed, Identity, Known};
use self::transaction::{Change, Transaction, What};
use self::tree::{Context, Tree};
use self::view::{Sight, View};
use self::watch::{Firing, Index, Special, Watch};
pub use self::wire::Message;
use self::work::{Commit, Job};
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

/// Actions that wait, at most.
const MAX_ACTIONS: usize = 256;

/// Called when something waits for a client. It must not call the server.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// What a client made the server keep.
#[derive(Debug, Default)]
struct Kept {
    transactions: BTreeMap<u32, Box<Transaction>>,
    watches: BTreeSet<Watch>,
    events: Events,
}

/// What is kept of a client.
struct Client {
    actor: Actor,
    kept: Kept,
    last_transaction: u32,
    /// What it caused and what is not done yet, the next in front.
    jobs: VecDeque<Job>,
    /// How its transaction ended, since nobody asked.
    ended: Option<Result<(), Errno>>,
    /// What it watched is being taken out: it is told nothing.
    is_reset: bool,
    /// Others waited for its last transaction: it asks for nothing more in this round of their turns.
    owes_turns: Option<u64>,
    waker: Option<Waker>,
}

/// See the head of the module.
pub struct Server {
    tree: Tree,
    accounts: Accounts,
    quota: Quota,
    clients: BTreeMap<Connection, Client>,
    index: Index,
    last_connection: u32,
    last_stamp: u64,
    known: Known,
    introduced: BTreeSet<u16>,
    special: [Rights; 2],
    actions: VecDeque<Action>,
    /// Whose transaction is being committed.
    committing: Option<Connection>,
    /// Who had to wait for a transaction, and had no turn since it ended.
    passed_over: BTreeSet<Connection>,
    /// How often all of these had had their turn.
    rounds: u64,
    /// Work of no client.
    jobs: VecDeque<Job>,
    /// The same: the ways through the tree after domains' ends.
    walks: VecDeque<Box<Walk>>,
    /// Steps that commits took while there was work of no client: it is given as many before clients ask for more.
    behind: u64,
    /// Clients whose jobs are left to [`poll`](Server::poll).
    deferring: Vec<Connection>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("clients", &self.clients.len())
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
        let mut accounts = Accounts::default();
        Self {
            tree: Tree::new(&mut accounts),
            accounts,
            quota,
            clients: BTreeMap::new(),
            index: Index::default(),
            last_connection: 0,
            last_stamp: 0,
            known: Known::new(),
            introduced: BTreeSet::new(),
            special: [Rights::private(0), Rights::private(0)],
            actions: VecDeque::new(),
            committing: None,
            passed_over: BTreeSet::new(),
            rounds: 0,
            jobs: VecDeque::new(),
            walks: VecDeque::new(),
            behind: 0,
            deferring: Vec::new(),
        }
    }

    /// A new client. A privileged one may do everything.
    pub fn connect(&mut self, domain: u16, privileged: bool, waker: Option<Waker>) -> Connection {
        self.admit(domain);
        if privileged {
            self.accounts.exempt(domain);
        }
        // Without a limit this is never refused.
        let _ = self.accounts.charge_bytes(domain, CLIENT, None);
        self.last_connection += 1;
        let since = self.known.since(domain).unwrap_or(self.last_stamp);
        let client = Client {
            actor: Actor { domain, since, target: None, privileged },
            kept: Kept::default(),
            last_transaction: 0,
            jobs: VecDeque::new(),
            ended: None,
            is_reset: false,
            owes_turns: None,
            waker,
        };
        self.clients.insert(Connection(self.last_connection), client);
        Connection(self.last_connection)
    }

    /// What a client's operations cause is left to [`poll`](Self::poll) from now on.
    pub(super) fn defer(&mut self, connection: Connection) {
        self.deferring.push(connection);
    }

    fn defers(&self, connection: Connection) -> bool {
        self.deferring.contains(&connection)
    }

    /// Whether an operation of a client would be a short one: all that it caused is done, and no client's transaction is being
    /// committed.
    #[must_use]
    pub fn is_ready(&self, connection: Connection) -> bool {
        !self.must_wait(connection)
    }

    /// A client is gone, with its watches and transactions.
    pub fn disconnect(&mut self, connection: Connection) {
        let defers = self.defers(connection);
        self.begin_disconnect(connection);
        if !defers {
            self.finish(None);
        }
    }

    fn begin_disconnect(&mut self, connection: Connection) {
        let Some(mut client) = self.clients.remove(&connection) else { return };
        self.deferring.retain(|other| *other != connection);
        self.had_turn(connection);
        self.accounts.credit_bytes(client.actor.domain, CLIENT);
        work::cancel(&mut client.jobs);
        if self.committing == Some(connection)
            && let Some(commit) = client.jobs.pop_front()
        {
            // Undone before anything else is done.
            self.jobs.push_front(commit);
        }
        self.jobs.append(&mut client.jobs);
        self.jobs.push_back(Job::Kept(connection, client.actor.domain, Box::new(client.kept)));
    }

    /// A number is in use. What an earlier domain of this number left is forgotten first.
    fn admit(&mut self, domain: u16) {
        if self.known.since(domain).is_none() {
            self.finish_walk(domain);
            let stamp = self.next_stamp();
            self.known.add(domain, stamp);
        }
    }

    /// A domain is there: tells those who watch for it.
    pub fn introduce(&mut self, domain: u16) {
        self.begin_introduce(domain);
        self.finish(None);
    }

    /// The same, where [`poll`](Self::poll) does the work.
    pub fn begin_introduce(&mut self, domain: u16) {
        self.admit(domain);
        self.introduced.insert(domain);
        self.jobs.push_back(Job::Fire(Box::new(Firing::new(Vec::new(), Some(Special::Introduce)))));
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

    /// Does something for a client while no client commits. Before and after it all work of the client is done, where it does
    /// not leave that for later.
    fn now<R>(&mut self, connection: Connection, work: impl FnOnce(&mut Self) -> R) -> R {
        self.catch_up(connection);
        let result = work(self);
        self.catch_up(connection);
        result
    }

    fn catch_up(&mut self, connection: Connection) {
        if self.defers(connection) { self.settle() } else { self.finish(Some(connection)) }
    }

    /// Shows a node to a client that may read it, and notes in its transaction what it saw: the list of names (`list`), or
    /// the rest.
    fn look<R>(
        &mut self,
        connection: Connection,
        id: Id,
        path: &str,
        list: bool,
        work: impl FnOnce(Sight<'_>) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        let client = self.clients.get_mut(&connection).ok_or(Errno::ENOTCONN)?;
        let (actor, tree) = (&client.actor, &self.tree);
        let path = Path::parse(path, actor.domain)?;
        if id == Id::NONE {
            return work(View { tree, transaction: None }.allowed(&path, actor, Deed::Read)?);
        }
        let transaction = client.kept.transactions.get_mut(&id.0).ok_or(Errno::ENOENT)?;
        let view = View { tree, transaction: Some(transaction) };
        let result = view.allowed(&path, actor, Deed::Read).and_then(work);
        let (bytes, limit) = (transaction.note_bytes(&path), (!actor.privileged).then_some(&self.quota));
        self.accounts.charge_bytes(actor.domain, bytes, limit)?;
        transaction.charged += bytes;
        transaction.saw(tree, &path, list);
        check_touched(transaction, actor, &self.quota)?;
        result
    }

    /// Makes a change, in a transaction or at once. Watchers of what was changed at once are told by a job.
    fn change(&mut self, connection: Connection, id: Id, path: &str, what: What) -> Result<(), Errno> {
        let stamp = self.next_stamp();
        let client = self.clients.get_mut(&connection).ok_or(Errno::ENOTCONN)?;
        let (actor, tree, accounts) = (&client.actor, &mut self.tree, &mut self.accounts);
        let change = Change { path: Path::parse(path, actor.domain)?, what };
        let context = Context { actor, stamp, quota: &self.quota, known: &self.known };
        if id != Id::NONE {
            let transaction = client.kept.transactions.get_mut(&id.0).ok_or(Errno::ENOENT)?;
            check_touched(transaction, actor, &self.quota)?;
            let owned = accounts.of(actor.domain).nodes;
            let charge = |bytes| accounts.charge_bytes(actor.domain, bytes, context.limit());
            if let Some(gone) = transaction.change(tree, change, owned, context, charge)? {
                client.jobs.push_back(Job::Deltas([gone].into()));
            }
        } else if let Some(done) = tree.apply(change, accounts, context)? {
            client.jobs.push_back(Job::Fire(Box::new(Firing::new([done].into(), None))));
        }
        Ok(())
    }

    /// The value of a node.
    ///
    /// # Errors
    ///
    /// `EINVAL` (no valid path), `ENOENT`, `EACCES`, `ENOSPC` (no memory).
    pub fn read(&mut self, connection: Connection, id: Id, path: &str) -> Result<Vec<u8>, Errno> {
        self.now(connection, |server| server.look(connection, id, path, false, |sight| copied(sight.value())))
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
        let work = |sight: Sight<'_>| Ok((sight.names().map(Into::into).collect(), sight.list_stamp()));
        self.now(connection, |server| server.look(connection, id, path, true, work))
    }

    /// Owner and rights of a node. `@introduceDomain` and `@releaseDomain` have some, too.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn rights(&mut self, connection: Connection, id: Id, path: &str) -> Result<Rights, Errno> {
        let rights = match Special::named(path) {
            Some(special) => self.special[special as usize].clone(),
            None => self.now(connection, |server| {
                server.look(connection, id, path, false, |sight| Ok(sight.rights().clone()))
            })?,
        };
        Ok(rights.shown(&self.known))
    }

    /// Sets a value; the node and those above it are made where they are missing.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `EACCES`, `ENOSPC` (too large, too many nodes, too much memory).
    pub fn write(&mut self, connection: Connection, id: Id, path: &str, value: &[u8]) -> Result<(), Errno> {
        let value = copied(value)?;
        self.now(connection, |server| server.change(connection, id, path, What::Write(value)))
    }

    /// Makes a node where it is missing.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn mkdir(&mut self, connection: Connection, id: Id, path: &str) -> Result<(), Errno> {
        self.now(connection, |server| server.change(connection, id, path, What::Mkdir))
    }

    /// Removes a node with everything below it.
    ///
    /// # Errors
    ///
    /// `EINVAL` (the root), `EACCES`, `ENOENT` where even the node above is missing.
    pub fn remove(&mut self, connection: Connection, id: Id, path: &str) -> Result<(), Errno> {
        self.now(connection, |server| server.change(connection, id, path, What::Remove))
    }

    /// Sets owner and rights. A domain that is named and is not there gets nothing by it, nor does one that comes later:
    /// only a privileged client knows of a domain before the server does.
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
        self.now(connection, |server| server.change_rights(connection, id, path, rights))
    }

    fn change_rights(
        &mut self,
        connection: Connection,
        id: Id,
        path: &str,
        rights: Rights,
    ) -> Result<(), Errno> {
        let privileged = self.client(connection)?.actor.privileged;
        if privileged {
            rights.entries().iter().for_each(|(domain, _)| self.admit(*domain));
        }
        let rights = rights.at(self.next_stamp());
        match Special::named(path) {
            Some(_) if !privileged => Err(Errno::EACCES),
            Some(special) => {
                self.special[special as usize] = rights;
                Ok(())
            }
            None => self.change(connection, id, path, What::SetRights(rights)),
        }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    ///
    /// `ENOSPC` where too many are under way.
    pub fn begin(&mut self, connection: Connection) -> Result<Id, Errno> {
        let client = self.clients.get_mut(&connection).ok_or(Errno::ENOTCONN)?;
        let (actor, kept) = (&client.actor, &mut client.kept);
        if !actor.privileged && kept.transactions.len() >= self.quota.transactions {
            return Err(Errno::ENOSPC);
        }
        let transaction = Transaction::new();
        let limit = (!actor.privileged).then_some(&self.quota);
        self.accounts.charge_bytes(actor.domain, transaction.charged, limit)?;
        loop {
            client.last_transaction = client.last_transaction.wrapping_add(1);
            let id = client.last_transaction;
            // 0 is no transaction, and one that is old may still have a number that came round again.
            if id != 0 && !kept.transactions.contains_key(&id) {
                kept.transactions.insert(id, Box::new(transaction));
                return Ok(Id(id));
            }
        }
    }

    /// Ends a transaction: all of its changes are made now, or none.
    ///
    /// # Errors
    ///
    /// `ENOENT` where there is none, `EAGAIN` where somebody changed what it saw, `ENOSPC`.
    pub fn end(&mut self, connection: Connection, id: Id, commit: bool) -> Result<(), Errno> {
        self.now(connection, |server| server.begin_end(connection, id, commit))?;
        self.client(connection)?.ended.take().unwrap_or(Ok(()))
    }

    /// Begins to end a transaction: the result is in `ended` later.
    fn begin_end(&mut self, connection: Connection, id: Id, commit: bool) -> Result<(), Errno> {
        let client = self.clients.get_mut(&connection).ok_or(Errno::ENOTCONN)?;
        let transaction = client.kept.transactions.remove(&id.0).ok_or(Errno::ENOENT)?;
        if commit {
            self.committing = Some(connection);
            // A client that defers may have others, which wait.
            client.jobs.push_front(Job::Commit(Box::new(Commit::new(client.actor, transaction))));
        } else {
            client.ended = Some(Ok(()));
            client.jobs.push_back(Job::Transaction(client.actor.domain, transaction));
        }
        Ok(())
    }

    /// Lets a domain act in the name of another one too, as a device model does.
    ///
    /// # Errors
    ///
    /// `ENOENT` where it has no client, or the other one is not there.
    pub fn set_target(&mut self, domain: u16, target: u16) -> Result<(), Errno> {
        let since = self.known.since(target).ok_or(Errno::ENOENT)?;
        let mut found = Err(Errno::ENOENT);
        for client in self.clients.values_mut().filter(|client| client.actor.domain == domain) {
            client.actor.target = Some(Identity { domain: target, since });
            found = Ok(());
        }
        found
    }

    /// The next event for a client.
    pub fn next_event(&mut self, connection: Connection) -> Option<Event> {
        let client = self.clients.get_mut(&connection)?;
        let (event, bytes) = client.kept.events.pop()?;
        self.accounts.credit_bytes(client.actor.domain, bytes);
        Some(event)
    }

    /// Ends all watches and transactions of a client.
    ///
    /// # Errors
    ///
    /// `ENOTCONN`.
    pub fn reset(&mut self, connection: Connection) -> Result<(), Errno> {
        self.begin_reset(connection)?;
        self.finish(Some(connection));
        Ok(())
    }

    fn begin_reset(&mut self, connection: Connection) -> Result<(), Errno> {
        let client = self.client(connection)?;
        if client.is_reset {
            // Nothing was kept since, and what was is on its way out.
            return Ok(());
        }
        work::cancel(&mut client.jobs);
        (client.ended, client.is_reset) = (None, true);
        let kept = Box::new(core::mem::take(&mut client.kept));
        client.jobs.push_back(Job::Kept(connection, client.actor.domain, kept));
        Ok(())
    }
}

fn check_touched(transaction: &Transaction, actor: &Actor, quota: &Quota) -> Result<(), Errno> {
    let is_full = transaction.touched() > quota.touched || transaction.held > quota.held;
    if !actor.privileged && is_full { Err(Errno::ENOSPC) } else { Ok(()) }
}

/// A copy, if there is memory for it.
fn copied(bytes: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len()).map_err(|_| Errno::ENOSPC)?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}
