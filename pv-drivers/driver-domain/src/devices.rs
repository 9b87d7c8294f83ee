//! Back ends of disks and network interfaces, from the directories that describe them in xenstore.
//!
//! What was written to a disk in memory is kept for as long as this domain lives: a domain that starts anew finds it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::fmt;

use pv_drivers::blk::{Back, BackOptions, BlockDevice, ImageDisk, RamDisk, SECTOR};
use pv_drivers::net::back::{Net, SharedBridge, check};
use pv_drivers::transport::Transport;
use pv_drivers::xenbus::{self, Bus, End};

use crate::archive;
use crate::config::Storage;

/// The back end of a device.
pub trait Device {
    /// Does what there is to do; answers whether there was anything.
    fn serve(&mut self) -> bool;

    /// Ends the connection for good.
    fn close(&mut self);

    /// Whether it has closed, and nothing of the front end's is used any more.
    fn is_closed(&self) -> bool;
}

impl<T: Transport, D: BlockDevice<T>> Device for Back<T, D> {
    fn serve(&mut self) -> bool {
        self.poll()
    }

    fn close(&mut self) {
        self.close();
    }

    fn is_closed(&self) -> bool {
        self.is_closed()
    }
}

/// A network interface; the packets are the bridge's affair.
struct Interface<T: Transport>(xenbus::Device<T, Net<T>>);

impl<T: Transport> Device for Interface<T> {
    fn serve(&mut self) -> bool {
        self.0.poll() | check(&mut self.0)
    }

    fn close(&mut self) {
        self.0.close();
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// A disk of the machine, by number.
type MachineDisk<T> = Box<dyn Fn(usize) -> Option<Box<dyn BlockDevice<T>>>>;

/// What devices are made from.
pub struct Sources<T: Transport> {
    bus: Bus<T>,
    archive: &'static [u8],
    bridge: SharedBridge<T>,
    machine: MachineDisk<T>,
    disk_options: BackOptions,
    /// Disks in memory that were written to, or may have been, by key.
    kept: BTreeMap<String, RamDisk<T>>,
}

impl<T: Transport> fmt::Debug for Sources<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("bus", &self.bus).finish_non_exhaustive()
    }
}

impl<T: Transport> Sources<T> {
    /// Files of `archive`, memory, and the disks of the machine; a network interface is a port of `bridge`.
    pub fn new(
        bus: &Bus<T>,
        archive: &'static [u8],
        bridge: &SharedBridge<T>,
        machine: impl Fn(usize) -> Option<Box<dyn BlockDevice<T>>> + 'static,
    ) -> Self {
        let (bus, bridge) = (bus.clone(), Arc::clone(bridge));
        let disk_options = BackOptions::default();
        Self { bus, archive, bridge, machine: Box::new(machine), disk_options, kept: BTreeMap::new() }
    }

    /// Disks are offered with these options from now on.
    #[must_use]
    pub fn with_disk_options(self, disk_options: BackOptions) -> Self {
        Self { disk_options, ..self }
    }

    /// The connection to xenstore.
    #[must_use]
    pub fn bus(&self) -> &Bus<T> {
        &self.bus
    }

    fn end(&self, path: &str) -> Result<End<T>, String> {
        End::back(&self.bus, path).map_err(|why| format!("{path}: {why}"))
    }

    /// The back end of a disk that the directory `path` describes. What is written is kept under `key`.
    ///
    /// # Errors
    ///
    /// Why there is none, in one sentence without its full stop.
    pub fn disk(
        &mut self,
        path: &str,
        key: &str,
        storage: &Storage,
        readonly: bool,
    ) -> Result<Box<dyn Device>, String> {
        if let Storage::Virtio(number) = storage {
            let disk = (self.machine)(*number);
            return self
                .back_end(path, disk.ok_or_else(|| format!("the machine has no virtio disk {number}"))?);
        }
        if let Some(disk) = self.kept.get(key).cloned() {
            return if readonly { self.back_end(path, disk.read_only()) } else { self.back_end(path, disk) };
        }
        let (contents, sectors): (&[u8], _) = match storage {
            Storage::File(name) => {
                let file = archive::find(self.archive, name);
                let file = file.ok_or_else(|| format!("the archive has no {name}"))?;
                if readonly {
                    return self.back_end(path, ImageDisk::new(file));
                }
                (file, file.len().div_ceil(SECTOR) as u64)
            }
            Storage::Ram(bytes) => (&[], bytes / SECTOR as u64),
            Storage::Virtio(_) => (&[], 0),
        };
        let mut disk = RamDisk::new(self.bus.transport(), sectors).map_err(|why| why.to_string())?;
        disk.fill(0, contents);
        self.kept.insert(key.into(), disk.clone());
        self.back_end(path, disk)
    }

    fn back_end<D: BlockDevice<T> + 'static>(
        &self,
        path: &str,
        contents: D,
    ) -> Result<Box<dyn Device>, String> {
        Ok(Box::new(Back::new(self.end(path)?, contents, self.disk_options)))
    }

    /// The back end of a network interface, at the bridge.
    ///
    /// # Errors
    ///
    /// What xenstore says.
    pub fn interface(&self, path: &str) -> Result<Box<dyn Device>, String> {
        let end = self.end(path)?;
        let driver = Net::new(Arc::clone(&self.bridge), &end);
        Ok(Box::new(Interface(xenbus::Device::new(end, driver))))
    }

    /// Forgets what was written under `key`.
    pub fn forget(&mut self, key: &str) {
        self.kept.remove(key);
    }
}
