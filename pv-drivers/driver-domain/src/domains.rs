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
use crate::console::{Console, Keyboard, Output};
use crate::devices::Device;
use crate::nodes;

/// How often a domain that is away is tried, and one that is here is looked after.
pub const LOOK: Duration = Duration::from_millis(500);

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
}

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
        }
    }

    /// Does what there is to do for each of them; answers whether there was anything.
    pub fn serve(&mut self, machine: &mut impl Machine<T>) -> bool {
        let now = self.transport.now();
        let mut moved = self.take_input(machine) | self.server.lock().poll();
        for index in 0..self.domains.len() {
            moved |= self.look(index, now, machine);
            let Domain { served, here, .. } = &mut self.domains[index];
            if let Some(here) = here {
                let is_chosen = self.keyboard.chosen() == Some(served.id);
                moved |= here.serve(&self.server, is_chosen, |out| match out {
                    Output::Line(line) => machine.line(&served.name, format_args!("{line}")),
                    Output::Raw(bytes) => machine.raw(bytes),
                });
            }
        }
        // What is under way there is gone on with in the next round.
        moved | !self.store.is_ready()
    }

    /// Gives what was typed to those whom it is for; whether there was something.
    fn take_input(&mut self, machine: &mut impl Machine<T>) -> bool {
        let (mut bytes, mut moved) = ([0; 64], false);
        loop {
            let count = machine.typed(&mut bytes);
            if count == 0 {
                return moved;
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
    fn serve(&mut self, server: &Mutex<Server>, is_chosen: bool, out: impl FnMut(Output<'_>)) -> bool {
        let _ = self.port.take();
        let mut moved = self.link.serve(&mut server.lock());
        if moved {
            self.port.notify();
        }
        if let Some((console, port)) = &mut self.console {
            let _ = port.take();
            if console.serve(is_chosen, out) {
                port.notify();
                moved = true;
            }
        }
        for device in &mut self.devices {
            moved |= device.serve();
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use core::sync::atomic::AtomicU32;
    use guest_pv_lib::xenstore::{Client, Link as ClientLink, Ring};
    use pv_drivers::console::Page;
    use pv_drivers::store::server::{Connection, Message};
    use pv_drivers::transport::Granted;
    use pv_drivers::transport::host::{self, HostTransport};

    /// The machine around the loop: what was said, and who still lives.
    #[derive(Default)]
    struct Around {
        said: Vec<String>,
        typed: Vec<u8>,
        gone: bool,
        has_no_disks: bool,
        /// The nodes of its devices are gone when a back end is made.
        loses_nodes: bool,
    }

    /// A device that does nothing.
    struct Idle;

    impl Device for Idle {
        fn serve(&mut self) -> bool {
            false
        }

        fn close(&mut self) {}

        fn is_closed(&self) -> bool {
            true
        }
    }

    impl Machine<HostTransport> for Around {
        fn disk(
            &mut self,
            transport: &HostTransport,
            served: &Served,
            disk: &Disk,
        ) -> Result<Box<dyn Device>, String> {
            if self.loses_nodes {
                let path = format!("/local/domain/{}/device", served.id);
                pv_drivers::store::Store::remove(transport.store(), Default::default(), &path).unwrap();
            }
            if self.has_no_disks { Err(format!("{} is lost", disk.storage)) } else { Ok(Box::new(Idle)) }
        }

        fn interface(&mut self, _: &HostTransport, _: &Served, _: &Net) -> Result<Box<dyn Device>, String> {
            Ok(Box::new(Idle))
        }

        fn is_connected(&self, _: &host::Port) -> bool {
            !self.gone
        }

        fn line(&mut self, name: &str, line: fmt::Arguments<'_>) {
            self.said.push(format!("{name}: {line}"));
        }

        fn raw(&mut self, bytes: &[u8]) {
            self.said.push(format!("raw {}", String::from_utf8_lossy(bytes)));
        }

        fn typed(&mut self, bytes: &mut [u8]) -> usize {
            let count = self.typed.len().min(bytes.len());
            bytes[..count].copy_from_slice(&self.typed[..count]);
            self.typed.drain(..count);
            count
        }
    }

    /// Nobody is told: the loop of these tests runs all the time.
    struct Silent;

    impl ClientLink for Silent {
        fn notify(&self) {}
        fn wait(&self) {}
    }

    /// The words of pages that are granted.
    struct Lent(Arc<host::Granted>);

    impl core::ops::Deref for Lent {
        type Target = [AtomicU32];

        fn deref(&self) -> &[AtomicU32] {
            &self.0
        }
    }

    /// A domain with a ring, and what a server is told of it.
    fn guest(machine: &host::Machine, id: u16) -> (Arc<host::Granted>, host::Port, Served) {
        let transport = machine.domain(id);
        let page = transport.buffer(1).unwrap();
        let page = Arc::new(transport.lend(page, 9, Access::ReadWrite).map_err(|(error, _)| error).unwrap());
        let port = transport.listen(9).unwrap();
        let line = format!("paravane.domain=9 paravane.serve=g:{id}:{}:0", port.number());
        let text =
            "[[domain]]\nname = \"g\"\n[[domain.disk]]\nname = \"xvda\"\nram = \"1M\"\n[[domain.net]]\n";
        let mut served = Config::read(&line, Some(text.as_bytes())).unwrap().served.remove(0);
        served.store.reference = page.refs()[0].0;
        (page, port, served)
    }

    #[test]
    fn a_domain_finds_its_devices_and_is_forgotten_when_it_ends() {
        let machine = host::Machine::new();
        let server = Arc::new(Mutex::new(Server::default()));
        let (page, port, served) = guest(&machine, 4);
        let config = Config { own: 9, served: vec![served] };
        let mut around = Around::default();
        let mut domains = Domains::new(machine.domain(9), &server, config);
        domains.serve(&mut around);
        assert_eq!((domains.here(), &around.said[..]), (1, &["g: is domain 4".into()][..]));

        let client = Client::new(Ring::new(Lent(page)).unwrap(), Silent);
        let none = guest_pv_lib::xenstore::Transaction::NONE;
        let mut read = |path: &str| {
            let request =
                client.submit(xen_abi::io::xs_wire::XS_READ, none, &[path.as_bytes(), b"\0"]).unwrap();
            while domains.serve(&mut around) {}
            request.wait().map(|value| String::from_utf8(value).unwrap())
        };
        assert_eq!(read("name"), Ok("g".into()));
        assert_eq!(read("device/vif/0/mac"), Ok("00:16:3e:00:00:04".into()));
        let back = read("device/vbd/51712/backend").unwrap();
        assert_eq!(back, "/local/domain/9/backend/vbd/4/51712");
        assert_eq!(read(&format!("{back}/frontend")), Ok("/local/domain/4/device/vbd/51712".into()));
        assert_eq!(read(&format!("{back}/state")), Ok("1".into()));
        assert_eq!(read("none"), Err(StoreError::ENOENT));
        assert!(port.take(), "it was notified");

        let store = Local::new(&server, 9, true, None);
        let there = |path: &str| pv_drivers::store::Store::read(&store, Default::default(), path).is_ok();
        assert!(there(&back));
        around.gone = true;
        domains.domains[0].next = Duration::ZERO;
        domains.serve(&mut around);
        assert_eq!((domains.here(), around.said.last().unwrap().as_str()), (0, "g: is gone"));
        assert!(!there(&back) && !there("/local/domain/4"));
    }

    /// How many clients xenstore has.
    fn clients(server: &Mutex<Server>, admin: Connection) -> u32 {
        let kind = xen_abi::io::xs_wire::XS_CONTROL;
        let ask = Message { kind, request: 0, transaction: 0, payload: b"info\0".to_vec() };
        let answer = server.lock().answer(admin, &ask);
        let text = String::from_utf8(answer.payload).unwrap();
        text.lines().next().unwrap().strip_prefix("clients ").unwrap().parse().unwrap()
    }

    #[test]
    fn an_attempt_that_fails_leaves_no_client() {
        let machine = host::Machine::new();
        let server = machine.server();
        let (_page, _port, served) = guest(&machine, 4);
        let mut around = Around { has_no_disks: true, loses_nodes: true, ..Around::default() };
        let mut domains = Domains::new(machine.domain(9), &server, Config { own: 9, served: vec![served] });
        let admin = server.lock().connect(0, true, None);
        let before = clients(&server, admin);
        for _ in 0..5 {
            domains.domains[0].next = Duration::ZERO;
            while domains.serve(&mut around) {}
            assert_eq!((domains.here(), clients(&server, admin)), (0, before));
        }
        assert_eq!(around.said.iter().filter(|line| line.contains("xenstore says")).count(), 5);
    }

    #[test]
    fn a_domain_that_starts_anew_at_once_is_forgotten_in_steps() {
        let machine = host::Machine::new();
        let server = Arc::new(Mutex::new(Server::default()));
        let (_page, _port, served) = guest(&machine, 4);
        let mut around = Around::default();
        let mut domains = Domains::new(machine.domain(9), &server, Config { own: 9, served: vec![served] });
        while domains.serve(&mut around) {}
        let connection = server.lock().connect(4, false, None);
        (0..900)
            .for_each(|n| server.lock().mkdir(connection, Default::default(), &format!("data/{n}")).unwrap());
        server.lock().write(connection, Default::default(), "data/0", b"old").unwrap();
        let mut most = 0;
        around.gone = true;
        for _ in 0..500 {
            domains.domains[0].next = Duration::ZERO;
            let before = server.lock().steps();
            domains.serve(&mut around);
            most = most.max(server.lock().steps() - before);
            around.gone = false;
        }
        assert_eq!((domains.here(), around.said.len()), (1, 3), "{:?}", around.said);
        assert!(most < 6000, "{most} steps in one round");
        let store = Local::new(&server, 9, true, None);
        let names = pv_drivers::store::Store::directory(&store, Default::default(), "/local/domain/4/data");
        assert_eq!(names, Ok(Vec::new()));
    }

    #[test]
    fn many_domains_share_the_memory_that_xenstore_may_take() {
        let usual = Quota::default().bytes;
        assert_eq!(quota(64 << 20, 1).bytes, usual);
        assert_eq!(quota(64 << 20, 32).bytes, 512 << 10);
        assert_eq!(quota(1 << 20, 100).bytes, STORE_LEAST);
    }

    #[test]
    fn what_cannot_be_served_is_not_there() {
        let machine = host::Machine::new();
        let server = Arc::new(Mutex::new(Server::default()));
        let (_page, _port, served) = guest(&machine, 4);
        let mut around = Around { has_no_disks: true, ..Around::default() };
        let mut domains = Domains::new(machine.domain(9), &server, Config { own: 9, served: vec![served] });
        domains.serve(&mut around);
        assert_eq!(around.said, ["g: is domain 4", "g: has no xvda: ram:1024K is lost"]);
        let store = Local::new(&server, 9, true, None);
        let names = |path: &str| pv_drivers::store::Store::directory(&store, Default::default(), path);
        assert_eq!(
            names("/local/domain/4/device/vbd"),
            Ok(Vec::new()),
            "a front end has nothing to wait for"
        );
        assert_eq!(names("/local/domain/9/backend/vbd/4"), Ok(Vec::new()));
        assert_eq!(names("/local/domain/4/device/vif"), Ok(vec!["0".into()]));
    }

    #[test]
    fn a_console_is_seen_and_typed_to() {
        let machine = host::Machine::new();
        let server = Arc::new(Mutex::new(Server::default()));
        let (_ring, _port, mut served) = guest(&machine, 4);
        let transport = machine.domain(4);
        let page = transport.lend(transport.buffer(1).unwrap(), 9, Access::ReadWrite);
        let page = Arc::new(page.map_err(|(error, _)| error).unwrap());
        let port = transport.listen(9).unwrap();
        served.console = Some(Offer { reference: page.refs()[0].0, port: port.number() });
        let mut around = Around::default();
        let mut domains = Domains::new(machine.domain(9), &server, Config { own: 9, served: vec![served] });
        let page = Page::new(Lent(page)).unwrap();
        let mut write = |around: &mut Around, bytes: &[u8]| {
            page.output().push(bytes).unwrap();
            while domains.serve(around) {}
            around.said.pop()
        };
        assert_eq!(write(&mut around, b"one\n").as_deref(), Some("g: one"));
        around.typed.extend(b"x\xff\x00\x04ls\n");
        assert_eq!(write(&mut around, b"# ").as_deref(), Some("raw # "));
        let mut bytes = [0; 8];
        assert_eq!((page.input().pop(&mut bytes), &bytes[..3]), (Ok(3), &b"ls\n"[..]));
        assert!(port.take(), "it was notified");
        around.typed.extend(b"\xff\x00\x09quit");
        assert_eq!(write(&mut around, b"two\n").as_deref(), Some("g: two"));
        assert_eq!(page.input().pop(&mut bytes), Ok(0));
    }
}
