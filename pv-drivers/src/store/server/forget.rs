//! The end of a domain: its clients go at once, what it has in the tree goes in steps.
//!
//! Nodes that the domain owned are removed with all below them, and its rights are taken out of the others. A [`Walk`] goes
//! through the tree for that. It looks at the nodes that were made before the end, and takes no step for later ones: those
//! cannot name the domain (`rights`), and other domains may make them without end. So the work is bounded by what was there at
//! the end: at most about two steps for each node, and one way down for each [`PIECE`] of steps.
//!
//! A node can be removed at any time between two pieces, and another one of its name be made. So the way is kept as the stamps
//! of when its nodes were made, which never come back. The children of a node are passed in the order of these stamps.
//!
//! What follows, telling watchers and freeing nodes, is work of no client, too. A domain that starts anew waits for the walk only;
//! the old nodes stay charged to its number until they are free.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::Server;
use super::path::Path;
use super::tree::{Done, Node, Tree, Undo};
use super::watch::{Firing, Special};
use super::work::Job;

/// Steps of one piece of a walk, beside those down to where it goes on.
const PIECE: u64 = 128;

/// The walk through the tree after a domain's end.
#[derive(Debug)]
pub(super) struct Walk {
    domain: u16,
    way: Way,
    /// What was removed, of which watchers will be told.
    done: Vec<Done>,
}

/// How far a walk has come through the nodes that were made no later than `until`, each before those below it.
#[derive(Debug)]
struct Way {
    until: u64,
    /// The root was looked at.
    is_begun: bool,
    /// The stamps of the nodes on the way down, without the root. It is among the children of the lowest.
    down: Vec<u64>,
    /// The stamp of the child that was looked at last, or 0.
    last: u64,
}

/// What a piece of a walk came to.
enum Found {
    /// A node that names the domain.
    Node(Path),
    /// No such node up to here.
    Nothing,
    /// The end of the tree.
    End,
}

impl Way {
    fn new(until: u64) -> Self {
        Self { until, is_begun: false, down: Vec::new(), last: 0 }
    }

    /// Leaves the lowest node: the one behind it is next. False: that was the root.
    fn leave(&mut self) -> bool {
        self.down.pop().is_some_and(|made| {
            self.last = made;
            true
        })
    }
}

impl Tree {
    /// Goes on with a way to the next node that names a domain, or for some steps.
    fn search(&self, way: &mut Way, domain: u16) -> Found {
        let is_named = |node: &Node| node.rights.entries().iter().any(|(other, _)| *other == domain);
        if !way.is_begun {
            way.is_begun = true;
            self.step();
            if is_named(&self.root) {
                return Found::Node(Path::of([]));
            }
        }
        let mut nodes = Vec::with_capacity(way.down.len() + 16);
        nodes.push(("", &self.root));
        let mut node = &self.root;
        let gone = way.down.iter().position(|made| {
            self.step();
            let Some((name, child)) = node.children.made_at(*made) else { return true };
            nodes.push((name, child));
            node = child;
            false
        });
        if let Some(level) = gone {
            way.last = way.down[level];
            way.down.truncate(level);
        }
        let end = self.steps() + PIECE;
        while self.steps() < end {
            self.step();
            let next = nodes.last().and_then(|(_, node)| node.children.made_after(way.last));
            if let Some((name, child)) = next.filter(|(_, child)| child.made <= way.until) {
                nodes.push((name, child));
                way.down.push(child.made);
                way.last = 0;
                if is_named(child) {
                    return Found::Node(Path::of(nodes[1..].iter().map(|(name, _)| *name)));
                }
            } else {
                nodes.pop();
                if !way.leave() {
                    return Found::End;
                }
            }
        }
        Found::Nothing
    }
}

impl Server {
    /// Whether a domain of this number is gone and not yet out of the tree. The next one of its number is connected when it
    /// is, by those who can wait.
    #[must_use]
    pub fn is_forgetting(&self, domain: u16) -> bool {
        self.walks.iter().any(|walk| walk.domain == domain)
    }

    /// A domain is gone: with it its clients, its nodes, and all rights that it had. Tells those who watch for it.
    pub fn release(&mut self, domain: u16) {
        self.begin_release(domain);
        self.finish(None);
    }

    /// The same, where [`poll`](Self::poll) does the work. The domain's clients are gone at once.
    pub fn begin_release(&mut self, domain: u16) {
        let of_domain = self.clients.iter().filter(|(_, client)| client.actor.domain == domain);
        let gone: Vec<_> = of_domain.map(|(connection, _)| *connection).collect();
        gone.into_iter().for_each(|connection| self.begin_disconnect(connection));
        self.introduced.remove(&domain);
        self.known.remove(domain);
        self.accounts.forget(domain);
        for client in self.clients.values_mut() {
            client.actor.target = client.actor.target.filter(|target| target.domain != domain);
        }
        let _ = self.special.each_mut().map(|rights| rights.forget(domain));
        let way = Way::new(self.next_stamp());
        self.walks.push_back(Box::new(Walk { domain, way, done: Vec::new() }));
    }

    /// Takes a domain out of the tree at once.
    pub(super) fn finish_walk(&mut self, domain: u16) {
        while self.is_forgetting(domain) {
            self.settle();
            self.run(None, self.steps() + 1);
        }
    }

    /// Does a piece of the first walk; whether there is one. Walks come before all other work of no client: how many watchers of
    /// one domain's end must be told makes no difference to the next domain.
    pub(super) fn walk_on(&mut self) -> bool {
        let Some(mut walk) = self.walks.pop_front() else { return false };
        match self.tree.search(&mut walk.way, walk.domain) {
            Found::Node(path) => self.take_from(&mut walk, path),
            Found::Nothing => {}
            Found::End => {
                let firing = Firing::new(walk.done, Some(Special::Release));
                self.later(None, Job::Fire(Box::new(firing)));
                return true;
            }
        }
        self.walks.push_front(walk);
        true
    }

    /// Takes what was a domain's out of the tree: a node, or its rights in one.
    fn take_from(&mut self, walk: &mut Walk, path: Path) {
        let stamp = self.next_stamp();
        let before = self.tree.get(&path).map(|node| node.rights.clone());
        let is_owned = !path.is_root() && before.as_ref().is_some_and(|it| it.owner() == walk.domain);
        if is_owned && let Some((node, list_stamp)) = self.tree.take_out(&path, stamp) {
            walk.way.leave();
            walk.done.push(Done { path, before, undo: Undo::Removed(node, list_stamp) });
        } else {
            self.tree.strip(&path, walk.domain, stamp, &mut self.accounts);
        }
    }
}
