//! `mmu_update`, and in files of their own `update_va_mapping` with `update_va_mapping_otherdomain`, and `mmuext_op`: changes of
//! page-table entries.
//!
//! These are the hypercalls that a PV kernel makes most, so requests are copied in by the handful, and a table stays
//! locked while consecutive requests change it.
//!
//! How many requests were done (`*pdone`) is told wherever Xen tells it, for Linux relies on that: whenever requests were looked
//! at, and, by `mmu_update`, where the owner of the pages is not known. It is not told where the owner of the tables is not
//! known, where the list of requests is none, and by `mmuext_op` where it may not name the domain.

mod mmuext;
mod va_mapping;

pub use mmuext::mmuext_op;
pub use va_mapping::{change_own_mapping, update_va_mapping, update_va_mapping_otherdomain};

use super::{Cx, Outcome, low32};
use crate::domain::Domain;
use crate::guest_ptr::GuestPtr;
use crate::ids::{DomId, Mfn};
use crate::page::{FrameInfo, PageError, PageType, Pages, UpdateError, Write, pte};
use crate::platform::{GuestFrame, Platform};
use crate::regs::Regs;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::{Relaxed, Release};
use xen_abi::errno::Errno;
use xen_abi::xen::{
    DOMID_IO, DOMID_SELF, DOMID_XEN, MMU_MACHPHYS_UPDATE, MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_NO_TRANSLATE,
    MMU_PT_UPDATE_PRESERVE_AD, MmuUpdate,
};

/// In the count of a continued `mmu_update` or `mmuext_op`: earlier parts are done, `*pdone` says how many. The bit is
/// the one that Xen uses, though no guest ever sets it itself.
const PREEMPTED: u32 = 1 << 31;

/// Requests copied in at a time.
const CHUNK: usize = 8;
/// After so many requests the table that they change is unlocked for a moment: other CPUs may wait for it, and
/// some of them do nothing else meanwhile. So it is after each that flushes TLBs, and as soon as a CPU that cannot stop wants it
/// or left its last reference.
const LONGEST_LOCK: u32 = 64;

/// Whose pages a hypercall is about.
enum Target<P: Platform> {
    /// The caller's.
    Own,
    /// Another domain's, which the caller controls.
    Other(Arc<Domain<P>>),
    /// Only what is not RAM.
    Io,
    /// The hypervisor's: none that could be mapped.
    Xen,
}

impl<P: Platform> Target<P> {
    /// Whom `id` names; whether that is the caller's business is another question.
    ///
    /// # Errors
    /// `ESRCH` when there is no such domain, or the caller names itself other than by `DOMID_SELF`.
    fn find(cx: Cx<'_, P>, id: u16) -> Result<Self, Errno> {
        match id {
            DOMID_SELF => Ok(Target::Own),
            DOMID_IO => Ok(Target::Io),
            DOMID_XEN => Ok(Target::Xen),
            _ if id == cx.domain.id.0 => Err(Errno::ESRCH),
            _ => cx.hv.domains.get(DomId(id)).map(Target::Other).ok_or(Errno::ESRCH),
        }
    }

    /// The domain whose tables `id` names: one more than its number, or 0 for the caller. Only domains have tables.
    ///
    /// # Errors
    /// `ESRCH` when there is no such domain.
    fn find_tables(cx: Cx<'_, P>, id: u16) -> Result<Self, Errno> {
        match id {
            0 => Ok(Target::Own),
            id if id - 1 == cx.domain.id.0 => Ok(Target::Own),
            id => cx.hv.domains.get(DomId(id - 1)).map(Target::Other).ok_or(Errno::ESRCH),
        }
    }

    /// Whether it is the caller, or the caller controls everything.
    fn is_controlled_by(&self, cx: Cx<'_, P>) -> bool {
        matches!(self, Target::Own) || cx.domain.privileged
    }

    /// The domain, if it is one.
    fn domain<'a>(&'a self, cx: Cx<'a, P>) -> Option<&'a Domain<P>> {
        match self {
            Target::Own => Some(cx.domain),
            Target::Other(other) => Some(other),
            Target::Io | Target::Xen => None,
        }
    }

    fn pages<'a>(&'a self, cx: Cx<'a, P>) -> Pages<'a, P> {
        self.domain(cx).map_or(Pages::Io, Pages::Of)
    }
}

/// Why a batch stopped.
enum Stop {
    /// A request was refused.
    Refused(Errno),
    /// This CPU has other work.
    Preempted,
}

impl From<PageError> for Stop {
    fn from(error: PageError) -> Self {
        match error {
            PageError::Restart => Stop::Preempted,
            error => Stop::Refused(error.errno()),
        }
    }
}

impl From<UpdateError> for Stop {
    fn from(error: UpdateError) -> Self {
        match error {
            UpdateError::Page(error) => error.into(),
            UpdateError::Differs(_) => Stop::Refused(Errno::EBUSY),
            // Another CPU changed the type of a table between two looks at it.
            UpdateError::Unchecked(..) => Stop::Preempted,
        }
    }
}

/// Arguments that `mmu_update` and `mmuext_op` share.
struct Batch {
    requests: u64,
    count: u32,
    done_before: u32,
    pdone: GuestPtr<u32>,
    foreign: u32,
}

impl Batch {
    /// Decodes the arguments, after giving up what earlier hypercalls left to give up. `Err` is the answer to give at once.
    #[inline(always)]
    fn begin<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6]) -> Result<Self, Outcome> {
        if cx.hv.work_off_doomed(cx.domain).is_err() {
            return Err(Outcome::Again(*args));
        }
        let (count, foreign) = (low32(args[1]), low32(args[3]));
        if count & PREEMPTED == 0 {
            if !GuestPtr::<u64>::new(args[0]).is_plausible() {
                return Err(Errno::EFAULT.into());
            }
            return Ok(Self {
                requests: args[0],
                count,
                done_before: 0,
                pdone: GuestPtr::new(args[2]),
                foreign,
            });
        }
        if count == PREEMPTED && args[0] == 0 {
            return Err(only_the_answer(cx, args));
        }
        if !GuestPtr::<u64>::new(args[0]).is_plausible() {
            return Err(Errno::EFAULT.into());
        }
        let pdone: GuestPtr<u32> = GuestPtr::new(args[2]);
        let done_before = if pdone.is_null() { 0 } else { pdone.read(cx.hv).unwrap_or(0) };
        Ok(Self { requests: args[0], count: count & !PREEMPTED, done_before, pdone, foreign })
    }

    fn foreign(&self) -> u32 {
        self.foreign
    }

    /// The answer after `done` requests of `size` bytes each, and why there were no more.
    #[inline(always)]
    fn end<P: Platform>(&self, cx: Cx<'_, P>, done: u32, size: u64, stop: Option<Stop>) -> Outcome {
        if !self.pdone.is_null() {
            // A guest that names no writable memory here does without the number.
            let _ = self.pdone.write(cx.hv, &self.done_before.wrapping_add(done));
        }
        let result = match stop {
            None => 0,
            Some(Stop::Refused(errno)) => errno.to_ret(),
            Some(Stop::Preempted) => {
                let next = self.requests.wrapping_add(u64::from(done) * size);
                let left = u64::from((self.count - done) | PREEMPTED);
                return Outcome::Again([next, left, self.pdone.address().0, u64::from(self.foreign), 0, 0]);
            }
        };
        if cx.hv.work_off_doomed(cx.domain).is_err() {
            return leftovers(None, result);
        }
        Outcome::Done(result)
    }

    /// As [`Batch::end`], where `others` are the domains besides the caller whose tables (first) and pages the requests were about.
    #[cold]
    #[inline(never)]
    fn end_foreign<P: Platform>(
        &self,
        cx: Cx<'_, P>,
        others: [Option<&Domain<P>>; 2],
        done: u32,
        size: u64,
        stop: Option<Stop>,
    ) -> Outcome {
        let others = others.map(|other| other.filter(|other| other.id != cx.domain.id));
        match self.end(cx, done, size, stop) {
            Outcome::Done(result) => match others[0] {
                Some(tables) if cx.hv.work_off_doomed(tables).is_err() => leftovers(Some(tables.id), result),
                _ => Outcome::Done(result),
            },
            again => {
                // What is in the way may be theirs, and they may be paused.
                for other in others.into_iter().flatten() {
                    let _ = cx.hv.work_off_doomed(other);
                }
                again
            }
        }
    }
}

/// The requests are done, and this is the answer; but tables of the caller's, or of another domain that it changed, are not given up
/// yet.
fn leftovers(tables: Option<DomId>, result: i64) -> Outcome {
    let result = u64::from((result as i32).cast_unsigned());
    let tables = tables.map_or(0, |id| u64::from(id.0) + 1);
    Outcome::Again([0, u64::from(PREEMPTED), tables, result, 0, 0])
}

/// All requests were done before; only the answer is left, and it travelled in the fourth argument. The third names the domain whose
/// tables were changed and may not all be given up yet.
#[cold]
#[inline(never)]
fn only_the_answer<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6]) -> Outcome {
    match owner_of_leftovers(cx, args[2]) {
        Some(tables) if cx.hv.work_off_doomed(&tables).is_err() => Outcome::Again(*args),
        _ => Outcome::Done(i64::from(low32(args[3]).cast_signed())),
    }
}

/// The domain that a continued hypercall names by its number plus 1, if it is one that the caller controls.
fn owner_of_leftovers<P: Platform>(cx: Cx<'_, P>, named: u64) -> Option<Arc<Domain<P>>> {
    let id = u16::try_from(named.checked_sub(1)?).ok()?;
    cx.hv.domains.get(DomId(id)).filter(|_| cx.domain.privileged)
}

/// `mmu_update(requests, count, pdone, foreigndom)`.
pub fn mmu_update<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let batch = match Batch::begin(cx, args) {
        Ok(batch) => batch,
        Err(answer) => return answer,
    };
    if batch.foreign == u32::from(DOMID_SELF) {
        return Updates::new(cx, cx.domain, Pages::Of(cx.domain)).run(&batch);
    }
    let (tables, pages) = ((batch.foreign >> 16) as u16, (batch.foreign & 0xffff) as u16);
    let tables = match Target::find_tables(cx, tables) {
        Ok(tables) => tables,
        Err(errno) => return errno.into(),
    };
    let pages = match Target::find(cx, pages) {
        Ok(pages) => pages,
        Err(errno) => return batch.end(cx, 0, REQUEST, Some(Stop::Refused(errno))),
    };
    // Device memory is asked for by everybody: its permissions decide.
    let pages_ok = match pages {
        Target::Io => true,
        Target::Xen => false,
        _ => pages.is_controlled_by(cx),
    };
    match tables.domain(cx) {
        Some(domain) if pages_ok && tables.is_controlled_by(cx) => {
            Updates::new(cx, domain, pages.pages(cx)).run(&batch)
        }
        _ => refuse(cx, &batch),
    }
}

/// Bytes of a request of `mmu_update`.
const REQUEST: u64 = size_of::<MmuUpdate>() as u64;

/// An `mmu_update` for which the caller has no right. Rights are asked for with the first request, so one without requests has
/// nothing to be refused for.
#[cold]
fn refuse<P: Platform>(cx: Cx<'_, P>, batch: &Batch) -> Outcome {
    let errno = match GuestPtr::<MmuUpdate>::new(batch.requests).read(cx.hv) {
        Err(_) => Errno::EFAULT,
        Ok(request) if request.ptr & 7 > MMU_PT_UPDATE_NO_TRANSLATE => Errno::ENOSYS,
        Ok(_) => Errno::EPERM,
    };
    batch.end(cx, 0, REQUEST, (batch.count != 0).then_some(Stop::Refused(errno)))
}

/// One `mmu_update`.
struct Updates<'a, P: Platform> {
    cx: Cx<'a, P>,
    /// Owner of the tables.
    tables: &'a Domain<P>,
    /// Owner of the pages.
    pages: Pages<'a, P>,
    /// The table that the last request changed: still locked.
    locked: Option<(Mfn, PageType, &'a FrameInfo)>,
    /// The time of the TLB clock when it was locked.
    locked_at: u64,
    /// Whether an entry above level 1 that translated something was changed: what the CPUs remember of it goes before the
    /// hypercall ends, so that the guest need not flush for the sake of a new table.
    stale: bool,
}

impl<'a, P: Platform> Updates<'a, P> {
    fn new(cx: Cx<'a, P>, tables: &'a Domain<P>, pages: Pages<'a, P>) -> Self {
        Self { cx, tables, pages, locked: None, locked_at: 0, stale: false }
    }

    fn run(mut self, batch: &Batch) -> Outcome {
        let (done, stop) = if batch.count == 1 {
            match GuestPtr::<MmuUpdate>::new(batch.requests).read(self.cx.hv) {
                Ok(request) => self.serve_chunk(core::slice::from_ref(&request), 0),
                Err(_) => (0, Some(Stop::Refused(Errno::EFAULT))),
            }
        } else {
            self.serve_all(batch)
        };
        self.unlock();
        if self.stale {
            self.cx.hv.flush_tlb_all(&self.tables.dirty_cpus.load());
        }
        if batch.foreign == u32::from(DOMID_SELF) {
            return batch.end(self.cx, done, REQUEST, stop);
        }
        let pages = match self.pages {
            Pages::Of(owner) => Some(owner),
            Pages::Io => None,
        };
        batch.end_foreign(self.cx, [Some(self.tables), pages], done, REQUEST, stop)
    }

    /// Serves requests until one stops it; answers how many were done.
    #[inline(never)]
    fn serve_all(&mut self, batch: &Batch) -> (u32, Option<Stop>) {
        let hv = self.cx.hv;
        let requests: GuestPtr<MmuUpdate> = GuestPtr::new(batch.requests);
        let mut chunk = [MmuUpdate::default(); CHUNK];
        let mut done = 0;
        while done < batch.count {
            if done.is_multiple_of(LONGEST_LOCK) {
                self.unlock();
            }
            let chunk = &mut chunk[..CHUNK.min((batch.count - done) as usize)];
            let copied = requests.at(u64::from(done)).and_then(|from| from.read_slice(hv, chunk));
            let chunk = match copied {
                Ok(()) => chunk,
                // The part before the hole is still good.
                Err(_) if chunk.len() > 1 => match requests.read_at(hv, u64::from(done)) {
                    Ok(first) => {
                        chunk[0] = first;
                        &mut chunk[..1]
                    }
                    Err(_) => return (done, Some(Stop::Refused(Errno::EFAULT))),
                },
                Err(_) => return (done, Some(Stop::Refused(Errno::EFAULT))),
            };
            let (all_done, stop) = self.serve_chunk(chunk, done);
            if stop.is_some() {
                return (all_done, stop);
            }
            done = all_done;
        }
        (done, None)
    }

    /// Serves some requests after the first `done`; answers how many are done then, and why not all of them.
    #[inline(never)]
    fn serve_chunk(&mut self, requests: &[MmuUpdate], mut done: u32) -> (u32, Option<Stop>) {
        let hv = self.cx.hv;
        for request in requests {
            // A request that flushed took as long as many others.
            if self.locked.is_some_and(|(.., info)| info.is_wanted())
                || hv.frames.tlb().now() != self.locked_at
            {
                self.unlock();
            }
            if done != 0 && (hv.platform.work_pending() || self.work_off_doomed().is_err()) {
                return (done, Some(Stop::Preempted));
            }
            if let Err(stop) = self.serve(request) {
                return (done, Some(stop));
            }
            done += 1;
        }
        (done, None)
    }

    #[inline(always)]
    fn serve(&mut self, request: &MmuUpdate) -> Result<(), Stop> {
        let how = match request.ptr & 7 {
            // There is nothing to translate for PV domains.
            MMU_NORMAL_PT_UPDATE | MMU_PT_UPDATE_NO_TRANSLATE => Write::Plain,
            MMU_PT_UPDATE_PRESERVE_AD => Write::KeepAccessedDirty,
            MMU_MACHPHYS_UPDATE => return self.set_m2p(request),
            _ => return Err(Stop::Refused(Errno::ENOSYS)),
        };
        self.update(request, how)
    }

    #[inline(always)]
    fn update(&mut self, request: &MmuUpdate, how: Write) -> Result<(), Stop> {
        let (mfn, index) = (Mfn(request.ptr >> 12), (request.ptr as usize & 0xfff) >> 3);
        let t = match self.locked {
            Some((locked, t, _)) if locked == mfn => t,
            _ => match self.lock(mfn)? {
                Some(t) => t,
                None => return self.write_data(mfn, index, request.val),
            },
        };
        if t != PageType::L1 {
            return self.update_upper((mfn, t, index), request.val, how);
        }
        let hv = self.cx.hv;
        let slot = &hv.platform.words(GuestFrame::held(mfn))[index & 511];
        Ok(hv.update_l1(self.tables, &self.pages, slot, request.val, how)?)
    }

    #[inline(never)]
    fn update_upper(&mut self, place: (Mfn, PageType, usize), value: u64, how: Write) -> Result<(), Stop> {
        let hv = self.cx.hv;
        let old = hv.platform.words(GuestFrame::held(place.0))[place.2 & 511].load(Relaxed);
        match self.change(place, value, how) {
            Err(UpdateError::Unchecked(named, t)) => self.update_checking(place, value, how, (named, t))?,
            answer => answer?,
        }
        self.stale |= old & pte::PRESENT != 0;
        Ok(())
    }

    /// Changes an entry above level 1 of the table that is locked. Where the old entry named a table, it is unlocked afterwards.
    fn change(&mut self, place: (Mfn, PageType, usize), value: u64, how: Write) -> Result<(), UpdateError> {
        let hv = self.cx.hv;
        let (answer, unused) = hv.update_upper(self.tables, &self.pages, place, value, how);
        if let Some(named) = unused {
            self.unlock();
            hv.put_table(self.tables, named);
        }
        answer
    }

    /// The case of an entry that names a frame which has to be checked as a table of type `t` first, with the table that is to
    /// be changed unlocked.
    #[cold]
    fn update_checking(
        &mut self,
        place: (Mfn, PageType, usize),
        value: u64,
        how: Write,
        (named, t): (Mfn, PageType),
    ) -> Result<(), Stop> {
        let hv = self.cx.hv;
        self.unlock();
        hv.get_typed(self.tables, named, t)?;
        // To stop here would undo the check.
        let changed = match hv.lock_table_in_turn(self.tables, place.0) {
            Ok(locked) => {
                self.has_locked(place.0, locked);
                match locked {
                    Some(now) if now == place.1 => self.change(place, value, how).map_err(Stop::from),
                    // It is another kind of table by now, or none: the request is served anew.
                    _ => Err(Stop::Preempted),
                }
            }
            Err(error) => Err(error.into()),
        };
        // The entry has a reference of its own, if there is one; else this may be the last.
        self.unlock();
        hv.put_table(self.tables, named);
        changed
    }

    fn lock(&mut self, mfn: Mfn) -> Result<Option<PageType>, Stop> {
        self.unlock();
        let t = self.cx.hv.lock_table_of(self.tables, mfn)?;
        self.has_locked(mfn, t);
        Ok(t)
    }

    #[inline(always)]
    fn has_locked(&mut self, mfn: Mfn, t: Option<PageType>) {
        self.locked = t.map(|t| (mfn, t, self.cx.hv.known_frame(mfn)));
        self.locked_at = self.cx.hv.frames.tlb().now();
    }

    fn unlock(&mut self) {
        if let Some((mfn, ..)) = self.locked.take() {
            self.cx.hv.unlock_table(mfn);
        }
    }

    /// Gives up what the last request left to give up, before the next one meets it half done.
    fn work_off_doomed(&mut self) -> Result<(), PageError> {
        if self.tables.pages.has_doomed() {
            // What is given up may be what this batch has locked.
            self.unlock();
            self.cx.hv.work_off_doomed(self.tables)?;
        }
        Ok(())
    }

    /// The frame is no table: if it may be written, it is just written.
    #[cold]
    fn write_data(&mut self, mfn: Mfn, index: usize, value: u64) -> Result<(), Stop> {
        let hv = self.cx.hv;
        hv.get_typed(self.tables, mfn, PageType::Writable)?;
        hv.platform.frame_words(mfn)[index & 511].store(value, Release);
        hv.put_page_and_type(mfn);
        Ok(())
    }

    fn set_m2p(&mut self, request: &MmuUpdate) -> Result<(), Stop> {
        let (hv, mfn) = (self.cx.hv, Mfn(request.ptr >> 12));
        if self.tables.id != self.cx.domain.id {
            return Err(Stop::Refused(Errno::EPERM));
        }
        let Pages::Of(owner) = &self.pages else { return Err(Stop::Refused(Errno::EINVAL)) };
        hv.get_page(owner.id, mfn)?;
        if let Some(entry) = hv.platform.m2p().get(mfn.0 as usize) {
            entry.store(request.val, Relaxed);
        }
        hv.put_page(mfn);
        Ok(())
    }
}
