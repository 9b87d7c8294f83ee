//! The xenstore protocol on the wire (`io/xs_wire.h`).
//!
//! A message is an [`XsdSockmsg`] header followed by `len` bytes, at most [`XENSTORE_PAYLOAD_MAX`]. Between a domain
//! and the daemon it travels through the two byte rings of [`XenstoreDomainInterface`], whose indexes run freely.
//! The page is shared memory: use it through atomics at the documented offsets.

use crate::errno::Errno;

consts! {
    /// Control command to the daemon (privileged).
    XS_CONTROL: u32 = 0;
    /// Old name of [`XS_CONTROL`].
    XS_DEBUG: u32 = 0;
    /// List the children of a node, each name terminated by NUL.
    XS_DIRECTORY: u32 = 1;
    /// Read a node's value.
    XS_READ: u32 = 2;
    /// Read a node's permissions.
    XS_GET_PERMS: u32 = 3;
    /// Register a watch: path, token.
    XS_WATCH: u32 = 4;
    /// Remove a watch: path, token.
    XS_UNWATCH: u32 = 5;
    /// Open a transaction; the answer is its id in decimal.
    XS_TRANSACTION_START: u32 = 6;
    /// Close a transaction: `T` commits, `F` aborts.
    XS_TRANSACTION_END: u32 = 7;
    /// Tell the daemon of a new domain (privileged).
    XS_INTRODUCE: u32 = 8;
    /// Tell the daemon that a domain is gone (privileged).
    XS_RELEASE: u32 = 9;
    /// Ask for a domain's home path.
    XS_GET_DOMAIN_PATH: u32 = 10;
    /// Write a node: path, NUL, value without terminator.
    XS_WRITE: u32 = 11;
    /// Create an empty node.
    XS_MKDIR: u32 = 12;
    /// Remove a node and everything under it.
    XS_RM: u32 = 13;
    /// Replace a node's permissions.
    XS_SET_PERMS: u32 = 14;
    /// From the daemon only: a watch fired (path, token).
    XS_WATCH_EVENT: u32 = 15;
    /// From the daemon only: the request failed; the payload is an error name.
    XS_ERROR: u32 = 16;
    /// Ask whether a domain is known: answer `T` or `F`.
    XS_IS_DOMAIN_INTRODUCED: u32 = 17;
    /// A suspended domain resumed without having shut down (privileged).
    XS_RESUME: u32 = 18;
    /// Let one domain act with the permissions of another (privileged).
    XS_SET_TARGET: u32 = 19;
    /// Drop all watches and transactions of the caller.
    XS_RESET_WATCHES: u32 = 21;
    /// List part of a node's children, starting at a byte offset.
    XS_DIRECTORY_PART: u32 = 22;
    /// One past the last valid message type.
    XS_TYPE_COUNT: u32 = 23;
    /// A value that will never be a message type.
    XS_INVALID: u32 = 65535;

    /// Old write flag: the node must exist.
    XS_WRITE_NONE: &str = "NONE";
    /// Old write flag: create the node if needed.
    XS_WRITE_CREATE: &str = "CREATE";
    /// Old write flag: the node must not exist.
    XS_WRITE_CREATE_EXCL: &str = "CREATE|EXCL";

    /// Position of the path among the strings of a watch event.
    XS_WATCH_PATH: u32 = 0;
    /// Position of the token among the strings of a watch event.
    XS_WATCH_TOKEN: u32 = 1;

    /// Bytes of each ring of the shared page (a power of two).
    XENSTORE_RING_SIZE: u32 = 1024;

    /// Largest `len`; a larger one breaks the connection.
    XENSTORE_PAYLOAD_MAX: u32 = 4096;
    /// Longest absolute path in bytes; a longer one is an error answer.
    XENSTORE_ABS_PATH_MAX: u32 = 3072;
    /// Longest relative path in bytes; a longer one is an error answer.
    XENSTORE_REL_PATH_MAX: u32 = 2048;
    /// The ring can be reset by [`XENSTORE_RECONNECT`].
    XENSTORE_SERVER_FEATURE_RECONNECTION: u32 = 1;
    /// The daemon fills in the `error` field.
    XENSTORE_SERVER_FEATURE_ERROR: u32 = 2;
    /// `connection`: normal operation.
    XENSTORE_CONNECTED: u32 = 0;
    /// `connection`: the domain asked for a reset of the ring.
    XENSTORE_RECONNECT: u32 = 1;
    /// `error`: none.
    XENSTORE_ERROR_NONE: u32 = 0;
    /// `error`: communication failed.
    XENSTORE_ERROR_COMM: u32 = 1;
    /// `error`: a ring index was impossible.
    XENSTORE_ERROR_RINGIDX: u32 = 2;
    /// `error`: the protocol was violated (payload too long).
    XENSTORE_ERROR_PROTO: u32 = 3;
}

wire! {
    /// Header of every xenstore message, in both directions.
    pub struct XsdSockmsg("struct xsd_sockmsg", 16) {
        /// What the message is (`XS_*`).
        @0 type_("type"): u32,
        /// Chosen by the sender of the request, echoed in the answer.
        @4 req_id: u32,
        /// Transaction the request belongs to; 0 for none.
        @8 tx_id: u32,
        /// Bytes of payload that follow.
        @12 len: u32,
    }

    /// Layout of the page a domain shares with the xenstore daemon. Its frame and event channel come from
    /// `start_info.store_mfn` / `store_evtchn` (PV) or `HVM_PARAM_STORE_PFN` / `HVM_PARAM_STORE_EVTCHN`.
    pub struct XenstoreDomainInterface("struct xenstore_domain_interface", 2076) [shared] {
        /// Requests to the daemon.
        @0 req: [u8; 1024],
        /// Answers and watch events.
        @1024 rsp: [u8; 1024],
        /// Index of the next request byte the daemon will read.
        @2048 req_cons: u32,
        /// Index one past the last request byte of the domain.
        @2052 req_prod: u32,
        /// Index of the next answer byte the domain will read.
        @2056 rsp_cons: u32,
        /// Index one past the last answer byte of the daemon.
        @2060 rsp_prod: u32,
        /// What the daemon can do (`XENSTORE_SERVER_FEATURE_*`).
        @2064 server_features: u32,
        /// State of the connection (`XENSTORE_CONNECTED`, `XENSTORE_RECONNECT`).
        @2068 connection: u32,
        /// Why the daemon stopped serving the ring (`XENSTORE_ERROR_*`).
        @2072 error: u32,
    }
}

/// Position of index `idx` in one of the rings.
#[must_use]
#[doc(alias = "MASK_XENSTORE_IDX")]
pub const fn mask_xenstore_idx(idx: u32) -> usize {
    (idx & (XENSTORE_RING_SIZE - 1)) as usize
}

/// One row of [`XSD_ERRORS`]: an errno and the name it has on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XsdError {
    /// Positive errno.
    pub errnum: i32,
    /// What the payload of an `XS_ERROR` message says.
    pub errstring: &'static str,
}

/// The errors that travel in `XS_ERROR` messages, in the order of the header.
///
/// The numbers are Xen's, which equal Linux's on x86.
pub const XSD_ERRORS: [XsdError; 16] = [
    XsdError { errnum: Errno::EINVAL.0, errstring: "EINVAL" },
    XsdError { errnum: Errno::EACCES.0, errstring: "EACCES" },
    XsdError { errnum: Errno::EEXIST.0, errstring: "EEXIST" },
    XsdError { errnum: Errno::EISDIR.0, errstring: "EISDIR" },
    XsdError { errnum: Errno::ENOENT.0, errstring: "ENOENT" },
    XsdError { errnum: Errno::ENOMEM.0, errstring: "ENOMEM" },
    XsdError { errnum: Errno::ENOSPC.0, errstring: "ENOSPC" },
    XsdError { errnum: Errno::EIO.0, errstring: "EIO" },
    XsdError { errnum: Errno::ENOTEMPTY.0, errstring: "ENOTEMPTY" },
    XsdError { errnum: Errno::ENOSYS.0, errstring: "ENOSYS" },
    XsdError { errnum: Errno::EROFS.0, errstring: "EROFS" },
    XsdError { errnum: Errno::EBUSY.0, errstring: "EBUSY" },
    XsdError { errnum: Errno::EAGAIN.0, errstring: "EAGAIN" },
    XsdError { errnum: Errno::EISCONN.0, errstring: "EISCONN" },
    XsdError { errnum: Errno::E2BIG.0, errstring: "E2BIG" },
    XsdError { errnum: Errno::EPERM.0, errstring: "EPERM" },
];

abi_module! { "io/xs_wire.h": consts, wire }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_wrap_at_the_ring_length() {
        assert_eq!(mask_xenstore_idx(XENSTORE_RING_SIZE), 0);
        assert_eq!(mask_xenstore_idx(u32::MAX), 1023);
    }

    #[test]
    fn error_names_are_the_numbers_names() {
        for error in XSD_ERRORS {
            assert_eq!(Errno(error.errnum).name(), Some(error.errstring));
        }
    }
}
