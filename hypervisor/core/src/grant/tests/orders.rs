//! Model checks: a granter takes an entry back at the moment at which the hypervisor begins to use it.

use crate::grant::User;
use crate::grant::entry::{StatusWord, set_v1, set_v2};
use crate::ids::DomId;
use crate::sync::Word;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;
use xen_abi::grant_table::*;

const IN_USE: u64 = (GTF_READING | GTF_WRITING) as u64;
/// A grant for domain 3, whose flags the low 16 bits are.
const ENTRY: u64 = 7 << 32 | 3 << 16 | GTF_PERMIT_ACCESS as u64;
const FLAGS: u64 = 0xffff;

fn user(readonly: bool) -> User {
    User { domain: DomId(3), readonly }
}

/// The granter of version 1 takes the flags away unless the entry is in use; answers whether it has the page back.
fn revoke_v1(word: &AtomicU64) -> bool {
    let mut old = word.read();
    loop {
        if old & IN_USE != 0 {
            return false;
        }
        match word.replace(old, old & !FLAGS) {
            Ok(_) => return true,
            Err(now) => old = now,
        }
    }
}

/// Version 1: either the hypervisor uses the entry or the granter has it back, never both and never neither.
#[test]
fn version_1_is_used_or_revoked() {
    for readonly in [false, true] {
        loom::model(move || {
            let word = Arc::new(AtomicU64::new(ENTRY));
            let shared = word.clone();
            let hypervisor = thread::spawn(move || set_v1(&*shared, user(readonly), false, true).is_ok());
            let revoked = revoke_v1(&word);
            assert_ne!(hypervisor.join().unwrap(), revoked);
            assert_eq!(word.read() & IN_USE != 0, !revoked);
        });
    }
}

/// Version 1: a granter that makes the entry read-only meanwhile is obeyed, or sees that it is being written.
#[test]
fn version_1_turns_read_only() {
    loom::model(|| {
        let word = Arc::new(AtomicU64::new(ENTRY));
        let shared = word.clone();
        let hypervisor = thread::spawn(move || set_v1(&*shared, user(false), false, true).is_ok());
        let before = word.set_bits(GTF_READONLY.into());
        let writes = hypervisor.join().unwrap();
        assert_eq!(writes, before & u64::from(GTF_WRITING) != 0);
    });
}

/// Version 2: the granter clears the entry, then looks at the status. It never has the page back while the hypervisor uses it, and
/// what is refused leaves no flags.
#[test]
fn version_2_is_not_used_and_revoked() {
    for shift in [0, 48] {
        loom::model(move || {
            let words = Arc::new([AtomicU64::new(ENTRY), AtomicU64::new(0)]);
            let shared = words.clone();
            let hypervisor = thread::spawn(move || {
                let status = StatusWord { word: &shared[1], shift };
                set_v2(&shared[0], &status, user(false), false, true).is_ok()
            });
            words[0].clear_bits(FLAGS);
            let revoked = words[1].read() >> shift & IN_USE == 0;
            let used = hypervisor.join().unwrap();
            assert!(!(used && revoked));
            assert_eq!(words[1].read(), if used { IN_USE << shift } else { 0 });
        });
    }
}
