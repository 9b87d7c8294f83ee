//! Hypercalls that exist on Xen and that this hypervisor does not serve, each with the answer that a guest is prepared for.
//!
//! | hypercall | answer | because |
//! |---|---|---|
//! | `domctl`, `sysctl` | `EFAULT`, `EACCES` for another interface version, `EPERM` unprivileged, else `ENOSYS` | there is no toolstack interface |
//! | `hvm_op` | `ENOSYS` | a PV guest has no HVM parameters |
//! | `xenpmu_op` | `EOPNOTSUPP` | performance counters are not given to guests (Xen's default, too) |
//! | `xsm_op`, `xenoprof_op`, `kexec_op`, `tmem_op`, `argo_op`, `dm_op`, `hypfs_op` | `ENOSYS` | Xen answers so where they are configured out |
//! | any other number | `ENOSYS` | there is no such hypercall |

use super::{Cx, Outcome};
use crate::guest_ptr::GuestPtr;
use crate::platform::{GuestFault, Platform};
use crate::regs::Regs;
use xen_abi::domctl::{XEN_DOMCTL_INTERFACE_VERSION, XenDomctl};
use xen_abi::errno::Errno;
use xen_abi::sysctl::{XEN_SYSCTL_INTERFACE_VERSION, XenSysctl};

/// A number that no hypercall has, or one that is not served.
pub fn no_such_hypercall<P: Platform>(_cx: Cx<'_, P>, _args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    Errno::ENOSYS.into()
}

/// `hvm_op(op, arg)`: nothing in it concerns a PV guest.
pub fn hvm_op<P: Platform>(_cx: Cx<'_, P>, _args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    Errno::ENOSYS.into()
}

/// `sysctl(op)`.
pub fn sysctl<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let version = GuestPtr::<XenSysctl>::new(args[0]).read(cx.hv).map(|op| op.interface_version);
    toolstack(cx, version, XEN_SYSCTL_INTERFACE_VERSION)
}

/// `domctl(op)`.
pub fn domctl<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let version = GuestPtr::<XenDomctl>::new(args[0]).read(cx.hv).map(|op| op.interface_version);
    toolstack(cx, version, XEN_DOMCTL_INTERFACE_VERSION)
}

/// A control structure of another version is not looked into; one of ours has no command that is served.
fn toolstack<P: Platform>(cx: Cx<'_, P>, version: Result<u32, GuestFault>, ours: u32) -> Outcome {
    match version {
        Err(fault) => Errno::from(fault).into(),
        Ok(version) if version != ours => Errno::EACCES.into(),
        Ok(_) if !cx.domain.privileged => Errno::EPERM.into(),
        Ok(_) => Errno::ENOSYS.into(),
    }
}

/// `xenpmu_op(op, arg)`.
pub fn xenpmu_op<P: Platform>(_cx: Cx<'_, P>, _args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    Errno::EOPNOTSUPP.into()
}
