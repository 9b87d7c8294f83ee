//! What takes many steps, and how it is done a few at a time.
//!
//! A transaction is committed so: each path that it saw is compared with the tree, then each change is made, in order; where
//! one cannot be made any more, those before it are undone, the last one first. Meanwhile nobody else changes or sees the
//! tree: other jobs wait, too, because what they find there may be taken back. Watchers are told afterwards (`watch`), when
//! all of it is there.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use super::super::Errno;
use super::path::Path;
use super::rights::Actor;
use super::transaction::{Change, Delta, Transaction};
use super::tree::{Context, Done, Node, Undo};
use super::watch::Firing;
use super::{Connection, Kept, Server};

/// Steps that one call works on jobs.
pub(super) const BUDGET: u64 = 512;

/// A piece of work.
#[derive(Debug)]
pub(super) enum Job {
    Commit(Box<Commit>),
    /// Telling watchers.
    Fire(Box<Firing>),
    /// Freeing removed nodes: the way down, with the length of each name.
    Nodes(Vec<(usize, Box<Node>)>),
    /// Freeing what a transaction changed: the way down.
    Deltas(Vec<Delta>),
    /// Freeing a transaction that its domain is charged for.
    Transaction(u16, Box<Transaction>),
    /// Freeing changes that are not made any more.
    Changes(vec::IntoIter<Change>),
    /// Taking out what a client of this domain kept.
    Kept(Connection, u16, Box<Kept>),
}

/// A transaction that is being committed.
#[derive(Debug)]
pub(super) struct Commit {
    actor: Actor,
    transaction: Box<Transaction>,
    changes: vec::IntoIter<Change>,
    done: Vec<Done>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Behind the path that was compared last.
    Check(Option<Path>),
    Apply,
    Undo(Errno),
}

impl Commit {
    pub fn new(actor: Actor, transaction: Box<Transaction>) -> Self {
        Self { actor, transaction, changes: vec![].into_iter(), done: Vec::new(), stage: Stage::Check(None) }
    }

    /// Whether all changes were made, or all that were made are undone.
    fn is_at_end(&self) -> bool {
        match self.stage {
            Stage::Check(_) => false,
            Stage::Apply => self.changes.len() == 0,
            Stage::Undo(_) => self.done.is_empty(),
        }
    }
}

/// The client of these jobs is gone, or begins anew: nothing is committed for it any more.
pub(super) fn cancel(jobs: &mut VecDeque<Job>) {
    for job in jobs {
        if let Job::Commit(commit) = job {
            commit.stage = Stage::Undo(Errno::EAGAIN);
        }
    }
}

impl Server {
    /// Steps of all work so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.tree.steps()
    }

    /// Does some of the work that belongs to no client, and of what each client that does not wait for it has caused;
    /// whether there was any.
    pub fn poll(&mut self) -> bool {
        let mut worked = self.run(None, self.steps() + BUDGET);
        for at in 0..self.deferring.len() {
            let connection = self.deferring[at];
            self.take_turn(connection);
            let until = self.steps() + BUDGET;
            self.help(until);
            worked |= self.run(Some(connection), until);
        }
        worked
    }

    /// Whether there is work that keeps others waiting: a commit, what a client that defers has caused, or work of no client. A domain
    /// that starts anew waits for the end of the one before it, and that one's nodes are charged to it until they are free.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let has_jobs = |it| self.clients.get(it).is_some_and(|client| !client.jobs.is_empty());
        self.committing.is_some() || self.has_own_work() || self.deferring.iter().any(has_jobs)
    }

    /// Does some of that work, beyond the budgets of a round, for as long as there is time; whether there was any to be done now. The
    /// end of a commit is not: it is the committer's.
    pub fn go_on(&mut self) -> bool {
        let before = self.steps();
        self.help(before + BUDGET);
        if self.committing.is_none() {
            self.run(None, self.steps() + BUDGET);
            for at in 0..self.deferring.len() {
                self.run(Some(self.deferring[at]), self.steps() + BUDGET);
            }
        }
        self.steps() > before
    }

    /// Whether there is work of no client.
    fn has_own_work(&self) -> bool {
        !self.walks.is_empty() || !self.jobs.is_empty()
    }

    /// Does all work of a client, or of none.
    pub(super) fn finish(&mut self, who: Option<Connection>) {
        self.settle();
        self.run(who, u64::MAX);
    }

    /// Makes all changes of the transaction that is being committed, or none. What follows from them stays to be done.
    pub(super) fn settle(&mut self) {
        while let Some(committer) = self.committer()
            && self.advance(committer)
        {}
    }

    /// Works on the commit of another client until only its end is left or so many steps were taken, or on what a commit kept waiting:
    /// for one that can do nothing before. What it does not use of its own budget makes all wait less. The end is the committer's, who
    /// is answered with it before others see anything.
    pub(super) fn help(&mut self, until: u64) {
        while self.steps() < until
            && let Some(committer) = self.committer()
            && let Some(Job::Commit(commit)) = self.queue(committer).and_then(|queue| queue.front())
            && !commit.is_at_end()
            && self.advance(committer)
        {}
        while self.steps() < until && self.behind > 0 && self.advance(None) {}
    }

    /// In whose queue the commit under way is. It is the first job there.
    fn committer(&self) -> Option<Option<Connection>> {
        self.committing.map(|connection| Some(connection).filter(|it| self.clients.contains_key(it)))
    }

    /// A client has its turn, or is passed over because of another one's transaction. While it waits for work of no client it has none.
    pub(super) fn take_turn(&mut self, connection: Connection) {
        match self.committing {
            Some(other) if other != connection => {
                self.passed_over.insert(connection);
            }
            None if self.behind > 0 => {}
            _ => self.had_turn(connection),
        }
    }

    /// A client does not wait for its turn any more. With the last one all are quits: who owed turns to these owes none to those
    /// that another transaction passes over later.
    pub(super) fn had_turn(&mut self, connection: Connection) {
        if self.passed_over.remove(&connection) && self.passed_over.is_empty() {
            self.rounds += 1;
        }
    }

    /// Whether a client must wait before it asks for more: its own work is not done, another one's transaction is being
    /// committed, others that waited for its own have not had their turn, or work of no client has not had the steps that a commit
    /// took before it. Otherwise, with one commit after the other, that work would only go on in the rounds between two of them.
    pub(super) fn must_wait(&self, connection: Connection) -> bool {
        let has_work = self.clients.get(&connection).is_some_and(|client| !client.jobs.is_empty());
        has_work || self.committing.is_some() || self.behind > 0 || self.owes_turns(connection)
    }

    /// Whether others that waited for a client's transaction have not had their turn.
    pub(super) fn owes_turns(&self, connection: Connection) -> bool {
        let owes = self.clients.get(&connection).is_some_and(|client| client.owes_turns == Some(self.rounds));
        owes && !self.passed_over.is_empty()
    }

    /// Works on the jobs of a client, or of none, until all are done, or must wait, or so many steps were taken; whether
    /// something was done.
    pub(super) fn run(&mut self, who: Option<Connection>, until: u64) -> bool {
        let mut worked = false;
        while self.steps() < until && self.advance(who) {
            worked = true;
        }
        worked
    }

    /// Does a piece of the first work of a client, or of none. False: there is none, or a commit in another queue is under
    /// way.
    fn advance(&mut self, who: Option<Connection>) -> bool {
        if self.committer().is_some_and(|committer| committer != who) {
            return false;
        }
        let (before, is_commit) = (self.steps(), self.committing.is_some());
        let worked = who.is_none() && !is_commit && self.walk_on() || self.work(who);
        let steps = self.steps() - before;
        match who {
            None if !is_commit => self.behind = self.behind.saturating_sub(steps),
            Some(_) if is_commit => self.behind += steps,
            _ => {}
        }
        if !self.has_own_work() {
            self.behind = 0;
        }
        worked
    }

    /// Does a piece of the first job of a client, or of none; whether there is one.
    fn work(&mut self, who: Option<Connection>) -> bool {
        let Some(job) = self.queue(who).and_then(VecDeque::pop_front) else { return false };
        self.tree.step();
        if let (Some(rest), Some(queue)) = (self.step(job, who), self.queue(who)) {
            queue.push_front(rest);
        }
        true
    }

    fn queue(&mut self, who: Option<Connection>) -> Option<&mut VecDeque<Job>> {
        match who {
            None => Some(&mut self.jobs),
            Some(connection) => self.clients.get_mut(&connection).map(|client| &mut client.jobs),
        }
    }

    /// Adds a job behind the others.
    pub(super) fn later(&mut self, who: Option<Connection>, job: Job) {
        if let Some(queue) = self.queue(who) {
            queue.push_back(job);
        }
    }

    /// Does a piece of a job; what is left of it.
    fn step(&mut self, job: Job, who: Option<Connection>) -> Option<Job> {
        match job {
            Job::Commit(commit) => self.commit(commit, who),
            Job::Fire(firing) => self.fire(firing, who),
            Job::Nodes(mut way) => {
                if let Some((name, node)) = way.last_mut().and_then(|(_, node)| node.children.pop()) {
                    way.push((name.len(), node));
                } else if let Some((name, node)) = way.pop() {
                    self.accounts.credit(node.rights.owner(), node.cost(name));
                }
                (!way.is_empty()).then_some(Job::Nodes(way))
            }
            Job::Deltas(mut way) => {
                match way.last_mut().and_then(|delta| delta.children.pop()) {
                    Some((_, delta)) => way.push(delta),
                    None => drop(way.pop()),
                }
                (!way.is_empty()).then_some(Job::Deltas(way))
            }
            Job::Transaction(domain, mut transaction) => {
                if transaction.free_some() {
                    return Some(Job::Transaction(domain, transaction));
                }
                self.accounts.credit_bytes(domain, transaction.charged);
                Some(Job::Deltas(vec![transaction.root]))
            }
            Job::Changes(mut changes) => changes.next().map(|_| Job::Changes(changes)),
            Job::Kept(connection, domain, kept) => self.discard(connection, domain, kept, who),
        }
    }

    fn commit(&mut self, mut commit: Box<Commit>, who: Option<Connection>) -> Option<Job> {
        let Commit { actor, transaction, changes, done, stage } = &mut *commit;
        let next = match stage {
            Stage::Check(last) => match transaction.check_next(&self.tree, last.as_ref()) {
                Ok(Some(path)) => Stage::Check(Some(path.clone())),
                Ok(None) => {
                    let all = transaction.take_changes();
                    let room = done.try_reserve_exact(all.len());
                    *changes = all.into_iter();
                    room.map_or(Stage::Undo(Errno::ENOSPC), |()| Stage::Apply)
                }
                Err(error) => Stage::Undo(error),
            },
            Stage::Apply => {
                let Some(change) = changes.next() else { return self.committed(*commit, who) };
                self.last_stamp += 1;
                let (stamp, quota, known) = (self.last_stamp, &self.quota, &self.known);
                let context = Context { actor, stamp, quota, known };
                match self.tree.apply(change, &mut self.accounts, context) {
                    Ok(made) => {
                        if let Some(Done { undo: Undo::Value(old, _), .. }) = &made {
                            // The old value is kept until all changes are made.
                            let _ = self.accounts.charge_bytes(actor.domain, old.len(), None);
                            transaction.charged += old.len();
                        }
                        done.extend(made);
                        return Some(Job::Commit(commit));
                    }
                    Err(Errno::ENOSPC) => Stage::Undo(Errno::ENOSPC),
                    // It was possible when it was asked for, and is not any more.
                    Err(_) => Stage::Undo(Errno::EAGAIN),
                }
            }
            Stage::Undo(error) => {
                let Some(change) = done.pop() else {
                    let error = *error;
                    return self.given_up(*commit, who, error);
                };
                self.tree.undo(change, &mut self.accounts);
                return Some(Job::Commit(commit));
            }
        };
        *stage = next;
        Some(Job::Commit(commit))
    }

    /// All changes were made.
    fn committed(&mut self, commit: Commit, who: Option<Connection>) -> Option<Job> {
        let Commit { actor, mut transaction, done, .. } = commit;
        self.ended(who, Ok(()));
        let mut firing = Firing::new(done, None);
        firing.charged = Some((actor.domain, core::mem::take(&mut transaction.charged)));
        self.later(who, Job::Transaction(actor.domain, transaction));
        Some(Job::Fire(Box::new(firing)))
    }

    /// None of the changes was made.
    fn given_up(&mut self, commit: Commit, who: Option<Connection>, error: Errno) -> Option<Job> {
        let Commit { actor, transaction, changes, .. } = commit;
        self.ended(who, Err(error));
        self.later(who, Job::Changes(changes));
        Some(Job::Transaction(actor.domain, transaction))
    }

    fn ended(&mut self, who: Option<Connection>, result: Result<(), Errno>) {
        self.committing = None;
        let defers = who.is_some_and(|connection| self.defers(connection));
        if let Some(client) = who.and_then(|connection| self.clients.get_mut(&connection)) {
            client.owes_turns = (!self.passed_over.is_empty() && !defers).then_some(self.rounds);
            // One that began anew does not wait for it.
            client.ended = Some(result).filter(|_| !client.is_reset);
        }
    }

    /// Takes out one thing that a client kept.
    fn discard(
        &mut self,
        connection: Connection,
        domain: u16,
        mut kept: Box<Kept>,
        who: Option<Connection>,
    ) -> Option<Job> {
        if let Some(watch) = kept.watches.pop_first() {
            self.index.remove(connection, &watch);
            self.accounts.credit_bytes(domain, watch.bytes());
        } else if let Some((_, bytes)) = kept.events.pop() {
            self.accounts.credit_bytes(domain, bytes);
        } else if let Some((_, transaction)) = kept.transactions.pop_first() {
            self.later(who, Job::Transaction(domain, transaction));
        } else {
            if let Some(client) = self.clients.get_mut(&connection) {
                client.is_reset = false;
            }
            return None;
        }
        Some(Job::Kept(connection, domain, kept))
    }
}
