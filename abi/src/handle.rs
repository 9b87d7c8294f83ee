//! Guest handles: addresses in the caller's address space that travel inside hypercall arguments.

use core::fmt;
use core::marker::PhantomData;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The address, in the address space of the guest that makes the hypercall, of one or several `T`
/// (`XEN_GUEST_HANDLE(T)`; on x86 `XEN_GUEST_HANDLE_64(T)` is the same for a 64-bit guest).
///
/// It is an allegation, not a pointer: the hypervisor copies through it and answers `-EFAULT` where that fails.
/// Eight bytes, eight-byte aligned; null is a legal value whose meaning each operation defines.
#[repr(transparent)]
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct GuestHandle<T> {
    addr: u64,
    target: PhantomData<T>,
}

impl<T> GuestHandle<T> {
    /// The null handle.
    pub const NULL: Self = Self::new(0);

    /// A handle to `addr`.
    #[must_use]
    pub const fn new(addr: u64) -> Self {
        Self { addr, target: PhantomData }
    }

    /// The guest virtual address.
    #[must_use]
    pub const fn addr(self) -> u64 {
        self.addr
    }

    /// Whether the address is zero.
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.addr == 0
    }

    /// The same address as a handle to another type.
    #[must_use]
    pub const fn cast<U>(self) -> GuestHandle<U> {
        GuestHandle::new(self.addr)
    }
}

impl<T> Copy for GuestHandle<T> {}
impl<T> Clone for GuestHandle<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> PartialEq for GuestHandle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.addr == other.addr
    }
}
impl<T> Eq for GuestHandle<T> {}
impl<T> Default for GuestHandle<T> {
    fn default() -> Self {
        Self::NULL
    }
}
impl<T> From<u64> for GuestHandle<T> {
    fn from(addr: u64) -> Self {
        Self::new(addr)
    }
}
impl<T> fmt::Debug for GuestHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.addr)
    }
}

const _: () = assert!(size_of::<GuestHandle<u8>>() == 8 && align_of::<GuestHandle<u8>>() == 8);
