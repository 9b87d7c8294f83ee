//! Whom typed bytes go to.
//!
//! Each third switch character in a row hands the input on: from domain to domain by number, then to the hypervisor, then
//! to the first domain again. Fewer than three in a row are ordinary input, late by one byte.
//!
//! A domain whose console another domain serves takes its turn too. Its input goes to that server, which is told at each
//! switch whom the bytes behind are for: by [`SELECT`] and the domain's number in two bytes, most significant first; its own
//! number where the server itself is meant. No keyboard sends that byte, and no text in UTF-8 has it.

use super::keys::Pending;
use super::ring::add_bytes;
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::{DomId, VcpuId};
use crate::platform::Platform;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use xen_abi::xen::VIRQ_CONSOLE;

/// Input that waits at most for a domain that reads by `console_io`; what comes when this is full is lost, as on any line
/// without flow control.
const CAPACITY: usize = 4096;
/// Switch characters in a row that hand the input on.
const SWITCH_COUNT: u8 = 3;

/// The first byte of the note by which a server of consoles is told whom input is for.
const SELECT: u8 = 0xff;

/// Who has the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Nobody: the first domain that can use it will.
    Nobody,
    /// The hypervisor itself.
    Hypervisor,
    /// A domain, and with the input the screen.
    Domain(DomId),
}

/// Typed bytes on their way.
pub(super) struct Input {
    /// Who they are for.
    owner: Owner,
    /// Switch characters that came in a row.
    switching: u8,
    /// Input that waits for domains without a ring.
    waiting: BTreeMap<DomId, VecDeque<u8>>,
    /// Domains whose consoles other domains serve, and these.
    served: BTreeMap<DomId, DomId>,
    /// What the hypervisor was asked for and not yet told completely.
    pub(super) key: Pending,
}

/// What typed bytes are for.
enum Typed {
    /// The one who has the input.
    Bytes(Vec<u8>),
    /// Hand the input on.
    Switch,
}

impl Input {
    pub(super) const fn new() -> Self {
        Self {
            owner: Owner::Nobody,
            switching: 0,
            waiting: BTreeMap::new(),
            served: BTreeMap::new(),
            key: Pending::None,
        }
    }

    /// Adds input of a domain; answers whether any of it found room.
    fn add(&mut self, domain: DomId, bytes: &[u8]) -> bool {
        let waiting = self.waiting.entry(domain).or_default();
        add_bytes(waiting, CAPACITY, bytes) != 0
    }

    /// Parts what was typed at the switches.
    fn sort(&mut self, bytes: &[u8], switch: Option<u8>) -> Vec<Typed> {
        let mut sorted = Vec::new();
        let mut plain = Vec::new();
        for &byte in bytes {
            if Some(byte) == switch {
                self.switching += 1;
                if self.switching == SWITCH_COUNT {
                    self.switching = 0;
                    sorted.push(Typed::Bytes(core::mem::take(&mut plain)));
                    sorted.push(Typed::Switch);
                }
                continue;
            }
            plain.extend((0..self.switching).filter_map(|_| switch));
            self.switching = 0;
            plain.push(byte);
        }
        sorted.push(Typed::Bytes(plain));
        sorted
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Copies the oldest input that waits for a domain without taking it; answers how many bytes.
    pub fn peek_console(&self, domain: DomId, bytes: &mut [u8]) -> usize {
        let input = self.console.input.lock();
        let Some(waiting) = input.waiting.get(&domain) else { return 0 };
        let mut copied = 0;
        for (byte, slot) in waiting.iter().zip(bytes) {
            *slot = *byte;
            copied += 1;
        }
        copied
    }

    /// Takes the oldest `count` bytes of a domain's input.
    pub fn consume_console(&self, domain: DomId, count: usize) {
        if let Some(waiting) = self.console.input.lock().waiting.get_mut(&domain) {
            let count = count.min(waiting.len());
            waiting.drain(..count);
        }
    }

    /// Takes all input from the platform to whom it is for.
    pub(super) fn console_input(&self) {
        let mut bytes = [0; 64];
        loop {
            let count = self.platform.console_read(&mut bytes).min(bytes.len());
            if count == 0 {
                return;
            }
            let typed = self.console.input.lock().sort(&bytes[..count], self.options.console_switch);
            for part in typed {
                match part {
                    Typed::Switch => self.switch_console(),
                    Typed::Bytes(bytes) if bytes.is_empty() => {}
                    Typed::Bytes(bytes) => self.route_input(&bytes),
                }
            }
        }
    }

    fn route_input(&self, bytes: &[u8]) {
        let id = match self.console_owner() {
            Owner::Nobody => return,
            Owner::Hypervisor => return bytes.iter().for_each(|key| self.console_key(*key)),
            Owner::Domain(id) => self.console_server(id).unwrap_or(id),
        };
        self.give_input(id, bytes);
    }

    /// Who serves a domain's console, if that is another domain.
    fn console_server(&self, domain: DomId) -> Option<DomId> {
        self.console.input.lock().served.get(&domain).copied()
    }

    fn give_input(&self, id: DomId, bytes: &[u8]) {
        let Some(domain) = self.domains.get(id) else { return };
        let Some(ring) = self.console.ring(id) else {
            if self.console.input.lock().add(id, bytes) {
                self.send_virq(&domain, VcpuId(0), VIRQ_CONSOLE);
            }
            return;
        };
        let Some(mut end) = ring.open() else { return };
        end.add_input(bytes);
        let moved = end.give_input(self.platform.frame_words(ring.mfn));
        drop(end);
        if moved {
            self.notify_console(&domain, ring.port);
        }
    }

    pub(super) fn console_owner(&self) -> Owner {
        self.console.input.lock().owner
    }

    /// Hands the input to the next who can use it.
    fn switch_console(&self) {
        let next = match self.console_owner() {
            Owner::Domain(now) => self.next_console_user(|id| id > now),
            _ => self.next_console_user(|_| true),
        };
        self.give_console(next.map_or(Owner::Hypervisor, Owner::Domain));
    }

    fn next_console_user(&self, wanted: impl Fn(DomId) -> bool) -> Option<DomId> {
        let uses = |domain: &Arc<Domain<P>>| {
            let id = domain.id;
            domain.uses_console_io() || self.console.ring(id).is_some() || self.console_server(id).is_some()
        };
        self.domains.all().find(|domain| wanted(domain.id) && uses(domain)).map(|domain| domain.id)
    }

    /// Gives input and screen to somebody, and says so.
    fn give_console(&self, owner: Owner) {
        let hint = SwitchHint(self.options.console_switch);
        match owner {
            Owner::Nobody => self.log(format_args!("*** No domain takes serial input\n")),
            Owner::Hypervisor => {
                self.log(format_args!("*** Serial input to the hypervisor: h for help{hint}\n"));
            }
            Owner::Domain(id) => {
                let name = self.domains.get(id).map(|domain| domain.name.clone()).unwrap_or_default();
                self.log(format_args!("*** Serial input to domain {}, {name}{hint}\n", id.0));
            }
        }
        self.set_console_owner(owner);
    }

    fn set_console_owner(&self, owner: Owner) {
        let mut input = self.console.input.lock();
        let before = core::mem::replace(&mut input.owner, owner);
        let server = |owner| match owner {
            Owner::Domain(id) => input.served.get(&id).map(|server| (*server, id)),
            _ => None,
        };
        let (left, chosen) = (server(before), server(owner));
        let focus = match (owner, chosen) {
            (_, Some((server, _))) => Some(server),
            (Owner::Domain(id), None) => Some(id),
            _ => None,
        };
        self.console.screen.lock().set_focus(focus, &mut |bytes| self.platform.console_write(bytes));
        drop(input);
        let back = left.map(|(server, _)| (server, server));
        for (server, target) in back.into_iter().chain(chosen) {
            let [high, low] = target.0.to_be_bytes();
            self.give_input(server, &[SELECT, high, low]);
        }
    }

    /// The domain's console is served by `server`: it takes its turn at the input, by way of that domain.
    pub(crate) fn console_served(&self, domain: DomId, server: DomId) {
        self.console.input.lock().served.insert(domain, server);
    }

    /// A domain that can use the console is there: it gets the input when nobody has it.
    pub(crate) fn console_appeared(&self, domain: &Domain<P>) {
        if self.console_owner() == Owner::Nobody {
            self.set_console_owner(Owner::Domain(domain.id));
        }
    }

    /// A domain is gone: its input is dropped, and the next one gets what it had.
    pub(super) fn console_vanished(&self, gone: DomId) {
        self.console.input.lock().waiting.remove(&gone);
        if self.console_owner() == Owner::Domain(gone) {
            let next = self.next_console_user(|id| id != gone);
            self.give_console(next.map_or(Owner::Nobody, Owner::Domain));
        }
        // Behind the switch, which tells its server.
        self.console.input.lock().served.remove(&gone);
    }
}

/// How to hand the input on.
struct SwitchHint(Option<u8>);

impl core::fmt::Display for SwitchHint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            None => Ok(()),
            Some(code) => write!(f, " (CTRL-{} three times to switch)", char::from(code | 0x60)),
        }
    }
}
