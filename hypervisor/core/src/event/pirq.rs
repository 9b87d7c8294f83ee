//! Physical interrupts: which domains serve them, and when the line may signal again.

use crate::platform::Platform;
use core::marker::PhantomData;

/// The interrupts of the machine's devices and the guests bound to them.
pub struct PirqTable<P: Platform>(PhantomData<fn() -> P>);

impl<P: Platform> PirqTable<P> {
    /// No interrupt is mapped.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<P: Platform> Default for PirqTable<P> {
    fn default() -> Self {
        Self::new()
    }
}
