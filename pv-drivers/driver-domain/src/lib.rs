//! A driver domain: xenstore, consoles, disks and networks for other domains, without a toolstack; or disks and networks
//! only, where another domain's toolstack asks for them.
//!
//! - [`config`]: whom it serves, and with what: from the command line that the hypervisor wrote, and from the
//!   description of the machine in its archive.
//! - [`archive`]: the archive that it is started with.
//! - [`nodes`]: what a toolstack would write into xenstore for a domain and its devices.
//! - [`domains`]: the served domains, from the first look at their rings to their end, and starting anew.
//! - [`console`], [`devices`]: their consoles, disks and network interfaces.
//! - [`disk`], [`card`]: the machine's disks and network cards, none of which is waited for; [`virtio`]: how they are begun with.
//! - [`hosted`]: the devices that a toolstack asks for, in its own xenstore.
//!
//! ```text
//! command line, archive ─► config ─► domains ─┬─► nodes ─► xenstore server ◄─ each domain's ring
//!                                             └─► consoles, back ends of disks and networks
//! a toolstack's xenstore ◄──────────► hosted ───► back ends of disks and networks
//! ```
//!
//! Everything here is driven by one loop and written against `pv_drivers::transport::Transport`, so that tests run it
//! in one process with the domains that it serves. The kernel around it is the binary of this package.
//!
//! What a served domain writes anywhere is an allegation: at worst that domain is not served any more.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod archive;
pub mod card;
pub mod config;
pub mod console;
pub mod devices;
pub mod disk;
pub mod domains;
pub mod hosted;
pub mod nodes;
pub mod virtio;
