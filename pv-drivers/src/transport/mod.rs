//! What a driver needs of the domain it runs in: memory to share, grants, event channels and xenstore.
//!
//! A driver is written against [`Transport`] and runs unchanged in a guest kernel, where grants and
//! events are hypercalls, and inside one process, where both ends are threads of a test.
//!
//! # Memory
//!
//! Three kinds, told apart by type, because each allows something else:
//!
//! - [`Transport::Buffer`]: whole pages that nobody else can reach. Plain bytes.
//! - [`Transport::Granted`]: whole pages of this domain that a peer may touch *at any time*, with the references that
//!   it may use. Atomic words only.
//! - [`Transport::Mapped`]: pages of a peer, mapped here. Atomic words only; the peer keeps them and changes them as it
//!   likes. [`Transport::MappedReadOnly`]: the same of words that cannot be written.
//!
//! A buffer becomes granted by [`lend`](Transport::lend) and is a buffer again after
//! [`take_back`](Transport::take_back), which fails while the peer still uses it. That is how data moves without a
//! copy and without a byte that two sides may write behind a `&mut [u8]`. What a driver drops while the peer still maps
//! it is kept aside by the transport until the peer lets go: it is never reused while shared.
//!
//! [`copy`](Transport::copy) moves bytes to and from pages that a peer granted without mapping them: the cheapest way
//! for a back end, and a grant that is revoked in between is an error of that one piece.
//!
//! # Events
//!
//! A [`Port`] is one end of an event channel. Events are edges: [`take`](Port::take) says whether one came since the
//! last time. An event loop takes every port that it serves, lets the drivers run, and calls
//! [`wait`](Transport::wait) when none of them made progress; an event that came meanwhile makes it return at once.

pub mod guest;
#[cfg(all(feature = "host", not(target_os = "none")))]
pub mod host;
pub mod words;

use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;
use core::time::Duration;

pub use guest_pv_lib::Errno;
pub use guest_pv_lib::grant::{Access, GrantRef};
pub use guest_pv_lib::words::ReadWord;

use crate::store::Store;

/// The number of a domain.
#[doc(alias = "domid_t")]
pub type DomId = u16;

/// Bytes in a page, and so in what one grant reference stands for.
pub const PAGE_SIZE: usize = 4096;

/// Why the transport did not do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No memory of the own domain is left for it.
    NoMemory,
    /// No grant reference, no mapping or no port is left.
    NoRoom,
    /// The peer's grant does not exist or does not allow it (any more): the peer's fault.
    BadGrant,
    /// Offset and length do not lie within the page or the memory given: the caller's fault.
    OutOfRange,
    /// The hypervisor refused for another reason.
    Refused(Errno),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory => f.write_str("out of memory"),
            Self::NoRoom => f.write_str("no grant reference, mapping or port is left"),
            Self::BadGrant => f.write_str("the other domain's grant does not allow it"),
            Self::OutOfRange => f.write_str("the range does not lie within the page"),
            Self::Refused(errno) => write!(f, "the hypervisor refused: {errno:?}"),
        }
    }
}

impl core::error::Error for Error {}

/// One end of an event channel. Dropping it closes the channel.
pub trait Port: Send + Sync + 'static {
    /// The number that the other end binds to, published in xenstore as `event-channel`.
    fn number(&self) -> u32;

    /// Sends an event to the other end. A channel whose other end is gone swallows it.
    #[doc(alias = "EVTCHNOP_send")]
    fn notify(&self);

    /// Whether an event came since the last call.
    fn take(&self) -> bool;
}

/// Pages of this domain that a peer may touch.
pub trait Granted: Deref<Target = [AtomicU32]> + Send + Sync + 'static {
    /// The references, one for each page, in order.
    fn refs(&self) -> &[GrantRef];
}

/// One side of a [`struct@Copy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyEnd {
    /// Bytes of a page that `domain` granted to this domain.
    Peer {
        /// Who granted it.
        domain: DomId,
        /// Which of its grants.
        reference: GrantRef,
        /// First byte within the page.
        offset: u16,
    },
    /// Bytes of the own memory that [`Transport::copy`] is given.
    Own {
        /// First byte within it.
        offset: usize,
    },
}

/// A piece to be copied: it must not cross a page boundary on either side. Plain data, so that a driver keeps one
/// list of them and fills it anew for each batch.
#[doc(alias = "gnttab_copy")]
#[derive(Clone, Debug)]
pub struct Copy {
    /// From where.
    pub source: CopyEnd,
    /// To where.
    pub target: CopyEnd,
    /// How many bytes, at most [`PAGE_SIZE`].
    pub length: u16,
    /// What became of it: filled in by [`Transport::copy`].
    pub result: Result<(), Error>,
}

/// The domain that a driver runs in.
pub trait Transport: Clone + Send + Sync + Sized + fmt::Debug + 'static {
    /// Pages that nobody else can reach.
    type Buffer: AsRef<[u8]> + AsMut<[u8]> + Send + 'static;
    /// Pages of this domain that only [`copy`](Self::copy) and this domain touch: what a back end keeps data in.
    type Memory: Deref<Target = [AtomicU32]> + Send + Sync + fmt::Debug + 'static;
    /// Pages of this domain that a peer may touch.
    type Granted: Granted;
    /// Pages of a peer.
    type Mapped: Deref<Target = [AtomicU32]> + Send + Sync + 'static;
    /// Pages of a peer that are only read.
    type MappedReadOnly: Deref<Target = [ReadWord]> + Send + Sync + 'static;
    /// An end of an event channel.
    type Port: Port;
    /// A connection to xenstore.
    type Store: Store;

    /// A new buffer of `pages` zeroed pages.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    fn buffer(&self, pages: usize) -> Result<Self::Buffer, Error>;

    /// New memory of `pages` zeroed pages, contiguous here.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    fn memory(&self, pages: usize) -> Result<Self::Memory, Error>;

    /// Grants every page of `buffer` to `peer`.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`] with the buffer.
    #[doc(alias = "gnttab_grant_foreign_access")]
    fn lend(
        &self,
        buffer: Self::Buffer,
        peer: DomId,
        access: Access,
    ) -> Result<Self::Granted, (Error, Self::Buffer)>;

    /// Ends the grants. Nothing can touch the pages afterwards but the caller.
    ///
    /// # Errors
    ///
    /// The pages themselves, still granted, while the peer uses one of them.
    #[doc(alias = "gnttab_end_foreign_access")]
    fn take_back(&self, granted: Self::Granted) -> Result<Self::Buffer, Self::Granted>;

    /// Pages that were lent to `peer`, and dropped here, and that it uses still: they are kept aside until it lets go.
    fn kept_aside(&self, peer: DomId) -> usize;

    /// Maps pages that `peer` granted, one behind the other, for reading and writing. Dropping them ends the mapping. Those that
    /// are only to be read are mapped by [`map_read_only`](Self::map_read_only).
    ///
    /// # Errors
    ///
    /// [`Error::BadGrant`] where one of them cannot be mapped, or where `access` is not [`Access::ReadWrite`]; nothing is mapped
    /// then.
    #[doc(alias = "GNTTABOP_map_grant_ref")]
    fn map(&self, peer: DomId, refs: &[GrantRef], access: Access) -> Result<Self::Mapped, Error>;

    /// Maps pages that `peer` granted, for reading or for more, one behind the other. Dropping them ends the mapping.
    ///
    /// # Errors
    ///
    /// [`Error::BadGrant`] where one of them cannot be mapped; nothing is mapped then.
    #[doc(alias("GNTTABOP_map_grant_ref", "GNTMAP_readonly"))]
    fn map_read_only(&self, peer: DomId, refs: &[GrantRef]) -> Result<Self::MappedReadOnly, Error>;

    /// Copies pieces in order, each with its own result. Whatever is [`CopyEnd::Own`] lies in `own`.
    ///
    /// One hypercall for all of them where the hypervisor allows it.
    #[doc(alias = "GNTTABOP_copy")]
    fn copy(&self, own: &Self::Memory, pieces: &mut [Copy]);

    /// A port to which `peer` may bind.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`].
    #[doc(alias = "EVTCHNOP_alloc_unbound")]
    fn listen(&self, peer: DomId) -> Result<Self::Port, Error>;

    /// Binds to a port that `peer` offered.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] where it did not.
    #[doc(alias = "EVTCHNOP_bind_interdomain")]
    fn connect(&self, peer: DomId, port: u32) -> Result<Self::Port, Error>;

    /// The connection to xenstore.
    fn store(&self) -> &Self::Store;

    /// Sleeps until an event arrives for one of this domain's ports (or arrived since the last call), a watch fires, or
    /// `limit` has passed.
    fn wait(&self, limit: Option<Duration>);

    /// Time since some moment, for timeouts.
    fn now(&self) -> Duration;
}

/// The references in the order of the pages, as text of xenstore wants them.
pub fn numbers(granted: &impl Granted) -> Vec<u32> {
    granted.refs().iter().map(|reference| reference.0).collect()
}
