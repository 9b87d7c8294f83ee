//! The requests of the protocol, typed. Each waits for its answer.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;

use xen_abi::io::xs_wire::{
    XS_DIRECTORY, XS_DIRECTORY_PART, XS_GET_DOMAIN_PATH, XS_GET_PERMS, XS_MKDIR, XS_READ, XS_RM,
    XS_SET_PERMS, XS_TRANSACTION_END, XS_TRANSACTION_START, XS_UNWATCH, XS_WATCH, XS_WRITE,
};

use super::client::{Client, Link};
use super::message::{Entry, Permission, strings};
use super::{Reply, Transaction};
use crate::Errno;

/// Bytes of the longest list of names.
const LIST: usize = 1 << 20;
/// How often a list is begun again because it changed meanwhile.
const LISTS: usize = 100;
/// How often a transaction is tried.
const TRIES: usize = 10_000;

/// What ends a string.
const NUL: &[u8] = &[0];

/// A string as the wire wants it: without the terminator that would cut it.
fn text(value: &str) -> Result<&[u8], Errno> {
    if value.as_bytes().contains(&0) { Err(Errno::EINVAL) } else { Ok(value.as_bytes()) }
}

/// Paths without a leading `/` are relative to the domain's own directory, `/local/domain/<domid>`.
impl<M: Deref<Target = [AtomicU32]>, L: Link> Client<M, L> {
    fn path_call(&self, kind: u32, transaction: Transaction, path: &str) -> Result<Vec<u8>, Errno> {
        self.call(kind, transaction, &[text(path)?, NUL])
    }

    /// The value of a node.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `EACCES`, and what the server says.
    #[doc(alias = "XS_READ")]
    pub fn read(&self, transaction: Transaction, path: &str) -> Result<Vec<u8>, Errno> {
        self.path_call(XS_READ, transaction, path)
    }

    /// Asks for the value of a node without waiting for it.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit).
    pub fn submit_read(&self, transaction: Transaction, path: &str) -> Result<Reply<'_, M, L>, Errno> {
        self.submit(XS_READ, transaction, &[text(path)?, NUL])
    }

    /// Sets the value of a node, made with its parents where it is missing.
    ///
    /// # Errors
    ///
    /// `EACCES`, `ENOSPC` where the domain has too many nodes, `E2BIG` for a value that is too long.
    #[doc(alias = "XS_WRITE")]
    pub fn write(&self, transaction: Transaction, path: &str, value: &[u8]) -> Result<(), Errno> {
        self.call(XS_WRITE, transaction, &[text(path)?, NUL, value]).map(drop)
    }

    /// Makes a node without a value, where it is missing.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    #[doc(alias = "XS_MKDIR")]
    pub fn mkdir(&self, transaction: Transaction, path: &str) -> Result<(), Errno> {
        self.path_call(XS_MKDIR, transaction, path).map(drop)
    }

    /// Removes a node with everything below it.
    ///
    /// # Errors
    ///
    /// `ENOENT` where its parent is missing too, `EACCES`.
    #[doc(alias = "XS_RM")]
    pub fn remove(&self, transaction: Transaction, path: &str) -> Result<(), Errno> {
        self.path_call(XS_RM, transaction, path).map(drop)
    }

    /// The names of a node's children.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `EACCES`; `E2BIG` beyond 1 MiB of names, `EAGAIN` where they change all the time.
    #[doc(alias = "XS_DIRECTORY")]
    pub fn directory(&self, transaction: Transaction, path: &str) -> Result<Vec<String>, Errno> {
        let payload = match self.path_call(XS_DIRECTORY, transaction, path) {
            // More than one message holds: the server gives it in parts.
            Err(Errno::E2BIG) => self.directory_parts(transaction, path)?,
            answer => answer?,
        };
        Ok(strings(&payload).map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    }

    /// A long list of children, part by part; from the start again where it changed meanwhile.
    #[doc(alias = "XS_DIRECTORY_PART")]
    fn directory_parts(&self, transaction: Transaction, path: &str) -> Result<Vec<u8>, Errno> {
        let (mut names, mut generation) = (Vec::new(), Vec::new());
        let mut lists = 1;
        loop {
            let mut offset = String::new();
            // Writing to a string cannot fail.
            let _ = write!(offset, "{}", names.len());
            let parts = [text(path)?, NUL, offset.as_bytes(), NUL];
            let part = self.call(XS_DIRECTORY_PART, transaction, &parts)?;
            let end = part.iter().position(|byte| *byte == 0).ok_or(Errno::EIO)?;
            let (now, list) = (&part[..end], &part[end + 1..]);
            if !names.is_empty() && generation != now {
                names.clear();
                lists += 1;
                if lists > LISTS {
                    return Err(Errno::EAGAIN);
                }
                continue;
            }
            generation = now.to_vec();
            // An empty name behind the last one ends the list.
            match list {
                [] | [0] => return Ok(names),
                [rest @ .., 0, 0] => {
                    names.extend(rest);
                    names.push(0);
                    return Ok(names);
                }
                _ => names.extend(list),
            }
            if names.len() > LIST {
                return Err(Errno::E2BIG);
            }
        }
    }

    /// Owner and rights: the first entry names the owner, and what everybody may do who is not listed.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `EACCES`; `EIO` where the answer makes no sense.
    #[doc(alias = "XS_GET_PERMS")]
    pub fn permissions(&self, transaction: Transaction, path: &str) -> Result<Vec<(u16, Permission)>, Errno> {
        let payload = self.path_call(XS_GET_PERMS, transaction, path)?;
        let entries = strings(&payload).map(|text| Entry::parse(text).map(|entry| (entry.0, entry.1)));
        entries.collect::<Option<_>>().ok_or(Errno::EIO)
    }

    /// Sets owner and rights, as [`permissions`](Self::permissions) returns them.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `EACCES`.
    #[doc(alias = "XS_SET_PERMS")]
    pub fn set_permissions(
        &self,
        transaction: Transaction,
        path: &str,
        permissions: &[(u16, Permission)],
    ) -> Result<(), Errno> {
        let mut entries = String::new();
        for &(domain, permission) in permissions {
            // Writing to a string cannot fail.
            let _ = write!(entries, "{}\0", Entry(domain, permission));
        }
        self.call(XS_SET_PERMS, transaction, &[text(path)?, NUL, entries.as_bytes()]).map(drop)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    ///
    /// `ENOSPC` where too many are under way; `EIO` where the answer makes no sense.
    #[doc(alias = "XS_TRANSACTION_START")]
    pub fn begin(&self) -> Result<Transaction, Errno> {
        let payload = self.call(XS_TRANSACTION_START, Transaction::NONE, &[NUL])?;
        let number = strings(&payload).next().and_then(|number| core::str::from_utf8(number).ok());
        match number.and_then(|number| number.parse().ok()) {
            Some(number) if number != 0 => Ok(Transaction(number)),
            _ => Err(Errno::EIO),
        }
    }

    /// Ends a transaction: its changes are seen at once (`commit`), or never.
    ///
    /// # Errors
    ///
    /// `EAGAIN` where somebody else changed what it saw: do it again.
    #[doc(alias = "XS_TRANSACTION_END")]
    pub fn end(&self, transaction: Transaction, commit: bool) -> Result<(), Errno> {
        let how: &[u8] = if commit { b"T\0" } else { b"F\0" };
        self.call(XS_TRANSACTION_END, transaction, &[how]).map(drop)
    }

    /// Runs `work` in a transaction, again where somebody else interfered.
    ///
    /// # Errors
    ///
    /// The first error of `work` other than `EAGAIN` (the transaction is given up then), or the server's; `EAGAIN` after
    /// 10,000 tries.
    pub fn transact<R>(&self, mut work: impl FnMut(Transaction) -> Result<R, Errno>) -> Result<R, Errno> {
        for _ in 0..TRIES {
            let transaction = self.begin()?;
            let done = work(transaction);
            let ended = self.end(transaction, done.is_ok());
            match (done, ended) {
                (Ok(result), Ok(())) => return Ok(result),
                (Err(Errno::EAGAIN), _) | (Ok(_), Err(Errno::EAGAIN)) => {}
                (Err(error), _) | (Ok(_), Err(error)) => return Err(error),
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Asks for an event, with `token`, at each change of `path` or below; one comes at once.
    ///
    /// # Errors
    ///
    /// `EEXIST`.
    #[doc(alias = "XS_WATCH")]
    pub fn watch(&self, path: &str, token: &str) -> Result<(), Errno> {
        self.call(XS_WATCH, Transaction::NONE, &[text(path)?, NUL, text(token)?, NUL])?;
        self.note_watch(path, token, true);
        Ok(())
    }

    /// Ends a watch.
    ///
    /// # Errors
    ///
    /// `ENOENT`.
    #[doc(alias = "XS_UNWATCH")]
    pub fn unwatch(&self, path: &str, token: &str) -> Result<(), Errno> {
        self.note_watch(path, token, false);
        self.call(XS_UNWATCH, Transaction::NONE, &[text(path)?, NUL, text(token)?, NUL]).map(drop)
    }

    /// The directory of domain `domain`, by which a back end names its front end's nodes.
    ///
    /// # Errors
    ///
    /// What the server says; `EIO` where the answer is not text.
    #[doc(alias = "XS_GET_DOMAIN_PATH")]
    pub fn domain_path(&self, domain: u16) -> Result<String, Errno> {
        let mut number = String::new();
        // Writing to a string cannot fail.
        let _ = write!(number, "{domain}\0");
        let payload = self.call(XS_GET_DOMAIN_PATH, Transaction::NONE, &[number.as_bytes()])?;
        let path = strings(&payload).next().unwrap_or_default();
        core::str::from_utf8(path).map(String::from).map_err(|_| Errno::EIO)
    }
}
