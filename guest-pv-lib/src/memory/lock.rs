//! The lock of this module's state: held with upcalls masked, so that an event handler may allocate.

use spin::Mutex;

/// A value that one CPU at a time may change.
#[derive(Debug)]
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    /// Around `value`.
    pub const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Runs `work` on the value, with upcalls masked on this CPU.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(target_os = "none")]
        {
            crate::events::without_upcalls(|| work(&mut self.0.lock()))
        }
        // On a host there is no upcall that could come in between.
        #[cfg(not(target_os = "none"))]
        work(&mut self.0.lock())
    }
}
