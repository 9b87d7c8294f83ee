//! Exceptions as a guest kernel sees them, `set_trap_table`, `callback_op`, `fpu_taskswitch` (xen.h, callback.h).

use guest_pv_lib::Errno;
use guest_pv_lib::traps::Vector;
use xen_abi::arch_x86::{FLAT_KERNEL_CS, TrapInfo};
use xen_abi::callback::*;
use xen_abi::hypercall::nr;

use crate::call::{FAULTS, NON_CANONICAL, Ret, all_fault, hc1, hc2, op};
use crate::harness::fault::{self, Fault};
use crate::harness::{check, need, same};

fn register(type_: u16, address: u64) -> Ret {
    op(
        nr::CALLBACK_OP,
        CALLBACKOP_REGISTER,
        &mut CallbackRegister { type_, address, ..CallbackRegister::default() },
    )
}

returns! {
    /// Bad pointers. (A null table is legal: it clears the vectors.)
    trap_table_fault(env): all_fault(|at| hc1(nr::SET_TRAP_TABLE, at)) => FAULTS;
    /// A handler at an address that does not exist.
    trap_table_non_canonical(env): {
        let table = [
            TrapInfo { vector: 0x90, cs: FLAT_KERNEL_CS, address: NON_CANONICAL, ..TrapInfo::default() },
            TrapInfo::default(),
        ];
        hc1(nr::SET_TRAP_TABLE, table.as_ptr() as u64)
    } => Err(Errno::EINVAL);
    /// A callback that does not exist.
    callback_unknown(env): register(99, env.page(0).virt()) => Err(Errno::ENOSYS);
    /// A callback at an address that does not exist.
    callback_non_canonical(env): register(CALLBACKTYPE_SYSCALL, NON_CANONICAL) => Err(Errno::EINVAL);
    /// Bad pointers.
    callback_fault(env): all_fault(|at| hc2(nr::CALLBACK_OP, u64::from(CALLBACKOP_REGISTER), at)) => FAULTS;
    /// The event callback cannot be taken away.
    callback_unregister_event(env): op(nr::CALLBACK_OP, CALLBACKOP_UNREGISTER, &mut CallbackUnregister {
        type_: CALLBACKTYPE_EVENT, ..CallbackUnregister::default()
    }) => Err(Errno::EINVAL);
    /// A command that does not exist.
    callback_unknown_command(env): op(nr::CALLBACK_OP, 9, &mut 0u64) => Err(Errno::ENOSYS);
    /// Entry points of instructions that a processor need not have are registered all the same.
    callback_syscall(env): register(CALLBACKTYPE_SYSCALL, env.page(0).virt()) => Ok(0);
}

case! {
    /// The probe that the other cases use.
    fn probe_self_test(env) {
        let _ = env;
        check("probe", fault::self_test())
    }
}

case! {
    /// `ud2` arrives as vector 6, the address is the instruction's.
    fn invalid_opcode(env) {
        let _ = env;
        // SAFETY: the handler resumes behind the instruction.
        same("ud2", unsafe { probe!("ud2") }, Err(Fault::of(Vector::INVALID_OPCODE, 0)))
    }
}

case! {
    /// `int3` arrives as vector 3.
    fn breakpoint(env) {
        let _ = env;
        same("int3", fault::breakpoint(), Err(Fault::of(Vector::BREAKPOINT, 0)))
    }
}

case! {
    /// A division by zero arrives as vector 0.
    fn divide_error(env) {
        let _ = env;
        // SAFETY: as above.
        let fault = unsafe {
            probe!("div {zero:r}", zero = in(reg) 0u64, inout("rax") 1u64 => _, inout("rdx") 0u64 => _)
        };
        same("div", fault, Err(Fault::of(Vector::DIVIDE_ERROR, 0)))
    }
}

case! {
    /// An access to a non-canonical address arrives as vector 13 with error code 0.
    fn general_protection(env) {
        let _ = env;
        same("read", fault::read(NON_CANONICAL), Err(Fault::of(Vector::GENERAL_PROTECTION, 0)))
    }
}

case! {
    /// The hypervisor's memory is out of reach, and says so like a protected page.
    fn hypervisor_memory(env) {
        let _ = env;
        let fault = fault::read(crate::call::HYPERVISOR);
        check("a fault", fault.is_err())
    }
}

case! {
    /// The M2P can be read but not written.
    fn m2p_is_read_only(env) {
        let at = xen_abi::arch_x86::MACH2PHYS_VIRT_START + 8 * env.page(0).mfn().0;
        same("read", fault::read(at), Ok(env.page(0).pfn().0))?;
        check("write", fault::write(at, 0).is_err())
    }
}

case! {
    /// With TS set an x87 instruction arrives as vector 7; TS is clear again when the handler runs.
    fn device_not_available(env) {
        let _ = env;
        need("fpu_taskswitch", hc1(nr::FPU_TASKSWITCH, 1))?;
        // SAFETY: `fninit` touches x87 state only, which this kernel does not use.
        let first = unsafe { probe!("fninit") };
        // SAFETY: as above.
        let second = unsafe { probe!("fninit") };
        need("fpu_taskswitch", hc1(nr::FPU_TASKSWITCH, 0))?;
        same("with TS", first, Err(Fault::of(Vector::DEVICE_NOT_AVAILABLE, 0)))?;
        same("afterwards", second, Ok(()))
    }
}
