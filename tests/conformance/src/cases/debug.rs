//! Debug registers, single steps, breakpoints (SDM vol. 3, chapter 17; xen.h `set_debugreg`).

use guest_pv_lib::Errno;
use xen_abi::hypercall::nr;

use crate::call::{HYPERVISOR, NON_CANONICAL, Ret, hc1, hc2};
use crate::harness::raw::{Seen, Start, completes, flag, go, places, raises, reg};
use crate::harness::user::{CODE, DATA};
use crate::harness::{Env, Outcome, Verdict, need, same};

const DB: (u64, Option<u64>) = (1, None);
const GP: (u64, Option<u64>) = (13, Some(0));
const UD: (u64, Option<u64>) = (6, None);
const DR6_DEFAULT: u64 = 0xffff_0ff0;
const DR7_DEFAULT: u64 = 0x400;
const STEP: u64 = 1 << 14;
const NOP: u8 = 0x90;
const CR4_DE: u64 = 1 << 3;

fn set(register: u64, value: u64) -> Ret {
    hc2(nr::SET_DEBUGREG, register, value)
}

fn get(register: u64) -> Ret {
    hc1(nr::GET_DEBUGREG, register)
}

/// Sets DR0 and DR7, runs `code`, answers what came of it with DR6, and takes the breakpoint away.
fn with_breakpoint(
    env: &Env,
    address: u64,
    dr7: u64,
    start: &Start<'_>,
    code: &[u8],
) -> Result<(Seen, u64), Verdict> {
    need("DR6", set(6, DR6_DEFAULT))?;
    need("DR0", set(0, address))?;
    need("DR7", set(7, dr7))?;
    let seen = go(env, start, code, &[0x55; 4]);
    need("DR7", set(7, 0))?;
    need("DR0", set(0, 0))?;
    let dr6 = need("DR6", get(6))?;
    need("DR6", set(6, DR6_DEFAULT))?;
    Ok((seen?, dr6))
}

returns! {
    /// General detect is the hypervisor's.
    general_detect(env): set(7, 1 << 13) => Err(Errno::EPERM);
    /// Breakpoints on I/O need CR4.DE.
    io_without_de(env): set(7, 1 | 0b10 << 16) => Err(Errno::EPERM);
    /// They need it while any breakpoint is on.
    io_of_another_without_de(env): set(7, 1 << 2 | 0b10 << 16) => Err(Errno::EPERM);
    /// The status register has no upper half.
    status_upper_half(env): set(6, 1 << 32) => Err(Errno::EINVAL);
    /// Registers 4 and 5 are other names.
    aliases(env): [set(6, 0).and(get(4)), get(5)] => [Ok(DR6_DEFAULT), Ok(DR7_DEFAULT)];
    /// Only eight registers are named.
    read_unknown(env): get(8) => Err(Errno::ENODEV);
    /// The last canonical addresses on both sides of the hypervisor are the guest's, its own are not.
    address_limits(env): {
        let results = [(1 << 47) - 1, 1 << 47, 0xffff_8000_0000_0000, 0xffff_87ff_ffff_ffff, 0xffff_8800_0000_0000, u64::MAX]
            .map(|address| set(3, address));
        let _ = set(3, 0);
        results
    } => [Ok(0), Err(Errno::EPERM), Err(Errno::EPERM), Err(Errno::EPERM), Ok(0), Ok(0)];
}

case! {
    /// Bits that are always one or zero read so, whatever was written.
    fn fixed_bits(env) {
        let _ = env;
        need("DR7", set(7, 0xd800))?;
        same("DR7", get(7), Ok(DR7_DEFAULT))?;
        need("DR6", set(6, 0x1000))?;
        same("DR6", get(6), Ok(DR6_DEFAULT))?;
        need("DR6", set(6, 0xe00f))?;
        same("DR6", get(6), Ok(DR6_DEFAULT | 0xe00f))?;
        same("reset", set(6, 0), Ok(0))
    }
}

case! {
    /// A single step stops behind one instruction, reports itself in DR6 and shows TF in the frame only.
    fn single_step(env) {
        for user in [false, true] {
            need("DR6", set(6, 0))?;
            let start = Start { user, rflags: flag::ONE | flag::TF, ..Start::KERNEL };
            let seen = raises(env, &start, &[NOP, NOP], DB, 1)?;
            same("DR6", get(6), Ok(DR6_DEFAULT | STEP))?;
            need("DR6", set(6, 0))?;
            same("TF", (seen.rflags() & flag::TF, seen.rflags_at_entry & flag::TF), (flag::TF, 0))?;
        }
        Ok(())
    }
}

case! {
    /// A program steps itself by `popf`.
    fn single_step_by_popf(env) {
        // pushf; or dword [rsp], 0x100; popf; nop
        let code = [0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d, NOP];
        let seen = raises(env, &Start::USER, &code, DB, 10)?;
        need("DR6", set(6, 0))?;
        same("TF", seen.rflags() & flag::TF, flag::TF)
    }
}

case! {
    /// `int1` arrives behind itself, and reports nothing in DR6.
    #[emulator(qemu, "int1 is an invalid instruction")]
    fn icebp(env) {
        for user in [false, true] {
            raises(env, &Start { user, ..Start::KERNEL }, &[0xf1], DB, 1)?;
            same("DR6", get(6), Ok(DR6_DEFAULT))?;
        }
        Ok(())
    }
}

case! {
    /// A system call under TF: the frame has the flag, the entry has not.
    fn syscall_under_single_step(env) {
        let start = Start { rflags: flag::ONE | flag::TF, ..Start::USER };
        let seen = go(env, &start, &[0x0f, 0x05], &[])?;
        need("DR6", set(6, 0))?;
        same("TF", (seen.rflags() & flag::TF, seen.rflags_at_entry & flag::TF), (flag::TF, 0))
    }
}

case! {
    /// A breakpoint on an instruction stops in front of it, in both modes.
    fn breakpoint_on_execution(env) {
        for user in [false, true] {
            let start = Start { user, ..Start::KERNEL };
            let at = places(env, user).0 + 1;
            let (seen, dr6) = with_breakpoint(env, at, 1, &start, &[NOP, NOP, 0x0f, 0x0b])?;
            same("what", (seen.what(), seen.rip()), (DB, at))?;
            same("DR6", dr6, DR6_DEFAULT | 1)?;
        }
        Ok(())
    }
}

case! {
    /// With RF in the frame the instruction runs.
    fn resume_flag(env) {
        let start = Start { rflags: flag::ONE | 1 << 16, ..Start::USER };
        let (seen, _) = with_breakpoint(env, CODE, 1, &start, &[NOP, 0x0f, 0x0b])?;
        same("what", (seen.what(), seen.rip()), (UD, CODE + 1))
    }
}

/// Whether code that accesses the data at an offset hits a breakpoint of this kind on the first eight bytes.
fn hits(env: &Env, kind: u64, code: &[u8], offset: u64) -> Result<bool, Verdict> {
    const LENGTH_8: u64 = 0b10;
    let mut whole = [NOP; 16];
    whole[..code.len()].copy_from_slice(code);
    whole[14..].copy_from_slice(&[0x0f, 0x0b]);
    let start = Start::USER.with(reg::RDI, DATA + offset);
    let (seen, dr6) = with_breakpoint(env, DATA, 1 | (LENGTH_8 << 2 | kind) << 16, &start, &whole)?;
    same("DR6 and vector agree", seen.entry == 1, dr6 & 1 != 0)?;
    if seen.entry == 1 {
        same("rip", seen.rip(), CODE + code.len() as u64)?;
    }
    Ok(seen.entry == 1)
}

case! {
    /// Watchpoints: writes, and reads or writes, of eight bytes; a trap behind the instruction.
    fn watchpoints(env) {
        // mov al, [rdi]; mov [rdi], al
        let (load, store) = ([0x8a, 0x07], [0x88, 0x07]);
        same("write watched: store", hits(env, 0b01, &store, 7)?, true)?;
        same("write watched: load", hits(env, 0b01, &load, 7)?, false)?;
        same("access watched: load", hits(env, 0b11, &load, 0)?, true)?;
        same("access watched: store", hits(env, 0b11, &store, 3)?, true)?;
        same("behind", hits(env, 0b11, &store, 8)?, false)
    }
}

case! {
    /// A watchpoint is not hit by what the hypervisor reads and writes for the guest.
    fn watchpoint_and_hypercall(env) {
        // An empty table at the watched address.
        let page = env.page(8);
        need("DR0", set(0, page.virt()))?;
        need("DR7", set(7, 1 | 0b1011 << 16))?;
        let ret = hc1(nr::SET_DEBUGREG, 9);
        let table = hc1(nr::SET_TRAP_TABLE, page.virt());
        need("DR7", set(7, 0))?;
        need("DR0", set(0, 0))?;
        let dr6 = need("DR6", get(6))?;
        need("DR6", set(6, 0))?;
        same("an ordinary error", ret, Err(Errno::ENODEV))?;
        same("an empty table", table, Ok(0))?;
        same("DR6", dr6, DR6_DEFAULT)
    }
}

fn set_cr4(env: &Env, value: u64) -> Outcome {
    completes(env, &Start::KERNEL.with(reg::RAX, value), &[0x0f, 0x22, 0xe0], &[]).map(drop)
}

case! {
    /// `mov` to and from debug registers does what the hypercalls do; what they refuse is a general protection fault.
    fn moves(env) {
        // mov dr1, rax; mov rbx, dr1
        let code = [0x0f, 0x23, 0xc8, 0x0f, 0x21, 0xcb];
        let seen = completes(env, &Start::KERNEL.with(reg::RAX, 0x1234), &code, &[])?;
        same("DR1", (seen.regs[reg::RBX], get(1)), (0x1234, Ok(0x1234)))?;
        need("DR1", set(1, 0))?;
        for (register, value) in [(0xc8, HYPERVISOR), (0xc8, NON_CANONICAL), (0xf0, 1 << 32), (0xf8, 1 << 32), (0xf8, 1 << 13)] {
            raises(env, &Start::KERNEL.with(reg::RAX, value), &[0x0f, 0x23, register], GP, 0)?;
        }
        raises(env, &Start::USER, &[0x0f, 0x21, 0xc0], GP, 0).map(drop)
    }
}

case! {
    /// With CR4.DE registers 4 and 5 do not exist.
    fn no_aliases_with_de(env) {
        set_cr4(env, CR4_DE)?;
        let results = [get(4), get(5), set(4, 0), set(5, 0)];
        let read = go(env, &Start::KERNEL, &[0x0f, 0x21, 0xe0], &[])?;
        let write = go(env, &Start::KERNEL, &[0x0f, 0x23, 0xe8], &[])?;
        set_cr4(env, 0)?;
        same("hypercalls", results, [Err(Errno::ENODEV); 4])?;
        same("moves", (read.what(), write.what()), (UD, UD))
    }
}

case! {
    /// With CR4.DE a breakpoint on a port is hit behind the access, reads back in DR7, and is forgotten with it.
    fn io_breakpoint(env) {
        const PORT: u64 = 0x64;
        const ON: u64 = 1 | 0b10 << 16;
        let mut level = xen_abi::physdev::PhysdevSetIopl { iopl: 1 };
        need("iopl", crate::call::op(nr::PHYSDEV_OP, xen_abi::physdev::PHYSDEVOP_SET_IOPL, &mut level))?;
        set_cr4(env, CR4_DE)?;
        need("DR7", set(7, ON))?;
        same("DR7", get(7), Ok(DR7_DEFAULT | ON))?;
        // in al, 0x64; in al, 0x61
        let start = Start::KERNEL;
        let (seen, dr6) = with_breakpoint(env, PORT, ON, &start, &[0xe4, 0x64, NOP, 0x0f, 0x0b])?;
        let (other, _) = with_breakpoint(env, PORT, ON, &start, &[0xe4, 0x61, NOP, 0x0f, 0x0b])?;
        let (wide, _) = with_breakpoint(env, PORT - 1, ON | 0b01 << 18, &start, &[0xe4, 0x63, NOP, 0x0f, 0x0b])?;
        set_cr4(env, 0)?;
        level.iopl = 0;
        need("iopl", crate::call::op(nr::PHYSDEV_OP, xen_abi::physdev::PHYSDEVOP_SET_IOPL, &mut level))?;
        let code = places(env, false).0;
        same("what", (seen.what(), seen.rip(), dr6), (DB, code + 2, DR6_DEFAULT | 1))?;
        same("another port", (other.what(), other.rip()), (UD, code + 3))?;
        same("two bytes, aligned down", wide.what(), DB)?;
        same("DR7", get(7), Ok(DR7_DEFAULT))
    }
}
