//! Start and loop.

mod hardware;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::fmt;

use driver_domain::archive;
use driver_domain::config::{Config, Disk, Served, Storage};
use driver_domain::devices::Sources;
use driver_domain::domains::{Device, Domains, LOOK, Machine};
use guest_pv_lib::sched::{self, Shutdown};
use guest_pv_lib::virtio::PciPorts;
use guest_pv_lib::{BootContext, events, memory, println};
use pv_drivers::net::bridge::Bridge;
use pv_drivers::store::server::{Local, Server};
use pv_drivers::transport::guest::Guest;
use pv_drivers::transport::{Port, Transport};
use pv_drivers::xenbus::Bus;
use spin::Mutex;

use hardware::{Hardware, MachineDisk};

guest_pv_lib::entry!(kernel, name = "driver-domain", version = "1");

/// How this kernel reaches others.
type Own = Guest<Local>;

fn kernel(boot: BootContext) -> ! {
    match serve(&boot) {
        Ok(never) => match never {},
        Err(why) => {
            println!("driver-domain: {why}");
            sched::shutdown(Shutdown::Crash)
        }
    }
}

fn serve(boot: &BootContext) -> Result<Infallible, String> {
    let line = str::from_utf8(boot.command_line()).map_err(|_| "the command line is no text")?;
    let archive = boot.module().unwrap_or_default();
    let config = Config::read(line, archive::find(archive, archive::DESCRIPTION))?;
    println!("driver-domain: domain {}, serving {} others", config.own, config.served.len());
    let server = Arc::new(Mutex::new(Server::default()));
    let transport = Guest::new(Local::new(&server, config.own, true, None));
    let bus = Bus::new(transport.clone());
    // SAFETY: this kernel uses the ports here and nowhere else, for the drivers of `hardware`, which give devices no other
    // memory than `PvHal`'s.
    let ports = unsafe { PciPorts::new() }.ok().filter(|_| boot.is_initial_domain());
    let Hardware { cards, disks } = hardware::find(ports);
    let mut bridge = Bridge::new(transport.clone()).map_err(|why| format!("no bridge: {why}"))?;
    for card in cards {
        bridge.add_wire(card);
    }
    let bridge = Arc::new(Mutex::new(bridge));
    let mut around = Around { own: config.own, bus: bus.clone(), archive, disks, bridge: bridge.clone() };
    let mut domains = Domains::new(transport.clone(), &server, config);
    events::unmask_upcalls();
    loop {
        let fired = bus.poll();
        let served = domains.serve(&mut around);
        let progress = {
            let mut bridge = bridge.lock();
            // What it is about stands in the rings.
            let _ = bridge.take_event();
            bridge.poll()
        };
        if fired | served | progress.moved || domains.sleep() || bridge.lock().sleep() {
            continue;
        }
        let until = progress.until.map_or(LOOK, |until| until.saturating_sub(transport.now()));
        transport.wait(Some(until.min(LOOK)));
    }
}

/// What this domain has for others.
struct Around {
    own: u16,
    bus: Bus<Own>,
    archive: &'static [u8],
    disks: Vec<hardware::Disk>,
    bridge: Arc<Mutex<Bridge<Own>>>,
}

impl Around {
    /// A disk of the machine.
    fn machine_disk(&self, disk: &Disk) -> Result<MachineDisk, String> {
        let Storage::Virtio(number) = disk.storage else { return Err(format!("disk {}", disk.name)) };
        let found = self.disks.get(number).cloned().map(MachineDisk::new);
        found.ok_or_else(|| format!("disk {}: the machine has no virtio disk {number}", disk.name))
    }
}

impl Machine<Own> for Around {
    fn devices(&mut self, _: &Own, served: &Served) -> Vec<Box<dyn Device>> {
        let mut devices = Vec::new();
        let sources = Sources { bus: &self.bus, archive: self.archive, bridge: &self.bridge, own: self.own };
        let disks = served.disks.iter().map(|disk| match sources.disk(served, disk)? {
            Some(device) => Ok(device),
            None => sources.back_end(served, disk, self.machine_disk(disk)?),
        });
        let interfaces = served.nets.iter().map(|net| sources.interface(served, net.number));
        for device in disks.chain(interfaces) {
            match device {
                Ok(device) => devices.push(device),
                Err(why) => println!("({}) has no {why}", served.name),
            }
        }
        devices
    }

    fn is_connected(&self, port: &<Own as Transport>::Port) -> bool {
        events::is_connected(events::Port(Port::number(port)))
    }

    fn line(&mut self, name: &str, line: fmt::Arguments<'_>) {
        println!("({name}) {line}");
    }

    fn gone(&mut self, name: &str) {
        println!("({name}) is gone: {} pages free here", memory::free_pages());
    }
}
