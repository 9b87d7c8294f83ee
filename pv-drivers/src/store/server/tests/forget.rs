//! Forgetting a domain that ended: how much work that is, and what keeps it waiting.

use super::*;

/// A toolstack, and domains 1 to `count` with a directory each.
fn domains(server: &mut Server, count: u16) -> (Connection, Vec<Connection>) {
    let toolstack = server.connect(0, true, None);
    for domain in 1..=count {
        server.mkdir(toolstack, NONE, &home(domain)).unwrap();
        server.set_rights(toolstack, NONE, &home(domain), Rights::private(domain)).unwrap();
    }
    (toolstack, (1..=count).map(|domain| server.connect(domain, false, None)).collect())
}

/// Makes as many nodes for a domain as it may have, as deep as they may be.
fn fill(server: &mut Server, connection: Connection) {
    let base = format!("data{}", "/a".repeat(59));
    let made = (0..1000).take_while(|n| server.mkdir(connection, NONE, &format!("{base}/n{n:03}")).is_ok());
    assert!(made.count() > 900);
}

fn message(kind: u32, transaction: u32, payload: &str) -> Vec<u8> {
    let payload = format!("{payload}\0").into_bytes();
    Message { kind, request: 1, transaction, payload }.to_bytes()
}

/// The server with ten domains that have as much as they may, when an eleventh ended.
fn full() -> Server {
    let mut server = Server::default();
    let (_, all) = domains(&mut server, 11);
    all[1..].iter().for_each(|connection| fill(&mut server, *connection));
    server.begin_release(1);
    assert!(server.is_forgetting(1));
    server
}

#[test]
fn a_domain_is_forgotten_in_few_rounds_although_the_others_have_all_that_they_may() {
    let mut server = full();
    let rounds = (0..4000).take_while(|_| {
        server.poll();
        server.is_forgetting(1)
    });
    let rounds = rounds.count();
    assert!(rounds < 100, "{rounds} rounds");
}

/// A loop whose rounds are long gives it time as well.
#[test]
fn the_work_of_no_client_is_gone_on_with() {
    let mut server = full();
    assert!(server.is_busy());
    while server.go_on() {}
    assert!(!server.is_forgetting(1) && !server.is_busy() && !server.poll());
}

/// Domains that work together make nodes below older ones, where the walk comes next, and remove those behind it.
#[test]
fn nodes_below_older_ones_keep_no_domain_from_being_forgotten() {
    const PARENTS: usize = 300;
    const CHILDREN: usize = 120;
    let mut server = Server::default();
    let (_, all) = domains(&mut server, 4);
    let base = format!("{}/data{}", home(2), "/a".repeat(58));
    server.mkdir(all[1], NONE, &base).unwrap();
    let shared = [(2, Permission::None), (3, Permission::Both), (4, Permission::Both)];
    for (at, _) in base.match_indices('/').skip(3).chain([(base.len(), "")]) {
        server.set_rights(all[1], NONE, &base[..at], Rights::new(&shared).unwrap()).unwrap();
    }
    (0..PARENTS).for_each(|n| server.mkdir(all[1], NONE, &format!("{base}/p{n:04}")).unwrap());
    let mut guests: Vec<_> = all[1..]
        .iter()
        .map(|connection| {
            let page = page();
            (Link::new(page.clone(), *connection).unwrap(), page, Vec::<u8>::new(), 0)
        })
        .collect();
    server.begin_release(1);
    let (mut rounds, mut input) = (0, Vec::new());
    while server.is_forgetting(1) && rounds < 1000 {
        server.poll();
        for (who, (link, page, out, number)) in guests.iter_mut().enumerate() {
            while out.len() < 1000 && *number < PARENTS * CHILDREN {
                let (parent, child) = (*number / CHILDREN, *number % CHILDREN);
                if child == 0 && who == parent % 3 && parent >= 3 {
                    out.extend(message(abi::XS_RM, 0, &format!("{base}/p{:04}", parent - 3)));
                }
                out.extend(message(abi::XS_MKDIR, 0, &format!("{base}/p{parent:04}/n{child:03}{who}")));
                *number += 1;
            }
            let sent = send(page, out);
            out.drain(..sent);
            link.serve(&mut server);
            receive(page, &mut input);
            input.clear();
        }
        rounds += 1;
    }
    assert!(rounds < 50, "{rounds} rounds");
}

/// Nor do transactions that are committed one after the other: it waits for one of them, and has as much of the time then.
#[test]
fn a_commit_after_the_other_keeps_no_domain_from_being_forgotten() {
    let mut server = Server::default();
    let (toolstack, all) = domains(&mut server, 8);
    all[5..].iter().for_each(|connection| fill(&mut server, *connection));
    let deep = format!("data{}", "/x".repeat(58));
    let mut links: Vec<_> = all[1..5]
        .iter()
        .map(|connection| {
            let (page, mut ends) = (page(), Vec::new());
            server.mkdir(*connection, NONE, &deep).unwrap();
            for n in 0..8 {
                let t = server.begin(*connection).unwrap();
                (0..200).for_each(|_| server.write(*connection, t, &format!("{deep}/{n}"), b"x").unwrap());
                ends.extend(message(abi::XS_TRANSACTION_END, t.0, "T"));
            }
            assert_eq!(send(&page, &ends), ends.len());
            (Link::new(page.clone(), *connection).unwrap(), page, Vec::new(), 0)
        })
        .collect();
    server.write(toolstack, NONE, "/waits", b"").unwrap();
    server.begin_release(1);
    let mut rounds = 0;
    let mut round = |server: &mut Server| {
        server.poll();
        for (link, page, input, ended) in &mut links {
            link.serve(server);
            receive(page, input);
            while let Some(answer) = Message::take(input).unwrap() {
                assert_eq!(answer.payload, b"OK\0");
                *ended += 1;
            }
        }
        rounds += 1;
        assert!(rounds < 10_000);
        links.iter().map(|(.., ended)| *ended).sum::<usize>()
    };
    let mut ended = 0;
    while server.is_forgetting(1) {
        ended = round(&mut server);
    }
    assert!(ended <= 2, "{ended} commits before it was forgotten");
    while round(&mut server) < 32 {}
}

/// What is made below a node whose owner is gone has an owner that is there.
#[test]
fn nothing_is_made_for_a_domain_that_is_gone() {
    let (mut server, toolstack, ..) = world();
    server.begin_release(1);
    // Before the walk comes there.
    let below = format!("{}/below", home(1));
    server.mkdir(toolstack, NONE, &below).unwrap();
    server.set_rights(toolstack, NONE, &home(1), Rights::private(0)).unwrap();
    while server.poll() {}
    let new = server.connect(1, false, None);
    server.write(toolstack, NONE, &format!("{below}/x"), b"secret").unwrap();
    assert_eq!(server.rights(toolstack, NONE, &below).unwrap().owner(), 0);
    assert_eq!(server.read(new, NONE, &format!("{below}/x")), Err(Errno::EACCES));
}

/// The paths and owners of all nodes that name a domain in their rights.
fn naming(node: &tree::Node, path: &str, domain: u16, found: &mut Vec<String>) {
    if node.rights.entries().iter().any(|(other, _)| *other == domain) {
        found.push(path.to_string());
    }
    for (name, child) in (0..).map_while(|place| node.children.at(place)) {
        naming(child, &format!("{path}/{name}"), domain, found);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is removed and made again in front of the walk and behind it.
    #[test]
    fn all_that_names_a_domain_is_found_whatever_changes_meanwhile(
        before in prop::collection::vec((0..4usize, 0..4usize, 0..4usize, 0..5usize), 1..60),
        meanwhile in prop::collection::vec((0..4usize, 0..4usize, 0..4usize, 0..5usize), 0..60),
    ) {
        let (mut server, toolstack, ..) = world();
        let act = |server: &mut Server, (a, b, c, what): (usize, usize, usize, usize), is_there: bool| {
            let path = [format!("/t/{a}"), format!("/t/{a}/{b}"), format!("/t/{a}/{b}/{c}")][(a + c + what) % 3].clone();
            let entries = [(0, Permission::Read), (1, Permission::Read), (2, Permission::Read)];
            let rights = [&entries[1..], &entries[..], &entries[..1]];
            match what {
                0 => { let _ = server.remove(toolstack, NONE, &path); }
                1 | 2 if is_there => {
                    server.mkdir(toolstack, NONE, &path).unwrap();
                    server.set_rights(toolstack, NONE, &path, Rights::new(rights[what - 1]).unwrap()).unwrap();
                }
                1..=3 => server.mkdir(toolstack, NONE, &path).unwrap(),
                _ => server.write(toolstack, NONE, &path, b"x").unwrap(),
            }
        };
        before.into_iter().for_each(|op| act(&mut server, op, true));
        server.begin_release(1);
        for op in meanwhile {
            act(&mut server, op, false);
            server.run(None, server.steps() + 1);
        }
        while server.poll() {}
        let mut found = vec![];
        naming(&server.tree.root, "", 1, &mut found);
        prop_assert_eq!(found, Vec::<String>::new());
        prop_assert_eq!(server.accounts.of(1), account::Account::default());
    }
}
