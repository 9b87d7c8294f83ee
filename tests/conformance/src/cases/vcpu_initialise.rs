//! `VCPUOP_initialise` (vcpu.h, arch-x86/xen.h `struct vcpu_guest_context`).

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use guest_pv_lib::Errno;
use xen_abi::arch_x86::*;
use xen_abi::vcpu::*;

use crate::call::{FAULTS, HYPERVISOR, NO_FRAME, NON_CANONICAL, Ret, all_fault};
use crate::harness::{Env, check, same};
use crate::smp::{context, initialise, start, vcpu_at, wait};

static SEEN: AtomicU64 = AtomicU64::new(0);

/// Notes an x87 control word and a debug register, and goes down.
extern "sysv64" fn look(id: u64) -> ! {
    let mut control = 0u16;
    let dr0: u64;
    // SAFETY: stores to a local; reading a debug register is emulated.
    unsafe {
        core::arch::asm!("fnstcw word ptr [{}]", in(reg) &raw mut control, options(nostack));
        core::arch::asm!("mov {}, dr0", out(reg) dr0, options(nomem, nostack));
    }
    SEEN.store(1 << 63 | dr0 << 16 | u64::from(control), SeqCst);
    loop {
        let _ = vcpu_at(VCPUOP_DOWN, id as u32, 0);
    }
}

/// Initialises vCPU 3 with a changed context.
fn refused(env: &Env, change: impl FnOnce(&mut VcpuGuestContext)) -> Ret {
    let mut context = context(env, 3, look, 3);
    change(&mut context);
    initialise(3, &context)
}

returns! {
    /// Bad pointers.
    #[vcpus(4)]
    fault(env): all_fault(|at| vcpu_at(VCPUOP_INITIALISE, 3, at)) => FAULTS;
    /// A vCPU that was never initialised cannot be brought up.
    #[vcpus(4)]
    up_without_context(env): vcpu_at(VCPUOP_UP, 3, 0) => Err(Errno::EINVAL);
    /// It is down.
    #[vcpus(4)]
    is_down(env): vcpu_at(VCPUOP_IS_UP, 3, 0) => Ok(0);
    /// A vCPU that runs has its context.
    running(env): initialise(0, &context(env, 1, look, 0)) => Err(Errno::EEXIST);
    /// An instruction pointer that no pointer is.
    #[vcpus(4)]
    bad_rip(env): refused(env, |c| c.user_regs.rip = NON_CANONICAL) => Err(Errno::EINVAL);
    /// A stack pointer that no pointer is.
    #[vcpus(4)]
    bad_rsp(env): refused(env, |c| c.user_regs.rsp = NON_CANONICAL) => Err(Errno::EINVAL);
    /// A kernel stack that no pointer is.
    #[vcpus(4)]
    bad_kernel_sp(env): refused(env, |c| c.kernel_sp = NON_CANONICAL) => Err(Errno::EINVAL);
    /// Segment bases that no pointers are.
    #[vcpus(4)]
    bad_bases(env): [
        refused(env, |c| c.fs_base = NON_CANONICAL),
        refused(env, |c| c.gs_base_kernel = NON_CANONICAL),
        refused(env, |c| c.gs_base_user = NON_CANONICAL),
    ] => [Err(Errno::EINVAL); 3];
    /// Callbacks that no pointers are.
    #[vcpus(4)]
    bad_callbacks(env): [
        refused(env, |c| c.event_callback_eip = NON_CANONICAL),
        refused(env, |c| c.failsafe_callback_eip = NON_CANONICAL),
        refused(env, |c| c.syscall_callback_eip = NON_CANONICAL),
    ] => [Err(Errno::EINVAL); 3];
    /// A trap handler that no pointer is.
    #[vcpus(4)]
    bad_trap(env): refused(env, |c| c.trap_ctxt[255].address = NON_CANONICAL) => Err(Errno::EINVAL);
    /// The LDT: in the middle of a page, in the hypervisor, too long.
    #[vcpus(4)]
    bad_ldt(env): [
        refused(env, |c| c.ldt_base = 8),
        refused(env, |c| c.ldt_base = HYPERVISOR),
        refused(env, |c| c.ldt_ents = 8193),
    ] => [Err(Errno::EINVAL); 3];
    /// More entries than the GDT has frames for.
    #[vcpus(4)]
    gdt_too_long(env): refused(env, |c| c.gdt_ents = 16 * 512 + 1) => Err(Errno::EINVAL);
    /// A GDT frame that is not the domain's.
    #[vcpus(4)]
    gdt_frame(env): refused(env, |c| {
        c.gdt_ents = 1;
        c.gdt_frames[0] = NO_FRAME;
    }) => Err(Errno::EINVAL);
    /// A page table that is not the domain's.
    #[vcpus(4)]
    bad_root(env): refused(env, |c| c.ctrlreg[3] = 0x7_ffff_f000) => Err(Errno::EINVAL);
    /// Frame 0 is no page table either: no register of the kernel's root means that there is to be none.
    #[vcpus(4)]
    root_of_frame_0(env): [0, 0xfff].map(|register| refused(env, |c| c.ctrlreg[3] = register))
        => [Err(Errno::EINVAL); 2];
    /// A register of the user root that is not 0 names a frame, be it frame 0.
    #[vcpus(4)]
    user_root_of_frame_0(env): [0, VGCF_IN_KERNEL].map(|flags| refused(env, |c| {
        c.flags = flags;
        c.ctrlreg[1] = 1;
    })) => [Err(Errno::EINVAL); 2];
    /// User mode needs a page table of its own.
    #[vcpus(4)]
    user_mode_without_table(env): refused(env, |c| c.flags = 0) => Err(Errno::EINVAL);
}

case! {
    /// The FPU image and the debug registers of the context are what the vCPU starts with, and the second initialisation is
    /// refused.
    #[alone]
    #[vcpus(4)]
    fn fpu_and_breakpoints(env) {
        let mut context = context(env, 3, look, 3);
        context.flags |= VGCF_I387_VALID;
        context.fpu_ctxt[0] = 0x7f;
        context.fpu_ctxt[1] = 0x02;
        context.fpu_ctxt[24] = 0x80;
        context.fpu_ctxt[25] = 0x1f;
        context.debugreg[0] = 0x1234_5000;
        // Enabled for a data address that nothing touches.
        context.debugreg[7] = 1 | 0b0011 << 16;
        same("initialise", initialise(3, &context), Ok(0))?;
        same("up", vcpu_at(VCPUOP_UP, 3, 0), Ok(0))?;
        check("it ran", wait(|| SEEN.load(SeqCst) != 0))?;
        let seen = SEEN.load(SeqCst);
        same("control word", seen & 0xffff, 0x27f)?;
        same("DR0", seen >> 16 & 0xffff_ffff, 0x1234_5000)?;
        check("down", wait(|| vcpu_at(VCPUOP_IS_UP, 3, 0) == Ok(0)))?;
        same("again", initialise(3, &context), Err(Errno::EEXIST))
    }
}

fn initialise_3(context: u64) -> u64 {
    vcpu_at(VCPUOP_INITIALISE, 3, context).map_or_else(|error| u64::from(error == Errno::EEXIST), |_| 2)
}

case! {
    /// XSA-296: of two vCPUs that initialise a third at once, one does it, whole; the other hears that it is done.
    #[alone]
    #[vcpus(4)]
    #[cpus(2)]
    fn xsa_296_two_at_once(env) {
        let context = context(env, 3, look, 3);
        let other = start(env, 1, initialise_3, &raw const context as u64)?;
        let mine = initialise_3(&raw const context as u64);
        let theirs = other.finish()?;
        same("one did it, one was told", mine + theirs, 3)?;
        same("up", vcpu_at(VCPUOP_UP, 3, 0), Ok(0))?;
        check("it ran", wait(|| SEEN.load(SeqCst) != 0))
    }
}

case! {
    /// Without an FPU image a vCPU starts as after reset.
    #[alone]
    #[vcpus(4)]
    fn no_fpu_image(env) {
        let context = context(env, 3, look, 3);
        same("initialise", initialise(3, &context), Ok(0))?;
        same("not yet up", vcpu_at(VCPUOP_IS_UP, 3, 0), Ok(0))?;
        same("up", vcpu_at(VCPUOP_UP, 3, 0), Ok(0))?;
        check("it ran", wait(|| SEEN.load(SeqCst) != 0))?;
        same("control word", SEEN.load(SeqCst) & 0xffff, 0x37f)
    }
}
