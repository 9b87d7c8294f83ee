//! Lists of values that share one memory, which is reserved once.
//!
//! Values go from list to list without being copied. However many lists there are and whatever became of them before, they hold
//! no more than was reserved.

use alloc::vec::Vec;

use crate::transport::Error;

/// The place of no value.
const NONE: u16 = u16::MAX;

/// A list. It belongs to one [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    first: u16,
    last: u16,
}

impl List {
    pub const EMPTY: Self = Self { first: NONE, last: NONE };

    pub const fn is_empty(&self) -> bool {
        self.first == NONE
    }
}

/// A value, and the place of the one behind it.
struct Place<V> {
    value: V,
    next: u16,
}

/// The values of several lists.
pub struct Store<V> {
    /// As many as were in use at once, within the capacity.
    places: Vec<Place<V>>,
    free: List,
}

impl<V: Copy> Store<V> {
    /// Room for `count` values.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`], and where there are no numbers for so many.
    pub fn new(count: usize) -> Result<Self, Error> {
        let mut places = Vec::new();
        if count > usize::from(NONE) || places.try_reserve_exact(count).is_err() {
            return Err(Error::NoMemory);
        }
        Ok(Self { places, free: List::EMPTY })
    }

    /// Adds a value at the end of a list. False: there is no room.
    pub fn push(&mut self, list: &mut List, value: V) -> bool {
        let mut own = List::EMPTY;
        let mut free = self.free;
        if self.shift(&mut free, &mut own) {
            self.free = free;
            self.places[usize::from(own.first)].value = value;
        } else {
            let Ok(at) = u16::try_from(self.places.len()) else { return false };
            if at == NONE || self.places.len() == self.places.capacity() {
                return false;
            }
            self.places.push(Place { value, next: NONE });
            own = List { first: at, last: at };
        }
        self.append(list, &mut own);
        true
    }

    /// Takes the first value of a list.
    pub fn pop(&mut self, list: &mut List) -> Option<V> {
        let value = *self.first(list)?;
        let mut free = self.free;
        self.shift(list, &mut free);
        self.free = free;
        Some(value)
    }

    /// The first value of one list becomes the last one of another. False: there is none.
    pub fn shift(&mut self, from: &mut List, to: &mut List) -> bool {
        let at = from.first;
        let Some(place) = self.places.get_mut(usize::from(at)) else { return false };
        from.first = core::mem::replace(&mut place.next, NONE);
        if from.is_empty() {
            from.last = NONE;
        }
        self.append(to, &mut List { first: at, last: at });
        true
    }

    /// All values of `more` go to the end of a list.
    pub fn append(&mut self, list: &mut List, more: &mut List) {
        let more = core::mem::replace(more, List::EMPTY);
        if more.is_empty() {
            return;
        }
        match self.places.get_mut(usize::from(list.last)) {
            Some(last) => last.next = more.first,
            None => list.first = more.first,
        }
        list.last = more.last;
    }

    /// The first value of a list.
    pub fn first(&self, list: &List) -> Option<&V> {
        Some(&self.places.get(usize::from(list.first))?.value)
    }

    /// The values of a list, in order.
    pub fn iter(&self, list: &List) -> Iter<'_, V> {
        Iter { places: &self.places, at: list.first }
    }

    /// Shows each value of a list to `change`, in order.
    pub fn each(&mut self, list: &List, mut change: impl FnMut(&mut V)) {
        let mut at = list.first;
        while let Some(place) = self.places.get_mut(usize::from(at)) {
            change(&mut place.value);
            at = place.next;
        }
    }

    /// Bytes that it holds, used or not.
    #[cfg(test)]
    pub const fn bytes(&self) -> usize {
        self.places.capacity() * size_of::<Place<V>>()
    }
}

/// The values of a list.
pub struct Iter<'a, V> {
    places: &'a [Place<V>],
    at: u16,
}

impl<'a, V> Iterator for Iter<'a, V> {
    type Item = &'a V;

    fn next(&mut self) -> Option<&'a V> {
        let place = self.places.get(usize::from(self.at))?;
        self.at = place.next;
        Some(&place.value)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const ROOM: usize = 12;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push(usize),
        Pop(usize),
        Shift(usize, usize),
        Append(usize, usize),
    }

    fn steps() -> impl Strategy<Value = Step> {
        let other = (0..4usize, 1..4usize).prop_map(|(from, by)| (from, (from + by) % 4));
        prop_oneof![
            4 => (0..4usize).prop_map(Step::Push),
            2 => (0..4usize).prop_map(Step::Pop),
            2 => other.clone().prop_map(|(from, to)| Step::Shift(from, to)),
            1 => other.prop_map(|(from, to)| Step::Append(from, to)),
        ]
    }

    proptest! {
        #[test]
        fn lists_are_what_queues_of_their_own_would_be(
            steps in prop::collection::vec(steps(), 0..300),
        ) {
            let mut store = Store::new(ROOM).unwrap();
            let reserved = store.bytes();
            let mut lists = [List::EMPTY; 4];
            let mut queues = [const { VecDeque::new() }; 4];
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push(list) => {
                        let has_room = queues.iter().map(VecDeque::len).sum::<usize>() < ROOM;
                        prop_assert_eq!(store.push(&mut lists[list], number), has_room);
                        queues[list].extend(has_room.then_some(number));
                    }
                    Step::Pop(list) => {
                        prop_assert_eq!(store.pop(&mut lists[list]), queues[list].pop_front());
                    }
                    Step::Shift(from, to) => {
                        let [one, other] = lists.get_disjoint_mut([from, to]).unwrap();
                        let value = queues[from].pop_front();
                        prop_assert_eq!(store.shift(one, other), value.is_some());
                        queues[to].extend(value);
                    }
                    Step::Append(from, to) => {
                        let [one, other] = lists.get_disjoint_mut([from, to]).unwrap();
                        store.append(other, one);
                        let all = core::mem::take(&mut queues[from]);
                        queues[to].extend(all);
                    }
                }
                for (list, queue) in lists.iter().zip(&queues) {
                    prop_assert!(store.iter(list).eq(queue));
                    prop_assert_eq!(store.first(list), queue.front());
                    prop_assert_eq!(list.is_empty(), queue.is_empty());
                }
                prop_assert_eq!(store.bytes(), reserved);
            }
        }
    }

    #[test]
    fn each_value_can_be_changed() {
        let mut store = Store::new(3).unwrap();
        let mut list = List::EMPTY;
        assert!([1, 2, 3].iter().all(|value| store.push(&mut list, *value)));
        store.each(&list, |value| *value *= 10);
        assert!(store.iter(&list).eq(&[10, 20, 30]));
    }

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        assert_eq!(Store::<u8>::new(usize::MAX).err(), Some(Error::NoMemory));
    }
}
