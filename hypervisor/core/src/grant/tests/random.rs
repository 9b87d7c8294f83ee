//! Three domains that grant, map, copy, pass on, revoke, swap and die in any order, against a naive model: every answer, every
//! count and every byte is what the model says, and when the last domain is gone nothing is left.

use super::*;
use crate::domain::Accounts;
use crate::ids::MachineAddr;
use crate::page::EntryPlace;
use proptest::prelude::*;
use std::vec;

const DOMAINS: usize = 3;
const PAGES: usize = 3;
const GRANTS: usize = 4;
const SLOTS: usize = 3;
/// First reference that is used; those below are reserved for tools.
const FIRST: usize = 10;

/// One end of a copy.
#[derive(Clone, Copy, Debug)]
enum End {
    Grant(usize, usize),
    Own(usize),
}

/// One step, by a domain.
#[derive(Clone, Copy, Debug)]
enum Op {
    Map { granter: usize, grant: usize, slot: usize, host: bool, device: bool, readonly: bool },
    Unmap { which: usize, host: bool, device: bool },
    Overwrite { slot: usize },
    Copy { from: End, to: End },
    Grant { grant: usize, to: usize, page: usize, readonly: bool },
    PassOn { grant: usize, to: usize, from: usize, reference: usize },
    Revoke { grant: usize },
    Swap { a: usize, b: usize },
    Fill { page: usize, value: u64 },
    Die,
}

fn op() -> impl Strategy<Value = (usize, Op)> {
    let (domain, grant, page, slot) = (0..DOMAINS, 0..GRANTS, 0..PAGES, 0..SLOTS);
    let end = || {
        prop_oneof![
            2 => (domain.clone(), grant.clone()).prop_map(|(domain, grant)| End::Grant(domain, grant)),
            1 => page.clone().prop_map(End::Own),
        ]
    };
    let flags = || (any::<bool>(), any::<bool>(), any::<bool>());
    let any_op = prop_oneof![
        8 => (domain.clone(), grant.clone(), slot.clone(), flags()).prop_map(
            |(granter, grant, slot, (host, device, readonly))| Op::Map { granter, grant, slot, host, device, readonly }),
        6 => (0usize..6, flags()).prop_map(|(which, (host, device, _))| Op::Unmap { which, host, device }),
        1 => slot.clone().prop_map(|slot| Op::Overwrite { slot }),
        8 => (end(), end()).prop_map(|(from, to)| Op::Copy { from, to }),
        8 => (grant.clone(), domain.clone(), page.clone(), any::<bool>()).prop_map(
            |(grant, to, page, readonly)| Op::Grant { grant, to, page, readonly }),
        4 => (grant.clone(), domain.clone(), domain.clone(), grant.clone()).prop_map(
            |(grant, to, from, reference)| Op::PassOn { grant, to, from, reference }),
        2 => grant.clone().prop_map(|grant| Op::Revoke { grant }),
        2 => (grant.clone(), grant.clone()).prop_map(|(a, b)| Op::Swap { a, b }),
        2 => (page.clone(), 1..u64::MAX).prop_map(|(page, value)| Op::Fill { page, value }),
        1 => Just(Op::Die),
    ];
    (domain.clone(), any_op)
}

/// What an entry of a grant table says.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Entry {
    Nothing,
    Access { to: usize, page: usize, readonly: bool },
    PassedOn { to: usize, from: usize, reference: usize },
}

/// A mapping in the model.
#[derive(Clone, Copy, Debug)]
struct Held {
    mapper: usize,
    handle: u32,
    granter: usize,
    grant: usize,
    page: usize,
    slot: usize,
    host: bool,
    device: bool,
    readonly: bool,
}

/// What a slot of a domain's page table maps: the granter and the page, and whether writable.
type Slot = Option<(usize, usize, bool)>;

struct Model {
    alive: [bool; DOMAINS],
    entries: [[Entry; GRANTS]; DOMAINS],
    contents: [[u64; PAGES]; DOMAINS],
    held: Vec<Held>,
    slots: [[Slot; SLOTS]; DOMAINS],
}

impl Model {
    fn users(&self, granter: usize, grant: usize) -> impl Iterator<Item = &Held> {
        self.held.iter().filter(move |held| (held.granter, held.grant) == (granter, grant))
    }

    fn is_used(&self, granter: usize, grant: usize) -> bool {
        self.users(granter, grant).next().is_some()
    }

    /// The page that a grant gives `user` access to.
    fn access(&self, granter: usize, grant: usize, user: usize, readonly: bool) -> Option<(usize, usize)> {
        match self.entries[granter][grant] {
            Entry::Access { to, page, readonly: only }
                if self.alive[granter] && to == user && (readonly || !only) =>
            {
                Some((granter, page))
            }
            _ => None,
        }
    }

    /// The page that a copy by `caller` finds at one end.
    fn end(&self, caller: usize, end: End, readonly: bool) -> Option<(usize, usize)> {
        let (granter, grant) = match end {
            End::Own(page) => return Some((caller, page)),
            End::Grant(granter, grant) => (granter, grant),
        };
        match self.entries[granter][grant] {
            Entry::PassedOn { to, from, reference }
                if self.alive[granter] && to == caller && from != granter =>
            {
                self.access(from, reference, granter, readonly)
            }
            _ => self.access(granter, grant, caller, readonly),
        }
    }
}

/// The machine, and what stands where.
struct Trio {
    hv: Mock,
    domains: Vec<MockDomain>,
    /// Frames of each domain's grant table and of its status words.
    tables: Vec<(Mfn, Mfn)>,
    /// The lowest page table of each.
    l1: Vec<Mfn>,
    pages: Vec<Vec<Mfn>>,
    before: Accounts,
}

impl Trio {
    fn new() -> Self {
        let hv = mock::hypervisor(400);
        let before = hv.accounts();
        let domains: Vec<_> = (0..DOMAINS).map(|id| mock::domain(&hv, id as u16, 1, 60)).collect();
        let mut trio = Self { hv, domains, tables: vec![], l1: vec![], pages: vec![], before };
        for domain in &trio.domains {
            let hv = &trio.hv;
            let tables: Vec<_> = (0..4).map(|_| page(hv, domain)).collect();
            for pair in tables.windows(2) {
                hv.platform.frame_words(pair[0])[0].store(pair[1].addr().0 | 7, Ordering::Relaxed);
            }
            hv.set_first_baseptr(domain, &domain.vcpus[0], tables[0]).expect("page tables");
            trio.l1.push(tables[3]);
            let table = hv.setup_grant_table(domain, SELF, 1).expect("a grant table")[0];
            hv.set_grant_table_version(domain, 2).expect("version 2");
            let status = hv.grant_status_frames(domain, SELF, 1).expect("its status")[0];
            trio.tables.push((table, status));
            trio.pages.push((0..PAGES).map(|_| page(hv, domain)).collect());
        }
        trio
    }

    fn write_entry(&self, domain: usize, grant: usize, entry: Entry) {
        let words = self.hv.platform.frame_words(self.tables[domain].0);
        let (first, second) = match entry {
            Entry::Nothing => (0, 0),
            Entry::Access { to, page, readonly } => {
                let flags = TO_D0 | if readonly { READONLY } else { 0 };
                (flags | (to as u64) << 16, self.pages[domain][page].0)
            }
            Entry::PassedOn { to, from, reference } => (
                u64::from(GTF_TRANSITIVE) | (to as u64) << 16 | (from as u64) << 32,
                (FIRST + reference) as u64,
            ),
        };
        words[2 * (FIRST + grant) + 1].store(second, Ordering::SeqCst);
        words[2 * (FIRST + grant)].store(first, Ordering::SeqCst);
    }

    fn in_use(&self, domain: usize, grant: usize) -> u16 {
        let at = FIRST + grant;
        let word = self.hv.platform.frame_words(self.tables[domain].1)[at / 4].load(Ordering::SeqCst);
        (word >> (16 * (at % 4)) & 0xffff) as u16
    }

    fn slot(&self, domain: usize, slot: usize) -> u64 {
        self.l1[domain].addr().0 + 8 * slot as u64
    }

    fn end(&self, end: End, caller: usize) -> CopyEnd {
        match end {
            End::Grant(domain, grant) => {
                CopyEnd::Grant(DomId(domain as u16), GrantRef((FIRST + grant) as u32))
            }
            End::Own(page) => CopyEnd::Frame(SELF, self.pages[caller][page]),
        }
    }

    fn destroy(&self, domain: usize) {
        self.hv.platform.preempt_every.store(3, Ordering::Relaxed);
        let ended = (0..10_000).any(|_| self.hv.destroy_domain(&self.domains[domain]).is_ok());
        self.hv.platform.preempt_every.store(0, Ordering::Relaxed);
        assert!(ended, "domain {domain} does not end");
    }

    fn map(&self, me: usize, model: &mut Model, op: Op) {
        let Op::Map { granter, grant, slot, host, device, readonly } = op else { return };
        let flag = |wanted: bool, flag: u32| if wanted { flag } else { 0 };
        let flags = GNTMAP_CONTAINS_PTE
            | flag(host, GNTMAP_HOST_MAP)
            | flag(device, GNTMAP_DEVICE_MAP)
            | flag(readonly, GNTMAP_READONLY);
        let request = MapRequest {
            host_addr: self.slot(me, slot),
            flags,
            granter: DomId(granter as u16),
            reference: GrantRef((FIRST + grant) as u32),
        };
        let domain = &self.domains[me];
        let answer = self.hv.map_grant(domain, &domain.vcpus[0], &request);
        let page = model.access(granter, grant, me, readonly).filter(|_| host || device);
        assert_eq!(answer.is_ok(), page.is_some(), "{answer:?}");
        if let (Ok(mapped), Some((_, page))) = (answer, page) {
            assert_eq!(mapped.address, self.pages[granter][page].addr());
            let handle = mapped.handle;
            model.held.push(Held { mapper: me, handle, granter, grant, page, slot, host, device, readonly });
            if host {
                model.slots[me][slot] = Some((granter, page, !readonly));
            }
        }
    }

    fn unmap(&self, me: usize, model: &mut Model, which: usize, host: bool, device: bool) {
        let Some(index) = (0..model.held.len()).filter(|n| model.held[*n].mapper == me).nth(which) else {
            return;
        };
        let held = &mut model.held[index];
        let slot = &mut model.slots[me][held.slot];
        let request = UnmapRequest {
            host_addr: if host { self.slot(me, held.slot) } else { 0 },
            device_addr: if device { self.pages[held.granter][held.page].addr().0 } else { 0 },
            new_addr: 0,
            handle: held.handle,
        };
        let domain = &self.domains[me];
        let mut batch = UnmapBatch::default();
        let answer = self.hv.unmap_grant(domain, &domain.vcpus[0], &request, &mut batch);
        self.hv.finish_unmaps(domain, &mut batch);
        let fits = *slot == Some((held.granter, held.page, !held.readonly));
        assert_eq!(answer.is_ok(), !(held.host && host) || fits, "{answer:?} for {held:?}");
        if answer.is_ok() {
            if held.host && host {
                *slot = None;
                held.host = false;
            }
            held.device &= !device;
            if !held.host && !held.device {
                model.held.remove(index);
            }
        }
    }

    /// The same step on the machine and in the model; both answer alike.
    fn step(&self, me: usize, model: &mut Model, op: Op) {
        if !model.alive[me] {
            return;
        }
        let domain = &self.domains[me];
        match op {
            Op::Map { granter, .. } if granter != me => self.map(me, model, op),
            Op::Map { .. } => {}
            Op::Unmap { which, host, device } => self.unmap(me, model, which, host, device),
            Op::Overwrite { slot } => {
                let place = EntryPlace::Machine(MachineAddr(self.slot(me, slot)));
                let old = self.hv.steal_entry(domain, &domain.vcpus[0], place).expect("its own entry");
                self.hv.drop_entry(domain, old);
                model.slots[me][slot] = None;
            }
            Op::Copy { from, to } => {
                let request =
                    CopyRequest { source: (self.end(from, me), 0), dest: (self.end(to, me), 0), len: 4096 };
                let answer = self.hv.copy_granted(domain, &request);
                let ends = model.end(me, from, true).zip(model.end(me, to, false));
                assert_eq!(answer.is_ok(), ends.is_some(), "{answer:?}");
                if let Some((from, to)) = ends {
                    model.contents[to.0][to.1] = model.contents[from.0][from.1];
                }
            }
            Op::Grant { grant, to, page, readonly } if !model.is_used(me, grant) => {
                self.change(me, model, grant, Entry::Access { to, page, readonly });
            }
            Op::PassOn { grant, to, from, reference } if !model.is_used(me, grant) => {
                self.change(me, model, grant, Entry::PassedOn { to, from, reference });
            }
            Op::Revoke { grant } if !model.is_used(me, grant) => {
                self.change(me, model, grant, Entry::Nothing);
            }
            Op::Grant { .. } | Op::PassOn { .. } | Op::Revoke { .. } => {}
            Op::Swap { a, b } => {
                let name = |grant| GrantRef((FIRST + grant) as u32);
                let answer = self.hv.swap_grants(domain, name(a), name(b));
                let free = a == b || !model.is_used(me, a) && !model.is_used(me, b);
                assert_eq!(answer.is_ok(), free, "{answer:?}");
                if free {
                    model.entries[me].swap(a, b);
                }
            }
            Op::Fill { page, value } => {
                let words = self.hv.platform.frame_words(self.pages[me][page]);
                words.iter().for_each(|word| word.store(value, Ordering::Relaxed));
                model.contents[me][page] = value;
            }
            Op::Die => {
                self.destroy(me);
                model.alive[me] = false;
                model.held.retain(|held| held.mapper != me);
                model.slots[me] = [None; SLOTS];
            }
        }
    }

    fn change(&self, me: usize, model: &mut Model, grant: usize, entry: Entry) {
        model.entries[me][grant] = entry;
        self.write_entry(me, grant, entry);
    }

    fn compare(&self, model: &Model) -> Result<(), TestCaseError> {
        for d in 0..DOMAINS {
            for (n, mfn) in self.pages[d].iter().enumerate() {
                let slots = || model.slots.iter().flatten().flatten();
                let mapped = |writable| slots().filter(|s| **s == (d, n, writable)).count() as u64;
                let devices = |readonly| {
                    let same =
                        |h: &&Held| (h.granter, h.page, h.device, h.readonly) == (d, n, true, readonly);
                    model.held.iter().filter(same).count() as u64
                };
                let typed = mapped(true) + devices(false);
                let users = mapped(false) + devices(true) + u64::from(typed != 0);
                if !model.alive[d] && users == 0 {
                    // It may belong to anybody by now.
                    continue;
                }
                let info = self.hv.frame(*mfn).expect("a frame");
                let counts = (info.count().refs(), info.type_word().count());
                prop_assert_eq!(counts, (u64::from(model.alive[d]) + users, typed), "page {} of d{}", n, d);
                let words = self.hv.platform.frame_words(*mfn);
                let same = words.iter().all(|w| w.load(Ordering::Relaxed) == model.contents[d][n]);
                prop_assert!(same, "contents of page {} of d{}", n, d);
            }
            if !model.alive[d] {
                continue;
            }
            for grant in 0..GRANTS {
                let reading = model.is_used(d, grant);
                let writing = model.users(d, grant).any(|held| !held.readonly);
                let flags = self.in_use(d, grant);
                prop_assert_eq!((flags & GTF_READING != 0, flags & GTF_WRITING != 0), (reading, writing));
            }
            let held = model.held.iter().filter(|held| held.mapper == d).count();
            prop_assert_eq!(self.domains[d].grants.mappings(), held);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn three_domains_behave_like_the_model(ops in prop::collection::vec(op(), 1..100)) {
        let trio = Trio::new();
        let mut model = Model {
            alive: [true; DOMAINS],
            entries: [[Entry::Nothing; GRANTS]; DOMAINS],
            contents: [[0; PAGES]; DOMAINS],
            held: Vec::new(),
            slots: [[None; SLOTS]; DOMAINS],
        };
        for (me, op) in ops {
            trio.step(me, &mut model, op);
            trio.compare(&model)?;
        }
        for me in 0..DOMAINS {
            trio.step(me, &mut model, Op::Die);
            trio.compare(&model)?;
        }
        let after = trio.hv.accounts();
        prop_assert!(after.same_as(&trio.before), "before: {}; after: {}", trio.before, after);
    }
}
