//! What the hypervisor's core finds under the names `core` and `spin` in its own unit tests: the same items, except that each
//! access to an atomic, each attempt to lock and each turn of a waiting loop is a point at which a test may let another CPU go on.
//!
//! The core names `core::sync::atomic`, `core::hint::spin_loop` and `spin` everywhere. Its crate root has, for tests only,
//! `extern crate interleave as core` and `extern crate interleave as spin`, so that no file has to be written for the tests and none
//! can be forgotten. Outside of [`model::explore`] a point costs one comparison and everything behaves as the original.
//!
//! The tasks of a model are coroutines of `shuttle` on one thread: what one of them does between two points is atomic for the others,
//! and a model sees interleavings, not the orders that weak memory allows (`loom` tries those, on single words).

#![no_std]

extern crate std;

pub use ::core::*;

mod lock;
pub mod model;

pub use lock::{Mutex, MutexGuard, Once, RwLock, RwLockReadGuard, RwLockWriteGuard, StdMutex};

/// `spin::mutex`.
pub mod mutex {
    pub use crate::lock::{Mutex as TicketMutex, MutexGuard as TicketMutexGuard};
}

/// `core::hint`.
pub mod hint {
    pub use ::core::hint::*;

    /// A moment of waiting for another CPU.
    pub fn spin_loop() {
        crate::model::wait();
    }
}

/// `core::sync`.
pub mod sync {
    pub use ::core::sync::*;

    /// `core::sync::atomic`: every access is a point.
    pub mod atomic {
        pub use crate::atomic::{
            AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize,
        };
        pub use ::core::sync::atomic::{Ordering, compiler_fence, fence};
    }
}

mod atomic;
