//! User mode: in by the `iret` hypercall, out by `syscall`, exceptions and upcalls (arch-x86/xen-x86_64.h).

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use guest_pv_lib::events::{self, Port, Virq};
use guest_pv_lib::time;
use guest_pv_lib::traps::Vector;
use xen_abi::arch_x86::{
    FLAT_USER_CS, MACH2PHYS_VIRT_START, SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER, VGCF_IN_SYSCALL,
};
use xen_abi::hypercall::nr;

use crate::call::hc2;
use crate::harness::fault::{Fault, page_fault};
use crate::harness::user::{CODE, Cause, DATA, Entry, leave, run};
use crate::harness::{Env, Outcome, need, same};

/// `mov eax, 0x1234; syscall`.
const SYSCALL: [u8; 7] = [0xb8, 0x34, 0x12, 0, 0, 0x0f, 0x05];

/// Code that loads eight bytes from `address` into rax and makes a system call.
fn load(address: u64) -> [u8; 12] {
    let mut code = [0x48, 0xa1, 0, 0, 0, 0, 0, 0, 0, 0, 0x0f, 0x05];
    code[2..10].copy_from_slice(&address.to_le_bytes());
    code
}

/// Runs code that must fault at its first instruction.
fn faults(env: &Env, code: &[u8], fault: Fault) -> Outcome {
    let exit = run(env, Entry::PLAIN, code, &[])?;
    same("cause", exit.cause, Cause::Fault(fault))?;
    same("at", exit.rip, CODE)
}

case! {
    /// `syscall` enters the kernel's callback: rip behind the instruction, the user's stack pointer, its selector.
    fn syscall(env) {
        let exit = run(env, Entry::PLAIN, &SYSCALL, &[])?;
        same("cause", exit.cause, Cause::Syscall)?;
        same("rip", exit.rip, CODE + 7)?;
        same("rsp", exit.rsp, DATA + 4096)?;
        same("rax", exit.rax, 0x1234)?;
        same("cs", exit.cs as u16 | 3, FLAT_USER_CS)?;
        same("privilege", exit.cs & 3, 3)
    }
}

case! {
    /// With VGCF_in_syscall the hypercall returns as `sysret` would.
    fn return_to_syscall(env) {
        let exit = run(env, Entry { flags: VGCF_IN_SYSCALL, events: false }, &SYSCALL, &[])?;
        same("cause", exit.cause, Cause::Syscall)?;
        same("rsp", exit.rsp, DATA + 4096)?;
        same("rax", exit.rax, 0x1234)
    }
}

case! {
    /// User mode reads its own page.
    fn own_memory(env) {
        let exit = run(env, Entry::PLAIN, &load(DATA + 8), &[1, 0x1122_3344_5566])?;
        same("value", (exit.cause, exit.rax), (Cause::Syscall, 0x1122_3344_5566))
    }
}

case! {
    /// A page fault says that it came from user mode.
    fn page_fault_reports_user(env) {
        faults(env, &load(0x7000_0000), Fault::page(page_fault::USER, 0x7000_0000))
    }
}

case! {
    /// The kernel's memory is not in user mode's page table.
    fn kernel_memory(env) {
        let at = env.page(7).virt();
        faults(env, &load(at), Fault::page(page_fault::USER, at))
    }
}

/// Reading at `at` must be a page fault, for whichever reason.
fn out_of_reach(env: &Env, at: u64) -> Outcome {
    let exit = run(env, Entry::PLAIN, &load(at), &[])?;
    let Cause::Fault(fault) = exit.cause else { return same("a fault", false, true) };
    same("vector and address", (fault.vector, fault.address), (14, at))
}

case! {
    /// The hypervisor's memory cannot be read from user mode.
    fn hypervisor_memory(env) { out_of_reach(env, crate::call::HYPERVISOR) }
}
case! {
    /// A root that was never the kernel's does not show the M2P to user mode (xen.h, VMASST_TYPE_m2p_strict).
    fn m2p(env) { out_of_reach(env, MACH2PHYS_VIRT_START) }
}

case! {
    /// `ud2` in user mode.
    fn invalid_opcode(env) { faults(env, &[0x0f, 0x0b], Fault::of(Vector::INVALID_OPCODE, 0)) }
}
case! {
    /// `hlt` in user mode.
    fn hlt(env) { faults(env, &[0xf4], Fault::of(Vector::GENERAL_PROTECTION, 0)) }
}
case! {
    /// `cli` in user mode.
    fn cli(env) { faults(env, &[0xfa], Fault::of(Vector::GENERAL_PROTECTION, 0)) }
}
case! {
    /// `mov cr3, rax` in user mode: what the kernel may have emulated, user mode may not.
    fn write_cr3(env) { faults(env, &[0x0f, 0x22, 0xd8], Fault::of(Vector::GENERAL_PROTECTION, 0)) }
}
case! {
    /// `wrmsr` in user mode.
    fn wrmsr(env) { faults(env, &[0x0f, 0x30], Fault::of(Vector::GENERAL_PROTECTION, 0)) }
}
case! {
    /// `in al, 0x80` in user mode, at the kernel's I/O privilege level.
    fn port_input(env) { faults(env, &[0xe4, 0x80], Fault::of(Vector::GENERAL_PROTECTION, 0)) }
}

case! {
    /// `int3` in user mode arrives behind the instruction.
    fn breakpoint(env) {
        let exit = run(env, Entry::PLAIN, &[0xcc], &[])?;
        same("cause", exit.cause, Cause::Fault(Fault::of(Vector::BREAKPOINT, 0)))?;
        same("rip", exit.rip, CODE + 1)
    }
}

case! {
    /// User mode has the FS and GS bases that the kernel set for it; the kernel's GS base is another.
    fn segment_bases(env) {
        need("fs", hc2(nr::SET_SEGMENT_BASE, u64::from(SEGBASE_FS), DATA))?;
        need("gs", hc2(nr::SET_SEGMENT_BASE, u64::from(SEGBASE_GS_USER), DATA + 8))?;
        need("kernel gs", hc2(nr::SET_SEGMENT_BASE, u64::from(SEGBASE_GS_KERNEL), env.page(7).virt()))?;
        env.page(7).set(2, 0x77);
        // mov rax, fs:[0]; add rax, gs:[0]; syscall
        let code = [0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x65, 0x48, 0x03, 0x04, 0x25, 0, 0, 0, 0, 0x0f, 0x05];
        let exit = run(env, Entry::PLAIN, &code, &[0x100, 0x20])?;
        let kernel: u64;
        // SAFETY: reads word 2 of page 7 through the segment; nothing else in the kernel uses GS.
        unsafe { core::arch::asm!("mov {}, gs:[16]", out(reg) kernel, options(nostack, readonly)) };
        for which in [SEGBASE_FS, SEGBASE_GS_USER, SEGBASE_GS_KERNEL] {
            need("reset", hc2(nr::SET_SEGMENT_BASE, u64::from(which), 0))?;
        }
        same("user", (exit.cause, exit.rax), (Cause::Syscall, 0x120))?;
        same("kernel", kernel, 0x77)
    }
}

static EVENTS: AtomicU32 = AtomicU32::new(0);

fn end_of_loop(_: Port) {
    EVENTS.fetch_add(1, Relaxed);
    leave()
}

case! {
    /// A timer's event interrupts a loop in user mode, where the frame's interrupt flag allows upcalls.
    fn event(env) {
        EVENTS.store(0, Relaxed);
        let port = need("bind_virq", events::bind_virq(Virq::TIMER))?;
        let _ = events::take(port);
        events::set_handler(port, end_of_loop);
        events::unmask(port);
        need("set_timer", time::set_timer(time::now() + 3_000_000))?;
        // jmp $
        let exit = run(env, Entry { flags: 0, events: true }, &[0xeb, 0xfe], &[]);
        events::mask(port);
        need("close", events::close(port))?;
        same("cause", exit?.cause, Cause::Event)?;
        same("once", EVENTS.load(Relaxed), 1)
    }
}
