//! The commands of the hypercalls that have them (`EVTCHNOP_send`, `XENMEM_exchange`, …), found among the constants of
//! this crate by how the headers name them: a constant that is added is a command from then on.

use super::nr;
use crate::registry::{CName, Module, Value};

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// The hypercall's number.
    pub hypercall: u32,
    /// The constant.
    pub name: &'static str,
    /// The C name.
    pub c: &'static str,
    /// The command's number.
    pub number: u64,
}

/// What the commands of one hypercall are called.
struct Naming {
    hypercall: u32,
    prefix: &'static str,
    /// Starts of constants that are called so without being commands: flags, commands of commands, versions.
    not: &'static [&'static str],
    /// The end of the path of the file with the commands, where others have the prefix too.
    file: &'static str,
}

const fn naming(hypercall: u32, prefix: &'static str, not: &'static [&'static str]) -> Naming {
    Naming { hypercall, prefix, not, file: ".rs" }
}

/// By hypercall. Those that are missing have no commands, or (`dm_op`, `hypfs_op`, `kexec_op`, …) none that concern a
/// PV guest.
const NAMINGS: &[Naming] = &[
    naming(nr::MMU_UPDATE, "MMU_", &["MMU_UPDATE"]),
    naming(nr::PLATFORM_OP, "XENPF_", &["XENPF_INTERFACE_VERSION", "XENPF_ACPI_SLEEP_EXTENDED"]),
    naming(
        nr::MEMORY_OP,
        "XENMEM_",
        &[
            "XENMEM_ACCESS_",
            "XENMEM_FORK_",
            "XENMEM_PAGING_OP_",
            "XENMEM_RDM_",
            "XENMEM_RESOURCE_",
            "XENMEM_SHARING_OP_",
        ],
    ),
    naming(nr::XEN_VERSION, "XENVER_", &[]),
    naming(nr::CONSOLE_IO, "CONSOLEIO_", &[]),
    naming(nr::GRANT_TABLE_OP, "GNTTABOP_", &[]),
    naming(nr::VM_ASSIST, "VMASST_TYPE_", &[]),
    naming(nr::VCPU_OP, "VCPUOP_", &[]),
    naming(nr::SET_SEGMENT_BASE, "SEGBASE_", &[]),
    naming(nr::MMUEXT_OP, "MMUEXT_", &["MMUEXT_OP"]),
    naming(nr::NMI_OP, "XENNMI_", &[]),
    naming(nr::SCHED_OP, "SCHEDOP_", &[]),
    naming(nr::CALLBACK_OP, "CALLBACKOP_", &[]),
    naming(nr::EVENT_CHANNEL_OP, "EVTCHNOP_", &[]),
    naming(
        nr::PHYSDEV_OP,
        "PHYSDEVOP_",
        &["PHYSDEVOP_DBGP_BUS_", "PHYSDEVOP_DBGP_RESET_", "PHYSDEVOP_IRQ_UNMASK_NOTIFY"],
    ),
    naming(nr::ARGO_OP, "XEN_ARGO_OP_", &[]),
    naming(nr::MCA, "XEN_MC_FETCH", &["XEN_MC_FETCHFAILED"]),
    naming(nr::MCA, "XEN_MC_NOTIFYDOMAIN", &[]),
    naming(nr::MCA, "XEN_MC_PHYSCPUINFO", &[]),
    naming(nr::MCA, "XEN_MC_MSRINJECT", &[]),
    naming(nr::MCA, "XEN_MC_MCEINJECT", &[]),
    naming(nr::MCA, "XEN_MC_INJECT_V2", &[]),
    Naming {
        hypercall: nr::SYSCTL,
        prefix: "XEN_SYSCTL_",
        not: &["XEN_SYSCTL_INTERFACE_VERSION"],
        file: "sysctl/command.rs",
    },
    Naming {
        hypercall: nr::DOMCTL,
        prefix: "XEN_DOMCTL_",
        not: &["XEN_DOMCTL_INTERFACE_VERSION"],
        file: "domctl/command.rs",
    },
];

impl Naming {
    /// Whether a constant of `module` is a command of this hypercall. A name of the exceptions that ends in `_` stands for
    /// all that start so.
    fn fits(&self, module: &Module, name: &str) -> bool {
        let excepted = |not: &&str| if not.ends_with('_') { name.starts_with(*not) } else { name == *not };
        let is_access = name == "XENMEM_ACCESS_OP";
        module.file.ends_with(self.file)
            && name.starts_with(self.prefix)
            && (is_access || !self.not.iter().any(excepted))
    }
}

/// Calls `visit` for each command of every hypercall.
pub fn for_each(visit: &mut impl FnMut(Command)) {
    crate::ABI.walk(&mut |module| {
        for constant in module.consts {
            let Value::Int(number) = constant.value else { continue };
            for naming in NAMINGS.iter().filter(|naming| naming.fits(module, constant.name)) {
                visit(Command {
                    hypercall: naming.hypercall,
                    name: constant.name,
                    c: match constant.c {
                        CName::Is(c) => c,
                        CName::Absent(_) => constant.name,
                    },
                    number,
                });
            }
        }
    });
}
