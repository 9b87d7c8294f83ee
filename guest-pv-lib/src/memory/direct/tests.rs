//! The builder against a model of direct paging: a frame is a table or mapped for writing, never both.

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const BASE: u64 = 0xffff_8800_0000_0000;
/// Frames that the initial mapping shows beyond the used ones.
const SURPLUS: u64 = 128;
const ROOT: u64 = 1;

/// What the hypervisor knows and the memory itself, by machine frame.
struct Model {
    plan: Plan,
    p2m: Vec<Option<u64>>,
    memory: BTreeMap<u64, [u64; 512]>,
    /// Tables in use, with their level.
    tables: BTreeMap<u64, u8>,
    /// How many entries of level-1 tables in use map a frame for writing.
    writable: BTreeMap<u64, u32>,
    /// Machine frames of the level-1 tables of the initial mapping.
    initial: Vec<u64>,
}

impl Model {
    fn new(p2m: Vec<Option<u64>>, used: u64) -> Self {
        let plan = Plan { frames: p2m.len() as u64, used, root: Mfn(ROOT), base: BASE };
        let mut model = Self {
            plan,
            p2m,
            memory: BTreeMap::new(),
            tables: BTreeMap::from([(ROOT, 4)]),
            writable: BTreeMap::new(),
            initial: Vec::new(),
        };
        // Machine frames below 0x1000 are not the domain's own: the model keeps its initial tables there.
        for number in 0..(used + SURPLUS).div_ceil(512) {
            model.tables.insert(0x100 + number, 1);
            model.initial.push(0x100 + number);
        }
        for frame in 0..(used + SURPLUS).min(model.plan.frames) {
            if let Some(machine) = model.p2m[frame as usize] {
                let at = (model.initial[frame as usize / 512] << 12) + frame % 512 * 8;
                model.apply(at, Pte::data(Mfn(machine))).unwrap();
            }
        }
        model
    }

    fn get(&self, table: u64, index: u64) -> Pte {
        Pte(self.memory.get(&table).map_or(0, |page| page[index as usize]))
    }

    /// Accounts for an entry of a table of level `level` that appears.
    fn take(&mut self, level: u8, entry: Pte) -> Result<(), Errno> {
        let Some(Mfn(target)) = entry.frame() else { return Ok(()) };
        if level > 1 {
            return self.promote(target, level - 1);
        }
        if entry.is_writable() {
            if self.tables.contains_key(&target) {
                return Err(Errno::EINVAL);
            }
            *self.writable.entry(target).or_default() += 1;
        }
        Ok(())
    }

    fn promote(&mut self, frame: u64, level: u8) -> Result<(), Errno> {
        if self.writable.get(&frame).is_some_and(|&count| count > 0) || self.tables.contains_key(&frame) {
            return Err(Errno::EINVAL);
        }
        self.tables.insert(frame, level);
        (0..512).try_for_each(|index| self.take(level, self.get(frame, index)))
    }

    fn apply(&mut self, at: u64, value: Pte) -> Result<(), Errno> {
        let (table, index) = (at >> 12, at % 4096 / 8);
        let level = *self.tables.get(&table).ok_or(Errno::EINVAL)?;
        let old = self.get(table, index);
        if level == 1
            && old.is_writable()
            && let Some(frame) = old.frame()
        {
            *self.writable.get_mut(&frame.0).unwrap() -= 1;
        } else {
            assert!(level == 1 || old == Pte::EMPTY, "a table is taken out of its parent");
        }
        self.take(level, value)?;
        self.memory.entry(table).or_insert([0; 512])[index as usize] = value.0;
        Ok(())
    }

    /// What the direct map shows at `frame`.
    fn direct(&self, frame: u64) -> Option<Pte> {
        let virt = BASE + (frame << 12);
        let mut table = ROOT;
        for level in [Level::L4, Level::L3, Level::L2] {
            table = self.get(table, index(virt, level) as u64).frame()?.0;
        }
        Some(self.get(table, index(virt, Level::L1) as u64))
    }

    fn initial(&self, frame: u64) -> Pte {
        self.initial.get(frame as usize / 512).map_or(Pte::EMPTY, |&table| self.get(table, frame % 512))
    }

    /// The entry of the mapping through which the library reaches a table's frame.
    fn view(&self, frame: Pfn) -> Pte {
        if frame.0 < self.plan.first_end() {
            self.initial(frame.0)
        } else {
            self.direct(frame.0).expect("the direct map reaches the frame")
        }
    }
}

impl Machine for Model {
    fn mfn(&self, frame: Pfn) -> Option<Mfn> {
        self.p2m.get(frame.0 as usize).copied().flatten().map(Mfn)
    }

    fn pfn(&self, table: Mfn) -> Option<Pfn> {
        self.p2m.iter().position(|&machine| machine == Some(table.0)).map(|frame| Pfn(frame as u64))
    }

    fn read(&self, table: Pfn, index: u64) -> Pte {
        let machine = self.mfn(table).unwrap();
        assert_eq!(self.view(table).frame(), Some(machine), "a table is read where it is not mapped");
        self.get(machine.0, index)
    }

    fn write(&mut self, table: Pfn, index: u64, entry: Pte) {
        let machine = self.mfn(table).unwrap();
        let view = self.view(table);
        assert!(view.is_writable() && view.frame() == Some(machine), "{table:?} is not mapped for writing");
        self.memory.entry(machine.0).or_insert([0; 512])[index as usize] = entry.0;
    }

    fn initial_entry(&self, frame: Pfn) -> Option<u64> {
        let entry = self.initial(frame.0);
        (entry.frame().is_some() && entry.frame() == self.mfn(frame))
            .then(|| (self.initial[frame.0 as usize / 512] << 12) + frame.0 % 512 * 8)
    }

    fn update(&mut self, requests: &[MmuUpdate]) -> Result<(), Errno> {
        requests.iter().try_for_each(|request| self.apply(request.ptr, Pte(request.val)))
    }
}

/// Builds over `p2m` and checks all that must hold afterwards.
fn check(p2m: Vec<Option<u64>>, used: u64) {
    let mut model = Model::new(p2m, used);
    let plan = model.plan;
    let first_free = build(&mut model, plan).unwrap();
    let tables: BTreeSet<u64> = model.tables.keys().copied().collect();
    for frame in 0..model.plan.frames {
        let machine = model.p2m[frame as usize];
        let direct = model.direct(frame).unwrap_or(Pte::EMPTY);
        assert_eq!(direct.frame(), machine.map(Mfn), "frame {frame:#x}");
        let free = machine.is_some() && frame >= first_free;
        assert_eq!(direct.is_writable(), free, "frame {frame:#x}");
        assert_eq!(model.initial(frame).frame().is_some(), frame < used && machine.is_some());
        assert!(!(free && tables.contains(&machine.unwrap())), "a table is free");
    }
    assert_eq!(model.direct(model.plan.frames).unwrap_or(Pte::EMPTY), Pte::EMPTY);
}

/// Machine frames in no order.
fn scrambled(frames: u64) -> Vec<Option<u64>> {
    (0..frames).map(|frame| Some(0x1000 + (frame ^ 0x155))).collect()
}

#[test]
fn a_small_domain_needs_the_initial_mapping_only() {
    check(scrambled(2000), 700);
}

#[test]
fn tables_beyond_the_first_are_written_through_the_map_itself() {
    // 90 tables of level 1: more than the first ones.
    check(scrambled(512 * 90 + 5), 900);
}

#[test]
fn the_map_grows_from_behind_a_large_image() {
    check(scrambled(512 * 80), 512 * 70 + 3);
}

#[test]
fn no_memory_for_the_tables_is_an_error() {
    let mut model = Model::new(scrambled(703), 700);
    let plan = model.plan;
    assert_eq!(build(&mut model, plan), Err(Errno::ENOMEM));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn holes_are_left_out(
        frames in 3000u64..20_000,
        used in 1u64..2000,
        holes in prop::collection::vec((0u64..20_000, 1u64..1500), 0..8),
    ) {
        let mut p2m = scrambled(frames);
        for (start, length) in holes {
            // What the domain builder used, and what it mapped behind, is there.
            for frame in start.max(used + SURPLUS)..(start + length).min(frames) {
                p2m[frame as usize] = None;
            }
        }
        check(p2m, used);
    }
}
