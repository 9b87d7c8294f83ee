//! Xenstore: the tree of small values by which domains find each other's devices.
//!
//! [`Store`] is a client's connection: over the ring of a guest, straight into a server of the same domain, or into one of
//! the same process.

use alloc::string::String;
use alloc::vec::Vec;

pub mod server;

pub use guest_pv_lib::Errno;
pub use guest_pv_lib::xenstore::{Event, Permission, Transaction};

/// Why an operation was not done: the error that the server gave (`EINVAL`, `ENOENT`, `EACCES`, `EAGAIN`, ...).
pub type Error = Errno;

/// A client's connection. Paths without a leading `/` are relative to the domain's own directory,
/// `/local/domain/<domid>`. Operations wait for the answer.
pub trait Store: Send + Sync + 'static {
    /// The value of a node.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `EACCES`, and what the server says.
    #[doc(alias = "XS_READ")]
    fn read(&self, transaction: Transaction, path: &str) -> Result<Vec<u8>, Error>;

    /// Sets the value of a node, made with its parents where it is missing.
    ///
    /// # Errors
    ///
    /// `EACCES`, `EQUOTA`.
    #[doc(alias = "XS_WRITE")]
    fn write(&self, transaction: Transaction, path: &str, value: &[u8]) -> Result<(), Error>;

    /// Makes a node without a value, where it is missing.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    #[doc(alias = "XS_MKDIR")]
    fn mkdir(&self, transaction: Transaction, path: &str) -> Result<(), Error>;

    /// Removes a node with everything below it.
    ///
    /// # Errors
    ///
    /// `ENOENT` where its parent is missing too, `EACCES`.
    #[doc(alias = "XS_RM")]
    fn remove(&self, transaction: Transaction, path: &str) -> Result<(), Error>;

    /// The names of a node's children.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `EACCES`.
    #[doc(alias = "XS_DIRECTORY")]
    fn directory(&self, transaction: Transaction, path: &str) -> Result<Vec<String>, Error>;

    /// Sets owner and rights: the first entry names the owner, and what everybody may do who is not listed.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `EACCES`.
    #[doc(alias = "XS_SET_PERMS")]
    fn set_permissions(
        &self,
        transaction: Transaction,
        path: &str,
        permissions: &[(u16, Permission)],
    ) -> Result<(), Error>;

    /// Begins a transaction.
    ///
    /// # Errors
    ///
    /// `ENOSPC` where too many are under way.
    #[doc(alias = "XS_TRANSACTION_START")]
    fn begin(&self) -> Result<Transaction, Error>;

    /// Ends a transaction: its changes are seen at once (`commit`), or never.
    ///
    /// # Errors
    ///
    /// `EAGAIN` where somebody else changed what it saw: do it again.
    #[doc(alias = "XS_TRANSACTION_END")]
    fn end(&self, transaction: Transaction, commit: bool) -> Result<(), Error>;

    /// Asks for an event, with `token`, at each change of `path` or below; one comes at once.
    ///
    /// # Errors
    ///
    /// `EEXIST`.
    #[doc(alias = "XS_WATCH")]
    fn watch(&self, path: &str, token: &str) -> Result<(), Error>;

    /// Ends a watch.
    ///
    /// # Errors
    ///
    /// `ENOENT`.
    #[doc(alias = "XS_UNWATCH")]
    fn unwatch(&self, path: &str, token: &str) -> Result<(), Error>;

    /// Whether operations are short now. Where not, an event loop begins none and comes back later, as it does where
    /// nothing can be done yet; an operation that is begun all the same takes as long as what is under way.
    fn is_ready(&self) -> bool {
        true
    }

    /// The next event of a watch, if there is one. Does not wait.
    fn next_event(&self) -> Option<Event>;
}

/// How often a transaction is tried.
const TRIES: usize = 10_000;

/// Runs `work` in a transaction, again where somebody else interfered.
///
/// # Errors
///
/// The first error of `work` other than `EAGAIN` (the transaction is given up then), or the server's; `EAGAIN` after 10,000
/// tries.
pub fn transact<S: Store, R>(
    store: &S,
    mut work: impl FnMut(Transaction) -> Result<R, Error>,
) -> Result<R, Error> {
    for _ in 0..TRIES {
        let transaction = store.begin()?;
        let done = work(transaction);
        let ended = store.end(transaction, done.is_ok());
        match (done, ended) {
            (Ok(result), Ok(())) => return Ok(result),
            (Err(Errno::EAGAIN), _) | (Ok(_), Err(Errno::EAGAIN)) => {}
            (Err(error), _) | (Ok(_), Err(error)) => return Err(error),
        }
    }
    Err(Errno::EAGAIN)
}
