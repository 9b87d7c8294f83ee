//! A domain that is gone leaves its number to another one, and none of its rights.

use super::*;

const READ: (u16, Permission) = (1, Permission::Both);
const PRIVATE: (u16, Permission) = (0, Permission::None);

/// Domain 1 ends, and another one comes with its number.
fn again(server: &mut Server) -> Connection {
    server.release(1);
    server.connect(1, false, None)
}

fn rights(entries: &[(u16, Permission)]) -> Rights {
    Rights::new(entries).unwrap()
}

#[test]
fn special_watches_are_not_inherited() {
    let (mut server, toolstack, ..) = world();
    server.set_rights(toolstack, NONE, "@releaseDomain", rights(&[PRIVATE, READ])).unwrap();
    let new = again(&mut server);
    server.watch(new, "@releaseDomain", "t").unwrap();
    assert_eq!(events(&mut server, new).len(), 1, "the first comes to everybody");
    server.release(2);
    assert_eq!(events(&mut server, new), []);
    assert_eq!(server.rights(toolstack, NONE, "@releaseDomain").unwrap().entries(), [PRIVATE]);
}

#[test]
fn a_transaction_that_commits_later_gives_nothing_to_the_next_domain() {
    let (mut server, toolstack, one, two) = world();
    server.write(toolstack, NONE, "/shared", b"secret").unwrap();
    server.set_rights(toolstack, NONE, "/shared", rights(&[PRIVATE])).unwrap();
    let t = server.begin(toolstack).unwrap();
    server.set_rights(toolstack, t, "/shared", rights(&[PRIVATE, READ])).unwrap();
    server.write(two, NONE, "x", b"secret").unwrap();
    let u = server.begin(two).unwrap();
    server.set_rights(two, u, "x", rights(&[(2, Permission::None), READ])).unwrap();
    assert_eq!(server.read(one, NONE, "/shared"), Err(Errno::EACCES));
    let new = again(&mut server);
    assert_eq!(server.end(toolstack, t, true), Ok(()));
    assert_eq!(server.end(two, u, true), Ok(()));
    for path in ["/shared", "/local/domain/2/x"] {
        assert_eq!(server.read(new, NONE, path), Err(Errno::EACCES), "{path}");
        assert_eq!(server.rights(toolstack, NONE, path).unwrap().entries().len(), 1, "{path}");
        // Nor does what is made below.
        server.mkdir(toolstack, NONE, &format!("{path}/below")).unwrap();
        assert_eq!(server.read(new, NONE, &format!("{path}/below")), Err(Errno::EACCES));
    }
    // What is said of the new one holds.
    server.set_rights(two, NONE, "x", rights(&[(2, Permission::None), READ])).unwrap();
    assert!(server.read(new, NONE, "/local/domain/2/x").is_ok());
}

#[test]
fn a_transaction_does_not_make_a_dead_domain_an_owner() {
    let (mut server, toolstack, ..) = world();
    server.mkdir(toolstack, NONE, "/shared").unwrap();
    let t = server.begin(toolstack).unwrap();
    server.set_rights(toolstack, t, "/shared", Rights::private(1)).unwrap();
    let new = again(&mut server);
    assert_eq!(server.end(toolstack, t, true), Err(Errno::EAGAIN));
    assert_eq!(server.write(new, NONE, "/shared", b""), Err(Errno::EACCES));
}

#[test]
fn a_device_model_does_not_act_for_the_next_domain() {
    let (mut server, toolstack, _, two) = world();
    server.set_target(2, 1).unwrap();
    assert!(server.read(two, NONE, &home(1)).is_ok());
    let _new = again(&mut server);
    server.write(toolstack, NONE, &home(1), b"").unwrap();
    server.set_rights(toolstack, NONE, &home(1), Rights::private(1)).unwrap();
    assert_eq!(server.read(two, NONE, &home(1)), Err(Errno::EACCES));
    assert_eq!(server.set_target(2, 9), Err(Errno::ENOENT), "there is no such domain");
}

#[test]
fn a_domain_that_was_not_there_gets_nothing_by_being_named() {
    let (mut server, toolstack, one, _) = world();
    server.write(one, NONE, "x", b"").unwrap();
    let with_7 = rights(&[(1, Permission::None), (7, Permission::Both)]);
    server.set_rights(one, NONE, "x", with_7.clone()).unwrap();
    let seven = server.connect(7, false, None);
    let x = "/local/domain/1/x";
    assert_eq!(server.read(seven, NONE, x), Err(Errno::EACCES));
    assert_eq!(server.rights(toolstack, NONE, x).unwrap().entries(), [(1, Permission::None)]);
    server.set_rights(one, NONE, "x", with_7).unwrap();
    assert!(server.read(seven, NONE, x).is_ok(), "now it is there");
    // A toolstack knows of a domain first.
    let rights = rights(&[PRIVATE, (8, Permission::Read)]);
    server.set_rights(toolstack, NONE, "/", rights).unwrap();
    let eight = server.connect(8, false, None);
    assert!(server.read(eight, NONE, "/").is_ok());
}

#[test]
fn a_domain_is_forgotten_in_steps_and_before_its_number_is_used_again() {
    let (mut server, toolstack, one, two) = world();
    for n in 0..900 {
        server.write(one, NONE, &format!("n/{n}"), b"").unwrap();
        server.write(toolstack, NONE, &format!("/other/{n}"), b"").unwrap();
    }
    server.watch(toolstack, &home(1), "t").unwrap();
    server.watch(toolstack, "@releaseDomain", "t").unwrap();
    events(&mut server, toolstack);
    server.begin_release(1);
    let mut rounds = 0;
    loop {
        let before = server.steps();
        if !server.poll() {
            break;
        }
        assert!(server.steps() - before < 2 * work::BUDGET);
        assert!(server.read(two, NONE, &home(2)).is_ok(), "others are served meanwhile");
        rounds += 1;
    }
    assert!(rounds > 5, "{rounds}");
    assert_eq!(events(&mut server, toolstack), pairs(&[(&home(1), "t"), ("@releaseDomain", "t")]));
    assert_eq!(server.accounts.of(1), Default::default());
    // Now nobody polls, and the number is used at once.
    server.write(toolstack, NONE, &home(1), b"").unwrap();
    server.set_rights(toolstack, NONE, &home(1), Rights::private(1)).unwrap();
    server.begin_release(1);
    let new = server.connect(1, false, None);
    assert_eq!(server.read(toolstack, NONE, &home(1)), Err(Errno::ENOENT));
    assert!(server.write(new, NONE, "x", b"").is_err());
}
