//! Locks that let another task go on while they wait, with the interface of `spin` as far as the core uses it.

use crate::model::{point, wait};
use ::core::fmt;
use ::core::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LockResult, TryLockError};

pub use ::spin::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

/// `spin::Mutex`.
#[derive(Default)]
pub struct Mutex<T: ?Sized>(::spin::Mutex<T>);

impl<T> Mutex<T> {
    /// An unlocked one.
    pub const fn new(value: T) -> Self {
        Self(::spin::Mutex::new(value))
    }

    /// What it guards.
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        point();
        loop {
            if let Some(guard) = self.0.try_lock() {
                return guard;
            }
            wait();
        }
    }

    /// Takes it if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        point();
        self.0.try_lock()
    }

    /// Whether it is locked now.
    pub fn is_locked(&self) -> bool {
        point();
        self.0.is_locked()
    }

    /// What it guards, where there is no other user.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `spin::RwLock`, without what waits: the core has a lock of its own around it.
#[derive(Default)]
pub struct RwLock<T: ?Sized>(::spin::RwLock<T>);

impl<T> RwLock<T> {
    /// An unlocked one.
    pub const fn new(value: T) -> Self {
        Self(::spin::RwLock::new(value))
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Takes it for reading if no task writes.
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        point();
        self.0.try_read()
    }

    /// Takes it for writing if it is free.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        point();
        self.0.try_write()
    }
}

/// `spin::Once`.
pub struct Once<T> {
    value: ::spin::Once<T>,
    making: AtomicBool,
}

impl<T> Once<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { value: ::spin::Once::new(), making: AtomicBool::new(false) }
    }

    /// The value, if it is there.
    pub fn get(&self) -> Option<&T> {
        point();
        self.value.get()
    }

    /// The value, which `make` makes if it is not there. Waits for another task that makes it.
    ///
    /// # Errors
    /// What `make` says.
    pub fn try_call_once<F: FnOnce() -> Result<T, E>, E>(&self, make: F) -> Result<&T, E> {
        loop {
            if let Some(value) = self.get() {
                return Ok(value);
            }
            if !self.making.swap(true, Ordering::SeqCst) {
                let made = make();
                self.making.store(false, Ordering::SeqCst);
                let made = made?;
                return Ok(self.value.call_once(|| made));
            }
            wait();
        }
    }
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for Once<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// `std::sync::Mutex`, for the machine that tests run on.
#[derive(Debug, Default)]
pub struct StdMutex<T: ?Sized>(std::sync::Mutex<T>);

impl<T> StdMutex<T> {
    /// An unlocked one.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }
}

impl<T: ?Sized> StdMutex<T> {
    /// Waits for it. Outside of a model it blocks the thread.
    ///
    /// # Errors
    /// As `std`'s.
    pub fn lock(&self) -> LockResult<std::sync::MutexGuard<'_, T>> {
        if crate::model::task().is_none() {
            return self.0.lock();
        }
        loop {
            match self.0.try_lock() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(error)) => return Err(error),
                Err(TryLockError::WouldBlock) => wait(),
            }
        }
    }
}
