//! The loop with the domains that it serves, in one process.

use super::*;
use alloc::collections::BTreeMap;
use alloc::format;
use core::sync::atomic::AtomicU32;
use guest_pv_lib::xenstore::{Client, Link as ClientLink, Ring};
use pv_drivers::console::Page;
use pv_drivers::store::server::{Connection, Message, Rights};
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
    /// Bytes that the console takes; as many as there are where that is not said.
    room: Option<usize>,
    /// Disks write to xenstore whenever they may: how often those of each domain did.
    written: Option<Arc<Mutex<BTreeMap<u16, usize>>>>,
}

/// A device of a domain that writes to xenstore whenever it may.
struct Busy(HostTransport, u16, Arc<Mutex<BTreeMap<u16, usize>>>);

impl Device for Busy {
    fn serve(&mut self) -> bool {
        let is_ready = self.0.store().is_ready();
        if is_ready {
            self.0.store().write(Default::default(), "watched", b"x").unwrap();
            *self.2.lock().entry(self.1).or_default() += 1;
        }
        is_ready
    }

    fn close(&mut self) {}

    fn is_closed(&self) -> bool {
        true
    }
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
        if let Some(written) = &self.written {
            return Ok(Box::new(Busy(transport.clone(), served.id, written.clone())));
        }
        if self.has_no_disks { Err(format!("{} is lost", disk.storage)) } else { Ok(Box::new(Idle)) }
    }

    fn interface(&mut self, _: &HostTransport, _: &Served, _: &Net) -> Result<Box<dyn Device>, String> {
        Ok(Box::new(Idle))
    }

    fn is_connected(&self, _: &host::Port) -> bool {
        !self.gone
    }

    fn room(&mut self) -> usize {
        self.room.unwrap_or(usize::MAX)
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

/// No loop is woken: the loop of these tests runs all the time.
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
    let text = "[[domain]]\nname = \"g\"\n[[domain.disk]]\nname = \"xvda\"\nram = \"1M\"\n[[domain.net]]\n";
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
        let request = client.submit(xen_abi::io::xs_wire::XS_READ, none, &[path.as_bytes(), b"\0"]).unwrap();
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
    (0..900).for_each(|n| server.lock().mkdir(connection, Default::default(), &format!("data/{n}")).unwrap());
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
    assert_eq!(names("/local/domain/4/device/vbd"), Ok(Vec::new()), "a front end has nothing to wait for");
    assert_eq!(names("/local/domain/9/backend/vbd/4"), Ok(Vec::new()));
    assert_eq!(names("/local/domain/4/device/vif"), Ok(vec!["0".into()]));
}

/// A domain with a console, and its end of it.
fn guest_with_console(machine: &host::Machine, id: u16) -> (Served, Page<Lent>, host::Port) {
    let (_ring, _port, mut served) = guest(machine, id);
    let transport = machine.domain(id);
    let page = transport.lend(transport.buffer(1).unwrap(), 9, Access::ReadWrite);
    let page = Arc::new(page.map_err(|(error, _)| error).unwrap());
    let port = transport.listen(9).unwrap();
    served.console = Some(Offer { reference: page.refs()[0].0, port: port.number() });
    // The ring and its port stay with the domain.
    core::mem::forget((_ring, _port));
    (served, Page::new(Lent(page)).unwrap(), port)
}

/// Two domains fill their rings with line ends: each round shows little of it, of each in turn, and as much as there
/// is room for.
#[test]
fn a_round_shows_no_more_output_than_there_is_room_for() {
    let machine = host::Machine::new();
    let server = Arc::new(Mutex::new(Server::default()));
    let (one, of_one, _port) = guest_with_console(&machine, 4);
    let (two, of_two, _other_port) = guest_with_console(&machine, 5);
    let mut around = Around { room: Some(0), ..Around::default() };
    let config = Config { own: 9, served: vec![one, two] };
    let mut domains = Domains::new(machine.domain(9), &server, config);
    while domains.serve(&mut around) {}
    around.said.clear();
    for page in [&of_one, &of_two] {
        assert_eq!(page.output().push(&[b'\n'; 2048]), Ok(2048));
    }
    assert!(!domains.serve(&mut around) && domains.is_held() && around.said.is_empty());
    around.room = None;
    let mut left = [2048; 2];
    for _ in 0..4 {
        assert!(domains.serve(&mut around) && domains.is_held());
        let shown: usize = around.said.iter().map(|line| line.len() + 2).sum();
        assert!(shown > 0 && shown <= OUTPUT, "{shown} bytes in a round");
        around.said.clear();
        for (left, page) in left.iter_mut().zip([&of_one, &of_two]) {
            *left = page.output().readable().unwrap();
        }
    }
    assert!(left.iter().all(|left| (1..2048).contains(left)), "each had a turn: {left:?}");
    while domains.serve(&mut around) {}
    assert!(!domains.is_held());
}

/// Two domains write without end, and idle ones behind them make the same one of the two the next in turn in most rounds.
#[test]
fn output_is_shown_in_turn_among_those_that_have_some() {
    let machine = host::Machine::new();
    let server = Arc::new(Mutex::new(Server::default()));
    let (mut served, mut pages, mut ports) = (Vec::new(), Vec::new(), Vec::new());
    for id in 20..30 {
        let (mut domain, page, port) = guest_with_console(&machine, id);
        domain.name = format!("d{id}");
        served.push(domain);
        pages.push(page);
        ports.push(port);
    }
    let mut around = Around::default();
    let mut domains = Domains::new(machine.domain(9), &server, Config { own: 9, served });
    while domains.serve(&mut around) {}
    around.said.clear();
    for _ in 0..50 {
        for page in &pages[..2] {
            while page.output().push(b"a line of output\n").is_ok_and(|count| count > 0) {}
        }
        domains.serve(&mut around);
    }
    let lines = |name: &str| around.said.iter().filter(|line| line.starts_with(name)).count();
    let (first, second) = (lines("d20"), lines("d21"));
    assert!(first > 100 && second > 100, "{first} and {second} lines");
    assert!(first.abs_diff(second) * 2 < first + second, "{first} and {second} lines");
}

#[test]
fn a_console_is_seen_and_typed_to() {
    let machine = host::Machine::new();
    let server = Arc::new(Mutex::new(Server::default()));
    let (served, page, port) = guest_with_console(&machine, 4);
    let mut around = Around::default();
    let mut domains = Domains::new(machine.domain(9), &server, Config { own: 9, served: vec![served] });
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

/// What follows from each write takes so many rounds that the same domain would be the first whenever the next may begin.
#[test]
fn devices_change_xenstore_in_turn() {
    let machine = host::Machine::new();
    let server = machine.server();
    let (one, two) = (guest(&machine, 4), guest(&machine, 5));
    let written = Arc::new(Mutex::new(BTreeMap::new()));
    let mut around = Around { written: Some(written.clone()), ..Around::default() };
    let config = Config { own: 9, served: vec![one.2, two.2] };
    let mut domains = Domains::new(machine.domain(9).deferring(), &server, config);
    let watcher = server.lock().connect(0, true, None);
    let watch = |n: usize| server.lock().watch(watcher, "/local/domain/9/watched", &n.to_string()).unwrap();
    // Two rounds, for more or fewer events.
    (0..700).for_each(watch);
    for _ in 0..200 {
        domains.serve(&mut around);
        while server.lock().next_event(watcher).is_some() {}
    }
    let written = written.lock();
    assert!(written.len() == 2 && written.values().all(|count| *count >= 30), "{written:?}");
}

/// Each round of the loop lasts as long as if many devices were served in it.
#[test]
fn xenstore_has_its_part_of_the_time_however_long_rounds_are() {
    let machine = host::Machine::new();
    let (server, none) = (machine.server(), Default::default());
    let (page, _port, served) = guest(&machine, 4);
    let mut around = Around::default();
    let mut domains =
        Domains::new(machine.domain(9).deferring(), &server, Config { own: 9, served: vec![served] });
    while domains.serve(&mut around) {}
    let connection = domains.domains[0].here.as_ref().unwrap().link.connection();
    let deep = format!("data{}", "/x".repeat(58));
    server.lock().write(connection, none, &deep, b"").unwrap();
    let transaction = server.lock().begin(connection).unwrap();
    let write = |n: u32| server.lock().write(connection, transaction, &deep, &n.to_le_bytes()).unwrap();
    (0..1024).for_each(write);
    while domains.serve(&mut around) {}
    let client = Client::new(Ring::new(Lent(page)).unwrap(), Silent);
    let id = guest_pv_lib::xenstore::Transaction(transaction.0);
    let end = client.submit(xen_abi::io::xs_wire::XS_TRANSACTION_END, id, &[b"T\0"]).unwrap();
    let (before, mut rounds, mut was_busy) = (server.lock().steps(), 0, false);
    while !was_busy || !domains.store.is_ready() {
        machine.advance(Duration::from_millis(50));
        assert!(domains.serve(&mut around), "it does not sleep");
        was_busy |= !domains.store.is_ready();
        rounds += 1;
    }
    let steps = server.lock().steps() - before;
    assert!(steps > 50_000 && rounds < 40, "{steps} steps in {rounds} rounds");
    while domains.serve(&mut around) {}
    assert!(end.wait().is_ok());
    assert_eq!(server.lock().read(connection, none, &deep), Ok(1023u32.to_le_bytes().to_vec()));
}

/// The same for a domain that ended, and is to come again, beside ten that have as many nodes as they may.
#[test]
fn a_domain_that_starts_anew_is_served_soon_however_long_rounds_are() {
    let machine = host::Machine::new();
    let (server, none) = (machine.server(), Default::default());
    let (_page, _port, served) = guest(&machine, 4);
    let mut around = Around::default();
    let mut domains =
        Domains::new(machine.domain(9).deferring(), &server, Config { own: 9, served: vec![served] });
    while domains.serve(&mut around) {}
    let toolstack = server.lock().connect(0, true, None);
    for domain in 10..20 {
        let (mut server, home) = (server.lock(), format!("/local/domain/{domain}"));
        server.mkdir(toolstack, none, &home).unwrap();
        server.set_rights(toolstack, none, &home, Rights::private(domain)).unwrap();
        let connection = server.connect(domain, false, None);
        let base = format!("data{}", "/a".repeat(59));
        let made =
            (0..1000).take_while(|n| server.mkdir(connection, none, &format!("{base}/n{n:03}")).is_ok());
        assert!(made.count() > 900);
    }
    while domains.serve(&mut around) {}
    around.gone = true;
    machine.advance(LOOK);
    domains.serve(&mut around);
    assert!(domains.here() == 0 && server.lock().is_forgetting(4));
    around.gone = false;
    let mut rounds = 0;
    while domains.here() == 0 {
        machine.advance(Duration::from_millis(50));
        domains.serve(&mut around);
        rounds += 1;
        assert!(rounds < 5000);
    }
    assert!(rounds < 20, "{rounds} rounds");
}
