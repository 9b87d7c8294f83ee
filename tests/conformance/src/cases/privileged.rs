//! Privileged instructions that the PV ABI lets a kernel execute, and what dom0 may ask of the machine.

use core::arch::asm;

use guest_pv_lib::Errno;
use guest_pv_lib::traps::Vector;
use xen_abi::hypercall::nr;
use xen_abi::physdev::*;
use xen_abi::xen::{
    VMASST_CMD_DISABLE, VMASST_CMD_ENABLE, VMASST_TYPE_4GB_SEGMENTS, VMASST_TYPE_4GB_SEGMENTS_NOTIFY,
    VMASST_TYPE_M2P_STRICT, VMASST_TYPE_PAE_EXTENDED_CR3, VMASST_TYPE_RUNSTATE_UPDATE_FLAG,
    VMASST_TYPE_WRITABLE_PAGETABLES,
};

use crate::call::{FAULTS, Ret, all_fault, hc1, hc2, op};
use crate::harness::fault::{self, Fault};
use crate::harness::{check, need, same};

fn vm_assist(command: u32, kind: u32) -> Ret {
    hc2(nr::VM_ASSIST, u64::from(command), u64::from(kind))
}

returns! {
    /// Writable page tables can be asked for.
    assist_writable_tables(env): vm_assist(VMASST_CMD_ENABLE, VMASST_TYPE_WRITABLE_PAGETABLES) => Ok(0);
    /// An assistance that does not exist.
    assist_unknown(env): vm_assist(VMASST_CMD_ENABLE, 63) => Err(Errno::EINVAL);
    /// The number is checked before it is used as a shift.
    assist_huge(env): vm_assist(VMASST_CMD_DISABLE, u32::MAX) => Err(Errno::EINVAL);
    /// What is for 32-bit kernels, on and off: known, and without meaning here.
    assist_of_32_bit(env): [VMASST_TYPE_4GB_SEGMENTS, VMASST_TYPE_4GB_SEGMENTS_NOTIFY, VMASST_TYPE_PAE_EXTENDED_CR3].map(|kind| {
        [vm_assist(VMASST_CMD_ENABLE, kind), vm_assist(VMASST_CMD_DISABLE, kind)]
    }) => [[Ok(0); 2]; 3];
    /// Those of 64-bit kernels, on and off.
    assist_of_64_bit(env): [VMASST_TYPE_RUNSTATE_UPDATE_FLAG, VMASST_TYPE_M2P_STRICT].map(|kind| {
        [vm_assist(VMASST_CMD_ENABLE, kind), vm_assist(VMASST_CMD_DISABLE, kind)]
    }) => [[Ok(0); 2]; 2];
    /// A command that does not exist.
    assist_unknown_command(env): vm_assist(9, VMASST_TYPE_WRITABLE_PAGETABLES) => Err(Errno::ENOSYS);
    /// A command that does not exist.
    physdev_unknown_command(env): op(nr::PHYSDEV_OP, 99, &mut 0u64) => Err(Errno::ENOSYS);
    /// Bad pointers.
    physdev_fault(env): all_fault(|at| hc2(nr::PHYSDEV_OP, u64::from(PHYSDEVOP_SET_IOPL), at)) => FAULTS;
    /// There are four I/O privilege levels.
    iopl_too_high(env): op(nr::PHYSDEV_OP, PHYSDEVOP_SET_IOPL, &mut PhysdevSetIopl { iopl: 4 })
        => Err(Errno::EINVAL);
    /// The kernel's level.
    iopl(env): op(nr::PHYSDEV_OP, PHYSDEVOP_SET_IOPL, &mut PhysdevSetIopl { iopl: 1 }) => Ok(0);
    /// Bad pointers, machine control.
    platform_op_fault(env): all_fault(|at| hc1(nr::PLATFORM_OP, at)) => FAULTS;
    /// Bad pointers, domain control.
    domctl_fault(env): all_fault(|at| hc1(nr::DOMCTL, at)) => FAULTS;
    /// Bad pointers, host control.
    sysctl_fault(env): all_fault(|at| hc1(nr::SYSCTL, at)) => FAULTS;
    /// A control structure of another interface version is not read further.
    platform_op_version(env): control(nr::PLATFORM_OP) => Err(Errno::EACCES);
    /// A control structure of another interface version is not read further.
    domctl_version(env): control(nr::DOMCTL) => Err(Errno::EACCES);
    /// A control structure of another interface version is not read further.
    sysctl_version(env): control(nr::SYSCTL) => Err(Errno::EACCES);
}

/// A control hypercall with command 1 and an interface version that never was.
fn control(nr: u32) -> Ret {
    let mut arg = [0u32; 64];
    arg[0] = 1;
    arg[1] = 0xdead;
    hc1(nr, arg.as_mut_ptr() as u64)
}

case! {
    /// CR3 names the root table by its machine frame.
    fn read_cr3(env) {
        same("cr3", fault::cr3().map(|cr3| cr3 >> 12), Ok(env.boot.root_table().0))
    }
}

case! {
    /// CR0 shows paging and protection on.
    fn read_cr0(env) {
        let _ = env;
        let mut value = 0u64;
        // SAFETY: a read; emulated, or it faults.
        let fault = unsafe { probe!("mov {value}, cr0", value = inout(reg) value) };
        same("read", fault, Ok(()))?;
        same("PG and PE", value & 0x8000_0001, 0x8000_0001)
    }
}

case! {
    /// The forced-emulation prefix shows the hypervisor's leaves to a guest whose `cpuid` does not trap.
    fn hypervisor_cpuid(env) {
        let _ = env;
        let mut signature = [0u32; 3];
        let first: u64;
        // SAFETY: `ud2` followed by "xen" and `cpuid` is executed by the hypervisor as one instruction, and changes
        // only the four registers. rbx belongs to the compiler and is saved.
        let fault = unsafe {
            probe!("mov {b}, rbx\n.byte 0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2\nxchg {b}, rbx",
                b = out(reg) first,
                inout("eax") 0x4000_0000u32 => _, inout("ecx") 0u32 => signature[1], out("edx") signature[2])
        };
        same("prefix", fault, Ok(()))?;
        signature[0] = first as u32;
        let bytes = signature.map(u32::to_le_bytes);
        same("signature", bytes, [*b"XenV", *b"MMXe", *b"nVMM"])
    }
}

case! {
    /// A model-specific register that does not exist arrives as a general protection fault.
    fn unknown_msr(env) {
        let _ = env;
        // SAFETY: a read; the handler resumes behind it.
        let fault = unsafe { probe!("rdmsr", in("ecx") 0xdead_beefu32, out("eax") _, out("edx") _) };
        same("rdmsr", fault, Err(Fault::of(Vector::GENERAL_PROTECTION, 0)))
    }
}

case! {
    /// EFER shows long mode.
    fn efer(env) {
        let _ = env;
        let (low, high): (u32, u32);
        // SAFETY: a read; emulated, or it faults.
        let fault = unsafe { probe!("rdmsr", in("ecx") 0xc000_0080u32, out("eax") low, out("edx") high) };
        same("rdmsr", fault, Ok(()))?;
        same("LME, LMA", (low & 0x500, high), (0x500, 0))
    }
}

case! {
    /// `hlt` is not for PV kernels; it arrives as a general protection fault.
    fn hlt(env) {
        let _ = env;
        // SAFETY: the handler resumes behind it.
        same("hlt", unsafe { probe!("hlt") }, Err(Fault::of(Vector::GENERAL_PROTECTION, 0)))
    }
}

case! {
    /// `wbinvd` of a domain with devices is executed for it.
    fn wbinvd(env) {
        let _ = env;
        // SAFETY: caches are transparent.
        same("wbinvd", unsafe { probe!("wbinvd") }, Ok(()))
    }
}

case! {
    /// TS set through CR0 and cleared by `clts` is what `fpu_taskswitch` sets and clears.
    fn clts(env) {
        let _ = env;
        need("fpu_taskswitch", hc1(nr::FPU_TASKSWITCH, 1))?;
        // SAFETY: x87 state is not in use.
        let (clts, fpu) = unsafe { (probe!("clts"), probe!("fninit")) };
        same("clts", clts, Ok(()))?;
        same("fninit", fpu, Ok(()))
    }
}

case! {
    /// The first domain reads the PC's ports: here the keyboard controller's status, which has no side effect.
    fn port_input(env) {
        if !env.boot.is_initial_domain() {
            return Err(crate::harness::Verdict::Skip("not the first domain"));
        }
        // SAFETY: as the clause says.
        same("in", unsafe { probe!("in al, 0x64", out("al") _) }, Ok(()))
    }
}

case! {
    /// The time stamp counter runs.
    fn tsc(env) {
        let _ = env;
        let first = guest_pv_lib::time::tsc();
        // SAFETY: no memory is touched.
        unsafe { asm!("nop", options(nomem, nostack)) };
        check("later is more", guest_pv_lib::time::tsc() > first)
    }
}
