//! Memory maps, and where the machine-to-physical table is.

use super::{Who, read};
use crate::domain::Domain;
use crate::guest_ptr::GuestPtr;
use crate::hypercall::Cx;
use crate::ids::{Mfn, PAGE_SHIFT};
use crate::page::pte;
use crate::platform::{GuestFrame, Platform};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use xen_abi::arch_x86::{MACH2PHYS_NR_ENTRIES, MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START};
use xen_abi::errno::Errno;
use xen_abi::memory::*;

/// Most entries of a memory map that a toolstack may set for a domain.
const MAX_ENTRIES: u32 = 1024;

/// The memory map that was set for the caller; a domain for which none was set is told so by `ENOSYS`.
pub(super) fn memory_map<P: Platform>(cx: Cx<'_, P>, arg: u64) -> Result<i64, Errno> {
    let mut request: XenMemoryMap = read(cx, arg)?;
    let mut map = Vec::new();
    {
        let set = cx.domain.pages.memory_map.lock();
        map.try_reserve_exact(set.len()).map_err(|_| Errno::ENOMEM)?;
        map.extend_from_slice(&set);
    }
    if map.is_empty() {
        return Err(Errno::ENOSYS);
    }
    let count = map.len().min(request.nr_entries as usize);
    GuestPtr::from(request.buffer).write_slice(cx.hv, &map[..count])?;
    request.nr_entries = count as u32;
    GuestPtr::new(arg).write(cx.hv, &request)?;
    Ok(0)
}

/// Sets a domain's memory map.
pub(super) fn set_memory_map<P: Platform>(cx: Cx<'_, P>, arg: u64) -> Result<i64, Errno> {
    let request: XenForeignMemoryMap = read(cx, arg)?;
    if request.map.nr_entries > MAX_ENTRIES {
        return Err(Errno::EINVAL);
    }
    let who = Who::find(cx, request.domid)?;
    who.controlled_by(cx)?;
    let mut map = Vec::new();
    map.try_reserve_exact(request.map.nr_entries as usize).map_err(|_| Errno::ENOMEM)?;
    map.resize(request.map.nr_entries as usize, E820Entry::default());
    GuestPtr::from(request.map.buffer).read_slice(cx.hv, &mut map)?;
    *who.pages.memory_map.lock() = map;
    Ok(0)
}

/// The machine's memory map, for the privileged domain: the firmware's, and where that says nothing, frames that the domain
/// may not map are reserved. As in Xen, entries are copied out one by one, up to the one for which there is no room, and there is
/// always to be room for one more than there are.
pub(super) fn machine_memory_map<P: Platform>(cx: Cx<'_, P>, arg: u64) -> Result<i64, Errno> {
    if !cx.domain.privileged {
        return Err(Errno::EPERM);
    }
    let mut request: XenMemoryMap = read(cx, arg)?;
    let buffer: GuestPtr<E820Entry> = request.buffer.into();
    let store = !buffer.is_null();
    let room = request.nr_entries as usize;
    let mut ranges_left = cx.hv.machine.memory_map.len();
    if store && room < ranges_left + 1 {
        return Err(Errno::EINVAL);
    }
    if store && !buffer.is_plausible() {
        return Err(Errno::EFAULT);
    }
    let map = machine_map(cx);
    for (index, (entry, is_hole)) in map.iter().enumerate().filter(|_| store) {
        // Room for a hole and one more entry, or for all that the firmware lists from here on and one more.
        let needed = if *is_hole { 1 } else { ranges_left };
        if room <= index + needed {
            return Err(Errno::EINVAL);
        }
        buffer.write_at(cx.hv, index as u64, entry)?;
        ranges_left -= usize::from(!is_hole);
    }
    request.nr_entries = map.len() as u32;
    GuestPtr::new(arg).write(cx.hv, &request)?;
    Ok(0)
}

/// The entries, each with whether it is a hole in what the firmware lists.
fn machine_map<P: Platform>(cx: Cx<'_, P>) -> Vec<(E820Entry, bool)> {
    let permissions = cx.domain.permissions.read();
    let mut map = Vec::new();
    // First frame that no entry has covered yet.
    let mut next = 0;
    let fill = |map: &mut Vec<(E820Entry, bool)>, from: u64, to: u64| {
        let mut at = from;
        for (first, last) in permissions.iomem.iter().filter(|r| r.1 >= from && r.0 < to) {
            if first > at {
                map.push((reserved(at, first), true));
            }
            at = last.saturating_add(1);
        }
        if at < to && to != u64::MAX {
            map.push((reserved(at, to), true));
        }
    };
    for range in &cx.hv.machine.memory_map {
        let start = range.start >> PAGE_SHIFT;
        if start > next {
            fill(&mut map, next, start);
        }
        map.push((E820Entry { addr: range.start, size: range.size, type_: range.kind }, false));
        next = next.max((range.start.saturating_add(range.size).saturating_add(0xfff)) >> PAGE_SHIFT);
    }
    if next != 0 {
        fill(&mut map, next, u64::MAX);
    }
    map
}

fn reserved(from: u64, to: u64) -> E820Entry {
    E820Entry { addr: from << PAGE_SHIFT, size: (to - from) << PAGE_SHIFT, type_: E820_RESERVED }
}

/// Where guests find the machine-to-physical table.
pub(super) fn m2p_mapping<P: Platform>(cx: Cx<'_, P>, arg: u64) -> Result<i64, Errno> {
    let frames = cx.hv.platform.frame_table().len() as u64;
    let entries = if cx.domain.privileged { frames } else { MACH2PHYS_NR_ENTRIES };
    let mapping = XenMachphysMapping {
        v_start: MACH2PHYS_VIRT_START,
        v_end: MACH2PHYS_VIRT_END,
        max_mfn: entries.saturating_sub(1),
    };
    GuestPtr::new(arg).write(cx.hv, &mapping)?;
    Ok(0)
}

/// The frames of the machine-to-physical table, one for each 2 MiB of it; where there is none, the one before.
pub(super) fn m2p_frames<P: Platform>(cx: Cx<'_, P>, arg: u64) -> Result<i64, Errno> {
    const ENTRIES_PER_EXTENT: u64 = (2 << 20) / 8;
    let mut request: XenMachphysMfnList = read(cx, arg)?;
    let list: GuestPtr<u64> = request.extent_start.into();
    let extents = (cx.hv.platform.frame_table().len() as u64).div_ceil(ENTRIES_PER_EXTENT);
    let count = u64::from(request.max_extents).min(extents);
    let mut last = 0;
    for i in 0..count {
        last = m2p_extent(cx, i).unwrap_or(last);
        list.write_at(cx.hv, i, &last)?;
    }
    // No more than `max_extents`, which has 32 bits.
    request.nr_extents = count as u32;
    GuestPtr::new(arg).write(cx.hv, &request)?;
    Ok(0)
}

/// The frame behind 2 MiB number `i` of the table, found through the hypervisor's own tables.
fn m2p_extent<P: Platform>(cx: Cx<'_, P>, i: u64) -> Option<u64> {
    let platform = &cx.hv.platform;
    let follow = |entry: u64, index: u64| {
        let mfn = pte::frame_of(entry);
        let known = entry & pte::PRESENT != 0 && cx.hv.frame(mfn).is_some_and(|info| !info.is_io());
        // The tables of the M2P, which is shown to guests.
        known.then(|| platform.words(GuestFrame::held(mfn))[(index & 511) as usize].load(Relaxed))
    };
    let l3 = follow(platform.hypervisor_l4_slots()[0], i >> 9)?;
    if l3 & pte::PSE != 0 {
        return Some(pte::frame_of(l3).0 + ((i & 511) << 9));
    }
    let l2 = follow(l3, i)?;
    (l2 & pte::PRESENT != 0).then(|| pte::frame_of(l2).0)
}

/// No device has memory reserved.
pub(super) fn reserved_device_memory<P: Platform>(cx: Cx<'_, P>, arg: u64) -> Result<i64, Errno> {
    let mut request: XenReservedDeviceMemoryMap = read(cx, arg)?;
    if !GuestPtr::from(request.buffer).is_plausible() {
        return Err(Errno::EFAULT);
    }
    if request.flags & !XENMEM_RDM_ALL != 0 {
        return Err(Errno::EINVAL);
    }
    request.nr_entries = 0;
    GuestPtr::new(arg).write(cx.hv, &request)?;
    Ok(0)
}

/// The highest pfn that the domain published in its `shared_info` (`arch.max_pfn`), less one.
pub(super) fn maximum_pfn<P: Platform>(cx: Cx<'_, P>, domain: &Domain<P>) -> i64 {
    let offset = core::mem::offset_of!(xen_abi::xen::SharedInfo, arch)
        + core::mem::offset_of!(xen_abi::arch_x86::ArchSharedInfo, max_pfn);
    let words = cx.hv.platform.frame_words(Mfn(domain.shared_info.0));
    words[offset / 8].load(Relaxed).wrapping_sub(1).cast_signed()
}
