//! Segment selectors and bases, the guest's own GDT and LDT, code in segments of its own (xen.h, xen-x86_64.h).

use guest_pv_lib::mmu::Pte;
use xen_abi::arch_x86::{
    FLAT_USER_CS32, SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER, SEGBASE_GS_USER_SEL,
};
use xen_abi::hypercall::nr;
use xen_abi::physdev::{PHYSDEVOP_SET_IOPL, PhysdevSetIopl};
use xen_abi::xen::MMUEXT_SET_LDT;

use crate::call::{hc2, mmuext, op};
use crate::harness::pool::with_gdt;
use crate::harness::raw::{self, Start, completes, go, places, raises, reg};
use crate::harness::user::{CODE, DATA};
use crate::harness::{Env, Outcome, need, same};

const CODE_64: u64 = 0x00af_fb00_0000_ffff;
const CODE_32: u64 = 0x00cf_fb00_0000_ffff;
const DATA_32: u64 = 0x00cf_f300_0000_ffff;
const GP: u64 = 13;

fn set_base(which: u32, base: u64) -> Outcome {
    need("set_segment_base", hc2(nr::SET_SEGMENT_BASE, which.into(), base)).map(drop)
}

/// A data segment of this base.
fn data_at(base: u64) -> u64 {
    DATA_32 | (base & 0xff_ffff) << 16 | (base >> 24 & 0xff) << 56
}

/// With page 7 as an LDT of `entries` entries that starts with these descriptors; page 8 stands behind it and is no LDT.
fn with_ldt(env: &Env, entries: u64, descriptors: &[u64], run: impl FnOnce() -> Outcome) -> Outcome {
    let page = env.page(7);
    for (n, descriptor) in descriptors.iter().enumerate() {
        page.set(n, *descriptor);
    }
    need("read-only", page.read_only())?;
    need("not mapped", env.page(8).map(Pte::EMPTY))?;
    need("set_ldt", mmuext(MMUEXT_SET_LDT, page.virt(), entries))?;
    let outcome = run();
    need("no LDT", mmuext(MMUEXT_SET_LDT, 0, 0))?;
    need("writable", page.writable())?;
    outcome
}

case! {
    /// SEGBASE_GS_USER_SEL loads user mode's GS; one that cannot be loaded becomes null, without an error.
    fn user_gs_selector(env) {
        // mov eax, gs
        let read = [0x8c, 0xe8];
        with_gdt(env, &[data_at(0x1234_5000)], || {
            set_base(SEGBASE_GS_KERNEL, 0x7000)?;
            set_base(SEGBASE_GS_USER_SEL, 8)?;
            same("loaded, at privilege level 3", completes(env, &Start::USER, &read, &[])?.regs[reg::RAX] & 0xffff, 8 | 3)?;
            // rdmsr of IA32_KERNEL_GS_BASE and IA32_GS_BASE
            let msr = |number| completes(env, &Start::KERNEL.with(reg::RCX, number), &[0x0f, 0x32], &[]);
            same("base", msr(0xc000_0102)?.regs[reg::RAX], 0x1234_5000)?;
            same("the kernel's base stays", msr(0xc000_0101)?.regs[reg::RAX], 0x7000)?;
            set_base(SEGBASE_GS_USER_SEL, 0x10)?;
            same("null", completes(env, &Start::USER, &read, &[])?.regs[reg::RAX] & 0xffff, 0)?;
            set_base(SEGBASE_GS_USER_SEL, 0xe008)?;
            same("null", completes(env, &Start::USER, &read, &[])?.regs[reg::RAX] & 0xffff, 0)?;
            set_base(SEGBASE_GS_USER_SEL, 0)?;
            set_base(SEGBASE_GS_USER, 0)?;
            set_base(SEGBASE_GS_KERNEL, 0)
        })
    }
}

case! {
    /// Loading a selector loads its descriptor's base.
    fn selector_loads_base(env) {
        with_gdt(env, &[data_at(DATA)], || {
            // mov fs, eax; mov rbx, fs:[8]; xor eax, eax; mov fs, eax
            let code = [0x8e, 0xe0, 0x64, 0x48, 0x8b, 0x1c, 0x25, 8, 0, 0, 0, 0x31, 0xc0, 0x8e, 0xe0];
            let seen = completes(env, &Start::USER.with(reg::RAX, 8 | 3), &code, &[1, 0x5555])?;
            set_base(SEGBASE_FS, 0)?;
            same("through fs", seen.regs[reg::RBX], 0x5555)
        })
    }
}

case! {
    /// A selector of the LDT is loaded from it.
    fn ldt(env) {
        with_ldt(env, 512, &[0, data_at(DATA)], || {
            // mov fs, eax; mov rbx, fs:[0]; xor eax, eax; mov fs, eax
            let code = [0x8e, 0xe0, 0x64, 0x48, 0x8b, 0x1c, 0x25, 0, 0, 0, 0, 0x31, 0xc0, 0x8e, 0xe0];
            let seen = completes(env, &Start::USER.with(reg::RAX, 8 | 7), &code, &[0x4444])?;
            set_base(SEGBASE_FS, 0)?;
            same("through fs", seen.regs[reg::RBX], 0x4444)
        })
    }
}

case! {
    /// A selector behind the LDT's end names itself; one on a page that is not there is a page fault in the guest's LDT.
    fn ldt_faults(env) {
        with_ldt(env, 1024, &[0, DATA_32], || {
            // mov fs, eax
            let code = [0x8e, 0xe0];
            for user in [false, true] {
                let start = Start { user, ..Start::KERNEL };
                raises(env, &start.with(reg::RAX, 1024 << 3 | 7), &code, (GP, Some(1024 << 3 | 4)), 0)?;
                let seen = go(env, &start.with(reg::RAX, 600 << 3 | 7), &code, &[])?;
                let error = if user { 4 } else { 0 };
                same("what", (seen.what(), seen.rip()), ((14, Some(error)), places(env, user).0))?;
                same("address", raw::cr2(), env.page(7).virt() + 600 * 8)?;
            }
            Ok(())
        })
    }
}

case! {
    /// A page whose descriptors are bad is no LDT: the same page fault.
    fn ldt_with_a_gate(env) {
        with_ldt(env, 512, &[0, DATA_32, 0x0000_8e00_0000_0000], || {
            let seen = go(env, &Start::KERNEL.with(reg::RAX, 8 | 7), &[0x8e, 0xe0], &[])?;
            same("what", seen.what(), (14, Some(0)))?;
            same("address", raw::cr2(), env.page(7).virt() + 8)
        })
    }
}

case! {
    /// Privileged instructions are emulated in code segments of the guest's own, 64-bit ones in the kernel.
    fn emulation_in_own_segment(env) {
        with_gdt(env, &[CODE_64, DATA_32], || {
            let start = Start { cs: Some(8), ss: Some(16 | 3), ..Start::KERNEL };
            let seen = completes(env, &start, &[0x0f, 0x20, 0xc0], &[])?;
            same("CR0", seen.regs[reg::RAX], 0x8005_0033)?;
            same("selectors", (seen.cs(), seen.ss()), (8, 16 | 3))
        })
    }
}

case! {
    /// In 32-bit code of user mode instructions are decoded as such.
    fn emulation_in_32_bit_code(env) {
        let iopl = |level| {
            need("iopl", op(nr::PHYSDEV_OP, PHYSDEVOP_SET_IOPL, &mut PhysdevSetIopl { iopl: level })).map(drop)
        };
        with_gdt(env, &[CODE_32, DATA_32], || {
            iopl(3)?;
            // inc ecx; in al, 0x64: in 64-bit code the first byte would be a prefix of the second instruction
            let start = Start { cs: Some(8 | 3), ss: Some(16 | 3), ..Start::USER };
            let seen = completes(env, &start.with(reg::RCX, 4), &[0x41, 0xe4, 0x64], &[]);
            iopl(0)?;
            same("ecx", seen?.words[0], 5)
        })
    }
}

case! {
    /// 32-bit code lies where its segment's base says, for emulated instructions as for all others.
    fn emulation_in_a_code_segment_with_a_base(env) {
        let iopl = |level| {
            need("iopl", op(nr::PHYSDEV_OP, PHYSDEVOP_SET_IOPL, &mut PhysdevSetIopl { iopl: level })).map(drop)
        };
        let code_at_base = CODE_32 | (CODE & 0xff_ffff) << 16 | (CODE >> 24 & 0xff) << 56;
        with_gdt(env, &[code_at_base, DATA_32], || {
            iopl(3)?;
            // inc ecx; in al, 0x64; hlt
            let start = Start { cs: Some(8 | 3), ss: Some(16 | 3), rip: Some(0), ..Start::USER };
            let seen = go(env, &start.with(reg::RCX, 4), &[0x41, 0xe4, 0x64, 0xf4], &[]);
            iopl(0)?;
            let seen = seen?;
            same("what", (seen.what(), seen.rip()), ((GP, Some(0)), 3))?;
            same("ecx", seen.words[0], 5)
        })
    }
}

case! {
    /// XSA-298: a string instruction that is emulated reads the descriptor of its segment, as the table is now: behind its end there
    /// is none, although the segment was loaded before.
    fn xsa_298_descriptor_behind_the_limit(env) {
        let iopl = |level| {
            need("iopl", op(nr::PHYSDEV_OP, PHYSDEVOP_SET_IOPL, &mut PhysdevSetIopl { iopl: level })).map(drop)
        };
        with_ldt(env, 3, &[0, 0, DATA_32], || {
            let start = Start { cs: Some(FLAT_USER_CS32.into()), ..Start::USER };
            let out = start.with(reg::RDX, 0x80).with(reg::RSI, DATA);
            iopl(3)?;
            // mov ds, eax; outsb
            let whole = completes(env, &out.with(reg::RAX, 16 | 7), &[0x8e, 0xd8, 0x6e], &[0x11]);
            need("a shorter LDT", mmuext(MMUEXT_SET_LDT, env.page(7).virt(), 2))?;
            // outsb
            let cut = go(env, &out, &[0x6e], &[0x11]);
            // mov ds, eax
            let null = completes(env, &start, &[0x8e, 0xd8], &[]);
            iopl(0)?;
            same("with the whole table", whole?.regs[reg::RSI], DATA + 1)?;
            null?;
            same("behind the limit", cut?.what(), (GP, Some(0)))
        })
    }
}

case! {
    /// A far call through the guest's descriptors into 64-bit code.
    #[emulator(qemu, "with SMAP, far returns in ring 3 read their stack with supervisor rights")]
    fn far_return(env) {
        with_gdt(env, &[CODE_64], || {
            // push 8|3; lea rax, [rip + 3]; push rax; retfq; ud2
            let code = [0x6a, 0x0b, 0x48, 0x8d, 0x05, 3, 0, 0, 0, 0x50, 0x48, 0xcb, 0x0f, 0x0b];
            let seen = go(env, &Start::USER, &code, &[])?;
            same("what", (seen.what(), seen.rip(), seen.cs()), ((6, None), CODE + 12, 8 | 3))
        })
    }
}

case! {
    /// Bases survive exceptions and system calls, and the two GS bases stay apart.
    fn bases_survive(env) {
        for (which, base) in [(SEGBASE_FS, 0x1000), (SEGBASE_GS_USER, 0x2000), (SEGBASE_GS_KERNEL, 0x3000)] {
            set_base(which, base)?;
        }
        for code in [[0x0f, 0x0b], [0x0f, 0x05], [0xcd, 0x80]] {
            go(env, &Start::USER, &code, &[])?;
        }
        let read = |msr| completes(env, &Start::KERNEL.with(reg::RCX, msr), &[0x0f, 0x32], &[]).map(|s| s.regs[reg::RAX]);
        let bases = [read(0xc000_0100)?, read(0xc000_0101)?, read(0xc000_0102)?];
        for which in [SEGBASE_FS, SEGBASE_GS_USER, SEGBASE_GS_KERNEL] {
            set_base(which, 0)?;
        }
        same("FS, GS, other GS", bases, [0x1000, 0x3000, 0x2000])
    }
}

case! {
    /// An access through a base that makes the address non-canonical is a general protection fault.
    fn non_canonical_through_base(env) {
        set_base(SEGBASE_FS, 0x7fff_ffff_f000)?;
        // mov rax, fs:[rbx]
        let seen = go(env, &Start::USER.with(reg::RBX, 0x1000), &[0x64, 0x48, 0x8b, 0x03], &[]);
        set_base(SEGBASE_FS, 0)?;
        same("what", seen?.what(), (GP, Some(0)))
    }
}
