//! What a server answers to each message of one connection.
//!
//! A connection has handles ("fids"), each for a node, which it names itself. A message that cannot be understood is
//! answered with an error like one that cannot be served; only its size decides whether the connection goes on, and that
//! is the ring's matter.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Bound;

use spin::Mutex;

use super::DIALECT;
use super::contents::Contents;
use super::message::{Code, HEADER, Header, Reader, Writer, kind};
use super::tree::{Id, Kind, MAX_NAME, Node, ROOT, Tree};

/// Handles of a connection.
const MAX_HANDLES: usize = 1024;
/// Names in one walk, as the protocol bounds it.
const MAX_WALK: u16 = 16;
/// Entries of a directory that are counted off for one request.
const MOST_SKIPPED: usize = 1 << 14;
/// The smallest message size that can be agreed to.
const MIN_MESSAGE: u32 = 4096;
/// What an entry that is counted off costs, in bytes that could be moved instead.
const SKIPPED: usize = 16;
/// What a move costs, which looks at as many directories above as there may be.
const MOVED: usize = super::tree::MOST_ABOVE * SKIPPED;
/// Bytes of an answer to a read before its data.
const READ_HEADER: u32 = 11;

/// Bits of `Tsetattr`.
const SET_MODE: u32 = 0x1;
const SET_UID: u32 = 0x2;
const SET_GID: u32 = 0x4;
const SET_SIZE: u32 = 0x8;
const SET_TIME: [u32; 2] = [0x80, 0x100];
/// `Tlopen`: writing, both, and cutting the file off at the start.
const OPEN_ACCESS: u32 = 0x3;
const OPEN_TRUNCATE: u32 = 0o1000;
/// `Tunlinkat`: the name must be a directory's.
const REMOVE_DIRECTORY: u32 = 0x200;
/// `Rgetattr`: the basic fields are valid.
const BASIC: u64 = 0x7ff;
/// `Rgetlock`: nobody holds it.
const UNLOCKED: u8 = 2;
/// `Rstatfs`: the number that Linux knows 9P by.
const MAGIC: u32 = 0x0102_1997;

/// A tree that several connections share.
pub type SharedTree = Arc<Mutex<Tree>>;

/// One connection.
#[derive(Debug)]
pub struct Session {
    tree: SharedTree,
    /// What each handle is for, and whether it may be written to.
    handles: BTreeMap<u32, Handle>,
    /// The longest message of either end.
    largest: u32,
    /// What the message at hand cost beside its bytes.
    extra: usize,
}

#[derive(Clone, Debug)]
struct Handle {
    node: Id,
    /// The access that it was opened with.
    open: Option<u32>,
    /// Of a directory that was read: the offset that comes next, and the name before it.
    listed: Option<(u64, Vec<u8>)>,
}

impl Handle {
    fn new(node: Id, open: Option<u32>) -> Self {
        Self { node, open, listed: None }
    }
}

type Done = Result<(), Code>;

impl Session {
    /// A connection whose messages fit into `largest` bytes.
    #[must_use]
    pub const fn new(tree: SharedTree, largest: u32) -> Self {
        Self { tree, handles: BTreeMap::new(), largest, extra: 0 }
    }

    /// The longest message of either end.
    #[must_use]
    pub const fn largest(&self) -> u32 {
        self.largest
    }

    /// Answers a message, whose size was checked. Returns what that cost: about as many bytes could have been moved.
    pub fn answer(&mut self, message: &[u8], reply: &mut Writer) -> usize {
        let Some(header) = message.first_chunk().map(Header::parse) else { return 0 };
        reply.begin(header.kind.wrapping_add(1), header.tag);
        self.extra = 0;
        if let Err(code) = self.serve(header.kind, Reader::new(&message[HEADER..]), reply) {
            reply.begin(kind::RLERROR, header.tag);
            reply.u32(code.0);
        }
        message.len() + reply.len() + self.extra
    }

    fn serve(&mut self, kind: u8, fields: Reader<'_>, reply: &mut Writer) -> Done {
        match kind {
            kind::TVERSION => self.version(fields, reply),
            kind::TATTACH => self.attach(fields, reply),
            // Messages are worked on one after the other: what is to be flushed was answered.
            kind::TFLUSH => Ok(()),
            kind::TWALK => self.walk(fields, reply),
            kind::TLOPEN => self.open(fields, reply),
            kind::TREAD => self.read(fields, reply),
            kind::TREADDIR => self.read_directory(fields, reply),
            kind::TREADLINK => self.read_link(fields, reply),
            kind::TGETATTR => self.attributes(fields, reply),
            kind::TSTATFS => self.statistics(fields, reply),
            kind::TCLUNK => self.clunk(fields),
            kind::TFSYNC => self.node(fields.clone().u32()?).map(drop),
            kind::TLOCK => self.lock(fields, reply),
            kind::TGETLOCK => self.get_lock(fields, reply),
            _ if self.tree.lock().read_only => Err(Code::EROFS),
            kind::TWRITE => self.write(fields, reply),
            kind::TLCREATE => self.create(fields, reply),
            kind::TMKDIR => self.make_directory(fields, reply),
            kind::TSYMLINK => self.symlink(fields, reply),
            kind::TSETATTR => self.set_attributes(fields),
            kind::TLINK => self.link(fields),
            kind::TRENAMEAT => {
                self.extra = MOVED;
                self.rename_at(fields)
            }
            kind::TUNLINKAT => self.unlink_at(fields),
            _ => Err(Code::EOPNOTSUPP),
        }
    }

    fn node(&self, handle: u32) -> Result<Id, Code> {
        self.handles.get(&handle).map(|handle| handle.node).ok_or(Code::EBADF)
    }

    /// Gives a handle a node.
    fn bind(&mut self, handle: u32, node: Id) -> Done {
        if self.handles.len() >= MAX_HANDLES && !self.handles.contains_key(&handle) {
            return Err(Code::ENFILE);
        }
        let mut tree = self.tree.lock();
        tree.hold(node);
        if let Some(old) = self.handles.insert(handle, Handle::new(node, None)) {
            tree.release(old.node);
        }
        Ok(())
    }

    /// Begins anew: all handles are gone.
    fn version(&mut self, mut fields: Reader<'_>, reply: &mut Writer) -> Done {
        let (largest, dialect) = (fields.u32()?, fields.string()?);
        if largest < MIN_MESSAGE {
            return Err(Code::EINVAL);
        }
        self.forget();
        self.largest = self.largest.min(largest);
        reply.u32(self.largest);
        reply.string(if dialect == DIALECT.as_bytes() { dialect } else { b"unknown" });
        Ok(())
    }

    fn forget(&mut self) {
        let mut tree = self.tree.lock();
        while let Some((_, handle)) = self.handles.pop_first() {
            tree.release(handle.node);
        }
    }

    fn attach(&mut self, mut fields: Reader<'_>, reply: &mut Writer) -> Done {
        let handle = fields.u32()?;
        if self.handles.contains_key(&handle) {
            return Err(Code::EINVAL);
        }
        self.bind(handle, ROOT)?;
        reply.qid(qid(ROOT, self.tree.lock().node(ROOT)?));
        Ok(())
    }

    fn walk(&mut self, mut fields: Reader<'_>, reply: &mut Writer) -> Done {
        let (handle, new, count) = (fields.u32()?, fields.u32()?, fields.u16()?);
        if count > MAX_WALK || (new != handle && self.handles.contains_key(&new)) {
            return Err(Code::EINVAL);
        }
        let (mut at, mut qids) = (self.node(handle)?, alloc::vec::Vec::new());
        for step in 0..count {
            let name = fields.string()?;
            let tree = self.tree.lock();
            match tree.lookup(at, name).and_then(|next| Ok((next, qid(next, tree.node(next)?)))) {
                Ok((next, qid)) => {
                    at = next;
                    qids.push(qid);
                }
                Err(code) if step == 0 => return Err(code),
                // A part of the way: the answer says how far, and the new handle is not made.
                Err(_) => break,
            }
        }
        if qids.len() == usize::from(count) {
            self.bind(new, at)?;
        }
        // At most `MAX_WALK`.
        reply.u16(u16::try_from(qids.len()).unwrap_or(0));
        qids.into_iter().for_each(|qid| reply.qid(qid));
        Ok(())
    }

    fn open(&mut self, mut fields: Reader<'_>, reply: &mut Writer) -> Done {
        let (handle, flags) = (fields.u32()?, fields.u32()?);
        let (node, access) = (self.node(handle)?, flags & OPEN_ACCESS);
        let mut tree = self.tree.lock();
        if tree.read_only && (access != 0 || flags & OPEN_TRUNCATE != 0) {
            return Err(Code::EROFS);
        }
        if access != 0 && matches!(tree.node(node)?.kind, Kind::Directory(_)) {
            return Err(Code::EISDIR);
        }
        if flags & OPEN_TRUNCATE != 0 && access != 0 {
            tree.resize(node, 0)?;
        }
        reply.qid(qid(node, tree.node(node)?));
        reply.u32(0);
        drop(tree);
        self.handles.insert(handle, Handle::new(node, Some(access)));
        Ok(())
    }

    /// The node of a handle that was opened, for writing if so wanted.
    fn opened(&self, handle: u32, writing: bool) -> Result<Id, Code> {
        let handle = self.handles.get(&handle).ok_or(Code::EBADF)?;
        let access = handle.open.ok_or(Code::EBADF)?;
        if writing && access == 0 || !writing && access == 1 { Err(Code::EBADF) } else { Ok(handle.node) }
    }

    /// How much of `count` bytes fits into an answer.
    fn bounded(&self, count: u32) -> usize {
        count.min(self.largest - READ_HEADER) as usize
    }

    fn read(&mut self, mut fields: Reader<'_>, reply: &mut Writer) -> Done {
        let (handle, offset, count) = (fields.u32()?, fields.u64()?, fields.u32()?);
        let (node, count) = (self.opened(handle, false)?, self.bounded(count));
        let tree = self.tree.lock();
        let Kind::File(contents) = &tree.node(node)?.kind else { return Err(Code::EISDIR) };
        reply.data_with(contents.readable(offset, count), |data| contents.read(offset, data));
        Ok(())
    }

    fn write(&mut self, mut fields: Reader<'_>, reply: &mut Writer) -> Done {
        let (handle, offset, data) = (fields.u32()?, fields.u64()?, fields.data()?);
        let node = self.opened(handle, true)?;
        let written = self.tree.lock().write(node, offset, data)?;
        // At most a message.
        reply.u32(u32::try_from(written).unwrap_or(0));
        Ok(())
    }

    /// Entries from number `offset` on: `.`, `..` and the names in their order. A handle that is read on finds its place by the
    /// last name that was listed. Any other place is counted off, which is refused beyond [`MOST_SKIPPED`].
    fn read_directory(&mut self, mut fields: Reader<'_>, reply: &mut Writer) -> Done {
        let (handle, offset, count) = (fields.u32()?, fields.u64()?, fields.u32()?);
        let (directory, count) = (self.opened(handle, false)?, self.bounded(count));
        let listed = self.handles.get(&handle).and_then(|handle| handle.listed.clone());
        let tree = self.tree.lock();
        let Kind::Directory(names) = &tree.node(directory)?.kind else { return Err(Code::ENOTDIR) };
        let (from, skip) = match &listed {
            Some((next, last)) if *next == offset => (Bound::Excluded(last.as_slice()), 0),
            _ => (Bound::Unbounded, usize::try_from(offset).unwrap_or(usize::MAX)),
        };
        if skip > MOST_SKIPPED {
            return Err(Code::EINVAL);
        }
        self.extra = skip.min(names.len()) * SKIPPED;
        let dots = [(&b"."[..], directory), (b"..", tree.lookup(directory, b"..")?)];
        let dots = dots.into_iter().filter(|_| from == Bound::Unbounded);
        let behind = names.range::<[u8], _>((from, Bound::Unbounded));
        let all = dots.chain(behind.map(|(name, id)| (&name[..], *id))).skip(skip);
        let (mut entries, mut next, mut last) = (Writer::default(), offset, None);
        for (name, id) in all {
            if entries.len() + 24 + name.len() > count {
                break;
            }
            let qid = qid(id, tree.node(id)?);
            (next, last) = (next + 1, Some(name));
            entries.qid(qid);
            entries.u64(next);
            entries.u8(match qid.0 {
                QID_DIRECTORY => 4,
                QID_LINK => 10,
                _ => 8,
            });
            entries.string(name);
        }
        reply.data(entries.bytes());
        let last = last.filter(|last| !matches!(*last, b"." | b".."));
        if let (Some(last), Some(handle)) = (last, self.handles.get_mut(&handle)) {
            handle.listed = Some((next, last.to_vec()));
        }
        Ok(())
    }

    fn read_link(&mut self, mut fields: Reader<'_>, reply: &mut Writer) -> Done {
        let node = self.node(fields.u32()?)?;
        match &self.tree.lock().node(node)?.kind {
            Kind::Link(target) => reply.string(target),
            _ => return Err(Code::EINVAL),
        }
        Ok(())
    }

    fn attributes(&mut self, mut fields: Reader<'_>, reply: &mut Writer) -> Done {
        let id = self.node(fields.u32()?)?;
        let tree = self.tree.lock();
        let node = tree.node(id)?;
        reply.u64(BASIC);
        reply.qid(qid(id, node));
        reply.u32(node.mode | kind_bits(node));
        reply.u32(node.uid);
        reply.u32(node.gid);
        for value in [node.links(), 0, node.size(), 4096, node.size().div_ceil(512)] {
            reply.u64(value);
        }
        let [accessed, modified] = node.times;
        for (seconds, nanoseconds) in [accessed, modified, modified, (0, 0)] {
            reply.u64(seconds);
            reply.u64(nanoseconds);
        }
        reply.u64(0);
        reply.u64(node.version.into());
        Ok(())
    }

    fn set_attributes(&mut self, mut fields: Reader<'_>) -> Done {
        let (id, valid) = (self.node(fields.u32()?)?, fields.u32()?);
        let (mode, uid, gid, size) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u64()?);
        let times = [(fields.u64()?, fields.u64()?), (fields.u64()?, fields.u64()?)];
        let mut tree = self.tree.lock();
        if valid & SET_SIZE != 0 {
            tree.resize(id, size)?;
        }
        let node = tree.node_mut(id)?;
        if valid & SET_MODE != 0 {
            node.mode = mode & 0o7777;
        }
        if valid & SET_UID != 0 {
            node.uid = uid;
        }
        if valid & SET_GID != 0 {
            node.gid = gid;
        }
        for (index, bit) in SET_TIME.into_iter().enumerate() {
            if valid & bit != 0 {
                node.times[index] = times[index];
            }
        }
        Ok(())
    }

    fn statistics(&mut self, mut fields: Reader<'_>, reply: &mut Writer) -> Done {
        self.node(fields.u32()?)?;
        let (used, budget) = self.tree.lock().usage();
        reply.u32(MAGIC);
        reply.u32(4096);
        let free = (budget - used) / 4096;
        for value in [budget / 4096, free, free, 0, 0, 0] {
            reply.u64(value);
        }
        reply.u32(MAX_NAME as u32);
        Ok(())
    }

    fn clunk(&mut self, mut fields: Reader<'_>) -> Done {
        let handle = self.handles.remove(&fields.u32()?).ok_or(Code::EBADF)?;
        self.tree.lock().release(handle.node);
        Ok(())
    }

    /// Locks are between the programs of one domain, which keeps them itself.
    fn lock(&mut self, mut fields: Reader<'_>, reply: &mut Writer) -> Done {
        self.node(fields.u32()?)?;
        reply.u8(0);
        Ok(())
    }

    fn get_lock(&mut self, mut fields: Reader<'_>, reply: &mut Writer) -> Done {
        self.node(fields.u32()?)?;
        let (_, start, length) = (fields.u8()?, fields.u64()?, fields.u64()?);
        let (process, client) = (fields.u32()?, fields.string()?);
        reply.u8(UNLOCKED);
        reply.u64(start);
        reply.u64(length);
        reply.u32(process);
        reply.string(client);
        Ok(())
    }

    /// Makes a file and opens it: the handle of its directory becomes that of the file.
    fn create(&mut self, mut fields: Reader<'_>, reply: &mut Writer) -> Done {
        let (handle, name) = (fields.u32()?, fields.string()?);
        let (flags, mode, gid) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let directory = self.node(handle)?;
        let file = Kind::File(Contents::default());
        let id = self.tree.lock().create(directory, name, file, mode, gid)?;
        self.bind(handle, id)?;
        self.handles.insert(handle, Handle::new(id, Some(flags & OPEN_ACCESS)));
        reply.qid(qid(id, self.tree.lock().node(id)?));
        reply.u32(0);
        Ok(())
    }

    fn make_directory(&mut self, mut fields: Reader<'_>, reply: &mut Writer) -> Done {
        let (directory, name) = (self.node(fields.u32()?)?, fields.string()?);
        let (mode, gid) = (fields.u32()?, fields.u32()?);
        self.make(directory, name, Kind::Directory(BTreeMap::new()), mode, gid, reply)
    }

    fn symlink(&mut self, mut fields: Reader<'_>, reply: &mut Writer) -> Done {
        let (directory, name, target) = (self.node(fields.u32()?)?, fields.string()?, fields.string()?);
        let gid = fields.u32()?;
        self.make(directory, name, Kind::Link(target.to_vec()), 0o777, gid, reply)
    }

    fn make(&self, directory: Id, name: &[u8], kind: Kind, mode: u32, gid: u32, reply: &mut Writer) -> Done {
        let mut tree = self.tree.lock();
        let id = tree.create(directory, name, kind, mode, gid)?;
        reply.qid(qid(id, tree.node(id)?));
        Ok(())
    }

    fn link(&mut self, mut fields: Reader<'_>) -> Done {
        let (directory, node) = (self.node(fields.u32()?)?, self.node(fields.u32()?)?);
        self.tree.lock().link(directory, fields.string()?, node)
    }

    fn rename_at(&mut self, mut fields: Reader<'_>) -> Done {
        let (from, name) = (self.node(fields.u32()?)?, fields.string()?);
        let (to, new) = (self.node(fields.u32()?)?, fields.string()?);
        self.tree.lock().rename(from, name, to, new)
    }

    fn unlink_at(&mut self, mut fields: Reader<'_>) -> Done {
        let (directory, name, flags) = (self.node(fields.u32()?)?, fields.string()?, fields.u32()?);
        self.tree.lock().unlink(directory, name, flags & REMOVE_DIRECTORY != 0)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.forget();
    }
}

const QID_DIRECTORY: u8 = 0x80;
const QID_LINK: u8 = 0x02;
const QID_FILE: u8 = 0;

fn qid(id: Id, node: &Node) -> (u8, u32, u64) {
    let kind = match node.kind {
        Kind::Directory(_) => QID_DIRECTORY,
        Kind::Link(_) => QID_LINK,
        Kind::File(_) => QID_FILE,
    };
    (kind, node.version, id)
}

/// The kind of a node in the bits of a mode.
const fn kind_bits(node: &Node) -> u32 {
    match node.kind {
        Kind::Directory(_) => 0o040_000,
        Kind::File(_) => 0o100_000,
        Kind::Link(_) => 0o120_000,
    }
}
