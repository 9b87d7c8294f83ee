//! Building the direct map: every frame of the domain at `base + frame * 4096`, in page tables made of free frames.
//!
//! The tables are ordinary frames until they are hooked into their parent, and read-only everywhere from then on. The
//! first few are written through the initial mapping, which reaches a little beyond what the domain builder used; they
//! map the frames from which the next tables are taken, and so on. Before a table is hooked, the mapping through
//! which it was written becomes read-only; both changes go into one batch, in this order.
//!
//! Frames that the domain builder used (image, modules, p2m list, page tables) are mapped read-only: the image
//! stays writable at its own addresses only, so that the kernel alone decides what its descriptor tables are.
//!
//! Data flows from [`build`] to a [`Machine`], which is the hypervisor or, in tests, a model of its rules.

use xen_abi::xen::{MMU_NORMAL_PT_UPDATE, MmuUpdate};

use crate::Errno;
use crate::mmu::{Level, Mfn, Pfn, Pte, index};

/// Entries of a table.
const ENTRIES: u64 = 512;
/// Tables that are written through the initial mapping, which reaches at least 128 frames beyond the used ones.
const FIRST_TABLES: u64 = 64;
/// Updates that are collected before the hypervisor is called.
const BATCH: usize = 128;
/// Frames that one entry of level 4 maps: more are left out.
#[cfg_attr(test, allow(dead_code))]
pub const MOST_FRAMES: u64 = ENTRIES * ENTRIES * ENTRIES;

/// What the builder does to the world.
pub trait Machine {
    /// The machine frame behind `frame`.
    fn mfn(&self, frame: Pfn) -> Option<Mfn>;
    /// The frame behind the machine frame of a table.
    fn pfn(&self, table: Mfn) -> Option<Pfn>;
    /// Reads an entry of a table that is mapped.
    fn read(&self, table: Pfn, index: u64) -> Pte;
    /// Writes an entry of a frame that is not a table yet and is mapped for writing.
    fn write(&mut self, table: Pfn, index: u64, entry: Pte);
    /// Machine address of the entry that maps `frame` in the initial mapping.
    fn initial_entry(&self, frame: Pfn) -> Option<u64>;
    /// Applies updates in order.
    fn update(&mut self, requests: &[MmuUpdate]) -> Result<(), Errno>;
}

/// What is to be built.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Frames of the domain.
    pub frames: u64,
    /// Frames that are in use; the initial mapping shows some more.
    pub used: u64,
    /// The root that is to get the map.
    pub root: Mfn,
    /// Where it begins, a multiple of 512 GiB.
    pub base: u64,
}

impl Plan {
    /// The end of the frames that are written through the initial mapping.
    pub fn first_end(&self) -> u64 {
        let leaves = self.frames.div_ceil(ENTRIES);
        let tables = leaves + leaves.div_ceil(ENTRIES) + 1;
        self.used + tables.min(FIRST_TABLES)
    }
}

/// Builds the map and returns the first frame behind those that became tables: it and all that follow are free, and
/// mapped by the direct map only.
pub fn build(machine: &mut impl Machine, plan: Plan) -> Result<u64, Errno> {
    let mut builder = Builder::new(machine, plan);
    let (first, last) = (plan.used / ENTRIES, plan.frames.div_ceil(ENTRIES));
    builder.level3 = builder.table_below(plan.root.address() + 8 * index(plan.base, Level::L4) as u64)?;
    // The frames of the tables lie behind the used ones: map those first.
    for leaf in (first..last).chain(0..first) {
        builder.leaf(leaf)?;
    }
    builder.flush()?;
    builder.drop_initial_mapping(plan.used)?;
    // In a sparse map some of the first tables were not needed; they stay read-only, and out of use.
    Ok(builder.next.max(plan.first_end()))
}

/// The frame of a new table.
#[derive(Clone, Copy)]
struct Table {
    pfn: Pfn,
    mfn: Mfn,
}

struct Builder<'a, M> {
    machine: &'a mut M,
    plan: Plan,
    /// Where to look for the next free frame.
    next: u64,
    level3: Table,
    /// The table of level 2 in use, and its place in level 3.
    level2: Option<(u64, Table)>,
    queue: [MmuUpdate; BATCH],
    queued: usize,
}

impl<'a, M: Machine> Builder<'a, M> {
    fn new(machine: &'a mut M, plan: Plan) -> Self {
        let none = Table { pfn: Pfn(0), mfn: Mfn(0) };
        Self {
            machine,
            plan,
            next: plan.used,
            level3: none,
            level2: None,
            queue: [const { MmuUpdate { ptr: 0, val: 0 } }; BATCH],
            queued: 0,
        }
    }

    /// Maps the 512 frames from `leaf * 512`, if the domain has any of them.
    fn leaf(&mut self, leaf: u64) -> Result<(), Errno> {
        let start = leaf * ENTRIES;
        if (start..start + ENTRIES).all(|frame| self.entry(frame) == Pte::EMPTY) {
            return Ok(());
        }
        let level2 = self.level2(leaf / ENTRIES)?;
        let table = self.frame()?;
        for slot in 0..ENTRIES {
            let entry = self.entry(start + slot);
            self.machine.write(table.pfn, slot, entry);
        }
        self.hook(table, level2.mfn.address() + 8 * (leaf % ENTRIES))
    }

    /// What the direct map says of `frame`.
    fn entry(&self, frame: u64) -> Pte {
        match self.machine.mfn(Pfn(frame)) {
            _ if frame >= self.plan.frames => Pte::EMPTY,
            None => Pte::EMPTY,
            Some(machine) if frame < self.plan.first_end() => Pte::read_only(machine),
            Some(machine) => Pte::data(machine),
        }
    }

    /// The table of level 2 at `place` of level 3, new where there is none.
    fn level2(&mut self, place: u64) -> Result<Table, Errno> {
        if let Some((at, table)) = self.level2
            && at == place
        {
            return Ok(table);
        }
        self.flush()?;
        let table = match self.machine.read(self.level3.pfn, place).frame() {
            Some(mfn) => Table { mfn, pfn: self.machine.pfn(mfn).ok_or(Errno::EFAULT)? },
            None => self.table_below(self.level3.mfn.address() + 8 * place)?,
        };
        self.level2 = Some((place, table));
        Ok(table)
    }

    /// A new empty table, hooked into the entry at machine address `parent`.
    fn table_below(&mut self, parent: u64) -> Result<Table, Errno> {
        let table = self.frame()?;
        (0..ENTRIES).for_each(|slot| self.machine.write(table.pfn, slot, Pte::EMPTY));
        self.hook(table, parent)?;
        Ok(table)
    }

    /// The next free frame, mapped for writing.
    fn frame(&mut self) -> Result<Table, Errno> {
        loop {
            let pfn = Pfn(self.next);
            if pfn.0 >= self.plan.frames {
                return Err(Errno::ENOMEM);
            }
            if pfn.0 == self.plan.first_end() {
                // From here on tables are written through the direct map, which must show them by now.
                self.flush()?;
                self.drop_initial_mapping(pfn.0)?;
            }
            self.next += 1;
            if let Some(mfn) = self.machine.mfn(pfn) {
                return Ok(Table { pfn, mfn });
            }
        }
    }

    /// Makes `table` read-only where it is mapped, and then an entry of its parent point to it.
    fn hook(&mut self, table: Table, parent: u64) -> Result<(), Errno> {
        let mapping = if table.pfn.0 < self.plan.first_end() {
            self.machine.initial_entry(table.pfn)
        } else {
            self.direct_entry(table.pfn)
        };
        self.push(mapping.ok_or(Errno::EFAULT)?, Pte::read_only(table.mfn))?;
        self.push(parent, Pte::table(table.mfn))
    }

    /// Machine address of the entry that maps `frame` in the part of the direct map that is there already.
    fn direct_entry(&self, frame: Pfn) -> Option<u64> {
        let leaf = frame.0 / ENTRIES;
        let level2 = self.machine.pfn(self.machine.read(self.level3.pfn, leaf / ENTRIES).frame()?)?;
        let level1 = self.machine.read(level2, leaf % ENTRIES).frame()?;
        Some(level1.address() + 8 * (frame.0 % ENTRIES))
    }

    /// Takes the frames from `first` out of the initial mapping: one of them may become a table, now or one day.
    fn drop_initial_mapping(&mut self, first: u64) -> Result<(), Errno> {
        for frame in (first..self.plan.frames).map(Pfn) {
            let Some(entry) = self.machine.initial_entry(frame) else { break };
            self.push(entry, Pte::EMPTY)?;
        }
        self.flush()
    }

    fn push(&mut self, entry: u64, value: Pte) -> Result<(), Errno> {
        self.queue[self.queued] = MmuUpdate { ptr: entry | MMU_NORMAL_PT_UPDATE, val: value.0 };
        self.queued += 1;
        // Two requests make one table: never part them.
        if self.queued == BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Errno> {
        let queued = core::mem::take(&mut self.queued);
        self.machine.update(&self.queue[..queued])
    }
}

#[cfg(test)]
mod tests;
