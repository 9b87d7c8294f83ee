//! The flaws behind Xen's published advisories on `memory_op` and on copies to and from guests, one case each: what a
//! hypervisor with the flaw does wrong.
//!
//! Not to be seen by a guest of one vCPU, and so not here: XSA-125, 264 and 380 (time that an operation takes), 287 and 384 (races
//! with another CPU), 217 (a stale translation of a page that goes to another domain), 109, 114, 222, 246, 247, 388 and 389
//! (domains with a physmap of their own), 100 and 239 (bytes left over in memory that has no fixed place).

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::{Mfn, Pte, m2p};
use xen_abi::GuestHandle;
use xen_abi::hypercall::nr;
use xen_abi::memory::*;
use xen_abi::version::*;
use xen_abi::xen::*;

use crate::call::{HYPERVISOR, NON_CANONICAL, Ret, UNMAPPED, hc2, mmu, mmuext, op};
use crate::harness::{Env, Outcome, check, need, same};
use crate::memory::{change, current, exchange, nothing_left, reservation, trade};

/// Gives page 0 away for a frame whose number is to be written to `at`, of a list that is said to begin so much earlier
/// that `done` extents lie before it. Nothing may be written there.
fn exchange_to(env: &Env, at: u64, done: u64) -> Outcome {
    let page = env.page(0);
    need("unmap", page.map(Pte::EMPTY))?;
    let mut old = [page.mfn().0];
    let mut arg = trade((&mut old, 0), (&mut [0], 0));
    arg.in_.extent_start = GuestHandle::from((old.as_ptr() as u64).wrapping_sub(done * 8));
    arg.out.extent_start = GuestHandle::from(at.wrapping_sub(done * 8));
    (arg.in_.nr_extents, arg.out.nr_extents, arg.nr_exchanged) = (done + 1, done + 1, done);
    same("exchange", exchange(&mut arg), Err(Errno::EFAULT))?;
    same("the frame is still the domain's", page.writable(), Ok(()))
}

case! {
    /// XSA-29: the list of the new frames of an exchange was not checked, and written to wherever it was.
    fn xsa_029_exchange_into_the_hypervisor(env) {
        exchange_to(env, HYPERVISOR, 0)
    }
}

case! {
    /// XSA-212: the list's beginning was checked, not the place behind what is done already: with a large number of
    /// extents done that place was the hypervisor's.
    fn xsa_212_exchange_behind_what_is_done(env) {
        exchange_to(env, HYPERVISOR, (HYPERVISOR - 0x1_0000_0000) / 8)
    }
}

case! {
    /// XSA-212, the other way round: a number of extents that wraps the address around the end.
    fn xsa_212_exchange_wraps(env) {
        exchange_to(env, HYPERVISOR, (1 << 60) + 512)
    }
}

case! {
    /// XSA-31: orders of extents were not checked: 2^order overflowed, or took forever.
    fn xsa_031_extent_orders(env) {
        let before = current()?;
        for order in [21, 31, 32, 52, 63, 64, 255, u32::MAX] {
            for command in [XENMEM_INCREASE_RESERVATION, XENMEM_DECREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP] {
                same("nothing is done", change(command, &mut [env.page(0).mfn().0], order, 0), Ok(0))?;
            }
            let (mut old, mut new) = ([env.page(0).mfn().0], [env.page(0).pfn().0]);
            same("exchange", exchange(&mut trade((&mut old, order), (&mut new, order))), Err(Errno::EPERM))?;
        }
        same("as many pages as before", current()?, before)
    }
}

case! {
    /// XSA-32: frame numbers were used as indices before they were checked.
    fn xsa_032_frame_numbers(env) {
        let page = env.page(0);
        for frame in [1 << 40, 1 << 52, (1 << 52) + page.mfn().0, u64::MAX >> 12, 1 << 63, u64::MAX] {
            for cmd in [MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE, MMUEXT_CLEAR_PAGE,
                MMUEXT_COPY_PAGE, MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR] {
                same("mmuext_op", mmuext(cmd, frame, page.mfn().0), Err(Errno::EINVAL))?;
            }
            same("copy from it", mmuext(MMUEXT_COPY_PAGE, page.mfn().0, frame), Err(Errno::EINVAL))?;
            let frames = [frame];
            same("set_gdt", hc2(nr::SET_GDT, frames.as_ptr() as u64, 1), Err(Errno::EINVAL))?;
            let (mut old, mut new) = ([frame], [page.pfn().0]);
            same("exchange", exchange(&mut trade((&mut old, 0), (&mut new, 0))), Err(Errno::EINVAL))?;
        }
        for address in [1 << 52, 1 << 62, !0xfff] {
            same("mmu_update", mmu(address, 0), Err(Errno::EINVAL))?;
            same("update_descriptor", hc2(nr::UPDATE_DESCRIPTOR, address, 0), Err(Errno::EINVAL))?;
        }
        Ok(())
    }
}

case! {
    /// XSA-113: a reference was left over for each M2P entry that was set.
    fn xsa_113_m2p_references(env) {
        let page = env.page(0);
        for _ in 0..3 {
            same("update", mmu(page.mfn().address() | MMU_MACHPHYS_UPDATE, page.pfn().0), Ok(0))?;
        }
        nothing_left(page)
    }
}

case! {
    /// XSA-122: strings of the version were given with bytes of the hypervisor's stack behind their end.
    fn xsa_122_version_strings(env) {
        for (command, size) in [(XENVER_EXTRAVERSION, 16), (XENVER_CHANGESET, 64), (XENVER_CAPABILITIES, 1024)] {
            let page = env.page(0);
            for word in 0..512 {
                page.set(word, u64::MAX);
            }
            same("version", hc2(nr::XEN_VERSION, command.into(), page.virt()), Ok(0))?;
            let byte = |at: usize| page.get(at / 8).to_le_bytes()[at % 8];
            let end = (0..size).find(|at| byte(*at) == 0);
            check("the text ends", end.is_some())?;
            check("nothing behind its end", (end.unwrap_or(0)..size).all(|at| byte(at) == 0))?;
            check("nothing behind the field", (size..4096).all(|at| byte(at) == 0xff))?;
        }
        Ok(())
    }
}

case! {
    /// XSA-159: an exchange that failed half way lost the frames that it had taken by then.
    fn xsa_159_failed_exchange_gives_back(env) {
        let pages = [0, 1, 2, 3].map(|at| env.page(at));
        let before = current()?;
        for page in &pages[..3] {
            need("unmap", page.map(Pte::EMPTY))?;
        }
        // The last one is mapped.
        let (mut old, mut new) = (pages.map(|page| page.mfn().0), [pages[0].pfn().0]);
        same("exchange", exchange(&mut trade((&mut old, 0), (&mut new, 2))), Err(Errno::EINVAL))?;
        same("as many pages as before", current()?, before)?;
        for page in &pages[..3] {
            same("mapped", page.writable(), Ok(()))?;
            nothing_left(*page)?;
        }
        Ok(())
    }
}

case! {
    /// XSA-214 and 217: pages changed hands while they were tables, descriptors or mapped somewhere. By an exchange, too, only
    /// a page of no use at all goes.
    fn xsa_214_exchange_of_pages_in_use(env) {
        let page = env.page(0);
        let give = || {
            let (mut old, mut new) = ([page.mfn().0], [page.pfn().0]);
            exchange(&mut trade((&mut old, 0), (&mut new, 0)))
        };
        same("mapped for writing", give(), Err(Errno::EINVAL))?;
        need("read-only", page.read_only())?;
        same("mapped for reading", give(), Err(Errno::EINVAL))?;
        need("another mapping", env.page(1).map(Pte::read_only(page.mfn())))?;
        let frame = page.mfn().0;
        need("set_gdt", hc2(nr::SET_GDT, &raw const frame as u64, 1))?;
        need("unmap", page.map(Pte::EMPTY))?;
        need("unmap", env.page(1).writable())?;
        let descriptors = give();
        need("no GDT", hc2(nr::SET_GDT, 0, 0))?;
        same("descriptors", descriptors, Err(Errno::EINVAL))?;
        need("pin", mmuext(MMUEXT_PIN_L4_TABLE, frame, 0))?;
        let table = give();
        need("unpin", mmuext(MMUEXT_UNPIN_TABLE, frame, 0))?;
        same("a table", table, Err(Errno::EINVAL))?;
        nothing_left(page)
    }
}

case! {
    /// XSA-231: node numbers from the guest were used as indices.
    fn xsa_231_node_numbers(env) {
        let page = env.page(0);
        need("unmap", page.map(Pte::EMPTY))?;
        for node in [64, 100, 0xfd] {
            let flags = xenmemf_node(node) | XENMEMF_EXACT_NODE_REQUEST;
            same("increase", change(XENMEM_INCREASE_RESERVATION, &mut [0], 0, flags), Ok(0))?;
            same("populate", change(XENMEM_POPULATE_PHYSMAP, &mut [0x7_0000], 0, flags), Ok(0))?;
            let (mut old, mut new) = ([page.mfn().0], [page.pfn().0]);
            let mut arg = trade((&mut old, 0), (&mut new, 0));
            arg.out.mem_flags = flags;
            same("exchange", exchange(&mut arg), Err(Errno::EINVAL))?;
        }
        Ok(())
    }
}

case! {
    /// XSA-385: the limit of a domain's pages was checked in fewer bits than the amount that was asked for has.
    fn xsa_385_amounts_beyond_the_limit(env) {
        let before = current()?;
        let mut list = [0u64; 2];
        let mut arg = reservation(&mut list, 18);
        // 2^14 extents of 2^18 pages are 2^32 pages.
        for nr_extents in [1 << 14, (1 << 14) + 1, 0x3ff_ffff] {
            arg.nr_extents = nr_extents;
            arg.extent_start = GuestHandle::from(0);
            same("increase", op(nr::MEMORY_OP, XENMEM_INCREASE_RESERVATION, &mut arg), Ok(0))?;
        }
        let _ = env;
        same("as many pages as before", current()?, before)
    }
}

case! {
    /// XSA-334: acquiring a resource returned with a lock held where it failed: the next one never came back.
    fn xsa_334_failed_resources(env) {
        let _ = env;
        let acquire = |domid: u16, frame: u64| -> Ret {
            let mut arg = XenMemAcquireResource {
                domid,
                type_: XENMEM_RESOURCE_GRANT_TABLE,
                nr_frames: 1,
                frame,
                frame_list: GuestHandle::from(NON_CANONICAL),
                ..XenMemAcquireResource::default()
            };
            op(nr::MEMORY_OP, XENMEM_ACQUIRE_RESOURCE, &mut arg)
        };
        for _ in 0..4 {
            check("an error", acquire(0, 0).is_err() && acquire(1, 1 << 40).is_err() && acquire(0x7000, 9).is_err())?;
        }
        Ok(())
    }
}

case! {
    /// Results go where the guest says, if it may write there: not to its tables, not to what it maps read-only.
    fn results_in_read_only_pages(env) {
        let page = env.page(0);
        need("read-only", page.read_only())?;
        for (command, to) in [(XENMEM_MACHPHYS_MAPPING, page.virt()), (XENMEM_MACHPHYS_MAPPING, UNMAPPED)] {
            same("memory_op", hc2(nr::MEMORY_OP, command.into(), to), Err(Errno::EFAULT))?;
        }
        same("nothing written", page.get(0), 0)?;
        same("nor to its M2P entry", m2p(page.mfn()), Some(page.pfn()))?;
        let own: Mfn = page.mfn();
        same("still mapped", page.map(Pte::data(own)), Ok(()))
    }
}
