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

/// A page of domain 1, and its transaction of 1,024 changes deep in the tree.
fn large_transaction(server: &mut Server) -> (Link<Page>, Page, Message) {
    let toolstack = server.connect(0, true, None);
    server.mkdir(toolstack, NONE, &format!("{}/d", home(1))).unwrap();
    server.set_rights(toolstack, NONE, &format!("{}/d", home(1)), Rights::private(1)).unwrap();
    let one = server.connect(1, false, None);
    let deep = "/x".repeat(58);
    server.write(one, NONE, &format!("d{deep}"), b"0").unwrap();
    (0..128).for_each(|n| server.watch(one, &format!("d{deep}"), &n.to_string()).unwrap());
    while server.next_event(one).is_some() {}
    let t = server.begin(one).unwrap();
    (0..1024).for_each(|n| server.write(one, t, &format!("d{deep}"), &[n as u8; 20]).unwrap());
    let page = page();
    (Link::new(page.clone(), one).unwrap(), page, message(abi::XS_TRANSACTION_END, t.0, b"T\0"))
}

/// The driver domain's devices look at xenstore when it is theirs to look at.
#[test]
fn a_device_of_the_driver_domain_waits_for_a_guests_commit() {
    use crate::console::Back;
    use crate::transport::Transport;
    use crate::transport::host::Machine;
    use crate::xenbus::{Bus, End, State};
    let machine = Machine::new();
    let (front, back) = machine.plug("console", 0, 1, 2);
    let server = machine.server();
    let front = format!("{}/{front}", home(1));
    let bus = Bus::new(machine.domain(2));
    let mut device = Back::new(End::back(&bus, &back).unwrap());
    while bus.poll() | device.poll() {}
    let (mut link, page, end) = large_transaction(&mut server.lock());
    let write = format!("{front}/state\x001");
    let owner = Rights::new(&[(1, Permission::None), (2, Permission::Read)]).unwrap();
    let toolstack = server.lock().connect(0, true, None);
    server.lock().set_rights(toolstack, NONE, &format!("{front}/state"), owner).unwrap();
    send(&page, &message(abi::XS_WRITE, 0, write.as_bytes()).to_bytes());
    send(&page, &end.to_bytes());
    let (mut input, mut most, mut rounds) = (Vec::new(), 0, 0);
    loop {
        let before = server.lock().steps();
        let mut moved = bus.poll() | device.poll();
        most = most.max(server.lock().steps() - before);
        moved |= serve(&mut server.lock(), &mut link);
        receive(&page, &mut input);
        rounds += 1;
        if !moved {
            break;
        }
    }
    assert!(rounds > 100 && most <= work::BUDGET, "{rounds} rounds, {most} steps of one operation");
    let state = machine.domain(2).store().read(Transaction::NONE, &format!("{back}/state")).unwrap();
    assert_eq!(State::from_node(&state), State::InitWait);
    assert!(device.is_closed() || !device.is_connected());
}

/// Clients that defer wait for a commit as others do, and make it as much shorter.
#[test]
fn clients_that_defer_give_a_commit_their_budgets() {
    let server = Arc::new(spin::Mutex::new(Server::default()));
    let own = [1, 2].map(|_| Local::deferring(&server, 9, true));
    let (mut link, page, end) = large_transaction(&mut server.lock());
    send(&page, &end.to_bytes());
    serve(&mut server.lock(), &mut link);
    let mut rounds = 0;
    while !own[0].is_ready() {
        let before = server.lock().steps();
        server.lock().poll();
        let steps = server.lock().steps() - before;
        assert!(steps <= 2 * MOST, "{steps} steps at once");
        serve(&mut server.lock(), &mut link);
        rounds += 1;
    }
    assert!((100..180).contains(&rounds), "{rounds} rounds");
    // Beyond the budgets: not the end, which is the committer's.
    assert!(!server.lock().go_on());
    let (mut link, page, end) = large_transaction(&mut server.lock());
    send(&page, &end.to_bytes());
    serve(&mut server.lock(), &mut link);
    assert!(server.lock().go_on() && server.lock().is_busy());
    while server.lock().go_on() {}
    assert!(server.lock().is_busy() && !own[0].is_ready());
    serve(&mut server.lock(), &mut link);
    assert!(own[0].is_ready() && !server.lock().is_busy());
}

/// A domain makes nodes in front of the walk that forgets another one, and removes those behind it.
#[test]
fn nodes_that_are_made_meanwhile_keep_no_domain_from_being_forgotten() {
    let mut server = Server::default();
    let toolstack = server.connect(0, true, None);
    for domain in [1, 2] {
        server.mkdir(toolstack, NONE, &home(domain)).unwrap();
        server.set_rights(toolstack, NONE, &home(domain), Rights::private(domain)).unwrap();
    }
    let two = server.connect(2, false, None);
    let chain = |number: u32| format!("data/c{number:04}{}", "/a".repeat(58));
    (0..14).for_each(|number| server.mkdir(two, NONE, &chain(number)).unwrap());
    server.begin_release(1);
    let forgotten = (14..2000u32).position(|number| {
        server.poll();
        server.remove(two, NONE, &format!("data/c{:04}", number - 14)).unwrap();
        server.mkdir(two, NONE, &chain(number)).unwrap();
        !server.is_forgetting(1)
    });
    assert!(forgotten.is_some_and(|rounds| rounds < 500), "{forgotten:?}");
}

/// Another domain causes more events than a round delivers.
#[test]
fn events_without_end_keep_no_request_waiting() {
    let mut server = Server::default();
    let (toolstack, connection, page) =
        (server.connect(0, true, None), server.connect(1, false, None), page());
    let mut link = Link::new(page.clone(), connection).unwrap();
    server.mkdir(toolstack, NONE, "/local/domain/1/w").unwrap();
    server.watch(connection, "/local", "w").unwrap();
    let (mut input, mut answers, mut events) = (Vec::new(), 0, 0);
    for round in 0..100 {
        for node in 0..20 {
            server.write(toolstack, NONE, &format!("/local/domain/1/w/{round}-{node}"), b"").unwrap();
        }
        if answers == round {
            send(&page, &message(abi::XS_GET_DOMAIN_PATH, 0, b"1\0").to_bytes());
        }
        serve(&mut server, &mut link);
        for came in messages(&page, &mut input) {
            let count = if came.kind == abi::XS_WATCH_EVENT { &mut events } else { &mut answers };
            *count += 1;
        }
    }
    assert!(answers >= 50 && events >= 500, "{answers} answers, {events} events");
}

/// The requests of a transaction of nothing, with others in between.
fn batch(id: u32, fillers: usize) -> Vec<u8> {
    let filler = message(abi::XS_GET_DOMAIN_PATH, 0, b"1\0").to_bytes();
    let end = message(abi::XS_TRANSACTION_END, id, b"T\0").to_bytes();
    [message(abi::XS_TRANSACTION_START, 0, b"\0").to_bytes(), filler.repeat(fillers), end].concat()
}

/// One domain always has the next transaction to end: each begins with the last message of a call and is committed by the
/// next call.
#[test]
fn one_commit_after_the_other_leaves_the_others_their_turn() {
    for fillers in [13, 14] {
        let server = Arc::new(spin::Mutex::new(Server::default()));
        let own = Local::deferring(&server, 9, true);
        let link = |domain| {
            let (connection, page) = (server.lock().connect(domain, false, None), page());
            (Link::new(page.clone(), connection).unwrap(), page, Vec::new())
        };
        let mut links = [link(1), link(2)];
        // 16 messages at first; from then on the answer to the last transaction is one more.
        let mut stream = batch(1, 14);
        (2..200).for_each(|id| stream.extend(batch(id, fillers)));
        let (mut ended, mut ready, mut answers, mut asked) = (0, 0, 0, 0);
        for _ in 0..100 {
            server.lock().poll();
            for (domain, (link, page, input)) in (1..).zip(&mut links) {
                if domain == 1 {
                    let sent = send(page, &stream);
                    stream.drain(..sent);
                } else if asked == answers {
                    asked += 1;
                    send(page, &message(abi::XS_GET_DOMAIN_PATH, 0, b"2\0").to_bytes());
                }
                serve(&mut server.lock(), link);
                let came = messages(page, input);
                if domain == 1 {
                    ended += came.iter().filter(|it| it.kind == abi::XS_TRANSACTION_END).count();
                } else {
                    answers += came.len();
                }
                ready += usize::from(own.is_ready());
            }
        }
        assert!(ended >= 20, "{ended} commits");
        assert!(answers >= 40 && ready >= 40, "{answers} answers, ready {ready} times");
    }
}

/// The same beside domains that end a transaction of their own now and then, in every order: what they owe is over when those who
/// waited for *it* had their turn.
#[test]
fn who_owed_turns_once_is_served_beside_one_commit_after_the_other() {
    for place in 0..4 {
        let mut server = Server::default();
        let mut links: Vec<_> = (1..=4)
            .map(|domain| {
                let (connection, page) = (server.connect(domain, false, None), page());
                (Link::new(page.clone(), connection).unwrap(), page, Vec::new(), 0, 0)
            })
            .collect();
        let mut stream = batch(1, 14);
        (2..400).for_each(|id| stream.extend(batch(id, 14)));
        for _ in 0..200 {
            server.poll();
            for (index, (link, page, input, asked, answers)) in links.iter_mut().enumerate() {
                if index == place {
                    let sent = send(page, &stream);
                    stream.drain(..sent);
                } else if asked == answers {
                    // The fourth and fifth are a transaction.
                    let (requests, more) = match *asked {
                        3 => (batch(1, 0), 2),
                        _ => (message(abi::XS_GET_DOMAIN_PATH, 0, b"2\0").to_bytes(), 1),
                    };
                    *asked += more;
                    send(page, &requests);
                }
                serve(&mut server, link);
                *answers += messages(page, input).len();
            }
        }
        for (index, (.., answers)) in links.iter().enumerate() {
            assert!(*answers >= 40, "{answers} answers to {index}, behind {place}");
        }
    }
}

/// Who waits for the others' turn is asked again, without an event, when they had it.
#[test]
fn who_owes_the_others_a_turn_is_not_forgotten() {
    let mut server = Server::default();
    let mut links: Vec<_> = (1..=3)
        .map(|domain| {
            let (connection, page) = (server.connect(domain, false, None), page());
            (Link::new(page.clone(), connection).unwrap(), page)
        })
        .collect();
    for committer in [0, 1] {
        let connection = links[committer].0.connection();
        let t = server.begin(connection).unwrap();
        let end = message(abi::XS_TRANSACTION_END, t.0, b"T\0");
        assert!(server.request(connection, &end).is_none());
        for index in (0..3).filter(|index| *index != committer).chain([committer]) {
            serve(&mut server, &mut links[index].0);
        }
        assert!(server.committing.is_none() && server.owes_turns(connection));
    }
    send(&links[0].1, &message(abi::XS_GET_DOMAIN_PATH, 0, b"1\0").to_bytes());
    let (mut rounds, mut input) = (0, Vec::new());
    while links.iter_mut().fold(false, |moved, (link, _)| serve(&mut server, link) | moved) {
        rounds += 1;
        assert!(rounds < 10);
    }
    assert_eq!(messages(&links[0].1, &mut input).len(), 1);
}

/// A domain begins anew in each round while another one's transaction is being committed.
#[test]
fn a_domain_that_begins_anew_again_and_again_leaves_no_work_behind() {
    let mut server = Server::default();
    let two = server.connect(2, false, None);
    let (_link, _page, end) = large_transaction(&mut server);
    let one = Connection(server.last_connection);
    assert!(server.request(one, &end).is_none() && server.committing == Some(one));
    let page = page();
    let mut link = Link::new(page.clone(), two).unwrap();
    for _ in 0..1000 {
        page[517].store(abi::XENSTORE_RECONNECT, SeqCst);
        serve(&mut server, &mut link);
    }
    assert_eq!(server.clients[&two].jobs.len(), 1);
}

/// An operation that could not wait makes the changes of the commit, and leaves all that follows from them.
#[test]
fn who_defers_leaves_what_follows_from_a_commit() {
    let server = Arc::new(spin::Mutex::new(Server::default()));
    let own = Local::deferring(&server, 9, true);
    own.write(Transaction::NONE, "x", b"x").unwrap();
    while server.lock().poll() {}
    assert!(own.is_ready());
    let (mut link, page, end) = large_transaction(&mut server.lock());
    send(&page, &end.to_bytes());
    serve(&mut server.lock(), &mut link);
    assert!(!own.is_ready());
    own.read(Transaction::NONE, "x").unwrap();
    let mut server = server.lock();
    assert!(server.committing.is_none() && server.must_wait(link.connection()), "watchers are told later");
    let (mut input, mut told) = (Vec::new(), 0);
    while serve(&mut server, &mut link) {
        told += messages(&page, &mut input).iter().filter(|it| it.kind == abi::XS_WATCH_EVENT).count();
    }
    assert!(told >= 128, "{told}");
}

#[test]
fn watchers_of_what_the_driver_domain_writes_are_told_in_steps() {
    let server = Arc::new(spin::Mutex::new(Server::default()));
    let own = Local::deferring(&server, 9, true);
    own.write(Transaction::NONE, "/a", b"").unwrap();
    let readable = [(9, Permission::Read)];
    own.set_permissions(Transaction::NONE, "/a", &readable).unwrap();
    while server.lock().poll() {}
    let mut watchers = Vec::new();
    for domain in 1..=8 {
        let mut server = server.lock();
        let connection = server.connect(domain, false, None);
        (0..128).for_each(|n| server.watch(connection, "/", &n.to_string()).unwrap());
        events(&mut server, connection);
        watchers.push(connection);
    }
    let mut most = 0;
    let mut count = |work: &mut dyn FnMut() -> bool| {
        let before = server.lock().steps();
        let worked = work();
        most = most.max(server.lock().steps() - before);
        worked
    };
    for commit in [false, true] {
        let t = if commit { own.begin().unwrap() } else { Transaction::NONE };
        count(&mut || own.write(t, "/a", b"x").is_ok());
        if commit {
            count(&mut || own.end(t, true).is_ok());
        }
        while count(&mut || server.lock().poll()) {}
        for connection in &watchers {
            assert_eq!(events(&mut server.lock(), *connection).len(), 128);
        }
    }
    assert!(most <= work::BUDGET + 16, "{most} steps at once");
}

/// What a commit has changed may be changed back: the way through the tree after a domain's end waits.
#[test]
fn a_domain_that_ends_during_anothers_commit_leaves_nothing() {
    for steps in 1..60 {
        let (mut server, toolstack, one, two) = world();
        let open = |owner| Rights::new(&[(owner, Permission::Both)]).unwrap();
        server.write(toolstack, NONE, "/shared", b"").unwrap();
        server.set_rights(toolstack, NONE, "/shared", open(0)).unwrap();
        server.write(one, NONE, "/shared/a", b"mine").unwrap();
        server.set_rights(one, NONE, "/shared/a", open(1)).unwrap();
        (0..20).for_each(|n| server.mkdir(one, NONE, &format!("/shared/a/{n}")).unwrap());
        // Removes the node of domain 1, and does not fit any more afterwards.
        let t = server.begin(two).unwrap();
        server.remove(two, t, "/shared/a").unwrap();
        (0..995).for_each(|n| server.write(two, t, &format!("n{n}"), b"").unwrap());
        (0..20).for_each(|n| server.mkdir(two, NONE, &format!("o{n}")).unwrap());
        assert!(server.request(two, &message(abi::XS_TRANSACTION_END, t.0, b"T\0")).is_none());
        server.run(Some(two), server.steps() + 500 * steps);
        if server.committing.is_none() {
            assert!(steps > 10);
            return;
        }
        server.begin_release(1);
        while server.poll() {}
        server.finish(Some(two));
        while server.poll() {}
        assert_eq!(server.accounts.of(1), Default::default(), "after {steps} times 500 steps");
        assert_eq!(server.read(toolstack, NONE, "/shared/a"), Err(Errno::ENOENT));
    }
    panic!("the commit never ends");
}

#[test]
fn each_name_of_a_list_is_a_step() {
    let (mut server, _, one, _) = world();
    (0..900).for_each(|n| server.mkdir(one, NONE, &format!("d/{n:03}")).unwrap());
    let page = page();
    let mut link = Link::new(page.clone(), one).unwrap();
    // The end of the list, again and again.
    let request = message(abi::XS_DIRECTORY_PART, 0, format!("d\0{}\0", 900 * 4 - 1).as_bytes());
    (0..8).for_each(|_| assert_eq!(send(&page, &request.to_bytes()), request.to_bytes().len()));
    let (mut input, mut answers) = (Vec::new(), 0);
    while serve(&mut server, &mut link) {
        let now = messages(&page, &mut input);
        assert!(now.len() <= 1, "{} lists in a round", now.len());
        assert!(now.iter().all(|answer| answer.payload.ends_with(b"\0\0")));
        answers += now.len();
    }
    assert_eq!(answers, 8);
}

#[test]
fn watches_of_those_who_may_not_know_cost_a_change_little() {
    let (mut server, _, one, two) = world();
    server.write(two, NONE, "a/b", b"").unwrap();
    let cost = |server: &mut Server| {
        let before = server.steps();
        server.write(two, NONE, "a/b", b"x").unwrap();
        server.steps() - before
    };
    let alone = cost(&mut server);
    let others: Vec<_> = (3..=9).map(|domain| server.connect(domain, false, None)).collect();
    for connection in others.iter().chain([&one]) {
        // An empty token is a token, and the first of all.
        server.watch(*connection, "/", "").unwrap();
        (0..127).for_each(|n| server.watch(*connection, "/", &n.to_string()).unwrap());
        events(&mut server, *connection);
    }
    server.watch(two, "/", "").unwrap();
    server.watch(two, "/", "t").unwrap();
    events(&mut server, two);
    let (with, told) = (cost(&mut server), events(&mut server, two));
    assert!(with < alone + 20, "{with} steps instead of {alone}");
    assert_eq!(told, pairs(&[("/local/domain/2/a/b", ""), ("/local/domain/2/a/b", "t")]));
    assert!(others.iter().all(|connection| events(&mut server, *connection).is_empty()));
}

/// The more domains wait for a commit, the sooner it is over.
#[test]
fn those_who_wait_for_a_commit_work_on_it() {
    let rounds = |waiting: u16| {
        let mut server = Server::default();
        let (link, own, end) = large_transaction(&mut server);
        send(&own, &end.to_bytes());
        let mut links = vec![(link, own)];
        for domain in 2..2 + waiting {
            let (connection, page) = (server.connect(domain, false, None), page());
            send(&page, &message(abi::XS_GET_DOMAIN_PATH, 0, b"1\0").to_bytes());
            links.push((Link::new(page.clone(), connection).unwrap(), page));
        }
        let (mut rounds, mut answers) = (0, Vec::new());
        while !messages(&links[0].1, &mut answers).iter().any(|it| it.kind == abi::XS_TRANSACTION_END) {
            for (link, _) in &mut links {
                serve(&mut server, link);
            }
            rounds += 1;
        }
        rounds
    };
    let (alone, beside) = (rounds(0), rounds(7));
    assert!(alone > 200 && beside * 4 < alone, "{beside} rounds instead of {alone}");
}
