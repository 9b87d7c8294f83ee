//! The client against a server of a few lines, which works on the ring's other end step by step.

extern crate std;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec;
use core::future::Future;
use core::pin::pin;
use core::sync::atomic::Ordering::Relaxed;
use core::task::{Context, Poll, Waker};
use std::format;
use std::sync::mpsc::{Receiver, Sender, channel};

use xen_abi::io::xs_wire::*;
use zerocopy::IntoBytes;

use super::message::{Assembler, Message};
use super::*;
use crate::Errno;

type Memory = Arc<[core::sync::atomic::AtomicU32]>;

/// An `Arc` of words as ring memory.
#[derive(Clone, Debug)]
struct Page(Memory);

impl core::ops::Deref for Page {
    type Target = [core::sync::atomic::AtomicU32];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

fn page() -> Page {
    Page((0..1024).map(|_| core::sync::atomic::AtomicU32::new(0)).collect())
}

/// A link whose `wait` runs the server once; without one, waiting is a test's mistake.
struct Script<F>(F);

impl<F: Fn() + Send + Sync> Link for Script<F> {
    fn notify(&self) {}

    fn wait(&self) {
        (self.0)();
    }
}

/// The server's end.
struct Server {
    ring: Ring<Page>,
    incoming: Assembler,
}

impl Server {
    fn new(page: &Page) -> Self {
        Self { ring: Ring::new(page.clone()).unwrap(), incoming: Assembler::default() }
    }

    fn next(&mut self) -> Option<Message> {
        self.incoming.next(self.ring.requests()).unwrap()
    }

    fn answer(&self, to: &Message, kind: u32, payload: &[u8]) {
        self.send(XsdSockmsg { type_: kind, len: payload.len() as u32, ..to.header }, payload);
    }

    fn send(&self, header: XsdSockmsg, payload: &[u8]) {
        assert_eq!(self.ring.replies().push(header.as_bytes()), Ok(16));
        assert_eq!(self.ring.replies().push(payload), Ok(payload.len()));
    }

    fn fire(&self, path: &str, token: &str) {
        let payload = format!("{path}\0{token}\0");
        let header = XsdSockmsg { type_: XS_WATCH_EVENT, req_id: 0, tx_id: 0, len: payload.len() as u32 };
        self.send(header, payload.as_bytes());
    }
}

fn no_wait() -> Script<impl Fn() + Send + Sync> {
    Script(|| panic!("waited"))
}

/// A client whose server answers each request by `answer` while the client waits.
fn served(
    answer: impl Fn(&Message) -> (u32, std::vec::Vec<u8>) + Send + Sync + 'static,
) -> Client<Page, Script<impl Fn() + Send + Sync>> {
    let page = page();
    let server = std::sync::Mutex::new(Server::new(&page));
    let turn = move || {
        let mut server = server.lock().unwrap();
        while let Some(message) = server.next() {
            let (kind, payload) = answer(&message);
            server.answer(&message, kind, &payload);
        }
    };
    Client::new(Ring::new(page).unwrap(), Script(turn))
}

#[test]
fn a_request_is_what_the_protocol_says() {
    let client = served(|message| {
        let Message { header, payload } = message;
        assert_eq!((header.type_, header.tx_id), (XS_WRITE, 7));
        assert_eq!(payload, b"device/vif\0\x01\0\x02");
        (XS_WRITE, b"OK\0".to_vec())
    });
    assert_eq!(client.write(Transaction(7), "device/vif", &[1, 0, 2]), Ok(()));
}

#[test]
fn errors_and_nonsense_come_back_as_errors() {
    let client = served(|_| (XS_ERROR, b"ENOENT\0".to_vec()));
    assert_eq!(client.read(Transaction::NONE, "a"), Err(Errno::ENOENT));
    let client = served(|_| (XS_RM, b"OK\0".to_vec()));
    assert_eq!(client.read(Transaction::NONE, "a"), Err(Errno::EIO));
    let client = served(|_| (XS_TRANSACTION_START, b"12x\0".to_vec()));
    assert_eq!(client.begin(), Err(Errno::EIO));
    assert_eq!(client.read(Transaction::NONE, "a\0b"), Err(Errno::EINVAL));
    assert_eq!(client.write(Transaction::NONE, "a", &[0; 4095]), Err(Errno::E2BIG));
}

#[test]
fn answers_find_their_callers_in_any_order() {
    let page = page();
    let client = Client::new(Ring::new(page.clone()).unwrap(), no_wait());
    let mut server = Server::new(&page);
    let first = client.submit_read(Transaction::NONE, "one").unwrap();
    let second = client.submit_read(Transaction::NONE, "two").unwrap();
    let dropped = client.submit_read(Transaction::NONE, "three").unwrap();
    drop(dropped);
    assert_eq!(first.check(), None);
    let requests = [server.next().unwrap(), server.next().unwrap(), server.next().unwrap()];
    for request in requests.iter().rev() {
        server.answer(request, XS_READ, &request.payload);
    }
    assert_eq!(first.wait(), Ok(b"one\0".to_vec()));
    assert_eq!(second.check(), Some(Ok(b"two\0".to_vec())));
}

#[test]
fn messages_longer_than_the_ring_pass_in_pieces() {
    let page = page();
    let server = std::sync::Mutex::new((Server::new(&page), vec![]));
    let turn = move || {
        let (server, outgoing) = &mut *server.lock().unwrap();
        if let Some(message) = server.next() {
            outgoing.extend_from_slice(message.header.as_bytes());
            outgoing.extend_from_slice(&message.payload);
        }
        let sent = server.ring.replies().push(outgoing).unwrap();
        outgoing.drain(..sent);
    };
    let client = Client::new(Ring::new(page).unwrap(), Script(turn));
    let payload: std::vec::Vec<u8> = (0..4096u32).map(|byte| byte as u8).collect();
    assert_eq!(client.call(XS_CONTROL, Transaction::NONE, &[&payload]), Ok(payload));
}

#[test]
fn events_of_watches_queue_once_and_in_order() {
    let page = page();
    let client = Client::new(Ring::new(page.clone()).unwrap(), no_wait());
    let mut server = Server::new(&page);
    assert_eq!(client.next_event(), None);
    let reply = client.submit_read(Transaction::NONE, "a").unwrap();
    server.fire("p", "1");
    server.fire("q", "2");
    server.fire("p", "1");
    let request = server.next().unwrap();
    server.answer(&request, XS_READ, b"value");
    assert_eq!(reply.wait(), Ok(b"value".to_vec()));
    assert_eq!(client.next_event(), Some(Event { path: "p".into(), token: "1".into() }));
    server.fire("p", "1");
    assert_eq!(client.next_event(), Some(Event { path: "q".into(), token: "2".into() }));
    assert_eq!(client.next_event(), Some(Event { path: "p".into(), token: "1".into() }));
    assert_eq!(client.next_event(), None);
}

#[test]
fn a_server_that_breaks_the_protocol_fails_everything() {
    let page = page();
    let client = Client::new(Ring::new(page.clone()).unwrap(), no_wait());
    let server = Server::new(&page);
    let reply = client.submit_read(Transaction::NONE, "a").unwrap();
    server.send(XsdSockmsg { type_: XS_READ, req_id: 1, tx_id: 0, len: 4097 }, &[]);
    assert_eq!(reply.wait(), Err(Errno::EIO));
    assert_eq!(client.read(Transaction::NONE, "a"), Err(Errno::EIO));

    let page = self::page();
    let client = Client::new(Ring::new(page.clone()).unwrap(), no_wait());
    page[2060 / 4].store(5000, Relaxed);
    assert_eq!(client.read(Transaction::NONE, "a"), Err(Errno::EIO));
}

#[test]
fn reconnecting_sets_the_watches_again() {
    let page = page();
    let seen = Arc::new(std::sync::Mutex::new(vec![]));
    let server = std::sync::Mutex::new(Server::new(&page));
    server.lock().unwrap().ring.set_features(XENSTORE_SERVER_FEATURE_RECONNECTION);
    let log = Arc::clone(&seen);
    let turn = move || {
        let mut server = server.lock().unwrap();
        if !server.ring.is_connected() {
            server.ring.reset();
        }
        while let Some(message) = server.next() {
            log.lock().unwrap().push((message.header.type_, message.payload.clone()));
            server.answer(&message, message.header.type_, b"OK\0");
        }
    };
    let client = Client::new(Ring::new(page.clone()).unwrap(), Script(turn));
    client.watch("device", "t").unwrap();
    client.watch("other", "u").unwrap();
    client.unwatch("other", "u").unwrap();
    page[2060 / 4].store(5000, Relaxed);
    assert_eq!(client.read(Transaction::NONE, "a"), Err(Errno::EIO));
    seen.lock().unwrap().clear();
    client.reconnect().unwrap();
    let watch = b"device\0t\0".to_vec();
    assert_eq!(*seen.lock().unwrap(), [(XS_RESET_WATCHES, vec![0]), (XS_WATCH, watch)]);
    assert_eq!(client.read(Transaction::NONE, "a"), Ok(b"OK\0".to_vec()));
}

#[test]
fn long_directories_come_in_parts() {
    let client = served(|message| {
        let part = |text: &[u8]| (XS_DIRECTORY_PART, text.to_vec());
        match (message.header.type_, message.payload.as_slice()) {
            (XS_DIRECTORY, _) => (XS_ERROR, b"E2BIG\0".to_vec()),
            (_, b"d\x000\0") => part(b"9\0one\0two\0"),
            (_, b"d\x008\0") => part(b"9\0three\0\0"),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(client.directory(Transaction::NONE, "d").unwrap(), ["one", "two", "three"]);
    let client = served(|_| (XS_DIRECTORY, b"".to_vec()));
    assert_eq!(client.directory(Transaction::NONE, "d").unwrap(), [""; 0]);
}

#[test]
fn permissions_and_paths_are_understood() {
    let client = served(|message| match message.header.type_ {
        XS_GET_PERMS => (XS_GET_PERMS, b"n0\0r5\0".to_vec()),
        XS_SET_PERMS => {
            assert_eq!(message.payload, b"p\0b3\0w4\0");
            (XS_SET_PERMS, b"OK\0".to_vec())
        }
        _ => (XS_GET_DOMAIN_PATH, b"/local/domain/5\0".to_vec()),
    });
    let both = [(0, Permission::None), (5, Permission::Read)];
    assert_eq!(client.permissions(Transaction::NONE, "p").unwrap(), both);
    client.set_permissions(Transaction::NONE, "p", &[(3, Permission::Both), (4, Permission::Write)]).unwrap();
    assert_eq!(client.domain_path(5).unwrap(), "/local/domain/5");
}

#[test]
fn a_transaction_is_repeated_until_nobody_interferes() {
    let ends = core::sync::atomic::AtomicU32::new(0);
    let client = served(move |message| match message.header.type_ {
        XS_TRANSACTION_START => (XS_TRANSACTION_START, b"4\0".to_vec()),
        XS_TRANSACTION_END if ends.fetch_add(1, Relaxed) < 2 => (XS_ERROR, b"EAGAIN\0".to_vec()),
        kind => (kind, b"OK\0".to_vec()),
    });
    let mut runs = 0;
    let result = client.transact(|transaction| {
        runs += 1;
        client.write(transaction, "a", b"b").map(|()| runs)
    });
    assert_eq!(result, Ok(3));
    assert_eq!(client.transact(|_| Err::<(), _>(Errno::EPERM)), Err(Errno::EPERM));
}

struct Flag(std::sync::Mutex<Sender<()>>);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.lock().unwrap().send(()).unwrap();
    }
}

fn waker() -> (Waker, Receiver<()>) {
    let (sender, receiver) = channel();
    (Arc::new(Flag(std::sync::Mutex::new(sender))).into(), receiver)
}

#[test]
fn a_reply_is_a_future() {
    let page = page();
    let client = Client::new(Ring::new(page.clone()).unwrap(), no_wait());
    let mut server = Server::new(&page);
    let (waker, woken) = waker();
    let mut context = Context::from_waker(&waker);
    let mut reply = pin!(client.submit_read(Transaction::NONE, "a").unwrap());
    assert!(reply.as_mut().poll(&mut context).is_pending());
    assert!(client.poll_event(&mut context).is_pending());
    let request = server.next().unwrap();
    server.answer(&request, XS_READ, b"value");
    assert!(woken.try_recv().is_err());
    client.poll();
    assert!(woken.try_recv().is_ok());
    assert_eq!(reply.as_mut().poll(&mut context), Poll::Ready(Ok(b"value".to_vec())));
    server.fire("p", "t");
    client.poll();
    assert!(woken.try_recv().is_ok());
    assert_eq!(client.poll_event(&mut context), Poll::Ready(Event { path: "p".into(), token: "t".into() }));
}

mod hostile {
    use proptest::prelude::*;

    use super::*;

    type Turn = std::boxed::Box<dyn Fn() + Send + Sync>;

    /// A link whose server gets honest later.
    #[derive(Default)]
    struct Later(std::sync::Mutex<Option<Turn>>);

    impl Link for Later {
        fn notify(&self) {}

        fn wait(&self) {
            self.0.lock().unwrap().as_ref().expect("nobody to wait for")();
        }
    }

    /// What a server that means harm does next.
    #[derive(Clone, Debug)]
    enum Move {
        /// Any word of the page gets any value.
        Poke(usize, u32),
        /// A message with a header that is almost right.
        Send(u32, u32, std::vec::Vec<u8>, u32),
        /// It takes some of the requests.
        Take(usize),
    }

    fn moves() -> impl Strategy<Value = std::vec::Vec<Move>> {
        let poke =
            (prop_oneof![0..1024usize, 512..519usize], any::<u32>()).prop_map(|(at, to)| Move::Poke(at, to));
        let kind = prop_oneof![Just(XS_READ), Just(XS_WATCH_EVENT), Just(XS_ERROR), 0..24u32];
        let send = (kind, 0..4u32, prop::collection::vec(any::<u8>(), 0..40), 0..3u32)
            .prop_map(|(kind, id, payload, more)| Move::Send(kind, id, payload, more));
        let take = (0..200usize).prop_map(Move::Take);
        prop::collection::vec(prop_oneof![1 => poke, 6 => send, 2 => take], 1..40)
    }

    proptest! {
        /// Whatever the server does, each request ends in an answer, an error or waiting, and the client works on.
        #[test]
        fn no_server_makes_the_client_fail(moves in moves()) {
            let page = page();
            let client = Client::new(Ring::new(page.clone()).unwrap(), Later::default());
            let ring = Ring::new(page.clone()).unwrap();
            let mut replies = vec![];
            for step in moves {
                match step {
                    Move::Poke(at, to) => page[at].store(to, Relaxed),
                    Move::Send(type_, req_id, payload, more) => {
                        let len = payload.len() as u32 + more * 2000;
                        let header = XsdSockmsg { type_, req_id, tx_id: 0, len };
                        let _ = ring.replies().push(header.as_bytes());
                        let _ = ring.replies().push(&payload);
                    }
                    Move::Take(len) => drop(ring.requests().pop(&mut vec![0; len])),
                }
                if let Ok(reply) = client.submit_read(Transaction::NONE, "some/node") {
                    replies.push(reply);
                }
                replies.retain(|reply| reply.check().is_none());
                while client.next_event().is_some() {}
            }
            prop_assert!(replies.len() <= 40);
            drop(replies);
            // With a server that comes to its senses the same client speaks on.
            ring.reset();
            let server = std::sync::Mutex::new(Server::new(&page));
            let turn = move || {
                let mut server = server.lock().unwrap();
                while let Some(message) = server.next() {
                    server.answer(&message, message.header.type_, b"OK\0");
                }
            };
            *client.link().0.lock().unwrap() = Some(std::boxed::Box::new(turn));
            client.restart().unwrap();
            prop_assert_eq!(client.read(Transaction::NONE, "a"), Ok(b"OK\0".to_vec()));
        }
    }
}

/// A page whose server writes events whenever the client looks at it.
struct Storm {
    page: Page,
    fired: core::sync::atomic::AtomicU32,
}

impl core::ops::Deref for Storm {
    type Target = [core::sync::atomic::AtomicU32];

    fn deref(&self) -> &Self::Target {
        let server = Server::new(&self.page);
        if server.ring.replies().room().unwrap() >= 64 && self.fired.load(Relaxed) < 100_000 {
            self.fired.fetch_add(1, Relaxed);
            server.fire("path", "token");
        }
        &self.page
    }
}

#[test]
fn a_call_ends_while_the_server_goes_on() {
    let storm = Arc::new(Storm { page: page(), fired: 0.into() });
    struct Shared(Arc<Storm>);
    impl core::ops::Deref for Shared {
        type Target = [core::sync::atomic::AtomicU32];
        fn deref(&self) -> &Self::Target {
            &self.0
        }
    }
    let client = Client::new(Ring::new(Shared(storm.clone())).unwrap(), no_wait());
    client.poll();
    let fired = storm.fired.load(Relaxed);
    assert!((500..2000).contains(&fired), "{fired} events in one call");
    assert!(client.next_event().is_some());
}

#[test]
fn events_that_wait_are_counted_in_bytes() {
    let page = page();
    let client = Client::new(Ring::new(page.clone()).unwrap(), no_wait());
    let server = Server::new(&page);
    for number in 0..2000 {
        server.fire(&format!("{number}{}", "p".repeat(900)), "t");
        client.poll();
    }
    let kept: usize = core::iter::from_fn(|| client.next_event()).map(|event| event.path.len()).sum();
    assert!((200 << 10..=256 << 10).contains(&kept), "{kept} bytes");
    server.fire("p", "t");
    assert!(client.next_event().is_some(), "there is room again");
}

#[test]
fn a_list_that_never_ends_is_an_error() {
    let endless = |number: std::sync::atomic::AtomicU32, changes: bool| {
        served(move |message| match message.header.type_ {
            XS_DIRECTORY => (XS_ERROR, b"E2BIG\0".to_vec()),
            _ => {
                let stamp = if changes { number.fetch_add(1, Relaxed) } else { 0 };
                (XS_DIRECTORY_PART, format!("{stamp}\0{}\0", "n".repeat(900)).into_bytes())
            }
        })
    };
    assert_eq!(endless(0.into(), false).directory(Transaction::NONE, "a"), Err(Errno::E2BIG));
    assert_eq!(endless(0.into(), true).directory(Transaction::NONE, "a"), Err(Errno::EAGAIN));
}
