//! The devices of a served domain: a back end for each of its disks and network interfaces.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use pv_drivers::blk::{Back, BackOptions, BlockDevice, ImageDisk, RamDisk, SECTOR};
use pv_drivers::net::back::{Net, SharedBridge, check};
use pv_drivers::transport::Transport;
use pv_drivers::xenbus::{self, Bus, End};

use crate::config::{Disk, Served, Storage};
use crate::domains::Device;
use crate::{archive, nodes};

/// What a device is made from.
pub struct Sources<'a, T: Transport> {
    /// The connection to xenstore.
    pub bus: &'a Bus<T>,
    /// Where files are.
    pub archive: &'static [u8],
    /// Where networks are connected.
    pub bridge: &'a SharedBridge<T>,
    /// The identifier of this domain.
    pub own: u16,
}

impl<T: Transport, D: BlockDevice<T>> Device for Back<T, D> {
    fn serve(&mut self) -> bool {
        self.poll()
    }
}

/// A network interface; the packets are the bridge's affair.
struct Interface<T: Transport>(xenbus::Device<T, Net<T>>);

impl<T: Transport> Device for Interface<T> {
    fn serve(&mut self) -> bool {
        self.0.poll() | check(&mut self.0)
    }
}

impl<T: Transport> Sources<'_, T> {
    fn end(&self, kind: &str, served: &Served, number: u32) -> Result<End<T>, String> {
        let path = nodes::back_end(self.own, kind, served.id, number);
        End::back(self.bus, &path).map_err(|why| format!("{path}: {why}"))
    }

    /// The back end of a disk whose contents are a file or memory; none for another storage.
    ///
    /// # Errors
    ///
    /// Why there is none, in one sentence without its full stop.
    pub fn disk(&self, served: &Served, disk: &Disk) -> Result<Option<Box<dyn Device>>, String> {
        let no_memory = |why| format!("disk {}: {why}", disk.name);
        match &disk.storage {
            Storage::File(name) => {
                let file = archive::find(self.archive, name);
                let file = file.ok_or_else(|| format!("disk {}: the archive has no {name}", disk.name))?;
                if disk.readonly {
                    return self.back_end(served, disk, ImageDisk::new(file)).map(Some);
                }
                let sectors = file.len().div_ceil(SECTOR) as u64;
                let mut memory = RamDisk::new(self.bus.transport(), sectors).map_err(no_memory)?;
                memory.fill(0, file);
                self.back_end(served, disk, memory).map(Some)
            }
            Storage::Ram(bytes) => {
                let memory = RamDisk::new(self.bus.transport(), bytes / SECTOR as u64).map_err(no_memory)?;
                self.back_end(served, disk, memory).map(Some)
            }
            Storage::Virtio(_) => Ok(None),
        }
    }

    /// The back end of a disk that is `contents`.
    ///
    /// # Errors
    ///
    /// What xenstore says.
    pub fn back_end<D: BlockDevice<T> + 'static>(
        &self,
        served: &Served,
        disk: &Disk,
        contents: D,
    ) -> Result<Box<dyn Device>, String> {
        let end = self.end("vbd", served, disk.number)?;
        Ok(Box::new(Back::new(end, contents, BackOptions::default())))
    }

    /// The back end of a network interface, at the bridge.
    ///
    /// # Errors
    ///
    /// What xenstore says.
    pub fn interface(&self, served: &Served, number: u32) -> Result<Box<dyn Device>, String> {
        let end = self.end("vif", served, number)?;
        let driver = Net::new(Arc::clone(self.bridge));
        Ok(Box::new(Interface(xenbus::Device::new(end, driver))))
    }
}
