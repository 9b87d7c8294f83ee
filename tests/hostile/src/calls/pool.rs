//! The attacker's pages: what its arguments are made of.
//!
//! Each page of the pool has a fixed address of its own in the kernel's half, mapped by one level-1 entry whose machine
//! address is known, so that it can be changed by every hypercall that changes entries. What stands in that entry, which
//! machine frame belongs to the page, and whether that frame is a table, a descriptor page or ordinary memory changes all the
//! time and from all vCPUs; nothing here keeps track of it. [`frame`] is what was last heard of it.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use guest_pv_lib::memory::Pages;
use guest_pv_lib::mmu::{Level, Mfn, Pfn, Pte, index, m2p};
use guest_pv_lib::{BootContext, Errno};
use xen_abi::hypercall::nr;
use xen_abi::xen::{DOMID_SELF, MMUEXT_PIN_L4_TABLE, MmuextOp};

use super::edge::{VCPUS, call, is_error, peek};

/// Pages that any argument may name.
pub const PAGES: usize = 96;
/// Pages behind them that only the games with translations use, two for each vCPU: what happens to those is known.
pub const GAMES: usize = 2 * VCPUS;
/// The page behind those, at whose address the own grant table is shown.
pub const WINDOW: usize = PAGES + GAMES;
/// All of them.
const ALL: usize = WINDOW + 1;
/// The first pages, which user mode sees as well, at [`USER_DATA`].
pub const USER_PAGES: usize = 32;
/// Where user mode sees the code page of vCPU n: n pages further.
pub const USER_CODE: u64 = 0x0040_0000;
/// Where user mode sees the first pages of the pool.
pub const USER_DATA: u64 = 0x0040_0000 + 16 * 4096;

/// What is known once the pool is there.
#[derive(Debug)]
pub struct Place {
    /// Address of page 0.
    pub base: u64,
    /// Machine address of the level-1 entry of each page.
    pub entries: [u64; ALL],
    /// The root table that the kernel runs on, and that of user mode.
    pub root: Mfn,
    /// See [`root`](Self::root).
    pub user_root: Mfn,
    /// The four user tables, lowest level first.
    pub user_tables: [Mfn; 4],
    /// Address of vCPU n's page of code, in the kernel's half.
    pub code: [u64; VCPUS],
    /// Its level-4 slots that are the kernel's, with their entries.
    pub kernel_slots: [(usize, u64); 8],
    /// One more than the highest machine frame of RAM.
    pub end: u64,
    /// Machine frame of the shared page.
    pub shared: Mfn,
    /// The console's event channel.
    pub console: u32,
    /// A few frames of the image: code, data, page tables.
    pub image: [Mfn; 8],
}

/// A bit for each machine frame of this domain that is not of the pool.
static PROGRAM: [AtomicU64; 4096] = [const { AtomicU64::new(0) }; 4096];
static FRAMES: [AtomicU64; ALL] = [const { AtomicU64::new(0) }; ALL];
static PLACE: spin::Once<Place> = spin::Once::new();

/// Where everything is.
pub fn place() -> &'static Place {
    PLACE.get().expect("made before the attack")
}

/// The machine frame that page `index` last had.
pub fn frame(index: usize) -> u64 {
    FRAMES[index].load(Relaxed)
}

/// Notes the machine frame of a page.
pub fn set_frame(index: usize, frame: u64) {
    FRAMES[index].store(frame, Relaxed);
}

/// Whether a frame was this domain's, and none of the pool's, when its life began.
pub fn is_program(frame: u64) -> bool {
    PROGRAM.get(frame as usize / 64).is_some_and(|bits| bits.load(Relaxed) >> (frame % 64) & 1 != 0)
}

/// The address of a page.
pub fn address(index: usize) -> u64 {
    place().base + 4096 * index as u64
}

/// `update_va_mapping` of a page of the pool; whether it was done.
pub fn map(index: usize, entry: u64, flags: u64) -> bool {
    !is_error(call(nr::UPDATE_VA_MAPPING, [address(index), entry, flags, 0, 0, 0]))
}

/// The machine address of the entry of `level` that translates `virt`, read from the tables where the direct map shows them.
fn entry_of(direct: u64, root: Mfn, virt: u64, level: Level) -> Option<(u64, u64)> {
    let mut table = root;
    for at in [Level::L4, Level::L3, Level::L2, Level::L1] {
        let slot = index(virt, at) as u64;
        let entry = peek(direct + m2p(table)?.0 * 4096 + 8 * slot);
        if at == level {
            return Some((table.address() + 8 * slot, entry));
        }
        table = Pte(entry).frame()?;
    }
    None
}

/// Makes the pool, the pages of code and the user tables.
pub fn make(boot: &BootContext) -> Result<(), Errno> {
    let pages = Pages::new(ALL).map_err(|_| Errno::ENOMEM)?;
    let base = pages.address();
    let direct = base - pages.pfn(0).0 * 4096;
    let root = boot.root_table();
    let mut entries = [0; ALL];
    for (at, slot) in entries.iter_mut().enumerate() {
        set_frame(at, pages.mfn(at).0);
        *slot = entry_of(direct, root, base + 4096 * at as u64, Level::L1).ok_or(Errno::EFAULT)?.0;
    }
    let code_pages = Pages::new(VCPUS).map_err(|_| Errno::ENOMEM)?;
    let code = core::array::from_fn(|at| code_pages.address() + 4096 * at as u64);
    for (at, address) in code.into_iter().enumerate() {
        let entry = Pte::new(code_pages.mfn(at), Pte::PRESENT | Pte::WRITABLE).0;
        errno(call(nr::UPDATE_VA_MAPPING, [address, entry, 2, 0, 0, 0]))?;
    }
    let user_tables = user_tables(&pages, &code_pages)?;
    let mut kernel_slots = [(0, 0); 8];
    let own =
        (272..512).map(|slot| (slot, peek(direct + boot.page_tables().start.0 * 4096 + 8 * slot as u64)));
    for (kept, slot) in kernel_slots.iter_mut().zip(own.filter(|(_, entry)| entry & 1 != 0)) {
        *kept = slot;
    }
    let image_frame = |at: u64| boot.p2m().mfn(Pfn(at));
    let used = boot.used().end.0;
    let tables = boot.page_tables().start.0;
    let image = [0, 1, used / 4, used / 2, used - 1, tables, tables + 1, tables + 2];
    let image = image.map(|at| image_frame(at).unwrap_or(root));
    let end = call(nr::MEMORY_OP, [2, 0, 0, 0, 0, 0]).max(1).cast_unsigned() + 1;
    PLACE.call_once(|| Place {
        base,
        entries,
        root,
        user_root: user_tables[3],
        user_tables,
        code,
        kernel_slots,
        end,
        console: boot.console_ring().map_or(0, |(_, port)| port.0),
        shared: Mfn(boot.start_info().shared_info >> 12),
        image,
    });
    for mfn in (0..boot.p2m().len() as u64).filter_map(|at| boot.p2m().mfn(Pfn(at))) {
        if (0..ALL).any(|at| frame(at) == mfn.0) {
            continue;
        }
        if let Some(bits) = PROGRAM.get(mfn.0 as usize / 64) {
            bits.fetch_or(1 << (mfn.0 % 64), Relaxed);
        }
    }
    // They are the attack's from now on.
    let _ = pages.leak();
    let _ = code_pages.leak();
    Ok(())
}

/// Tables for user mode with the code pages and some of the pool, pinned. Answers them, the lowest level first.
fn user_tables(pages: &Pages, code: &Pages) -> Result<[Mfn; 4], Errno> {
    let mut tables = Pages::new(4).map_err(|_| Errno::ENOMEM)?;
    let frames: [Mfn; 4] = core::array::from_fn(|at| tables.mfn(at));
    let address = tables.address();
    {
        let bytes = tables.as_mut();
        let mut put = |table: usize, slot: usize, entry: u64| {
            bytes[4096 * table + 8 * slot..][..8].copy_from_slice(&entry.to_le_bytes());
        };
        for vcpu in 0..VCPUS {
            let entry = Pte::new(code.mfn(vcpu), Pte::PRESENT | Pte::WRITABLE | Pte::USER).0;
            put(0, index(USER_CODE, Level::L1) + vcpu, entry);
        }
        for at in 0..USER_PAGES {
            put(0, index(USER_DATA, Level::L1) + at, Pte::data(pages.mfn(at)).0 | Pte::USER);
        }
        put(1, index(USER_CODE, Level::L2), Pte::table(frames[0]).0);
        put(2, index(USER_CODE, Level::L3), Pte::table(frames[1]).0);
        put(3, index(USER_CODE, Level::L4), Pte::table(frames[2]).0);
    }
    for (at, frame) in frames.iter().enumerate() {
        let place = address + 4096 * at as u64;
        errno(call(nr::UPDATE_VA_MAPPING, [place, Pte::read_only(*frame).0, 2, 0, 0, 0]))?;
    }
    let _ = tables.leak();
    let pin = MmuextOp { cmd: MMUEXT_PIN_L4_TABLE, arg1: frames[3].0, ..MmuextOp::default() };
    errno(call(nr::MMUEXT_OP, [&raw const pin as u64, 1, 0, u64::from(DOMID_SELF), 0, 0]))?;
    Ok(frames)
}

fn errno(result: i64) -> Result<(), Errno> {
    guest_pv_lib::hypercall::check(result).map(drop)
}
