//! The xenstore server, and a domain that writes anything into the page of its connection.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use pv_drivers::store::server::{Link, Local, Message, Quota, Server};
use pv_drivers::store::{Permission, Store, Transaction};
use pv_drivers::transport::words;
use spin::Mutex;
use xen_abi::io::xs_wire::{XENSTORE_PAYLOAD_MAX, XENSTORE_RING_SIZE, XS_TYPE_COUNT};

use crate::input::Input;

/// The domain that lies, and one that keeps a secret.
const LIAR: u16 = 1;
const OTHER: u16 = 2;
/// Words of the page behind the rings: indices, features, connection, error.
const REQ_CONS: usize = 512;
const REQ_PROD: usize = 513;
const RSP_CONS: usize = 514;
const RSP_PROD: usize = 515;
const FIELDS: usize = 519;
/// What paths are made of.
const PIECES: &[&str] =
    &["/", "local", "domain", "1", "2", "secret", "own", "a", "@introduceDomain", "//", "\0", "\u{e9}", "-_"];
/// What else is in a message.
const WORDS: &[&[u8]] =
    &[b"\0", b"b1\0", b"w2\0", b"n0\0", b"r65535\0", b"T\0", b"F\0", b"0\0", b"4294967296\0", b"token"];

/// The server goes on for everybody else, and tells nothing that is not the domain's.
pub fn store(data: &[u8]) {
    let mut input = Input(data);
    let server = Arc::new(Mutex::new(Server::new(Quota::default())));
    let admin = Local::new(&server, 0, true, None);
    let other = Local::new(&server, OTHER, false, None);
    for domain in [LIAR, OTHER] {
        let home = format!("/local/domain/{domain}");
        admin.mkdir(Transaction::NONE, &home).expect("a new node");
        admin.set_permissions(Transaction::NONE, &home, &[(domain, Permission::None)]).expect("an owner");
    }
    other.write(Transaction::NONE, "secret", SECRET).expect("its own node");
    let page: Arc<[AtomicU32]> = (0..1024).map(|_| AtomicU32::new(0)).collect();
    let connection = server.lock().connect(LIAR, false, None);
    let Ok(mut link) = Link::new(page.clone(), connection) else { return };
    let mut request = 0;
    while !input.is_empty() {
        match input.below(8) {
            0 => {
                let at = if input.below(2) == 0 {
                    REQ_CONS + input.below(FIELDS - REQ_CONS)
                } else {
                    input.below(256)
                };
                page[at].store(input.number(), Relaxed);
            }
            // A new start.
            1 => page[517].store(1, Relaxed),
            2 => {
                let length = input.below(64);
                write(&page, input.take(length));
            }
            3..=5 => {
                request += 1;
                write(&page, &message(&mut input, request).to_bytes());
            }
            // It reads its answers, or says so.
            6 => page[RSP_CONS].store(page[RSP_PROD].load(Relaxed), Relaxed),
            _ => {
                link.serve(&mut server.lock());
                let mut bytes = vec![0; XENSTORE_RING_SIZE as usize];
                words::load(&page, XENSTORE_RING_SIZE as usize, &mut bytes);
                let told = bytes.windows(SECRET.len()).any(|window| window == SECRET);
                assert!(!told, "the domain was told what is not its own");
            }
        }
    }
    let _ = (0..200).any(|_| !link.serve(&mut server.lock()));
    assert!(server.lock().next_action().is_none(), "a domain asked for what only the toolstack may");
    assert_eq!(other.read(Transaction::NONE, "secret").as_deref(), Ok(SECRET));
    assert!(other.write(Transaction::NONE, "more", b"1").is_ok());
    server.lock().release(LIAR);
    assert_eq!(other.read(Transaction::NONE, "more").as_deref(), Ok(&b"1"[..]));
}

/// What the other domain has, in no input by chance.
const SECRET: &[u8] = b"nobody else may read this";

/// Appends bytes to the requests, as the protocol says.
fn write(page: &[AtomicU32], bytes: &[u8]) {
    let at = page[REQ_PROD].load(Relaxed);
    for (n, byte) in (0..).zip(bytes) {
        let at = at.wrapping_add(n) % XENSTORE_RING_SIZE;
        words::store(page, at as usize, &[*byte]);
    }
    page[REQ_PROD].store(at.wrapping_add(u32::try_from(bytes.len()).unwrap_or(0)), Relaxed);
}

/// A message with a header that is right.
fn message(input: &mut Input<'_>, request: u32) -> Message {
    let kind = u32::from(input.byte()) % (XS_TYPE_COUNT + 2);
    let transaction = if input.below(2) == 0 { 0 } else { input.number() % 12 };
    let mut payload = Vec::new();
    for _ in 0..input.below(7) {
        payload.extend_from_slice(input.one_of(PIECES).as_bytes());
    }
    payload.push(0);
    for _ in 0..input.below(4) {
        payload.extend_from_slice(input.one_of(WORDS));
    }
    if input.below(16) == 0 {
        payload.resize(usize::from(input.u16()) % (XENSTORE_PAYLOAD_MAX as usize + 8), b'x');
    }
    Message { kind, request, transaction, payload }
}
