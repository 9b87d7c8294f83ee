//! Files in memory.
//!
//! Nodes have numbers that are never used again, and count how many names and handles refer to them: a file that was
//! removed lives on until its last handle is given up. A tree has a budget of bytes, in which contents count by their
//! length, and names and nodes by what they take at most beside their bytes.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::contents::Contents;
use super::message::Code;

/// The longest name.
pub const MAX_NAME: usize = 255;
/// Directories above one that a directory is moved to, which are looked at: as many as a path of Linux names.
pub const MOST_ABOVE: usize = 2048;
/// What a node costs beside its contents: itself, its place among the nodes, and a list of blocks. Places in a map are
/// counted twice, because half of them may be empty.
pub const NODE_COST: u64 = 320;
/// What a directory costs beside that: its first names make room for several.
pub const DIRECTORY_COST: u64 = 400;
/// What a name costs beside its bytes: its place in the directory, and what an allocation takes.
pub const NAME_COST: u64 = 96;

const _: () = {
    assert!(NODE_COST as usize >= 2 * (size_of::<Node>() + size_of::<Id>()) + size_of::<Vec<u8>>());
    assert!(DIRECTORY_COST as usize >= 12 * size_of::<(Vec<u8>, Id)>());
    assert!(NAME_COST as usize >= 2 * size_of::<(Vec<u8>, Id)>() + 32);
};

/// The number of a node.
pub type Id = u64;

/// The root's.
pub const ROOT: Id = 1;

/// What a node is.
#[derive(Debug)]
pub enum Kind {
    /// A directory: names, and what they stand for.
    Directory(BTreeMap<Vec<u8>, Id>),
    /// A file's contents.
    File(Contents),
    /// Where a symbolic link leads.
    Link(Vec<u8>),
}

/// A file, directory or link.
#[derive(Debug)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permission bits. They are kept, not checked: the domain that mounts the tree is one user here.
    pub mode: u32,
    /// Owner, as the front end said.
    pub uid: u32,
    /// Group, as the front end said.
    pub gid: u32,
    /// Access and modification time, as the front end said: seconds and nanoseconds.
    pub times: [(u64, u64); 2],
    /// Counts changes.
    pub version: u32,
    /// The directory that it is in, for directories.
    parent: Id,
    /// Names.
    names: u64,
    /// Handles.
    handles: u64,
}

impl Node {
    /// Bytes of its contents.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.kind {
            Kind::Directory(names) => names.len() as u64,
            Kind::File(contents) => contents.len(),
            Kind::Link(target) => target.len() as u64,
        }
    }

    /// What it takes of the budget, without its names.
    fn cost(&self) -> u64 {
        NODE_COST + if matches!(self.kind, Kind::Directory(_)) { DIRECTORY_COST } else { self.size() }
    }

    /// Names that stand for it, as `stat` counts them.
    #[must_use]
    pub fn links(&self) -> u64 {
        if matches!(self.kind, Kind::Directory(_)) { 2 } else { self.names }
    }
}

/// A tree of files.
#[derive(Debug)]
pub struct Tree {
    nodes: BTreeMap<Id, Node>,
    last: Id,
    used: u64,
    budget: u64,
    /// Whether nothing may be changed by a front end.
    pub read_only: bool,
}

impl Tree {
    /// An empty tree that may grow to `budget` bytes.
    #[must_use]
    pub fn new(budget: u64) -> Self {
        let root = Node {
            kind: Kind::Directory(BTreeMap::new()),
            mode: 0o755,
            uid: 0,
            gid: 0,
            times: [(0, 0); 2],
            version: 0,
            parent: ROOT,
            names: 1,
            handles: 0,
        };
        let used = root.cost();
        Self { nodes: BTreeMap::from([(ROOT, root)]), last: ROOT, used, budget, read_only: false }
    }

    /// Bytes in use, and how many there may be.
    #[must_use]
    pub const fn usage(&self) -> (u64, u64) {
        (self.used, self.budget)
    }

    /// Adds a file by its path, with the directories above it: what an archive is unpacked with.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub fn add(&mut self, path: &str, contents: &[u8], mode: u32) -> Result<Id, Code> {
        let mut names = path.split('/').filter(|name| !name.is_empty()).peekable();
        let mut at = ROOT;
        while let Some(name) = names.next() {
            let name = name.as_bytes();
            at = match self.lookup(at, name) {
                Ok(found) if names.peek().is_some() => found,
                Ok(_) => return Err(Code::EEXIST),
                Err(_) if names.peek().is_some() => {
                    self.create(at, name, Kind::Directory(BTreeMap::new()), 0o755, 0)?
                }
                Err(_) => self.create(at, name, Kind::File(Contents::new(contents)?), mode, 0)?,
            };
        }
        Ok(at)
    }

    /// A node.
    ///
    /// # Errors
    ///
    /// [`Code::ENOENT`].
    pub fn node(&self, id: Id) -> Result<&Node, Code> {
        self.nodes.get(&id).ok_or(Code::ENOENT)
    }

    /// A node, to change its properties.
    ///
    /// # Errors
    ///
    /// [`Code::ENOENT`].
    pub fn node_mut(&mut self, id: Id) -> Result<&mut Node, Code> {
        self.nodes.get_mut(&id).ok_or(Code::ENOENT)
    }

    fn names(&mut self, directory: Id) -> Result<&mut BTreeMap<Vec<u8>, Id>, Code> {
        match &mut self.node_mut(directory)?.kind {
            Kind::Directory(names) => Ok(names),
            _ => Err(Code::ENOTDIR),
        }
    }

    /// What `name` stands for in a directory. `..` of the root is the root.
    ///
    /// # Errors
    ///
    /// [`Code::ENOTDIR`], [`Code::ENOENT`].
    pub fn lookup(&self, directory: Id, name: &[u8]) -> Result<Id, Code> {
        let node = self.node(directory)?;
        match (&node.kind, name) {
            (Kind::Directory(_), b".") => Ok(directory),
            (Kind::Directory(_), b"..") => Ok(node.parent),
            (Kind::Directory(names), _) => names.get(name).copied().ok_or(Code::ENOENT),
            _ => Err(Code::ENOTDIR),
        }
    }

    /// Makes a node with a name.
    ///
    /// # Errors
    ///
    /// [`Code::EEXIST`], [`Code::ENOTDIR`], [`Code::EINVAL`] and [`Code::ENAMETOOLONG`] for the name, [`Code::ENOSPC`].
    pub fn create(
        &mut self,
        directory: Id,
        name: &[u8],
        kind: Kind,
        mode: u32,
        gid: u32,
    ) -> Result<Id, Code> {
        self.check_new(directory, name)?;
        let mut node = Node {
            kind,
            mode: mode & 0o7777,
            uid: 0,
            gid,
            times: [(0, 0); 2],
            version: 0,
            parent: directory,
            names: 0,
            handles: 0,
        };
        self.charge(node.cost() + name_cost(name))?;
        node.names = 1;
        self.last += 1;
        let id = self.last;
        self.nodes.insert(id, node);
        self.names(directory)?.insert(name.to_vec(), id);
        self.touch(directory);
        Ok(id)
    }

    /// Gives a file another name.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create); [`Code::EPERM`] for a directory.
    pub fn link(&mut self, directory: Id, name: &[u8], id: Id) -> Result<(), Code> {
        self.check_new(directory, name)?;
        let node = self.node(id)?;
        // A file without a name is only there for its handles: a name would bring it back.
        if matches!(node.kind, Kind::Directory(_)) || node.names == 0 {
            return Err(Code::EPERM);
        }
        self.charge(name_cost(name))?;
        self.names(directory)?.insert(name.to_vec(), id);
        self.node_mut(id)?.names += 1;
        self.touch(directory);
        Ok(())
    }

    /// Whether `name` can be made in `directory`.
    fn check_new(&self, directory: Id, name: &[u8]) -> Result<(), Code> {
        if name.len() > MAX_NAME {
            return Err(Code::ENAMETOOLONG);
        }
        if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
            return Err(Code::EINVAL);
        }
        let node = self.node(directory)?;
        // A directory that was removed takes nothing new.
        if node.names == 0 {
            return Err(Code::ENOENT);
        }
        match self.lookup(directory, name) {
            Ok(_) => Err(Code::EEXIST),
            Err(Code::ENOENT) => Ok(()),
            Err(code) => Err(code),
        }
    }

    /// Removes a name; `is_directory` where it must stand for a directory.
    ///
    /// # Errors
    ///
    /// [`Code::ENOENT`], [`Code::ENOTDIR`], [`Code::EISDIR`], [`Code::ENOTEMPTY`], [`Code::EINVAL`] for `.` and `..`.
    pub fn unlink(&mut self, directory: Id, name: &[u8], is_directory: bool) -> Result<(), Code> {
        if matches!(name, b"." | b"..") {
            return Err(Code::EINVAL);
        }
        let id = self.lookup(directory, name)?;
        match (&self.node(id)?.kind, is_directory) {
            (Kind::Directory(names), true) if !names.is_empty() => return Err(Code::ENOTEMPTY),
            (Kind::Directory(_), false) => return Err(Code::EISDIR),
            (Kind::File(_) | Kind::Link(_), true) => return Err(Code::ENOTDIR),
            _ => {}
        }
        self.names(directory)?.remove(name);
        self.used -= name_cost(name);
        self.node_mut(id)?.names -= 1;
        self.touch(directory);
        self.collect(id);
        Ok(())
    }

    /// Moves a name; what the new one stood for is removed.
    ///
    /// # Errors
    ///
    /// As [`unlink`](Self::unlink) and [`create`](Self::create); [`Code::EINVAL`] where a directory would come to lie
    /// within itself, or below more than 2048 others.
    pub fn rename(&mut self, from: Id, name: &[u8], to: Id, new: &[u8]) -> Result<(), Code> {
        if matches!(name, b"." | b"..") {
            return Err(Code::EINVAL);
        }
        let id = self.lookup(from, name)?;
        let is_directory = matches!(self.node(id)?.kind, Kind::Directory(_));
        let (mut above, mut looks) = (to, 0);
        while is_directory && above != ROOT {
            if above == id || looks == MOST_ABOVE {
                return Err(Code::EINVAL);
            }
            (above, looks) = (self.node(above)?.parent, looks + 1);
        }
        match self.lookup(to, new) {
            Ok(other) if other == id => return Ok(()),
            Ok(_) => self.unlink(to, new, is_directory)?,
            Err(Code::ENOENT) => {}
            Err(code) => return Err(code),
        }
        self.check_new(to, new)?;
        self.charge(name_cost(new))?;
        self.names(from)?.remove(name);
        self.used -= name_cost(name);
        self.names(to)?.insert(new.to_vec(), id);
        self.node_mut(id)?.parent = to;
        self.touch(from);
        self.touch(to);
        Ok(())
    }

    /// Writes into a file, which grows as it must; a gap reads as zeros. Returns the bytes written.
    ///
    /// # Errors
    ///
    /// [`Code::EISDIR`], [`Code::EFBIG`], [`Code::ENOSPC`].
    pub fn write(&mut self, id: Id, offset: u64, bytes: &[u8]) -> Result<usize, Code> {
        let end = offset.checked_add(bytes.len() as u64).ok_or(Code::EFBIG)?;
        let size = self.node(id)?.size();
        if end > size {
            self.resize(id, end)?;
        }
        let node = self.node_mut(id)?;
        let Kind::File(contents) = &mut node.kind else { return Err(Code::EISDIR) };
        contents.write(offset, bytes)?;
        node.version = node.version.wrapping_add(1);
        Ok(bytes.len())
    }

    /// Makes a file that long.
    ///
    /// # Errors
    ///
    /// [`Code::EISDIR`], [`Code::EFBIG`], [`Code::ENOSPC`].
    pub fn resize(&mut self, id: Id, size: u64) -> Result<(), Code> {
        let node = self.node(id)?;
        if !matches!(node.kind, Kind::File(_)) {
            return Err(Code::EISDIR);
        }
        let old = node.size();
        self.charge(size.saturating_sub(old))?;
        let node = self.node_mut(id)?;
        node.version = node.version.wrapping_add(1);
        if let Kind::File(contents) = &mut node.kind
            && let Err(code) = contents.resize(size)
        {
            self.used -= size.saturating_sub(old);
            return Err(code);
        }
        self.used -= old.saturating_sub(size);
        Ok(())
    }

    /// Takes bytes of the budget.
    fn charge(&mut self, bytes: u64) -> Result<(), Code> {
        let used = self.used.checked_add(bytes).filter(|used| *used <= self.budget).ok_or(Code::ENOSPC)?;
        self.used = used;
        Ok(())
    }

    fn touch(&mut self, id: Id) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.version = node.version.wrapping_add(1);
        }
    }

    /// A handle refers to a node from now on.
    pub fn hold(&mut self, id: Id) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.handles += 1;
        }
    }

    /// A handle refers to it no longer.
    pub fn release(&mut self, id: Id) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.handles -= 1;
        }
        self.collect(id);
    }

    /// Forgets a node that nothing refers to.
    fn collect(&mut self, id: Id) {
        let is_free = |node: &Node| node.names == 0 && node.handles == 0;
        if self.nodes.get(&id).is_some_and(is_free)
            && let Some(node) = self.nodes.remove(&id)
        {
            self.used -= node.cost();
        }
    }
}

/// What a name takes of the budget.
const fn name_cost(name: &[u8]) -> u64 {
    NAME_COST + name.len() as u64
}
