//! Watches: who is told of which change.
//!
//! A watch is told of changes of its node and of what is below it, and of its node's end together with one above it.
//! Nobody learns of a node that it may read neither itself nor the list that it stands in. An event that waits already
//! is not put in line again, so a client that is slow learns of each place once.

use alloc::string::String;

use super::super::{Errno, Event};
use super::path::{Path, home};
use super::transaction::Change;
use super::tree::{Actor, Deed, Quota, Tree};
use super::{Client, Connection, Server};

/// Names that are no nodes and can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A node and what is below; whether the client calls it by its relative name.
    Node(Path, bool),
    Special(Special),
}

/// A watch.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    place: Place,
    token: String,
}

impl Watch {
    /// The event for a change, if it is one of this watch's.
    fn event(&self, change: &Change, before: &Tree, domain: u16) -> Option<(Path, Event)> {
        let Place::Node(node, relative) = &self.place else { return None };
        let path = if change.path().is_within(node) {
            change.path()
        } else if matches!(change, Change::Remove(gone) if node.is_within(gone)) && before.get(node).is_some()
        {
            node
        } else {
            return None;
        };
        let mut name = path.as_str();
        if *relative {
            name = name.strip_prefix(&home(domain)).map_or(name, |rest| rest.trim_start_matches('/'));
        }
        Some((path.clone(), Event { path: name.into(), token: self.token.clone() }))
    }
}

/// Whether somebody may know that a node changed.
fn may_know(actor: &Actor, path: &Path, before: &Tree, after: &Tree) -> bool {
    let reads =
        |tree: &Tree, path: &Path| tree.get(path).is_some_and(|node| actor.may(Deed::Read, &node.rights));
    reads(after, path) || reads(before, path) || reads(after, &path.parent())
}

/// What an event that waits counts for.
fn bytes_of(event: &Event) -> usize {
    event.path.len() + event.token.len()
}

impl Client {
    /// The next event.
    pub(super) fn take_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.held -= bytes_of(&event);
        Some(event)
    }

    fn tell(&mut self, event: Event, quota: &Quota) {
        let held = self.held + bytes_of(&event);
        let full = !self.actor.privileged && (self.events.len() >= quota.events || held > quota.held);
        if full || self.events.contains(&event) {
            return;
        }
        self.held = held;
        self.events.push_back(event);
        if let Some(waker) = &self.waker {
            waker();
        }
    }
}

impl Server {
    /// Tells those who watch of a change that was made to the tree `before`.
    pub(super) fn fire(&mut self, before: &Tree, change: &Change) {
        for client in self.clients.values_mut() {
            for n in 0..client.watches.len() {
                let actor = client.actor;
                let Some((path, event)) = client.watches[n].event(change, before, actor.domain) else {
                    continue;
                };
                if may_know(&actor, &path, before, &self.tree) {
                    client.tell(event, &self.quota);
                }
            }
        }
    }

    pub(super) fn fire_special(&mut self, special: Special) {
        let rights = &self.special[special as usize];
        for client in self.clients.values_mut() {
            if !client.actor.may(Deed::Read, rights) {
                continue;
            }
            for n in 0..client.watches.len() {
                if client.watches[n].place == Place::Special(special) {
                    let token = client.watches[n].token.clone();
                    client.tell(Event { path: special.name().into(), token }, &self.quota);
                }
            }
        }
    }

    /// Begins a watch. An event comes at once.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `EEXIST`, `E2BIG` where the client has too many.
    pub fn watch(&mut self, connection: Connection, path: &str, token: &str) -> Result<(), Errno> {
        let quota = self.quota;
        let client = self.client(connection)?;
        let place = place(path, client.actor.domain)?;
        if client.watches.iter().any(|watch| watch.place == place && watch.token == token) {
            return Err(Errno::EEXIST);
        }
        if !client.actor.privileged && client.watches.len() >= quota.watches {
            return Err(Errno::E2BIG);
        }
        client.watches.push(Watch { place, token: token.into() });
        client.tell(Event { path: path.into(), token: token.into() }, &quota);
        Ok(())
    }

    /// Ends a watch. Events that wait already still come.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `ENOENT`.
    pub fn unwatch(&mut self, connection: Connection, path: &str, token: &str) -> Result<(), Errno> {
        let client = self.client(connection)?;
        let place = place(path, client.actor.domain)?;
        let mine = |watch: &Watch| watch.place == place && watch.token == token;
        let at = client.watches.iter().position(mine).ok_or(Errno::ENOENT)?;
        client.watches.remove(at);
        Ok(())
    }
}

fn place(path: &str, domain: u16) -> Result<Place, Errno> {
    match Special::named(path) {
        Some(special) => Ok(Place::Special(special)),
        None => Ok(Place::Node(Path::parse(path, domain)?, !path.starts_with('/'))),
    }
}
