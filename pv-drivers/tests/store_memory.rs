//! What one unprivileged domain can make the xenstore server hold, by the allocator's own count: no more than its quota, and
//! all of it comes back. By itself in its process, so that nothing else allocates.

use std::alloc::System;
use std::sync::Arc;

use cap::Cap;
use pv_drivers::store::server::{Local, Server};
use pv_drivers::store::{Permission, Store, Transaction};
use spin::Mutex;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

const NONE: Transaction = Transaction::NONE;

/// Does all that may fill the server's memory, whatever is refused.
fn fill(guest: &Local) {
    let name = |n: usize| format!("d/{n:03}{}", "n".repeat(250));
    for n in 0..1000 {
        let _ = guest.write(NONE, &name(n), &[n as u8; 200]);
    }
    let rights: Vec<_> = (0..5).map(|other| (1 + other % 2, Permission::Read)).collect();
    let transactions: Vec<_> = (0..10).filter_map(|_| guest.begin().ok()).collect();
    for (k, transaction) in transactions.iter().enumerate() {
        for n in 0..400 {
            let _ = guest.write(*transaction, &name((n * 7 + k) % 1000), &[k as u8; 200]);
            let _ = guest.read(*transaction, &name((n * 11 + k) % 1000));
            let _ = guest.mkdir(*transaction, &format!("e/{n}/{k}/x/y/z"));
            let _ = guest.set_permissions(*transaction, &name(n), &rights);
        }
        // The tree changes under each of them.
        for n in 0..1000 {
            let _ = guest.write(NONE, &name(n), &[k as u8; 190]);
        }
    }
    for n in 0..128 {
        let _ = guest.watch(&format!("w/{}", "w".repeat(500)), &format!("{n}{}", "t".repeat(500)));
    }
    for n in 0..3000 {
        let _ = guest.write(NONE, &format!("w/{}/{n}", "w".repeat(500)), b"");
        let _ = guest.remove(NONE, &format!("w/{}/{n}", "w".repeat(500)));
    }
}

#[test]
fn a_domain_holds_no_more_than_its_quota() {
    let server = Arc::new(Mutex::new(Server::default()));
    let toolstack = Local::new(&server, 0, true, None);
    toolstack.mkdir(NONE, "/local/domain/1").unwrap();
    toolstack.set_permissions(NONE, "/local/domain/1", &[(1, Permission::None)]).unwrap();
    let before = MEMORY.allocated();
    let guest = Local::new(&server, 1, false, None);
    fill(&guest);
    let held = MEMORY.allocated() - before;
    // 2 MiB, as xenstored; a transaction of the versions before held more than that by itself.
    assert!(held <= 2 << 20, "{held} bytes");
    assert!(held > 1 << 20, "{held} bytes: it was refused too early");
    // Others are served.
    toolstack.write(NONE, "/other", b"here").unwrap();
    drop(guest);
    server.lock().release(1);
    let left = MEMORY.allocated() - before;
    assert!(left < 64 << 10, "{left} bytes are left");
}
