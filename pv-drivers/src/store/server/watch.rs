//! Watches: who is told of which change.
//!
//! A watch is told of changes of its node and of what is below it, and of its node's end together with one above it.
//! Nobody learns of a node that it may read neither itself nor the list that it stands in. An event that waits already
//! is not put in line again, so a client that is slow learns of each place once.
//!
//! An index by path finds the watches of a change: those at its node and at each above, and for a removal those below, which
//! stand together. [`Firing`] goes through them one by one, so that it can stop anywhere. Who changes something pays for
//! that, so a client that may not know of it costs one look, however many watches it has there.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec;
use core::ops::Bound::{Excluded, Included, Unbounded};

use super::super::Errno;
use super::account::WATCH;
use super::path::{Path, home};
use super::queue::Events;
use super::rights::{Deed, Rights};
use super::tree::{Done, Node, Undo};
use super::{Connection, Job, Server};

/// Names that are no nodes and can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Special {
    Introduce,
    Release,
}

impl Special {
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "@introduceDomain" => Some(Self::Introduce),
            "@releaseDomain" => Some(Self::Release),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Introduce => "@introduceDomain",
            Self::Release => "@releaseDomain",
        }
    }
}

/// What a watch looks at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// A node and what is below; whether the client calls it by its relative name.
    Node(Path, bool),
    Special(Special),
}

/// A watch, as its client has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Watch {
    place: Place,
    token: Arc<str>,
}

impl Watch {
    fn new(path: &str, token: &str, domain: u16) -> Result<Self, Errno> {
        let place = match Special::named(path) {
            Some(special) => Place::Special(special),
            None => Place::Node(Path::parse(path, domain)?, !path.starts_with('/')),
        };
        Ok(Self { place, token: token.into() })
    }

    /// What it is charged.
    pub fn bytes(&self) -> usize {
        let path = if let Place::Node(path, _) = &self.place { path.as_str().len() } else { 0 };
        WATCH + 2 * path + self.token.len()
    }
}

/// A watch, as it stands in the index at its path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Watcher {
    connection: Connection,
    is_relative: bool,
    token: Arc<str>,
}

/// One for each watch of these maps, and eleven times as many places in each for the first.
const _: () = assert!(
    WATCH
        >= 11 * (size_of::<Watcher>() + size_of::<Watch>()) / 2 + 2 * size_of::<(Path, BTreeSet<Watcher>)>()
);

/// All watches, by what they look at.
#[derive(Debug, Default)]
pub(super) struct Index {
    nodes: BTreeMap<Path, BTreeSet<Watcher>>,
    special: [BTreeSet<Watcher>; 2],
}

impl Index {
    pub fn insert(&mut self, connection: Connection, watch: &Watch) {
        let token = watch.token.clone();
        match &watch.place {
            Place::Node(path, is_relative) => {
                let watcher = Watcher { connection, is_relative: *is_relative, token };
                self.nodes.entry(path.clone()).or_default().insert(watcher);
            }
            Place::Special(special) => {
                self.special[*special as usize].insert(Watcher { connection, is_relative: false, token });
            }
        }
    }

    pub fn remove(&mut self, connection: Connection, watch: &Watch) {
        let token = watch.token.clone();
        match &watch.place {
            Place::Node(path, is_relative) => {
                let Some(watchers) = self.nodes.get_mut(path.as_str()) else { return };
                watchers.remove(&Watcher { connection, is_relative: *is_relative, token });
                if watchers.is_empty() {
                    self.nodes.remove(path.as_str());
                }
            }
            Place::Special(special) => {
                self.special[*special as usize].remove(&Watcher { connection, is_relative: false, token });
            }
        }
    }

    /// The watcher behind `last` at a node, or the first.
    fn at(&self, path: &Path, last: Option<&Last>) -> Option<&Watcher> {
        let watchers = self.nodes.get(path.as_str())?;
        match last {
            Some(Last::Client(Connection(number))) => {
                let connection = Connection(number.checked_add(1)?);
                let first = Watcher { connection, is_relative: false, token: "".into() };
                watchers.range(first..).next()
            }
            Some(Last::Watcher(watcher)) => next(watchers, Some(watcher)),
            None => next(watchers, None),
        }
    }

    /// The watcher behind `last` among those below a node, or the first.
    fn below(&self, top: &Path, last: Option<&(Path, Watcher)>) -> Option<(&Path, &Watcher)> {
        if let Some((path, watcher)) = last
            && let Some((path, watchers)) = self.nodes.get_key_value(path.as_str())
            && let Some(next) = next(watchers, Some(watcher))
        {
            return Some((path, next));
        }
        let first;
        let from = match last {
            Some((path, _)) => Excluded(path.as_str()),
            None => {
                first = alloc::format!("{top}/");
                Included(&*first)
            }
        };
        let (path, watchers) = self.nodes.range::<str, _>((from, Unbounded)).next()?;
        path.below(top)?;
        Some((path, next(watchers, None)?))
    }
}

fn next<'a>(watchers: &'a BTreeSet<Watcher>, last: Option<&Watcher>) -> Option<&'a Watcher> {
    watchers.range((last.map_or(Unbounded, Excluded), Unbounded)).next()
}

/// Changes that were made, of which watchers are being told.
#[derive(Debug)]
pub(super) struct Firing {
    changes: vec::IntoIter<Done>,
    current: Option<Current>,
    /// What is fired after the changes, and the last that was told.
    special: Option<(Special, Option<Watcher>)>,
    /// What its domain is charged until the end.
    pub charged: Option<(u16, usize)>,
}

/// The change of which watchers are being told.
#[derive(Debug)]
struct Current {
    change: Done,
    /// The node's rights now, and those of the node above.
    after: [Option<Rights>; 2],
    at: At,
}

/// Where the watchers stand that are being told, and the last of them.
#[derive(Debug)]
enum At {
    Below(Option<(Path, Watcher)>),
    /// The change's node or one above.
    Above(Path, Option<Last>),
}

/// How far the watchers of a node were told.
#[derive(Debug)]
enum Last {
    Watcher(Watcher),
    /// None of this client is to be told.
    Client(Connection),
}

impl Firing {
    pub fn new(changes: alloc::vec::Vec<Done>, special: Option<Special>) -> Self {
        let special = special.map(|special| (special, None));
        Self { changes: changes.into_iter(), current: None, special, charged: None }
    }
}

impl Server {
    /// Tells one watcher, or looks at one more node; what is left to be done.
    pub(super) fn fire(
        &mut self,
        mut firing: alloc::boxed::Box<Firing>,
        who: Option<Connection>,
    ) -> Option<Job> {
        let Some(current) = firing.current.take() else {
            if let Some(change) = firing.changes.next() {
                firing.current = Some(self.begin_to_tell(change));
            } else if let Some((special, last)) = firing.special.take() {
                firing.special = self.tell_special(special, last.as_ref());
            } else {
                if let Some((domain, bytes)) = firing.charged {
                    self.accounts.credit_bytes(domain, bytes);
                }
                return None;
            }
            return Some(Job::Fire(firing));
        };
        let Current { change, after, at } = current;
        let next = match at {
            At::Below(last) => match self.tell_below(&change, last.as_ref()) {
                Some(last) => Some(At::Below(Some(last))),
                None => Some(At::Above(change.path.clone(), None)),
            },
            At::Above(path, last) => match self.tell_above(&change, &after, &path, last.as_ref()) {
                Some(last) => Some(At::Above(path, Some(last))),
                None if path.is_root() => None,
                None => Some(At::Above(path.parent(), None)),
            },
        };
        match next {
            Some(at) => firing.current = Some(Current { change, after, at }),
            None => {
                if let Undo::Removed(node, _) = change.undo {
                    let name = change.path.names().last().map_or(0, str::len);
                    self.later(who, Job::Nodes(vec![(name, node)]));
                }
            }
        }
        Some(Job::Fire(firing))
    }

    fn begin_to_tell(&self, change: Done) -> Current {
        let rights = |path: &Path| self.tree.get(path).map(|node| node.rights.clone());
        let after = [rights(&change.path), rights(&change.path.parent())];
        let at = match change.undo {
            Undo::Removed(..) => At::Below(None),
            _ => At::Above(change.path.clone(), None),
        };
        Current { change, after, at }
    }

    /// Tells the next watcher of a node that was removed together with one above it.
    fn tell_below(&mut self, change: &Done, last: Option<&(Path, Watcher)>) -> Option<(Path, Watcher)> {
        let (path, watcher) = self.index.below(&change.path, last)?;
        let (path, watcher) = (path.clone(), watcher.clone());
        let Undo::Removed(removed, _) = &change.undo else { return None };
        let mut node: Option<&Node> = Some(removed);
        for name in path.below(&change.path)?.split('/') {
            let Some(above) = node else { break };
            self.tree.step();
            node = above.children.get(name);
        }
        if let Some(node) = node {
            let after =
                [&path, &path.parent()].map(|path| self.tree.get(path).map(|node| node.rights.clone()));
            self.tell_if(&watcher, &path, Some(&node.rights), &after);
        }
        Some((path, watcher))
    }

    /// Tells the next watcher at `path`, which is the change's node or above it.
    fn tell_above(
        &mut self,
        change: &Done,
        after: &[Option<Rights>; 2],
        path: &Path,
        last: Option<&Last>,
    ) -> Option<Last> {
        let watcher = self.index.at(path, last)?.clone();
        match self.tell_if(&watcher, &change.path, change.before.as_ref(), after) {
            true => Some(Last::Watcher(watcher)),
            false => Some(Last::Client(watcher.connection)),
        }
    }

    fn tell_special(
        &mut self,
        special: Special,
        last: Option<&Watcher>,
    ) -> Option<(Special, Option<Watcher>)> {
        let watcher = next(&self.index.special[special as usize], last)?.clone();
        let rights = &self.special[special as usize];
        if self.clients.get(&watcher.connection).is_some_and(|client| client.actor.may(Deed::Read, rights)) {
            self.tell(watcher.connection, special.name(), &watcher.token);
        }
        Some((special, Some(watcher)))
    }

    /// Tells a watcher that something changed at `path`, if it may know: if it may read the node, as it was or is, or the
    /// node above. False: its client may not.
    fn tell_if(
        &mut self,
        watcher: &Watcher,
        path: &Path,
        before: Option<&Rights>,
        after: &[Option<Rights>; 2],
    ) -> bool {
        let Some(client) = self.clients.get(&watcher.connection) else { return false };
        let mut all = after.iter().flatten().chain(before);
        if !all.any(|rights| client.actor.may(Deed::Read, rights)) {
            return false;
        }
        let mut name = path.as_str();
        if watcher.is_relative {
            let home = home(client.actor.domain);
            name = name.strip_prefix(&*home).map_or(name, |rest| rest.trim_start_matches('/'));
        }
        self.tell(watcher.connection, name, &watcher.token);
        true
    }

    /// Puts an event in line for a client, if there is room for it.
    fn tell(&mut self, connection: Connection, path: &str, token: &Arc<str>) {
        let Some(client) = self.clients.get_mut(&connection) else { return };
        let (actor, events) = (client.actor, &mut client.kept.events);
        let held = events.held() + path.len() + token.len();
        let is_full = events.len() >= self.quota.events || held > self.quota.held;
        if client.is_reset || !actor.privileged && is_full {
            return;
        }
        let (bytes, limit) = (Events::bytes(path, token), (!actor.privileged).then_some(&self.quota));
        if self.accounts.charge_bytes(actor.domain, bytes, limit).is_err() {
            return;
        }
        if !events.push(path, token) {
            self.accounts.credit_bytes(actor.domain, bytes);
        } else if let Some(waker) = &client.waker {
            waker();
        }
    }

    /// Begins a watch. An event comes at once.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `EEXIST`, `E2BIG` where the client has too many, `ENOSPC`.
    pub fn watch(&mut self, connection: Connection, path: &str, token: &str) -> Result<(), Errno> {
        self.catch_up(connection);
        let client = self.clients.get_mut(&connection).ok_or(Errno::ENOTCONN)?;
        let (actor, watches) = (client.actor, &mut client.kept.watches);
        let watch = Watch::new(path, token, actor.domain)?;
        if watches.contains(&watch) {
            return Err(Errno::EEXIST);
        }
        if !actor.privileged && watches.len() >= self.quota.watches {
            return Err(Errno::E2BIG);
        }
        let limit = (!actor.privileged).then_some(&self.quota);
        self.accounts.charge_bytes(actor.domain, watch.bytes(), limit)?;
        self.index.insert(connection, &watch);
        let token = watch.token.clone();
        watches.insert(watch);
        self.tell(connection, path, &token);
        Ok(())
    }

    /// Ends a watch. Events that wait already still come.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `ENOENT`.
    pub fn unwatch(&mut self, connection: Connection, path: &str, token: &str) -> Result<(), Errno> {
        self.catch_up(connection);
        let client = self.clients.get_mut(&connection).ok_or(Errno::ENOTCONN)?;
        let watch = Watch::new(path, token, client.actor.domain)?;
        if !client.kept.watches.remove(&watch) {
            return Err(Errno::ENOENT);
        }
        self.index.remove(connection, &watch);
        self.accounts.credit_bytes(client.actor.domain, watch.bytes());
        Ok(())
    }
}
