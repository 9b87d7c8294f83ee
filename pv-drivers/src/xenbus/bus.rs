//! One connection to xenstore, used by many drivers.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{AcqRel, Release};

use spin::Mutex;

use crate::store::{self, Store, Transaction};
use crate::transport::Transport;

/// A domain's drivers' connection to xenstore. Clones share it.
pub struct Bus<T: Transport>(Arc<Shared<T>>);

struct Shared<T> {
    transport: T,
    watches: Mutex<Watches>,
}

/// Who set which watch, by token.
#[derive(Default)]
struct Watches {
    last: u64,
    fired: BTreeMap<String, Arc<Fired>>,
}

/// What was told of a watch.
struct Fired {
    is: AtomicBool,
    path: String,
    /// What changed, where that is asked for.
    paths: Option<Mutex<BTreeSet<String>>>,
}

/// Events that one poll takes: a server that tells of ever more is listened to again in the next round.
const EVENTS: usize = 1024;
/// Paths that are noted of one watch. Of more only that there are: the watched one stands for all of them.
const PATHS: usize = 128;

impl<T: Transport> Clone for Bus<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Transport> fmt::Debug for Bus<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bus").field(&self.0.transport).finish()
    }
}

impl<T: Transport> Bus<T> {
    /// The bus of the domain. It takes all events of the transport's connection to xenstore: there is one bus for each.
    #[must_use]
    pub fn new(transport: T) -> Self {
        Self(Arc::new(Shared { transport, watches: Mutex::default() }))
    }

    /// The domain.
    #[must_use]
    pub fn transport(&self) -> &T {
        &self.0.transport
    }

    /// Its connection to xenstore.
    #[must_use]
    pub fn store(&self) -> &T::Store {
        self.0.transport.store()
    }

    /// Marks the watches that fired since the last time; true where there was one. To be called once in each round of an
    /// event loop, before the devices.
    pub fn poll(&self) -> bool {
        let mut any = false;
        for _ in 0..EVENTS {
            let Some(event) = self.store().next_event() else { break };
            if let Some(fired) = self.0.watches.lock().fired.get(&event.token) {
                if let Some(paths) = &fired.paths {
                    note(&mut paths.lock(), event.path, &fired.path);
                }
                fired.is.store(true, Release);
                any = true;
            }
        }
        any
    }

    /// Watches `path` and everything below it. The watch counts as fired from the start.
    ///
    /// # Errors
    ///
    /// What xenstore says.
    pub fn watch(&self, path: &str) -> Result<Watch<T>, store::Error> {
        self.set_watch(path, None)
    }

    /// The same, for [`Watch::take_paths`]. `path` counts as changed from the start.
    ///
    /// # Errors
    ///
    /// What xenstore says.
    pub fn watch_paths(&self, path: &str) -> Result<Watch<T>, store::Error> {
        self.set_watch(path, Some(Mutex::new(BTreeSet::from([path.to_string()]))))
    }

    fn set_watch(
        &self,
        path: &str,
        paths: Option<Mutex<BTreeSet<String>>>,
    ) -> Result<Watch<T>, store::Error> {
        let fired = Arc::new(Fired { is: AtomicBool::new(true), path: path.into(), paths });
        let token = {
            let mut watches = self.0.watches.lock();
            watches.last += 1;
            let token = format!("bus-{}", watches.last);
            watches.fired.insert(token.clone(), fired.clone());
            token
        };
        let mut watch = Watch { bus: self.clone(), path: path.into(), token, fired, is_set: false };
        self.store().watch(&watch.path, &watch.token)?;
        watch.is_set = true;
        Ok(watch)
    }

    /// The text of a node; none where it is missing, not readable, or no text.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<String> {
        String::from_utf8(self.store().read(Transaction::NONE, path).ok()?).ok()
    }

    /// The number in a node, or whatever else can be read from text.
    #[must_use]
    pub fn value<V: FromStr>(&self, path: &str) -> Option<V> {
        self.text(path)?.trim().parse().ok()
    }

    /// The directories of this domain's front ends of a kind (`vbd`, `vif`, `vkbd`, ...), for [`End::front`](super::End::front).
    #[must_use]
    pub fn front_ends(&self, kind: &str) -> Vec<String> {
        let above = format!("device/{kind}");
        self.names(&above).into_iter().map(|name| format!("{above}/{name}")).collect()
    }

    /// The directories of this domain's back ends of a kind, for whatever domain, for [`End::back`](super::End::back).
    #[must_use]
    pub fn back_ends(&self, kind: &str) -> Vec<String> {
        let above = format!("backend/{kind}");
        let domains = self.names(&above).into_iter().map(|domain| format!("{above}/{domain}"));
        domains
            .flat_map(|above| self.names(&above).into_iter().map(move |name| format!("{above}/{name}")))
            .collect()
    }

    fn names(&self, path: &str) -> Vec<String> {
        let mut names = self.store().directory(Transaction::NONE, path).unwrap_or_default();
        names.sort_unstable_by_key(|name| (name.len(), name.to_string()));
        names
    }
}

/// Notes that something changed below a watched node.
fn note(paths: &mut BTreeSet<String>, changed: String, watched: &str) {
    if paths.len() >= PATHS {
        *paths = BTreeSet::from([watched.to_string()]);
    }
    paths.insert(changed);
}

/// A watch that one driver set. Dropping it ends it.
pub struct Watch<T: Transport> {
    bus: Bus<T>,
    path: String,
    token: String,
    fired: Arc<Fired>,
    is_set: bool,
}

impl<T: Transport> Watch<T> {
    /// Whether it fired since the last call.
    #[must_use]
    pub fn take(&self) -> bool {
        self.fired.is.swap(false, AcqRel)
    }

    /// What changed since the last call, of a watch that [`Bus::watch_paths`] set: nodes at or below the watched one. Where
    /// there were too many, the watched one.
    #[must_use]
    pub fn take_paths(&self) -> BTreeSet<String> {
        self.fired.is.store(false, Release);
        self.fired.paths.as_ref().map(|paths| core::mem::take(&mut *paths.lock())).unwrap_or_default()
    }

    /// What is watched.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl<T: Transport> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.path).finish()
    }
}

impl<T: Transport> Drop for Watch<T> {
    fn drop(&mut self) {
        self.bus.0.watches.lock().fired.remove(&self.token);
        if self.is_set {
            // A connection that is lost holds no watch either.
            let _ = self.bus.store().unwatch(&self.path, &self.token);
        }
    }
}
