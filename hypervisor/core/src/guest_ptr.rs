//! Guest pointers are allegations: an address that a guest named, good for nothing until a copy through it succeeded.
//!
//! A [`GuestPtr`] never becomes a reference. Values are copied in, judged, and copied out; an address that does not
//! translate, wraps, or lies in the hypervisor's own range is `-EFAULT` ([`GuestFault`]), decided by the platform's copy
//! routines for the range and here for the arithmetic. What was read once may read differently the next time: read once.

use crate::Hypervisor;
use crate::ids::GuestVirt;
use crate::page::is_guests;
use crate::platform::{GuestFault, Platform};
use core::fmt;
use core::marker::PhantomData;
use xen_abi::GuestHandle;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The address of one or several `T` in the address space of the running guest.
pub struct GuestPtr<T> {
    address: GuestVirt,
    target: PhantomData<fn() -> T>,
}

impl<T> GuestPtr<T> {
    /// A pointer to `address`, which a guest passed in a register.
    pub const fn new(address: u64) -> Self {
        Self { address: GuestVirt(address), target: PhantomData }
    }

    /// The address.
    pub const fn address(self) -> GuestVirt {
        self.address
    }

    /// Whether the address is zero: how an optional buffer says that it is absent.
    pub const fn is_null(self) -> bool {
        self.address.0 == 0
    }

    /// Whether the address can be a guest's at all; a copy may fail all the same.
    pub(crate) fn is_plausible(self) -> bool {
        is_guests(self.address)
    }

    /// The same address as a pointer to something else.
    pub const fn cast<U>(self) -> GuestPtr<U> {
        GuestPtr { address: self.address, target: PhantomData }
    }

    /// The element `index` further.
    ///
    /// # Errors
    /// [`GuestFault`] when the address would wrap.
    pub fn at(self, index: u64) -> Result<Self, GuestFault> {
        let bytes = index.checked_mul(size_of::<T>() as u64).ok_or(GuestFault)?;
        self.byte_offset(bytes)
    }

    /// The `U` that starts `offset` bytes into this `T`: `ptr.field::<u32>(offset_of!(T, name))`.
    ///
    /// # Errors
    /// [`GuestFault`] when the address would wrap.
    pub fn field<U>(self, offset: usize) -> Result<GuestPtr<U>, GuestFault> {
        Ok(self.byte_offset(offset as u64)?.cast())
    }

    fn byte_offset(self, bytes: u64) -> Result<Self, GuestFault> {
        Ok(Self::new(self.address.0.checked_add(bytes).ok_or(GuestFault)?))
    }

    /// Fails when `count` elements from here on would wrap around the end of the address space.
    fn check_span(self, bytes: usize) -> Result<(), GuestFault> {
        let last = (bytes as u64).saturating_sub(1);
        self.address.0.checked_add(last).map(|_| ()).ok_or(GuestFault)
    }
}

impl<T: FromBytes + IntoBytes> GuestPtr<T> {
    /// Copies the value in.
    ///
    /// # Errors
    /// [`GuestFault`] when not all of it is readable.
    pub fn read<P: Platform>(self, hv: &Hypervisor<P>) -> Result<T, GuestFault> {
        let mut value = T::new_zeroed();
        self.read_into(hv, &mut value)?;
        Ok(value)
    }

    /// Copies the value to where another was.
    ///
    /// # Errors
    /// [`GuestFault`] when not all of it is readable; `value` may be partly changed then.
    #[inline]
    pub fn read_into<P: Platform>(self, hv: &Hypervisor<P>, value: &mut T) -> Result<(), GuestFault> {
        self.check_span(size_of::<T>())?;
        hv.platform.copy_from_guest(value.as_mut_bytes(), self.address)
    }

    /// Copies element `index` in.
    ///
    /// # Errors
    /// [`GuestFault`] when not all of it is readable.
    pub fn read_at<P: Platform>(self, hv: &Hypervisor<P>, index: u64) -> Result<T, GuestFault> {
        self.at(index)?.read(hv)
    }
}

impl<T: FromBytes + IntoBytes> GuestPtr<T> {
    /// Copies consecutive elements in, as many as `values` has.
    ///
    /// # Errors
    /// [`GuestFault`] when not all of them are readable; `values` may be partly changed then.
    pub fn read_slice<P: Platform>(self, hv: &Hypervisor<P>, values: &mut [T]) -> Result<(), GuestFault> {
        let bytes = values.as_mut_bytes();
        self.check_span(bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        hv.platform.copy_from_guest(bytes, self.address)
    }
}

impl<T: IntoBytes + Immutable> GuestPtr<T> {
    /// Copies a value out.
    ///
    /// # Errors
    /// [`GuestFault`] when not all of it is writable.
    pub fn write<P: Platform>(self, hv: &Hypervisor<P>, value: &T) -> Result<(), GuestFault> {
        self.check_span(size_of::<T>())?;
        hv.platform.copy_to_guest(self.address, value.as_bytes())
    }

    /// Copies element `index` out.
    ///
    /// # Errors
    /// [`GuestFault`] when not all of it is writable.
    pub fn write_at<P: Platform>(self, hv: &Hypervisor<P>, index: u64, value: &T) -> Result<(), GuestFault> {
        self.at(index)?.write(hv, value)
    }

    /// Copies consecutive elements out.
    ///
    /// # Errors
    /// [`GuestFault`] when not all of them are writable; some may have been written then.
    pub fn write_slice<P: Platform>(self, hv: &Hypervisor<P>, values: &[T]) -> Result<(), GuestFault> {
        let bytes = values.as_bytes();
        self.check_span(bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        hv.platform.copy_to_guest(self.address, bytes)
    }
}

impl<T> Clone for GuestPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for GuestPtr<T> {}

impl<T> fmt::Debug for GuestPtr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.address)
    }
}

impl<T> From<GuestHandle<T>> for GuestPtr<T> {
    fn from(handle: GuestHandle<T>) -> Self {
        Self::new(handle.addr())
    }
}
