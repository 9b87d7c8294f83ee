//! Hypercalls: from a number and six registers to the function that serves it, and back to a return value.
//!
//! The binary's entry code calls [`dispatch`] with the registers of a `syscall` from guest kernel mode (`iret` it
//! serves itself). A static table of function pointers per [`Platform`] leads to an *adapter*: a function of one
//! signature ([`Handler`]) that copies arguments in, calls the subsystem, and copies results out. One file per group of
//! hypercalls; the subsystems know nothing of registers. Dispatching takes no lock and allocates nothing.
//!
//! A long operation stops when the CPU has other work to do and answers [`Outcome::Again`]: the guest re-executes the
//! hypercall with arguments that continue where it stopped.

mod bitmap;
pub mod callback;
pub mod console;
pub mod cpu;
pub mod descriptor;
pub mod domctl;
pub mod event;
pub mod grant;
pub mod hvm;
pub mod mca;
pub mod memory;
pub mod memory_types;
pub mod mmu;
pub mod multicall;
pub mod physdev;
pub mod platform;
pub mod sched;
pub mod sysctl;
#[cfg(test)]
mod tests;
pub mod unsupported;
pub mod vcpu;
mod vcpu_init;
pub mod version;

pub(crate) use callback::nmi_reasons;

use crate::Hypervisor;
use crate::domain::{Domain, Restart, Vcpu, VcpuRef};
use crate::event::EventError;
use crate::page::PageError;
use crate::platform::{GuestFault, Platform};
use crate::regs::Regs;
use alloc::sync::Arc;
use core::marker::PhantomData;
use xen_abi::errno::Errno;
use xen_abi::hypercall::nr;

/// Who makes a hypercall, and on which machine: what every adapter is handed.
pub struct Cx<'a, P: Platform> {
    /// The hypervisor.
    pub hv: &'a Hypervisor<P>,
    /// The domain that calls.
    pub domain: &'a Arc<Domain<P>>,
    /// The vCPU that calls; it runs on this CPU.
    pub vcpu: &'a Vcpu<P>,
}

impl<P: Platform> Clone for Cx<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for Cx<'_, P> {}

impl<P: Platform> Cx<'_, P> {
    /// The calling vCPU as something that may be kept.
    pub fn vcpu_ref(&self) -> VcpuRef<P> {
        VcpuRef { domain: self.domain.clone(), id: self.vcpu.id }
    }
}

/// How a hypercall ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Finished: the value for the guest's `rax`, negative errno or not.
    Done(i64),
    /// Preempted: the guest makes the same hypercall again, with these arguments.
    Again([u64; 6]),
    /// The guest's registers were replaced as a whole; nothing is to be written into them.
    RegsReplaced,
}

impl From<Errno> for Outcome {
    fn from(error: Errno) -> Self {
        Self::Done(error.to_ret())
    }
}

impl<E: Into<Errno>> From<Result<i64, E>> for Outcome {
    fn from(result: Result<i64, E>) -> Self {
        match result {
            Ok(value) => Self::Done(value),
            Err(error) => error.into().into(),
        }
    }
}

impl<E: Into<Errno>> From<Result<(), E>> for Outcome {
    fn from(result: Result<(), E>) -> Self {
        Self::from(result.map(|()| 0))
    }
}

/// Why an operation was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It was refused.
    Errno(Errno),
    /// This CPU has other work first. Nothing was changed that doing it again would not find in order.
    Restart,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Failure::Errno(errno)
    }
}

impl From<GuestFault> for Failure {
    fn from(fault: GuestFault) -> Self {
        Failure::Errno(fault.into())
    }
}

impl From<PageError> for Failure {
    fn from(error: PageError) -> Self {
        match error {
            PageError::Restart => Failure::Restart,
            other => Failure::Errno(other.errno()),
        }
    }
}

impl From<EventError> for Failure {
    fn from(error: EventError) -> Self {
        match error {
            EventError::Restart => Failure::Restart,
            other => Failure::Errno(other.into()),
        }
    }
}

impl From<Restart> for Failure {
    fn from(Restart: Restart) -> Self {
        Failure::Restart
    }
}

/// The end of a hypercall that is made again, with the arguments that it had, where it could not be done now.
pub(crate) fn done_or_again(result: Result<i64, Failure>, args: &[u64; 6]) -> Outcome {
    match result {
        Ok(value) => Outcome::Done(value),
        Err(Failure::Errno(errno)) => errno.into(),
        Err(Failure::Restart) => Outcome::Again(*args),
    }
}

/// An argument that the ABI declares as 32 bits wide: the rest of its register is ignored (xen-x86_64.h).
pub(crate) fn low32(arg: u64) -> u32 {
    (arg & 0xffff_ffff) as u32
}

/// The one signature of all adapters. `args` are the argument registers (or a multicall entry's arguments); `regs` are the
/// guest's registers, for the few hypercalls that look at them.
pub type Handler<P> = for<'a> fn(Cx<'a, P>, &[u64; 6], &mut Regs) -> Outcome;

/// One more than the highest hypercall number (xen.h).
pub const HYPERCALLS: usize = 64;

/// The hypercall that a number names, or the one that answers `-ENOSYS`.
struct Table<P>(PhantomData<P>);

impl<P: Platform> Table<P> {
    /// By number. Numbers without a line here do not exist on 4.17 either (or not for PV guests).
    const HANDLERS: &'static [Handler<P>; HYPERCALLS] = &{
        let mut table: [Handler<P>; HYPERCALLS] = [unsupported::no_such_hypercall; HYPERCALLS];
        table[nr::SET_TRAP_TABLE as usize] = callback::set_trap_table;
        table[nr::MMU_UPDATE as usize] = mmu::mmu_update;
        table[nr::SET_GDT as usize] = descriptor::set_gdt;
        table[nr::STACK_SWITCH as usize] = cpu::stack_switch;
        table[nr::SET_CALLBACKS as usize] = callback::set_callbacks;
        table[nr::FPU_TASKSWITCH as usize] = cpu::fpu_taskswitch;
        table[nr::SCHED_OP_COMPAT as usize] = sched::sched_op_compat;
        table[nr::PLATFORM_OP as usize] = platform::platform_op;
        table[nr::SET_DEBUGREG as usize] = cpu::set_debugreg;
        table[nr::GET_DEBUGREG as usize] = cpu::get_debugreg;
        table[nr::UPDATE_DESCRIPTOR as usize] = descriptor::update_descriptor;
        table[nr::MEMORY_OP as usize] = memory::memory_op;
        table[nr::MULTICALL as usize] = multicall::multicall;
        table[nr::UPDATE_VA_MAPPING as usize] = mmu::update_va_mapping;
        table[nr::SET_TIMER_OP as usize] = vcpu::set_timer_op;
        table[nr::EVENT_CHANNEL_OP_COMPAT as usize] = event::event_channel_op_compat;
        table[nr::XEN_VERSION as usize] = version::xen_version;
        table[nr::CONSOLE_IO as usize] = console::console_io;
        table[nr::PHYSDEV_OP_COMPAT as usize] = physdev::physdev_op_compat;
        table[nr::GRANT_TABLE_OP as usize] = grant::grant_table_op;
        table[nr::VM_ASSIST as usize] = version::vm_assist;
        table[nr::UPDATE_VA_MAPPING_OTHERDOMAIN as usize] = mmu::update_va_mapping_otherdomain;
        table[nr::IRET as usize] = cpu::iret;
        table[nr::VCPU_OP as usize] = vcpu::vcpu_op;
        table[nr::SET_SEGMENT_BASE as usize] = cpu::set_segment_base;
        table[nr::MMUEXT_OP as usize] = mmu::mmuext_op;
        table[nr::NMI_OP as usize] = callback::nmi_op;
        table[nr::SCHED_OP as usize] = sched::sched_op;
        table[nr::CALLBACK_OP as usize] = callback::callback_op;
        table[nr::EVENT_CHANNEL_OP as usize] = event::event_channel_op;
        table[nr::PHYSDEV_OP as usize] = physdev::physdev_op;
        table[nr::HVM_OP as usize] = hvm::hvm_op;
        table[nr::SYSCTL as usize] = sysctl::sysctl;
        table[nr::DOMCTL as usize] = domctl::domctl;
        table[nr::XENPMU_OP as usize] = unsupported::xenpmu_op;
        table[nr::MCA as usize] = mca::mca;
        table
    };
}

/// Serves hypercall `nr` with the arguments in `regs`, and says what becomes of the guest.
pub fn dispatch<P: Platform>(cx: Cx<'_, P>, nr: u64, regs: &mut Regs) -> Outcome {
    let args = regs.hypercall_args();
    call(cx, nr, &args, regs)
}

/// Serves hypercall `nr` with arguments from anywhere.
pub(crate) fn call<P: Platform>(cx: Cx<'_, P>, nr: u64, args: &[u64; 6], regs: &mut Regs) -> Outcome {
    let Some(index) = usize::try_from(nr).ok().filter(|index| *index < HYPERCALLS) else {
        return Errno::ENOSYS.into();
    };
    // Nor does the CPU speculate on a call beyond the table.
    const { assert!(HYPERCALLS.is_power_of_two()) };
    Table::<P>::HANDLERS[cx.hv.platform.unknown(index) % HYPERCALLS](cx, args, regs)
}
