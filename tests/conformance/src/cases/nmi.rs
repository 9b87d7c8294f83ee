//! Non-maskable interrupts of a virtual processor: `nmi_op`, CALLBACKTYPE_NMI, VCPUOP_send_nmi (nmi.h, vcpu.h).

use guest_pv_lib::Errno;
use xen_abi::arch_x86::VGCF_IN_SYSCALL;
use xen_abi::callback::*;
use xen_abi::hypercall::nr;
use xen_abi::nmi::*;
use xen_abi::vcpu::VCPUOP_SEND_NMI;

use crate::call::{FAULTS, NON_CANONICAL, Ret, all_fault, hc2, hc3, op};
use crate::harness::raw::{self, Start, flag, go, reg, stub};
use crate::harness::same;

const NMI: (u64, Option<u64>) = (2, None);
const UD2: [u8; 2] = [0x0f, 0x0b];

fn nmi(command: u32, handler_address: u64) -> Ret {
    op(nr::NMI_OP, command, &mut XennmiCallback { handler_address, pad: 0 })
}

fn send(vcpu: u64) -> Ret {
    hc3(nr::VCPU_OP, VCPUOP_SEND_NMI.into(), vcpu, 0)
}

returns! {
    /// A handler at an address that does not exist.
    register_non_canonical(env): nmi(XENNMI_REGISTER_CALLBACK, NON_CANONICAL) => Err(Errno::EINVAL);
    /// Bad pointers.
    register_fault(env): all_fault(|at| hc2(nr::NMI_OP, XENNMI_REGISTER_CALLBACK.into(), at)) => FAULTS;
    /// There is always something to unregister.
    unregister(env): nmi(XENNMI_UNREGISTER_CALLBACK, 0) => Ok(0);
    /// A command that does not exist.
    unknown_command(env): nmi(9, 0) => Err(Errno::ENOSYS);
    /// A vCPU that does not exist.
    send_to_nobody(env): send(999) => Err(Errno::ENOENT);
}

/// `syscall` with the registers of VCPUOP_send_nmi to vCPU 0.
fn sender() -> Start<'static> {
    Start::KERNEL.with(reg::RAX, nr::VCPU_OP.into()).with(reg::RDI, VCPUOP_SEND_NMI.into()).with(reg::RSI, 0)
}

case! {
    /// An NMI arrives at once, behind the hypercall, although upcalls are masked.
    fn arrives(env) {
        let seen = go(env, &sender(), &[0x0f, 0x05, 0x0f, 0x0b], &[])?;
        same("what", (seen.what(), seen.rip()), (NMI, raw::kernel_code(env) + 2))?;
        same("result", seen.regs[reg::RAX], 0)
    }
}

case! {
    /// `nmi_op` and `callback_op` register the handler with upcalls masked.
    fn registered_handler_masks(env) {
        // The code registers the stub itself, then sends: rbx holds the address of the argument.
        let code = [
            0x0f, 0x05, 0x48, 0x89, 0xd8, 0x4c, 0x89, 0xc7, 0x31, 0xf6, 0x0f, 0x05, 0x0f, 0x0b,
        ];
        let arg = env.page(8);
        arg.set(0, stub(2));
        let start = Start { rflags: flag::ONE | flag::IF, absent: &[2, raw::SYSCALL32, raw::SYSENTER], ..Start::KERNEL }
            .with(reg::RAX, nr::NMI_OP.into())
            .with(reg::RDI, XENNMI_REGISTER_CALLBACK.into())
            .with(reg::RSI, arg.virt())
            .with(reg::RBX, nr::VCPU_OP.into())
            .with(reg::R8, VCPUOP_SEND_NMI.into());
        let seen = go(env, &start, &code, &[])?;
        same("what", (seen.what(), seen.masked, seen.saved_mask()), (NMI, true, 0))
    }
}

case! {
    /// Without a handler an NMI is lost, and the domain goes on.
    fn without_handler(env) {
        let start = Start { absent: &[2, raw::SYSCALL32, raw::SYSENTER], ..sender() };
        let seen = go(env, &start, &[0x0f, 0x05, 0x0f, 0x0b], &[])?;
        same("what", (seen.what(), seen.rip()), ((6, None), raw::kernel_code(env) + 2))
    }
}

case! {
    /// While one is handled another waits for the `iret` that ends the handler.
    fn waits_for_iret(env) {
        // The first arrives; the notebook gives up its handler without `iret`, so the next one waits.
        let first = go(env, &sender(), &[0x0f, 0x05, 0x0f, 0x0b], &[])?;
        same("first", first.what(), NMI)?;
        same("second is sent", send(0), Ok(0))?;
        // The harness enters by `iret`, which ends the handler: the second arrives in front of the code.
        for vgcf in [0, VGCF_IN_SYSCALL] {
            let seen = go(env, &Start { vgcf, ..Start::USER }, &UD2, &[])?;
            if vgcf == 0 {
                same("second", (seen.what(), seen.rip()), (NMI, crate::harness::user::CODE))?;
            } else {
                same("nothing left", seen.what(), (6, None))?;
            }
        }
        Ok(())
    }
}

case! {
    /// Several that wait are one.
    fn merge(env) {
        let first = go(env, &sender(), &[0x0f, 0x05, 0x0f, 0x0b], &[])?;
        same("first", first.what(), NMI)?;
        same("more are sent", [send(0), send(0)], [Ok(0), Ok(0)])?;
        same("one", go(env, &Start::USER, &UD2, &[])?.what(), NMI)?;
        same("and no more", go(env, &Start::USER, &UD2, &[])?.what(), (6, None))
    }
}

case! {
    /// The callback's old and new way of registration are the same entry of the trap table.
    fn callback_type(env) {
        let mut arg = CallbackUnregister { type_: CALLBACKTYPE_NMI, ..CallbackUnregister::default() };
        let _ = env;
        same("unregister", op(nr::CALLBACK_OP, CALLBACKOP_UNREGISTER, &mut arg), Ok(0))
    }
}
