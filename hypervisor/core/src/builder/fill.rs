//! Filling a described domain piece by piece: a guest that asks for a reboot has its domain built again while others run.
//!
//! Each step is bounded, whatever the domain's size: a few pages are cleared or copied, one page table is written. What comes
//! between two steps is the caller's choice. At boot nothing waits; the keeper stops for its CPU's other work.

use super::extents::Extents;
use super::image::elf_file;
use super::kernel::Kernel;
use super::layout::Layout;
use super::memory::{Memory, list_entries};
use super::start::{self, Rings};
use super::tables::Tables;
use super::{BuildError, DomainSource, Served};
use crate::Hypervisor;
use crate::domain::Domain;
use crate::ids::Mfn;
use crate::mem::Claim;
use crate::page::{PageError, PageType};
use crate::platform::Platform;
use alloc::string::String;
use alloc::sync::Arc;
use xen_abi::xen::MAX_GUEST_CMDLINE;

const PAGE: u64 = 4096;
/// Pages that are cleared in a step.
const CLEARED: u64 = 16;
/// Bytes that are copied in a step.
const COPIED: u64 = 4 * PAGE;
/// Entries of the list of frames that are written in a step.
const LISTED: u64 = 128;

/// How far a domain is filled.
pub struct Filling {
    layout: Layout,
    /// All pages that it gets.
    pages: u64,
    cmdline: String,
    initrd: Option<&'static [u8]>,
    served: Option<Served>,
    extents: Extents,
    stage: Stage,
}

impl Filling {
    /// What is kept of its memory, to be given up in steps.
    pub(crate) fn into_extents(self) -> Extents {
        self.extents
    }
}

/// What is to be done next.
enum Stage {
    /// Frames, in blocks of this order.
    Memory(u32),
    /// Clearing pages from this one on: they may have been another domain's.
    Clear(u64),
    /// Copying a segment of the kernel from this byte of it on.
    Segment(usize, u64),
    HypercallPage,
    /// Copying the RAM disk from this byte on.
    Initrd(u64),
    /// The list of frames from this entry of it on.
    FrameList(u64),
    StartInfo,
    Tables(Tables),
    /// Having the tables checked.
    Root(Mfn),
    /// The kernel unpins what it started on.
    Pin(Mfn),
    Filled,
}

/// What a step needs of its surroundings.
struct Step<'a, 'k, P: Platform> {
    hv: &'a Hypervisor<P>,
    domain: &'a Arc<Domain<P>>,
    kernel: &'a Kernel<'k>,
}

impl<P: Platform> Hypervisor<P> {
    /// Begins to give a domain, made by [`Hypervisor::create_domain`] and without any page, `pages` pages, for which `claim` may set
    /// some aside, and a kernel. It gets pages
    /// for its console and xenstore rings. `served` says who serves them: both are granted to that domain as Xen's toolstack does
    /// it. Without, the hypervisor serves the console, and nobody the xenstore. It stays paused, with its vCPU 0 ready to be
    /// brought up when it is filled.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub(crate) fn begin_filling(
        &self,
        source: &DomainSource<'_>,
        initrd: Option<&'static [u8]>,
        (pages, claim): (u64, &Claim),
        served: Option<Served>,
    ) -> Result<Filling, BuildError> {
        if source.cmdline.len() >= MAX_GUEST_CMDLINE {
            return Err(BuildError::CommandLineTooLong(source.cmdline.len()));
        }
        let file = elf_file(source.image)?;
        let kernel = Kernel::parse(&file, false)?;
        let initrd_size = initrd.map_or(0, |initrd| initrd.len() as u64);
        let layout = Layout::new(&kernel, initrd_size, start::RING_PAGES, pages)?;
        let free = self.frames.available(claim);
        if layout.needed > pages || pages > free {
            let needed = layout.needed.max(pages);
            return Err(BuildError::TooLittleMemory { needed, available: free.min(pages) });
        }
        let cmdline = source.cmdline.into();
        let stage = Stage::Memory(MOST_ORDER);
        Ok(Filling { layout, pages, cmdline, initrd, served, extents: Extents::default(), stage })
    }

    /// Goes on with filling `domain` from `image`, the kernel that it was begun with (without compression, or it is taken off
    /// again), until it is filled or `stop` says so between two steps. Answers whether it is filled.
    ///
    /// # Errors
    /// See [`BuildError`]. What the domain got so far goes when it is destroyed.
    pub fn fill_some(
        &self,
        domain: &Arc<Domain<P>>,
        filling: &mut Filling,
        image: &[u8],
        mut stop: impl FnMut() -> bool,
    ) -> Result<bool, BuildError> {
        let file = elf_file(image)?;
        let kernel = Kernel::parse(&file, false)?;
        let step = Step { hv: self, domain, kernel: &kernel };
        loop {
            step.make(filling)?;
            if matches!(filling.stage, Stage::Filled) {
                return Ok(true);
            }
            if stop() {
                return Ok(false);
            }
        }
    }
}

/// Blocks of memory are taken in at most this size in a step: 1 MiB.
const MOST_ORDER: u32 = 8;

impl<P: Platform> Step<'_, '_, P> {
    fn make(&self, filling: &mut Filling) -> Result<(), BuildError> {
        let stage = core::mem::replace(&mut filling.stage, Stage::Filled);
        let mut memory = Memory::resume(self.hv, self.domain, core::mem::take(&mut filling.extents));
        let next = self.next(stage, &mut memory, filling);
        let next = if memory.is_whole() { next } else { Err(BuildError::FramesTaken) };
        filling.extents = memory.into_extents();
        filling.stage = next?;
        Ok(())
    }

    fn next(&self, stage: Stage, memory: &mut Memory<'_, P>, filling: &Filling) -> Result<Stage, BuildError> {
        let Filling { layout, pages, initrd, .. } = filling;
        let initrd = initrd.unwrap_or_default();
        Ok(match stage {
            Stage::Memory(mut order) => {
                memory.grow_once(self.domain, *pages, &mut order)?;
                if memory.pages() < *pages { Stage::Memory(order) } else { Stage::Clear(0) }
            }
            Stage::Clear(page) => {
                let end = (page + CLEARED).min(*pages);
                memory.clear_pages(page..end);
                if end < *pages { Stage::Clear(end) } else { Stage::Segment(0, 0) }
            }
            Stage::Segment(n, done) => self.load(memory, n, done),
            Stage::HypercallPage => {
                let kernel = self.kernel;
                if let Some(page) = kernel.hypercall_page.map(|address| (address - kernel.base) / PAGE) {
                    memory.copy(page * PAGE, &start::hypercall_page());
                }
                Stage::Initrd(0)
            }
            Stage::Initrd(done) => match layout.initrd {
                Some(page) if done < initrd.len() as u64 => {
                    let end = (done + COPIED).min(initrd.len() as u64);
                    memory.copy(page * PAGE + done, &initrd[done as usize..end as usize]);
                    Stage::Initrd(end)
                }
                _ => Stage::FrameList(0),
            },
            Stage::FrameList(entry) => {
                let all = list_entries(&layout.p2m);
                let end = (entry + LISTED).min(all);
                memory.write_p2m(&layout.p2m, entry..end);
                if end < all { Stage::FrameList(end) } else { Stage::StartInfo }
            }
            Stage::StartInfo => {
                let rings = self.offer_rings(memory, filling)?;
                let source = DomainSource {
                    image: &[],
                    initrd: filling.initrd,
                    cmdline: &filling.cmdline,
                    video: None,
                };
                start::write_start_info(memory, layout, self.domain, &source, Some(rings))?;
                Stage::Tables(Tables::new(memory, layout))
            }
            Stage::Tables(mut tables) => {
                if tables.step(memory, layout)? {
                    Stage::Tables(tables)
                } else {
                    Stage::Root(tables.root())
                }
            }
            Stage::Root(root) => {
                let vcpu = &self.domain.vcpus[0];
                match self.hv.set_first_baseptr(self.domain, vcpu, root) {
                    Ok(()) => Stage::Pin(root),
                    Err(PageError::Restart) => Stage::Root(root),
                    Err(_) => return Err(BuildError::PageTablesRefused),
                }
            }
            Stage::Pin(root) => match self.hv.pin_table(self.domain, root, PageType::L4) {
                Ok(()) => {
                    self.hv.publish_wallclock(self.domain);
                    start::set_first_context(&self.domain.vcpus[0], layout, self.kernel.entry);
                    Stage::Filled
                }
                Err(PageError::Restart) => Stage::Pin(root),
                Err(_) => return Err(BuildError::PageTablesRefused),
            },
            Stage::Filled => Stage::Filled,
        })
    }

    /// Copies or clears a part of a segment.
    fn load(&self, memory: &Memory<'_, P>, n: usize, done: u64) -> Stage {
        let Some(segment) = self.kernel.segments.get(n) else { return Stage::HypercallPage };
        let loaded = segment.data.len() as u64;
        if done >= segment.size {
            return Stage::Segment(n + 1, 0);
        }
        let at = segment.at + done;
        // Up to a page's end: what does not fill pages costs more.
        let whole = (at + COPIED) / PAGE * PAGE - segment.at;
        let end = if done < loaded { whole.min(loaded) } else { whole.min(segment.size) };
        if done < loaded {
            memory.copy(at, &segment.data[done as usize..end as usize]);
        } else {
            memory.clear(at, end - done);
        }
        Stage::Segment(n, end)
    }

    /// Lets whoever serves the domain's rings have them.
    fn offer_rings(&self, memory: &Memory<'_, P>, filling: &Filling) -> Result<Rings, BuildError> {
        self.hv.offer_rings(self.domain, memory, &filling.layout, filling.served)
    }
}
