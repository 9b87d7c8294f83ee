//! Start and loop.

mod card_queue;
mod disk_queue;
mod hardware;
mod registers;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::fmt;
use core::time::Duration;

use driver_domain::archive;
use driver_domain::config::{self, Config, Net, Served};
use driver_domain::devices::{Device, Sources};
use driver_domain::disk::{self, Disk};
use driver_domain::domains::{self, Domains, LOOK, Machine};
use driver_domain::hosted::Hosted;
use driver_domain::nodes;
use guest_pv_lib::events::Channel;
use guest_pv_lib::sched::{self, Shutdown};
use guest_pv_lib::virtio::PciPorts;
use guest_pv_lib::{BootContext, console, events, memory, println, time, xenstore};
use pv_drivers::blk::{BackOptions, BlockDevice};
use pv_drivers::net::back::SharedBridge;
use pv_drivers::net::bridge::Bridge;
use pv_drivers::store::server::{Local, Server};
use pv_drivers::transport::guest::Guest;
use pv_drivers::transport::{PAGE_SIZE, Port, Transport};
use pv_drivers::xenbus::Bus;
use spin::Mutex;

use hardware::{Hardware, MachineDisk};

guest_pv_lib::entry!(kernel, name = "driver-domain", version = "1");

fn kernel(boot: BootContext) -> ! {
    match serve(&boot) {
        Ok(never) => match never {},
        Err(why) => {
            println!("driver-domain: {why}");
            sched::shutdown(Shutdown::Crash)
        }
    }
}

/// Serves whom the command line names, by an own xenstore. Where it names nobody, and somebody else serves xenstore, a
/// toolstack there says what to serve.
fn serve(boot: &BootContext) -> Result<Infallible, String> {
    let line = str::from_utf8(boot.command_line()).map_err(|_| "the command line is no text")?;
    let archive = boot.module().unwrap_or_default();
    match Config::read(line, archive::find(archive, archive::DESCRIPTION)) {
        Ok(config) => {
            println!("driver-domain: domain {}, serving {} others", config.own, config.served.len());
            let kept = config.kept_bytes(|name| archive::find(archive, name).map(<[u8]>::len));
            let free = free_bytes().saturating_sub(kept);
            let server = Server::new(domains::quota(free, config.served.len()));
            let server = Arc::new(Mutex::new(server));
            let transport = Guest::new(Local::deferring(&server, config.own, true));
            let devices = Devices::new(boot, transport, (config.staged_disks(), kept))?;
            let domains = Domains::new(devices.bus.transport().clone(), &server, config.clone());
            let around = Around {
                sources: devices.sources(archive),
                keys: console::channel().ok(),
                has_input: true,
                is_open: false,
                output_at: 0,
            };
            devices.run(Described { domains, around })
        }
        Err(why) => {
            let client = xenstore::connect(boot).map_err(|_| why)?;
            let devices = Devices::new(boot, Guest::new(client), (HOSTED_DISKS, 0))?;
            let hosted = Hosted::new(devices.sources(archive)).map_err(|why| format!("xenstore: {why}"))?;
            println!("driver-domain: waiting to be asked");
            devices.run(hosted)
        }
    }
}

/// Memory that nothing uses yet, in bytes.
fn free_bytes() -> usize {
    memory::free_pages() * PAGE_SIZE
}

/// Disks that a toolstack asks for at the same time, as far as memory is kept for them.
const HOSTED_DISKS: usize = 8;

/// What is common to both ways of serving.
struct Devices<T: Transport> {
    bus: Bus<T>,
    bridge: SharedBridge<T>,
    disks: Vec<MachineDisk>,
    disk_options: BackOptions,
}

/// What a round of the loop does.
trait Round {
    /// Does what there is to do; answers whether there was anything.
    fn serve(&mut self) -> bool;

    /// How long the loop may sleep after that without an event.
    fn patience(&self) -> Duration {
        LOOK
    }
}

impl<T: Transport> Devices<T> {
    /// What there is, for about so many disks of others, while disks in memory will take so many bytes.
    fn new(boot: &BootContext, transport: T, (backs, kept): (usize, usize)) -> Result<Self, String> {
        // SAFETY: this kernel uses the ports here and nowhere else, for the drivers of `hardware`, which give devices no
        // other memory than `PvHal`'s.
        let ports = unsafe { PciPorts::new() }.ok().filter(|_| boot.is_initial_domain());
        let Hardware { cards, disks } = hardware::find(ports);
        let mut bridge = Bridge::new(transport.clone()).map_err(|why| format!("no bridge: {why}"))?;
        for card in cards {
            bridge.add_wire(card);
        }
        let requests = disk::requests(free_bytes().saturating_sub(kept), backs);
        let mut disk_options = BackOptions { requests, ..BackOptions::default() };
        if boot.has_option("persistent") {
            disk_options.persistent_grants =
                usize::from(disk_options.requests) * disk_options.max_indirect_segments;
        }
        Ok(Self { bus: Bus::new(transport), bridge: Arc::new(Mutex::new(bridge)), disks, disk_options })
    }

    fn sources(&self, archive: &'static [u8]) -> Sources<T> {
        let disks = self.disks.clone();
        Sources::new(&self.bus, archive, &self.bridge, move |number| {
            let disk = disks.get(number).cloned()?;
            Some(Box::new(disk.open()) as Box<dyn BlockDevice<T>>)
        })
        .with_disk_options(self.disk_options)
    }

    fn run(self, mut round: impl Round) -> ! {
        let Self { bus, bridge, disks, .. } = self;
        let transport = bus.transport();
        events::unmask_upcalls();
        loop {
            let fired = bus.poll();
            let served = round.serve();
            let progress = {
                let mut bridge = bridge.lock();
                // What it is about stands in the rings.
                let _ = bridge.take_event();
                bridge.poll()
            };
            if fired | served | progress.moved || bridge.lock().sleep() || disks.iter().any(Disk::is_busy) {
                continue;
            }
            let until = progress.until.map_or(LOOK, |until| until.saturating_sub(transport.now()));
            transport.wait(Some(until.min(round.patience())));
        }
    }
}

impl<T: Transport> Round for Hosted<T> {
    fn serve(&mut self) -> bool {
        Self::serve(self, |line| println!("driver-domain: {line}"))
    }
}

/// The domains of a description, and what there is for them.
struct Described<T: Transport> {
    domains: Domains<T>,
    around: Around<T>,
}

impl<T: Transport> Round for Described<T> {
    fn serve(&mut self) -> bool {
        self.domains.serve(&mut self.around)
    }

    fn patience(&self) -> Duration {
        if self.domains.is_held() { HELD } else { LOOK }
    }
}

/// What this domain has for others.
struct Around<T: Transport> {
    sources: Sources<T>,
    /// Fires when something was typed. None: this domain may not read the machine's console.
    keys: Option<Channel>,
    /// There may be more of it.
    has_input: bool,
    /// What the chosen domain wrote last is no whole line.
    is_open: bool,
    /// When the machine's console may be written to again.
    output_at: u64,
}

/// How long the loop sleeps at most while output waits for room.
const HELD: Duration = Duration::from_millis(10);
/// A piece of output that takes longer, in nanoseconds, waited for the machine's console.
const SLOW: u64 = 1_000_000;
/// The loop does other things for so many times as long as it waited.
const PAUSE: u64 = 7;

impl<T: Transport> Around<T> {
    /// Shows something. The machine's console does not say how much room it has: where it made this domain wait, it gets
    /// time to empty.
    fn show(&mut self, work: impl FnOnce()) {
        let start = time::now();
        work();
        let now = time::now();
        let took = now.saturating_sub(start);
        if took > SLOW {
            self.output_at = now.saturating_add(took.saturating_mul(PAUSE));
        }
    }
}

impl<T: Transport> Machine<T> for Around<T> {
    fn disk(&mut self, _: &T, served: &Served, disk: &config::Disk) -> Result<Box<dyn Device>, String> {
        let path = nodes::back_end("vbd", served.id, disk.number);
        let key = format!("{}/{}", served.name, disk.name);
        self.sources.disk(&path, &key, &disk.storage, disk.readonly)
    }

    fn interface(&mut self, _: &T, served: &Served, net: &Net) -> Result<Box<dyn Device>, String> {
        self.sources.interface(&nodes::back_end("vif", served.id, net.number))
    }

    fn is_connected(&self, port: &T::Port) -> bool {
        events::is_connected(events::Port(port.number()))
    }

    fn line(&mut self, name: &str, line: fmt::Arguments<'_>) {
        let end = if core::mem::take(&mut self.is_open) { "\n" } else { "" };
        self.show(|| println!("{end}({name}) {line}"));
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.is_open = bytes.last() != Some(&b'\n');
        self.show(|| console::write(bytes));
    }

    fn room(&mut self) -> usize {
        let room = console::room().unwrap_or(usize::MAX);
        if time::now() >= self.output_at { room } else { 0 }
    }

    fn typed(&mut self, bytes: &mut [u8]) -> usize {
        self.has_input |= self.keys.as_ref().is_some_and(Channel::take);
        let count = if self.has_input { console::read(bytes) } else { 0 };
        self.has_input = count > 0;
        count
    }

    fn gone(&mut self, name: &str) {
        println!("({name}) is gone: {} pages free here", memory::free_pages());
    }
}
