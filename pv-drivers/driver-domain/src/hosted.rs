//! Under another domain's toolstack: xenstore is that domain's, and the toolstack asks for devices in it.
//!
//! It does so by a directory for each device, `backend/<kind>/<domain>/<number>` of this domain, whose nodes name the
//! front end and, of a disk, what is in it (`params`). A watch tells of every change there:
//!
//! ```text
//! complete ──► the back end, which publishes its features and waits for the front end
//! `online` is 0 ──► the back end closes ──► the directory is removed, a moment later
//! the directory is gone ──► the back end is dropped
//! ```
//!
//! What the directories say is the toolstack's word; what stands in a front end's is that domain's, and the drivers judge
//! it.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::time::Duration;

use pv_drivers::store::{Error as StoreError, Store, Transaction};
use pv_drivers::transport::Transport;
use pv_drivers::xenbus::{Bus, State, Watch};

use crate::config::Storage;
use crate::devices::{Device, Sources};

/// The kinds of devices that can be asked for.
const KINDS: [&str; 2] = ["vbd", "vif"];

/// What is watched.
const TOP: &str = "backend";

/// Where something changed.
enum Place<'a> {
    /// At the directory of all devices, of a kind, or of a kind and a domain.
    Above,
    /// In a device's directory: that, and the node there; none for the directory itself.
    Device(&'a str, Option<&'a str>),
    Other,
}

impl<'a> Place<'a> {
    fn of(path: &'a str) -> Self {
        let mut parts = path.split('/');
        let (top, kind) = (parts.next(), parts.next());
        if top != Some(TOP) || kind.is_some_and(|kind| !KINDS.contains(&kind)) {
            return Self::Other;
        }
        match path.match_indices('/').map(|(at, _)| at).nth(3) {
            Some(end) => Self::Device(&path[..end], path[end + 1..].split('/').next()),
            None if parts.count() == 2 => Self::Device(path, None),
            None => Self::Above,
        }
    }
}

fn is_at_or_below(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// How long the directory of a device that closed stays: whoever asked for the end looks for the state `Closed`.
const STAY: Duration = Duration::from_secs(2);

/// A directory that was seen.
struct Entry {
    /// None: it cannot be served.
    device: Option<Box<dyn Device>>,
    /// What is in a disk that may be written, or is being read: a key of [`Sources`], and whether it is written.
    contents: Option<(String, bool)>,
    /// The end is asked for.
    is_leaving: bool,
    /// When to remove its directory.
    remove_at: Option<Duration>,
}

/// The devices that were asked for.
pub struct Hosted<T: Transport> {
    sources: Sources<T>,
    watch: Watch<T>,
    entries: BTreeMap<String, Entry>,
}

impl<T: Transport> fmt::Debug for Hosted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosted").field("devices", &self.entries.len()).finish_non_exhaustive()
    }
}

impl<T: Transport> Hosted<T> {
    /// Waits to be asked.
    ///
    /// # Errors
    ///
    /// What xenstore says.
    pub fn new(sources: Sources<T>) -> Result<Self, StoreError> {
        let watch = sources.bus().watch_paths(TOP)?;
        Ok(Self { sources, watch, entries: BTreeMap::new() })
    }

    /// Does what there is to do; answers whether there was anything. `line` takes messages.
    pub fn serve(&mut self, mut line: impl FnMut(fmt::Arguments<'_>)) -> bool {
        let paths = self.watch.take_paths();
        let mut moved = !paths.is_empty();
        self.look(&paths, &mut line);
        let now = self.sources.bus().transport().now();
        let sources = &mut self.sources;
        self.entries.retain(|path, entry| {
            let Some(device) = &mut entry.device else { return true };
            moved |= device.serve();
            if !(entry.is_leaving && device.is_closed()) || now < *entry.remove_at.get_or_insert(now + STAY) {
                return true;
            }
            line(format_args!("{path}: removed"));
            // A directory that cannot be removed says that the device is closed, and nobody is asked to serve it.
            let _ = sources.bus().store().remove(Transaction::NONE, path);
            sources.forget(path);
            moved = true;
            false
        });
        moved
    }

    /// How many devices there are.
    #[must_use]
    pub fn here(&self) -> usize {
        self.entries.values().filter(|entry| entry.device.is_some()).count()
    }

    /// Compares directories with what is served: those that changes at `paths` concern. A change of the state of a device
    /// that is served, which its front end causes as often as it likes, concerns none.
    fn look(&mut self, paths: &BTreeSet<String>, line: &mut impl FnMut(fmt::Arguments<'_>)) {
        let bus = self.sources.bus().clone();
        let mut found = BTreeSet::new();
        for path in paths {
            match Place::of(path) {
                Place::Above => {
                    let is_below = |other: &String| is_at_or_below(other, path);
                    let there = KINDS.iter().flat_map(|kind| bus.back_ends(kind));
                    found.extend(there.chain(self.entries.keys().cloned()).filter(is_below));
                }
                Place::Device(directory, node) => {
                    let is_news =
                        !self.entries.contains_key(directory) || matches!(node, None | Some("online"));
                    found.extend(Some(directory.to_string()).filter(|_| is_news));
                }
                Place::Other => {}
            }
        }
        for path in found {
            self.look_at(&bus, path, line);
        }
    }

    /// Compares a directory with what is served.
    fn look_at(&mut self, bus: &Bus<T>, path: String, line: &mut impl FnMut(fmt::Arguments<'_>)) {
        if bus.text(&path).is_none() {
            if self.entries.remove(&path).is_some_and(|entry| entry.device.is_some()) {
                line(format_args!("{path}: gone"));
                self.sources.forget(&path);
            }
            return;
        }
        let is_leaving = bus.value::<u32>(&format!("{path}/online")) == Some(0);
        if let Some(entry) = self.entries.get_mut(&path) {
            if is_leaving && !entry.is_leaving {
                entry.is_leaving = true;
                entry.device.iter_mut().for_each(|device| device.close());
            }
        } else if !is_leaving && is_complete(bus, &path) {
            let kind = path.split('/').nth(1).unwrap_or_default();
            let made = self.make(kind, &path);
            if let Err(why) = &made {
                line(format_args!("{path}: {why}"));
                refuse(bus, &path, why);
            } else {
                line(format_args!("{path}: served"));
            }
            let (device, contents) = made.map_or((None, None), |(device, key)| (Some(device), key));
            self.entries.insert(path, Entry { device, contents, is_leaving, remove_at: None });
        }
    }

    /// A back end, and what is in it.
    fn make(&mut self, kind: &str, path: &str) -> Result<Made, String> {
        if kind == "vif" {
            return Ok((self.sources.interface(path)?, None));
        }
        let bus = self.sources.bus();
        let params = bus.text(&format!("{path}/params")).unwrap_or_default();
        let storage =
            Storage::from_params(&params).ok_or_else(|| format!("`{params}` is nothing to serve"))?;
        let is_written = !bus.text(&format!("{path}/mode")).is_some_and(|mode| mode.starts_with('r'));
        let key = match storage {
            // Each is another one, and its contents go with it.
            Storage::Ram(_) => {
                self.sources.forget(path);
                path.to_string()
            }
            _ => storage.to_string(),
        };
        let in_use = self.entries.values().filter(|entry| entry.device.is_some());
        let mut in_use = in_use.filter_map(|entry| entry.contents.as_ref());
        if in_use.any(|(other, other_writes)| *other == key && (*other_writes || is_written)) {
            return Err(format!("{storage} is in use"));
        }
        Ok((self.sources.disk(path, &key, &storage, !is_written)?, Some((key, is_written))))
    }
}

/// A device, and the contents of a disk as in [`Entry`].
type Made = (Box<dyn Device>, Option<(String, bool)>);

/// Whether a toolstack that writes node by node has written those that matter. The state is the last one.
fn is_complete<T: Transport>(bus: &Bus<T>, path: &str) -> bool {
    ["frontend", "frontend-id", "state"].iter().all(|name| bus.text(&format!("{path}/{name}")).is_some())
}

/// Tells the front end that there is no device, and the toolstack why.
fn refuse<T: Transport>(bus: &Bus<T>, path: &str, why: &str) {
    let write = |path: &str, value: &str| {
        // There is no other way to tell.
        let _ = bus.store().write(Transaction::NONE, path, value.as_bytes());
    };
    write(&format!("error/{path}/error"), why);
    write(&format!("{path}/state"), &State::Closed.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::sync::Arc;
    use pv_drivers::blk::{BlockDevice, RamDisk};
    use pv_drivers::net::bridge::Bridge;
    use pv_drivers::transport::host::{HostTransport, Machine};
    use spin::Mutex;

    const FRONT: u16 = 1;
    const OWN: u16 = 2;

    /// The driver domain, the toolstack's connection, and what was said.
    struct Around {
        hosted: Hosted<HostTransport>,
        bus: Bus<HostTransport>,
        toolstack: HostTransport,
        said: Vec<String>,
    }

    impl Around {
        fn new(machine: &Machine) -> Self {
            let transport = machine.domain(OWN);
            let (bus, bridge) = (Bus::new(transport.clone()), Bridge::new(transport.clone()).unwrap());
            let disk = RamDisk::new(&transport, 8).unwrap();
            let sources = Sources::new(&bus, &[], &Arc::new(Mutex::new(bridge)), move |number| {
                (number == 0).then(|| Box::new(disk.clone()) as Box<dyn BlockDevice<_>>)
            });
            Self {
                hosted: Hosted::new(sources).unwrap(),
                bus,
                toolstack: machine.domain(0),
                said: Vec::new(),
            }
        }

        /// As a toolstack that writes all at once.
        fn ask(&mut self, machine: &Machine, kind: &str, number: u32, params: &str) -> String {
            let path = format!("/local/domain/{OWN}/backend/{kind}/{FRONT}/{number}");
            self.write(&format!("{path}/params"), params);
            self.write(&format!("{path}/online"), "1");
            machine.plug(kind, number, FRONT, OWN);
            self.serve();
            path
        }

        fn write(&self, path: &str, value: &str) {
            self.toolstack.store().write(Transaction::NONE, path, value.as_bytes()).unwrap();
        }

        fn read(&self, path: &str) -> Option<String> {
            let value = self.toolstack.store().read(Transaction::NONE, path).ok()?;
            Some(String::from_utf8(value).unwrap())
        }

        fn serve(&mut self) {
            while self.bus.poll() | self.hosted.serve(|line| self.said.push(line.to_string())) {}
        }
    }

    #[test]
    fn devices_come_when_asked_for_and_go_when_told_to() {
        let machine = Machine::new();
        let mut around = Around::new(&machine);
        let ram = around.ask(&machine, "vbd", 51712, "ram:1M");
        let disk = around.ask(&machine, "vbd", 51728, "virtio:0");
        let net = around.ask(&machine, "vif", 0, "");
        assert_eq!(around.hosted.here(), 3);
        assert_eq!(around.read(&format!("{ram}/sectors")).as_deref(), Some("2048"));
        assert_eq!(around.read(&format!("{disk}/sectors")).as_deref(), Some("8"));
        let state = |around: &Around, path: &str| around.read(&format!("{path}/state"));
        for path in [&ram, &disk, &net] {
            assert_eq!(state(&around, path).as_deref(), Some("2"), "it waits for the front end");
        }

        around.write(&format!("{disk}/online"), "0");
        around.write(&format!("{disk}/state"), "5");
        around.serve();
        assert_eq!(state(&around, &disk).as_deref(), Some("6"), "seen by whoever waits for it");
        for entry in around.hosted.entries.values_mut().filter(|entry| entry.is_leaving) {
            entry.remove_at = Some(Duration::ZERO);
        }
        around.serve();
        assert_eq!((around.hosted.here(), state(&around, &disk)), (2, None));
        let again = around.ask(&machine, "vbd", 51728, "virtio:0");
        assert_eq!(state(&around, &again).as_deref(), Some("2"), "nobody uses it any more");

        around.toolstack.store().remove(Transaction::NONE, &ram).unwrap();
        around.serve();
        assert_eq!((around.hosted.here(), around.read(&ram)), (2, None), "nothing is written behind it");
    }

    #[test]
    fn a_state_that_changes_makes_nobody_look_at_all_devices() {
        let machine = Machine::new();
        let mut around = Around::new(&machine);
        let paths: Vec<_> = (0..30).map(|number| around.ask(&machine, "vif", number, "")).collect();
        assert_eq!(around.hosted.here(), 30);
        let steps = |around: &mut Around, name: &str, value: &str| {
            around.write(&format!("{}/{name}", paths[7]), value);
            let before = machine.server().lock().steps();
            around.serve();
            machine.server().lock().steps() - before
        };
        assert!(steps(&mut around, "state", "3") < 20);
        assert!(steps(&mut around, "any/thing", "3") < 20);
        assert!((5..200).contains(&steps(&mut around, "online", "0")), "that one is looked at");
        assert!(around.hosted.entries.values().any(|entry| entry.is_leaving));
        around.toolstack.store().remove(Transaction::NONE, "/local/domain/2/backend/vif").unwrap();
        around.serve();
        assert_eq!(around.hosted.here(), 0, "with the directory above them");
    }

    #[test]
    fn what_cannot_be_served_is_said() {
        let machine = Machine::new();
        let mut around = Around::new(&machine);
        around.ask(&machine, "vbd", 0, "virtio:0");
        for (number, params, says) in [
            (1, "virtio:0", "virtio:0 is in use"),
            (2, "virtio:1", "the machine has no virtio disk 1"),
            (3, "file:x", "the archive has no x"),
            (4, "", "`` is nothing to serve"),
        ] {
            let path = around.ask(&machine, "vbd", number, params);
            assert_eq!(around.said.last().unwrap(), &format!("backend/vbd/{FRONT}/{number}: {says}"));
            assert_eq!(around.read(&format!("{path}/state")).as_deref(), Some("6"));
            let error = format!("/local/domain/{OWN}/error/backend/vbd/{FRONT}/{number}/error");
            assert_eq!(around.read(&error).as_deref(), Some(says));
        }
        // A directory that is not complete is looked at again.
        let path = format!("/local/domain/{OWN}/backend/vbd/{FRONT}/5");
        around.write(&format!("{path}/params"), "ram:4K");
        around.write(&format!("{path}/frontend"), "/local/domain/1/device/vbd/5");
        around.serve();
        assert_eq!(around.hosted.here(), 1);
        around.write(&format!("{path}/frontend-id"), "1");
        around.write(&format!("{path}/state"), "1");
        around.serve();
        assert_eq!(around.hosted.here(), 2);
    }
}
