//! The events that wait for a client: in order, each once.

use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::sync::Arc;

use super::super::Event;
use super::account::EVENT;

/// An event.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Told {
    path: Box<str>,
    token: Arc<str>,
}

impl Told {
    fn text(&self) -> usize {
        self.path.len() + self.token.len()
    }
}

const _: () = assert!(EVENT >= 4 * size_of::<Arc<Told>>() + size_of::<Told>() + 3 * 16);

/// See the head of the module.
#[derive(Debug, Default)]
pub(super) struct Events {
    order: VecDeque<Arc<Told>>,
    waiting: BTreeSet<Arc<Told>>,
    /// Bytes of their paths and tokens.
    held: usize,
}

impl Events {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Bytes of their paths and tokens.
    pub fn held(&self) -> usize {
        self.held
    }

    /// What one more is charged.
    pub fn bytes(path: &str, token: &str) -> usize {
        EVENT + path.len() + token.len()
    }

    /// Puts an event in line; false: it waits there already.
    pub fn push(&mut self, path: &str, token: &Arc<str>) -> bool {
        let told = Arc::new(Told { path: path.into(), token: token.clone() });
        if !self.waiting.insert(told.clone()) {
            return false;
        }
        self.held += told.text();
        self.order.push_back(told);
        true
    }

    /// Takes the first one, and what it was charged.
    pub fn pop(&mut self) -> Option<(Event, usize)> {
        let told = self.order.pop_front()?;
        self.waiting.remove(&told);
        self.held -= told.text();
        if self.order.len() * 4 <= self.order.capacity() {
            self.order.shrink_to(self.order.len() * 2);
        }
        let bytes = Self::bytes(&told.path, &told.token);
        Some((Event { path: (&*told.path).into(), token: (&*told.token).into() }, bytes))
    }
}
