//! One end of a device: where it is described, and the state of both sides.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;

use super::{Bus, Error, Nodes, Role, State, Watch};
use crate::store::{self, Store, Transaction, transact};
use crate::transport::{DomId, Transport};

/// One end of a device.
pub struct End<T: Transport> {
    bus: Bus<T>,
    role: Role,
    path: String,
    peer_path: String,
    peer: DomId,
    state: State,
    peer_state: State,
    watch: Watch<T>,
}

impl<T: Transport> End<T> {
    /// The front end whose directory is `path`, e.g. `device/vbd/51712`. It starts anew, whatever an earlier kernel of
    /// this domain left.
    ///
    /// # Errors
    ///
    /// [`Error::Peer`] where the directory does not name a back end; what xenstore says.
    pub fn front(bus: &Bus<T>, path: &str) -> Result<Self, Error> {
        Self::new(bus, Role::Front, path, "backend", "backend-id")
    }

    /// The back end whose directory is `path`, e.g. `backend/vbd/3/51712`.
    ///
    /// # Errors
    ///
    /// [`Error::Peer`] where the directory does not name a front end; what xenstore says.
    pub fn back(bus: &Bus<T>, path: &str) -> Result<Self, Error> {
        Self::new(bus, Role::Back, path, "frontend", "frontend-id")
    }

    fn new(bus: &Bus<T>, role: Role, path: &str, other: &str, id: &str) -> Result<Self, Error> {
        let missing = Error::Peer("the directory does not name the other end");
        let peer_path = bus.text(&format!("{path}/{other}")).ok_or(missing)?;
        let peer = bus.value(&format!("{path}/{id}")).ok_or(missing)?;
        let watch = bus.watch(&format!("{peer_path}/state"))?;
        let mut end = Self {
            bus: bus.clone(),
            role,
            path: path.to_string(),
            peer_path,
            peer,
            state: State::Initialising,
            peer_state: State::Unknown,
            watch,
        };
        if end.own::<u32>("state") != Some(State::Initialising.number()) {
            end.switch(State::Initialising, &Nodes::new())?;
        }
        Ok(end)
    }

    /// Begins anew where the directory may name another end: after the domain went on as another one, for which a
    /// toolstack wrote the directory.
    pub(super) fn renew(&mut self) -> Result<(), Error> {
        *self = match self.role {
            Role::Front => Self::front(&self.bus, &self.path),
            Role::Back => Self::back(&self.bus, &self.path),
        }?;
        Ok(())
    }

    /// Which end it is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The domain's bus.
    #[must_use]
    pub fn bus(&self) -> &Bus<T> {
        &self.bus
    }

    /// The domain that this end is in.
    #[must_use]
    pub fn transport(&self) -> &T {
        self.bus.transport()
    }

    /// The domain of the other end.
    #[must_use]
    pub fn peer(&self) -> DomId {
        self.peer
    }

    /// This end's directory.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The other end's directory.
    #[must_use]
    pub fn peer_path(&self) -> &str {
        &self.peer_path
    }

    /// The state that this end shows.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The state that the other end showed last.
    #[must_use]
    pub fn peer_state(&self) -> State {
        self.peer_state
    }

    /// What the own directory says; none where it is missing or unreadable.
    #[must_use]
    pub fn own<V: FromStr>(&self, name: &str) -> Option<V> {
        self.bus.value(&format!("{}/{name}", self.path))
    }

    /// What the other end's directory says; none where it is missing or unreadable.
    #[must_use]
    pub fn peers<V: FromStr>(&self, name: &str) -> Option<V> {
        self.bus.value(&format!("{}/{name}", self.peer_path))
    }

    /// Whether the other end's directory says 1, as features do.
    #[must_use]
    pub fn peer_has(&self, feature: &str) -> bool {
        self.peers::<u64>(feature).is_some_and(|value| value != 0)
    }

    /// Publishes nodes of the own directory.
    ///
    /// # Errors
    ///
    /// What xenstore says.
    pub fn publish(&self, nodes: &Nodes) -> Result<(), store::Error> {
        self.write(nodes, None)
    }

    /// Publishes nodes together with a new state: the other end sees both or none.
    ///
    /// # Errors
    ///
    /// What xenstore says.
    pub fn switch(&mut self, state: State, nodes: &Nodes) -> Result<(), store::Error> {
        self.write(nodes, Some(state))?;
        self.state = state;
        Ok(())
    }

    fn write(&self, nodes: &Nodes, state: Option<State>) -> Result<(), store::Error> {
        let store = self.bus.store();
        transact(store, |transaction| {
            for (name, value) in nodes.iter() {
                store.write(transaction, &format!("{}/{name}", self.path), value.as_bytes())?;
            }
            match state {
                Some(state) => {
                    store.write(transaction, &format!("{}/state", self.path), state.to_string().as_bytes())
                }
                None => Ok(()),
            }
        })
    }

    /// Reads the other end's state anew where xenstore told of a change; true where it is another one.
    pub fn poll(&mut self) -> bool {
        if !self.watch.take() {
            return false;
        }
        let node = self.bus.store().read(Transaction::NONE, self.watch.path());
        let state = node.map_or(State::Unknown, |contents| State::from_node(&contents));
        core::mem::replace(&mut self.peer_state, state) != state
    }

    /// Leaves a message where tools look for it (`error/<directory>/error`).
    pub fn report(&self, error: &Error) {
        let path = format!("error/{}/error", self.path);
        // That nobody reads of the error is no reason for another one.
        let _ = self.bus.store().write(Transaction::NONE, &path, error.to_string().as_bytes());
    }
}

impl<T: Transport> fmt::Debug for End<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End")
            .field("path", &self.path)
            .field("peer", &self.peer)
            .field("state", &self.state)
            .field("peer_state", &self.peer_state)
            .finish_non_exhaustive()
    }
}
