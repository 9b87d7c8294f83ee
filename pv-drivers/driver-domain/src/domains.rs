//! The served domains, from the first look at their rings to their end, and starting anew.
//!
//! A domain is *away* or *here*. One that is away is tried now and then: as soon as its ring can be mapped and its port
//! bound it is here, and everything that it may look for is in xenstore before it gets its first answer. One whose end
//! of the channel is gone is away again: everything of it is given back at once, because the hypervisor starts a
//! domain anew only when nobody holds a page of the old one. What it had in xenstore goes in steps, round by round.
//!
//! Each round gives each domain a budget: of requests and work for them in xenstore, of bytes on its console, of requests to its
//! devices. While a domain's transaction is being committed, or watchers are being told of what this domain wrote, this
//! domain does nothing in xenstore: it waits for the next round.

#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use pv_drivers::store::server::{Link, Local, Quota, Server};
use pv_drivers::store::{Error as StoreError, Store};
use pv_drivers::transport::{Access, Error, GrantRef, Port, Transport};
use spin::Mutex;

use crate::config::{Config, Disk, Net, Offer, Served};
use crate::console::{Console, Keyboard, LONGEST, Output};
use crate::devices::Device;
use crate::nodes;

/// How often a domain that is away is tried, and one that is here is looked after.
pub const LOOK: Duration = Duration::from_millis(500);

/// Bytes of the domains' output in a round, all together.
const OUTPUT: usize = 2 * LONGEST;
/// What a line of output has beside its text and its domain's name.
const AROUND: usize = 8;
/// Pieces of typed input in a round.
const TYPED: usize = 16;

/// The part of the memory that xenstore may take for all domains together: a quarter.
const STORE_SHARE: usize = 4;
/// What a domain may make xenstore keep in any case.
const STORE_LEAST: usize = 256 << 10;

/// What each of so many domains may use of xenstore, where this domain has `free` bytes.
#[must_use]
pub fn quota(free: usize, domains: usize) -> Quota {
    let usual = Quota::default();
    let share = free / STORE_SHARE / domains.max(1);
    Quota { bytes: share.clamp(STORE_LEAST, usual.bytes), ..usual }
}

/// What the loop needs of the machine around it.
pub trait Machine<T: Transport> {
    /// The back end of a disk whose nodes were just written.
    ///
    /// # Errors
    ///
    /// Why there is none, in one sentence without its full stop.
    fn disk(&mut self, transport: &T, served: &Served, disk: &Disk) -> Result<Box<dyn Device>, String>;

    /// That of a network interface.
    ///
    /// # Errors
    ///
    /// As of a disk.
    fn interface(&mut self, transport: &T, served: &Served, net: &Net) -> Result<Box<dyn Device>, String>;

    /// Whether a port of this domain still has another end.
    fn is_connected(&self, port: &T::Port) -> bool;

    /// A line that a domain wrote to its console, or a message about it.
    fn line(&mut self, name: &str, line: fmt::Arguments<'_>);

    /// Bytes of output that the console takes now without a wait.
    fn room(&mut self) -> usize {
        usize::MAX
    }

    /// A domain is gone, with all that it had of this one.
    fn gone(&mut self, name: &str) {
        self.line(name, format_args!("is gone"));
    }

    /// What the domain that has the input wrote to its console, as it is.
    fn raw(&mut self, bytes: &[u8]);

    /// Takes what was typed; answers how many bytes that was.
    fn typed(&mut self, bytes: &mut [u8]) -> usize;
}

/// A console and its port.
type ServedConsole<T> = (Console<<T as Transport>::Mapped>, <T as Transport>::Port);

/// What belongs to a domain that is here.
struct Here<T: Transport> {
    link: Link<T::Mapped>,
    port: T::Port,
    console: Option<ServedConsole<T>>,
    devices: Vec<Box<dyn Device>>,
}

/// A domain.
struct Domain<T: Transport> {
    served: Served,
    here: Option<Here<T>>,
    /// It is gone, and nodes of it are there still.
    is_left: bool,
    /// When to look again.
    next: Duration,
}

/// All of them.
pub struct Domains<T: Transport> {
    transport: T,
    own: u16,
    server: Arc<Mutex<Server>>,
    store: Local,
    domains: Vec<Domain<T>>,
    keyboard: Keyboard,
    /// Whose output is shown first in the next round: behind the first of this one, that of the first that has some left. With a
    /// turn for each, idle or not, one domain could be before another in all rounds but a few.
    turn: usize,
    /// Who is served first in this round: behind the domain whose devices changed xenstore last. What follows from a change takes
    /// as many rounds as the domain's watches make it; with a fixed order it could be first whenever the next may begin.
    first: usize,
    /// Output waits for room.
    is_held: bool,
    /// When the last round began, if xenstore was busy at its end: the loop does not sleep then.
    busy_since: Option<Duration>,
}

/// The part of the time that xenstore has while it is busy: one in so many. A round lasts as long as all devices keep it busy, and
/// budgets of steps alone would make a commit, or what a domain leaves at its end, last hundreds of rounds.
const STORE_PART: u32 = 5;
/// What xenstore has of one round at most.
const STORE_MOST: Duration = Duration::from_millis(20);

impl<T: Transport> fmt::Debug for Domains<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domains").field("own", &self.own).finish_non_exhaustive()
    }
}

impl<T: Transport> Domains<T> {
    /// All are away.
    pub fn new(transport: T, server: &Arc<Mutex<Server>>, config: Config) -> Self {
        let store = Local::deferring(server, config.own, true);
        let away = |served| Domain { served, here: None, is_left: false, next: Duration::ZERO };
        let domains = config.served.into_iter().map(away).collect();
        Self {
            transport,
            own: config.own,
            server: server.clone(),
            store,
            domains,
            keyboard: Keyboard::default(),
            turn: 0,
            first: 0,
            is_held: false,
            busy_since: None,
        }
    }

    /// Whether output waits until this domain's console has room for it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Does what there is to do for each of them; answers whether there was anything.
    pub fn serve(&mut self, machine: &mut impl Machine<T>) -> bool {
        let now = self.transport.now();
        let mut moved = self.take_input(machine) | self.server.lock().poll();
        if let Some(since) = self.busy_since.take() {
            self.go_on((now.saturating_sub(since) / STORE_PART).min(STORE_MOST));
        }
        let (first, count) = (self.first, self.domains.len());
        let mut changed = None;
        for index in (0..count).map(|step| (first + step) % count) {
            moved |= self.look(index, now, machine);
            if let Some(here) = &mut self.domains[index].here {
                let was_ready = self.transport.store().is_ready();
                moved |= here.serve(&self.server);
                if was_ready && !self.transport.store().is_ready() {
                    changed.get_or_insert(index);
                }
            }
        }
        if let Some(index) = changed {
            self.first = (index + 1) % count;
        }
        moved |= self.serve_consoles(machine);
        // What is under way there is gone on with in the next round.
        self.busy_since = self.server.lock().is_busy().then_some(now);
        moved | self.busy_since.is_some() | !self.store.is_ready()
    }

    /// Lets xenstore work for so long on what keeps others waiting.
    fn go_on(&self, time: Duration) {
        let (start, mut server) = (self.transport.now(), self.server.lock());
        while self.transport.now().saturating_sub(start) < time && server.go_on() {}
    }

    /// Shows what the domains wrote, each first in its turn; whether there was something.
    fn serve_consoles(&mut self, machine: &mut impl Machine<T>) -> bool {
        let (mut moved, mut room, count) = (false, OUTPUT, self.domains.len());
        self.is_held = false;
        let (turn, mut next) = (self.turn, None);
        for index in (0..count).map(|step| (turn + step) % count) {
            let Domain { served, here, .. } = &mut self.domains[index];
            let Some(here) = here else { continue };
            let is_chosen = self.keyboard.chosen() == Some(served.id);
            let margin = (served.name.len() + AROUND).min(OUTPUT - LONGEST);
            let first = room.min(machine.room()).saturating_sub(margin);
            moved |= here.serve_console(is_chosen, first, |out| {
                let shown = match out {
                    Output::Line(line) => {
                        machine.line(&served.name, format_args!("{line}"));
                        margin + line.len()
                    }
                    Output::Raw(bytes) => {
                        machine.raw(bytes);
                        bytes.len()
                    }
                };
                room = room.saturating_sub(shown);
                room.min(machine.room()).saturating_sub(margin)
            });
            let is_held = here.console.as_ref().is_some_and(|(console, _)| console.has_output());
            self.is_held |= is_held;
            if is_held && index != turn {
                next.get_or_insert(index);
            }
        }
        self.turn = next.unwrap_or((turn + 1) % count.max(1));
        moved
    }

    /// Gives what was typed to those whom it is for; whether there was something.
    fn take_input(&mut self, machine: &mut impl Machine<T>) -> bool {
        let (mut bytes, mut moved) = ([0; 64], false);
        for _ in 0..TYPED {
            let count = machine.typed(&mut bytes);
            if count == 0 {
                break;
            }
            moved = true;
            let domains = &mut self.domains;
            self.keyboard.sort(&bytes[..count], |domain, byte| {
                let here = domains.iter_mut().find(|other| other.served.id == domain);
                let console = here.and_then(|domain| domain.here.as_mut()?.console.as_mut());
                // What is typed to a domain that is not here is lost.
                if let Some((console, _)) = console {
                    console.type_in(&[byte]);
                }
            });
        }
        moved
    }

    /// How many are here.
    #[must_use]
    pub fn here(&self) -> usize {
        self.domains.iter().filter(|domain| domain.here.is_some()).count()
    }

    /// Sees whether a domain has come or gone, where it is time for that.
    fn look(&mut self, index: usize, now: Duration, machine: &mut impl Machine<T>) -> bool {
        let Domain { served, here, is_left, next } = &mut self.domains[index];
        let mut moved = false;
        if let Some(domain) = here
            && now >= *next
        {
            *next = now + LOOK;
            if machine.is_connected(&domain.port) {
                return false;
            }
            *here = None;
            (*is_left, moved) = (true, true);
            self.server.lock().begin_release(served.id);
            machine.gone(&served.name);
        }
        if *is_left && self.store.is_ready() {
            *is_left = false;
            // What xenstore says of nodes that are not there any more does not matter.
            let _ = nodes::forget(&self.store, self.own, served);
            return true;
        }
        let is_away = here.is_none() && !*is_left;
        if !is_away || now < *next || !self.store.is_ready() || self.server.lock().is_forgetting(served.id) {
            return moved;
        }
        *next = now + LOOK;
        match self.meet(index, machine) {
            Ok(()) => true,
            Err(Failure::NotThere) => false,
            Err(Failure::Store(error)) => {
                let name = &self.domains[index].served.name;
                machine.line(name, format_args!("cannot be served: xenstore says {error}"));
                false
            }
        }
    }

    /// Connects to a domain.
    fn meet(&mut self, index: usize, machine: &mut impl Machine<T>) -> Result<(), Failure> {
        let Domain { served, here, is_left, .. } = &mut self.domains[index];
        let transport = &self.transport;
        let accept = |offer: Offer| {
            let page = transport.map(served.id, &[GrantRef(offer.reference)], Access::ReadWrite)?;
            Ok::<_, Error>((page, transport.connect(served.id, offer.port)?))
        };
        let (ring, port) = accept(served.store)?;
        let console = served.console.map(accept).transpose()?;
        let console = console.and_then(|(page, port)| Console::new(page).map(|console| (console, port)));
        nodes::forget(&self.store, self.own, served)?;
        nodes::introduce(&self.store, self.own, served)?;
        let connection = self.server.lock().connect(served.id, false, None);
        let begin = || {
            let link = Link::new(ring, connection).map_err(|_| Failure::NotThere)?;
            self.server.lock().begin_introduce(served.id);
            machine.line(&served.name, format_args!("is domain {}", served.id));
            let devices = devices(transport, &self.store, served, machine)?;
            Ok((link, devices))
        };
        match begin() {
            Ok((link, devices)) => {
                *here = Some(Here { link, port, console, devices });
                Ok(())
            }
            Err(why) => {
                // Its client ends with the attempt.
                self.server.lock().begin_release(served.id);
                *is_left = true;
                Err(why)
            }
        }
    }
}

/// The back ends of a domain. What cannot be served is not there: a front end that found it would wait for it.
fn devices<T: Transport>(
    transport: &T,
    store: &Local,
    served: &Served,
    machine: &mut impl Machine<T>,
) -> Result<Vec<Box<dyn Device>>, StoreError> {
    let mut devices = Vec::new();
    for disk in &served.disks {
        match machine.disk(transport, served, disk) {
            Ok(device) => devices.push(device),
            Err(why) => {
                machine.line(&served.name, format_args!("has no {}: {why}", disk.name));
                nodes::withdraw(store, served.id, "vbd", disk.number)?;
            }
        }
    }
    for net in &served.nets {
        match machine.interface(transport, served, net) {
            Ok(device) => devices.push(device),
            Err(why) => {
                machine.line(&served.name, format_args!("has no interface {}: {why}", net.number));
                nodes::withdraw(store, served.id, "vif", net.number)?;
            }
        }
    }
    Ok(devices)
}

/// Why a domain is not served.
enum Failure {
    /// It has not offered its ring (yet).
    NotThere,
    Store(StoreError),
}

impl From<Error> for Failure {
    fn from(_: Error) -> Self {
        Self::NotThere
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl<T: Transport> Here<T> {
    fn serve(&mut self, server: &Mutex<Server>) -> bool {
        let _ = self.port.take();
        let mut moved = self.link.serve(&mut server.lock());
        if moved {
            self.port.notify();
        }
        for device in &mut self.devices {
            moved |= device.serve();
        }
        moved
    }

    /// As of [`Console::serve`].
    fn serve_console(&mut self, is_chosen: bool, room: usize, out: impl FnMut(Output<'_>) -> usize) -> bool {
        let Some((console, port)) = &mut self.console else { return false };
        let _ = port.take();
        let moved = console.serve(is_chosen, room, out);
        if moved {
            port.notify();
        }
        moved
    }
}
