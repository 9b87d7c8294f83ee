//! The server as clients see it: rights, watches, transactions, quotas, the protocol, and pages full of garbage.

extern crate std;

mod forget;
mod limits;
mod model;
mod rights;
mod serial;
mod steps;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;
use xen_abi::io::xs_wire as abi;

use super::*;
use crate::store::{Permission, Store, transact};

const NONE: Id = Id::NONE;

/// A server, its toolstack, and clients of domains 1 and 2 with a directory each.
fn world() -> (Server, Connection, Connection, Connection) {
    let mut server = Server::default();
    let toolstack = server.connect(0, true, None);
    for domain in [1, 2] {
        server.write(toolstack, NONE, &home(domain), b"").unwrap();
        let rights = Rights::new(&[(domain, Permission::None)]).unwrap();
        server.set_rights(toolstack, NONE, &home(domain), rights).unwrap();
    }
    let (one, two) = (server.connect(1, false, None), server.connect(2, false, None));
    (server, toolstack, one, two)
}

fn events(server: &mut Server, connection: Connection) -> Vec<(String, String)> {
    core::iter::from_fn(|| server.next_event(connection)).map(|event| (event.path, event.token)).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(path, token)| (path.to_string(), token.to_string())).collect()
}

#[test]
fn a_write_makes_the_nodes_above() {
    let (mut server, toolstack, ..) = world();
    server.write(toolstack, NONE, "/a/b/c", b"x").unwrap();
    assert_eq!(server.read(toolstack, NONE, "/a/b/c"), Ok(b"x".to_vec()));
    assert_eq!(server.read(toolstack, NONE, "/a/b"), Ok(vec![]));
    assert_eq!(server.directory(toolstack, NONE, "/a").unwrap().0, ["b"]);
    server.remove(toolstack, NONE, "/a").unwrap();
    assert_eq!(server.read(toolstack, NONE, "/a/b/c"), Err(Errno::ENOENT));
    assert_eq!(server.remove(toolstack, NONE, "/a"), Ok(()), "its parent is there");
    assert_eq!(server.remove(toolstack, NONE, "/a/b"), Err(Errno::ENOENT), "its parent is missing");
    assert_eq!(server.remove(toolstack, NONE, "/"), Err(Errno::EINVAL));
}

#[test]
fn rights_hold() {
    let (mut server, toolstack, one, two) = world();
    server.write(one, NONE, "x", b"1").unwrap();
    assert_eq!(server.rights(one, NONE, "x").unwrap().owner(), 1, "who makes it owns it");
    let x = "/local/domain/1/x";
    for (right, read, write) in [
        (Permission::None, false, false),
        (Permission::Read, true, false),
        (Permission::Write, false, true),
        (Permission::Both, true, true),
    ] {
        server
            .set_rights(one, NONE, "x", Rights::new(&[(1, Permission::None), (2, right)]).unwrap())
            .unwrap();
        assert_eq!(server.read(two, NONE, x).is_ok(), read, "{right:?}");
        assert_eq!(server.write(two, NONE, x, b"2").is_ok(), write, "{right:?}");
        let mine = Rights::new(&[(2, Permission::None)]).unwrap();
        assert_eq!(server.set_rights(two, NONE, x, mine), Err(Errno::EACCES), "{right:?}");
    }
    let given = Rights::new(&[(2, Permission::None)]).unwrap();
    assert_eq!(server.set_rights(one, NONE, "x", given), Err(Errno::EPERM), "nobody gives a node away");
    assert_eq!(
        server.read(two, NONE, "/local/domain/1/none"),
        Err(Errno::EACCES),
        "what is missing is not told"
    );
    assert_eq!(server.read(one, NONE, "none"), Err(Errno::ENOENT));
    assert_eq!(server.write(one, NONE, "/tool", b""), Err(Errno::EACCES));
    assert!(server.read(toolstack, NONE, x).is_ok());
    server.set_target(2, 1).unwrap();
    assert!(server.set_rights(two, NONE, x, Rights::private(1)).is_ok() && server.read(two, NONE, x).is_ok());
}

#[test]
fn watches_fire_for_what_is_below_and_for_the_end_above() {
    let (mut server, toolstack, one, two) = world();
    server.watch(one, "a/b", "rel").unwrap();
    server.watch(one, "/local/domain/1", "abs").unwrap();
    server.watch(two, "/local/domain/1/a", "spy").unwrap();
    assert_eq!(server.watch(one, "a/b", "rel"), Err(Errno::EEXIST));
    assert_eq!(events(&mut server, one), pairs(&[("a/b", "rel"), ("/local/domain/1", "abs")]));
    events(&mut server, two);
    server.write(one, NONE, "a/b/c", b"").unwrap();
    let c = "/local/domain/1/a/b/c";
    assert_eq!(events(&mut server, one), pairs(&[("a/b/c", "rel"), (c, "abs")]));
    server.write(one, NONE, "a/bc", b"").unwrap();
    assert_eq!(events(&mut server, one), pairs(&[("/local/domain/1/a/bc", "abs")]));
    server.remove(toolstack, NONE, "/local/domain/1/a").unwrap();
    assert_eq!(events(&mut server, one), pairs(&[("a/b", "rel"), ("/local/domain/1/a", "abs")]));
    assert_eq!(events(&mut server, two), [], "what it may not read");
    server.unwatch(one, "a/b", "rel").unwrap();
    assert_eq!(server.unwatch(one, "a/b", "rel"), Err(Errno::ENOENT));
    server.write(one, NONE, "a/b", b"").unwrap();
    server.write(one, NONE, "a/b", b"").unwrap();
    assert_eq!(events(&mut server, one), pairs(&[("/local/domain/1/a/b", "abs")]), "an event waits once");
}

#[test]
fn domains_come_and_go() {
    let (mut server, toolstack, one, two) = world();
    for (client, token) in [(toolstack, "t"), (two, "2")] {
        server.watch(client, "@introduceDomain", token).unwrap();
        server.watch(client, "@releaseDomain", token).unwrap();
        events(&mut server, client);
    }
    server.introduce(1);
    assert!(server.is_introduced(1));
    server.write(one, NONE, "x", b"").unwrap();
    server.write(toolstack, NONE, "/shared/y", b"").unwrap();
    let rights = Rights::new(&[(0, Permission::Read), (1, Permission::Both)]).unwrap();
    server.set_rights(toolstack, NONE, "/shared", rights.clone()).unwrap();
    server.set_rights(toolstack, NONE, "/shared/y", rights).unwrap();
    server.release(1);
    let expected = pairs(&[("@introduceDomain", "t"), ("@releaseDomain", "t")]);
    assert_eq!(events(&mut server, toolstack), expected);
    assert_eq!(events(&mut server, two), [], "only who may know");
    assert!(!server.is_introduced(1));
    assert_eq!(server.read(toolstack, NONE, "/local/domain/1"), Err(Errno::ENOENT));
    for path in ["/shared", "/shared/y"] {
        assert_eq!(
            server.rights(toolstack, NONE, path).unwrap().entries(),
            [(0, Permission::Read)],
            "{path}"
        );
    }
    assert_eq!(server.accounts.of(1).nodes, 0);
    assert_eq!(server.read(one, NONE, "x"), Err(Errno::ENOTCONN));
}

#[test]
fn a_transaction_that_saw_what_changed_is_done_again() {
    let (mut server, toolstack, one, _) = world();
    let t = server.begin(one).unwrap();
    assert_eq!(server.read(one, t, "n"), Err(Errno::ENOENT));
    server.write(one, t, "n", b"1").unwrap();
    assert_eq!(server.read(one, t, "n"), Ok(b"1".to_vec()), "it sees its own changes");
    assert_eq!(server.read(one, NONE, "n"), Err(Errno::ENOENT), "nobody else does");
    server.write(toolstack, NONE, "/local/domain/1/n", b"2").unwrap();
    assert_eq!(server.end(one, t, true), Err(Errno::EAGAIN));
    assert_eq!(server.end(one, t, true), Err(Errno::ENOENT), "it is over");
    assert_eq!(server.read(toolstack, NONE, "/local/domain/1/n"), Ok(b"2".to_vec()));

    let (t, u) = (server.begin(one).unwrap(), server.begin(one).unwrap());
    server.write(one, t, "d/x", b"").unwrap();
    server.write(one, u, "d/y", b"").unwrap();
    assert_eq!(server.end(one, t, true), Ok(()));
    assert_eq!(server.end(one, u, true), Ok(()), "neither saw what the other did");
    let (t, u) = (server.begin(one).unwrap(), server.begin(one).unwrap());
    server.directory(one, t, "d").unwrap();
    server.write(one, u, "d/z", b"").unwrap();
    server.end(one, u, true).unwrap();
    assert_eq!(server.end(one, t, true), Err(Errno::EAGAIN), "it saw the list");
    assert_eq!(server.directory(one, NONE, "d").unwrap().0, ["x", "y", "z"]);
}

#[test]
fn a_transaction_that_saw_a_list_saw_the_rights() {
    let (mut server, toolstack, one, _) = world();
    let t = server.begin(one).unwrap();
    assert!(server.directory(one, t, &home(1)).is_ok());
    server.set_rights(toolstack, NONE, &home(1), Rights::private(0)).unwrap();
    assert_eq!(server.end(one, t, true), Err(Errno::EAGAIN));
}

#[test]
fn a_transaction_that_removed_nothing_saw_the_rights_above() {
    let (mut server, toolstack, one, _) = world();
    for path in ["n", "own/n"] {
        let t = server.begin(one).unwrap();
        if path != "n" {
            server.mkdir(one, t, "own").unwrap();
        }
        assert_eq!(server.remove(one, t, path), Ok(()));
        server.write(toolstack, NONE, &format!("{}/other", home(1)), b"").unwrap();
        assert_eq!(server.end(one, t, true), Ok(()), "{path}: what is beside it is of no interest");
    }
    let t = server.begin(one).unwrap();
    assert_eq!(server.remove(one, t, "n"), Ok(()));
    server.set_rights(toolstack, NONE, &home(1), Rights::private(0)).unwrap();
    assert_eq!(server.end(one, t, true), Err(Errno::EAGAIN), "it may not do that by now");
}

#[test]
fn a_transaction_sees_nothing_of_what_others_made_below_its_own_node() {
    for path in ["own/n", "own"] {
        let (mut server, toolstack, one, _) = world();
        let t = server.begin(one).unwrap();
        server.mkdir(one, t, "own/x").unwrap();
        server.mkdir(toolstack, NONE, &format!("{}/own/n", home(1))).unwrap();
        match path {
            "own" => assert_eq!(server.directory(one, t, path).unwrap().0, ["x"]),
            _ => assert_eq!(server.remove(one, t, path), Ok(()), "it is not there"),
        }
        assert_eq!(server.end(one, t, true), Err(Errno::EAGAIN), "{path}");
    }
}

#[test]
fn a_transaction_sees_what_it_wrote_although_another_client_removes_it() {
    for path in ["d/n", "d"] {
        let (mut server, toolstack, one, _) = world();
        server.write(one, NONE, "d/n", b"0").unwrap();
        let t = server.begin(one).unwrap();
        server.write(one, t, "d/n", b"1").unwrap();
        server.remove(toolstack, NONE, &format!("{}/{path}", home(1))).unwrap();
        let done = server.remove(one, t, "d/n");
        match server.end(one, t, true) {
            Ok(()) => assert_eq!(done, Ok(())),
            error => assert_eq!((error, path), (Err(Errno::EAGAIN), "d")),
        }
        assert!(server.read(one, NONE, "d/n").is_err(), "it was removed");
    }
}

#[test]
fn a_transaction_fires_watches_when_it_ends_and_not_when_it_is_given_up() {
    let (mut server, toolstack, one, _) = world();
    server.watch(toolstack, "/local/domain/1", "t").unwrap();
    events(&mut server, toolstack);
    for commit in [false, true] {
        let t = server.begin(one).unwrap();
        server.write(one, t, "x", b"").unwrap();
        assert_eq!(events(&mut server, toolstack), []);
        server.end(one, t, commit).unwrap();
        let expected: &[_] = if commit { &[("/local/domain/1/x", "t")] } else { &[] };
        assert_eq!(events(&mut server, toolstack), pairs(expected));
    }
}

#[test]
fn quotas_stop_the_unprivileged() {
    let (nodes, value, rights, watches, transactions) = (4, 8, 2, 2, 1);
    let (touched, held, events_kept) = (3, 80, 2);
    let small = Quota { nodes, value, rights, watches, transactions, ..Quota::default() };
    let quota = Quota { touched, held, events: events_kept, ..small };
    let mut server = Server::new(quota);
    let toolstack = server.connect(0, true, None);
    server.mkdir(toolstack, NONE, "/local/domain/1").unwrap();
    server.set_rights(toolstack, NONE, "/local/domain/1", Rights::private(1)).unwrap();
    let one = server.connect(1, false, None);
    assert_eq!(server.write(one, NONE, "a", &[0; 9]), Err(Errno::ENOSPC));
    server.write(one, NONE, "a/b", &[0; 8]).unwrap();
    assert_eq!(server.mkdir(one, NONE, "a/c/d"), Err(Errno::ENOSPC));
    assert_eq!(server.directory(one, NONE, "a").unwrap().0, ["b"], "nothing is left of it");
    assert_eq!(server.accounts.of(1).nodes, 3);
    server.mkdir(one, NONE, "a/c").unwrap();
    let rights = Rights::new(&[(1, Permission::None); 3]).unwrap();
    assert_eq!(server.set_rights(one, NONE, "a", rights), Err(Errno::ENOSPC));
    let t = server.begin(one).unwrap();
    assert_eq!(server.begin(one), Err(Errno::ENOSPC));
    for path in ["a", "a/b", "a/c"] {
        server.read(one, t, path).unwrap();
    }
    assert_eq!(server.read(one, t, "d"), Err(Errno::ENOSPC));
    server.end(one, t, false).unwrap();
    let t = server.begin(one).unwrap();
    for _ in 0..3 {
        server.write(one, t, "a/b", &[1; 8]).unwrap();
    }
    assert_eq!(server.write(one, t, "a/b", b""), Err(Errno::ENOSPC), "81 bytes are held");
    server.watch(one, "a", "1").unwrap();
    server.watch(one, "a", "2").unwrap();
    assert_eq!(server.watch(one, "a", "3"), Err(Errno::E2BIG));
    server.write(one, NONE, "a/b", b"").unwrap();
    assert_eq!(events(&mut server, one).len(), 2, "the first two of four");
    server.unwatch(one, "a", "2").unwrap();
    server.watch(one, "a/b", &"t".repeat(78)).unwrap();
    assert_eq!(events(&mut server, one).len(), 0, "81 bytes are too many");
    server.watch(one, "a/b", "2").unwrap_err();
    server.write(one, NONE, "a/b", b"").unwrap();
    assert_eq!(events(&mut server, one), pairs(&[("a/b", "1")]));
}

#[test]
fn a_local_store_does_transactions_and_wakes() {
    let server = Arc::new(spin::Mutex::new(Server::default()));
    let woken = Arc::new(AtomicUsize::new(0));
    let counter = woken.clone();
    let waker: Waker = Arc::new(move || {
        counter.fetch_add(1, SeqCst);
    });
    let (a, b) = (Local::new(&server, 0, true, Some(waker)), Local::new(&server, 0, true, None));
    a.write(Transaction::NONE, "/n", b"0").unwrap();
    a.watch("/n", "t").unwrap();
    assert_eq!(a.next_event().unwrap().path, "/n");
    let mut tries = 0;
    let got = transact(&a, |t| {
        tries += 1;
        let old = a.read(t, "/n")?;
        if tries == 1 {
            b.write(Transaction::NONE, "/n", b"1")?;
        }
        a.write(t, "/n", &[old[0] + 1])?;
        Ok(old[0])
    });
    assert_eq!((got, tries), (Ok(b'1'), 2));
    assert_eq!(b.read(Transaction::NONE, "/n"), Ok(b"2".to_vec()));
    assert_eq!(woken.load(SeqCst), 2, "the watch and the first change, which waited when the second came");
    let clients = || server.lock().clients.len();
    assert_eq!(clients(), 2);
    drop(a);
    assert_eq!(clients(), 1);
}

use crate::store::Transaction;

/// A request's answer: its kind and payload.
fn ask(
    server: &mut Server,
    connection: Connection,
    kind: u32,
    transaction: u32,
    payload: &[u8],
) -> (u32, Vec<u8>) {
    let message = Message { kind, request: 7, transaction, payload: payload.to_vec() };
    let answer = server.answer(connection, &message);
    assert_eq!((answer.request, answer.transaction), (7, transaction));
    (answer.kind, answer.payload)
}

#[test]
fn the_protocol_as_clients_write_it() {
    let (mut server, toolstack, one, _) = world();
    server.introduce(1);
    let ok = b"OK\0".to_vec();
    for (kind, payload, expected) in [
        (abi::XS_WRITE, &b"x/y\0value"[..], ok.clone()),
        (abi::XS_READ, b"x/y\0", b"value".to_vec()),
        (abi::XS_MKDIR, b"x/z\0", ok.clone()),
        (abi::XS_DIRECTORY, b"x\0", b"y\0z\0".to_vec()),
        (abi::XS_SET_PERMS, b"x/y\0n1\0b2\0r3\0", ok.clone()),
        (abi::XS_GET_PERMS, b"x/y\0", b"n1\0b2\0r3\0".to_vec()),
        (abi::XS_RM, b"x/z\0", ok.clone()),
        (abi::XS_WATCH, b"x\0token\0", ok.clone()),
        (abi::XS_UNWATCH, b"x\0token\0", ok.clone()),
        (abi::XS_TRANSACTION_START, b"\0", b"1\0".to_vec()),
        (abi::XS_GET_DOMAIN_PATH, b"12\0", b"/local/domain/12\0".to_vec()),
        (abi::XS_IS_DOMAIN_INTRODUCED, b"1\0", b"T\0".to_vec()),
        (abi::XS_IS_DOMAIN_INTRODUCED, b"9\0", b"F\0".to_vec()),
        (abi::XS_RESET_WATCHES, b"", ok.clone()),
    ] {
        assert_eq!(ask(&mut server, one, kind, 0, payload), (kind, expected), "{kind}");
    }
    let error = |name: &str| (abi::XS_ERROR, text(name));
    for (kind, transaction, payload, name) in [
        (abi::XS_READ, 0, &b"none\0"[..], "ENOENT"),
        (abi::XS_READ, 0, b"x/y", "EINVAL"),
        (abi::XS_READ, 99, b"x/y\0", "ENOENT"),
        (abi::XS_READ, 0, b"", "EINVAL"),
        (abi::XS_WRITE, 0, b"/tool\0", "EACCES"),
        (abi::XS_SET_PERMS, 0, b"x/y\0", "EINVAL"),
        (abi::XS_SET_PERMS, 0, b"x/y\0q1\0", "EINVAL"),
        (abi::XS_SET_PERMS, 0, b"x/y\0n99999\0", "EINVAL"),
        (abi::XS_TRANSACTION_START, 1, b"\0", "EBUSY"),
        (abi::XS_TRANSACTION_END, 1, b"X\0", "EINVAL"),
        (abi::XS_CONTROL, 0, b"help\0", "EACCES"),
        (abi::XS_INTRODUCE, 0, b"3\x001\x002\0", "EACCES"),
        (abi::XS_WATCH_EVENT, 0, b"a\0b\0", "ENOSYS"),
        (77, 0, b"", "ENOSYS"),
    ] {
        assert_eq!(ask(&mut server, one, kind, transaction, payload), error(name), "{kind} {payload:?}");
    }
    assert_eq!(ask(&mut server, toolstack, abi::XS_INTRODUCE, 0, b"3\x00256\x005\0").1, ok);
    assert_eq!(server.next_action(), Some(Action::Introduce { domain: 3, frame: 256, port: 5 }));
    assert_eq!(ask(&mut server, toolstack, abi::XS_RELEASE, 0, b"3\0").1, ok);
    assert_eq!(server.next_action(), Some(Action::Release(3)));
}

fn text(text: &str) -> Vec<u8> {
    format!("{text}\0").into_bytes()
}

#[test]
fn long_lists_come_in_pieces() {
    let (mut server, toolstack, ..) = world();
    let names: Vec<_> = (0..300).map(|n| format!("a-rather-long-name-{n:03}")).collect();
    for name in &names {
        server.mkdir(toolstack, NONE, &format!("/d/{name}")).unwrap();
    }
    assert_eq!(ask(&mut server, toolstack, abi::XS_DIRECTORY, 0, b"/d\0"), (abi::XS_ERROR, text("E2BIG")));
    let (mut all, mut stamps) = (Vec::new(), Vec::new());
    loop {
        let request = format!("/d\0{}\0", all.len());
        let (kind, piece) = ask(&mut server, toolstack, abi::XS_DIRECTORY_PART, 0, request.as_bytes());
        assert_eq!(kind, abi::XS_DIRECTORY_PART);
        let end = piece.iter().position(|byte| *byte == 0).unwrap();
        stamps.push(piece[..end].to_vec());
        all.extend(&piece[end + 1..]);
        if all.ends_with(b"\0\0") {
            break;
        }
    }
    assert!(stamps.len() > 1 && stamps.iter().all(|stamp| *stamp == stamps[0]));
    assert_eq!(
        all,
        names
            .iter()
            .map(|name| format!("{name}\0"))
            .collect::<String>()
            .into_bytes()
            .into_iter()
            .chain([0])
            .collect::<Vec<_>>()
    );
}

type Page = Arc<[AtomicU32]>;

fn page() -> Page {
    (0..1024).map(|_| AtomicU32::new(0)).collect()
}

/// Writes as much of `bytes` to the ring of requests as there is room for; answers how much.
fn send(page: &Page, bytes: &[u8]) -> usize {
    let (cons, prod) = (page[512].load(SeqCst), page[513].load(SeqCst));
    let room = 1024 - prod.wrapping_sub(cons) as usize;
    let count = bytes.len().min(room);
    for (n, byte) in (0..).zip(&bytes[..count]) {
        let at = abi::mask_xenstore_idx(prod.wrapping_add(n));
        let shift = at % 4 * 8;
        let old = page[at / 4].load(SeqCst) & !(0xff << shift);
        page[at / 4].store(old | u32::from(*byte) << shift, SeqCst);
    }
    page[513].store(prod.wrapping_add(count as u32), SeqCst);
    count
}

fn receive(page: &Page, bytes: &mut Vec<u8>) {
    let (cons, prod) = (page[514].load(SeqCst), page[515].load(SeqCst));
    let mut at = cons;
    while at != prod {
        let index = abi::mask_xenstore_idx(at);
        bytes.push(page[256 + index / 4].load(SeqCst).to_le_bytes()[index % 4]);
        at = at.wrapping_add(1);
    }
    page[514].store(prod, SeqCst);
}

#[test]
fn messages_larger_than_the_ring_pass_it_in_pieces() {
    let (mut server, toolstack, one, _) = world();
    // Indexes run freely and wrap.
    let page = page();
    (512..516).for_each(|word| page[word].store(u32::MAX - 100, SeqCst));
    let mut link = Link::new(page.clone(), one).unwrap();
    let value: Vec<_> = (0..2000).map(|n| b'a' + (n % 26) as u8).collect();
    let message = |kind, request, payload| Message { kind, request, transaction: 0, payload };
    let mut bytes = message(abi::XS_WRITE, 1, [b"big\0", &value[..]].concat()).to_bytes();
    bytes.extend(message(abi::XS_READ, 2, b"big\0".to_vec()).to_bytes());
    bytes.extend(message(abi::XS_WATCH, 3, b"big\0t\0".to_vec()).to_bytes());
    let (mut sent, mut input, mut answers) = (0, Vec::new(), Vec::new());
    for _ in 0..20 {
        sent += send(&page, &bytes[sent..]);
        link.serve(&mut server);
        receive(&page, &mut input);
        answers.extend(core::iter::from_fn(|| Message::take(&mut input).unwrap()));
    }
    assert!(!link.serve(&mut server), "nothing moves any more");
    let event = Message::event(&Event { path: "big".into(), token: "t".into() });
    let ok = b"OK\0".to_vec();
    let expected = [
        message(abi::XS_WRITE, 1, ok.clone()),
        message(abi::XS_READ, 2, value),
        message(abi::XS_WATCH, 3, ok),
        event,
    ];
    assert_eq!(answers, expected);
    assert!(server.read(toolstack, NONE, "/local/domain/1/big").is_ok());
}

#[test]
fn a_broken_ring_is_given_up_and_can_be_started_again() {
    for (word, value, why) in
        [(513, 1025, abi::XENSTORE_ERROR_RINGIDX), (514, 1, abi::XENSTORE_ERROR_RINGIDX)]
    {
        let (mut server, _, one, _) = world();
        let page = page();
        let mut link = Link::new(page.clone(), one).unwrap();
        page[word].store(value, SeqCst);
        link.serve(&mut server);
        assert_eq!(page[518].load(SeqCst), why);
        assert!(!link.serve(&mut server));
        page[517].store(abi::XENSTORE_RECONNECT, SeqCst);
        assert!(link.serve(&mut server));
        assert_eq!(page[517].load(SeqCst), abi::XENSTORE_CONNECTED);
        send(
            &page,
            &Message { kind: abi::XS_MKDIR, request: 1, transaction: 0, payload: b"x\0".to_vec() }.to_bytes(),
        );
        assert!(link.serve(&mut server));
        assert!(server.read(one, NONE, "x").is_ok());
    }
    let (mut server, _, one, _) = world();
    let page = page();
    let mut link = Link::new(page.clone(), one).unwrap();
    send(&page, &[abi::XS_READ, 1, 0, 4097].map(u32::to_le_bytes).concat());
    link.serve(&mut server);
    assert_eq!(page[518].load(SeqCst), abi::XENSTORE_ERROR_PROTO);
}

proptest! {
    /// Whatever a domain writes to its page, the server goes on, and others see nothing of it.
    #[test]
    fn garbage_in_a_page_harms_nobody(
        words in prop::collection::vec((0..1024usize, any::<u32>()), 0..200),
        requests in prop::collection::vec((0..25u32, 0..3u32, "[a-c/\\x00@nrwb0-2TF]{0,24}"), 0..40),
    ) {
        let (mut server, toolstack, one, two) = world();
        server.write(two, NONE, "mine", b"2").unwrap();
        let page = page();
        let mut link = Link::new(page.clone(), one).unwrap();
        let mut ignored = Vec::new();
        for (kind, transaction, payload) in requests {
            send(&page, &Message { kind, request: 0, transaction, payload: payload.into_bytes() }.to_bytes());
            link.serve(&mut server);
            receive(&page, &mut ignored);
        }
        for (word, value) in words {
            page[word].store(value, SeqCst);
            link.serve(&mut server);
        }
        prop_assert_eq!(server.read(two, NONE, "mine"), Ok(b"2".to_vec()));
        prop_assert_eq!(server.directory(toolstack, NONE, "/local/domain").unwrap().0, vec!["1", "2"]);
        let counted = count(&mut server, toolstack, &home(1));
        prop_assert_eq!(server.accounts.of(1).nodes, counted);
    }
}

fn count(server: &mut Server, toolstack: Connection, path: &str) -> usize {
    let names = server.directory(toolstack, NONE, path).unwrap().0;
    1 + names.iter().map(|name| count(server, toolstack, &format!("{path}/{name}"))).sum::<usize>()
}
