//! Closures in the dispatch table: how they lie in memory, and when they are freed.

use alloc::boxed::Box;
use core::ptr;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};
use core::sync::atomic::{AtomicPtr, AtomicU64};

use super::entry::{CLOSURE, is_in_use};
use super::{Former, Port};
use crate::smp::this_cpu;

/// A closure of the table.
struct Node {
    run: Box<dyn Fn(Port) + Send + Sync>,
    /// On the list of those taken out in an upcall: the entry that it was taken out of, and the next.
    entry: Option<&'static AtomicU64>,
    next: *mut Node,
}

/// Closures that were taken out in an upcall and wait to be freed.
static RETIRED: AtomicPtr<Node> = AtomicPtr::new(ptr::null_mut());

/// Runs the closure at `address`.
pub(super) fn call(address: *const (), port: Port) {
    // SAFETY: the address comes from an entry with `CLOSURE`, so `set_closure` put a `Node` there, and the entry's
    // count keeps it from being freed.
    let node = unsafe { &*address.cast::<Node>() };
    (node.run)(port);
}

/// Runs `closure` from now on. Answers what was known until now; none for a port beyond the table.
pub fn set_closure(port: Port, closure: impl Fn(Port) + Send + Sync + 'static) -> Option<Former> {
    super::entry(port)?;
    let node = Box::new(Node { run: Box::new(closure), entry: None, next: ptr::null_mut() });
    let node = Box::into_raw(node).expose_provenance() as u64;
    super::set(port, (node & super::ADDRESS) | CLOSURE)
}

/// Frees the closure at `node`, which was in `entry` until now, as soon as that is possible.
pub(super) fn retire(entry: &'static AtomicU64, node: *const ()) {
    let node = node.cast::<Node>().cast_mut();
    // SAFETY: the node is out of the table, so only its retirement writes these two fields, which `call` never
    // reads; raw writes, because a handler may still hold a reference to the closure in it.
    unsafe {
        (&raw mut (*node).entry).write(Some(entry));
        (&raw mut (*node).next).write(ptr::null_mut());
    }
    push(node);
    if this_cpu().depth.load(Relaxed) == 0 {
        free_unused(RETIRED.swap(ptr::null_mut(), AcqRel));
    }
}

/// Puts one node on the list.
fn push(node: *mut Node) {
    let mut head = RETIRED.load(Relaxed);
    loop {
        // SAFETY: as in `retire`: the node belongs to this call until it is on the list.
        unsafe { (&raw mut (*node).next).write(head) };
        match RETIRED.compare_exchange_weak(head, node, AcqRel, Relaxed) {
            Ok(_) => return,
            Err(now) => head = now,
        }
    }
}

/// Frees those of a list that no upcall uses, and puts the others back.
fn free_unused(mut node: *mut Node) {
    while !node.is_null() {
        // SAFETY: on the list, so `retire` filled in both fields, and the list belongs to this call now.
        let (entry, next) = unsafe { ((*node).entry, (*node).next) };
        if entry.is_some_and(is_in_use) {
            push(node);
        } else {
            // SAFETY: it came from `Box::into_raw`. Whoever took its address from the table counted itself there
            // first, and since it was taken out the count was zero: nobody has the address.
            drop(unsafe { Box::from_raw(node) });
        }
        node = next;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::thread;

    use super::*;
    use crate::events::table::{run, set_latch};

    // The list is one for the program, and what one test frees late another one may free first.

    #[test]
    fn a_closure_is_freed_when_it_is_taken_out() {
        let held = Arc::new(AtomicU32::new(0));
        let inner = Arc::clone(&held);
        set_closure(Port(21), move |port| {
            inner.fetch_add(port.0, Relaxed);
        });
        run(Port(21), || (), || ());
        assert_eq!((held.load(Relaxed), Arc::strong_count(&held)), (21, 2));
        set_latch(Port(21));
        wait_until(|| Arc::strong_count(&held) == 1);
    }

    #[test]
    fn a_closure_that_runs_is_freed_later() {
        let state = Arc::new(AtomicU32::new(0));
        let inner = Arc::clone(&state);
        set_closure(Port(22), move |_| {
            inner.store(1, Relaxed);
            wait_until(|| inner.load(Relaxed) == 2);
        });
        thread::scope(|scope| {
            let runner = scope.spawn(|| run(Port(22), || (), || ()));
            wait_until(|| state.load(Relaxed) == 1);
            set_latch(Port(22));
            thread::sleep(core::time::Duration::from_millis(20));
            assert_eq!(Arc::strong_count(&state), 2, "the closure still runs");
            state.store(2, Relaxed);
            runner.join().map(drop).expect("the handler ends");
        });
        set_closure(Port(22), |_| ());
        set_latch(Port(22));
        wait_until(|| Arc::strong_count(&state) == 1);
    }

    fn wait_until(condition: impl Fn() -> bool) {
        while !condition() {
            thread::yield_now();
        }
    }
}
