//! Nothing that a domain asks for is more than a few steps at a time, and nobody sees it half done.

use super::*;

/// Steps that one call may take: its budget, and the request or step that exceeds it.
const MOST: u64 = work::BUDGET + 512;

/// Serves a link; asserts that it took no more steps than it may.
fn serve(server: &mut Server, link: &mut Link<Page>) -> bool {
    let before = server.steps();
    let moved = link.serve(server);
    let steps = server.steps() - before;
    assert!(steps <= MOST, "{steps} steps at once");
    moved
}

fn messages(page: &Page, input: &mut Vec<u8>) -> Vec<Message> {
    receive(page, input);
    core::iter::from_fn(|| Message::take(input).unwrap()).collect()
}

fn message(kind: u32, transaction: u32, payload: &[u8]) -> Message {
    Message { kind, request: 1, transaction, payload: payload.to_vec() }
}

/// 1,024 changes, deep in the tree, before the watches of eight domains.
#[test]
fn the_largest_commit_is_made_in_steps_and_seen_as_a_whole() {
    let mut server = Server::default();
    let toolstack = server.connect(0, true, None);
    let readable = |owner| Rights::new(&[(owner, Permission::Read)]).unwrap();
    let mut watchers = Vec::new();
    for domain in 1..=8 {
        server.mkdir(toolstack, NONE, &home(domain)).unwrap();
        server.set_rights(toolstack, NONE, &home(domain), readable(domain)).unwrap();
        let connection = server.connect(domain, false, None);
        // Of different paths, so that each change concerns many.
        for n in 0..128 {
            let path = if n % 2 == 0 { home(1) } else { format!("{}/d", home(1)) };
            server.watch(connection, &path, &format!("{n}")).unwrap();
        }
        let page = page();
        watchers.push((Link::new(page.clone(), connection).unwrap(), page, Vec::new(), 0));
    }
    let one = watchers[0].0.connection();
    let deep = "/x".repeat(40);
    server.write(one, NONE, "d/0/old", b"old").unwrap();
    let t = server.begin(one).unwrap();
    for n in 0..1024 {
        let done = match n % 4 {
            0 => server.write(one, t, &format!("d/{}{deep}", n % 8), &[1; 50]),
            1 => server.write(one, t, &format!("d/{}/y", n % 8), b"new"),
            2 => server.mkdir(one, t, &format!("d/{}/{n}", n % 8)),
            _ => server.remove(one, t, &format!("d/{}/{}", (n - 1) % 8, n - 1)),
        };
        assert_eq!(done, Ok(()), "{n}");
    }
    server.write(one, t, "d/0/old", b"new").unwrap();
    for (_, page, ..) in &watchers {
        page[514].store(page[515].load(SeqCst), SeqCst);
    }
    send(&watchers[0].1, &message(abi::XS_TRANSACTION_END, t.0, b"T\0").to_bytes());
    // Others ask while it is being committed.
    let (mut committed, mut rounds, mut asked) = (false, 0, 0);
    loop {
        let mut moved = false;
        for (n, (link, page, input, told)) in watchers.iter_mut().enumerate() {
            if n > 0 && asked < 50 {
                asked += 1;
                send(page, &message(abi::XS_READ, 0, b"/local/domain/1/d/0/old\0").to_bytes());
            }
            moved |= serve(&mut server, link);
            for message in messages(page, input) {
                match message.kind {
                    abi::XS_WATCH_EVENT => *told += 1,
                    abi::XS_TRANSACTION_END => committed = true,
                    abi::XS_READ => assert_eq!(message.payload == b"new", committed, "all or nothing"),
                    kind => panic!("{kind}"),
                }
            }
        }
        rounds += 1;
        if !moved {
            break;
        }
    }
    assert!(committed && rounds > 20, "{rounds} rounds");
    for (.., told) in &watchers {
        assert!(*told > 1000, "{told} events");
    }
    assert_eq!(server.read(toolstack, NONE, "/local/domain/1/d/0/old"), Ok(b"new".to_vec()));
}

#[test]
fn what_is_removed_is_freed_in_steps() {
    let (mut server, _, one, _) = world();
    let base = server.accounts.of(1);
    for n in 0..990 {
        server.mkdir(one, NONE, &format!("d/{n}")).unwrap();
    }
    for n in 0..9 {
        let t = server.begin(one).unwrap();
        for k in 0..100 {
            server.write(one, t, &format!("d/{}", n * 100 + k), b"x").unwrap();
        }
    }
    let page = page();
    let mut link = Link::new(page.clone(), one).unwrap();
    let mut input = Vec::new();
    for request in [message(abi::XS_RM, 0, b"d\0"), message(abi::XS_RESET_WATCHES, 0, b"")] {
        send(&page, &request.to_bytes());
        let mut rounds = 0;
        while serve(&mut server, &mut link) {
            rounds += 1;
        }
        assert!(rounds > 1, "{rounds}");
        assert_eq!(messages(&page, &mut input).len(), 1);
    }
    assert_eq!(server.accounts.of(1), base);
}

#[test]
fn a_domain_that_ends_in_the_middle_of_its_commit_leaves_nothing_of_it() {
    for rounds in 0..6 {
        let (mut server, toolstack, one, two) = world();
        server.write(toolstack, NONE, "/shared", b"old").unwrap();
        let open = Rights::new(&[(0, Permission::Both)]).unwrap();
        server.set_rights(toolstack, NONE, "/shared", open).unwrap();
        let t = server.begin(one).unwrap();
        server.write(one, t, "/shared", b"new").unwrap();
        for n in 0..900 {
            let path = format!("{n}");
            if server.write(one, t, "x", &[1; 10]).is_err() || server.remove(one, t, "x").is_err() {
                break;
            }
            if server.write(one, t, &path, b"").is_err() {
                break;
            }
        }
        let page = page();
        let mut link = Link::new(page.clone(), one).unwrap();
        send(&page, &message(abi::XS_TRANSACTION_END, t.0, b"T\0").to_bytes());
        for _ in 0..=rounds {
            serve(&mut server, &mut link);
        }
        let is_done = server.committing.is_none();
        server.begin_release(1);
        // Whoever cannot wait finds it done or undone.
        let value = server.read(two, NONE, "/shared").unwrap();
        assert_eq!(value == b"new", is_done, "after {rounds} rounds");
        while server.poll() {}
        assert_eq!(server.accounts.of(1), Default::default());
    }
}
