//! The names below a node, in order, and what they stand for.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use super::super::Errno;

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
        self.0.try_reserve(1).map_err(|_| Errno::ENOSPC)?;
        let mut own = String::new();
        own.try_reserve_exact(name.len()).map_err(|_| Errno::ENOSPC)?;
        own.push_str(name);
        self.0.insert(at, (own.into_boxed_str(), child));
        Ok(())
    }

    /// Takes a name out. A list that became much shorter gives memory back.
    pub fn remove(&mut self, name: &str) -> Option<T> {
        let child = self.0.remove(self.find(name).ok()?).1;
        if self.0.len() * 4 <= self.0.capacity() {
            self.0.shrink_to(self.0.len() * 2);
        }
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

    /// The first name behind `name`, or of all.
    pub fn after(&self, name: Option<&str>) -> Option<&str> {
        let at = name.map_or(0, |name| match self.find(name) {
            Ok(at) => at + 1,
            Err(at) => at,
        });
        self.0.get(at).map(|(name, _)| &**name)
    }
}
