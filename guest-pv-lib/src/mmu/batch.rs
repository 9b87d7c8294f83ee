//! Changes of page tables, collected: one entry into the hypervisor for many of them.

use core::fmt;

use xen_abi::xen::MmuUpdate;

use super::Pte;
use super::edge::{self, Forget};
use crate::Errno;
use crate::memory::request;

/// How many changes are collected before they are made in any case.
const ROOM: usize = 64;

/// Changes that are made in order, later.
pub(crate) struct Batch {
    requests: [MmuUpdate; ROOM],
    len: usize,
}

impl Batch {
    /// An empty one.
    pub const fn new() -> Self {
        Self { requests: [const { MmuUpdate { ptr: 0, val: 0 } }; ROOM], len: 0 }
    }

    /// Adds a change of the entry at machine address `at`; where there is no room, the former ones are made first.
    pub fn push(&mut self, at: u64, entry: Pte) -> Result<(), Errno> {
        self.push_request(request(at, entry))
    }

    /// The same for a request.
    pub fn push_request(&mut self, request: MmuUpdate) -> Result<(), Errno> {
        if self.len == ROOM {
            self.commit(Forget::Nothing)?;
        }
        self.requests[self.len] = request;
        self.len += 1;
        Ok(())
    }

    /// What the entry at machine address `at` will hold, where a change of it is among these.
    pub fn pending(&self, at: u64) -> Option<Pte> {
        self.requests[..self.len]
            .iter()
            .rev()
            .find(|request| request.ptr & !7 == at)
            .map(|request| Pte(request.val))
    }

    /// Makes the changes, and has translations forgotten afterwards. On an error those behind the one that failed
    /// are not made, and the batch is empty.
    pub fn commit(&mut self, forget: Forget) -> Result<(), Errno> {
        let len = core::mem::take(&mut self.len);
        match &self.requests[..len] {
            [] if forget == Forget::Nothing => Ok(()),
            requests => edge::apply_and_forget(requests, forget),
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} changes of page tables", self.len)
    }
}
