//! The server's end of a domain's shared page: two rings of bytes with messages in them.
//!
//! The page is the other domain's: everything in it may be wrong and may change at any time. Indexes are read once,
//! checked, and what lies between is copied. A ring that makes no sense is given up, with the reason in it; the domain
//! then can do nothing but ask for a new start.
//!
//! A domain that does not take its answers is not listened to until it does. No call takes more than [`AT_ONCE`] requests
//! nor works longer than the server's budget for what they cause: the others wait no longer.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use xen_abi::io::xs_wire as abi;

use super::wire::Message;
use super::work::BUDGET;
use super::{Connection, Server};

/// Requests that one call answers at most.
const AT_ONCE: usize = 16;
const SIZE: u32 = abi::XENSTORE_RING_SIZE;
/// Bytes of the longest message.
const MESSAGE: usize = super::wire::HEADER + abi::XENSTORE_PAYLOAD_MAX as usize;

/// Words of the page.
const REQUESTS: usize = 0;
const ANSWERS: usize = SIZE as usize / 4;
const REQ_CONS: usize = 512;
const REQ_PROD: usize = 513;
const RSP_CONS: usize = 514;
const RSP_PROD: usize = 515;
const FEATURES: usize = 516;
const CONNECTION: usize = 517;
const ERROR: usize = 518;

/// The connection of a domain through its page.
pub struct Link<M> {
    page: M,
    connection: Connection,
    input: Vec<u8>,
    output: VecDeque<u8>,
    /// The message that ends a transaction, until it is answered. Its payload is not needed any more.
    ending: Option<Message>,
    broken: bool,
}

impl<M> fmt::Debug for Link<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("connection", &self.connection)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl<M: Deref<Target = [AtomicU32]>> Link<M> {
    /// Takes a page as it is: the domain may have written requests before anybody served it.
    ///
    /// # Errors
    ///
    /// The memory, where it is smaller than the rings, or where there is no memory for a message each way. Later messages need none.
    pub fn new(page: M, connection: Connection) -> Result<Self, M> {
        if page.len() <= ERROR {
            return Err(page);
        }
        let (mut input, mut output) = (Vec::new(), VecDeque::new());
        if input.try_reserve_exact(MESSAGE).is_err() || output.try_reserve_exact(MESSAGE).is_err() {
            return Err(page);
        }
        let features = abi::XENSTORE_SERVER_FEATURE_RECONNECTION | abi::XENSTORE_SERVER_FEATURE_ERROR;
        page[FEATURES].store(features, Release);
        Ok(Self { page, connection, input, output, ending: None, broken: false })
    }

    /// Whose it is.
    pub fn connection(&self) -> Connection {
        self.connection
    }

    /// Answers requests and delivers events. True: something moved, the domain is to be notified, and there may be more to
    /// do.
    pub fn serve(&mut self, server: &mut Server) -> bool {
        let mut moved = self.restart(server);
        server.take_turn(self.connection);
        let until = server.steps() + BUDGET;
        if self.has_request() {
            server.help(until);
        }
        // Events and requests take turns: others may cause events without end.
        let mut told = false;
        for _ in 0..AT_ONCE {
            moved |= server.run(Some(self.connection), until);
            if self.broken {
                break;
            }
            moved |= self.flush();
            if !self.output.is_empty() {
                break;
            }
            let ended = self.ending.as_ref().and_then(|end| server.late_answer(self.connection, end));
            if let Some(answer) = ended {
                self.ending = None;
                self.output.extend(answer.bytes());
                continue;
            }
            let may_ask = !server.must_wait(self.connection) && server.steps() < until;
            if told && may_ask && self.request(server, &mut moved) {
                told = false;
                continue;
            }
            if let Some(event) = server.next_event(self.connection) {
                self.output.extend(Message::event(&event).bytes());
                told = true;
                continue;
            }
            if !may_ask {
                // No event tells when the others have had their turn.
                moved |= server.owes_turns(self.connection);
                break;
            }
            if told || !self.request(server, &mut moved) {
                break;
            }
        }
        moved | self.flush()
    }

    /// Whether the domain has written something that was not worked on.
    fn has_request(&self) -> bool {
        !self.input.is_empty() || self.page[REQ_CONS].load(Relaxed) != self.page[REQ_PROD].load(Relaxed)
    }

    /// Takes the next request; whether there is one.
    fn request(&mut self, server: &mut Server, moved: &mut bool) -> bool {
        *moved |= self.fill();
        match Message::take(&mut self.input) {
            Ok(Some(request)) => match server.request(self.connection, &request) {
                Some(answer) => self.output.extend(answer.bytes()),
                None => self.ending = Some(Message { payload: Vec::new(), ..request }),
            },
            Ok(None) => return false,
            Err(_) => self.give_up(abi::XENSTORE_ERROR_PROTO),
        }
        true
    }

    /// Starts anew where the domain asks for it.
    fn restart(&mut self, server: &mut Server) -> bool {
        if self.page[CONNECTION].load(Acquire) != abi::XENSTORE_RECONNECT {
            return false;
        }
        self.input.clear();
        self.output.clear();
        self.ending = None;
        self.broken = false;
        // A client that is gone from the server is not asked for again.
        let _ = server.begin_reset(self.connection);
        for word in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, ERROR] {
            self.page[word].store(0, Relaxed);
        }
        self.page[CONNECTION].store(abi::XENSTORE_CONNECTED, Release);
        true
    }

    fn give_up(&mut self, why: u32) {
        self.broken = true;
        self.page[ERROR].store(why, Release);
    }

    /// Copies what the domain wrote, as far as one message can be long.
    fn fill(&mut self) -> bool {
        let (taken, written) = (self.page[REQ_CONS].load(Relaxed), self.page[REQ_PROD].load(Acquire));
        let there = written.wrapping_sub(taken);
        if there > SIZE {
            self.give_up(abi::XENSTORE_ERROR_RINGIDX);
            return false;
        }
        let room = MESSAGE.saturating_sub(self.input.len());
        let count = there.min(u32::try_from(room).unwrap_or(SIZE));
        for n in 0..count {
            self.input.push(self.byte(REQUESTS, taken.wrapping_add(n)));
        }
        self.page[REQ_CONS].store(taken.wrapping_add(count), Release);
        count > 0
    }

    /// Writes as much of the output as there is room for.
    fn flush(&mut self) -> bool {
        let (taken, written) = (self.page[RSP_CONS].load(Acquire), self.page[RSP_PROD].load(Relaxed));
        let waiting = written.wrapping_sub(taken);
        if waiting > SIZE {
            self.give_up(abi::XENSTORE_ERROR_RINGIDX);
            return false;
        }
        let count = (SIZE - waiting).min(u32::try_from(self.output.len()).unwrap_or(SIZE));
        for (n, byte) in (0..count).zip(self.output.drain(..count as usize)) {
            put(&self.page, ANSWERS, written.wrapping_add(n), byte);
        }
        self.page[RSP_PROD].store(written.wrapping_add(count), Release);
        count > 0
    }

    fn byte(&self, ring: usize, index: u32) -> u8 {
        let at = abi::mask_xenstore_idx(index);
        self.page[ring + at / 4].load(Relaxed).to_le_bytes()[at % 4]
    }
}

fn put(page: &[AtomicU32], ring: usize, index: u32, byte: u8) {
    let at = abi::mask_xenstore_idx(index);
    let word = &page[ring + at / 4];
    let mut bytes = word.load(Relaxed).to_le_bytes();
    bytes[at % 4] = byte;
    word.store(u32::from_le_bytes(bytes), Relaxed);
}

const _: () = {
    assert!(core::mem::offset_of!(abi::XenstoreDomainInterface, rsp) == ANSWERS * 4);
    assert!(core::mem::offset_of!(abi::XenstoreDomainInterface, req_cons) == REQ_CONS * 4);
    assert!(core::mem::offset_of!(abi::XenstoreDomainInterface, rsp_prod) == RSP_PROD * 4);
    assert!(core::mem::offset_of!(abi::XenstoreDomainInterface, error) == ERROR * 4);
};

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::sync::Arc;

    /// The longest messages, both ways, fit into what a link has from its beginning.
    #[test]
    fn a_link_asks_for_no_more_memory() {
        let mut server = Server::default();
        let connection = server.connect(1, false, None);
        let page: Arc<[AtomicU32]> = (0..1024).map(|_| AtomicU32::new(0)).collect();
        let mut link = Link::new(page.clone(), connection).unwrap();
        let (before, mut answered) = (capacities(&link), 0);
        let echo = [abi::XS_WATCH, 0, 0, abi::XENSTORE_PAYLOAD_MAX].map(u32::to_le_bytes).concat();
        let request = [echo, alloc::vec![b'x'; abi::XENSTORE_PAYLOAD_MAX as usize]].concat();
        for _ in 0..3 {
            let mut sent = 0;
            for _ in 0..64 {
                let at = page[REQ_PROD].load(Relaxed);
                let room = (SIZE - at.wrapping_sub(page[REQ_CONS].load(Relaxed))) as usize;
                let part = &request[sent..request.len().min(sent + room)];
                for (n, byte) in (0..).zip(part) {
                    put(&page, REQUESTS, at.wrapping_add(n), *byte);
                }
                sent += part.len();
                page[REQ_PROD].store(at.wrapping_add(part.len() as u32), Relaxed);
                link.serve(&mut server);
                let (from, to) = (page[RSP_CONS].load(Relaxed), page[RSP_PROD].load(Relaxed));
                answered += to.wrapping_sub(from);
                page[RSP_CONS].store(to, Relaxed);
                assert_eq!(capacities(&link), before);
            }
            assert_eq!(sent, request.len());
        }
        assert!(answered > 0 && !link.broken);
    }

    fn capacities<M>(link: &Link<M>) -> (usize, usize) {
        (link.input.capacity(), link.output.capacity())
    }
}
