//! `set_gdt` and `update_descriptor`.

use super::{Cx, Outcome, low32};
use crate::cpumask::CpuMask;
use crate::guest_ptr::GuestPtr;
use crate::ids::Mfn;
use crate::page::{GDT_ENTRIES, PageError};
use crate::platform::Platform;
use crate::regs::Regs;
use xen_abi::errno::Errno;

/// Frames of the guest's part of a GDT.
const FRAMES: usize = GDT_ENTRIES as usize / 512;

/// `set_gdt(frames, entries)`: makes a list of frames the guest's part of the calling vCPU's GDT.
pub fn set_gdt<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    let entries = low32(args[1]);
    if entries > GDT_ENTRIES {
        return Errno::EINVAL.into();
    }
    let mut frames = [0u64; FRAMES];
    let frames = &mut frames[..entries.div_ceil(512) as usize];
    if GuestPtr::new(args[0]).read_slice(cx.hv, frames).is_err() {
        return Errno::EFAULT.into();
    }
    let mut mfns = [Mfn(0); FRAMES];
    for (mfn, frame) in mfns.iter_mut().zip(&*frames) {
        *mfn = Mfn(*frame);
    }
    match cx.hv.set_gdt(cx.domain, cx.vcpu, &mfns[..frames.len()], entries) {
        Ok(()) => {
            cx.hv.platform.load_descriptor_tables(cx.vcpu);
            cx.hv.flush_tlb_all(&CpuMask::of(cx.hv.platform.this_cpu()));
            Outcome::Done(0)
        }
        Err(PageError::Restart) => Outcome::Again(*args),
        // Xen makes no difference between reasons here.
        Err(_) => Errno::EINVAL.into(),
    }
}

/// `update_descriptor(address, descriptor)`: writes one descriptor at a machine address.
pub fn update_descriptor<P: Platform>(cx: Cx<'_, P>, args: &[u64; 6], _regs: &mut Regs) -> Outcome {
    match cx.hv.update_descriptor(cx.domain, args[0], args[1]) {
        Err(PageError::Restart) => Outcome::Again(*args),
        answer => answer.map_err(PageError::errno).into(),
    }
}
