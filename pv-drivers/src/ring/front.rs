//! The end that makes requests.

use xen_abi::io::ring::{RingTypes, must_notify};

use super::memory::{Index, Shared};
use super::{Error, Memory};

/// The front end of a ring of protocol `P`.
#[doc(alias = "FRONT_RING_INIT")]
#[derive(Debug)]
pub struct Front<P, M> {
    shared: Shared<P, M>,
    /// Requests written (`req_prod_pvt`).
    produced: u32,
    /// Requests shown to the back end.
    published: u32,
    /// Responses taken (`rsp_cons`).
    consumed: u32,
}

impl<P: RingTypes, M: Memory> Front<P, M> {
    /// Makes `memory` an empty ring. The back end may be told of the pages afterwards.
    ///
    /// # Errors
    ///
    /// [`Error::TooSmall`].
    #[doc(alias = "SHARED_RING_INIT")]
    pub fn new(memory: M) -> Result<Self, Error> {
        let shared = Shared::new(memory)?;
        shared.clear();
        Ok(Self { shared, produced: 0, published: 0, consumed: 0 })
    }

    /// Goes on with a ring that an earlier front end left: behind its last request, and behind the last response.
    /// Responses to its requests that come now are taken like one's own.
    ///
    /// # Errors
    ///
    /// [`Error::TooSmall`]; [`Error::Corrupt`] where the indices do not fit each other.
    #[doc(alias = "FRONT_RING_ATTACH")]
    pub fn attach(memory: M) -> Result<Self, Error> {
        let shared = Shared::new(memory)?;
        let (produced, consumed) = (shared.load(Index::ReqProd), shared.load(Index::RspProd));
        if produced.wrapping_sub(consumed) > shared.slots() {
            return Err(Error::Corrupt);
        }
        Ok(Self { shared, produced, published: produced, consumed })
    }

    /// Number of slots: requests that can be under way at once.
    #[doc(alias = "RING_SIZE")]
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.shared.slots()
    }

    /// Requests that can be pushed now.
    #[doc(alias = "RING_FREE_REQUESTS")]
    #[must_use]
    pub fn free(&self) -> u32 {
        self.slots() - self.produced.wrapping_sub(self.consumed)
    }

    /// Writes a request. The back end sees it after [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// [`Error::Full`].
    #[doc(alias = "RING_GET_REQUEST")]
    pub fn push(&mut self, request: &P::Request) -> Result<(), Error> {
        if self.free() == 0 {
            return Err(Error::Full);
        }
        self.shared.put(self.produced, request);
        self.produced = self.produced.wrapping_add(1);
        Ok(())
    }

    /// Shows the requests to the back end; true: it sleeps and must be sent an event.
    #[doc(alias = "RING_PUSH_REQUESTS_AND_CHECK_NOTIFY")]
    #[must_use = "a sleeping back end must be notified"]
    pub fn publish(&mut self) -> bool {
        let old = core::mem::replace(&mut self.published, self.produced);
        self.shared.store(Index::ReqProd, self.produced);
        self.shared.fence();
        must_notify(old, self.produced, self.shared.load(Index::ReqEvent))
    }

    /// Responses that can be taken.
    fn available(&self) -> Result<u32, Error> {
        let there = self.shared.load(Index::RspProd).wrapping_sub(self.consumed);
        // No more answers than questions that the back end could have seen.
        if there > self.published.wrapping_sub(self.consumed) { Err(Error::Corrupt) } else { Ok(there) }
    }

    /// Takes the next response, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`]; nothing was taken.
    #[doc(alias = "RING_GET_RESPONSE")]
    pub fn pop(&mut self) -> Result<Option<P::Response>, Error> {
        if self.available()? == 0 {
            return Ok(None);
        }
        let response = self.shared.get(self.consumed);
        self.consumed = self.consumed.wrapping_add(1);
        Ok(Some(response))
    }

    /// Before sleeping: asks to be woken by the next response, and says whether one came meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`].
    #[doc(alias = "RING_FINAL_CHECK_FOR_RESPONSES")]
    #[must_use = "true means: do not sleep"]
    pub fn finish(&mut self) -> Result<bool, Error> {
        if self.available()? > 0 {
            return Ok(true);
        }
        self.shared.store(Index::RspEvent, self.consumed.wrapping_add(1));
        self.shared.fence();
        Ok(self.available()? > 0)
    }
}
