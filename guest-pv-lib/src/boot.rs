//! What the kernel was started with: `start_info`, made typed.

use core::ptr;

use xen_abi::xen::{self, StartInfo, StartInfoConsoleDomU};

use crate::events::Port;
use crate::mmu::{Mfn, P2m, Pfn};

/// Everything that the domain builder told the kernel. Handed to `main` by [`entry!`](crate::entry!).
#[doc(alias("start_info", "xen_start_info"))]
#[derive(Clone, Debug)]
pub struct BootContext {
    info: StartInfo,
    command_line: &'static [u8],
    virt_base: u64,
    entry_tsc: u64,
    start_info: u64,
}

impl BootContext {
    /// Reads `start_info`.
    ///
    /// # Safety
    ///
    /// `start_info` must be the address that the hypervisor passed at entry, `virt_base` the one of the image's
    /// notes; nothing may have changed the initial mappings or that page before.
    #[cfg_attr(not(target_os = "none"), allow(dead_code))]
    pub(crate) unsafe fn new(start_info: u64, virt_base: u64, entry_tsc: u64) -> Self {
        let page = ptr::with_exposed_provenance::<StartInfo>(start_info as usize);
        // SAFETY: the page is mapped, aligned and initialised by the domain builder, and any bytes are a valid
        // `StartInfo`. The copy leaves no reference behind.
        let info = unsafe { page.read() };
        // SAFETY: the command line lies in that page; neither the kernel nor the hypervisor writes to it again (a
        // resume rewrites only the fields before `pt_base`), so a shared slice may live as long as the program.
        let line = unsafe { &*(&raw const (*page).cmd_line).cast::<[u8; xen::MAX_GUEST_CMDLINE]>() };
        let end = line.iter().position(|&byte| byte == 0).unwrap_or(line.len());
        Self { info, command_line: &line[..end], virt_base, entry_tsc, start_info }
    }

    /// Reads the structure again, which the toolstack filled in for a domain that goes on elsewhere.
    #[cfg(all(target_os = "none", feature = "alloc"))]
    pub(crate) fn reread(&mut self) {
        let page = ptr::with_exposed_provenance::<StartInfo>(self.start_info as usize);
        // SAFETY: as in `new`; nobody writes there now.
        self.info = unsafe { page.read_volatile() };
    }

    /// Changes the copy, where the structure itself is not the toolstack's.
    #[cfg(all(target_os = "none", feature = "alloc", feature = "native"))]
    pub(crate) fn revise(&mut self, change: impl FnOnce(&mut StartInfo)) {
        change(&mut self.info);
    }

    /// Writes frames of the xenstore and the console ring into the structure itself.
    #[cfg(all(target_os = "none", feature = "alloc"))]
    pub(crate) fn write_rings(&self, store: u64, console: u64) {
        let page = ptr::with_exposed_provenance_mut::<StartInfo>(self.start_info as usize);
        // SAFETY: the page is mapped for writing, and these fields lie beside the command line, the only part of it that
        // anybody has a reference to. The ring's frame is the first field of the console's part.
        unsafe {
            (&raw mut (*page).store_mfn).write_volatile(store);
            (&raw mut (*page).console).cast::<u64>().write_volatile(console);
        }
    }

    /// A copy of the structure itself.
    #[must_use]
    pub const fn start_info(&self) -> &StartInfo {
        &self.info
    }

    /// The command line, without its terminator.
    #[doc(alias = "cmd_line")]
    #[must_use]
    pub const fn command_line(&self) -> &'static [u8] {
        self.command_line
    }

    /// Whether `word` is one of the blank-separated words of the command line.
    #[must_use]
    pub fn has_option(&self, word: &str) -> bool {
        self.command_line.split(u8::is_ascii_whitespace).any(|found| found == word.as_bytes())
    }

    /// The module (initial RAM disk) that was loaded with the kernel.
    #[doc(alias("mod_start", "mod_len"))]
    #[must_use]
    pub fn module(&self) -> Option<&'static [u8]> {
        // The kernel's notes do not ask for a module outside the initial mapping; where it is outside all the same,
        // `mod_start` is a frame number and there is nothing to read.
        if self.info.mod_len == 0 || self.info.flags & xen::SIF_MOD_START_PFN != 0 {
            return None;
        }
        let start = ptr::with_exposed_provenance::<u8>(self.info.mod_start as usize);
        // SAFETY: the domain builder mapped the module there before the kernel ran; the frames are within `used`,
        // which a kernel that hands out free memory leaves alone.
        Some(unsafe { core::slice::from_raw_parts(start, self.info.mod_len as usize) })
    }

    /// Number of pages given to the domain: its pseudo-physical memory is the frames `0..pages`.
    #[doc(alias = "nr_pages")]
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.info.nr_pages
    }

    /// Whether this is the first domain (dom0), which owns the machine's console and devices.
    #[doc(alias = "SIF_INITDOMAIN")]
    #[must_use]
    pub const fn is_initial_domain(&self) -> bool {
        self.info.flags & xen::SIF_INITDOMAIN != 0
    }

    /// Whether the domain may make privileged hypercalls.
    #[doc(alias = "SIF_PRIVILEGED")]
    #[must_use]
    pub const fn is_privileged(&self) -> bool {
        self.info.flags & xen::SIF_PRIVILEGED != 0
    }

    /// The map from pseudo-physical to machine frames.
    #[doc(alias = "mfn_list")]
    #[must_use]
    pub fn p2m(&self) -> P2m {
        // SAFETY: the domain builder placed `nr_pages` entries at `mfn_list` and mapped them for good.
        unsafe { P2m::new(self.info.mfn_list, self.info.nr_pages) }
    }

    /// The virtual address of a pseudo-physical frame in the initial mapping, which covers what the
    /// builder [used](Self::used) and some free frames behind it.
    #[must_use]
    pub const fn virt_of(&self, frame: Pfn) -> u64 {
        self.virt_base.wrapping_add(frame.0 << 12)
    }

    /// The pseudo-physical frame of a virtual address inside the initial mapping.
    #[must_use]
    pub const fn pfn_of(&self, virt: u64) -> Pfn {
        Pfn(virt.wrapping_sub(self.virt_base) >> 12)
    }

    /// The frames that the domain builder itself used: image, module, p2m list, page tables, `start_info`, stack.
    /// The frames behind them are free; at least 512 KiB of them are mapped, until
    /// [`memory::init`](crate::memory::init) takes them into the allocator and out of this mapping.
    #[must_use]
    pub const fn used(&self) -> core::ops::Range<Pfn> {
        let tables = self.pfn_of(self.info.pt_base).0 + self.info.nr_pt_frames;
        // The bootstrap stack is the page behind the tables, and the last element.
        Pfn(0)..Pfn(tables + 1)
    }

    /// The frames of the initial page tables, the root first.
    #[doc(alias("pt_base", "nr_pt_frames"))]
    #[must_use]
    pub const fn page_tables(&self) -> core::ops::Range<Pfn> {
        let root = self.pfn_of(self.info.pt_base);
        root..Pfn(root.0 + self.info.nr_pt_frames)
    }

    /// The machine frame of the root page table that the kernel was entered with.
    #[must_use]
    pub fn root_table(&self) -> Mfn {
        let root = self.page_tables().start;
        self.p2m().mfn(root).expect("the domain builder's root table is one of the domain's frames")
    }

    /// The time stamp counter at the kernel's first instruction.
    #[must_use]
    pub const fn entry_tsc(&self) -> u64 {
        self.entry_tsc
    }

    /// The ring page and the event channel of an ordinary domain's console; none for the first domain, whose
    /// console is the hypervisor's.
    #[doc(alias("console_mfn", "console_evtchn"))]
    #[must_use]
    pub fn console_ring(&self) -> Option<(Mfn, Port)> {
        if self.is_initial_domain() {
            return None;
        }
        let console: StartInfoConsoleDomU = zerocopy::transmute!(self.info.console);
        Some((Mfn(console.mfn), Port(console.evtchn)))
    }

    /// The ring page and the event channel of the domain's xenstore connection; none where the domain was built without
    /// one, as a first domain is.
    #[doc(alias("store_mfn", "store_evtchn"))]
    #[must_use]
    pub const fn store_ring(&self) -> Option<(Mfn, Port)> {
        if self.info.store_mfn == 0 || self.info.store_evtchn == 0 {
            return None;
        }
        Some((Mfn(self.info.store_mfn), Port(self.info.store_evtchn)))
    }

    /// Where `start_info` lies, for code that hands it on.
    #[must_use]
    pub const fn start_info_address(&self) -> u64 {
        self.start_info
    }
}
