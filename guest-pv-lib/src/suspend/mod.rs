//! Suspending the domain, and going on: in place after a checkpoint, or in another domain that a toolstack filled with
//! what it saved of this one.
//!
//! A toolstack reads the whole domain, turns the machine frames of page tables and CPU contexts into pseudo-physical
//! ones, and the other way round where it restores. It must find the p2m list for that (`announce`), and
//! must not find a frame in the page tables that is not the domain's own. So `suspend` takes out, in this order,
//! the grant table, the machine frames in `start_info` and the shared page, with all other CPUs parked; calls
//! `SCHEDOP_shutdown`; and puts everything back in the opposite order. `steps` has that order, and `ports` what
//! becomes of event channels, both without a hypervisor; `machine` has what they do to a real one.
//!
//! Trap table, callbacks, descriptor tables and control registers are part of the CPUs' contexts and move with them. So do
//! the rings of console and xenstore, which are pages of the domain. What a driver has with other domains does not
//! move: drivers let go of it before and begin anew afterwards, by the hooks of [`on`].
//!
//! [`Request`] is what a toolstack asks for by the node `control/shutdown`.

#[cfg(target_os = "none")]
mod machine;
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
mod p2m_tree;
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
mod ports;
mod request;
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
mod steps;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

#[cfg(target_os = "none")]
pub use machine::{announce, suspend};
pub use request::{NODE, Request, acknowledge, offer, watch};

use crate::events::{self, Port};

/// How a domain went on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In place: it was saved and is not to end. Everything is as before.
    #[doc(alias = "SUSPEND_CANCEL")]
    Cancelled,
    /// In another domain, perhaps of another machine.
    Resumed {
        /// Channels that have no other end any more: those to other domains, the console's and xenstore's left out.
        /// Their numbers stay theirs until they are closed. Ports to other CPUs and virtual interrupts have been bound
        /// again under the same numbers.
        lost: Vec<Port>,
    },
}

/// What a driver does about a suspension.
struct Hook {
    before: Box<dyn Fn() + Send + Sync>,
    after: Box<dyn Fn(&Outcome) + Send + Sync>,
}

static HOOKS: spin::Mutex<Hooks> = spin::Mutex::new(Hooks(Vec::new()));

#[derive(Clone)]
struct Hooks(Vec<Arc<Hook>>);

impl Hooks {
    /// What uses others stops before them.
    #[cfg_attr(not(target_os = "none"), allow(dead_code))]
    fn before(&self) {
        self.0.iter().rev().for_each(|hook| (hook.before)());
    }

    /// And starts after them.
    #[cfg_attr(not(target_os = "none"), allow(dead_code))]
    fn after(&self, outcome: &Outcome) {
        self.0.iter().for_each(|hook| (hook.after)(outcome));
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hooks", self.0.len())
    }
}

/// Runs `before` ahead of each suspension, and `after` behind it, for good. Both run on CPU 0, with the other CPUs
/// running and upcalls as `suspend`'s caller has them. What was registered last stops first and goes on last.
pub fn on(before: impl Fn() + Send + Sync + 'static, after: impl Fn(&Outcome) + Send + Sync + 'static) {
    let hook = Arc::new(Hook { before: Box::new(before), after: Box::new(after) });
    with_hooks(|hooks| hooks.0.push(hook));
}

/// Not while a hook runs: it may register another.
fn with_hooks<R>(work: impl FnOnce(&mut Hooks) -> R) -> R {
    events::without_upcalls(|| work(&mut HOOKS.lock()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_stops_first() {
        static ORDER: spin::Mutex<Vec<u32>> = spin::Mutex::new(Vec::new());
        let note = |what| move || ORDER.lock().push(what);
        for number in [1, 2] {
            on(note(number), move |outcome| {
                assert_eq!(*outcome, Outcome::Cancelled);
                ORDER.lock().push(10 + number);
            });
        }
        let hooks = with_hooks(|hooks| hooks.clone());
        hooks.before();
        hooks.after(&Outcome::Cancelled);
        assert_eq!(*ORDER.lock(), [2, 1, 11, 12]);
    }
}
