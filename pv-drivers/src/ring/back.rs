//! The end that answers requests.

use xen_abi::io::ring::{RingTypes, must_notify};

use super::memory::{Index, Shared};
use super::{Error, Memory};

/// The back end of a ring of protocol `P`.
#[doc(alias = "BACK_RING_INIT")]
#[derive(Debug)]
pub struct Back<P, M> {
    shared: Shared<P, M>,
    /// Requests taken (`req_cons`).
    consumed: u32,
    /// Responses written (`rsp_prod_pvt`).
    produced: u32,
    /// Responses shown to the front end.
    published: u32,
}

impl<P: RingTypes, M: Memory> Back<P, M> {
    /// Connects to a ring that a front end made, or goes on with one that an earlier back end left: behind the last
    /// response that was published.
    ///
    /// # Errors
    ///
    /// [`Error::TooSmall`]; [`Error::Corrupt`] where the front end's index does not fit.
    #[doc(alias = "BACK_RING_ATTACH")]
    pub fn attach(memory: M) -> Result<Self, Error> {
        let shared = Shared::new(memory)?;
        let at = shared.load(Index::RspProd);
        let back = Self { shared, consumed: at, produced: at, published: at };
        back.available()?;
        Ok(back)
    }

    /// Number of slots.
    #[doc(alias = "RING_SIZE")]
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.shared.slots()
    }

    /// Requests taken and not answered.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.consumed.wrapping_sub(self.produced)
    }

    /// Requests that can be taken.
    #[doc(alias = "RING_REQUEST_PROD_OVERFLOW")]
    fn available(&self) -> Result<u32, Error> {
        let there = self.shared.load(Index::ReqProd).wrapping_sub(self.consumed);
        // Each request has a slot of its own until it is answered.
        if there > self.slots() - self.outstanding() { Err(Error::Corrupt) } else { Ok(there) }
    }

    /// How many requests can be taken.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`].
    #[doc(alias = "RING_HAS_UNCONSUMED_REQUESTS")]
    pub fn waiting(&self) -> Result<u32, Error> {
        self.available()
    }

    /// Takes the next request, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`]; nothing was taken.
    #[doc(alias = "RING_COPY_REQUEST")]
    pub fn pop(&mut self) -> Result<Option<P::Request>, Error> {
        if self.available()? == 0 {
            return Ok(None);
        }
        let request = self.shared.get(self.consumed);
        self.consumed = self.consumed.wrapping_add(1);
        Ok(Some(request))
    }

    /// Writes a response. The front end sees it after [`publish`](Self::publish). Responses need not come in the
    /// order of the requests: they carry the request's id where the protocol has one.
    ///
    /// # Errors
    ///
    /// [`Error::Unasked`] where every request taken was answered already.
    #[doc(alias = "RING_GET_RESPONSE")]
    pub fn push(&mut self, response: &P::Response) -> Result<(), Error> {
        if self.outstanding() == 0 {
            return Err(Error::Unasked);
        }
        self.shared.put(self.produced, response);
        self.produced = self.produced.wrapping_add(1);
        Ok(())
    }

    /// Shows the responses to the front end; true: it sleeps and must be sent an event.
    #[doc(alias = "RING_PUSH_RESPONSES_AND_CHECK_NOTIFY")]
    #[must_use = "a sleeping front end must be notified"]
    pub fn publish(&mut self) -> bool {
        let old = core::mem::replace(&mut self.published, self.produced);
        self.shared.store(Index::RspProd, self.produced);
        self.shared.fence();
        must_notify(old, self.produced, self.shared.load(Index::RspEvent))
    }

    /// Before sleeping: asks to be woken by the next request, and says whether one came meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`].
    #[doc(alias = "RING_FINAL_CHECK_FOR_REQUESTS")]
    #[must_use = "true means: do not sleep"]
    pub fn finish(&mut self) -> Result<bool, Error> {
        self.finish_for(1)
    }

    /// The same for an end that can do nothing before `count` requests are there.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`].
    #[must_use = "true means: do not sleep"]
    pub fn finish_for(&mut self, count: u32) -> Result<bool, Error> {
        if self.available()? >= count {
            return Ok(true);
        }
        self.shared.store(Index::ReqEvent, self.consumed.wrapping_add(count));
        self.shared.fence();
        Ok(self.available()? >= count)
    }
}
