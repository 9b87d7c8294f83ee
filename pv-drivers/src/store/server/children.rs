//! The names below a node, in order, and what they stand for.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use super::super::Errno;
use super::tree::Node;

/// A sorted list: small where there are few, and its memory can be refused.
#[derive(Clone, Debug)]
pub(super) struct Children<T>(Vec<(Box<str>, T)>);

impl<T> Default for Children<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Children<T> {
    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| (**other).cmp(name))
    }

    pub fn get(&self, name: &str) -> Option<&T> {
        self.find(name).ok().map(|at| &self.0[at].1)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        self.find(name).ok().map(|at| &mut self.0[at].1)
    }

    /// Adds a name that is not there. `ENOSPC`: no memory is left.
    pub fn insert(&mut self, name: &str, child: T) -> Result<(), Errno> {
        let at = self.find(name).unwrap_or_else(|at| at);
        reserve(&mut self.0)?;
        let mut own = String::new();
        own.try_reserve_exact(name.len()).map_err(|_| Errno::ENOSPC)?;
        own.push_str(name);
        self.0.insert(at, (own.into_boxed_str(), child));
        Ok(())
    }

    /// Takes a name out. A list that became much shorter gives memory back.
    pub fn remove(&mut self, name: &str) -> Option<T> {
        let child = self.0.remove(self.find(name).ok()?).1;
        shrink(&mut self.0);
        Some(child)
    }

    /// Takes the last name out.
    pub fn pop(&mut self) -> Option<(Box<str>, T)> {
        self.0.pop()
    }

    /// What stands at a place in the order of names.
    pub fn at(&self, place: usize) -> Option<(&str, &T)> {
        self.0.get(place).map(|(name, child)| (&**name, child))
    }
}

/// The nodes below a node: by name, and in the order in which they were made. No two are made in the same change.
#[derive(Debug, Default)]
pub(super) struct Offspring {
    by_name: Children<Box<Node>>,
    /// Their places there, the one that was made first in front.
    by_age: Vec<u32>,
}

impl Offspring {
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.by_name.get(name).map(|node| &**node)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Box<Node>> {
        self.by_name.get_mut(name)
    }

    /// What stands at a place in the order of names.
    pub fn at(&self, place: usize) -> Option<(&str, &Node)> {
        self.by_name.at(place).map(|(name, node)| (name, &**node))
    }

    /// Adds a name that is not there: of a node that was just made, or of one that is put back. `ENOSPC`: no memory is left.
    pub fn insert(&mut self, name: &str, node: Box<Node>) -> Result<(), Errno> {
        let place = self.by_name.find(name).unwrap_or_else(|place| place);
        let (new, age) =
            (u32::try_from(place).map_err(|_| Errno::ENOSPC)?, self.older(|made| made < node.made));
        reserve(&mut self.by_age)?;
        self.by_name.insert(name, node)?;
        self.by_age.iter_mut().for_each(|other| *other += u32::from(*other >= new));
        self.by_age.insert(age, new);
        Ok(())
    }

    /// Takes a name out. A list that became much shorter gives memory back.
    pub fn remove(&mut self, name: &str) -> Option<Box<Node>> {
        let place = self.by_name.find(name).ok()?;
        let made = self.by_name.0[place].1.made;
        let gone = self.by_age.remove(self.older(|other| other < made));
        self.by_age.iter_mut().for_each(|other| *other -= u32::from(*other > gone));
        shrink(&mut self.by_age);
        self.by_name.remove(name)
    }

    /// Takes any name out of a list that is being freed: its order is not needed any more.
    pub fn pop(&mut self) -> Option<(Box<str>, Box<Node>)> {
        self.by_age = Vec::new();
        self.by_name.pop()
    }

    /// The node that was made with this stamp.
    pub fn made_at(&self, stamp: u64) -> Option<(&str, &Node)> {
        self.aged(self.older(|made| made < stamp)).filter(|(_, node)| node.made == stamp)
    }

    /// The first node that was made after a stamp.
    pub fn made_after(&self, stamp: u64) -> Option<(&str, &Node)> {
        self.aged(self.older(|made| made <= stamp))
    }

    /// How many were made at stamps that pass: the first ones.
    fn older(&self, passes: impl Fn(u64) -> bool) -> usize {
        self.by_age.partition_point(|place| passes(self.by_name.0[*place as usize].1.made))
    }

    fn aged(&self, age: usize) -> Option<(&str, &Node)> {
        self.at(*self.by_age.get(age)? as usize)
    }
}

/// Makes room for one more: no more than that for the first, most nodes of a deep tree have only one below.
fn reserve<T>(list: &mut Vec<T>) -> Result<(), Errno> {
    let made = if list.is_empty() { list.try_reserve_exact(1) } else { list.try_reserve(1) };
    made.map_err(|_| Errno::ENOSPC)
}

/// Gives memory back where a list became much shorter.
fn shrink<T>(list: &mut Vec<T>) {
    if list.len() * 4 <= list.capacity() {
        list.shrink_to(list.len() * 2);
    }
}
