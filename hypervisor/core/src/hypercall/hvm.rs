//! `hvm_op(op, arg)`: parameters and services of hardware guests, asked by or about a PV guest.
//!
//! | operation | answer |
//! |---|---|
//! | get_time | the system time |
//! | xentrace | accepted: nothing is traced |
//! | guest_request_vm_event | accepted without an argument: nobody listens |
//! | set_param, get_param, pagetable_dying, get_mem_type | `ESRCH` for no such domain, else `EINVAL` |
//! | flush_tlbs, set_evtchn_upcall_vector | `EINVAL` |
//! | altp2m | `EOPNOTSUPP` |
//! | any other | `ENOSYS` |

use super::{Cx, Outcome, low32};
use crate::guest_ptr::GuestPtr;
use crate::ids::DomId;
use crate::platform::Platform;
use crate::regs::Regs;
use xen_abi::errno::Errno;
use xen_abi::hvm::hvm_op::*;

/// Event numbers of a hardware guest's own.
const TRACE_EVENTS: u16 = 1 << 12;

/// # Errors
/// See the head of the module; `EFAULT` where an argument cannot be read.
pub fn hvm_op<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    serve(cx, low32(args[0]), args[1]).into()
}

fn serve<P: Platform>(cx: Cx<'_, P>, op: u32, arg: u64) -> Result<i64, Errno> {
    let hv = cx.hv;
    match op {
        HVMOP_SET_PARAM | HVMOP_GET_PARAM | HVMOP_PAGETABLE_DYING | HVMOP_GET_MEM_TYPE => {
            // All of their arguments have this size, and begin with the domain.
            let about = GuestPtr::<XenHvmParam>::new(arg).read(hv)?;
            hv.named_domain(cx.domain, DomId(about.domid)).ok_or(Errno::ESRCH)?;
            Err(Errno::EINVAL)
        }
        HVMOP_FLUSH_TLBS | HVMOP_SET_EVTCHN_UPCALL_VECTOR => Err(Errno::EINVAL),
        HVMOP_GET_TIME => {
            let now = hv.platform.now().0;
            Ok(GuestPtr::new(arg).write(hv, &XenHvmGetTime { now }).map(|()| 0)?)
        }
        HVMOP_XENTRACE => {
            let trace = GuestPtr::<XenHvmXentrace>::new(arg).read(hv)?;
            let fits = usize::from(trace.extra_bytes) <= trace.extra.len() && trace.event < TRACE_EVENTS;
            if fits { Ok(0) } else { Err(Errno::EINVAL) }
        }
        HVMOP_GUEST_REQUEST_VM_EVENT if arg == 0 => Ok(0),
        HVMOP_GUEST_REQUEST_VM_EVENT => Err(Errno::EINVAL),
        HVMOP_ALTP2M => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::ENOSYS),
    }
}
