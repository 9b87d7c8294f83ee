//! Hypercalls that exist on Xen and that this hypervisor does not serve, each with the answer that a guest is prepared for.
//!
//! | hypercall | answer | because |
//! |---|---|---|
//! | `xenpmu_op` | `EOPNOTSUPP` | performance counters are not given to guests (Xen's default, too) |
//! | `xsm_op`, `xenoprof_op`, `kexec_op`, `tmem_op`, `argo_op`, `dm_op`, `hypfs_op` | `ENOSYS` | Xen answers so where they are configured out |
//! | any other number | `ENOSYS` | there is no such hypercall |

use super::{Cx, Outcome};
use crate::platform::Platform;
use crate::regs::Regs;
use xen_abi::errno::Errno;

/// A number that no hypercall has, or one that is not served.
pub fn no_such_hypercall<P: Platform>(_cx: Cx<'_, P>, _args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    Errno::ENOSYS.into()
}

/// `xenpmu_op(op, arg)`.
pub fn xenpmu_op<P: Platform>(_cx: Cx<'_, P>, _args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    Errno::EOPNOTSUPP.into()
}
