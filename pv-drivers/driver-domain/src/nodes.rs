//! What a toolstack writes into xenstore for a domain before the domain looks: its own directory, and for each device a
//! directory of the front end, which the domain owns, and one of the back end, which this domain owns.

use alloc::format;
use alloc::string::{String, ToString};

use pv_drivers::store::server::home;
use pv_drivers::store::{Error, Permission, Store, Transaction};
use xen_abi::io::xenbus::XENBUS_STATE_INITIALISING;

use crate::config::{Disk, Net, Served};

const NONE: Transaction = Transaction::NONE;

/// The directory of a back end, below this domain's own.
#[must_use]
pub fn back_end(kind: &str, domain: u16, device: u32) -> String {
    format!("backend/{kind}/{domain}/{device}")
}

/// The directory of a front end.
#[must_use]
pub fn front_end(kind: &str, domain: u16, device: u32) -> String {
    format!("{}/device/{kind}/{device}", home(domain))
}

/// An address as text.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// Writes everything for a domain.
///
/// # Errors
///
/// What xenstore says.
pub fn introduce(store: &impl Store, own: u16, served: &Served) -> Result<(), Error> {
    let Served { id, name, .. } = served;
    let base = home(*id);
    let readable = [(0, Permission::None), (*id, Permission::Read)];
    let writable = [(*id, Permission::None)];
    let node = |path: &str, value: &str, rights: &[(u16, Permission)]| {
        let path = format!("{base}{path}");
        store.write(NONE, &path, value.as_bytes())?;
        store.set_permissions(NONE, &path, rights)
    };
    node("", "", &readable)?;
    node("/name", name, &readable)?;
    node("/domid", &id.to_string(), &readable)?;
    for directory in ["/device", "/control", "/memory", "/cpu", "/console"] {
        node(directory, "", &readable)?;
    }
    for directory in [
        "/control/shutdown",
        "/control/feature-poweroff",
        "/control/feature-reboot",
        "/control/feature-suspend",
    ] {
        node(directory, "", &writable)?;
    }
    for directory in ["/data", "/drivers", "/feature", "/attr", "/error"] {
        node(directory, "", &writable)?;
    }
    for cpu in 0..served.vcpus {
        node(&format!("/cpu/{cpu}/availability"), "online", &readable)?;
    }
    for disk in &served.disks {
        introduce_disk(store, own, *id, disk)?;
    }
    for net in &served.nets {
        introduce_net(store, own, *id, net)?;
    }
    Ok(())
}

/// Writes the nodes that both ends of a device have, and `front` and `back`.
fn introduce_device(
    store: &impl Store,
    own: u16,
    id: u16,
    (kind, number): (&str, u32),
    front: &[(&str, &str)],
    back: &[(&str, &str)],
) -> Result<(), Error> {
    let front_path = front_end(kind, id, number);
    let back_path = format!("{}/{}", home(own), back_end(kind, id, number));
    let rights = |owner, other| [(owner, Permission::None), (other, Permission::Read)];
    let fresh = XENBUS_STATE_INITIALISING.to_string();
    let (own_text, id_text) = (own.to_string(), id.to_string());
    let front_link = [("backend", back_path.as_str()), ("backend-id", &own_text), ("state", &fresh)];
    let back_link =
        [("frontend", front_path.as_str()), ("frontend-id", &id_text), ("online", "1"), ("state", &fresh)];
    // The back end's first: a front end may look as soon as its own are there.
    for (path, rights, nodes) in [
        (&back_path, rights(own, id), [&back_link, back].concat()),
        (&front_path, rights(id, own), [&front_link, front].concat()),
    ] {
        store.mkdir(NONE, path)?;
        store.set_permissions(NONE, path, &rights)?;
        for (name, value) in nodes {
            let path = format!("{path}/{name}");
            store.write(NONE, &path, value.as_bytes())?;
            store.set_permissions(NONE, &path, &rights)?;
        }
    }
    Ok(())
}

fn introduce_disk(store: &impl Store, own: u16, id: u16, disk: &Disk) -> Result<(), Error> {
    let number = disk.number.to_string();
    let front = [("virtual-device", number.as_str()), ("device-type", "disk")];
    let params = disk.storage.to_string();
    let mode = if disk.readonly { "r" } else { "w" };
    let back = [
        ("removable", "0"),
        ("dev", disk.name.as_str()),
        ("params", &params),
        ("mode", mode),
        ("device-type", "disk"),
    ];
    introduce_device(store, own, id, ("vbd", disk.number), &front, &back)
}

fn introduce_net(store: &impl Store, own: u16, id: u16, net: &Net) -> Result<(), Error> {
    let (mac, handle) = (mac_text(net.mac), net.number.to_string());
    let both = [("handle", handle.as_str()), ("mac", &mac)];
    introduce_device(store, own, id, ("vif", net.number), &both, &both)
}

/// Removes both directories of a device that cannot be served.
///
/// # Errors
///
/// What xenstore says.
pub fn withdraw(store: &impl Store, domain: u16, kind: &str, device: u32) -> Result<(), Error> {
    store.remove(NONE, &front_end(kind, domain, device))?;
    store.remove(NONE, &back_end(kind, domain, device))
}

/// Removes what is left of a domain that is gone.
///
/// # Errors
///
/// What xenstore says.
pub fn forget(store: &impl Store, own: u16, served: &Served) -> Result<(), Error> {
    for kind in ["vbd", "vif"] {
        store.remove(NONE, &format!("{}/backend/{kind}/{}", home(own), served.id)).or_else(not_there)?;
    }
    store.remove(NONE, &home(served.id)).or_else(not_there)
}

fn not_there(error: Error) -> Result<(), Error> {
    if error == Error::ENOENT { Ok(()) } else { Err(error) }
}
