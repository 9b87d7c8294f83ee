//! `errno.h`: the error numbers that hypercalls return, negated.
//!
//! A hypercall answers zero or a positive result on success and the negated error number otherwise. The two
//! numbers that Xen keeps to itself (`EINTR`, `ERESTART`) never reach a guest and are not here: a continuation
//! is control flow, not an error.

use core::fmt;

use crate::registry::{CName, Const, Value};

/// A positive error number; unknown numbers survive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errno(pub i32);

impl Errno {
    /// What the hypercall returns for this error: the negated number.
    #[must_use]
    pub const fn to_ret(self) -> i64 {
        -(self.0 as i64)
    }

    /// The error in a hypercall's return value; `None` where the call succeeded.
    ///
    /// Xen's convention: the values -4095 to -1 are errors, every other one is a result.
    #[must_use]
    pub const fn from_ret(ret: i64) -> Option<Self> {
        match ret {
            -4095..=-1 => Some(Self(-ret as i32)),
            _ => None,
        }
    }

    /// The C name without its `XEN_` prefix; `None` for an unknown number.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        let known = Value::Int(u64::try_from(self.0).ok()?);
        CONSTS.iter().find(|entry| entry.value == known).map(|entry| entry.name)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Errno({})", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl core::error::Error for Errno {}

macro_rules! errnos {
    ($($(#[$meta:meta])* $name:ident = $value:literal;)*) => {
        impl Errno {
            $($(#[$meta])* pub const $name: Self = Self($value);)*
        }
        const CONSTS: &[Const] = &[$(Const {
            name: stringify!($name),
            c: CName::Is(concat!("XEN_", stringify!($name))),
            value: Value::Int($value),
        },)*];
    };
}

errnos! {
    /// The caller has no right to do this.
    EPERM = 1;
    /// The named object does not exist.
    ENOENT = 2;
    /// No such domain, vCPU or process.
    ESRCH = 3;
    /// A device or an inner operation failed.
    EIO = 5;
    /// No such device or address.
    ENXIO = 6;
    /// A list is too long or a count too large.
    E2BIG = 7;
    /// An image has the wrong format.
    ENOEXEC = 8;
    /// A number names nothing that is open.
    EBADF = 9;
    /// No children.
    ECHILD = 10;
    /// Not now: try again.
    EAGAIN = 11;
    /// The same number as [`Errno::EAGAIN`].
    EWOULDBLOCK = 11;
    /// Out of memory.
    ENOMEM = 12;
    /// Denied by a security policy.
    EACCES = 13;
    /// A guest address could not be read or written.
    EFAULT = 14;
    /// The object is in use.
    EBUSY = 16;
    /// The object exists already.
    EEXIST = 17;
    /// The objects belong to different owners.
    EXDEV = 18;
    /// No such device.
    ENODEV = 19;
    /// Not a directory.
    ENOTDIR = 20;
    /// A directory.
    EISDIR = 21;
    /// An argument is invalid.
    EINVAL = 22;
    /// A system-wide table is full.
    ENFILE = 23;
    /// A per-domain table is full.
    EMFILE = 24;
    /// No room is left.
    ENOSPC = 28;
    /// Read-only.
    EROFS = 30;
    /// Too many links.
    EMLINK = 31;
    /// An argument is outside the domain of the function.
    EDOM = 33;
    /// A value does not fit the range.
    ERANGE = 34;
    /// A lock would never be granted.
    EDEADLK = 35;
    /// The same number as [`Errno::EDEADLK`].
    EDEADLOCK = 35;
    /// A name is too long.
    ENAMETOOLONG = 36;
    /// No lock is available.
    ENOLCK = 37;
    /// No such hypercall or command.
    ENOSYS = 38;
    /// Not empty.
    ENOTEMPTY = 39;
    /// There is nothing to return.
    ENODATA = 61;
    /// The time asked for has passed.
    ETIME = 62;
    /// A message is malformed.
    EBADMSG = 74;
    /// A value does not fit its type.
    EOVERFLOW = 75;
    /// An illegal sequence of bytes.
    EILSEQ = 84;
    /// Not a socket (Argo: no such ring).
    ENOTSOCK = 88;
    /// A message is too large.
    EMSGSIZE = 90;
    /// The operation is known but not supported here.
    EOPNOTSUPP = 95;
    /// The address is taken.
    EADDRINUSE = 98;
    /// The address cannot be assigned.
    EADDRNOTAVAIL = 99;
    /// No room for the answer.
    ENOBUFS = 105;
    /// Already connected.
    EISCONN = 106;
    /// Not connected.
    ENOTCONN = 107;
    /// Timed out.
    ETIMEDOUT = 110;
    /// The peer refused.
    ECONNREFUSED = 111;
}

abi_module! { "errno.h": consts }
