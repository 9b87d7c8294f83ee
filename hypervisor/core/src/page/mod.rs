//! What every frame is used as, and by how many: the accounting that keeps guests from owning the machine.
//!
//! A PV guest runs on page tables that it builds itself, in frames of its own, with real machine addresses in them. The
//! hypervisor lets the hardware use them only while it knows everything that is in them, and it knows because no guest can
//! write to a frame while it is a page table. All of isolation rests on this, so here is what must be true.
//!
//! # Two words per frame
//!
//! Each frame has a *count word* and a *type word* ([`FrameInfo`]). Both change by atomic operations only.
//!
//! - An **ordinary reference** keeps the frame its owner's: it cannot become free and cannot go to another domain. The
//!   domain itself holds one for each frame it was given (`ALLOCATED`), each read-only mapping holds one, and whoever works on a
//!   frame holds one meanwhile. The frame is free when the last one goes.
//! - A **type reference** keeps the frame *what it is* ([`PageType`]). Each writable mapping is a reference of type
//!   `Writable`, each entry of an L2, L3 or L4 table one of type L1, L2 or L3 to the table that it names, each pin and each base
//!   pointer of a vCPU one of type L1 to L4, each place in a GDT or LDT one of type `SegDesc`. The first type reference of a
//!   frame also takes one ordinary reference, and the last gives it back.
//!
//! # Invariants
//!
//! 1. A frame has one type at a time, and it changes only while there are no type references. So no frame is ever mapped
//!    writable while it is a table or a descriptor page.
//! 2. The references of a frame are exactly those that the present entries of live tables, the pins, the vCPUs and the owner
//!    stand for: none is missing, so nothing in use is ever given away; none is left over, so nothing leaks. The tests
//!    recount them from scratch after every step (`tests/model.rs`).
//! 3. The contents of a live table were checked, entry by entry, and since then every change went through
//!    `update.rs`: new references first, then the entry, then the old references.
//! 4. Nothing that a guest maps belongs to another domain, unless that domain granted it, or to the hypervisor: entries
//!    256..=271 of every L4 table are the hypervisor's, and its frames have an owner (`DOMID_XEN`) that no entry may name.
//! 5. A TLB may lag behind the tables. Before a frame that was writable becomes anything else, or a table becomes writable, every
//!    CPU that may remember the old use has flushed ([`TlbClock`]); before a frame goes to another domain or to the hypervisor
//!    likewise. The tests let CPUs remember everything until they flush, and look at all that they can reach (`tests/stale.rs`).
//! 6. What the hypervisor judges is what the processor will read: of a frame that a guest wrote to past the caches they are written
//!    back before it becomes anything else (`coherence.rs`). The mock machine keeps such writes from the caches.
//! 7. No judgement needs both words at two times. Where a decision depends on both, one is brought into a state in which it cannot
//!    change first ([`FrameInfo::try_unshare`]). The models try every order (`tests/orders.rs`).
//! 8. A reference that is not there is never dropped. Each drop looks at what its own atomic operation answered, and stops the
//!    machine if there was none: what is known of frames would not be true any more.
//!
//! # The life of a type
//!
//! ```text
//!            first reference                 contents good
//!   idle ---------------------> busy ---------------------------> live
//!    ^  \____ (Writable: nothing to check) ____________________/^  |
//!    |                           |  ^                              | last reference
//!    |             other work    v  | carries on                   |
//!    |<---- L1 -----------     partial                             |
//!    |<---- given up ------ doomed <---- L2, L3, L4 ---------------'
//! ```
//!
//! - *Idle* frames keep the type that they had last and the TLB clock's time when they lost it. An idle descriptor page is still
//!   good: nothing can have changed it but as another type.
//! - *Busy* frames are being checked or given up by one CPU; nobody else can use them. Checking an L4 table can mean
//!   checking a million entries below it, so tables can be left *partial* when the CPU has other work: a request for the same type
//!   carries on, a request for another type has the table given up first.
//! - Tables that lose their last reference hold many themselves. They are put on a list of their domain and given up from
//!   there, preemptibly, before the hypercall ends or in its continuation (`doomed.rs`). This keeps recursion and partial undoing
//!   out of the common paths: dropping a reference never fails. An L1 table is given up at once, unless other work comes up.
//!
//! # Who may wait for whom
//!
//! A table's lock bit (`LOCKED`) is held while its entries change, and one table's at a time. The last type reference of a table
//! waits until the table is unlocked. So with a table locked no type reference to a table is dropped: what an entry stood for is dropped
//! after the unlocking, and what is refused was not taken. Levels alone would not do instead: linear entries name tables of the same
//! level, now in this direction and then in that (`tests/waits.rs`). With a table locked no CPU waits for a lock bit, then; the
//! references that are taken and dropped there are those of pages. A table that is being checked makes others wait who want the same
//! type; checking goes strictly down the levels, so there is no circle.
//!
//! The vCPUs of a domain may lock a table again and again, so a CPU may find it locked each time that it looks. No wait depends on luck:
//!
//! - A CPU that can stop does so when it has other work ([`FrameInfo::lock_table`]).
//! - One that drops the last reference leaves it to the CPU that has the table locked, when it has other work itself (`LEFT`). That CPU
//!   drops it after the unlocking. A request for the frame as something else is told to come again meanwhile.
//! - One that cannot stop waits in turn with others of the same domain ([`crate::sync::Turns`]), and whose turn it is says in the type
//!   word that the table is wanted (`WANTED`). Then the others do not take the lock when it is free, and a batch of changes lets go of it
//!   after the one that it is at. So such a CPU waits at most twice
//!   as long as a table is locked for each CPU that came before it. In its turn a CPU holds no lock bit and waits for none but this one.
//!
//! # What may take long
//!
//! Checking tables and giving them up, and waiting for another CPU that does. All of it looks for this CPU's other work and then
//! answers [`PageError::Restart`]: the hypercall is made again. Nothing of it is done with a table locked: the table that a new
//! entry names is checked before. And no caller does it on behalf of another domain with a lock of that domain's held.
//!
//! # Where is what
//!
//! | file | subject |
//! |---|---|
//! | `info.rs` | the layout of the two words |
//! | `refs.rs` | taking and dropping references: the short paths |
//! | `types.rs` | changes of type; flushes |
//! | `coherence.rs` | memory types, and the write-back of caches |
//! | `validate.rs` | what entries may say; checking tables |
//! | `linear.rs` | which addresses lead through linear entries into the hypervisor |
//! | `doomed.rs` | giving tables up |
//! | `update.rs` | changing single entries; walking tables |
//! | `pin.rs` | pins and base pointers |
//! | `root.rs` | what a base pointer may be: a validated level-4 table |
//! | `ptwr.rs` | guest instructions that write to tables |
//! | `foreign.rs` | entries of grant mappings |
//! | `segment.rs` | descriptors, GDT and LDT |
//! | `teardown.rs` | taking everything away from a dying domain |
//! | `tlb.rs` | which CPUs may still remember what |
//! | `pte.rs` | the bits of an entry |

mod coherence;
mod doomed;
mod error;
mod foreign;
mod info;
mod linear;
mod pin;
pub mod pte;
mod ptwr;
mod refs;
mod root;
mod segment;
mod teardown;
#[cfg(test)]
mod tests;
mod tlb;
mod types;
mod update;
mod validate;

pub use error::PageError;
pub use foreign::EntryPlace;
pub(crate) use info::Links;
pub use info::{Count, DOMID_IO, DOMID_XEN, FrameInfo, PageType, Type};
pub use linear::LinearRoots;
pub use ptwr::{PtWrite, ReadOnlyPage};
pub use root::RootSlot;
pub use segment::{GDT_ENTRIES, LDT_ENTRIES, LDT_FRAMES, check_descriptor};
pub(crate) use segment::{is_guests, is_hypervisors};
pub(crate) use teardown::Teardown;
pub use tlb::TlbClock;
pub use update::Walk;
pub(crate) use update::{UpdateError, Write};
pub(crate) use validate::Pages;
