//! Locks for a kernel on virtual CPUs.
//!
//! Spinning is right where the holder of a lock runs: it will be done in a moment. On virtual CPUs the hypervisor may have
//! taken the processor away from it, and then every waiter burns its own share of time for nothing. A [`PvMutex`]
//! sees that, sleeps in the hypervisor, and is woken by whoever unlocks.
//!
//! [`RawPvLock`] has the protocol; it is a [`lock_api::RawMutex`], so everything of `lock_api` can be made from it.

mod raw;
pub(crate) mod word;

pub use raw::RawPvLock;
#[cfg(target_os = "none")]
pub(crate) use raw::init;

/// A value behind a [`RawPvLock`].
///
/// An upcall handler that takes the lock deadlocks with code that it interrupts: such code takes it with upcalls masked
/// ([`events::without_upcalls`](crate::events::without_upcalls)).
///
/// ```
/// use guest_pv_lib::sync::PvMutex;
///
/// static COUNT: PvMutex<u64> = PvMutex::new(0);
/// *COUNT.lock() += 1;
/// assert_eq!(*COUNT.lock(), 1);
/// ```
pub type PvMutex<T> = lock_api::Mutex<RawPvLock, T>;

/// What unlocks a [`PvMutex`] when it is dropped.
pub type PvMutexGuard<'a, T> = lock_api::MutexGuard<'a, RawPvLock, T>;
