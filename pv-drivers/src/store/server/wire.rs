//! The protocol of `io/xs_wire.h`: messages as bytes, and what each request means.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use xen_abi::io::xs_wire as abi;

use super::super::{Errno, Event, Permission, Transaction};
use super::transaction::What;
use super::{Action, Connection, MAX_ACTIONS, Rights, Server, copied, home};

/// Bytes of a message's header.
pub(super) const HEADER: usize = size_of::<abi::XsdSockmsg>();

/// A message, either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is (`XS_*`).
    pub kind: u32,
    /// The client's own number for the request, in request and answer.
    pub request: u32,
    /// The transaction that it belongs to.
    pub transaction: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Message {
    /// The event of a watch.
    #[must_use]
    pub fn event(event: &Event) -> Self {
        let payload = format!("{}\0{}\0", event.path, event.token).into_bytes();
        Self { kind: abi::XS_WATCH_EVENT, request: 0, transaction: 0, payload }
    }

    /// The bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.bytes().collect()
    }

    /// The bytes, one after the other.
    pub fn bytes(&self) -> impl Iterator<Item = u8> + '_ {
        // Payloads are limited to a page.
        let length = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        let header = [self.kind, self.request, self.transaction, length];
        header.into_iter().flat_map(u32::to_le_bytes).chain(self.payload.iter().copied())
    }

    /// Takes a message from the front of `bytes`: none while it is not whole, or there is no memory for its payload.
    ///
    /// # Errors
    ///
    /// `E2BIG` where the header promises more than a message can hold.
    pub fn take(bytes: &mut Vec<u8>) -> Result<Option<Self>, Errno> {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let (words, _) = header.as_chunks::<4>();
        let [kind, request, transaction, length] = [0, 1, 2, 3].map(|n| u32::from_le_bytes(words[n]));
        if length > abi::XENSTORE_PAYLOAD_MAX {
            return Err(Errno::E2BIG);
        }
        let Some(payload) = rest.get(..length as usize) else { return Ok(None) };
        let Ok(payload) = copied(payload) else { return Ok(None) };
        let message = Self { kind, request, transaction, payload };
        bytes.drain(..HEADER + length as usize);
        Ok(Some(message))
    }
}

/// Strings that each end with a NUL.
struct Strings<'a>(&'a [u8]);

impl<'a> Strings<'a> {
    /// The next one; a rest without NUL is none.
    fn next(&mut self) -> Result<&'a str, Errno> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Errno::EINVAL)?;
        let (string, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        str::from_utf8(string).map_err(|_| Errno::EINVAL)
    }

    fn number<T: core::str::FromStr>(&mut self) -> Result<T, Errno> {
        self.next()?.parse().map_err(|_| Errno::EINVAL)
    }

    /// The next one, the last of all.
    fn last(mut self) -> Result<&'a str, Errno> {
        let string = self.next()?;
        if self.0.is_empty() { Ok(string) } else { Err(Errno::EINVAL) }
    }
}

const LETTERS: [(char, Permission); 4] =
    [('n', Permission::None), ('r', Permission::Read), ('w', Permission::Write), ('b', Permission::Both)];

fn read_right(text: &str) -> Result<(u16, Permission), Errno> {
    let mut letters = text.chars();
    let letter = letters.next();
    let known = LETTERS.iter().find(|(known, _)| Some(*known) == letter).ok_or(Errno::EINVAL)?;
    Ok((letters.as_str().parse().map_err(|_| Errno::EINVAL)?, known.1))
}

fn write_rights(rights: &Rights) -> String {
    let letter = |right| LETTERS.iter().find(|(_, known)| *known == right).map_or('n', |(letter, _)| *letter);
    rights.entries().iter().map(|(domain, right)| format!("{}{domain}\0", letter(*right))).collect()
}

fn done() -> Vec<u8> {
    b"OK\0".to_vec()
}

/// A string as an answer.
fn text(text: impl ToString) -> Vec<u8> {
    let mut bytes = text.to_string().into_bytes();
    bytes.push(0);
    bytes
}

impl Server {
    /// Does what a client's message asks for, with all that it causes, and answers it.
    pub fn answer(&mut self, connection: Connection, message: &Message) -> Message {
        let answered = self.now(connection, |server| server.request(connection, message));
        answered
            .or_else(|| self.late_answer(connection, message))
            .unwrap_or_else(|| reply(message, Err(Errno::EIO)))
    }

    /// Does what a client's message asks for. What it causes is left to jobs; none: so is the answer, which
    /// [`late_answer`](Self::late_answer) gives when they are done.
    pub(super) fn request(&mut self, connection: Connection, message: &Message) -> Option<Message> {
        match self.perform(connection, message) {
            Ok(None) => None,
            Ok(Some(payload)) if payload.len() > abi::XENSTORE_PAYLOAD_MAX as usize => {
                Some(reply(message, Err(Errno::E2BIG)))
            }
            Ok(Some(payload)) => Some(reply(message, Ok(payload))),
            Err(error) => Some(reply(message, Err(error))),
        }
    }

    /// The answer to the message that ended a transaction, once that is done.
    pub(super) fn late_answer(&mut self, connection: Connection, message: &Message) -> Option<Message> {
        let result = self.client(connection).ok()?.ended.take()?;
        Some(reply(message, result.map(|()| done())))
    }

    /// The payload of the answer; none where it comes later.
    fn perform(&mut self, connection: Connection, message: &Message) -> Result<Option<Vec<u8>>, Errno> {
        let id = Transaction(message.transaction);
        let mut strings = Strings(&message.payload);
        match message.kind {
            abi::XS_TRANSACTION_END => {
                let commit = match strings.last()? {
                    "T" => true,
                    "F" => false,
                    _ => return Err(Errno::EINVAL),
                };
                return self.begin_end(connection, id, commit).map(|()| None);
            }
            abi::XS_DIRECTORY => self.list(connection, id, strings.last()?),
            abi::XS_DIRECTORY_PART => self.list_part(connection, id, strings),
            abi::XS_READ => self.look(connection, id, strings.last()?, false, |sight| copied(sight.value())),
            abi::XS_GET_PERMS => {
                Ok(write_rights(&self.rights(connection, id, strings.last()?)?).into_bytes())
            }
            abi::XS_SET_PERMS => self.set_permissions(connection, id, strings),
            abi::XS_WRITE => {
                let path = strings.next()?;
                let value = copied(strings.0)?;
                self.change(connection, id, path, What::Write(value)).map(|()| done())
            }
            abi::XS_MKDIR => self.change(connection, id, strings.last()?, What::Mkdir).map(|()| done()),
            abi::XS_RM => self.change(connection, id, strings.last()?, What::Remove).map(|()| done()),
            abi::XS_TRANSACTION_START if id != Transaction::NONE => Err(Errno::EBUSY),
            abi::XS_TRANSACTION_START => Ok(text(self.begin(connection)?.0)),
            abi::XS_WATCH | abi::XS_UNWATCH => self.watching(connection, message.kind, strings),
            abi::XS_RESET_WATCHES => self.begin_reset(connection).map(|()| done()),
            abi::XS_GET_DOMAIN_PATH => {
                let domain = strings.number()?;
                Ok(text(home(domain)))
            }
            abi::XS_IS_DOMAIN_INTRODUCED => {
                let domain = strings.number()?;
                Ok(text(if self.is_introduced(domain) { "T" } else { "F" }))
            }
            abi::XS_CONTROL | abi::XS_INTRODUCE | abi::XS_RELEASE | abi::XS_RESUME | abi::XS_SET_TARGET => {
                if !self.client(connection)?.actor.privileged {
                    return Err(Errno::EACCES);
                }
                self.administer(message.kind, strings)
            }
            _ => Err(Errno::ENOSYS),
        }
        .map(Some)
    }

    fn list(&mut self, connection: Connection, id: Transaction, path: &str) -> Result<Vec<u8>, Errno> {
        let room = abi::XENSTORE_PAYLOAD_MAX as usize;
        match self.names(connection, id, path, 0, |_| room)? {
            (names, _, true) => Ok(names),
            _ => Err(Errno::E2BIG),
        }
    }

    /// A piece of a list that is too long for one message: a number that changes with the list, then names from a byte
    /// on, with an empty one behind the last.
    fn list_part(
        &mut self,
        connection: Connection,
        id: Transaction,
        mut strings: Strings<'_>,
    ) -> Result<Vec<u8>, Errno> {
        let path = strings.next()?;
        let offset: usize = strings.number()?;
        let room = |stamp| abi::XENSTORE_PAYLOAD_MAX as usize - text(stamp).len() - 1;
        let (names, stamp, is_all) = self.names(connection, id, path, offset, room)?;
        let mut answer = text(stamp);
        answer.extend(names);
        if is_all {
            answer.push(0);
        }
        Ok(answer)
    }

    /// The names of a node's children, each with a NUL behind it, from byte `offset` on and as many as there is room for, which
    /// depends on the number that changes with them; that number, and whether these were the last. Bounded by the room and
    /// by the children, of which no domain has more than its quota of nodes; each that is passed is a step.
    fn names(
        &mut self,
        connection: Connection,
        id: Transaction,
        path: &str,
        offset: usize,
        room: impl FnOnce(u64) -> usize,
    ) -> Result<(Vec<u8>, u64, bool), Errno> {
        self.look(connection, id, path, true, |sight| {
            let (mut names, mut at, mut is_all) = (Vec::new(), 0, true);
            let room = room(sight.list_stamp());
            for name in sight.names() {
                let end = at + name.len() + 1;
                if end > offset {
                    let piece = &name[offset.saturating_sub(at).min(name.len())..];
                    if names.len() + piece.len() + 1 > room {
                        is_all = false;
                        break;
                    }
                    names.try_reserve(piece.len() + 1).map_err(|_| Errno::ENOSPC)?;
                    names.extend_from_slice(piece.as_bytes());
                    names.push(0);
                }
                at = end;
            }
            if is_all && offset > at { Err(Errno::EINVAL) } else { Ok((names, sight.list_stamp(), is_all)) }
        })
    }

    fn set_permissions(
        &mut self,
        connection: Connection,
        id: Transaction,
        mut strings: Strings<'_>,
    ) -> Result<Vec<u8>, Errno> {
        let path = strings.next()?;
        let mut rights = Vec::new();
        while !strings.0.is_empty() {
            rights.try_reserve(1).map_err(|_| Errno::ENOSPC)?;
            rights.push(read_right(strings.next()?)?);
        }
        self.change_rights(connection, id, path, Rights::new(&rights)?).map(|()| done())
    }

    fn watching(
        &mut self,
        connection: Connection,
        kind: u32,
        mut strings: Strings<'_>,
    ) -> Result<Vec<u8>, Errno> {
        let (path, token) = (strings.next()?, strings.next()?);
        // An event with the longest path must fit into a message.
        if token.len() + 2 > (abi::XENSTORE_PAYLOAD_MAX - abi::XENSTORE_ABS_PATH_MAX) as usize {
            return Err(Errno::E2BIG);
        }
        match kind {
            abi::XS_WATCH => self.watch(connection, path, token)?,
            _ => self.unwatch(connection, path, token)?,
        }
        Ok(done())
    }

    /// What only a privileged client may ask for.
    fn administer(&mut self, kind: u32, mut strings: Strings<'_>) -> Result<Vec<u8>, Errno> {
        match kind {
            // Whoever runs the server takes them out.
            abi::XS_INTRODUCE | abi::XS_RELEASE if self.actions.len() >= MAX_ACTIONS => {
                return Err(Errno::EBUSY);
            }
            abi::XS_INTRODUCE => {
                let (domain, frame, port) = (strings.number()?, strings.number()?, strings.number()?);
                self.actions.push_back(Action::Introduce { domain, frame, port });
            }
            abi::XS_RELEASE => self.actions.push_back(Action::Release(strings.number()?)),
            abi::XS_RESUME if self.is_introduced(strings.number()?) => {}
            abi::XS_RESUME => return Err(Errno::ENOENT),
            abi::XS_SET_TARGET => {
                let (domain, target) = (strings.number()?, strings.number()?);
                self.set_target(domain, target)?;
            }
            _ => match strings.next()? {
                "help" => return Ok(text("help info")),
                "info" => return Ok(text(self.summary())),
                _ => return Err(Errno::EINVAL),
            },
        }
        Ok(done())
    }

    /// What a privileged client can learn of the server as a whole.
    fn summary(&self) -> String {
        let watches: usize = self.clients.values().map(|client| client.kept.watches.len()).sum();
        let domains: Vec<_> = self.introduced.iter().map(ToString::to_string).collect();
        format!("clients {}\nwatches {watches}\ndomains {}\n", self.clients.len(), domains.join(" "))
    }
}

/// An answer with this payload, or with an error.
fn reply(message: &Message, result: Result<Vec<u8>, Errno>) -> Message {
    let (kind, payload) = match result {
        Ok(payload) => (message.kind, payload),
        Err(error) => (abi::XS_ERROR, text(wire_name(error))),
    };
    Message { kind, request: message.request, transaction: message.transaction, payload }
}

/// The name of an error in an answer: one of those that the protocol knows.
fn wire_name(error: Errno) -> &'static str {
    let known = abi::XSD_ERRORS.iter().find(|known| known.errnum == error.0);
    known.map_or("EIO", |known| known.errstring)
}
