//! The one table of this domain: its version, its size, and where it is mapped.
//!
//! It is set up by [`init`] or by the first grant, with one frame, and doubles when it is full, up to what the hypervisor
//! allows. Only growing takes a lock.

use xen_abi::GuestHandle;
use xen_abi::grant_table as abi;
use xen_abi::hypercall::nr;
use xen_abi::memory::XENMEM_MAXIMUM_RAM_PAGE;
use xen_abi::xen::DOMID_SELF;

use super::table::{MAX_FRAMES, MAX_STATUS_FRAMES, Table};
use super::{Error, Version, operate};
use crate::events;
use crate::hypercall::{Errno, check, raw};
use crate::memory::Window;
use crate::mmu::{Flush, Mfn, Pte, update_va_mapping};

static TABLE: spin::Once<Table> = spin::Once::new();
/// Frames that are mapped. Held while growing.
static FRAMES: spin::Mutex<usize> = spin::Mutex::new(0);

/// Sets the table up with the layout `wanted`, or with the smallest that can hold every frame of the machine. The first
/// call does it; later ones, and grants before it, leave the version as it is.
///
/// # Errors
///
/// [`Error::Refused`] where the hypervisor has no such version, [`Error::OutOfMemory`] where there is no place to map
/// the table at.
#[doc(alias("GNTTABOP_set_version", "GNTTABOP_setup_table"))]
pub fn init(wanted: Option<Version>) -> Result<(), Error> {
    // An upcall that came meanwhile and granted something would wait for this CPU for ever.
    events::without_upcalls(|| {
        let table = TABLE.try_call_once(|| {
            let version = wanted.unwrap_or_else(smallest_version);
            set_version(version)?;
            Ok::<_, Error>(Table::new(version))
        })?;
        let is_new = *FRAMES.lock() == 0;
        if is_new { grow(table) } else { Ok(()) }
    })
}

/// The table, set up.
#[inline]
pub(super) fn table() -> Result<&'static Table, Error> {
    TABLE.get().map_or_else(first, Ok)
}

#[cold]
fn first() -> Result<&'static Table, Error> {
    init(None)?;
    TABLE.get().ok_or(Error::NoRoom)
}

/// The layout in use; none before the table is set up.
#[must_use]
pub fn version() -> Option<Version> {
    TABLE.get().map(Table::version)
}

/// References that nobody has and the table has room for now.
#[must_use]
pub fn free_references() -> u32 {
    TABLE.get().map_or(0, Table::free_references)
}

/// Frames that the table has, and that it may have.
///
/// # Errors
///
/// [`Error::Refused`].
#[doc(alias = "GNTTABOP_query_size")]
pub fn capacity() -> Result<(u32, u32), Error> {
    let mut query = [abi::GnttabQuerySize { dom: DOMID_SELF, ..abi::GnttabQuerySize::default() }];
    // SAFETY: asks for numbers and changes nothing.
    unsafe { operate(abi::GNTTABOP_QUERY_SIZE, &mut query) }?;
    Error::of_status(query[0].status)?;
    Ok((query[0].nr_frames, query[0].max_nr_frames))
}

/// Version 1, unless the machine has frames that it cannot name.
fn smallest_version() -> Version {
    // SAFETY: asks for a number.
    let last = check(unsafe { raw::call2(nr::MEMORY_OP, u64::from(XENMEM_MAXIMUM_RAM_PAGE), 0) });
    match last {
        Ok(frame) if frame > u64::from(u32::MAX) => Version::Two,
        _ => Version::One,
    }
}

fn set_version(version: Version) -> Result<(), Error> {
    let number = if version == Version::One { 1 } else { 2 };
    let mut set = [abi::GnttabSetVersion { version: number }];
    // SAFETY: no entry is in use, so none is translated; the table is not mapped yet.
    match unsafe { operate(abi::GNTTABOP_SET_VERSION, &mut set) } {
        // A hypervisor that knows only the first version need not know the call.
        Err(Errno::ENOSYS) if version == Version::One => Ok(()),
        result => Ok(result?),
    }
}

/// Maps further frames of the table: as many as there are, up to the limit.
#[cold]
pub(super) fn grow(table: &Table) -> Result<(), Error> {
    // An upcall that interrupted it and had to grow, too, would wait for this CPU for ever.
    events::without_upcalls(|| grow_from(table, &mut FRAMES.lock()))
}

fn grow_from(table: &Table, frames: &mut usize) -> Result<(), Error> {
    if table.has_free() {
        // Another CPU was first.
        return Ok(());
    }
    let limit = (capacity()?.1 as usize).min(MAX_FRAMES);
    let wanted = (*frames * 2).clamp(1, limit.max(1));
    if wanted <= *frames {
        return Err(Error::NoRoom);
    }
    let mut list = [0; MAX_FRAMES];
    table_frames(&mut list[..wanted])?;
    let (old, new) = (table.status_frames(*frames), table.status_frames(wanted));
    if new > old {
        let mut status = [0; MAX_STATUS_FRAMES];
        status_frames(&mut status[..new])?;
        let window = map(&status[old..new])?;
        for index in old..new {
            // SAFETY: mapped just now, for good: the window is forgotten below.
            unsafe { table.add_status(index, pointer(&window, index - old).cast()) };
        }
        core::mem::forget(window);
    }
    let window = map(&list[*frames..wanted])?;
    for index in *frames..wanted {
        // SAFETY: as above; each index once, because `frames` says which are there, and new entries are empty.
        unsafe { table.add_frame(index, pointer(&window, index - *frames).cast()) };
    }
    core::mem::forget(window);
    *frames = wanted;
    Ok(())
}

fn pointer(window: &Window, index: usize) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(window.address(index) as usize)
}

fn table_frames(list: &mut [u64]) -> Result<(), Error> {
    let mut setup = [abi::GnttabSetupTable {
        dom: DOMID_SELF,
        // At most `MAX_FRAMES`.
        nr_frames: list.len() as u32,
        frame_list: GuestHandle::from(list.as_mut_ptr() as u64),
        ..abi::GnttabSetupTable::default()
    }];
    // SAFETY: the hypervisor writes as many frame numbers as the exclusively borrowed list has.
    unsafe { operate(abi::GNTTABOP_SETUP_TABLE, &mut setup) }?;
    Error::of_status(setup[0].status)
}

fn status_frames(list: &mut [u64]) -> Result<(), Error> {
    let mut get = [abi::GnttabGetStatusFrames {
        dom: DOMID_SELF,
        // At most `MAX_STATUS_FRAMES`.
        nr_frames: list.len() as u32,
        frame_list: GuestHandle::from(list.as_mut_ptr() as u64),
        ..abi::GnttabGetStatusFrames::default()
    }];
    // SAFETY: as for `table_frames`.
    unsafe { operate(abi::GNTTABOP_GET_STATUS_FRAMES, &mut get) }?;
    Error::of_status(get[0].status)
}

/// Maps frames of the hypervisor at fresh addresses.
fn map(frames: &[u64]) -> Result<Window, Error> {
    let window = Window::new(frames.len())?;
    for (index, &frame) in frames.iter().enumerate() {
        // SAFETY: nothing is mapped at the window's addresses, and nobody else uses them.
        unsafe { update_va_mapping(window.address(index), Pte::data(Mfn(frame)), Flush::None) }?;
    }
    Ok(window)
}

/// Takes the table out of the page tables, and answers what was in it. It must not be used until [`attach`].
///
/// # Safety
///
/// No other CPU runs, and upcalls are masked, from here to `attach`.
#[cfg(all(target_os = "none", feature = "alloc"))]
pub(crate) unsafe fn detach() -> Result<alloc::vec::Vec<(u64, u64)>, Errno> {
    let Some(table) = TABLE.get() else { return Ok(alloc::vec::Vec::new()) };
    let contents = table.contents();
    let (entries, status) = table.places();
    for at in entries.chain(status) {
        // SAFETY: only the table's functions look there, and nobody calls them now.
        unsafe { update_va_mapping(at, Pte::EMPTY, Flush::Local) }?;
    }
    Ok(contents)
}

/// Maps the table again: the old one, or that of a new domain, whose free entries come from `contents`.
///
/// # Safety
///
/// After [`detach`], with what that answered.
#[cfg(all(target_os = "none", feature = "alloc"))]
pub(crate) unsafe fn attach(contents: &[(u64, u64)], is_new: bool) -> Result<(), Error> {
    let Some(table) = TABLE.get() else { return Ok(()) };
    if is_new {
        set_version(table.version())?;
    }
    let (entries, status) = table.places();
    let mut list = [0; MAX_FRAMES];
    let count = table.places().0.count();
    table_frames(&mut list[..count])?;
    for (at, &frame) in entries.zip(&list) {
        // SAFETY: the place is the table's, with nothing mapped.
        unsafe { update_va_mapping(at, Pte::data(Mfn(frame)), Flush::Local) }?;
    }
    let mut list = [0; MAX_STATUS_FRAMES];
    let count = table.places().1.count();
    if count > 0 {
        status_frames(&mut list[..count])?;
    }
    for (at, &frame) in status.zip(&list) {
        // SAFETY: as above.
        unsafe { update_va_mapping(at, Pte::data(Mfn(frame)), Flush::Local) }?;
    }
    if is_new {
        table.refill(contents);
    }
    Ok(())
}
