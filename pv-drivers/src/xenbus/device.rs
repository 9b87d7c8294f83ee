//! A device that moves through the states of a connection and lets its driver do the work.
//!
//! A front end that lost its back end comes back when the back end does; a back end serves a front end that starts anew.
//! What is shared stays until the other end has left: then, and when the device is dropped, the driver gives it back.
//!
//! A back end that says that it has left can still have pages mapped. They are kept aside, and a front end of a back end that
//! has [`MOST_KEPT`] of them shares no new ones with it: connections that end and begin again do not take all memory.

use super::{End, Error, Nodes, Role, State, next};
use crate::store::Store;
use crate::transport::Transport;

/// The most steps of one poll: a whole way down and up again. A peer whose state changes all the time takes no more of
/// a round than this.
const STEPS: usize = 6;
/// Pages that a back end may keep of connections that ended: those of two connections of an ordinary device.
pub const MOST_KEPT: usize = 1024;

/// The work that the steps of a connection stand for.
pub trait Driver<T: Transport> {
    /// Which end this is.
    const ROLE: Role;

    /// What a front end shows once its details are published. Network front ends say [`State::Connected`] at once.
    const READY: State = State::Initialised;

    /// Names what the other end must know. A front end, whose back end has published its features, makes its rings; a
    /// back end offers its features.
    ///
    /// # Errors
    ///
    /// The device closes then, and the error is published.
    fn publish(&mut self, end: &End<T>) -> Result<Nodes, Error>;

    /// The other end has published all: a front end reads what the device is, a back end maps the rings.
    ///
    /// # Errors
    ///
    /// The device closes then, and the error is published.
    fn connect(&mut self, end: &End<T>) -> Result<Nodes, Error>;

    /// The connection ended: gives back what was shared. The other end has left, or should have.
    fn disconnect(&mut self, end: &End<T>);

    /// Whether nothing is under way that changes what the other end, or the one after it, finds. Asked after
    /// [`disconnect`](Self::disconnect): a back end says that it has closed only then, and is polled until it has.
    fn is_at_rest(&self) -> bool {
        true
    }

    /// The other end's state changed without a step following from it, e.g. to [`State::Reconfiguring`].
    fn changed(&mut self, _end: &End<T>) {}
}

/// An end with its driver.
#[derive(Debug)]
pub struct Device<T: Transport, D> {
    end: End<T>,
    driver: D,
    /// Whether the driver holds what [`Driver::publish`] and [`Driver::connect`] made.
    is_shared: bool,
    /// Whether the driver is connected.
    is_connected: bool,
    /// Whether this end shall connect (again) when the other end can.
    is_wanted: bool,
    /// Whether a front end asks a back end that closed to serve it again.
    is_reopening: bool,
    /// Whether there may be a step without a change at the other end.
    is_due: bool,
    /// Whether a back end has left, and the driver is not at rest: the step to [`State::Closed`] is tried in each poll.
    is_waiting: bool,
    /// This end shall leave, which xenstore could not be told yet, and why.
    late: Option<Option<Error>>,
}

impl<T: Transport, D: Driver<T>> Device<T, D> {
    /// A device that will connect.
    pub fn new(end: End<T>, driver: D) -> Self {
        Self {
            end,
            driver,
            is_shared: false,
            is_connected: false,
            is_wanted: true,
            is_reopening: false,
            is_due: true,
            is_waiting: false,
            late: None,
        }
    }

    /// The end.
    #[must_use]
    pub fn end(&self) -> &End<T> {
        &self.end
    }

    /// The driver.
    #[must_use]
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// The driver.
    pub fn driver_mut(&mut self) -> &mut D {
        &mut self.driver
    }

    /// Driver and end.
    pub fn parts(&mut self) -> (&mut D, &End<T>) {
        (&mut self.driver, &self.end)
    }

    /// Whether both ends use the device.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// Whether this end has closed and nothing is shared any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.end.state() == State::Closed && !self.is_shared
    }

    /// Steps as far as the other end allows; true where something changed. Nothing does while xenstore is busy.
    pub fn poll(&mut self) -> bool {
        if !self.is_store_ready() {
            return false;
        }
        match self.late.take() {
            Some(Some(error)) => self.fail_now(&error),
            Some(None) => self.leave(),
            None => {}
        }
        let changed = self.end.poll();
        if !changed && !self.is_due && !self.is_waiting {
            return false;
        }
        (self.is_due, self.is_waiting) = (false, false);
        let mut progress = changed;
        for _ in 0..STEPS {
            match self.step() {
                Ok(true) => progress = true,
                Ok(false) => return progress,
                Err(error) => self.fail_now(&error),
            }
        }
        self.is_due = true;
        progress
    }

    /// Ends the connection, and does not connect again until [`reopen`](Self::reopen).
    pub fn close(&mut self) {
        self.is_wanted = false;
        if self.is_store_ready() {
            self.leave();
        } else {
            self.is_connected = false;
            self.late.get_or_insert(None);
        }
    }

    /// Connects again after [`close`](Self::close).
    pub fn reopen(&mut self) {
        self.is_wanted = true;
        self.is_reopening = true;
        self.is_due = true;
    }

    /// Begins anew after the domain was restored from what a toolstack had saved of it: the other end is a new one, and
    /// nothing is shared with it yet. (A domain that was saved and goes on keeps its connections.) The store's own
    /// connection must work again.
    ///
    /// # Errors
    ///
    /// The directory names no other end, e.g. because the domain has no such device any more; what xenstore says.
    pub fn resume(&mut self) -> Result<(), Error> {
        self.give_back();
        self.end.renew()?;
        self.is_reopening = false;
        self.is_due = true;
        self.late = None;
        if !self.is_wanted {
            self.leave();
        }
        Ok(())
    }

    /// Ends the connection because of `error`, which is published.
    pub fn fail(&mut self, error: &Error) {
        if self.is_store_ready() {
            self.fail_now(error);
        } else {
            self.is_connected = false;
            self.late = Some(Some(*error));
        }
    }

    fn is_store_ready(&self) -> bool {
        self.end.bus().store().is_ready()
    }

    fn fail_now(&mut self, error: &Error) {
        self.end.report(error);
        // A back end serves the next kernel of the domain; a front end that cannot use a back end does not try again.
        self.is_wanted &= D::ROLE == Role::Back;
        self.leave();
    }

    fn leave(&mut self) {
        self.is_connected = false;
        self.is_due = true;
        if !self.end.state().is_leaving() {
            self.show(State::Closing);
        }
    }

    /// Shows a state. Where xenstore refuses, the other end sees that this one is stuck; there is no more to be done.
    fn show(&mut self, state: State) -> bool {
        self.end.switch(state, &Nodes::new()).is_ok()
    }

    /// Does one step; whether there was one.
    fn step(&mut self) -> Result<bool, Error> {
        let (own, peer) = (self.end.state(), self.end.peer_state());
        // With a front end that says Connected first, the back end's being so is a step of its own.
        if own == State::Connected && !self.is_connected && self.is_shared && peer.is_connected() {
            return self.connect().map(|()| true);
        }
        if own == State::Closed && D::ROLE == Role::Front {
            return self.after_closing(peer);
        }
        if own == State::Closed && (!self.is_wanted || self.end.own::<u32>("online") == Some(0)) {
            return Ok(false);
        }
        let Some(state) = next(D::ROLE, own, peer) else {
            if self.is_connected {
                self.driver.changed(&self.end);
            }
            return Ok(false);
        };
        match state {
            State::Initialised | State::InitWait => {
                if D::ROLE == Role::Front && self.end.transport().kept_aside(self.end.peer()) >= MOST_KEPT {
                    return Err(Error::Peer("the back end keeps pages of connections that ended"));
                }
                self.is_shared = true;
                let nodes = self.driver.publish(&self.end)?;
                let state = if D::ROLE == Role::Front { D::READY } else { state };
                self.end.switch(state, &nodes)?;
            }
            State::Connected => self.connect()?,
            State::Closed if D::ROLE == Role::Back => {
                self.give_back();
                if !self.driver.is_at_rest() {
                    self.is_waiting = true;
                    return Ok(false);
                }
                return Ok(self.show(state));
            }
            _ => {
                self.is_connected = false;
                return Ok(self.show(state));
            }
        }
        Ok(true)
    }

    fn connect(&mut self) -> Result<(), Error> {
        let nodes = self.driver.connect(&self.end)?;
        self.end.switch(State::Connected, &nodes)?;
        self.is_connected = true;
        Ok(())
    }

    /// What a front end does that has closed: it takes back its pages when the back end has left them, and starts anew
    /// with one that waits for it.
    fn after_closing(&mut self, peer: State) -> Result<bool, Error> {
        let left =
            !matches!(peer, State::Connected | State::Reconfiguring | State::Reconfigured | State::Closing);
        if self.is_shared && left {
            self.give_back();
            return Ok(true);
        }
        let waits = matches!(peer, State::Initialising | State::InitWait);
        if !self.is_shared && self.is_wanted && (waits || self.is_reopening) {
            self.is_reopening = false;
            self.end.switch(State::Initialising, &Nodes::new())?;
            return Ok(true);
        }
        Ok(false)
    }

    fn give_back(&mut self) {
        self.is_connected = false;
        if core::mem::take(&mut self.is_shared) {
            self.driver.disconnect(&self.end);
        }
    }
}
