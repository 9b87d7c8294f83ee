//! Model checks: every order in which two CPUs meet at the two words of one frame. What the CPUs do to the words is the shipped code
//! of `refs.rs` and `types.rs`; around it stand only the steps of the methods that need a whole hypervisor.

use crate::ids::DomId;
use crate::page::refs::FirstWritable;
use crate::page::types::Claim;
use crate::page::{Count, FrameInfo, PageType, Type};
use crate::sync::{Contested, Turns, Word};
use core::cell::Cell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

const OWNER: DomId = DomId(5);
const OTHER: DomId = DomId(6);
/// When the frame lost its last type, before.
const STAMP: u32 = 7;

type Frame = FrameInfo<AtomicU64>;

fn frame(count: Count, type_: Type) -> Arc<Frame> {
    Arc::new(FrameInfo { count: AtomicU64::new(count.0), type_: AtomicU64::new(type_.0) })
}

/// A frame that the hypervisor shares with its owner, mapped writable `mappings` times.
fn shared(mappings: u64) -> Arc<Frame> {
    let frame = frame(Count::XENS, Type(0));
    frame.share(OWNER);
    frame.type_.add(mappings);
    frame
}

/// Drops an ordinary reference; answers whether the frame is free.
fn put(frame: &Frame) -> bool {
    let refs = frame.put();
    assert_ne!(refs, 0, "dropped twice");
    refs == 1
}

/// Drops a writable mapping; answers whether the frame is free.
fn unmap(frame: &Frame) -> bool {
    while !frame.try_put_live() {
        let word = frame.type_word();
        assert_ne!(word.count(), 0, "dropped twice");
        if word.count() == 1 && frame.swap_type(word, word.at_rest(STAMP)) {
            return put(frame);
        }
    }
    false
}

/// Maps the frame writable as a page of `owner`.
fn map(frame: &Frame, owner: DomId) -> bool {
    if frame.try_get_live(PageType::Writable) {
        if frame.count().owner() == owner {
            return true;
        }
        unmap(frame);
        return false;
    }
    match frame.try_first_writable(owner) {
        FirstWritable::Won => true,
        FirstWritable::Lost => {
            put(frame);
            false
        }
        FirstWritable::Not => take(frame, owner, PageType::Writable).is_some(),
    }
}

/// Takes a type by the long way. For a table or a descriptor page the answer is whether this CPU made it one, and whether CPUs
/// were flushed before.
fn take(frame: &Frame, owner: DomId, t: PageType) -> Option<bool> {
    take_coherent(frame, owner, t, || panic!("never written past the caches"))
}

/// As [`take`], for a frame that may be incoherent.
fn take_coherent(frame: &Frame, owner: DomId, t: PageType, write_back: impl Fn()) -> Option<bool> {
    frame.try_get(owner).ok()?;
    let flushed = Cell::new(false);
    let flush = |stamp| {
        assert_eq!(stamp, STAMP);
        flushed.set(true);
    };
    let busy =
        |word: Type| (word.page_type() != t).then_some(Claim::Refused(crate::page::PageError::WrongType));
    match frame.claim(t, flush, write_back, busy) {
        Claim::First => Some(flushed.get()),
        Claim::Ours(_) => {
            frame.set_type(Type::first(t));
            Some(flushed.get())
        }
        Claim::Shared => {
            put(frame);
            Some(false)
        }
        Claim::Refused(_) => {
            put(frame);
            None
        }
    }
}

/// Runs `there` on another CPU and `here` on this one.
fn meet<R: 'static, S>(
    frame: &Arc<Frame>,
    there: impl FnOnce(&Frame) -> R + 'static,
    here: impl FnOnce(&Frame) -> S,
) -> (R, S) {
    let other = frame.clone();
    let other = thread::spawn(move || there(&other));
    let here = here(frame);
    (other.join().unwrap(), here)
}

fn state(frame: &Frame) -> (Count, Type) {
    (frame.count(), frame.type_word())
}

/// A frame that the hypervisor shares is mapped or given back, never both. Where neither came about, it is as it was.
#[test]
fn a_shared_frame_is_mapped_or_given_back() {
    loom::model(|| {
        let frame = shared(0);
        let (before, (mapped, alone)) = (state(&frame), meet(&frame, |f| map(f, OWNER), Frame::try_unshare));
        assert!(!(mapped && alone), "mapped, and the hypervisor's alone");
        match (mapped, alone) {
            (_, true) => assert!(state(&frame) == (Count::XENS, Type(0))),
            (true, _) => assert_eq!((frame.count().refs(), frame.type_word().count()), (1, 2)),
            _ => assert!(state(&frame) == before),
        }
    });
}

#[test]
fn a_shared_frame_is_mapped_for_reading_or_given_back() {
    loom::model(|| {
        let frame = shared(0);
        let (mapped, alone) = meet(&frame, |f| f.try_get(OWNER).is_ok(), Frame::try_unshare);
        assert_ne!(mapped, alone);
        let left = if alone { (1, 0) } else { (2, 1) };
        assert_eq!((frame.count().refs(), frame.type_word().count()), left);
    });
}

/// A domain that only tries to map the frame, which is not its own, leaves no trace.
#[test]
fn who_may_not_map_a_shared_frame_changes_nothing() {
    loom::model(|| {
        let frame = shared(0);
        let (mapped, alone) = meet(&frame, |f| map(f, OTHER), Frame::try_unshare);
        assert!(!mapped);
        assert!(alone || frame.try_unshare());
        assert!(state(&frame) == (Count::XENS, Type(0)));
    });
}

#[test]
fn the_last_mapping_goes_while_a_shared_frame_is_given_back() {
    loom::model(|| {
        let frame = shared(1);
        let (freed, alone) = meet(&frame, unmap, Frame::try_unshare);
        assert!(!freed && (alone || frame.try_unshare()));
        assert!(state(&frame) == (Count::XENS, Type(0)));
    });
}

/// The hypervisor lets a dying domain have a frame that it shared with it, while another domain drops its mapping of it: one of
/// them frees it.
#[test]
fn a_surrendered_frame_is_freed_once() {
    loom::model(|| {
        let frame = shared(1);
        let surrender = |f: &Frame| {
            f.clear_shared();
            unmap(f)
        };
        let (there, here) = meet(&frame, unmap, surrender);
        assert!(there != here, "freed once");
        assert!(!frame.count().is_xenheap() && frame.count().refs() == 0);
    });
}

/// A frame that its owner gives away is mapped or taken.
#[test]
fn a_frame_is_mapped_or_stolen() {
    for type_ in [Type(0), Type::idle(PageType::Writable, STAMP), Type::idle(PageType::L1, STAMP)] {
        loom::model(move || {
            let frame = frame(Count::idle_of(OWNER), type_);
            let (mapped, stolen) = meet(&frame, |f| map(f, OWNER), |f| f.try_steal(OWNER));
            assert!(!(mapped && stolen));
            let left = if mapped { 2 } else { 1 };
            assert_eq!((frame.count().refs(), frame.type_word().count()), (left, left - 1));
        });
    }
}

/// A frame becomes writable or a page table, never both, and never a table that a CPU may still write.
#[test]
fn a_frame_is_writable_or_a_table() {
    for (type_, stale) in [(Type(0), false), (Type::idle(PageType::Writable, STAMP), true)] {
        loom::model(move || {
            let frame = frame(Count::idle_of(OWNER), type_);
            let (mapped, table) = meet(&frame, |f| map(f, OWNER), |f| take(f, OWNER, PageType::L1));
            assert!(!(mapped && table.is_some()));
            if let Some(flushed) = table {
                assert_eq!(flushed, stale);
            }
            let users = u64::from(mapped) + u64::from(table.is_some());
            assert_eq!((frame.count().refs(), frame.type_word().count()), (1 + users, users));
        });
    }
}

/// The last writable mapping goes while the frame is to become a table: it does so after a flush, or not at all.
#[test]
fn a_frame_becomes_a_table_while_it_is_unmapped() {
    loom::model(|| {
        let frame = frame(Count::new(OWNER, Count::ALLOCATED, 2), Type::first(PageType::Writable));
        let (freed, table) = meet(&frame, unmap, |f| take(f, OWNER, PageType::L1));
        assert!(!freed && table != Some(false));
        let users = u64::from(table.is_some());
        assert_eq!((frame.count().refs(), frame.type_word().count()), (1 + users, users));
    });
}

/// Two CPUs take the first writable mapping, or make the frame the same kind of table: both have it, with one ordinary reference.
#[test]
fn two_cpus_take_the_first_reference() {
    for t in [PageType::Writable, PageType::L1] {
        loom::model(move || {
            let frame = frame(Count::idle_of(OWNER), Type(0));
            let get = move |f: &Frame| match t {
                PageType::Writable => map(f, OWNER),
                _ => take(f, OWNER, t).is_some(),
            };
            let (there, here) = meet(&frame, get, get);
            // A try that lost at the last moment may fail where it is the short way.
            assert!(there || here);
            let users = u64::from(there) + u64::from(here);
            assert_eq!((frame.count().refs(), frame.type_word().count()), (2, users));
        });
    }
}

/// The last reference goes while another CPU asks for one: it gets none, or it has the last one.
#[test]
fn a_frame_is_freed_once() {
    loom::model(|| {
        let frame = frame(Count::new(OWNER, 0, 1), Type(0));
        let (there, here) = meet(&frame, |f| f.try_get(OWNER).is_ok() && put(f), put);
        assert!(there != here);
        assert_eq!(frame.count().refs(), 0);
    });
}

/// While a CPU changes the entries of a table, the table stays one.
#[test]
fn a_locked_table_stays_a_table() {
    loom::model(|| {
        let frame = frame(Count::new(OWNER, Count::ALLOCATED, 2), Type::first(PageType::L1));
        let change = |f: &Frame| {
            if f.lock_table(|| false).is_ok_and(|table| table.is_some()) {
                let word = f.type_word();
                assert!(word.is_table() && word.count() == 1);
                assert!(!f.unlock_table());
            }
        };
        let drop_last = |f: &Frame| {
            loop {
                let word = f.type_word();
                if word.has(Type::LOCKED) {
                    AtomicU64::pause();
                } else if f.swap_type(word, Type::idle(PageType::L1, STAMP)) {
                    return put(f);
                }
            }
        };
        let ((), freed) = meet(&frame, change, drop_last);
        assert!(!freed && frame.type_word() == Type::idle(PageType::L1, STAMP));
    });
}

/// Locks a table and unlocks it, and drops what another CPU left to it meanwhile, as `Hypervisor::unlock_table` does; answers whether the
/// frame is free.
fn lock_and_unlock(frame: &Frame) -> bool {
    let locked = frame.lock_table(|| false).is_ok_and(|table| table.is_some());
    locked && frame.unlock_table() && frame.take_left() && drop_table(frame)
}

/// Drops a reference to a table as `Hypervisor::put_last_type` does on a CPU with other work; answers whether the frame is free.
fn drop_table(frame: &Frame) -> bool {
    while !frame.try_put_live() {
        let word = frame.type_word();
        assert!(word.count() != 0 && !word.is_going(), "dropped twice");
        if word.has(Type::LOCKED) {
            if frame.leave_last(word) {
                return false;
            }
        } else if word.count() == 1 && frame.swap_type(word, Type::idle(PageType::L1, STAMP)) {
            return put(frame);
        }
    }
    false
}

/// The last reference to a table is dropped while two CPUs change its entries: it is dropped once, by one of them or by the third.
#[test]
fn a_reference_that_is_left_is_dropped_once() {
    // All orders of three CPUs are too many; each CPU may be interrupted twice.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let frame = frame(Count::new(OWNER, 0, 1), Type::first(PageType::L1));
        let others = [frame.clone(), frame.clone()];
        let others = others.map(|frame| thread::spawn(move || lock_and_unlock(&frame)));
        let here = drop_table(&frame);
        let freed = others.map(|other| u32::from(other.join().unwrap()));
        assert_eq!(freed.iter().sum::<u32>() + u32::from(here), 1);
        assert!(frame.type_word() == Type::idle(PageType::L1, STAMP) && frame.count().refs() == 0);
    });
}

/// The reference that is left to a CPU, and another one that is taken meanwhile.
#[test]
fn a_table_is_taken_while_its_last_reference_is_left() {
    loom::model(|| {
        let frame = frame(Count::new(OWNER, 0, 1), Type::first(PageType::L1));
        assert!(frame.lock_table(|| false).is_ok() && frame.leave_last(frame.type_word()));
        let unlock = |f: &Frame| f.unlock_table() && f.take_left() && drop_table(f);
        let take = |f: &Frame| f.try_get_live(PageType::L1);
        let (freed, taken) = meet(&frame, unlock, take);
        assert_eq!(freed, !taken);
        assert!(!taken || drop_table(&frame));
        assert_eq!(frame.count().refs(), 0);
    });
}

/// Two CPUs that cannot stop and one that locks the table as usual: each has it alone, and none waits for ever.
#[test]
fn a_table_is_locked_in_turn() {
    loom::model(|| {
        let frame = frame(Count::new(OWNER, Count::ALLOCATED, 2), Type::first(PageType::L1));
        let turns = Arc::new(Turns::<loom::sync::atomic::AtomicU32>::default());
        let entry = Arc::new(loom::cell::UnsafeCell::new(0));
        let change = |frame: &Frame, entry: &loom::cell::UnsafeCell<u32>| {
            entry.with_mut(|_| ());
            assert!(!frame.unlock_table());
        };
        let in_turn = {
            let (frame, entry, turns) = (frame.clone(), entry.clone(), turns.clone());
            move || {
                assert!(turns.take(|| frame.lock_table_in_turn()) == Some(PageType::L1));
                change(&frame, &entry);
            }
        };
        let other = thread::spawn(in_turn.clone());
        in_turn();
        if frame.lock_table(|| true).is_ok() {
            change(&frame, &entry);
        }
        other.join().unwrap();
        assert!(frame.type_word() == Type::first(PageType::L1));
    });
}

/// The vCPUs of a domain could keep a CPU that cannot stop waiting for a table for as long as they liked: here another CPU unlocks the
/// table and locks it again between any two steps of this one.
#[test]
fn a_table_that_is_locked_again_and_again_is_had() {
    let frame = FrameInfo { count: 0.into(), type_: Type::first(PageType::L1).0.into() };
    let frame: FrameInfo<core::sync::atomic::AtomicU64> = frame;
    let (held, taken) = (Cell::new(false), Cell::new(0));
    let retake = || {
        if held.replace(false) {
            assert!(!frame.unlock_table());
        }
        if frame.lock_table(|| true).is_ok_and(|table| table.is_some()) {
            held.set(true);
            taken.set(taken.get() + 1);
            assert!(taken.get() < 10, "the lock is never had");
        }
    };
    let waiter = FrameInfo {
        count: Contested { word: &frame.count, other: &|| () },
        type_: Contested { word: &frame.type_, other: &retake },
    };
    retake();
    assert!(waiter.lock_table_in_turn() == Some(PageType::L1));
    assert!(!held.get() && taken.get() <= 3, "taken {} times before", taken.get());
}

/// Maps the frame with another memory type, writes past the caches, and unmaps it.
fn write_uncached(frame: &Frame, memory: &AtomicU64) {
    if map(frame, OWNER) {
        frame.mark_incoherent();
        memory.put(1);
        assert!(!unmap(frame));
    }
}

/// A CPU writes to a frame past the caches while another one makes it a table: what is judged of the table is what is in memory then.
#[test]
fn what_was_written_past_the_caches_is_judged() {
    for type_ in [Type(0), Type::idle(PageType::Writable, STAMP)] {
        loom::model(move || {
            let frame = frame(Count::idle_of(OWNER), type_);
            // A word of the frame, in memory and in the caches.
            let (memory, cache) = (Arc::new(AtomicU64::new(0)), AtomicU64::new(0));
            let guests = memory.clone();
            let make_table = |f: &Frame| {
                let write_back = || cache.put(memory.read());
                let table = take_coherent(f, OWNER, PageType::L1, write_back);
                table.map(|_| (cache.read(), memory.read()))
            };
            let ((), judged) = meet(&frame, move |f| write_uncached(f, &guests), make_table);
            match judged {
                Some((judged, there)) => {
                    assert_eq!(judged, there, "the caches showed something else");
                    assert_eq!(judged, memory.read(), "written to as a table");
                    assert!(!frame.is_incoherent());
                }
                None => assert_eq!(frame.is_incoherent(), memory.read() == 1),
            }
        });
    }
}

/// A CPU writes to a frame past the caches while another one maps and unmaps it as usual: it stays incoherent.
#[test]
fn an_incoherent_frame_stays_so() {
    for type_ in [Type(0), Type::first(PageType::Writable), Type::idle(PageType::Writable, STAMP)] {
        loom::model(move || {
            let refs = 1 + type_.count();
            let frame = frame(Count::new(OWNER, Count::ALLOCATED, refs), type_);
            let memory = Arc::new(AtomicU64::new(0));
            let guests = memory.clone();
            let use_it = |f: &Frame| {
                if type_.count() != 0 || map(f, OWNER) {
                    assert!(!unmap(f));
                }
            };
            meet(&frame, move |f| write_uncached(f, &guests), use_it);
            assert_eq!(frame.is_incoherent(), memory.read() == 1);
            assert_eq!((frame.count().refs(), frame.type_word().count()), (1, 0));
        });
    }
}
