//! Ports: `in`, `out` and their string forms, I/O privilege level, the permission map (physdev.h; SDM vol. 1, chapter 19).
//!
//! The address register of PCI configuration, port cf8h, is the domain's own: it reads as it was written.

use guest_pv_lib::Errno;
use guest_pv_lib::mmu::Pte;
use xen_abi::hypercall::nr;
use xen_abi::physdev::*;
use xen_abi::xen::{VMASST_CMD_DISABLE, VMASST_CMD_ENABLE, VMASST_TYPE_ARCHITECTURAL_IOPL};

use crate::call::{Ret, hc2, op};
use crate::harness::raw::{self, Start, completes, flag, go, places, raises, reg};
use crate::harness::user::DATA;
use crate::harness::{Env, Outcome, need, same};

const GP: (u64, Option<u64>) = (13, Some(0));
const LATCH: u64 = 0xcf8;
const VALUE: u64 = 0x1234_5678;
const IN_EAX: [u8; 1] = [0xed];
const OUT_EAX: [u8; 1] = [0xef];
const INSD: [u8; 1] = [0x6d];
const REP_INSD: [u8; 2] = [0xf3, 0x6d];
const OUTSD: [u8; 1] = [0x6f];
const REP_OUTSD: [u8; 2] = [0xf3, 0x6f];
/// Reads the keyboard controller's status, which has no side effect.
const IN_64: [u8; 2] = [0xe4, 0x64];

fn iopl(level: u32) -> Outcome {
    need("set_iopl", op(nr::PHYSDEV_OP, PHYSDEVOP_SET_IOPL, &mut PhysdevSetIopl { iopl: level })).map(drop)
}

/// With the kernel's privilege level.
fn with_iopl(run: impl FnOnce() -> Outcome) -> Outcome {
    iopl(1)?;
    let outcome = run();
    iopl(0)?;
    outcome
}

fn kernel() -> Start<'static> {
    Start::KERNEL.with(reg::RDX, LATCH)
}

fn set_latch(env: &Env, value: u64) -> Outcome {
    completes(env, &kernel().with(reg::RAX, value), &OUT_EAX, &[]).map(drop)
}

case! {
    /// Without I/O privilege every form faults, in both modes.
    fn without_privilege(env) {
        for user in [false, true] {
            let start = Start { user, ..kernel() }.with(reg::RCX, 1);
            for code in [&IN_EAX[..], &OUT_EAX, &INSD, &OUTSD, &REP_INSD, &IN_64, &[0xec], &[0xe6, 0x80]] {
                raises(env, &start, code, GP, 0)?;
            }
        }
        Ok(())
    }
}

case! {
    /// The kernel needs level 1, user mode level 3.
    fn privilege_levels(env) {
        for level in 0..4 {
            iopl(level)?;
            let kernel = go(env, &Start::KERNEL, &IN_64, &[])?.what() != GP;
            let user = go(env, &Start::USER, &IN_64, &[])?.what() != GP;
            iopl(0)?;
            same("level", (level, kernel, user), (level, level >= 1, level == 3))?;
        }
        Ok(())
    }
}

case! {
    /// A register of 32 bits is written and read whole; reading clears the upper half of rax, narrower forms keep the rest.
    fn widths(env) {
        with_iopl(|| {
            set_latch(env, VALUE)?;
            let all = u64::MAX;
            let read = |code: &[u8]| {
                completes(env, &kernel().with(reg::RAX, all), code, &[]).map(|seen| seen.regs[reg::RAX])
            };
            same("32 bits", read(&IN_EAX)?, VALUE)?;
            same("REX.W", read(&[0x48, 0xed])?, VALUE)?;
            same("8 bits", read(&IN_64)? >> 8, all >> 8)?;
            same("16 bits", read(&[0x66, 0xe5, 0x64])? >> 16, all >> 16)
        })
    }
}

case! {
    /// Single string steps move the index by the width, in the direction of DF.
    fn string_steps(env) {
        with_iopl(|| {
            let data = env.page(5).virt();
            let seen = completes(env, &kernel().with(reg::RSI, data + 4), &OUTSD, &[0xabcd_0000_0000_0000 | 5 << 32])?;
            same("rsi", seen.regs[reg::RSI], data + 8)?;
            let seen = completes(env, &kernel().with(reg::RDI, data + 8), &INSD, &[])?;
            same("rdi", seen.regs[reg::RDI], data + 12)?;
            same("value", env.page(5).get(1), 0xabcd_0005)?;
            let start = Start { rflags: flag::ONE | flag::DF, ..kernel() };
            let seen = completes(env, &start.with(reg::RDI, data + 16), &INSD, &[])?;
            same("downwards", seen.regs[reg::RDI], data + 12)
        })
    }
}

case! {
    /// `rep` repeats rcx times, not at all for zero.
    fn repetition(env) {
        with_iopl(|| {
            let page = env.page(5);
            set_latch(env, VALUE)?;
            let start = kernel().with(reg::RDI, page.virt());
            let seen = completes(env, &start, &REP_INSD, &[])?;
            same("zero times", (seen.regs[reg::RDI], page.get(0)), (page.virt(), 0))?;
            let seen = completes(env, &start.with(reg::RCX, 5), &REP_INSD, &[])?;
            same("five times", (seen.regs[reg::RDI], seen.words[0]), (page.virt() + 20, 0))?;
            same("words", [page.get(0), page.get(1), page.get(2)], [VALUE << 32 | VALUE, VALUE << 32 | VALUE, VALUE])?;
            let seen = completes(env, &kernel().with(reg::RSI, page.virt()).with(reg::RCX, 3), &REP_OUTSD, &[1, 2])?;
            same("out", (seen.regs[reg::RSI], seen.words[0]), (page.virt() + 12, 0))?;
            same("the last", completes(env, &kernel(), &IN_EAX, &[])?.regs[reg::RAX], 2)
        })
    }
}

case! {
    /// A repetition that faults midway says how far it came: a write fault at the page that is missing.
    fn fault_midway(env) {
        with_iopl(|| {
            let (page, behind) = (env.page(7), env.page(8));
            need("not mapped", behind.map(Pte::EMPTY))?;
            set_latch(env, VALUE)?;
            let start = kernel().with(reg::RDI, behind.virt() - 8).with(reg::RCX, 5);
            let seen = raises(env, &start, &REP_INSD, (14, Some(2)), 0)?;
            same("address", raw::cr2(), behind.virt())?;
            same("registers", (seen.regs[reg::RDI], seen.words[0]), (behind.virt(), 3))?;
            same("done so far", page.get(511), VALUE << 32 | VALUE)?;
            let start = kernel().with(reg::RSI, behind.virt() - 4).with(reg::RCX, 5);
            let seen = raises(env, &start, &REP_OUTSD, (14, Some(0)), 0)?;
            same("out", (raw::cr2(), seen.regs[reg::RSI], seen.words[0]), (behind.virt(), behind.virt(), 4))
        })
    }
}

case! {
    /// An element across a page that is missing: the address is the first byte there.
    fn fault_across_pages(env) {
        with_iopl(|| {
            let behind = env.page(8);
            need("not mapped", behind.map(Pte::EMPTY))?;
            raises(env, &kernel().with(reg::RDI, behind.virt() - 2), &INSD, (14, Some(2)), 0)?;
            same("address", raw::cr2(), behind.virt())?;
            raises(env, &kernel().with(reg::RSI, behind.virt() - 2), &OUTSD, (14, Some(0)), 0)?;
            same("address", raw::cr2(), behind.virt())
        })
    }
}

case! {
    /// A non-canonical address is a general protection fault; a page for reading only a write fault.
    fn bad_addresses(env) {
        with_iopl(|| {
            for address in [0x8000_0000_0000, 1 << 63] {
                raises(env, &kernel().with(reg::RDI, address), &INSD, GP, 0)?;
                raises(env, &kernel().with(reg::RSI, address), &OUTSD, GP, 0)?;
            }
            need("read-only", env.page(7).read_only())?;
            raises(env, &kernel().with(reg::RDI, env.page(7).virt()), &INSD, (14, Some(2)), 0).map(drop)
        })
    }
}

case! {
    /// The hypervisor's memory is out of reach of string instructions.
    fn hypervisor_memory(env) {
        with_iopl(|| {
            for code in [&INSD[..], &OUTSD] {
                let start = kernel().with(reg::RDI, crate::call::HYPERVISOR).with(reg::RSI, crate::call::HYPERVISOR);
                let seen = go(env, &start, code, &[])?;
                same("a fault at the instruction", (seen.entry == 13 || seen.entry == 14, seen.rip()), (true, places(env, false).0))?;
            }
            Ok(())
        })
    }
}

case! {
    /// Segment overrides and 32-bit addresses, from user mode with level 3.
    fn addressing(env) {
        iopl(3)?;
        need("fs", hc2(nr::SET_SEGMENT_BASE, 0, DATA))?;
        let user = Start::USER.with(reg::RDX, LATCH);
        // outsd fs:[rsi]
        let over = completes(env, &user.with(reg::RSI, 8), &[0x64, 0x6f], &[0, 0x77]);
        let read = completes(env, &user, &IN_EAX, &[]);
        // insd [edi]
        let narrow = completes(env, &user.with(reg::RDI, 0xffff_ffff_0000_0000 | DATA), &[0x67, 0x6d], &[]);
        let value = env.page(5).get(0);
        need("fs", hc2(nr::SET_SEGMENT_BASE, 0, 0))?;
        iopl(0)?;
        same("rsi", over?.regs[reg::RSI], 12)?;
        same("through fs", read?.regs[reg::RAX], 0x77)?;
        same("edi", narrow?.regs[reg::RDI], DATA + 4)?;
        same("value", value, 0x77)
    }
}

fn set_iobitmap(bitmap: u64, nr_ports: u32) -> Ret {
    let mut arg = [bitmap, u64::from(nr_ports)];
    op(nr::PHYSDEV_OP, PHYSDEVOP_SET_IOBITMAP, &mut arg)
}

case! {
    /// The permission map lets user mode use ports whose bits are clear, as far as it goes; it lies in the kernel's memory.
    fn bitmap(env) {
        let page = env.page(7);
        for word in 0..512 {
            page.set(word, u64::MAX);
        }
        page.set(1, !(1 << (0x64 - 64)));
        need("set_iobitmap", set_iobitmap(page.virt(), 0x100))?;
        let allowed = go(env, &Start::USER, &IN_64, &[])?;
        let wide = go(env, &Start::USER, &[0x66, 0xe5, 0x64], &[])?;
        let other = go(env, &Start::USER, &[0xe4, 0x61], &[])?;
        let beyond = go(env, &Start::USER.with(reg::RDX, 0x100), &[0xec], &[])?;
        need("set_iobitmap", set_iobitmap(page.virt(), 0x64))?;
        let behind_limit = go(env, &Start::USER, &IN_64, &[])?;
        let kernel = go(env, &Start::KERNEL, &IN_64, &[])?;
        need("set_iobitmap", set_iobitmap(page.virt(), 0x100))?;
        let kernel_allowed = go(env, &Start::KERNEL, &IN_64, &[])?;
        need("no map", set_iobitmap(0, 0))?;
        same("allowed", allowed.what() != GP, true)?;
        same("two ports, one of them not", wide.what(), GP)?;
        same("not allowed", other.what(), GP)?;
        same("behind the map", (beyond.what(), behind_limit.what()), (GP, GP))?;
        same("the kernel too", (kernel.what(), kernel_allowed.what() != GP), (GP, true))
    }
}

case! {
    /// A map that cannot be read permits nothing; two bytes of it are read for each access.
    fn bitmap_unreadable(env) {
        need("set_iobitmap", set_iobitmap(0x1000, 0x10000))?;
        let seen = go(env, &Start::USER, &IN_64, &[])?;
        need("not mapped", env.page(8).map(Pte::EMPTY))?;
        // The byte of port 64h is the last of page 7, all zero.
        need("set_iobitmap", set_iobitmap(env.page(8).virt() - 13, 0x1000))?;
        let last = go(env, &Start::USER, &IN_64, &[])?;
        let across = go(env, &Start::USER, &[0x66, 0xe5, 0x67], &[])?;
        need("no map", set_iobitmap(0, 0))?;
        same("unreadable", seen.what(), GP)?;
        same("the last byte", last.what(), GP)?;
        same("across the end", across.what(), GP)
    }
}

returns! {
    /// More ports than there are.
    bitmap_too_long(env): set_iobitmap(0, 0x1_0001) => Err(Errno::EINVAL);
}

case! {
    /// With the architectural I/O privilege level it comes and goes in the flags of frames, and the kernel needs none.
    fn architectural_level(env) {
        let assist = |command: u32| hc2(nr::VM_ASSIST, command.into(), VMASST_TYPE_ARCHITECTURAL_IOPL.into());
        need("vm_assist", assist(VMASST_CMD_ENABLE))?;
        let with = |user, rflags| go(env, &Start { user, rflags: flag::ONE | rflags, ..Start::KERNEL }, &IN_64, &[]);
        let results = [with(false, 0), with(true, 0), with(true, 1 << 12), with(true, flag::IOPL)];
        let frame = go(env, &Start { rflags: flag::ONE | 2 << 12, ..Start::USER }, &[0x0f, 0x0b], &[]);
        need("vm_assist", assist(VMASST_CMD_DISABLE))?;
        iopl(0)?;
        let [kernel, user, one, three] = results;
        same("kernel", kernel?.what() != GP, true)?;
        same("user mode at 0 and 1", (user?.what(), one?.what()), (GP, GP))?;
        same("user mode at 3", three?.what() != GP, true)?;
        let frame = frame?;
        same("shown in the frame, not real", (frame.rflags() & flag::IOPL, frame.rflags_at_entry & flag::IOPL), (2 << 12, 0))
    }
}
