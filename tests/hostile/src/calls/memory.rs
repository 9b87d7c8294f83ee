//! Typed generators for page tables, descriptors, and the domain's reservation of memory.

use xen_abi::hypercall::nr;
use xen_abi::memory::*;
use xen_abi::xen::*;

use super::argument::{Cx, DEADLY};
use super::ops::Call;
use super::pool::{self, PAGES, place};

/// Structures of one call, at most.
const MOST: usize = 6;

/// The machine address of a page-table entry: that of a page of the pool, one in a page that may be a table, or any.
pub fn entry_address(cx: &mut Cx) -> u64 {
    match cx.below(12) {
        0..5 => place().entries[cx.below(PAGES)],
        5 => place().user_tables[0].address() + 8 * (16 + cx.below(pool::USER_PAGES) as u64),
        6 => place().user_tables[cx.below(4)].address() + 8 * cx.below(512) as u64,
        7 if cx.rarely(20) => place().root.address() + 8 * cx.below(512) as u64,
        8 => cx.number(),
        _ => {
            let slot = if cx.rarely(2) { cx.below(8) } else { cx.below(512) };
            (cx.frame() << 12) + 8 * slot as u64
        }
    }
}

/// `mmu_update`.
pub fn mmu_update(cx: &mut Cx) -> Call {
    let mut requests = [MmuUpdate::default(); MOST];
    for request in &mut requests {
        let kind = cx.pick(&[0, 0, 0, 0, 0, 2, 2, 3, 1, 4]);
        let ptr = if kind == 1 { cx.frame() << 12 } else { entry_address(cx) & !7 };
        let val = if kind == 1 { cx.gfn() } else { cx.entry() };
        *request = MmuUpdate { ptr: ptr | kind, val };
    }
    let count = cx.count();
    let at = cx.put(&requests[..count.clamp(1, MOST as u64) as usize]);
    let done = if cx.rarely(2) { 0 } else { cx.address() };
    Call::new(nr::MMU_UPDATE, &[at, count, done, cx.foreign()])
}

/// `mmuext_op`.
pub fn mmuext(cx: &mut Cx) -> Call {
    let mut operations = [MmuextOp::default(); MOST];
    for operation in &mut operations {
        let cmd = cx.pick(&[
            0, 0, 1, 1, 2, 3, 3, 4, 4, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 15, 16, 17, 18, 19, 20,
        ]);
        let (arg1, arg2) = match cmd {
            // A root without the kernel's half is the end of this life.
            MMUEXT_NEW_BASEPTR => {
                let page = cx.page();
                (if cx.rarely(DEADLY / 32) { pool::frame(page) } else { place().root.0 }, 0)
            }
            MMUEXT_INVLPG_LOCAL | MMUEXT_INVLPG_ALL => (cx.virt(), 0),
            MMUEXT_TLB_FLUSH_MULTI | MMUEXT_INVLPG_MULTI => {
                let mask = if cx.rarely(4) { cx.number() } else { cx.below(16) as u64 };
                (cx.virt(), cx.put(&mask))
            }
            MMUEXT_SET_LDT => (cx.virt(), cx.pick(&[0, 1, 8, 512, 513, 8192, 8193, 1 << 31])),
            MMUEXT_COPY_PAGE => (cx.frame(), cx.frame()),
            MMUEXT_FLUSH_CACHE | MMUEXT_FLUSH_CACHE_GLOBAL if !cx.rarely(8) => (0, 0),
            _ => (cx.frame(), cx.number()),
        };
        *operation = MmuextOp { cmd, arg1, arg2, ..MmuextOp::default() };
    }
    let count = cx.count();
    let at = cx.put(&operations[..count.clamp(1, MOST as u64) as usize]);
    let done = if cx.rarely(2) { 0 } else { cx.address() };
    Call::new(nr::MMUEXT_OP, &[at, count, done, cx.foreign()])
}

/// `update_va_mapping`, also with a frame of another domain.
pub fn va_mapping(cx: &mut Cx) -> Call {
    let flags = match cx.below(8) {
        0 => cx.number(),
        // A bitmap of vCPUs.
        1 => cx.address() & !7 | cx.below(3) as u64,
        _ => cx.pick(&[0, 0, 1, 2, 4, 5, 6, 7]),
    };
    let (at, entry) = (cx.virt(), cx.entry());
    if cx.rarely(8) {
        let domain = u64::from(cx.domid());
        return Call::new(nr::UPDATE_VA_MAPPING_OTHERDOMAIN, &[at, entry, flags, domain]);
    }
    Call::new(nr::UPDATE_VA_MAPPING, &[at, entry, flags])
}

/// GDT, LDT and single descriptors.
pub fn descriptors(cx: &mut Cx) -> Call {
    match cx.below(4) {
        0 => {
            let entries = cx.pick(&[0, 1, 512, 513, 1024, 7168, 7169, 8192, 1 << 31, 1 << 32]);
            let frames = cx.list(16, Cx::frame);
            Call::new(nr::SET_GDT, &[frames, entries])
        }
        1 => {
            let page = cx.page();
            let operation = MmuextOp {
                cmd: MMUEXT_SET_LDT,
                arg1: pool::address(page),
                arg2: cx.pick(&[0, 16, 512, 1024, 8192]),
                ..MmuextOp::default()
            };
            let at = cx.put(&operation);
            Call::new(nr::MMUEXT_OP, &[at, 1, 0, u64::from(DOMID_SELF)])
        }
        _ => {
            let descriptor = match cx.below(8) {
                0 => 0,
                1 => cx.random.any(),
                2 => 0x00cf_fa00_0000_ffff,
                3 => 0x00cf_f200_0000_ffff,
                4 => 0x00af_9b00_0000_ffff,
                5 => 0x0000_8900_0000_0067 | (cx.random.any() & 0xff00_0000_ffff_0000),
                6 => 0x0000_ec00_e033_0000 | (cx.random.any() & 0xffff_0000_0000_ffff),
                _ => 0x00cf_fb00_0000_ffff ^ 1 << cx.below(64),
            };
            Call::new(nr::UPDATE_DESCRIPTOR, &[cx.frame() << 12 | cx.offset(), descriptor])
        }
    }
}

/// A reservation of a few extents.
pub fn reservation(cx: &mut Cx) -> XenMemoryReservation {
    let count = cx.count();
    let extents = cx.list(count, Cx::gfn);
    XenMemoryReservation {
        extent_start: if cx.rarely(40) { 0.into() } else { extents.into() },
        nr_extents: count,
        extent_order: cx.pick(&[0, 0, 0, 0, 0, 0, 1, 2, 9, 10, 18, 31, 32, 63, 64, 1 << 31]),
        mem_flags: match cx.below(8) {
            0 => cx.number() as u32,
            1 => cx.below(64) as u32,
            _ => 0,
        },
        domid: cx.domid(),
        ..XenMemoryReservation::default()
    }
}

/// `memory_op`.
pub fn memory_op(cx: &mut Cx) -> Call {
    let command = cx.pick(&[
        0, 1, 1, 6, 6, 11, 11, 2, 3, 4, 5, 7, 9, 10, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25,
        26, 27, 28, 29,
    ]);
    let arg = match command {
        XENMEM_INCREASE_RESERVATION | XENMEM_DECREASE_RESERVATION | XENMEM_POPULATE_PHYSMAP => {
            let arg = reservation(cx);
            cx.put(&arg)
        }
        XENMEM_EXCHANGE => {
            let (mut in_, mut out) = (reservation(cx), reservation(cx));
            if !cx.rarely(4) {
                let order = cx.pick(&[0, 0, 0, 1, 2, 9]);
                (in_.extent_order, out.extent_order) = (order, cx.pick(&[order, 0]));
                in_.domid = DOMID_SELF;
                out.domid = in_.domid;
                out.nr_extents = in_.nr_extents.wrapping_shl(order).wrapping_shr(out.extent_order);
            }
            let nr_exchanged = if cx.rarely(16) { cx.number() } else { 0 };
            cx.put(&XenMemoryExchange { in_, out, nr_exchanged })
        }
        XENMEM_CURRENT_RESERVATION | XENMEM_MAXIMUM_RESERVATION | XENMEM_MAXIMUM_GPFN => {
            let arg = XenMemoryDomain { domid: cx.domid() };
            cx.put(&arg)
        }
        XENMEM_ADD_TO_PHYSMAP => {
            let arg = XenAddToPhysmap {
                domid: cx.domid(),
                size: cx.count() as u16,
                space: cx.below(7) as u32,
                idx: cx.number(),
                gpfn: cx.gfn(),
            };
            cx.put(&arg)
        }
        XENMEM_ADD_TO_PHYSMAP_BATCH => {
            let lists = [cx.list(4, Cx::number), cx.list(4, Cx::gfn), cx.address()];
            let arg = XenAddToPhysmapBatch {
                domid: cx.domid(),
                space: cx.below(7) as u16,
                size: cx.count() as u16,
                u: cx.domid(),
                idxs: lists[0].into(),
                gpfns: lists[1].into(),
                errs: lists[2].into(),
            };
            cx.put(&arg)
        }
        XENMEM_MACHPHYS_MFN_LIST => {
            let arg = XenMachphysMfnList {
                max_extents: cx.count() as u32,
                extent_start: cx.address().into(),
                ..Default::default()
            };
            cx.put(&arg)
        }
        XENMEM_MEMORY_MAP | XENMEM_MACHINE_MEMORY_MAP => {
            let nr_entries = cx.count() as u32;
            cx.made(|cx| XenMemoryMap { nr_entries, buffer: cx.address().into(), ..Default::default() })
        }
        // Its own map is lawful; what it says there has no effect on others.
        XENMEM_SET_MEMORY_MAP => {
            let map = XenMemoryMap {
                nr_entries: cx.count() as u32,
                buffer: cx.address().into(),
                ..Default::default()
            };
            let arg = XenForeignMemoryMap { domid: cx.domid(), map, ..Default::default() };
            cx.put(&arg)
        }
        XENMEM_ACQUIRE_RESOURCE => {
            let arg = XenMemAcquireResource {
                domid: cx.domid(),
                type_: cx.below(4) as u16,
                id: cx.below(3) as u32,
                nr_frames: cx.count() as u32,
                frame: cx.number(),
                frame_list: cx.address().into(),
                ..Default::default()
            };
            cx.put(&arg)
        }
        _ => {
            let mut words = [u64::from(cx.domid()), 0, 0, 0, 0, 0];
            for word in &mut words[1..] {
                *word = match cx.below(3) {
                    0 => cx.gfn(),
                    1 => cx.address(),
                    _ => cx.number(),
                };
            }
            cx.put(&words[..])
        }
    };
    // A continuation's number says how many extents were done before.
    let start = if cx.rarely(16) { cx.number() << MEMOP_EXTENT_SHIFT } else { 0 };
    Call::new(nr::MEMORY_OP, &[u64::from(command) | start, arg])
}
