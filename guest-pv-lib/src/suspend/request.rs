//! What a toolstack asks a domain for: by the node `control/shutdown`, which the kernel empties to say that it has
//! heard. The toolstack waits for that, then for the domain to do it.

use core::ops::Deref;
use core::sync::atomic::AtomicU32;

use crate::Errno;
use crate::xenstore::{Client, Link, Transaction};

/// The node.
pub const NODE: &str = "control/shutdown";

/// What a domain is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// End: [`Shutdown::PowerOff`](crate::sched::Shutdown::PowerOff).
    PowerOff,
    /// End and start again: [`Shutdown::Reboot`](crate::sched::Shutdown::Reboot).
    Reboot,
    /// [`suspend`](super).
    Suspend,
}

impl Request {
    fn of(value: &[u8]) -> Option<Self> {
        match value {
            b"poweroff" | b"halt" => Some(Self::PowerOff),
            b"reboot" => Some(Self::Reboot),
            b"suspend" => Some(Self::Suspend),
            _ => None,
        }
    }
}

/// [Says](offer) what the kernel can be asked for, and has events come for it, with the token `token`.
///
/// # Errors
///
/// What the server says.
pub fn watch<M: Deref<Target = [AtomicU32]>, L: Link>(
    client: &Client<M, L>,
    token: &str,
) -> Result<(), Errno> {
    offer(client)?;
    client.watch(NODE, token)
}

/// Says what the kernel can be asked for. It watches [`NODE`] by itself then.
///
/// # Errors
///
/// What the server says.
pub fn offer<M: Deref<Target = [AtomicU32]>, L: Link>(client: &Client<M, L>) -> Result<(), Errno> {
    for feature in ["control/feature-poweroff", "control/feature-reboot", "control/feature-suspend"] {
        // A toolstack may keep the folder to itself, and asks all the same.
        match client.write(Transaction::NONE, feature, b"1") {
            Err(Errno::EACCES | Errno::EPERM | Errno::ENOENT) | Ok(()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What the toolstack asks for, if anything, which is acknowledged by this call. An unknown request is left to itself.
///
/// # Errors
///
/// What the server says.
#[doc(alias = "control/shutdown")]
pub fn acknowledge<M: Deref<Target = [AtomicU32]>, L: Link>(
    client: &Client<M, L>,
) -> Result<Option<Request>, Errno> {
    client.transact(|transaction| {
        let value = match client.read(transaction, NODE) {
            Err(Errno::ENOENT) => return Ok(None),
            value => value?,
        };
        let request = Request::of(&value);
        if request.is_some() {
            client.write(transaction, NODE, b"")?;
        }
        Ok(request)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_heard() {
        assert_eq!(Request::of(b"suspend"), Some(Request::Suspend));
        assert_eq!(Request::of(b"halt"), Some(Request::PowerOff));
        assert_eq!(Request::of(b"reboot"), Some(Request::Reboot));
        assert_eq!((Request::of(b""), Request::of(b"suspend\0"), Request::of(b"crash")), (None, None, None));
    }
}
