//! What each domain makes the server keep, in nodes and in bytes, and how much that may be.
//!
//! Everything that outlives a request is charged to a domain before it is kept: a node to its owner, and watches, events
//! that wait, transactions and what they saw and changed to the client's domain. What is being removed stays charged until
//! its memory is free. Each thing is charged its bytes and a cost that covers the structures around them; places in a
//! vector or a map count twice there, because as many may be empty.

use alloc::collections::{BTreeMap, BTreeSet};

use super::super::Errno;

/// A node beside its name, value and rights: itself, its places in the node above, five allocations.
pub(super) const NODE: usize = 256;
/// An entry of a node's rights.
pub(super) const RIGHT: usize = 4;
/// A watch beside its token and its path, which is kept twice: its places in two maps, whose first entries make room for
/// eleven.
pub(super) const WATCH: usize = 1024;
/// An event beside its path and token.
pub(super) const EVENT: usize = 128;
/// A transaction beside what it saw and changed.
pub(super) const TRANSACTION: usize = 512;
/// A path that a transaction saw, beside its bytes.
pub(super) const SEEN: usize = 224;
/// A change beside its path and value: itself, and what is noted of it while it is committed.
pub(super) const CHANGE: usize = 384;
/// A node of what a transaction changed, beside its name.
pub(super) const DELTA: usize = 256;
/// A client: itself, and the message that it sends and the one that it is sent.
pub(super) const CLIENT: usize = 20 << 10;

/// What unprivileged domains may use up, each. Where not said otherwise, more is `ENOSPC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Nodes that it owns.
    pub nodes: usize,
    /// Bytes of a value.
    pub value: usize,
    /// Entries of a node's rights.
    pub rights: usize,
    /// Watches; more are `E2BIG`.
    pub watches: usize,
    /// Transactions under way.
    pub transactions: usize,
    /// Nodes that one transaction touches.
    pub touched: usize,
    /// Bytes of paths and values that one transaction keeps, and of paths and tokens of the events that wait.
    pub held: usize,
    /// Events that wait until it takes them; further ones are lost.
    pub events: usize,
    /// Bytes of memory that the server keeps because of it, all of the above and its own structures included.
    pub bytes: usize,
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
            bytes: 2 << 20,
        }
    }
}

/// What is kept because of a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub nodes: usize,
    pub bytes: usize,
}

/// The accounts of all domains.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    accounts: BTreeMap<u16, Account>,
    /// Domains without a limit, whoever makes their nodes grow.
    exempt: BTreeSet<u16>,
}

impl Accounts {
    /// A domain has no limit from now on.
    pub fn exempt(&mut self, domain: u16) {
        self.exempt.insert(domain);
    }

    /// A domain is gone: the next one of its number has a limit.
    pub fn forget(&mut self, domain: u16) {
        self.exempt.remove(&domain);
    }

    /// Charges a domain. Without a limit nothing is refused.
    pub fn charge(&mut self, domain: u16, more: Account, limit: Option<&Quota>) -> Result<(), Errno> {
        let is_exempt = self.exempt.contains(&domain);
        let account = self.accounts.entry(domain).or_default();
        let new = Account { nodes: account.nodes + more.nodes, bytes: account.bytes + more.bytes };
        if let Some(quota) = limit.filter(|_| !is_exempt) {
            let over = |more: usize, new: usize, most: usize| more > 0 && new > most;
            if over(more.nodes, new.nodes, quota.nodes) || over(more.bytes, new.bytes, quota.bytes) {
                return Err(Errno::ENOSPC);
            }
        }
        *account = new;
        Ok(())
    }

    /// Charges bytes.
    pub fn charge_bytes(&mut self, domain: u16, bytes: usize, limit: Option<&Quota>) -> Result<(), Errno> {
        self.charge(domain, Account { nodes: 0, bytes }, limit)
    }

    /// Takes back what was charged.
    pub fn credit(&mut self, domain: u16, less: Account) {
        let Some(account) = self.accounts.get_mut(&domain) else { return };
        account.nodes = account.nodes.saturating_sub(less.nodes);
        account.bytes = account.bytes.saturating_sub(less.bytes);
        if *account == Account::default() {
            self.accounts.remove(&domain);
        }
    }

    /// Takes back bytes.
    pub fn credit_bytes(&mut self, domain: u16, bytes: usize) {
        self.credit(domain, Account { nodes: 0, bytes });
    }

    /// What is charged to a domain.
    pub fn of(&self, domain: u16) -> Account {
        self.accounts.get(&domain).copied().unwrap_or_default()
    }
}
