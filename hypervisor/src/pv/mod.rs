//! Paravirtual guests: the way in and out, and everything the hardware does for a native kernel that a PV guest gets from
//! here instead.
//!
//! A guest's kernel and user code both run in ring 3. `trap::entry` calls into this module on each entry from a
//! guest, with the guest's registers right below `PerCpu`; what is changed there is what the guest resumes with.
//! [`exit_work`] is called on the way out whenever work was raised or an event waits to be delivered.

pub mod bounce;
pub mod debug;
pub mod descriptors;
pub mod emulate;
pub mod fault;
pub mod iret;
pub mod ports;
pub mod quick;
pub mod segments;
pub mod state;
pub mod switch;

use crate::cpu::percpu::{PerCpu, guest_regs, this_cpu};
use crate::machine::{Hv, Machine, Vcpu, hv, hv_of_guest};
use alloc::sync::Arc;
use bounce::{Entry, UPCALL_MASK, UPCALL_PENDING};
use core::sync::atomic::{AtomicU64, Ordering};
use hypervisor_core::domain::{Domain, VcpuFlags};
use hypervisor_core::hypercall::{Cx, Outcome, dispatch};
use hypervisor_core::ids::DomId;
use hypervisor_core::platform::Work;
use hypervisor_core::regs::Regs;
use x86_64::instructions::interrupts;
use xen_abi::hypercall::nr;

/// What a CPU without a vCPU has in the place of a `vcpu_info`: never an event pending. No guest's entry uses it.
pub struct NoVcpuInfo([AtomicU64; 8]);

/// See [`NoVcpuInfo`].
pub static NO_VCPU_INFO: NoVcpuInfo = NoVcpuInfo([const { AtomicU64::new(UPCALL_MASK) }; 8]);

impl NoVcpuInfo {
    /// Its first word.
    pub fn as_ptr_mut(&self) -> *mut AtomicU64 {
        self.0.as_ptr().cast_mut()
    }
}

/// The vCPU that entered the hypervisor.
#[derive(Clone, Copy)]
pub struct Guest<'a> {
    /// The hypervisor.
    pub hv: &'static Hv,
    /// Its domain.
    pub domain: &'a Arc<Domain<Machine>>,
    /// The vCPU.
    pub vcpu: &'a Vcpu,
    /// First word of its `vcpu_info`.
    pub info: &'a AtomicU64,
}

impl<'a> Guest<'a> {
    /// The vCPU whose registers are on this CPU.
    pub fn current(this: &'a PerCpu) -> Self {
        let current = this.current().expect("a guest entered");
        // SAFETY: points to a frame that the vCPU holds a reference on, or into the vCPU, which `current` keeps.
        let info = unsafe { &*this.vcpu_info.load(Ordering::Relaxed) };
        // SAFETY: this is a guest's entry.
        let hv = unsafe { hv_of_guest() };
        Self { hv, domain: &current.domain, vcpu: current.vcpu(), info }
    }

    /// Whether its kernel runs, not its user code.
    pub fn in_kernel(&self) -> bool {
        self.vcpu.pv.kernel_mode.load(Ordering::Relaxed) != 0
    }

    /// The word of `vcpu_info` that stands for CR2: the address of the last page fault.
    pub fn vcpu_info_cr2(&self) -> &'a AtomicU64 {
        const WORD: usize = core::mem::offset_of!(xen_abi::xen::VcpuInfo, arch) / 8;
        // SAFETY: a `vcpu_info` is eight words, of which `info` is the first (`PvState::without_info` too).
        unsafe { &*core::ptr::from_ref(self.info).add(WORD) }
    }

    /// For the core.
    pub fn cx(&self) -> Cx<'a, Machine> {
        Cx { hv: self.hv, domain: self.domain, vcpu: self.vcpu }
    }

    /// Gives it an exception.
    pub fn exception(&self, regs: &mut Regs, vector: u8, error_code: Option<u32>) {
        bounce::exception(self.domain, self.vcpu, self.info, regs, vector, error_code);
    }
}

/// `syscall` from the guest's kernel: a hypercall. Interrupts are on.
#[unsafe(no_mangle)]
extern "sysv64" fn hypercall_from_guest(regs: &mut Regs) {
    let number = regs.rax & 0xffff_ffff;
    if number == u64::from(nr::IRET) {
        iret::iret(&Guest::current(this_cpu()), regs);
        return;
    }
    let current = this_cpu().current().expect("a guest entered");
    // SAFETY: this is a guest's entry.
    let hv = unsafe { hv_of_guest() };
    match dispatch(Cx { hv, domain: &current.domain, vcpu: current.vcpu() }, number, regs) {
        Outcome::Done(value) => regs.rax = value as u64,
        Outcome::Again(args) => {
            regs.set_hypercall_args(number, args);
            // Back onto the two-byte `syscall`: the guest makes the same hypercall again.
            regs.rip = regs.rip.wrapping_sub(2);
        }
        Outcome::RegsReplaced => {}
    }
}

/// `syscall` from 64-bit user code of the guest. Interrupts are off.
#[unsafe(no_mangle)]
extern "sysv64" fn syscall_from_user(regs: &mut Regs) {
    let guest = Guest::current(this_cpu());
    system_call(&guest, regs, guest.vcpu.pv.syscall_callback.load(Ordering::Relaxed));
}

/// `syscall` from 32-bit code (only where the CPU has it: AMD), of user or kernel.
#[unsafe(no_mangle)]
extern "sysv64" fn syscall32_from_guest(regs: &mut Regs) {
    let guest = Guest::current(this_cpu());
    system_call(&guest, regs, guest.vcpu.pv.syscall32_callback.load(Ordering::Relaxed));
}

/// Enters the callback; a 64-bit kernel's one flag about masking events is for both. Without a callback the instruction, of two
/// bytes, does not exist.
fn system_call(guest: &Guest<'_>, regs: &mut Regs, callback: u64) {
    const INVALID_OPCODE: u8 = 6;
    if callback == 0 {
        regs.rip = regs.rip.wrapping_sub(2);
        guest.exception(regs, INVALID_OPCODE, None);
        return;
    }
    let mask = guest.vcpu.pv.has_flags(VcpuFlags::SYSCALL_MASKS_EVENTS);
    bounce::syscall(guest.domain, guest.vcpu, guest.info, regs, &Entry::flat(callback, mask));
}

/// `sysenter`, from user or kernel. Without a callback it is a general protection fault, at the address zero that the instruction
/// leaves.
#[unsafe(no_mangle)]
extern "sysv64" fn sysenter_from_guest(regs: &mut Regs) {
    const GENERAL_PROTECTION: u8 = 13;
    let guest = Guest::current(this_cpu());
    let callback = guest.vcpu.pv.sysenter_callback.load(Ordering::Relaxed);
    if callback == 0 {
        guest.exception(regs, GENERAL_PROTECTION, Some(0));
        return;
    }
    let mask = guest.vcpu.pv.has_flags(VcpuFlags::SYSENTER_MASKS_EVENTS);
    bounce::enter(guest.domain, guest.vcpu, guest.info, regs, &Entry::flat(callback, mask));
}

/// On the way to the guest, with interrupts off: does raised work, then delivers an NMI or an event. Answers whether
/// anything happened after which to look again.
#[unsafe(no_mangle)]
extern "sysv64" fn exit_work(regs: &mut Regs) -> bool {
    let this = this_cpu();
    if this.work.any() {
        interrupts::enable();
        switch::do_work(hv());
        interrupts::disable();
        deliver_nmi(&Guest::current(this), regs);
        return true;
    }
    let guest = Guest::current(this);
    deliver_upcall(&guest, regs)
}

fn deliver_upcall(guest: &Guest<'_>, regs: &mut Regs) -> bool {
    let flags = guest.info.load(Ordering::Relaxed);
    let callback = guest.vcpu.pv.event_callback.load(Ordering::Relaxed);
    if flags & UPCALL_PENDING == 0 || flags & UPCALL_MASK != 0 {
        return false;
    }
    bounce::enter(guest.domain, guest.vcpu, guest.info, regs, &Entry::flat(callback, true));
    true
}

/// Whoever makes an NMI pending, or ends the handling of one, raises [`Work::NMI`] for it. Without a handler it is lost.
fn deliver_nmi(guest: &Guest<'_>, regs: &mut Regs) {
    const NMI: u8 = 2;
    let pv = &guest.vcpu.pv;
    if !pv.has_flags(VcpuFlags::NMI_PENDING) || pv.has_flags(VcpuFlags::NMI_ACTIVE) {
        return;
    }
    pv.set_flags(VcpuFlags::NMI_PENDING, false);
    if pv.traps[usize::from(NMI)].address.load(Ordering::Relaxed) != 0 {
        pv.set_flags(VcpuFlags::NMI_ACTIVE, true);
        guest.exception(regs, NMI, None);
    }
}

/// Prints what runs on this CPU, if it is a vCPU of `domain`.
pub fn show(domain: &Domain<Machine>) {
    let this = this_cpu();
    let running = this.running.load(Ordering::Relaxed) != 0;
    if running && this.current().is_some_and(|current| core::ptr::eq(&raw const *current.domain, domain)) {
        // SAFETY: the frame below PerCpu is this CPU's own, and holds the registers of the loaded vCPU.
        crate::trap::dump::guest(&unsafe { guest_regs().read() }, domain.id == DomId(0));
    }
}

/// Ends a domain for a mistake of its own, with its registers in the log, and has this CPU choose what to run next.
pub fn crash(domain: &Arc<Domain<Machine>>, regs: &Regs, why: &str) {
    // Much is printed, and what led here may have come with interrupts off.
    interrupts::enable();
    crate::trap::dump::guest(regs, domain.id == DomId(0));
    hv().crash_domain(domain, why);
    this_cpu().work.raise(Work::RESCHEDULE);
}
