//! The front end that does its worst: to the back ends of its disks and network interfaces, to xenstore, to the server of its
//! console, and by grants and events that are not its own.
//!
//! It connects often as it should, since a back end that is not connected cannot be harmed, and then does anything. After
//! some seconds it ends without a farewell.

mod device;
mod page;
mod store;

use alloc::format;
use alloc::vec::Vec;

use guest_pv_lib::events::Port;
use guest_pv_lib::grant::{self, Copy, GrantRef, Mapped, MappedReadOnly, Source, Target};
use guest_pv_lib::memory::{Pages, SharedPages};
use guest_pv_lib::sched::{Shutdown, shutdown};
use guest_pv_lib::{BootContext, events, println, time};

use crate::random::Random;
use crate::{nap, option};
use device::{Device, Kind};
use page::GuestPage;
use store::Store;

/// Domains whose grants and ports it tries to use.
const DOMAINS: usize = 9;
/// How long it waits to be served, in nanoseconds.
const LONGEST_WAIT: u64 = 10_000_000_000;

struct Attack {
    random: Random,
    peer: u16,
    store: Store,
    console: Option<(GuestPage, Port)>,
    devices: Vec<Device>,
    /// Mappings that it should not have got, and keeps.
    stolen: (Vec<Mapped>, Vec<MappedReadOnly>),
    steps: u64,
}

/// Attacks for a while, and ends.
pub fn run(boot: &BootContext, mut random: Random) -> ! {
    let life: u64 = option(boot, "life").unwrap_or(5);
    let life = life * 10_000_000 * (1 + random.below(100) as u64);
    let peer = option(boot, "peer").unwrap_or(0);
    let Some(store) = Store::new(boot) else {
        println!("hostile: no xenstore");
        shutdown(Shutdown::PowerOff)
    };
    let console = boot.console_ring().and_then(|(frame, port)| Some((page::console(frame)?, port)));
    let mut attack = Attack {
        random,
        peer,
        store,
        console,
        devices: Vec::new(),
        stolen: (Vec::new(), Vec::new()),
        steps: 0,
    };
    attack.look();
    println!("hostile: {} devices to attack for {} ms", attack.devices.len(), life / 1_000_000);
    let end = time::now() + life;
    while time::now() < end {
        attack.step();
        attack.steps += 1;
        if attack.random.once_in(8) {
            nap(1);
        }
    }
    // Where the console still works.
    println!("hostile: ends after {} steps", attack.steps);
    shutdown(if attack.random.once_in(2) { Shutdown::Crash } else { Shutdown::Reboot })
}

impl Attack {
    /// Finds its devices, as soon as somebody serves xenstore.
    fn look(&mut self) {
        let end = time::now() + LONGEST_WAIT;
        while self.devices.is_empty() && time::now() < end {
            nap(20);
            for (kind, name) in [(Kind::Disk, "vbd"), (Kind::Net, "vif")] {
                let names = self.store.list(&format!("device/{name}"));
                let devices = names.iter().map(|number| Device::new(kind, format!("device/{name}/{number}")));
                self.devices.extend(devices);
            }
        }
        for device in &mut self.devices {
            device.connect(&self.store, &mut self.random, self.peer);
        }
    }

    fn step(&mut self) {
        let Self { random, store, devices, peer, .. } = self;
        let at = random.below(devices.len());
        let what = random.below(100);
        match (what, devices.get_mut(at)) {
            (0..50, Some(device)) => device.request(random),
            (50..56, Some(device)) => device.scribble(random),
            (56..61, Some(device)) => device.spoil(store, random),
            (61..65, Some(device)) => device.revoke(random),
            (65..73, Some(device)) => device.connect(store, random, *peer),
            (73..77, Some(device)) => device.shake(random, *peer),
            (77..88, _) => store.shout(random),
            (88..91, _) => self.garble_console(),
            (91..96, _) => self.steal(),
            _ => self.stray_events(),
        }
    }

    /// Anything in the page of its console.
    fn garble_console(&mut self) {
        let Self { random, console: Some((page, port)), .. } = self else { return };
        page.scribble(random, 768, 4);
        if random.once_in(3) {
            // As it should be, with much to print.
            let consumed = page[770].load(core::sync::atomic::Ordering::Relaxed);
            page[771].store(consumed.wrapping_add(2000), core::sync::atomic::Ordering::Release);
        }
        let _ = events::notify(*port);
    }

    /// Maps and copies what was granted to others, or to nobody.
    fn steal(&mut self) {
        let Self { random, stolen, .. } = self;
        let domain = if random.once_in(4) { random.short() } else { random.below(DOMAINS) as u16 };
        let for_reading = random.once_in(2);
        let mut reference =
            || GrantRef(if random.once_in(4) { random.number() } else { random.below(600) as u32 });
        if for_reading {
            stolen.1.extend(MappedReadOnly::new(domain, &[reference()]));
        } else {
            stolen.0.extend(Mapped::new(domain, &[reference()]));
        }
        let reference = reference();
        let Ok(own) = Pages::new(1) else { return };
        let own = SharedPages::from(own);
        let (offset, length) = (random.below(4096) as u16, random.below(4097) as u16);
        let peer = Source::Peer { domain, reference, offset };
        let piece = if random.once_in(2) {
            Copy::new(peer, Target::Shared(&own, 0), length)
        } else {
            Copy::new(Source::Shared(&own, 0), Target::Peer { domain, reference, offset }, length)
        };
        if let Ok(piece) = piece {
            grant::copy(&mut [piece]);
        }
        if stolen.0.len() + stolen.1.len() > 8 {
            stolen.0.clear();
            stolen.1.clear();
        }
    }

    /// Binds to and sends by ports that nobody offered.
    fn stray_events(&mut self) {
        let random = &mut self.random;
        let port = Port(if random.once_in(4) { random.number() } else { random.below(64) as u32 });
        if random.once_in(2) {
            let _ = events::notify(port);
        } else if let Ok(port) = events::bind_interdomain(random.below(DOMAINS) as u16, port) {
            let _ = events::close(port);
        }
    }
}
