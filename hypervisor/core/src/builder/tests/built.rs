//! What a built domain looks like: every mapping, every reference, every record.

use super::*;
use crate::domain::Lifecycle;
use crate::ids::{CpuId, DomId, Mfn};
use crate::page::{PageType, pte};
use core::sync::atomic::Ordering::Relaxed;
use std::collections::BTreeMap;
use xen_abi::xen::*;
use zerocopy::FromBytes;

type Hv = Hypervisor<MockPlatform>;

fn page_bytes(hv: &Hv, mfn: Mfn) -> Vec<u8> {
    hv.platform.frame_words(mfn).iter().flat_map(|w| w.load(Relaxed).to_le_bytes()).collect()
}

/// All leaf mappings of an address space outside the hypervisor's slots: address to entry.
fn mappings(hv: &Hv, root: Mfn) -> BTreeMap<u64, u64> {
    let mut found = BTreeMap::new();
    let mut todo = vec![(root, 4u8, 0u64)];
    while let Some((table, level, base)) = todo.pop() {
        for (n, word) in hv.platform.frame_words(table).iter().enumerate() {
            let entry = word.load(Relaxed);
            if entry & pte::PRESENT == 0 || level == 4 && (256..272).contains(&n) {
                continue;
            }
            let address = base | (n as u64) << (12 + 9 * (level - 1));
            let address = ((address << 16) as i64 >> 16) as u64;
            match level {
                1 => drop(found.insert(address, entry)),
                _ => todo.push((pte::frame_of(entry), level - 1, address)),
            }
        }
    }
    found
}

/// Counts every reference by walking the tables, and compares with the frame table.
fn recount(hv: &Hv, domain: &Domain<MockPlatform>, root: Mfn) {
    let mut typed: BTreeMap<Mfn, (PageType, u64)> = BTreeMap::from([(root, (PageType::L4, 2))]);
    let mut read_only: BTreeMap<Mfn, u64> = BTreeMap::new();
    let mut todo = vec![(root, 4u8)];
    while let Some((table, level)) = todo.pop() {
        for (n, word) in hv.platform.frame_words(table).iter().enumerate() {
            let entry = word.load(Relaxed);
            if entry & pte::PRESENT == 0 || level == 4 && (256..272).contains(&n) {
                continue;
            }
            let frame = pte::frame_of(entry);
            let wanted = match level {
                1 if entry & pte::RW == 0 => {
                    *read_only.entry(frame).or_default() += 1;
                    continue;
                }
                1 => PageType::Writable,
                2 => PageType::L1,
                3 => PageType::L2,
                _ => PageType::L3,
            };
            let slot = typed.entry(frame).or_insert((wanted, 0));
            assert_eq!(slot.0, wanted, "{frame} has one type");
            slot.1 += 1;
            if slot.1 == 1 && level > 1 {
                todo.push((frame, level - 1));
            }
        }
    }
    let mut owned = 0;
    for (n, info) in hv.platform.frame_table().iter().enumerate() {
        let mfn = Mfn(n as u64);
        if info.owner() != Some(domain.id) || mfn == domain.shared_info {
            assert!(!typed.contains_key(&mfn) && !read_only.contains_key(&mfn), "{mfn} is not the domain's");
            continue;
        }
        owned += 1;
        let (wanted, count) = typed.get(&mfn).copied().unwrap_or((PageType::None, 0));
        assert_eq!(info.type_word().count(), count, "{mfn}: {info:?}");
        if count != 0 {
            assert_eq!(info.type_word().page_type(), wanted, "{mfn}: {info:?}");
        }
        let refs = 1 + u64::from(count != 0) + read_only.get(&mfn).copied().unwrap_or(0);
        assert_eq!(info.count().refs(), refs, "{mfn}: {info:?}");
    }
    assert_eq!(owned, domain.pages.current());
    assert!(hv.frame(root).is_some_and(|f| f.type_word().is_pinned()));
}

/// A built domain, with what its `start_info` says.
struct Built {
    hv: Hv,
    domain: Arc<Domain<MockPlatform>>,
    root: Mfn,
    map: BTreeMap<u64, u64>,
    info: StartInfo,
}

impl Built {
    fn new(hv: Hv, image: &Image, initrd: Option<&[u8]>) -> Self {
        let domain = hv.build_dom0(&image.build(), initrd, "root=/dev/ram0 quiet").expect("a domain");
        let root = domain.vcpus[0].pv.guest_table.get().expect("a root");
        let map = mappings(&hv, root);
        let regs = *domain.vcpus[0].saved.lock();
        let page = page_bytes(&hv, pte::frame_of(map[&regs.rsi]));
        let (info, _) = StartInfo::read_from_prefix(&page).expect("a record");
        recount(&hv, &domain, root);
        Self { hv, domain, root, map, info }
    }

    /// Reads mapped memory.
    fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let first = address & !0xfff;
        let skip = (address - first) as usize;
        let pages = (first..).step_by(4096).take((skip + length).div_ceil(4096));
        let bytes: Vec<u8> = pages.flat_map(|a| page_bytes(&self.hv, pte::frame_of(self.map[&a]))).collect();
        bytes[skip..skip + length].to_vec()
    }

    /// The list of frames.
    fn p2m(&self) -> Vec<u64> {
        let list = self.read(self.info.mfn_list, self.info.nr_pages as usize * 8);
        list.as_chunks().0.iter().map(|b| u64::from_le_bytes(*b)).collect()
    }

    /// Checks that hold for every domain.
    fn check(&self, base: u64) {
        let p2m = self.p2m();
        assert_eq!(p2m.len() as u64, self.domain.pages.current());
        for (pfn, mfn) in p2m.iter().enumerate() {
            assert_eq!(self.hv.platform.m2p()[*mfn as usize].load(Relaxed), pfn as u64);
            assert_eq!(self.hv.page_owner(Mfn(*mfn)), Some(self.domain.id));
        }
        // The region: pages in order from the base, page tables read-only, all else writable.
        let regs = *self.domain.vcpus[0].saved.lock();
        let region: Vec<_> =
            self.map.range(base..).take_while(|(a, _)| (**a - base) / 4096 < p2m.len() as u64).collect();
        let tables = self.info.pt_base..self.info.pt_base + self.info.nr_pt_frames * 4096;
        for (n, (address, entry)) in region.iter().enumerate() {
            assert_eq!(**address, base + n as u64 * 4096, "no hole");
            assert_eq!(pte::frame_of(**entry).0, p2m[n]);
            assert_eq!(**entry & pte::RW == 0, tables.contains(address), "{address:#x}");
            assert_eq!(**entry & (pte::GLOBAL | pte::GUEST_KERNEL), pte::GUEST_KERNEL, "kernel pages");
        }
        let end = base + region.len() as u64 * 4096;
        assert_eq!(end % (4 << 20), 0);
        assert!(end - regs.rsp >= 512 << 10, "padding behind the stack");
        assert_eq!(pte::frame_of(self.map[&self.info.pt_base]), self.root);
        assert!(tables.end <= regs.rsp - 4096);
        assert_eq!((regs.cs, regs.ss, regs.rflags & 1 << 9), (0xe033, 0xe02b, 1 << 9));
        self.check_records();
    }

    fn check_records(&self) {
        assert_eq!(&self.info.magic[..15], b"xen-3.0-x86_64\0");
        assert_eq!(self.info.flags & 3, SIF_PRIVILEGED | SIF_INITDOMAIN);
        assert!(self.info.cmd_line.starts_with(b"root=/dev/ram0 quiet"));
        assert_eq!(self.info.shared_info, self.domain.shared_info.addr().0);
        assert_eq!(self.info.console_dom0().info_size, 0);
        let shared = page_bytes(&self.hv, self.domain.shared_info);
        assert!((0..32).all(|n| shared[n * 64..n * 64 + 8] == [0, 1, 0, 0, 0, 0, 0, 0]));
        assert_eq!(self.domain.vcpus[0].pv.vcpu_info.load(Relaxed), self.info.shared_info);
        assert_eq!(*self.domain.lifecycle.lock(), Lifecycle::Running);
        assert!(self.hv.domains.get(DomId(0)).is_some());
    }
}

#[test]
fn linux_with_everything_elsewhere() {
    let image = Image::linux();
    let initrd = pattern(0x5432, 9);
    let built = Built::new(machine(32, "dom0_mem=24M -- nosmp"), &image, Some(&initrd));
    built.check(BASE);
    assert_eq!(built.info.nr_pages, 24 * 256);
    assert!(built.info.cmd_line.starts_with(b"root=/dev/ram0 quiet nosmp\0"));
    assert_eq!(built.read(BASE + LOAD, 0x1000), image.parts[0].data[..0x1000]);
    assert_eq!(built.read(BASE + LOAD + 0x1000, 0x1000), hypercall_page());
    assert_eq!(built.read(BASE + LOAD + 0x2000, 0x1123), image.parts[0].data[0x2000..]);
    assert_eq!(built.read(BASE + LOAD + 0x5000, 0x1777), image.parts[1].data);
    assert!(built.read(BASE + LOAD + 0x6777, 0x4555 - 0x1777).iter().all(|b| *b == 0), "bss");
    assert_eq!(built.domain.vcpus[0].saved.lock().rip, BASE + LOAD + 0x40);
    // The list of frames has its own place, and its pages and tables their own numbers.
    assert_eq!(built.info.mfn_list, P2M);
    let list_pages = (24 * 256u64).div_ceil(512);
    assert_eq!(built.info.nr_p2m_frames, list_pages + 3);
    let p2m = built.p2m();
    let first = built.info.first_p2m_pfn as usize;
    for n in 0..list_pages {
        assert_eq!(pte::frame_of(built.map[&(P2M + n * 4096)]).0, p2m[first + 3 + n as usize]);
    }
    // So does the RAM disk.
    assert_eq!(built.info.flags & SIF_MOD_START_PFN, SIF_MOD_START_PFN);
    let page = built.info.mod_start as usize;
    let disk: Vec<u8> = p2m[page..page + 6].iter().flat_map(|mfn| page_bytes(&built.hv, Mfn(*mfn))).collect();
    assert_eq!(built.info.mod_len, 0x5432);
    assert_eq!(disk[..0x5432], initrd);
    let mapped = |mfn: u64| built.map.values().any(|e| pte::frame_of(*e).0 == mfn);
    assert!(!p2m[page..page + 6].iter().any(|mfn| mapped(*mfn)));
}

#[test]
fn small_with_everything_in_the_region() {
    let initrd = pattern(0x1801, 5);
    let built = Built::new(machine(16, ""), &Image::small(), Some(&initrd));
    built.check(0x40_0000);
    assert_eq!(built.info.flags, SIF_PRIVILEGED | SIF_INITDOMAIN);
    assert_eq!((built.info.first_p2m_pfn, built.info.nr_p2m_frames), (0, 0));
    assert_eq!(built.info.mod_start, 0x40_3000);
    assert_eq!(built.read(built.info.mod_start, 0x1801), initrd);
    assert_eq!(built.info.mfn_list, 0x40_5000, "right behind the RAM disk");
    assert_eq!(built.domain.vcpus[0].saved.lock().rip, 0x40_0010, "the ELF file's own entry");
    assert_eq!(built.info.nr_pages, 4095 - 1 - (4095 - 1) / 16, "all but a sixteenth, and shared_info");
}

#[test]
fn memory_by_the_options() {
    for (line, mib) in [
        ("dom0_mem=20M", 20),
        ("dom0_mem=min:28M,12M", 28),
        ("dom0_mem=max:10M", 10),
        ("dom0_mem=50%,max:8M", 8),
        ("dom0_mem=-10M", 21),
        ("dom0_mem=1T", 29),
    ] {
        let hv = machine(32, line);
        let domain = hv.build_dom0(&Image::small().build(), None, "").expect("a domain");
        assert_eq!(domain.pages.current() >> 8, mib, "{line}");
        let max = if line.contains("max") { mib << 8 } else { u64::from(u32::MAX) };
        assert_eq!(domain.pages.max(), max, "{line}");
    }
}

#[test]
fn memory_in_many_pieces() {
    let hv = machine(32, "dom0_mem=20M");
    // Keep every 37th page of the upper half, so that there is no large block.
    let all: Vec<_> = (0..4000).map(|_| hv.alloc_frames(0).expect("a frame")).collect();
    all.iter().enumerate().filter(|(n, _)| n % 37 != 0).for_each(|(_, mfn)| hv.frames.free(*mfn, 0));
    Built::new(hv, &Image::linux(), None).check(BASE);
}

#[test]
fn interrupted_all_the_time() {
    let hv = machine(16, "");
    hv.platform.preempt_every.store(1, Relaxed);
    Built::new(hv, &Image::linux(), None).check(BASE);
}

#[test]
fn base_within_the_same_tables_as_the_list() {
    let image = Image::linux().with(XEN_ELFNOTE_INIT_P2M, word(0xffff_ffff_c000_0000));
    let built = Built::new(machine(16, ""), &image, None);
    built.check(BASE);
    assert_eq!(built.info.mfn_list, 0xffff_ffff_c000_0000);
}

#[test]
fn legacy_string_and_console() {
    let mut file = Image { notes: vec![], ..Image::small() }.build();
    let line = b"GUEST_OS=linux,XEN_VER=xen-3.0,VIRT_BASE=0x400000,ELF_PADDR_OFFSET=0x0,HYPERCALL_PAGE=0x1,LOADER=generic\0";
    let names = b"\0__xen_guest\0.shstrtab\0";
    let at = file.len() as u64;
    file.extend(line);
    file.extend(names);
    let sections = file.len() as u64;
    for (name, kind, offset, size) in
        [(0, 0, 0, 0), (1, 1, at, line.len() as u64), (13, 3, at + line.len() as u64, names.len() as u64)]
    {
        let (name, kind): (u32, u32) = (name, kind);
        file.extend(name.to_le_bytes());
        file.extend(kind.to_le_bytes());
        [0, 0, offset, size, 0, 1, 0].iter().for_each(|w: &u64| file.extend(w.to_le_bytes()));
    }
    file[40..48].copy_from_slice(&sections.to_le_bytes());
    file[60..64].copy_from_slice(&[3, 0, 2, 0]);
    let hv = machine(16, "");
    let source = DomainSource { image: &file, initrd: None, cmdline: "", video: Some(&[0x23; 40]) };
    let domain = hv.build_dom0_from(&source).expect("a domain");
    let root = domain.vcpus[0].pv.guest_table.get().expect("a root");
    let map = mappings(&hv, root);
    assert_eq!(page_bytes(&hv, pte::frame_of(map[&0x40_1000])), hypercall_page());
    let start = page_bytes(&hv, pte::frame_of(map[&domain.vcpus[0].saved.lock().rsi]));
    let (info, rest) = StartInfo::read_from_prefix(&start).expect("a record");
    assert_eq!((info.console_dom0().info_off, info.console_dom0().info_size), (1168, 40));
    assert_eq!(rest[..40], [0x23; 40]);
}

#[test]
fn vcpus_by_the_options() {
    for (line, cpus, expected) in
        [("", 3, 3), ("dom0_max_vcpus=2", 3, 2), ("dom0_max_vcpus=4-6", 3, 4), ("dom0_max_vcpus=-1", 3, 1)]
    {
        let hv = machine(16, line);
        hv.platform.cpus.store(cpus, Relaxed);
        let domain = hv.build_dom0(&Image::small().build(), None, "").expect("a domain");
        assert_eq!(domain.vcpus.len(), expected, "{line}");
        assert!(domain.vcpus.iter().all(|v| !v.sched.is_up()));
    }
}

#[test]
fn pinned_vcpus() {
    let hv = machine(16, "dom0_max_vcpus=4 dom0_vcpus_pin");
    hv.platform.cpus.store(3, Relaxed);
    let domain = hv.build_dom0(&Image::small().build(), None, "").expect("a domain");
    let cpus: Vec<_> = domain.vcpus.iter().map(|v| v.sched.affinity().iter().collect::<Vec<_>>()).collect();
    assert_eq!(cpus, [0, 1, 2, 0].map(|n| vec![CpuId(n)]));
}

#[test]
fn stubs_of_the_hypercall_page() {
    let page = hypercall_page();
    assert_eq!(page[32..46], [0x51, 0x41, 0x53, 0xb8, 1, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3]);
    assert_eq!(page[23 * 32..23 * 32 + 12], [0x51, 0x41, 0x53, 0x50, 0xb8, 23, 0, 0, 0, 0x0f, 0x05, 0xcc]);
}

/// Frames that a domain under construction loses before they are cleared hold what another domain left in them.
#[test]
fn what_was_not_cleared_is_given_back_dirty() {
    const SECRET: u64 = 0x5ec2e7;
    const PAGES: u64 = 2048;
    let (hv, _dom0) = mock::machine_with_domain(8192);
    let first_words = |mfn: Mfn| hv.platform.frame_words(mfn)[0].load(Relaxed);
    let gone = mock::domain(&hv, 1, 1, 7000);
    while let Ok(mfn) = hv.alloc_domain_page(&gone, 0) {
        hv.platform.frame_words(mfn)[0].store(SECRET, Relaxed);
    }
    while hv.destroy_domain(&gone).is_err() {}
    let image = crate::builder::tests::small_kernel();
    let domain = |id| {
        let config = DomainConfig { max_pages: PAGES, ..DomainConfig::new(DomId(id)) };
        let domain = hv.create_domain(&config).expect("a domain");
        let source = DomainSource { image, initrd: None, cmdline: "", video: None };
        let filling = hv.begin_filling(&source, None, (PAGES, &domain.pages.claim), None).expect("room");
        (domain, filling)
    };
    let frames = |owner: DomId| -> Vec<_> {
        (1..8192)
            .map(Mfn)
            .filter(|mfn| hv.page_owner(*mfn) == Some(owner) && first_words(*mfn) == SECRET)
            .collect()
    };
    // One that is built undisturbed has nothing of it.
    let (whole, mut filling) = domain(2);
    assert!(matches!(hv.fill_some(&whole, &mut filling, image, || false), Ok(true)));
    assert_eq!((whole.pages.current(), frames(whole.id).len()), (PAGES, 0));
    let dirty = |mfn: Mfn| hv.known_frame(mfn).count().is_dirty();
    assert!(!(1..8192).map(Mfn).any(|mfn| hv.page_owner(mfn) == Some(whole.id) && dirty(mfn)));
    let (part, mut filling) = domain(3);
    while part.pages.current() < PAGES {
        assert!(matches!(hv.fill_some(&part, &mut filling, image, || true), Ok(false)));
    }
    let lost = frames(part.id);
    assert!(lost.len() > 100, "{} of the frames are as they were left", lost.len());
    lost.iter().for_each(|mfn| hv.remove_domain_page(&part, *mfn).expect("its own"));
    let peer = mock::domain(&hv, 4, 1, 8000);
    let mut found = 0;
    while let Ok(mfn) = hv.alloc_domain_page(&peer, 0) {
        assert_ne!(first_words(mfn), SECRET, "{mfn:?} shows what a domain that is gone had");
        found += usize::from(lost.contains(&mfn));
    }
    assert_eq!(found, lost.len());
    assert!(!hv.frames.any_dirty());
}
