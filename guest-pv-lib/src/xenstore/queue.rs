//! The events of watches until they are taken: in order, each once, and no more than there is room for.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::sync::Arc;

use super::Event;

/// Events that are kept before further ones are lost.
const EVENTS: usize = 4096;
/// Bytes of their paths and tokens.
const BYTES: usize = 256 << 10;

/// See the head of the module.
#[derive(Debug, Default)]
pub(super) struct Events {
    order: VecDeque<Arc<Event>>,
    waiting: BTreeSet<Arc<Event>>,
    /// Bytes of their paths and tokens.
    held: usize,
}

impl Event {
    fn bytes(&self) -> usize {
        self.path.len() + self.token.len()
    }
}

impl Events {
    /// Puts an event in line. An event says "look again": a second one like it, before anybody looked, says nothing more.
    pub fn push(&mut self, event: Event) {
        let held = self.held + event.bytes();
        if self.order.len() >= EVENTS || held > BYTES || self.waiting.contains(&event) {
            return;
        }
        let event = Arc::new(event);
        self.waiting.insert(event.clone());
        self.order.push_back(event);
        self.held = held;
    }

    /// Takes the first one.
    pub fn pop(&mut self) -> Option<Event> {
        let event = self.order.pop_front()?;
        self.waiting.remove(&event);
        self.held -= event.bytes();
        Some(Arc::unwrap_or_clone(event))
    }
}
