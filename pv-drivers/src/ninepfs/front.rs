//! The front end: files of another domain by their path.
//!
//! One request is waited for at a time. The back end is not believed: an answer that does not fit its request is
//! [`Failed::Broken`], and one that does not come in time is [`Failed::Silent`].
//!
//! Each request has a tag of its own, so an answer that comes late is told from the one that is waited for and dropped.
//! After a silence nothing is known of the handles, and the next operation agrees on everything anew.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use xen_abi::io::ninepfs::keys;

use super::DIALECT;
use super::message::{Code, HEADER, Header, Reader, Writer, kind};
use super::ring::{Broken, Messages, describe};
use crate::transport::{Access, Granted, PAGE_SIZE, Port, Transport};
use crate::xenbus::{Driver, End, Error, Nodes, Role};

/// Pages of the ring, as a power of two: 32 KiB each way.
const ORDER: u32 = 4;
/// The longest message.
const LARGEST: u32 = 64 << 10;
/// Names in a directory that are listed: a back end must not be able to fill this domain's memory.
const MOST_NAMES: usize = 1 << 16;
/// Bytes of all their names together. The protocol allows 65,535 bytes for each.
pub const MOST_NAMED: usize = 4 << 20;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests without an answer, before no more are made until one of them is answered.
const MOST_LATE: usize = 64;
/// The tag of `Tversion`, which is no other request's.
const NO_TAG: u16 = u16::MAX;
/// Handles: the root, and the one that a request works with.
const ROOT: u32 = 0;
const WORK: u32 = 1;
/// `Tlopen`: for writing.
const WRITE_ONLY: u32 = 1;
/// `Tlopen`: cut the file off at the start.
const TRUNCATE: u32 = 0o1000;

/// The longest file that [`Files::read`] reads.
pub const MOST_READ: usize = 16 << 20;

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The back end says so.
    Refused(Code),
    /// The device is not connected.
    Unconnected,
    /// No answer came.
    Silent,
    /// The back end does not keep to the protocol.
    Broken(Broken),
}

impl From<Broken> for Failed {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl From<Code> for Failed {
    /// A field that is not there in an answer.
    fn from(_: Code) -> Self {
        Self::Broken(Broken::Size)
    }
}

impl core::fmt::Display for Failed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Refused(code) => write!(f, "the server refused with error {}", code.0),
            Self::Unconnected => f.write_str("the file system is not connected"),
            Self::Silent => f.write_str("the server does not answer"),
            Self::Broken(broken) => f.write_str(broken.reason()),
        }
    }
}

impl core::error::Error for Failed {}

/// A connected ring.
struct Connection<T: Transport> {
    transport: T,
    messages: Messages<T::Granted>,
    port: T::Port,
    last_tag: u16,
    /// Tags of requests that are not waited for any more.
    late: Vec<u16>,
}

/// The driver: `xenbus::Device<T, Files<T>>` connects it.
pub struct Files<T: Transport> {
    connection: Option<Connection<T>>,
    request: Writer,
    is_attached: bool,
    patience: Duration,
}

impl<T: Transport> Default for Files<T> {
    fn default() -> Self {
        Self { connection: None, request: Writer::default(), is_attached: false, patience: PATIENCE }
    }
}

impl<T: Transport> Files<T> {
    /// An answer is waited for so long, instead of 30 seconds.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Makes a request, and gives its answer's fields to `take`.
    fn call<R>(
        &mut self,
        kind: u8,
        fields: impl FnOnce(&mut Writer),
        take: impl FnOnce(&mut Reader<'_>) -> Result<R, Failed>,
    ) -> Result<R, Failed> {
        let connection = self.connection.as_mut().ok_or(Failed::Unconnected)?;
        let tag = if kind == kind::TVERSION { NO_TAG } else { connection.next_tag() };
        self.request.begin(kind, tag);
        fields(&mut self.request);
        if let Err(failed) = connection.exchange(tag, self.request.finish(), self.patience) {
            // What it would have done to the handles is not known.
            self.is_attached = false;
            return Err(failed);
        }
        let message = connection.messages.message().ok_or(Broken::Size)?;
        let answer = message.first_chunk().map(Header::parse).ok_or(Broken::Size)?;
        let mut reader = Reader::new(&message[HEADER..]);
        let result = match answer.kind {
            kind::RLERROR => Err(Failed::Refused(Code(reader.u32()?))),
            other if other == kind + 1 => take(&mut reader),
            _ => Err(Broken::Size.into()),
        };
        connection.messages.done();
        result
    }

    /// Agrees on a version and takes a handle of the root.
    fn attach(&mut self) -> Result<(), Failed> {
        if self.is_attached {
            return Ok(());
        }
        let fields = |request: &mut Writer| {
            request.u32(LARGEST);
            request.string(DIALECT.as_bytes());
        };
        let agreed = self.call(kind::TVERSION, fields, |answer| {
            Ok((answer.u32()?, answer.string()? == DIALECT.as_bytes()))
        })?;
        if agreed != (LARGEST, true) {
            return Err(Failed::Refused(Code::EOPNOTSUPP));
        }
        let fields = |request: &mut Writer| {
            request.u32(ROOT);
            request.u32(u32::MAX);
            request.string(b"");
            request.string(b"");
            request.u32(0);
        };
        self.call(kind::TATTACH, fields, |answer| Ok(answer.qid()?))?;
        self.is_attached = true;
        Ok(())
    }

    /// Takes the working handle to `path`, lets `work` use it, and gives it up.
    fn at<R>(
        &mut self,
        path: &[&str],
        work: impl FnOnce(&mut Self) -> Result<R, Failed>,
    ) -> Result<R, Failed> {
        self.attach()?;
        let mut from = ROOT;
        let mut steps = path.chunks(16);
        loop {
            let step = steps.next().unwrap_or_default();
            let fields = |request: &mut Writer| {
                request.u32(from);
                request.u32(WORK);
                // At most 16.
                request.u16(u16::try_from(step.len()).unwrap_or(0));
                step.iter().for_each(|name| request.string(name.as_bytes()));
            };
            let found = self.call(kind::TWALK, fields, |answer| Ok(usize::from(answer.u16()?)));
            match found {
                Ok(found) if found == step.len() => from = WORK,
                failed => {
                    if from == WORK && self.is_attached {
                        self.clunk()?;
                    }
                    return Err(failed.err().unwrap_or(Failed::Refused(Code::ENOENT)));
                }
            }
            if steps.len() == 0 {
                break;
            }
        }
        let result = work(self);
        if self.is_attached {
            self.clunk()?;
        }
        result
    }

    fn clunk(&mut self) -> Result<(), Failed> {
        self.call(kind::TCLUNK, |request| request.u32(WORK), |_| Ok(()))
    }

    fn open(&mut self, flags: u32) -> Result<(), Failed> {
        let fields = |request: &mut Writer| {
            request.u32(WORK);
            request.u32(flags);
        };
        self.call(kind::TLOPEN, fields, |answer| Ok(answer.qid().map(drop)?))
    }

    /// A piece of the open file or directory, from `offset` on.
    fn piece(&mut self, kind: u8, offset: u64, into: &mut Vec<u8>) -> Result<usize, Failed> {
        let fields = |request: &mut Writer| {
            request.u32(WORK);
            request.u64(offset);
            request.u32(LARGEST - 64);
        };
        self.call(kind, fields, |answer| {
            let data = answer.data()?;
            into.extend_from_slice(data);
            Ok(data.len())
        })
    }

    /// All of a file of at most [`MOST_READ`] bytes.
    ///
    /// # Errors
    ///
    /// [`Failed`].
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>, Failed> {
        self.read_up_to(path, MOST_READ)
    }

    /// All of a file of at most `most` bytes. The limit is what keeps a back end from filling this domain's memory.
    ///
    /// # Errors
    ///
    /// [`Failed`]: [`Code::EFBIG`] for a longer one.
    pub fn read_up_to(&mut self, path: &str, most: usize) -> Result<Vec<u8>, Failed> {
        self.at(&names(path), |files| {
            files.open(0)?;
            let mut contents = Vec::new();
            while files.piece(kind::TREAD, contents.len() as u64, &mut contents)? > 0 {
                if contents.len() > most {
                    return Err(Failed::Refused(Code::EFBIG));
                }
            }
            Ok(contents)
        })
    }

    /// Makes a file hold `contents` and nothing else.
    ///
    /// # Errors
    ///
    /// [`Failed`].
    pub fn write(&mut self, path: &str, contents: &[u8]) -> Result<(), Failed> {
        let names = names(path);
        let (name, above) = names.split_last().ok_or(Failed::Refused(Code::EISDIR))?;
        match self.at(&names, |files| {
            files.open(WRITE_ONLY | TRUNCATE)?;
            files.put(contents)
        }) {
            Err(Failed::Refused(Code::ENOENT)) => self.at(above, |files| {
                let fields = |request: &mut Writer| {
                    request.u32(WORK);
                    request.string(name.as_bytes());
                    request.u32(WRITE_ONLY);
                    request.u32(0o644);
                    request.u32(0);
                };
                files.call(kind::TLCREATE, fields, |answer| Ok(answer.qid().map(drop)?))?;
                files.put(contents)
            }),
            done => done,
        }
    }

    /// Writes to the open file from its start.
    fn put(&mut self, contents: &[u8]) -> Result<(), Failed> {
        let mut written = 0;
        while written < contents.len() {
            let piece = &contents[written..contents.len().min(written + LARGEST as usize - 64)];
            let fields = |request: &mut Writer| {
                request.u32(WORK);
                request.u64(written as u64);
                request.data(piece);
            };
            let count = self.call(kind::TWRITE, fields, |answer| Ok(answer.u32()? as usize))?;
            if count == 0 || count > piece.len() {
                return Err(Broken::Size.into());
            }
            written += count;
        }
        Ok(())
    }

    /// The names in a directory, in the server's order, without `.` and `..`.
    ///
    /// # Errors
    ///
    /// [`Failed`]: [`Code::EFBIG`] for a directory of more than 65,536 names, or of more than [`MOST_NAMED`] bytes of names.
    pub fn list(&mut self, path: &str) -> Result<Vec<String>, Failed> {
        self.at(&names(path), |files| {
            files.open(0)?;
            let (mut listed, mut offset, mut entries_left) = (Vec::new(), 0, MOST_NAMES + 2);
            let (mut bytes_left, mut piece) = (MOST_NAMED, Vec::new());
            loop {
                piece.clear();
                if files.piece(kind::TREADDIR, offset, &mut piece)? == 0 {
                    return Ok(listed);
                }
                let mut entries = Reader::new(&piece);
                while !entries.is_empty() {
                    entries.qid()?;
                    let next = entries.u64()?;
                    // A server that goes back would have us list for ever.
                    offset = if next > offset { next } else { return Err(Broken::Size.into()) };
                    entries.u8()?;
                    let name = String::from_utf8_lossy(entries.string()?);
                    let too_large = Failed::Refused(Code::EFBIG);
                    bytes_left = bytes_left.checked_sub(name.len()).ok_or(too_large)?;
                    entries_left = entries_left.checked_sub(1).ok_or(too_large)?;
                    if name != "." && name != ".." {
                        listed.push(name.into_owned());
                    }
                }
            }
        })
    }

    /// Makes a directory.
    ///
    /// # Errors
    ///
    /// [`Failed`].
    pub fn make_directory(&mut self, path: &str) -> Result<(), Failed> {
        let names = names(path);
        let (name, above) = names.split_last().ok_or(Failed::Refused(Code::EEXIST))?;
        self.at(above, |files| {
            let fields = |request: &mut Writer| {
                request.u32(WORK);
                request.string(name.as_bytes());
                request.u32(0o755);
                request.u32(0);
            };
            files.call(kind::TMKDIR, fields, |answer| Ok(answer.qid().map(drop)?))
        })
    }

    /// Removes a file, or an empty directory where `is_directory`.
    ///
    /// # Errors
    ///
    /// [`Failed`].
    pub fn remove(&mut self, path: &str, is_directory: bool) -> Result<(), Failed> {
        let names = names(path);
        let (name, above) = names.split_last().ok_or(Failed::Refused(Code::EINVAL))?;
        self.at(above, |files| {
            let fields = |request: &mut Writer| {
                request.u32(WORK);
                request.string(name.as_bytes());
                request.u32(if is_directory { 0x200 } else { 0 });
            };
            files.call(kind::TUNLINKAT, fields, |_| Ok(()))
        })
    }
}

/// The names of a path.
fn names(path: &str) -> Vec<&str> {
    path.split('/').filter(|name| !name.is_empty()).collect()
}

impl<T: Transport> Connection<T> {
    /// A tag that no answer can come for.
    fn next_tag(&mut self) -> u16 {
        loop {
            self.last_tag = self.last_tag.wrapping_add(1);
            if self.last_tag != NO_TAG && !self.late.contains(&self.last_tag) {
                return self.last_tag;
            }
        }
    }

    /// Sends a message and waits until its answer is there. The one before may not have been sent, or answered, yet.
    fn exchange(&mut self, tag: u16, message: &[u8], patience: Duration) -> Result<(), Failed> {
        let until = self.transport.now() + patience;
        let (mut moved, mut is_begun) = (false, false);
        if self.messages.message().is_some() {
            self.messages.done();
        }
        loop {
            moved |= self.messages.flush()?;
            if !is_begun && self.messages.is_sent() && self.late.len() < MOST_LATE {
                moved |= self.messages.send(message)?;
                is_begun = true;
            }
            while self.messages.message().is_none() {
                let more = self.messages.receive(LARGEST)?;
                moved |= more;
                if !self.drop_late(tag, is_begun)? {
                    break;
                }
            }
            if core::mem::take(&mut moved) {
                self.port.notify();
            }
            if self.messages.message().is_some() {
                return Ok(());
            }
            let now = self.transport.now();
            if now >= until {
                if is_begun {
                    self.late.push(tag);
                }
                return Err(Failed::Silent);
            }
            if !self.port.take() {
                self.transport.wait(Some(until - now));
            }
        }
    }

    /// Drops the message that came, if it answers a request that is not waited for any more; whether it did. Answers to
    /// requests of one tag come in the order of the requests.
    fn drop_late(&mut self, tag: u16, is_begun: bool) -> Result<bool, Broken> {
        let Some(answer) = self.messages.message().and_then(|message| message.first_chunk()) else {
            return Ok(false);
        };
        let answered = Header::parse(answer).tag;
        if let Some(at) = self.late.iter().position(|late| *late == answered) {
            self.late.remove(at);
            self.messages.done();
            return Ok(true);
        }
        // Nothing else was asked.
        if is_begun && answered == tag { Ok(false) } else { Err(Broken::Size) }
    }
}

impl<T: Transport> Driver<T> for Files<T> {
    const ROLE: Role = Role::Front;

    fn publish(&mut self, end: &End<T>) -> Result<Nodes, Error> {
        let versions: String = end.peers(keys::VERSIONS).unwrap_or_default();
        if !versions.split(',').any(|version| version.trim() == "1") {
            return Err(Error::Peer("the back end does not know version 1"));
        }
        let order = ORDER.min(end.peers(keys::MAX_RING_PAGE_ORDER).unwrap_or(0));
        let (transport, peer) = (end.transport(), end.peer());
        let lend = |pages| {
            let buffer = transport.buffer(pages)?;
            transport.lend(buffer, peer, Access::ReadWrite).map_err(|(error, _)| error)
        };
        let (index, data) = (lend(1)?, lend(1 << order)?);
        describe(&index, order, data.refs());
        let port = transport.listen(peer)?;
        let mut nodes = Nodes::new();
        nodes.set(keys::VERSION, 1);
        nodes.set(keys::NUM_RINGS, 1);
        nodes.set(alloc::format!("{}0", keys::RING_REF), index.refs()[0].0);
        nodes.set(alloc::format!("{}0", keys::EVENT_CHANNEL), port.number());
        debug_assert!(data.len() * 4 == PAGE_SIZE << order);
        let messages = Messages::new(index, data, false);
        self.connection =
            Some(Connection { transport: transport.clone(), messages, port, last_tag: 0, late: Vec::new() });
        self.is_attached = false;
        Ok(nodes)
    }

    fn connect(&mut self, _end: &End<T>) -> Result<Nodes, Error> {
        Ok(Nodes::new())
    }

    fn disconnect(&mut self, _end: &End<T>) {
        self.connection = None;
        self.is_attached = false;
    }
}

impl<T: Transport> core::fmt::Debug for Files<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Files").field("is_attached", &self.is_attached).finish_non_exhaustive()
    }
}
