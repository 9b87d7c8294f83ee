//! What guests compute the time from: the record in `vcpu_info`, a second copy of it, and the wall clock.
//!
//! Both records are sequence locks: the version is odd while the rest changes, so that a reader that saw the same
//! even version before and after has a consistent record. Only the CPU that runs (or starts to run) a vCPU writes
//! its record.

use crate::Hypervisor;
use crate::domain::{Domain, VcpuRef};
use crate::guest_ptr::GuestPtr;
use crate::ids::{GuestVirt, MachineAddr, Nanos, PAGE_SIZE};
use crate::page::PageType;
use crate::platform::{FrameWords, GuestFault, GuestFrame, Platform, TimeRecord};
use crate::sync::Word;
use core::mem::offset_of;
use core::sync::atomic::{Ordering, fence};
use xen_abi::xen::{SharedInfo, VcpuInfo, VcpuTimeInfo, XEN_PVCLOCK_TSC_STABLE_BIT};
use zerocopy::IntoBytes;

/// Word index of the time record in a `vcpu_info`.
const TIME_WORD: usize = offset_of!(VcpuInfo, time) / 8;
/// Word index of the wall clock in `shared_info`: version and seconds, then nanoseconds and the seconds' upper half.
const WALLCLOCK_WORD: usize = offset_of!(SharedInfo, wc_version) / 8;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// Present and writable bits of a page-table entry.
const PRESENT_WRITABLE: u64 = 0b11;
/// Frame number bits of a page-table entry.
const ENTRY_FRAME: u64 = 0x000f_ffff_ffff_f000;

/// The words of a time record after its version: TSC, system time, scale.
fn record_words(record: &TimeRecord) -> [u64; 3] {
    // Two's complement, as the field is declared.
    let shift = u64::from(record.tsc_shift.cast_unsigned());
    // One clock for all CPUs: so are the vCPUs' times.
    let flags = u64::from(if record.stable { XEN_PVCLOCK_TSC_STABLE_BIT } else { 0 });
    [record.tsc, record.system_time.0, u64::from(record.tsc_to_system_mul) | shift << 32 | flags << 40]
}

/// How the memory of a vCPU's kernel is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    /// Through the address space that is loaded on this CPU, which is one of that kernel.
    Loaded,
    /// Through the kernel's page tables, walked here.
    Tables,
}

impl Through {
    /// For the vCPU whose address space is loaded: its kernel's unless it runs user code.
    fn running<P: Platform>(vcpu: &VcpuRef<P>) -> Self {
        match vcpu.vcpu().pv.kernel_mode.load(Ordering::Relaxed) {
            0 => Self::Tables,
            _ => Self::Loaded,
        }
    }
}

impl<P: Platform> Hypervisor<P> {
    /// Publishes the time to the running vCPU, unless what it has is current.
    pub fn publish_time(&self, vcpu: &VcpuRef<P>) {
        let record = self.platform.time_record();
        if vcpu.vcpu().time.published.load(Ordering::Relaxed) != record.tsc {
            self.publish_record(vcpu, &record, Through::running(vcpu));
        }
    }

    /// Publishes the time to a vCPU that has a new place for it; called by a vCPU of the same domain.
    pub fn publish_time_anew(&self, vcpu: &VcpuRef<P>) {
        self.publish_record(vcpu, &self.platform.time_record(), Through::Loaded);
    }

    fn publish_record(&self, vcpu: &VcpuRef<P>, record: &TimeRecord, through: Through) {
        let (time, pv) = (&vcpu.vcpu().time, &vcpu.vcpu().pv);
        time.published.store(record.tsc, Ordering::Relaxed);
        // The version counts up by two; its upper half is padding.
        let version = time.version.fetch_add(2, Ordering::Relaxed).wrapping_add(2) & 0xffff_fffe;
        let words = record_words(record);
        let info = MachineAddr(pv.vcpu_info.load(Ordering::Acquire));
        if info.0 != 0 {
            let first = info.page_offset() / 8 + TIME_WORD;
            write_record(self.platform.words(GuestFrame::held(info.mfn())), first, version, &words);
        }
        let area = time.time_area.load(Ordering::Relaxed);
        if area != 0 {
            let [tsc, system_time, scale] = words;
            let open = [version | 1, tsc, system_time, scale];
            let version_at = area.wrapping_add(offset_of!(VcpuTimeInfo, version) as u64);
            let _ = self.write_kernel_area(vcpu, through, area, open.as_bytes());
            let _ = self.write_kernel_area(vcpu, through, version_at, version.as_bytes());
        }
    }

    /// Sets the guest address of a vCPU's second time record (0: none) and fills it.
    pub fn set_time_area(&self, vcpu: &VcpuRef<P>, address: u64) {
        vcpu.vcpu().time.time_area.store(address, Ordering::Relaxed);
        self.publish_time_anew(vcpu);
    }

    /// The vCPU runs from now on. Answers whether this CPU's timer is to be armed anew.
    #[must_use]
    pub(crate) fn vcpu_time_started(&self, vcpu: &VcpuRef<P>, now: Nanos) -> bool {
        self.publish_time(vcpu);
        let time = &vcpu.vcpu().time;
        if time.has_runstate_area() {
            self.update_runstate_area(vcpu, Through::running(vcpu));
        }
        time.ticks() && self.periodic_work(self.platform.this_cpu(), vcpu, now)
    }

    /// The vCPU does not run any more.
    pub(crate) fn vcpu_time_stopped(&self, vcpu: &VcpuRef<P>) {
        if vcpu.vcpu().time.has_runstate_area() {
            self.update_runstate_area(vcpu, Through::Tables);
        }
    }

    /// Wall-clock time at system time 0, in nanoseconds since 1970.
    pub fn wallclock_base(&self) -> u64 {
        let shift = self.timers.wallclock_shift.load(Ordering::Relaxed);
        self.machine.boot_wallclock.saturating_add_signed(shift)
    }

    /// Sets the wall clock: it was `seconds` and `nanos` at system time `system_time`; every domain is told.
    pub fn set_wallclock(&self, seconds: u64, nanos: u32, system_time: u64) {
        let then = seconds.saturating_mul(NANOS_PER_SECOND).saturating_add(u64::from(nanos));
        let base = then.saturating_sub(system_time);
        let shift = i128::from(base) - i128::from(self.machine.boot_wallclock);
        let shift = shift.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
        self.timers.wallclock_shift.store(i64::try_from(shift).unwrap_or(i64::MAX), Ordering::Relaxed);
        for domain in self.domains.all() {
            self.publish_wallclock(&domain);
        }
    }

    /// Writes the wall clock into a domain's `shared_info`.
    pub fn publish_wallclock(&self, domain: &Domain<P>) {
        let base = self.wallclock_base();
        let offset = domain.time_offset.load(Ordering::Relaxed);
        let seconds = (base / NANOS_PER_SECOND).wrapping_add_signed(offset);
        let nanos = base % NANOS_PER_SECOND;
        let words = self.platform.words(GuestFrame::held(domain.shared_info));
        let (first, second) = (&words[WALLCLOCK_WORD], &words[WALLCLOCK_WORD + 1]);
        let version = first.load(Ordering::Relaxed) & 0xffff_fffe;
        let low = seconds & 0xffff_ffff;
        first.store(first.load(Ordering::Relaxed) | 1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        second.store(nanos | seconds >> 32 << 32, Ordering::Relaxed);
        first.store(version | 1 | low << 32, Ordering::Relaxed);
        first.store(version.wrapping_add(2) & 0xffff_ffff | low << 32, Ordering::Release);
    }

    /// Writes to memory of a vCPU's kernel. Refuses what is not mapped writable.
    pub(crate) fn write_kernel_area(
        &self,
        vcpu: &VcpuRef<P>,
        through: Through,
        address: u64,
        bytes: &[u8],
    ) -> Result<(), GuestFault> {
        if through == Through::Loaded {
            return GuestPtr::<u8>::new(address).write_slice(self, bytes);
        }
        let mut rest = bytes;
        let mut va = GuestVirt(address);
        while !rest.is_empty() {
            let room = PAGE_SIZE - MachineAddr(va.0).page_offset();
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.write_through_tables(vcpu, va, now)?;
            va = va.add(now.len() as u64);
            rest = later;
        }
        Ok(())
    }

    /// Writes within one page by way of the kernel's page tables. In a switch of vCPUs nothing can interrupt this, so a frame that is
    /// still to be given up as a table is refused, and not given up here.
    fn write_through_tables(&self, vcpu: &VcpuRef<P>, va: GuestVirt, bytes: &[u8]) -> Result<(), GuestFault> {
        let root = vcpu.vcpu().pv.guest_table.get().ok_or(GuestFault)?;
        let entry = self.walk(root, va).ok_or(GuestFault)?.entry;
        if entry & PRESENT_WRITABLE != PRESENT_WRITABLE {
            return Err(GuestFault);
        }
        let mfn = MachineAddr(entry & ENTRY_FRAME).mfn();
        self.get_typed(&vcpu.domain, mfn, PageType::Writable).map_err(|_| GuestFault)?;
        write_bytes(self.platform.words(GuestFrame::held(mfn)), MachineAddr(va.0).page_offset(), bytes);
        self.put_page_and_type(mfn);
        Ok(())
    }
}

/// Writes a time record whose first word is at `first`.
fn write_record(words: &FrameWords, first: usize, version: u64, record: &[u64; 3]) {
    let Some(place) = words.get(first..first + 4) else { return };
    place[0].store(version | 1, Ordering::Relaxed);
    fence(Ordering::Release);
    for (word, value) in place[1..].iter().zip(record) {
        word.store(*value, Ordering::Relaxed);
    }
    place[0].store(version, Ordering::Release);
}

/// Writes bytes into a frame; the rest of the first and last word stays what it is.
fn write_bytes(words: &FrameWords, offset: usize, bytes: &[u8]) {
    let (mut at, mut rest) = (offset, bytes);
    while !rest.is_empty() {
        let Some(word) = words.get(at / 8) else { return };
        let start = at % 8;
        let (now, later) = rest.split_at(rest.len().min(8 - start));
        let (mut value, mut mask) = ([0; 8], [0; 8]);
        value[start..start + now.len()].copy_from_slice(now);
        mask[start..start + now.len()].fill(0xff);
        overwrite(word, u64::from_le_bytes(mask), u64::from_le_bytes(value));
        (at, rest) = (at + now.len(), later);
    }
    fence(Ordering::Release);
}

/// Makes the bits of `mask` those of `value`, in steps that cannot fail, however often the guest writes to the word meanwhile. What it
/// writes to these bits only garbles what it gets.
pub(super) fn overwrite<W: Word>(word: &W, mask: u64, value: u64) {
    if mask == u64::MAX {
        return word.put(value);
    }
    word.flip_bits((word.read() ^ value) & mask);
}
