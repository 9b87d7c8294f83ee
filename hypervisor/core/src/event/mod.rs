//! Event channels: the only interrupts that a PV guest has.
//!
//! Each domain owns a table of *ports*. A port is free, or bound to one source: another domain's port, a physical
//! interrupt, a virtual one, or an IPI of the domain itself. An event sets a bit (or links a word, with the FIFO
//! ABI) in memory shared with the guest and, unless the guest masked the port, marks its vCPU's upcall pending.
//!
//! What each file owns: [`slot`] the word that describes a port; `bind` making and `close` ending bindings; `deliver`
//! the way of an event from its sender to a vCPU; `two_level` and `fifo` the two formats of the shared memory; [`pirq`]
//! physical interrupts.
//!
//! # Invariants
//!
//! - A port is one 64-bit word ([`slot::Slot`]). It changes only while [`DomainEvents`]' mutex **and** the
//!   word's own lock bit are held. A sender takes the lock bit alone, so that a closed port is never signalled after
//!   its closing returned, and so that a send waits for nothing but another send or a change of the same port.
//! - A port in state interdomain names a port that names it back, as long as either's lock bit is held. To change one
//!   end takes the mutexes of both domains (lower domain first) and the lock bits of both ends (in the same order, then
//!   by port).
//! - Ports come in chunks of [`slot::CHUNK`] that are made once and never freed before the domain: readers need no lock
//!   to find a slot.
//! - Shared memory is only reached through the platform's frame words, with atomics; nothing read from it is trusted.

pub mod pirq;
pub mod slot;

pub use pirq::PirqTable;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64};
use slot::SlotTable;
use spin::Mutex;

/// Number of virtual interrupts of each vCPU (`NR_VIRQS` of xen.h).
pub const VIRQS: usize = 24;

/// The event channels of one domain.
pub struct DomainEvents {
    /// All ports.
    slots: SlotTable,
    /// By vCPU, then by virtual interrupt: the port bound to it, 0 for none. Global ones stand at their vCPU too.
    virqs: Box<[[AtomicU32; VIRQS]]>,
    /// Bit `n % 64` of word `n / 64`: vCPU `n` polls (`SCHEDOP_poll`).
    pollers: Box<[AtomicU64]>,
    /// Serialises every change of a binding.
    changes: Mutex<Changes>,
}

/// What binding and closing needs to know beyond the slots.
struct Changes {
    /// No port below this one is free.
    lowest_free: u32,
}

impl DomainEvents {
    /// A domain with `max_vcpus` vCPUs, the two-level ABI and no port.
    pub fn new(max_vcpus: u32) -> Self {
        Self {
            slots: SlotTable::new(),
            virqs: (0..max_vcpus).map(|_| [const { AtomicU32::new(0) }; VIRQS]).collect(),
            pollers: (0..max_vcpus.div_ceil(64)).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().into(),
            changes: Mutex::new(Changes { lowest_free: 1 }),
        }
    }
}
