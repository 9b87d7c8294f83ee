//! Mapping grants and undoing it, version 1 tables; the granter is the domain itself.

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Level, Pte, entry_address};
use xen_abi::grant_table::*;
use xen_abi::xen::{DOMID_IO, DOMID_SELF, MMUEXT_INVLPG_LOCAL, MMUEXT_PIN_L1_TABLE, MMUEXT_UNPIN_TABLE};

use super::grant::*;
use crate::call::{HYPERVISOR, NO_DOMAIN, NON_CANONICAL, UNMAPPED, grant, mmuext};
use crate::harness::fault::{page_fault, write};
use crate::harness::pool::Page;
use crate::harness::{Env, Outcome, Verdict, check, fault, need, same};

const READ: u16 = GTF_READING;
const WRITE: u16 = GTF_READING | GTF_WRITING;
const HOST: u32 = GNTMAP_HOST_MAP;
const DEVICE: u32 = GNTMAP_DEVICE_MAP;
const READONLY: u32 = GNTMAP_READONLY;

/// The table, a page that is granted as `REF`, and a place without a mapping.
pub(super) struct Setup<'a> {
    pub table: Page<'a>,
    pub data: Page<'a>,
    pub place: Page<'a>,
    env: &'a Env,
}

impl Setup<'_> {
    /// Machine address of the entry that maps the place.
    pub fn place_entry(&self) -> Result<u64, Verdict> {
        match entry_address(&self.env.boot, self.env.boot.root_table(), self.place.virt(), Level::L1) {
            Some((address, _)) => Ok(address),
            None => Err(Verdict::Error("the place has no entry")),
        }
    }

    /// Whether nothing but ordinary mappings refer to the granted page: it can become a page table.
    pub fn is_released(&self) -> Outcome {
        need("clear", self.data.writable())?;
        self.data.set(0, 0);
        same("read-only", self.data.read_only(), Ok(()))?;
        same("pin", mmuext(MMUEXT_PIN_L1_TABLE, self.data.mfn().0, 0), Ok(0))?;
        same("unpin", mmuext(MMUEXT_UNPIN_TABLE, self.data.mfn().0, 0), Ok(0))?;
        need("writable", self.data.writable())
    }
}

/// Runs `body` with page 0 granted, and takes the grant back.
pub(super) fn with_grant(env: &Env, flags: u16, body: impl FnOnce(&Setup) -> Outcome) -> Outcome {
    let setup = Setup { table: table(env)?, data: env.page(0), place: env.page(1), env };
    setup.data.set(3, 33);
    need("empty", setup.place.map(Pte::EMPTY))?;
    grant_self(setup.table, setup.data.mfn(), flags);
    let outcome = body(&setup);
    let left = in_use(setup.table, REF);
    setup.table.set(REF as usize, 0);
    outcome?;
    same("in use after the case", left, 0)
}

case! {
    /// A mapping that is neither for the host nor for devices asks for nothing.
    fn map_nothing(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            same("no flags", map(REF, setup.place.virt(), 0).0, GNTST_BAD_GNTREF)?;
            same("read-only", map(REF, setup.place.virt(), READONLY).0, GNTST_BAD_GNTREF)
        })
    }
}

case! {
    /// A reference beyond the table.
    fn map_beyond(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            for reference in [512, 1 << 20, u32::MAX] {
                same("status", map(reference, setup.place.virt(), HOST).0, GNTST_BAD_GNTREF)?;
            }
            Ok(())
        })
    }
}

case! {
    /// The granter is named by its number: `DOMID_SELF` and pseudo domains are none.
    fn map_of_special_domain(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            for dom in [DOMID_SELF, DOMID_IO, NO_DOMAIN] {
                let mut arg = [GnttabMapGrantRef {
                    host_addr: setup.place.virt(), flags: HOST, ref_: REF, dom, ..GnttabMapGrantRef::default()
                }];
                need("map_grant_ref", grant(GNTTABOP_MAP_GRANT_REF, &mut arg))?;
                same("status", arg[0].status, GNTST_BAD_DOMAIN)?;
            }
            Ok(())
        })
    }
}

case! {
    /// Entries of every kind but "permit access" for this domain are refused.
    fn map_unfit_entries(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let frame = setup.data.mfn().0 << 32;
            let foreign = frame | 5 << 16 | u64::from(GTF_PERMIT_ACCESS);
            for entry in [
                0, frame, frame | u64::from(GTF_ACCEPT_TRANSFER), frame | u64::from(GTF_TRANSITIVE), foreign,
            ] {
                setup.table.set(REF as usize, entry);
                same("status", map(REF, setup.place.virt(), HOST).0, GNTST_GENERAL_ERROR)?;
                same("the entry", setup.table.get(REF as usize), entry)?;
            }
            setup.table.set(REF as usize, 0);
            Ok(())
        })
    }
}

case! {
    /// A frame that does not exist, or that is not the granter's, cannot be mapped.
    fn map_bad_frames(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            for frame in [u64::from(u32::MAX), 0xfee00] {
                setup.table.set(REF as usize, frame << 32 | u64::from(GTF_PERMIT_ACCESS));
                let (status, ..) = map(REF, setup.place.virt(), HOST);
                check("refused", status < 0)?;
                same("not in use", in_use(setup.table, REF), 0)?;
            }
            Ok(())
        })
    }
}

case! {
    /// A page table may be granted and mapped for reading, not for writing.
    fn map_page_table(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            setup.data.set(3, 0);
            need("read-only", setup.data.read_only())?;
            need("pin", mmuext(MMUEXT_PIN_L1_TABLE, setup.data.mfn().0, 0))?;
            let writing = map(REF, setup.place.virt(), HOST).0;
            let device = map(REF, 0, DEVICE).0;
            let reading = map(REF, setup.place.virt(), HOST | READONLY);
            let undone = unmap(reading.1, setup.place.virt(), 0);
            need("unpin", mmuext(MMUEXT_UNPIN_TABLE, setup.data.mfn().0, 0))?;
            same("writing", writing, GNTST_GENERAL_ERROR)?;
            same("device", device, GNTST_GENERAL_ERROR)?;
            same("reading", (reading.0, undone), (GNTST_OKAY, GNTST_OKAY))
        })
    }
}

case! {
    /// A read-only grant can be mapped for reading only; such a mapping cannot be written through.
    fn readonly(env) {
        with_grant(env, GTF_PERMIT_ACCESS | GTF_READONLY, |setup| {
            same("for writing", map(REF, setup.place.virt(), HOST).0, GNTST_GENERAL_ERROR)?;
            same("device, for writing", map(REF, 0, DEVICE).0, GNTST_GENERAL_ERROR)?;
            let handle = mapped(REF, setup.place.virt(), HOST | READONLY)?;
            same("in use", in_use(setup.table, REF), READ)?;
            same("seen", setup.place.get(3), 33)?;
            let fault = write(setup.place.virt(), 1);
            same("unmap", unmap(handle, setup.place.virt(), 0), GNTST_OKAY)?;
            same("a write", fault,
                Err(fault::Fault::page(page_fault::PRESENT | page_fault::WRITE, setup.place.virt())))
        })
    }
}

case! {
    /// A mapping for devices has no address in the address space; the bus address is the frame's, and names it in the
    /// undoing.
    fn device(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let (status, handle, bus) = map(REF, NON_CANONICAL, DEVICE);
            same("map", (status, bus), (GNTST_OKAY, setup.data.mfn().address()))?;
            same("in use", in_use(setup.table, REF), WRITE)?;
            same("another address", unmap(handle, 0, bus + 4096), GNTST_BAD_DEV_ADDR)?;
            same("still in use", in_use(setup.table, REF), WRITE)?;
            same("unmap", unmap(handle, 0, bus), GNTST_OKAY)?;
            same("in use", in_use(setup.table, REF), 0)?;
            same("once", unmap(handle, 0, bus), GNTST_BAD_HANDLE)
        })
    }
}

case! {
    /// The two halves of a mapping are undone together or one by one; the handle lives until both are.
    fn two_halves(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let at = setup.place.virt();
            let (status, handle, bus) = map(REF, at, HOST | DEVICE);
            same("map", status, GNTST_OKAY)?;
            same("host", unmap(handle, at, 0), GNTST_OKAY)?;
            same("in use", in_use(setup.table, REF), WRITE)?;
            check("no longer mapped", fault::read(at).is_err())?;
            same("device", unmap(handle, 0, bus), GNTST_OKAY)?;
            same("in use", in_use(setup.table, REF), 0)?;
            same("gone", unmap(handle, at, bus), GNTST_BAD_HANDLE)?;
            let (status, handle, bus) = map(REF, at, HOST | DEVICE);
            same("map", status, GNTST_OKAY)?;
            same("together", unmap(handle, at, bus), GNTST_OKAY)?;
            same("gone", unmap(handle, at, bus), GNTST_BAD_HANDLE)?;
            setup.is_released()
        })
    }
}

case! {
    /// Undoing nothing of a mapping succeeds and leaves it.
    fn unmap_nothing(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let handle = mapped(REF, setup.place.virt(), HOST)?;
            same("nothing", unmap(handle, 0, 0), GNTST_OKAY)?;
            same("in use", in_use(setup.table, REF), WRITE)?;
            same("seen", setup.place.get(3), 33)?;
            same("a bus address of no device mapping", unmap(handle, 0, 4096), GNTST_OKAY)?;
            same("unmap", unmap(handle, setup.place.virt(), 0), GNTST_OKAY)
        })
    }
}

case! {
    /// Places without a page-table entry cannot be mapped to, and nothing stays in use.
    fn bad_places(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            for at in [UNMAPPED, HYPERVISOR, NON_CANONICAL, 0] {
                same("status", map(REF, at, HOST).0, GNTST_GENERAL_ERROR)?;
                same("in use", in_use(setup.table, REF), 0)?;
            }
            setup.is_released()
        })
    }
}

case! {
    /// An address within a page counts as the page.
    fn unaligned_place(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let (status, handle, _) = map(REF, setup.place.virt() + 24, HOST);
            same("map", status, GNTST_OKAY)?;
            let seen = setup.place.get(3);
            same("unmap", unmap(handle, setup.place.virt() + 40, 0), GNTST_OKAY)?;
            same("seen", seen, 33)
        })
    }
}

case! {
    /// A mapping replaces what is mapped at its place, and undoing it leaves nothing there.
    fn replaces(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            need("writable", setup.place.writable())?;
            setup.place.set(3, 44);
            let handle = mapped(REF, setup.place.virt(), HOST)?;
            // What was there before is the caller's to flush.
            need("flush", mmuext(MMUEXT_INVLPG_LOCAL, setup.place.virt(), 0))?;
            let seen = setup.place.get(3);
            same("unmap", unmap(handle, setup.place.virt(), 0), GNTST_OKAY)?;
            same("seen", seen, 33)?;
            check("nothing there", fault::read(setup.place.virt()).is_err())?;
            need("writable", setup.place.writable())?;
            same("the page that was there", setup.place.get(3), 44)
        })
    }
}

case! {
    /// With `GNTMAP_contains_pte` the place is the machine address of a level-1 entry.
    fn by_entry(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let entry = setup.place_entry()?;
            let handle = mapped(REF, entry, HOST | GNTMAP_CONTAINS_PTE)?;
            let seen = setup.place.get(3);
            same("by the address", unmap(handle, setup.place.virt(), 0), GNTST_GENERAL_ERROR)?;
            same("by the entry", unmap(handle, entry, 0), GNTST_OKAY)?;
            same("seen", seen, 33)?;
            check("nothing there", fault::read(setup.place.virt()).is_err())
        })
    }
}

case! {
    /// The address space must be the mapping's own: a mapping is not undone at another place.
    fn unmap_elsewhere(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let handle = mapped(REF, setup.place.virt(), HOST)?;
            for at in [env.page(2).virt(), setup.table.virt(), UNMAPPED, HYPERVISOR, NON_CANONICAL] {
                same("status", unmap(handle, at, 0), GNTST_GENERAL_ERROR)?;
            }
            same("still in use", in_use(setup.table, REF), WRITE)?;
            same("unmap", unmap(handle, setup.place.virt(), 0), GNTST_OKAY)?;
            setup.is_released()
        })
    }
}

case! {
    /// Bits 31 to 16 of the flags appear in the entry's available bits; without `GNTMAP_application_map` the entry is the
    /// kernel's.
    fn entry_bits(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let at = setup.place.virt();
            let look = || match entry_address(&env.boot, env.boot.root_table(), at, Level::L1) {
                Some((_, entry)) => Ok(entry.0),
                None => Err(Verdict::Error("no entry")),
            };
            for (flags, available) in [(0, 0), (0b101 << 16, 0b101), (0b111 << 16, 0b111), (0xffff << 16, 0b111)] {
                let handle = mapped(REF, at, HOST | flags)?;
                let entry = look();
                same("unmap", unmap(handle, at, 0), GNTST_OKAY)?;
                let entry = entry?;
                same("frame", entry >> 12 & 0xff_ffff_ffff, setup.data.mfn().0)?;
                same("available bits", entry >> 9 & 7, available)?;
                same("present and writable", entry & 3, 3)?;
            }
            Ok(())
        })
    }
}

case! {
    /// Undoing with a replacement moves the entry of another address to the mapping's place.
    fn unmap_and_replace(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let other = env.page(2);
            other.set(3, 55);
            let handle = mapped(REF, setup.place.virt(), HOST)?;
            let replace = |handle, new_addr| {
                let mut arg = [GnttabUnmapAndReplace {
                    host_addr: setup.place.virt(), new_addr, handle, ..GnttabUnmapAndReplace::default()
                }];
                grant(GNTTABOP_UNMAP_AND_REPLACE, &mut arg).map(|_| arg[0].status)
            };
            same("with what has no entry", replace(handle, UNMAPPED), Ok(GNTST_GENERAL_ERROR))?;
            same("still mapped", setup.place.get(3), 33)?;
            same("replace", replace(handle, other.virt()), Ok(GNTST_OKAY))?;
            same("moved", setup.place.get(3), 55)?;
            check("from there", fault::read(other.virt()).is_err())?;
            same("once", replace(handle, other.virt()), Ok(GNTST_BAD_HANDLE))?;
            need("empty", setup.place.map(Pte::EMPTY))?;
            let handle = mapped(REF, setup.place.virt(), HOST)?;
            same("with nothing", replace(handle, 0), Ok(GNTST_OKAY))?;
            check("nothing there", fault::read(setup.place.virt()).is_err())
        })
    }
}

case! {
    /// A replacement has no meaning for a mapping that is named by its entry.
    fn replace_by_entry(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let entry = setup.place_entry()?;
            let handle = mapped(REF, entry, HOST | GNTMAP_CONTAINS_PTE)?;
            let mut arg = [GnttabUnmapAndReplace {
                host_addr: entry, new_addr: env.page(2).virt(), handle, ..GnttabUnmapAndReplace::default()
            }];
            let answer = grant(GNTTABOP_UNMAP_AND_REPLACE, &mut arg).map(|_| arg[0].status);
            same("unmap", unmap(handle, entry, 0), GNTST_OKAY)?;
            same("replace", answer, Ok(GNTST_GENERAL_ERROR))
        })
    }
}

case! {
    /// A batch is served to its end: each operation has its own status, those after a failure too.
    fn batch(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let one = |ref_| GnttabMapGrantRef { flags: DEVICE | READONLY, ref_, status: 99, ..GnttabMapGrantRef::default() };
            let mut maps = [one(REF), one(7000), one(REF), one(REF + 1), one(REF)];
            same("map", grant(GNTTABOP_MAP_GRANT_REF, &mut maps), Ok(0))?;
            let mut unmaps = maps.map(|map| GnttabUnmapGrantRef {
                dev_bus_addr: map.dev_bus_addr, handle: map.handle, status: 99, ..GnttabUnmapGrantRef::default()
            });
            unmaps[1].handle = u32::MAX;
            unmaps[3].handle = u32::MAX;
            same("unmap", grant(GNTTABOP_UNMAP_GRANT_REF, &mut unmaps), Ok(0))?;
            same("mapped", maps.map(|map| map.status),
                [GNTST_OKAY, GNTST_BAD_GNTREF, GNTST_OKAY, GNTST_GENERAL_ERROR, GNTST_OKAY])?;
            same("unmapped", unmaps.map(|map| map.status),
                [GNTST_OKAY, GNTST_BAD_HANDLE, GNTST_OKAY, GNTST_BAD_HANDLE, GNTST_OKAY])?;
            setup.is_released()
        })
    }
}

case! {
    /// What the entry says while it is in use changes nothing: the frame stays the one that was mapped first.
    fn entry_rewritten(env) {
        with_grant(env, GTF_PERMIT_ACCESS, |setup| {
            let (other, at) = (env.page(2), setup.place.virt());
            let first = mapped(REF, 0, DEVICE)?;
            // Claims another frame, keeping the flags.
            let flags = setup.table.get(REF as usize) & u64::from(u32::MAX);
            setup.table.set(REF as usize, other.mfn().0 << 32 | flags);
            let second = mapped(REF, at, HOST)?;
            let seen = setup.place.get(3);
            same("unmap", unmap(second, at, 0), GNTST_OKAY)?;
            same("unmap", unmap(first, 0, setup.data.mfn().address()), GNTST_OKAY)?;
            same("the first frame", seen, 33)
        })
    }
}

returns! {
    /// The obsolete command to print a table.
    dump_table(env): grant(GNTTABOP_DUMP_TABLE, &mut [GnttabDumpTable::default()]) => Err(Errno::ENOSYS);
    /// More operations than fit an `int`.
    negative_count(env): crate::call::hc3(
        xen_abi::hypercall::nr::GRANT_TABLE_OP, u64::from(GNTTABOP_MAP_GRANT_REF), env.page(0).virt(), 1 << 31
    ) => Err(Errno::EINVAL);
    /// An array that lies in no memory: nothing of it is done.
    map_fault(env): crate::call::all_fault(|at| crate::call::hc3(
        xen_abi::hypercall::nr::GRANT_TABLE_OP, u64::from(GNTTABOP_MAP_GRANT_REF), at, 1
    )) => crate::call::FAULTS;
    /// An array that lies in no memory: nothing of it is done.
    unmap_fault(env): crate::call::all_fault(|at| crate::call::hc3(
        xen_abi::hypercall::nr::GRANT_TABLE_OP, u64::from(GNTTABOP_UNMAP_GRANT_REF), at, 1
    )) => crate::call::FAULTS;
    /// An array that lies in no memory: nothing of it is done.
    copy_fault(env): crate::call::all_fault(|at| crate::call::hc3(
        xen_abi::hypercall::nr::GRANT_TABLE_OP, u64::from(GNTTABOP_COPY), at, 1
    )) => crate::call::FAULTS;
}
