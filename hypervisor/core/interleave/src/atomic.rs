//! Atomics whose every access is a point.

use crate::model::access;
use ::core::fmt;
use ::core::sync::atomic::{self, Ordering};

/// Changes by which a new value and the old one are exchanged.
macro_rules! changes {
    ($value:ty: $($change:ident),+) => {
        $(
            #[inline]
            pub fn $change(&self, value: $value, order: Ordering) -> $value {
                access(self);
                self.0.$change(value, order)
            }
        )+
    };
}

macro_rules! common {
    ($name:ident, $value:ty) => {
        #[doc = concat!("`core::sync::atomic::", stringify!($name), "`, each access of which is a point.")]
        #[repr(transparent)]
        #[derive(Default)]
        pub struct $name(atomic::$name);

        #[allow(missing_docs)]
        impl $name {
            pub const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            #[inline]
            pub fn load(&self, order: Ordering) -> $value {
                access(self);
                self.0.load(order)
            }

            #[inline]
            pub fn store(&self, value: $value, order: Ordering) {
                access(self);
                self.0.store(value, order);
            }

            #[inline]
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                access(self);
                self.0.compare_exchange(current, new, success, failure)
            }

            #[inline]
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }

            pub fn fetch_update<F: FnMut($value) -> Option<$value>>(
                &self,
                set_order: Ordering,
                fetch_order: Ordering,
                mut change: F,
            ) -> Result<$value, $value> {
                let mut old = self.load(fetch_order);
                while let Some(new) = change(old) {
                    match self.compare_exchange(old, new, set_order, fetch_order) {
                        Ok(old) => return Ok(old),
                        Err(now) => old = now,
                    }
                }
                Err(old)
            }

            pub fn get_mut(&mut self) -> &mut $value {
                self.0.get_mut()
            }

            pub fn into_inner(self) -> $value {
                self.0.into_inner()
            }

            changes!($value: swap, fetch_or, fetch_and, fetch_xor);
        }

        impl From<$value> for $name {
            fn from(value: $value) -> Self {
                Self::new(value)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! number {
    ($name:ident, $value:ty) => {
        common!($name, $value);

        #[allow(missing_docs)]
        impl $name {
            changes!($value: fetch_add, fetch_sub, fetch_max, fetch_min);
        }
    };
}

common!(AtomicBool, bool);
number!(AtomicU8, u8);
number!(AtomicU16, u16);
number!(AtomicU32, u32);
number!(AtomicU64, u64);
number!(AtomicI64, i64);
number!(AtomicUsize, usize);
