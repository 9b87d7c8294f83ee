//! The page of a connection (`io/xs_wire.h`): two byte rings and a few words of state, seen from either end.
//!
//! The memory is any slice of words of which the first page counts: the guest's own page, a mapping of another domain's,
//! or an array of a test.

use core::mem::offset_of;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Release};

use xen_abi::io::xs_wire::{
    XENSTORE_CONNECTED, XENSTORE_RECONNECT, XENSTORE_RING_SIZE, XENSTORE_SERVER_FEATURE_RECONNECTION,
    XenstoreDomainInterface as Wire,
};

use crate::byte_ring::ByteRing;

/// Where the page's fields are, in words.
const REQ: usize = offset_of!(Wire, req) / 4;
const RSP: usize = offset_of!(Wire, rsp) / 4;
const REQ_CONS: usize = offset_of!(Wire, req_cons) / 4;
const REQ_PROD: usize = offset_of!(Wire, req_prod) / 4;
const RSP_CONS: usize = offset_of!(Wire, rsp_cons) / 4;
const RSP_PROD: usize = offset_of!(Wire, rsp_prod) / 4;
const SERVER_FEATURES: usize = offset_of!(Wire, server_features) / 4;
const CONNECTION: usize = offset_of!(Wire, connection) / 4;
const ERROR: usize = offset_of!(Wire, error) / 4;
const WORDS: usize = size_of::<Wire>() / 4;
const RING_WORDS: usize = XENSTORE_RING_SIZE as usize / 4;

/// The shared page of a xenstore connection.
#[doc(alias = "xenstore_domain_interface")]
#[derive(Debug)]
pub struct Ring<M>(M);

impl<M: Deref<Target = [AtomicU32]>> Ring<M> {
    /// Takes the memory as it is; none where it is shorter than the interface.
    #[must_use]
    pub fn new(memory: M) -> Option<Self> {
        (memory.len() >= WORDS).then_some(Self(memory))
    }

    /// From client to server.
    #[must_use]
    pub fn requests(&self) -> ByteRing<'_> {
        ByteRing::new(&self.0[REQ..REQ + RING_WORDS], &self.0[REQ_PROD], &self.0[REQ_CONS])
    }

    /// From server to client.
    #[must_use]
    pub fn replies(&self) -> ByteRing<'_> {
        ByteRing::new(&self.0[RSP..RSP + RING_WORDS], &self.0[RSP_PROD], &self.0[RSP_CONS])
    }

    /// What the server says it can do (`XENSTORE_SERVER_FEATURE_*`).
    #[must_use]
    pub fn features(&self) -> u32 {
        self.0[SERVER_FEATURES].load(Acquire)
    }

    /// The server: says what it can do.
    pub fn set_features(&self, features: u32) {
        self.0[SERVER_FEATURES].store(features, Release);
    }

    /// Why the server stopped to serve the ring (`XENSTORE_ERROR_*`); 0 while it does.
    #[must_use]
    pub fn error(&self) -> u32 {
        self.0[ERROR].load(Acquire)
    }

    /// The server: says why it stops (`XENSTORE_ERROR_*`).
    pub fn set_error(&self, error: u32) {
        self.0[ERROR].store(error, Release);
    }

    /// The client: asks the server to begin anew with empty rings. Tells whether the server can do that; it is
    /// asked by an event and has done so once [`is_connected`](Self::is_connected) says true again.
    #[doc(alias = "XENSTORE_RECONNECT")]
    pub fn ask_reconnect(&self) -> bool {
        let can = self.features() & XENSTORE_SERVER_FEATURE_RECONNECTION != 0;
        if can {
            self.0[CONNECTION].store(XENSTORE_RECONNECT, Release);
        }
        can
    }

    /// Whether no reset is under way.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0[CONNECTION].load(Acquire) == XENSTORE_CONNECTED
    }

    /// The server: empties both rings and says that the connection stands.
    pub fn reset(&self) {
        for index in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, ERROR] {
            self.0[index].store(0, Release);
        }
        self.0[CONNECTION].store(XENSTORE_CONNECTED, Release);
    }
}
