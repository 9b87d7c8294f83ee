//! A heap of deadlines whose entries know where they are, so that a timer is stopped or moved exactly, in O(log n).

use crate::ids::Nanos;
use alloc::vec::Vec;

/// What a heap holds: told its index whenever that changes.
pub trait Entry {
    /// The entry is now at this index.
    fn moved_to(&self, index: usize);
}

/// A binary min-heap by deadline.
pub struct Heap<E>(Vec<(Nanos, E)>);

impl<E: Entry> Heap<E> {
    /// Nothing in it.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.0.first().map(|(deadline, _)| *deadline)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes room for `entries` in all; answers whether there is the memory.
    pub fn reserve(&mut self, entries: usize) -> bool {
        self.0.try_reserve(entries.saturating_sub(self.0.len())).is_ok()
    }

    /// Adds an entry. Room is made before it could be needed: see [`Heap::reserve`].
    pub fn insert(&mut self, deadline: Nanos, entry: E) {
        self.0.push((deadline, entry));
        self.settle(self.0.len() - 1);
    }

    /// Gives the entry at `index` another deadline. An index that is not in use changes nothing.
    pub fn change(&mut self, index: usize, deadline: Nanos) {
        if let Some(slot) = self.0.get_mut(index) {
            slot.0 = deadline;
            if self.0.len() > 1 {
                self.settle(index);
            }
        }
    }

    /// The earliest entry.
    pub fn first(&self) -> Option<&E> {
        self.0.first().map(|(_, entry)| entry)
    }

    /// Takes out the entry at `index`, if there is one, with its deadline.
    pub fn remove(&mut self, index: usize) -> Option<(Nanos, E)> {
        if index >= self.0.len() {
            return None;
        }
        let entry = self.0.swap_remove(index);
        if index < self.0.len() {
            self.settle(index);
        }
        Some(entry)
    }

    /// Takes out the earliest entry if its deadline has come.
    pub fn pop_due(&mut self, now: Nanos) -> Option<E> {
        if self.next_deadline()? <= now { self.remove(0).map(|(_, entry)| entry) } else { None }
    }

    /// Moves the entry at `index` up or down to where it belongs, and tells all that move.
    fn settle(&mut self, mut index: usize) {
        while index > 0 && self.0[index].0 < self.0[(index - 1) / 2].0 {
            self.swap(index, (index - 1) / 2);
            index = (index - 1) / 2;
        }
        while let Some(child) = self.earlier_child(index) {
            self.swap(index, child);
            index = child;
        }
        self.0[index].1.moved_to(index);
    }

    /// The child of `index` that should rather be above it.
    fn earlier_child(&self, index: usize) -> Option<usize> {
        let deadline = |i: usize| self.0.get(i).map(|(deadline, _)| *deadline);
        let (left, right) = (2 * index + 1, 2 * index + 2);
        let first = match (deadline(left)?, deadline(right)) {
            (l, Some(r)) if r < l => right,
            _ => left,
        };
        (self.0[first].0 < self.0[index].0).then_some(first)
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.0.swap(a, b);
        self.0[a].1.moved_to(a);
        self.0[b].1.moved_to(b);
    }
}

impl<E: Entry> Default for Heap<E> {
    fn default() -> Self {
        Self::new()
    }
}
