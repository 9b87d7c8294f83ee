//! Building domains from boot modules: the first one, and those that a description asks for.
//!
//! The order is the order of the files: [`image`] takes bzImage and compression off ([`hypervisor_unpack`]), [`kernel`] reads the
//! ELF file and its [`notes`], [`layout`] computes where everything goes, [`memory`] gets the frames and writes to them,
//! [`tables`] writes page tables, [`start`] the records and registers that the kernel starts with. Nothing up to the
//! layout changes anything, and all of it takes any bytes: each thing that makes no sense is a [`BuildError`] of one
//! sentence. [`fill`] does it all for a described domain, step by step. The page tables are then handed to [`crate::page`] like a guest's own, which checks and counts them.

mod error;
mod extents;
mod fill;
mod image;
mod kernel;
mod layout;
mod memory;
mod notes;
mod start;
mod tables;
#[cfg(test)]
pub(crate) mod tests;

pub use error::BuildError;
pub(crate) use extents::{Extents, frames_for_extents};
pub use fill::Filling;
pub use start::hypercall_page;

use crate::Hypervisor;
use crate::cpumask::CpuMask;
use crate::domain::{Domain, DomainConfig, MAX_VCPUS, VcpuRef};
use crate::ids::{DomId, GrantRef, Mfn, Port};
use crate::page::{PageError, PageType};
use crate::permissions::Permissions;
use crate::platform::Platform;
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use kernel::Kernel;
use layout::Layout;
use memory::Memory;
use start::Rings;
use xen_abi::errno::Errno;
use xen_abi::grant_table::{GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE};
use xen_abi::xen::MAX_GUEST_CMDLINE;

/// What a domain is built from.
#[derive(Clone, Copy, Debug)]
pub struct DomainSource<'a> {
    /// The kernel: an ELF file or a bzImage.
    pub image: &'a [u8],
    /// Its initial RAM disk.
    pub initrd: Option<&'a [u8]>,
    /// Its command line; for the first domain, what the hypervisor's own has for it comes behind.
    pub cmdline: &'a str,
    /// Bytes of `dom0_vga_console_info` (xen.h) when the machine has a screen that the first domain may use.
    pub video: Option<&'a [u8]>,
}

/// Who serves a domain's xenstore, and its console if the hypervisor does not, with the domain's ports for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The serving domain.
    pub by: DomId,
    /// The domain's port of its xenstore ring.
    pub store: Port,
    /// That of its console ring.
    pub console: Option<Port>,
}

impl<P: Platform> Hypervisor<P> {
    /// Builds the first domain. Its vCPU 0 is ready to be brought up: nothing else of it has happened yet.
    ///
    /// # Errors
    /// See [`BuildError`]; the machine cannot go on without a first domain, so nothing is given back.
    pub fn build_dom0(
        &self,
        image: &[u8],
        initrd: Option<&[u8]>,
        cmdline: &str,
    ) -> Result<Arc<Domain<P>>, BuildError> {
        self.build_dom0_from(&DomainSource { image, initrd, cmdline, video: None })
    }

    /// As [`Hypervisor::build_dom0`], with all that a first domain can be given.
    ///
    /// # Errors
    /// As [`Hypervisor::build_dom0`].
    pub fn build_dom0_from(&self, source: &DomainSource<'_>) -> Result<Arc<Domain<P>>, BuildError> {
        let domain = self.empty_dom0()?;
        self.fill_dom0(&domain, source)?;
        Ok(domain)
    }

    /// Gives the first domain, made by [`Hypervisor::empty_dom0`], its memory and kernel.
    ///
    /// # Errors
    /// As [`Hypervisor::build_dom0`].
    pub fn fill_dom0(&self, domain: &Arc<Domain<P>>, source: &DomainSource<'_>) -> Result<(), BuildError> {
        let cmdline = match self.options.dom0_extra.as_str() {
            "" => String::from(source.cmdline),
            extra => alloc::format!("{} {extra}", source.cmdline),
        };
        if cmdline.len() >= MAX_GUEST_CMDLINE {
            return Err(BuildError::CommandLineTooLong(cmdline.len()));
        }
        let source = &DomainSource { cmdline: &cmdline, ..*source };
        let option = &self.options.dom0_mem;
        // What the unpacked kernel takes in the meantime comes back before the domain gets the rest of its memory.
        let most = |more| {
            let left = self.frames.available(&domain.pages.claim) + more;
            memory::dom0_pages(option, self.frames.free_count() + more).min(left)
        };
        let pages = most(0);
        let file = image::elf_file(source.image)?;
        let kernel = Kernel::parse(&file, true)?;
        let layout = Layout::new(&kernel, source.initrd.map_or(0, |i| i.len() as u64), 0, pages)?;
        let available = pages.min(most(0));
        if layout.needed > available {
            return Err(BuildError::TooLittleMemory { needed: layout.needed, available });
        }
        let mut memory = Memory::new(self);
        memory.grow(domain, layout.needed)?;
        load(&memory, &kernel, &layout, source);
        let entry = kernel.entry;
        drop(kernel);
        drop(file);
        let available = most(memory.pages());
        memory.grow(domain, pages.min(available))?;
        memory.write_p2m(&layout.p2m, 0..memory::list_entries(&layout.p2m));
        start::write_start_info(&memory, &layout, domain, source, None)?;
        let root = tables::build(&memory, &layout)?;
        self.load_root(domain, root)?;
        self.publish_wallclock(domain);
        start::set_first_context(&domain.vcpus[0], &layout, entry);
        if self.options.dom0_vcpus_pin {
            self.pin_vcpus(domain)?;
        }
        self.unpause_domain(domain)?;
        self.console_appeared(domain);
        Ok(())
    }

    /// Lets whoever serves a domain's rings have them.
    fn offer_rings(
        &self,
        domain: &Arc<Domain<P>>,
        memory: &Memory<'_, P>,
        layout: &Layout,
        served: Option<Served>,
    ) -> Result<Rings, BuildError> {
        let (console, store) = (memory.frame(layout.rings.start), memory.frame(layout.rings.start + 1));
        let offer = |reference, mfn| match served {
            Some(Served { by, .. }) if !self.grant_reserved(domain, GrantRef(reference), by, mfn) => {
                Err(Errno::ENOMEM)
            }
            _ => Ok(()),
        };
        offer(GNTTAB_RESERVED_XENSTORE, store)?;
        let console_port = match served.and_then(|served| served.console) {
            Some(port) => {
                offer(GNTTAB_RESERVED_CONSOLE, console)?;
                port
            }
            None => self.attach_console(domain, console)?,
        };
        Ok(Rings { console: (console, console_port), store: (store, served.map_or(Port(0), |s| s.store)) })
    }

    /// The first domain without memory, with all permissions; paused.
    ///
    /// # Errors
    /// As [`Hypervisor::build_dom0`].
    pub fn empty_dom0(&self) -> Result<Arc<Domain<P>>, BuildError> {
        let (least, most) = self.options.dom0_max_vcpus;
        let cpus = self.platform.online_cpus().iter().count();
        let config = DomainConfig {
            id: DomId(0),
            privileged: true,
            max_vcpus: u32::try_from(cpus).unwrap_or(u32::MAX).clamp(least, most).min(MAX_VCPUS),
            max_pages: u64::from(u32::MAX),
            ..DomainConfig::new(DomId(0))
        };
        let domain = self.create_domain(&config)?;
        if let Some(max) = self.options.dom0_mem.max {
            domain.pages.set_max(max.pages(self.frames.free_count()));
        }
        *domain.permissions.write() = Permissions::all();
        Ok(domain)
    }

    /// Binds each vCPU to a CPU, one after the other.
    fn pin_vcpus(&self, domain: &Arc<Domain<P>>) -> Result<(), BuildError> {
        let cpus: Vec<_> = self.platform.online_cpus().iter().collect();
        for (vcpu, cpu) in domain.vcpus.iter().zip(cpus.iter().cycle()) {
            let vcpu = VcpuRef { domain: domain.clone(), id: vcpu.id };
            self.set_affinity(&vcpu, &CpuMask::of(*cpu))?;
        }
        Ok(())
    }

    /// Has the page tables checked, pins them (the kernel unpins what it started on) and makes them vCPU 0's.
    fn load_root(&self, domain: &Domain<P>, root: Mfn) -> Result<(), BuildError> {
        until_done(|| self.set_first_baseptr(domain, &domain.vcpus[0], root))?;
        until_done(|| self.pin_table(domain, root, PageType::L4))
    }
}

/// Takes compression off a kernel that several domains are built from.
///
/// # Errors
/// What is wrong with it.
pub fn unpack_kernel(image: &[u8]) -> Result<Cow<'_, [u8]>, BuildError> {
    image::elf_file(image)
}

/// Repeats an operation on page tables that stops for other work. It gets further each time, and at boot the other work
/// can wait.
fn until_done(operation: impl Fn() -> Result<(), PageError>) -> Result<(), BuildError> {
    loop {
        match operation() {
            Err(PageError::Restart) => {}
            answer => return answer.map_err(|_| BuildError::PageTablesRefused),
        }
    }
}

/// Copies the kernel and its initial RAM disk into the domain.
fn load<P: Platform>(
    memory: &Memory<'_, P>,
    kernel: &Kernel<'_>,
    layout: &Layout,
    source: &DomainSource<'_>,
) {
    for segment in &kernel.segments {
        memory.copy(segment.at, segment.data);
        let loaded = segment.data.len() as u64;
        memory.clear(segment.at + loaded, segment.size - loaded);
    }
    if let Some(page) = kernel.hypercall_page.map(|address| (address - kernel.base) / 4096) {
        memory.copy(page * 4096, &hypercall_page());
    }
    if let (Some(page), Some(initrd)) = (layout.initrd, source.initrd) {
        memory.copy(page * 4096, initrd);
    }
}
