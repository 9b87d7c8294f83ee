//! Regressions behind Xen's published advisories on traps, system calls, debug registers and emulation. Each shows that the
//! hypervisor survives and that the guest gets what the fix gives it.
//!
//! Not for a guest's eye: advisories on HVM emulation (106, 110, 170, 192, 196, 202's half, 204, 239, 308), on 32-bit PV kernels (183,
//! 298's gates), on speculation (254, 263, 273, 375, 377), on other software (206, 274), on CPUs that are taken away (244).

use guest_pv_lib::Errno;
use xen_abi::arch_x86::{FLAT_USER_CS, FLAT_USER_CS32, FLAT_USER_SS, IretContext, VGCF_IN_SYSCALL};
use xen_abi::hypercall::nr;
use xen_abi::xen::MulticallEntry;

use crate::call::{NON_CANONICAL, hc1, hc2};
use crate::harness::raw::{SYSCALL, SYSCALL32, SYSENTER, Start, completes, flag, go, raises, reg};
use crate::harness::user::{CODE, DATA};
use crate::harness::{Env, Outcome, check, need, same};

const GP: (u64, Option<u64>) = (13, Some(0));
const COMPAT: Start<'static> = Start { cs: Some(FLAT_USER_CS32 as u64), absent: &[], ..Start::USER };
const SYSENTER_CODE: [u8; 2] = [0x0f, 0x34];

fn set_debugreg(register: u64, value: u64) -> Result<u64, Errno> {
    hc2(nr::SET_DEBUGREG, register, value)
}

case! {
    /// XSA-7: `sysret` to a non-canonical address faults with the hypervisor's privilege. The return must not be one.
    fn xsa_007_sysret_to_non_canonical(env) {
        for user in [false, true] {
            let start = Start { user, vgcf: VGCF_IN_SYSCALL, rip: Some(1 << 47), ..Start::KERNEL };
            let seen = go(env, &start, &[], &[])?;
            same("what", (seen.what(), seen.rip()), (GP, 1 << 47))?;
        }
        Ok(())
    }
}

case! {
    /// XSA-8: a system call without a callback is the guest's exception, in 64-bit and 32-bit code.
    fn xsa_008_syscall_without_callback(env) {
        let start = Start { absent: &[SYSCALL, SYSCALL32, SYSENTER], ..Start::USER };
        raises(env, &start, &[0x0f, 0x05], (6, None), 0)?;
        raises(env, &Start { cs: COMPAT.cs, ..start }, &[0x0f, 0x05], (6, None), 0).map(drop)
    }
}

case! {
    /// XSA-12: the upper half of DR7 cannot be written, which the processor would refuse in the hypervisor.
    fn xsa_012_debugreg_upper_half(env) {
        for register in [4, 5, 6, 7] {
            same("hypercall", set_debugreg(register, 1 << 32), Err(Errno::EINVAL))?;
            same("hypercall", set_debugreg(register, u64::MAX), Err(Errno::EINVAL))?;
        }
        raises(env, &Start::KERNEL.with(reg::RAX, u64::MAX), &[0x0f, 0x23, 0xf8], GP, 0).map(drop)
    }
}

case! {
    /// XSA-44: `sysenter` with NT set: the hypervisor's own `iret` must not see it.
    #[alone]
    #[feature(intel)]
    #[emulator(qemu, "Xen's stack for sysenter is not mapped there")]
    fn xsa_044_sysenter_with_nt(env) {
        let start = Start { rflags: flag::ONE | flag::NT, ..COMPAT };
        let seen = go(env, &start, &SYSENTER_CODE, &[])?;
        same("entry", seen.what(), (SYSENTER, None))?;
        same("NT", (seen.rflags() & flag::NT, seen.rflags_at_entry & flag::NT), (flag::NT, 0))
    }
}

case! {
    /// XSA-54: `xsetbv` of what the processor refuses is the guest's fault.
    #[feature(xsave)]
    fn xsa_054_xsetbv(env) {
        let cr4 = |value| completes(env, &Start::KERNEL.with(reg::RAX, value), &[0x0f, 0x22, 0xe0], &[]).map(drop);
        cr4(1 << 18)?;
        let start = Start::KERNEL.with(reg::RAX, 0xffff_ffff).with(reg::RDX, 0xffff_ffff);
        raises(env, &start, &[0x0f, 0x01, 0xd1], GP, 0)?;
        raises(env, &Start::KERNEL.with(reg::RAX, 4), &[0x0f, 0x01, 0xd1], GP, 0)?;
        cr4(0)
    }
}

case! {
    /// XSA-193: non-canonical segment bases are refused by every way.
    fn xsa_193_non_canonical_bases(env) {
        for which in 0..3 {
            same("hypercall", hc2(nr::SET_SEGMENT_BASE, which, NON_CANONICAL), Err(Errno::EINVAL))?;
            same("hypercall", hc2(nr::SET_SEGMENT_BASE, which, 1 << 47), Err(Errno::EINVAL))?;
            let start = Start::KERNEL.with(reg::RCX, 0xc000_0100 + which).with(reg::RDX, 0x8000);
            raises(env, &start, &[0x0f, 0x30], GP, 0)?;
        }
        Ok(())
    }
}

case! {
    /// XSA-202: emulation must not leave the real interrupt flag clear, or I/O privilege set: a guest would keep its CPU.
    fn xsa_202_interrupt_flag(env) {
        // mov rax, cr0; pushfq; pop rbx
        let code = [0x0f, 0x20, 0xc0, 0x9c, 0x5b];
        for flags in [0, flag::IF, flag::IOPL] {
            let seen = completes(env, &Start { rflags: flag::ONE | flags, ..Start::KERNEL }, &code, &[])?;
            same("real flags", seen.regs[reg::RBX] & (flag::IF | flag::IOPL), flag::IF)?;
        }
        Ok(())
    }
}

case! {
    /// XSA-213: a return to user mode ends the batch it is part of: what follows would run with the wrong page tables.
    fn xsa_213_iret_in_multicall(env) {
        let set_debug = |value| MulticallEntry { op: nr::SET_DEBUGREG.into(), args: [1, value, 0, 0, 0, 0], ..MulticallEntry::default() };
        let iret = MulticallEntry { op: nr::IRET.into(), ..MulticallEntry::default() };
        let list = env.page(8);
        let entries = [set_debug(0x1000), iret, set_debug(0x2000)];
        for (n, entry) in entries.iter().enumerate() {
            list.set(8 * n, entry.op);
            for (m, arg) in entry.args.iter().enumerate() {
                list.set(8 * n + 2 + m, *arg);
            }
        }
        // The frame of the return lies where the kernel's stack pointer is: back to the code's end, in the kernel.
        let code = [0x0f, 0x05, 0x0f, 0x0b, 0x0f, 0x0b];
        let (text, stack) = (env.page(4).virt(), env.page(5).virt() + 2048);
        let frame = IretContext {
            rax: 0x77,
            rip: text + 4,
            cs: u64::from(FLAT_USER_CS) & !3,
            rflags: 2,
            rsp: stack,
            ss: FLAT_USER_SS.into(),
            ..IretContext::default()
        };
        let mut data = [0; 256 + 9];
        let words = [frame.rax, 0, 0, 0, frame.rip, frame.cs, frame.rflags, frame.rsp, frame.ss];
        data[256..].copy_from_slice(&words);
        let start = Start::KERNEL.with(reg::RAX, nr::MULTICALL.into()).with(reg::RDI, list.virt()).with(reg::RSI, 3);
        let seen = go(env, &start, &code, &data)?;
        let dr1 = hc1(nr::GET_DEBUGREG, 1);
        need("DR1", set_debugreg(1, 0))?;
        same("where the frame said", (seen.what(), seen.rip(), seen.regs[reg::RAX]), ((6, None), text + 4, 0x77))?;
        same("the one before was made, the one behind not", dr1, Ok(0x1000))?;
        same("the return's own result", list.get(9), 0x77)
    }
}

case! {
    /// XSA-259: `int 0x80` without a handler takes the way of every other vector.
    fn xsa_259_int80_without_handler(env) {
        let start = Start { absent: &[0x80, SYSCALL32, SYSENTER], ..Start::USER };
        raises(env, &start, &[0xcd, 0x80], (13, Some(0x402)), 0)?;
        raises(env, &Start { user: false, ..start }, &[0xcd, 0x80], (13, Some(0x402)), 0).map(drop)
    }
}

/// Loads SS from watched memory and enters the kernel by `entry` while the debug exception is held back.
fn mov_ss(env: &Env, entry: [u8; 2], rflags: u64) -> Outcome {
    need("DR0", set_debugreg(0, DATA))?;
    need("DR7", set_debugreg(7, 1 | 0b0111 << 16))?;
    // mov ss, [rdi]; the entry
    let code = [0x8e, 0x17, entry[0], entry[1], 0x0f, 0x0b];
    let start = Start { dpl3: &[3, 4, 0x80], rflags, ..Start::USER };
    let seen = go(env, &start.with(reg::RDI, DATA), &code, &[FLAT_USER_SS.into()]);
    need("DR7", set_debugreg(7, 0))?;
    need("DR0", set_debugreg(0, 0))?;
    need("DR6", set_debugreg(6, 0))?;
    let seen = seen?;
    check("an entry of the guest's", matches!(seen.entry, 1 | 3 | 0x80 | SYSCALL))?;
    check("at or behind the instruction", (CODE + 2..=CODE + 4).contains(&seen.rip()))
}

case! {
    /// XSA-260: a debug exception that `mov ss` holds back arrives at the first instruction of an entry, in the hypervisor.
    fn xsa_260_mov_ss(env) {
        for entry in [[0x0f, 0x05], [0xcc, 0x90], [0xcd, 0x80]] {
            mov_ss(env, entry, flag::ONE)?;
        }
        Ok(())
    }
}

case! {
    /// XSA-265: the same with a single step, and `int1`, many times over.
    fn xsa_265_debug_exceptions(env) {
        for _ in 0..20 {
            for entry in [[0x0f, 0x05], [0xcc, 0x90], [0xcd, 0x80]] {
                mov_ss(env, entry, flag::ONE | flag::TF)?;
            }
            go(env, &Start { rflags: flag::ONE | flag::TF, ..Start::USER }, &[0xf1], &[])?;
        }
        need("DR6", set_debugreg(6, 0)).map(drop)
    }
}

case! {
    /// XSA-269: no guest reaches the debug control of branches, which would stop its CPU for good.
    fn xsa_269_debugctl(env) {
        let start = Start::KERNEL.with(reg::RCX, 0x1d9);
        raises(env, &start, &[0x0f, 0x32], GP, 0)?;
        for value in [0, 1, 2, 1 << 6] {
            raises(env, &start.with(reg::RAX, value), &[0x0f, 0x30], GP, 0)?;
        }
        Ok(())
    }
}

case! {
    /// XSA-293: CR4.FSGSBASE is the guest's choice; while it is off its user code cannot change bases behind its back.
    #[feature(fsgsbase)]
    fn xsa_293_fsgsbase(env) {
        // wrgsbase rax; wrfsbase rax
        for code in [[0xf3, 0x48, 0x0f, 0xae, 0xd8], [0xf3, 0x48, 0x0f, 0xae, 0xd0]] {
            raises(env, &Start::USER.with(reg::RAX, 0x1000), &code, (6, None), 0)?;
        }
        Ok(())
    }
}

case! {
    /// XSA-333: reading IA32_MISC_ENABLE must not stop the hypervisor where the processor lacks it.
    fn xsa_333_misc_enable(env) {
        let start = Start::KERNEL.with(reg::RCX, 0x1a0);
        let read = go(env, &start, &[0x0f, 0x32, 0x0f, 0x0b], &[])?;
        let write = go(env, &start, &[0x0f, 0x30, 0x0f, 0x0b], &[])?;
        same("both or neither", (read.entry == 6, write.entry == 6), (read.entry == 6, read.entry == 6))?;
        check("done, or the guest's fault", matches!(read.entry, 6 | 13))
    }
}

case! {
    /// XSA-339: `sysenter` without a callback: the guest's fault, in a frame that it can return by.
    #[alone]
    #[feature(intel)]
    #[emulator(qemu, "Xen's stack for sysenter is not mapped there")]
    fn xsa_339_sysenter_fault(env) {
        let start = Start { absent: &[SYSCALL32, SYSENTER], rflags: flag::ONE | flag::IF, ..COMPAT };
        let seen = go(env, &start, &SYSENTER_CODE, &[])?;
        same("what", seen.what(), GP)?;
        same("rip, cs, rsp, ss", (seen.rip(), seen.cs(), seen.rsp(), seen.ss()), (0, 3, 0, FLAT_USER_SS.into()))?;
        same("IF", seen.rflags() & flag::IF, flag::IF)
    }
}

case! {
    /// XSA-351: power meters and thermal status are not a guest's to read or write.
    fn xsa_351_power_meters(env) {
        for msr in [0x606, 0x610, 0x611, 0x619, 0x639, 0x641, 0xc001_0299, 0xc001_029a, 0xc001_029b] {
            raises(env, &Start::KERNEL.with(reg::RCX, msr), &[0x0f, 0x32], GP, 0)?;
            raises(env, &Start::KERNEL.with(reg::RCX, msr), &[0x0f, 0x30], GP, 0)?;
        }
        Ok(())
    }
}

case! {
    /// XSA-444: masks of debug addresses are there only where CPUID says so.
    fn xsa_444_debug_masks(env) {
        // ud2; "xen"; cpuid; mov r8, rcx
        let forced = [0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2, 0x49, 0x89, 0xc8];
        let leaf = completes(env, &Start::KERNEL.with(reg::RAX, 0x8000_0001), &forced, &[])?;
        let shown = leaf.regs[reg::R8] >> 26 & 1 != 0;
        for msr in [0xc001_1027, 0xc001_1019, 0xc001_101a, 0xc001_101b] {
            for code in [[0x0f, 0x32], [0x0f, 0x30]] {
                let seen = go(env, &Start::KERNEL.with(reg::RCX, msr), &[code[0], code[1], 0x0f, 0x0b], &[])?;
                same("as CPUID says", seen.entry == 6, shown)?;
            }
        }
        Ok(())
    }
}
