//! Pages that one domain lends another: what the hypervisor's grant tables do.

use core::fmt;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::vec;
use std::vec::Vec;

use super::{Domain, Machine, WORDS, zeroed};
use crate::transport::{Access, Copy, CopyEnd, DomId, Error, GrantRef, PAGE_SIZE, ReadWord, words};

/// A page within a run of pages.
#[derive(Clone)]
struct Page {
    run: Arc<[AtomicU32]>,
    first: usize,
}

impl Page {
    fn words(&self) -> &[AtomicU32] {
        &self.run[self.first..self.first + WORDS]
    }
}

/// One entry of a domain's grant table.
struct Entry {
    page: Page,
    peer: DomId,
    access: Access,
    /// How often it is mapped now.
    mapped: usize,
}

impl Entry {
    fn allows(&self, user: DomId, access: Access) -> bool {
        self.peer == user && (access == Access::ReadOnly || self.access == Access::ReadWrite)
    }
}

/// A domain's grants.
#[derive(Default)]
pub(super) struct Table {
    entries: BTreeMap<GrantRef, Entry>,
    last: u32,
    /// Runs of pages that were dropped while a peer had one of them mapped, and how many pages each has.
    aside: Vec<(DomId, Weak<[AtomicU32]>, usize)>,
}

impl Table {
    fn add(&mut self, entry: Entry) -> GrantRef {
        // The first references are reserved for console and xenstore, as in a guest.
        self.last = self.last.wrapping_add(1).max(8);
        while self.entries.contains_key(&GrantRef(self.last)) {
            self.last = self.last.wrapping_add(1).max(8);
        }
        self.entries.insert(GrantRef(self.last), entry);
        GrantRef(self.last)
    }

    /// Pages that were dropped while `peer` had them mapped, and still has.
    pub(super) fn kept_aside(&mut self, peer: DomId) -> usize {
        self.aside.retain(|(_, run, _)| run.strong_count() > 0);
        self.aside.iter().filter(|(user, ..)| *user == peer).map(|(.., pages)| pages).sum()
    }
}

/// Pages that nobody else can reach.
#[derive(Debug)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    pub(super) fn new(pages: usize) -> Self {
        Self(vec![0; pages * PAGE_SIZE])
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Pages that this domain and copies of the hypervisor touch.
pub struct Memory(Arc<[AtomicU32]>);

impl Memory {
    pub(super) fn new(pages: usize) -> Self {
        Self(zeroed(pages))
    }
}

impl Deref for Memory {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        &self.0
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} pages)", self.0.len() / WORDS)
    }
}

/// Pages that a peer may touch.
pub struct Granted {
    machine: Machine,
    owner: DomId,
    run: Arc<[AtomicU32]>,
    refs: Vec<GrantRef>,
}

impl Granted {
    pub(super) fn new(
        machine: &Machine,
        owner: DomId,
        buffer: Buffer,
        peer: DomId,
        access: Access,
    ) -> Result<Self, (Error, Buffer)> {
        let run = zeroed(buffer.0.len() / PAGE_SIZE);
        words::store(&run, 0, &buffer.0);
        let grant = |domain: &mut Domain| {
            let pages = (0..run.len()).step_by(WORDS).map(|first| Page { run: run.clone(), first });
            pages.map(|page| domain.grants.add(Entry { page, peer, access, mapped: 0 })).collect()
        };
        match machine.with(owner, grant) {
            Some(refs) => Ok(Self { machine: machine.clone(), owner, run, refs }),
            None => Err((Error::NoRoom, buffer)),
        }
    }

    /// The pages as a buffer, unless one of them is mapped.
    pub(super) fn end(self) -> Result<Buffer, Self> {
        let in_use = |domain: &mut Domain| {
            self.refs.iter().any(|at| domain.grants.entries.get(at).is_some_and(|entry| entry.mapped > 0))
        };
        if self.machine.with(self.owner, in_use).unwrap_or(false) {
            return Err(self);
        }
        self.revoke();
        let mut buffer = Buffer::new(self.refs.len());
        words::load(&self.run, 0, &mut buffer.0);
        Ok(buffer)
    }

    /// Takes the entries away. Whoever has a page mapped keeps the page alive.
    fn revoke(&self) {
        let _ = self.machine.with(self.owner, |domain| {
            let mut user = None;
            for reference in &self.refs {
                let entry = domain.grants.entries.remove(reference);
                user = user.or(entry.filter(|entry| entry.mapped > 0).map(|entry| entry.peer));
            }
            if let Some(user) = user {
                domain.grants.aside.push((user, Arc::downgrade(&self.run), self.refs.len()));
            }
        });
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        self.revoke();
    }
}

impl Deref for Granted {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        &self.run
    }
}

impl fmt::Debug for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Granted({:?})", self.refs)
    }
}

impl crate::transport::Granted for Granted {
    fn refs(&self) -> &[GrantRef] {
        &self.refs
    }
}

/// Pages of a peer.
pub struct Mapped {
    machine: Machine,
    owner: DomId,
    refs: Vec<GrantRef>,
    run: Arc<[AtomicU32]>,
    first: usize,
}

impl Mapped {
    pub(super) fn new(
        machine: &Machine,
        user: DomId,
        owner: DomId,
        refs: &[GrantRef],
        access: Access,
    ) -> Result<Self, Error> {
        let map = |domain: &mut Domain| {
            let entry = |at| domain.grants.entries.get(at).filter(|entry| entry.allows(user, access));
            let first = refs.first().and_then(entry).ok_or(Error::BadGrant)?.page.clone();
            for (index, reference) in refs.iter().enumerate() {
                let page = &entry(reference).ok_or(Error::BadGrant)?.page;
                if !Arc::ptr_eq(&page.run, &first.run) || page.first != first.first + index * WORDS {
                    return Err(Error::Refused(crate::transport::Errno::EOPNOTSUPP));
                }
            }
            for reference in refs {
                if let Some(entry) = domain.grants.entries.get_mut(reference) {
                    entry.mapped += 1;
                }
            }
            Ok(first)
        };
        let Page { run, first } = machine.with(owner, map).unwrap_or(Err(Error::BadGrant))?;
        Ok(Self { machine: machine.clone(), owner, refs: refs.to_vec(), run, first })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let _ = self.machine.with(self.owner, |domain| {
            for reference in &self.refs {
                let entry = domain.grants.entries.get_mut(reference);
                // A reference that was used anew meanwhile belongs to another page.
                if let Some(entry) = entry.filter(|entry| Arc::ptr_eq(&entry.page.run, &self.run)) {
                    entry.mapped = entry.mapped.saturating_sub(1);
                }
            }
        });
    }
}

impl Deref for Mapped {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        &self.run[self.first..self.first + self.refs.len() * WORDS]
    }
}

/// Pages of a peer that are only read.
pub struct MappedReadOnly(Mapped);

impl MappedReadOnly {
    pub(super) fn new(
        machine: &Machine,
        user: DomId,
        owner: DomId,
        refs: &[GrantRef],
    ) -> Result<Self, Error> {
        Mapped::new(machine, user, owner, refs, Access::ReadOnly).map(Self)
    }
}

impl Deref for MappedReadOnly {
    type Target = [ReadWord];

    fn deref(&self) -> &[ReadWord] {
        ReadWord::of(&self.0)
    }
}

/// Does one piece of a copy.
pub(super) fn copy(machine: &Machine, user: DomId, own: &Memory, piece: &Copy) -> Result<(), Error> {
    let length = usize::from(piece.length);
    let (source, from) = end(machine, user, own, piece.source, length, Access::ReadOnly)?;
    let (target, to) = end(machine, user, own, piece.target, length, Access::ReadWrite)?;
    words::transfer(source.words(), from, target.words(), to, length);
    Ok(())
}

/// The page of one side of a copy, and where in it the bytes begin.
fn end(
    machine: &Machine,
    user: DomId,
    own: &Memory,
    end: CopyEnd,
    length: usize,
    access: Access,
) -> Result<(Page, usize), Error> {
    let (page, offset) = match end {
        CopyEnd::Own { offset } if offset / PAGE_SIZE * WORDS >= own.0.len() => {
            return Err(Error::OutOfRange);
        }
        CopyEnd::Own { offset } => {
            (Page { run: own.0.clone(), first: offset / PAGE_SIZE * WORDS }, offset % PAGE_SIZE)
        }
        CopyEnd::Peer { domain, reference, offset } => {
            let page = |domain: &mut Domain| {
                let entry = domain.grants.entries.get(&reference);
                entry.filter(|entry| entry.allows(user, access)).map(|entry| entry.page.clone())
            };
            (machine.with(domain, page).flatten().ok_or(Error::BadGrant)?, usize::from(offset))
        }
    };
    if offset + length > PAGE_SIZE { Err(Error::OutOfRange) } else { Ok((page, offset)) }
}
