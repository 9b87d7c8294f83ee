//! A kernel that checks the library's memory and page tables on the hypervisor it runs on: each step prints one line,
//! the same on every hypervisor, and the domain ends as crashed where one fails.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

extern crate alloc;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::hint::black_box;
use core::sync::atomic::Ordering::Relaxed;

use guest_pv_lib::memory::{self, OutOfMemory, Page, Pages, SharedPages, Window, balloon};
use guest_pv_lib::mmu::{
    self, Access, Entry, Flush, Frame, L1, L2, L3, L4, Level, MapError, Mfn, Pte, Space, Table, TableLevel,
    Tables, update_va_mapping,
};
use guest_pv_lib::platform::{self, Kind};
use guest_pv_lib::sched::{self, Shutdown};
use guest_pv_lib::{BootContext, println};
use x86_64::structures::paging::mapper::Translate;
use x86_64::structures::paging::{Mapper, Page as Place, PageTableFlags, PhysFrame, Size4KiB};
use x86_64::{PhysAddr, VirtAddr};

guest_pv_lib::entry!(kernel, name = "memory", version = "1");

/// A step that did not go as it must, and why.
type Step = Result<(), &'static str>;

/// A step's name and its code.
type Named = (&'static str, fn(&BootContext) -> Step);

/// What is checked, in this order.
const STEPS: [Named; 9] = [
    ("pages", pages),
    ("every frame", every_frame),
    ("window", window),
    ("contiguous", contiguous),
    ("heap", heap),
    ("spaces", spaces),
    ("frame states", frame_states),
    ("balloon", ballooning),
    ("mapper", mapper),
];

fn kernel(boot: BootContext) -> ! {
    println!("memory: start");
    let mut passed = true;
    for (name, step) in STEPS {
        match step(&boot) {
            Ok(()) => println!("memory: {name}: passed"),
            Err(why) => {
                println!("memory: {name}: FAILED: {why}");
                passed = false;
            }
        }
    }
    println!("{}", if passed { "memory: all steps passed" } else { "memory: some step failed" });
    sched::shutdown(if passed { Shutdown::PowerOff } else { Shutdown::Crash })
}

/// An error where `condition` does not hold.
fn check(condition: bool, why: &'static str) -> Step {
    if condition { Ok(()) } else { Err(why) }
}

fn no_memory(_: OutOfMemory) -> &'static str {
    "out of memory"
}

/// A run is zeroed, translates as the hypervisor says, and comes back.
fn pages(boot: &BootContext) -> Step {
    let before = memory::free_pages();
    let mut run = Pages::new(700).map_err(no_memory)?;
    check(run.as_ref().iter().all(|&byte| byte == 0), "not zeroed")?;
    run.as_mut().fill(0xa5);
    for index in 0..run.count() {
        check(
            boot.p2m().mfn(run.pfn(index)) == Some(run.mfn(index)),
            "another machine frame than the p2m's",
        )?;
        let back = mmu::m2p(run.mfn(index));
        check(back == Some(run.pfn(index)), "the machine frame translates to another frame")?;
    }
    // The map of machine frames has nothing at 32 TiB, and a root there is none.
    let nowhere = Mfn(1 << 33);
    check(mmu::m2p(nowhere).is_none(), "a frame where the machine has no memory")?;
    check(mmu::entry_address(boot, nowhere, 0, Level::L4).is_none(), "a root table out of nothing")?;
    check(memory::free_pages() == before - 700, "the allocator counts wrong")?;
    drop(run);
    check(memory::free_pages() == before, "pages did not come back")
}

/// All free memory can be had, written and read; then there is none left. With `untouched` on the command line, the
/// time that this takes is saved.
fn every_frame(boot: &BootContext) -> Step {
    if boot.has_option("untouched") {
        return check(memory::free_pages() as u64 > boot.pages() / 2, "less than half of the memory is free");
    }
    let mut runs = Vec::new();
    let mut total = 0;
    let mut size = 1 << 16;
    while size > 0 {
        match Pages::new(size) {
            Ok(mut run) => {
                for (index, page) in run.as_mut().chunks_mut(4096).enumerate() {
                    page[..8].copy_from_slice(&(total + index).to_ne_bytes());
                    page[4088..].copy_from_slice(&(total + index).to_ne_bytes());
                }
                total += size;
                if runs.len() == runs.capacity() && size < 64 {
                    break;
                }
                runs.push(run);
            }
            Err(OutOfMemory) => size /= 2,
        }
    }
    let mut number = 0usize;
    for page in runs.iter().flat_map(|run| run.as_ref().chunks(4096)) {
        let expected = number.to_ne_bytes();
        check(page[..8] == expected && page[4088..] == expected, "two pages are one")?;
        number += 1;
    }
    check(number as u64 > boot.pages() / 2, "less than half of the memory was free")
}

/// A page of the domain shows at a window's address, and no longer does afterwards; also in an address space that is
/// older than the first window.
fn window(_: &BootContext) -> Step {
    let space = Space::new().map_err(|_| "no address space")?;
    space.activate();
    let window = Window::new(600).map_err(no_memory)?;
    let shared = SharedPages::from(Pages::new(2).map_err(no_memory)?);
    for (index, page) in [(0, 0), (599, 1), (511, 0), (512, 1)] {
        let address = window.address(index);
        // SAFETY: the window's pages are this step's, and the frames are atomics.
        unsafe { update_va_mapping(address, Pte::data(shared.mfn(page)), Flush::None) }
            .map_err(|_| "a mapping was refused")?;
        let word = core::ptr::with_exposed_provenance::<core::sync::atomic::AtomicU32>(address as usize);
        // SAFETY: just mapped, to a page of atomics.
        unsafe { &*word }.store(index as u32 + 7, Relaxed);
        check(shared[page * 1024].load(Relaxed) == index as u32 + 7, "the window shows another page")?;
        let request = xen_abi::xen::MmuUpdate { ptr: window.entry_machine_address(index), val: 0 };
        // SAFETY: the mapping is this step's, and is not used any more.
        unsafe { mmu::mmu_update(&[request]) }.map_err(|_| "the entry's address is wrong")?;
        // SAFETY: as above; flushes what the processor remembers.
        unsafe { update_va_mapping(address, Pte::EMPTY, Flush::All) }.map_err(|_| "unmapping was refused")?;
    }
    let first = window.address(0);
    drop(window);
    check(Window::new(600).map_err(no_memory)?.address(0) == first, "the addresses were not given back")
}

/// Machine-contiguous runs, by chance and by exchange.
fn contiguous(boot: &BootContext) -> Step {
    for (count, bits) in [(1, 64), (8, 32), (13, 32), (64, 30), (3, 64)] {
        let mut dma = memory::contiguous(count, bits).map_err(no_memory)?;
        check(dma.count() == count && dma.as_ref().iter().all(|&byte| byte == 0), "not zeroed")?;
        let first = dma.machine_address() / 4096;
        for index in 0..count {
            check(dma.mfn(index).0 == first + index as u64, "not contiguous")?;
            check(boot.p2m().mfn(dma.pfn(index)) == Some(dma.mfn(index)), "the p2m says something else")?;
            let back = mmu::m2p(dma.mfn(index));
            check(back == Some(dma.pfn(index)), "the m2p says something else")?;
        }
        check(bits >= 64 || (first + count as u64) << 12 <= 1 << bits, "too high")?;
        dma.as_mut().fill(1);
    }
    exchanged(boot)
}

/// Frames below those that the domain has come from the hypervisor only, in exchange.
fn exchanged(boot: &BootContext) -> Step {
    let (kept, before) = (Pages::new(8).map_err(no_memory)?, memory::free_pages());
    let bits = (0..8).map(|index| kept.mfn(index).address()).min().map_or(0, u64::ilog2);
    drop(kept);
    match memory::contiguous(5, bits) {
        Err(OutOfMemory) => check(platform::kind() != Kind::Pv, "nothing was exchanged")?,
        Ok(mut dma) => {
            check(dma.machine_address() + 5 * 4096 <= 1 << bits, "too high")?;
            dma.as_mut().fill(0x5a);
            for index in 0..5 {
                check(boot.p2m().mfn(dma.pfn(index)) == Some(dma.mfn(index)), "the p2m knows nothing of it")?;
                let back = mmu::m2p(dma.mfn(index));
                check(back == Some(dma.pfn(index)), "the m2p knows nothing of it")?;
            }
            check(dma.as_ref().iter().all(|&byte| byte == 0x5a), "a page of the run is another")?;
        }
    }
    check(memory::free_pages() == before + 8, "the exchange lost frames")
}

/// Containers of many sizes live side by side.
fn heap(_: &BootContext) -> Step {
    let before = memory::free_pages();
    let mut map = BTreeMap::new();
    for n in 0..2000usize {
        map.insert(n * 7919 % 2003, (format!("number {n}"), vec![n as u8; n * 37 % 5000]));
        if n % 3 == 0 {
            map.remove(&(n * 31 % 2003));
        }
    }
    let whole = map.values().all(|(name, bytes)| {
        let n: usize = name.trim_start_matches("number ").parse().unwrap_or(usize::MAX);
        bytes.len() == n * 37 % 5000 && bytes.iter().all(|&byte| byte == n as u8)
    });
    check(whole, "something was overwritten")?;
    // Else the compiler sees that nobody needs it.
    let large = black_box(vec![0u8; 3 << 20]);
    check(large.iter().all(|&byte| byte == 0), "not zeroed")?;
    let during = memory::free_pages();
    drop(large);
    check(memory::free_pages() == during + (3 << 20) / 4096, "a large piece did not come back")?;
    check(during < before, "the heap is not made of pages")
}

/// Turns an error of a space into the reason of a step.
fn refused(error: MapError) -> &'static str {
    println!("memory: {error}");
    "an address space refused"
}

/// Two address spaces show their own pages at the same address, share after a fork, and leave nothing behind.
fn spaces(_: &BootContext) -> Step {
    const AT: u64 = 0x5555_5555_5000;
    let before = memory::free_pages();
    let mut first = Space::new().map_err(refused)?;
    let mapped = first.lazily(|space| {
        (0..1000u64).try_for_each(|n| space.map(AT + n * 4096, Page::new()?, Access::READ_WRITE))
    });
    mapped.map_err(refused)?.map_err(refused)?;
    for n in 0..1000u64 {
        first.write(AT + n * 4096, &n.to_ne_bytes()).map_err(refused)?;
    }
    first.activate();
    check(seen(AT + 999 * 4096) == 999, "the address space shows something else")?;
    let mut second = first.fork().map_err(refused)?;
    first.write(AT, &1000u64.to_ne_bytes()).map_err(refused)?;
    check(seen(AT) == 1000, "the copy is not there")?;
    second.activate();
    check(seen(AT) == 0 && seen(AT + 4096) == 1, "the child does not see what the parent saw")?;
    drop(first);
    second.write(AT + 4096, &7u64.to_ne_bytes()).map_err(refused)?;
    check(seen(AT + 4096) == 7, "the last owner's write is lost")?;
    second.protect(AT + 4096, Access::READ).map_err(refused)?;
    second.unmap_range(AT..AT + 600 * 4096).map_err(refused)?;
    check(second.lookup(AT).is_none() && second.lookup(AT + 600 * 4096).is_some(), "the wrong pages went")?;
    check(seen(AT + 999 * 4096) == 999, "a page was lost")?;
    drop(second);
    check(memory::free_pages() == before, "spaces leak memory")
}

/// The word at an address of the current space's user half.
fn seen(at: u64) -> u64 {
    let word = core::ptr::with_exposed_provenance::<core::sync::atomic::AtomicU64>(at as usize);
    // SAFETY: the step mapped a page of words there, in the space that is active.
    unsafe { &*word }.load(Relaxed)
}

fn table<L: TableLevel>() -> Result<Frame<Table<L>>, &'static str> {
    Frame::new().map_err(no_memory)?.into_table().map_err(|_| "a frame cannot become a table")
}

/// The hypervisor agrees with what the types say of a frame.
fn frame_states(_: &BootContext) -> Step {
    let before = memory::free_pages();
    let window = Window::new(1).map_err(no_memory)?;
    let page = Page::new().map_err(no_memory)?;
    let mut level1 = table::<L1>()?;
    level1.set(7, Entry::page(page.clone(), Access::READ_WRITE)).map_err(|_| "an entry was refused")?;
    let frame = level1.mfn();
    let mut level2 = table::<L2>()?;
    level2.set(0, Entry::table(level1)).map_err(|_| "a table was refused")?;
    let mut level3 = table::<L3>()?;
    level3.set(0, Entry::table(level2)).map_err(|_| "a table was refused")?;
    let mut root = table::<L4>()?;
    root.set(0, Entry::table(level3)).map_err(|_| "a table was refused")?;
    let mut root = root.pin().map_err(|_| "a sound root was not pinned")?;
    // SAFETY: it must be refused; where it is not, nothing is written through it.
    let result = unsafe { update_va_mapping(window.address(0), Pte::data(frame), Flush::All) };
    // With ring 0 of its own, the kernel is trusted with its tables.
    check(result.is_err() || platform::kind() != Kind::Pv, "a pinned table was mapped for writing")?;
    root.set(0, Entry::empty()).map_err(|_| "a table was not let go")?;
    check(!page.is_shared(), "a page kept its share")?;
    let plain = root.unpin().map_err(|_| "not unpinned")?.into_plain().map_err(|_| "not memory again")?;
    drop((plain, page, window));
    // A window's tables stay.
    check(before - memory::free_pages() <= 3, "frames leak")
}

/// Memory goes to the hypervisor and comes back, and the accounts of both agree.
fn ballooning(boot: &BootContext) -> Step {
    const PAGES: usize = 1500;
    let (before, present) = (memory::free_pages(), balloon::present());
    let reserved = memory::current_pages().map_err(|_| "no reservation")?;
    let gone = balloon::shrink(PAGES);
    if platform::kind() != Kind::Pv {
        return check(gone == 0 && memory::free_pages() == before, "memory went nowhere");
    }
    check(gone == PAGES && balloon::away() >= PAGES, "not all pages went")?;
    check(memory::free_pages() == before - PAGES, "the allocator still has them")?;
    check(memory::current_pages() == Ok(reserved - PAGES as u64), "the hypervisor counts something else")?;
    let holes = (0..boot.pages()).filter(|&frame| boot.p2m().mfn(mmu::Pfn(frame)).is_none()).count();
    check(holes == balloon::away(), "the p2m knows nothing of it")?;
    check(balloon::set_target(present) == present, "not all pages came back")?;
    check(memory::free_pages() == before, "what came back is not free")?;
    check(memory::current_pages() == Ok(reserved), "the hypervisor counts something else")?;
    // All of it is memory again, at its place.
    let mut all = Vec::new();
    while let Ok(mut run) = Pages::new(256) {
        check(boot.p2m().mfn(run.pfn(0)) == Some(run.mfn(0)), "another machine frame than the p2m's")?;
        run.as_mut().fill(0x77);
        all.push(run);
        if boot.has_option("untouched") && all.len() > 20 {
            break;
        }
    }
    Ok(())
}

/// The page tables by the traits of the crate `x86_64`.
fn mapper(_: &BootContext) -> Step {
    let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE | PageTableFlags::NO_EXECUTE;
    // SAFETY: nothing else changes tables, and what is unmapped below is this step's.
    let mut tables = unsafe { Tables::kernel() };
    let mut own = Pages::new(1).map_err(no_memory)?;
    own.as_mut()[..8].copy_from_slice(&77u64.to_ne_bytes());
    let frame = PhysFrame::containing_address(PhysAddr::new(own.pfn(0).0 << 12));
    let page = Place::<Size4KiB>::containing_address(VirtAddr::new(0xffff_a000_1234_5000));
    // SAFETY: the address is nobody's, and the frame is only read through it.
    unsafe { tables.map_to(page, frame, flags, &mut memory::Frames) }.map_err(|_| "not mapped")?.ignore();
    let word = core::ptr::with_exposed_provenance::<core::sync::atomic::AtomicU64>(
        page.start_address().as_u64() as usize,
    );
    // SAFETY: just mapped.
    check(unsafe { &*word }.load(Relaxed) == 77, "the page shows something else")?;
    let inside = page.start_address() + 0x123;
    check(tables.translate_addr(inside) == Some(frame.start_address() + 0x123), "translated wrongly")?;
    check(tables.translate_addr(VirtAddr::new(own.address())).is_some(), "the direct map is not translated")?;
    // SAFETY: the page stays readable.
    unsafe { tables.update_flags(page, PageTableFlags::PRESENT) }.map_err(|_| "not read-only")?.ignore();
    let root = PhysFrame::containing_address(PhysAddr::new(0));
    // SAFETY: it must be refused as the page is mapped already.
    let again = unsafe { tables.map_to(page, root, flags, &mut memory::Frames) };
    check(again.is_err(), "a page was mapped twice")?;
    let (unmapped, flush) = tables.unmap(page).map_err(|_| "not unmapped")?;
    flush.ignore();
    check(unmapped == frame && tables.translate_addr(inside).is_none(), "still mapped")
}
