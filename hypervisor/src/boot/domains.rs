//! Which domains to start: from the boot modules and, if one of them is one, from a description.
//!
//! Without a description the first module is the first domain's kernel and the second its initial RAM disk. A description names
//! modules, by the file name that the boot loader passes or by the first word of the arguments behind it. When it is the
//! first module there is no other first domain than the one it may describe; otherwise the first module is the first domain's
//! kernel still, and the second, if it is not the description, its RAM disk.

use super::info::{BootInfo, Module};
use super::{loader_string, loader_text};
use crate::mm::direct;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use hypervisor_core::builder::DomainSource;
use hypervisor_core::description::{Channel, Description, Descriptions, When, is_description};
use hypervisor_core::domain::keeper::Plan;
use hypervisor_core::ids::MachineAddr;

/// A boot module with its names.
struct Named {
    bytes: &'static [u8],
    /// File name.
    file: String,
    /// What stands behind it.
    arguments: String,
}

impl Named {
    fn first_word(&self) -> &str {
        self.arguments.split_whitespace().next().unwrap_or("")
    }

    fn is_called(&self, name: &str) -> bool {
        self.file == name || self.first_word() == name
    }

    /// For a person who is looking for it.
    fn name(&self) -> &str {
        if self.file.is_empty() { self.first_word() } else { &self.file }
    }
}

/// The boot modules.
pub struct Modules(Vec<Named>);

/// The first domain, when it is not described.
pub struct Dom0 {
    image: &'static [u8],
    initrd: Option<&'static [u8]>,
    cmdline: String,
}

impl Dom0 {
    /// What it is built from.
    pub fn source(&self) -> DomainSource<'_> {
        DomainSource { image: self.image, initrd: self.initrd, cmdline: &self.cmdline, video: None }
    }
}

/// What is to be started.
pub struct Domains {
    /// The described ones.
    pub plans: Vec<Plan>,
    /// The channels between them.
    pub channels: Vec<Channel>,
    /// A first domain beside them.
    pub dom0: Option<Dom0>,
}

impl Domains {
    /// The modules that must stay where they are for as long as the machine runs.
    pub fn modules_for_restarts(&self) -> Vec<&'static [u8]> {
        let restarted = self.plans.iter().filter(|plan| plan.description.restart.when != When::Never);
        restarted.flat_map(|plan| core::iter::once(plan.image).chain(plan.initrd)).collect()
    }
}

impl Modules {
    /// Reads their names. Their bytes stay out of every allocator until `memory::release_modules`.
    pub fn new(boot: &BootInfo) -> Self {
        let named = |module: &Module| {
            let text = loader_text(module.string);
            let file = if boot.names_first { text.split_whitespace().next().unwrap_or("") } else { "" };
            let file = file.rsplit('/').next().unwrap_or("").into();
            Named { bytes: module_bytes(module), file, arguments: loader_string(boot, module.string) }
        };
        Self(boot.modules().iter().map(named).collect())
    }

    /// Whether `bytes` are those of this module.
    pub fn is(&self, module: &Module, bytes: &[u8]) -> bool {
        core::ptr::eq(module_bytes(module), bytes)
    }

    /// What is to be started. Fails with a sentence for whoever wrote the description.
    pub fn domains(&self) -> Result<Domains, String> {
        let all = || self.0.iter().enumerate();
        let mut found = all().filter(|(_, module)| is_description(&module.file, module.bytes));
        let Some((at, text)) = found.next() else {
            let dom0 = Some(self.dom0(self.0.len())?);
            return Ok(Domains { plans: Vec::new(), channels: Vec::new(), dom0 });
        };
        if let Some((_, other)) = found.next() {
            return Err(format!(
                "there are two descriptions of domains, {} and {}",
                text.name(),
                other.name()
            ));
        }
        let described = Descriptions::parse(text.bytes).map_err(|why| format!("{}, {why}", text.name()))?;
        let dom0 = if at == 0 { None } else { Some(self.dom0(at)?) };
        if let Some(twice) = described.domains.iter().find(|d| d.id == Some(0) && dom0.is_some()) {
            let (name, line) = (text.name(), twice.line);
            return Err(format!(
                "{name}, line {line}: the first domain is described, and is the first boot module too"
            ));
        }
        let plans = described.domains.into_iter().map(|d| self.plan(d, text.name()));
        Ok(Domains { plans: plans.collect::<Result<_, _>>()?, channels: described.channels, dom0 })
    }

    /// The first domain from the first modules; `description` is not one of its own.
    fn dom0(&self, description: usize) -> Result<Dom0, String> {
        let kernel = self.0.first().ok_or("no boot module")?;
        let initrd = self.0.get(1).filter(|_| description != 1).map(|module| module.bytes);
        Ok(Dom0 { image: kernel.bytes, initrd, cmdline: kernel.arguments.clone() })
    }

    fn plan(&self, description: Description, text: &str) -> Result<Plan, String> {
        let find = |name: &str| {
            self.0.iter().find(|module| module.is_called(name)).map(|module| module.bytes).ok_or_else(|| {
                let names: Vec<_> = self.0.iter().map(Named::name).collect();
                let line = description.line;
                let names = names.join(", ");
                format!("{text}, line {line}: no boot module is called `{name}`; there are {names}")
            })
        };
        let image = find(&description.kernel)?;
        let initrd = description.initrd.as_deref().map(find).transpose()?;
        Ok(Plan { image, initrd, description })
    }
}

/// The bytes of a module.
fn module_bytes(module: &Module) -> &'static [u8] {
    let (start, end) = (module.start, module.end.max(module.start));
    // SAFETY: the module's frames are kept out of every allocator until `release_modules`, and those of domains that may be
    // restarted for ever; the keeper forgets the others when it has built their domains.
    unsafe { core::slice::from_raw_parts(direct(MachineAddr(start)) as *const u8, (end - start) as usize) }
}
