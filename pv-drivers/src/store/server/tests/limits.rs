//! What a domain makes the server keep: counted in bytes, refused beyond its quota, and given back.

use super::*;

/// Calls `step` until it is refused for want of room; how often it was not.
fn until_full(mut step: impl FnMut(usize) -> Result<(), Errno>) -> usize {
    for n in 0..100_000 {
        match step(n) {
            Ok(()) => {}
            Err(Errno::ENOSPC) => return n,
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("never refused");
}

/// Another domain is served still.
fn check(server: &mut Server, other: Connection) {
    server.write(other, NONE, "still", b"here").unwrap();
    let t = server.begin(other).unwrap();
    server.write(other, t, "still", b"here").unwrap();
    server.end(other, t, true).unwrap();
}

#[test]
fn names_count() {
    let (mut server, _, one, two) = world();
    let name = format!("{}/{}", home(1), "n".repeat(2900));
    let made = until_full(|n| server.mkdir(one, NONE, &format!("{name}{n}")));
    assert!(made * 2900 < Quota::default().bytes, "{made} nodes");
    check(&mut server, two);
}

#[test]
fn transactions_count_with_all_that_they_hold() {
    let (mut server, toolstack, one, two) = world();
    let base = server.accounts.of(1);
    for n in 0..900 {
        server.write(one, NONE, &format!("d/{n}"), b"").unwrap();
    }
    let all: Vec<_> = (0..10).map(|_| server.begin(one).unwrap()).collect();
    let mut refused = 0;
    for n in 0..1000 {
        for t in &all {
            let path = format!("d/{}/{}", n % 900, "p".repeat(60));
            refused += usize::from(server.write(one, *t, &path, &[1; 60]) == Err(Errno::ENOSPC));
        }
        // Whoever else changes something there makes nobody keep the old one.
        server.write(toolstack, NONE, &format!("{}/d/{}", home(1), n % 900), b"x").unwrap();
    }
    assert!(refused > 0);
    assert!(server.accounts.of(1).bytes <= Quota::default().bytes);
    check(&mut server, two);
    for t in all {
        server.end(one, t, false).unwrap();
    }
    server.remove(one, NONE, "d").unwrap();
    assert_eq!(server.accounts.of(1), base, "all is given back");
}

#[test]
fn watches_and_events_count() {
    let quota = Quota { bytes: 200 << 10, watches: 100_000, ..Quota::default() };
    let mut server = Server::new(quota);
    let toolstack = server.connect(0, true, None);
    for domain in [1, 2] {
        server.mkdir(toolstack, NONE, &home(domain)).unwrap();
        server.set_rights(toolstack, NONE, &home(domain), Rights::private(domain)).unwrap();
    }
    let (one, two) = (server.connect(1, false, None), server.connect(2, false, None));
    let base = server.accounts.of(1);
    let made = until_full(|n| server.watch(one, "w", &format!("{n}")));
    assert!(made > 50 && made * account::WATCH < quota.bytes, "{made} watches");
    assert!(server.accounts.of(1).bytes <= quota.bytes);
    let waiting = events(&mut server, one).len();
    assert!(waiting > 10 && waiting <= made, "{waiting} of {made} found room");
    check(&mut server, two);
    server.reset(one).unwrap();
    assert_eq!(server.accounts.of(1), base, "all is given back");
}

#[test]
fn an_owner_is_charged_for_what_others_write_and_others_are_refused() {
    let quota = Quota { bytes: 100 << 10, ..Quota::default() };
    let mut server = Server::new(quota);
    let toolstack = server.connect(0, true, None);
    for domain in [1, 2] {
        server.mkdir(toolstack, NONE, &home(domain)).unwrap();
        server.set_rights(toolstack, NONE, &home(domain), Rights::private(domain)).unwrap();
    }
    let (one, two) = (server.connect(1, false, None), server.connect(2, false, None));
    let open = Rights::new(&[(2, Permission::Both)]).unwrap();
    for n in 0..60 {
        server.write(two, NONE, &format!("{n}"), b"").unwrap();
        server.set_rights(two, NONE, &format!("{n}"), open.clone()).unwrap();
    }
    let written = until_full(|n| server.write(one, NONE, &format!("{}/{n}", home(2)), &[1; 2000]));
    assert!(written < 50, "{written} values");
    assert!(server.write(one, NONE, "own", &[1; 2000]).is_ok(), "it has room of its own");
    server.write(two, NONE, "0", b"").unwrap();
    assert!(server.write(one, NONE, &format!("{}/0", home(2)), &[1; 2000]).is_ok());
}

#[test]
fn a_commit_that_does_not_fit_changes_nothing() {
    let quota = Quota { bytes: 100 << 10, ..Quota::default() };
    let mut server = Server::new(quota);
    let toolstack = server.connect(0, true, None);
    server.mkdir(toolstack, NONE, &home(1)).unwrap();
    server.set_rights(toolstack, NONE, &home(1), Rights::private(1)).unwrap();
    let one = server.connect(1, false, None);
    server.write(one, NONE, "old", b"old").unwrap();
    server.write(one, NONE, "gone/below", b"").unwrap();
    let base = server.accounts.of(1);
    let t = server.begin(one).unwrap();
    server.write(one, t, "old", b"new").unwrap();
    server.remove(one, t, "gone").unwrap();
    server.set_rights(one, t, "old", Rights::new(&[(1, Permission::Read); 3]).unwrap()).unwrap();
    let written = until_full(|n| server.write(one, t, &format!("d/{n}"), &[1; 1500]));
    assert!(written > 20);
    assert_eq!(server.end(one, t, true), Err(Errno::ENOSPC));
    assert_eq!(server.read(one, NONE, "old"), Ok(b"old".to_vec()));
    assert_eq!(server.directory(one, NONE, "").map(|_| ()), Err(Errno::EINVAL));
    assert_eq!(server.directory(one, NONE, &home(1)).unwrap().0, ["gone", "old"]);
    assert_eq!(server.directory(one, NONE, "gone").unwrap().0, ["below"]);
    assert_eq!(server.rights(one, NONE, "old").unwrap().entries().len(), 1);
    assert_eq!(server.accounts.of(1), base);
}
