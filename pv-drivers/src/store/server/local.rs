//! A client in the same process as the server: the driver domain's own, and those of tests.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use spin::Mutex;

use super::super::{Error, Event, Permission, Store, Transaction};
use super::{Connection, Rights, Server, Waker};

/// A connection to a server that is here. Dropping it ends its watches and transactions.
pub struct Local {
    server: Arc<Mutex<Server>>,
    connection: Connection,
}

impl Local {
    /// A connection for `domain`. `waker` is called, with the server locked, when an event waits.
    #[must_use]
    pub fn new(server: &Arc<Mutex<Server>>, domain: u16, privileged: bool, waker: Option<Waker>) -> Self {
        let connection = server.lock().connect(domain, privileged, waker);
        Self { server: server.clone(), connection }
    }

    /// The same, where what its operations cause, such as telling watchers, is left to [`Server::poll`]: for an event loop,
    /// in which no operation may be a long one.
    #[must_use]
    pub fn deferring(server: &Arc<Mutex<Server>>, domain: u16, privileged: bool) -> Self {
        let local = Self::new(server, domain, privileged, None);
        server.lock().defer(local.connection);
        local
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Local").field(&self.connection).finish()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.server.lock().disconnect(self.connection);
    }
}

impl Store for Local {
    fn read(&self, transaction: Transaction, path: &str) -> Result<Vec<u8>, Error> {
        self.server.lock().read(self.connection, transaction, path)
    }

    fn write(&self, transaction: Transaction, path: &str, value: &[u8]) -> Result<(), Error> {
        self.server.lock().write(self.connection, transaction, path, value)
    }

    fn mkdir(&self, transaction: Transaction, path: &str) -> Result<(), Error> {
        self.server.lock().mkdir(self.connection, transaction, path)
    }

    fn remove(&self, transaction: Transaction, path: &str) -> Result<(), Error> {
        self.server.lock().remove(self.connection, transaction, path)
    }

    fn directory(&self, transaction: Transaction, path: &str) -> Result<Vec<String>, Error> {
        Ok(self.server.lock().directory(self.connection, transaction, path)?.0)
    }

    fn set_permissions(
        &self,
        transaction: Transaction,
        path: &str,
        permissions: &[(u16, Permission)],
    ) -> Result<(), Error> {
        let rights = Rights::new(permissions)?;
        self.server.lock().set_rights(self.connection, transaction, path, rights)
    }

    fn begin(&self) -> Result<Transaction, Error> {
        self.server.lock().begin(self.connection)
    }

    fn end(&self, transaction: Transaction, commit: bool) -> Result<(), Error> {
        self.server.lock().end(self.connection, transaction, commit)
    }

    fn watch(&self, path: &str, token: &str) -> Result<(), Error> {
        self.server.lock().watch(self.connection, path, token)
    }

    fn unwatch(&self, path: &str, token: &str) -> Result<(), Error> {
        self.server.lock().unwatch(self.connection, path, token)
    }

    fn is_ready(&self) -> bool {
        self.server.lock().is_ready(self.connection)
    }

    fn next_event(&self) -> Option<Event> {
        self.server.lock().next_event(self.connection)
    }
}
