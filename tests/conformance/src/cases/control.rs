//! Privileged instructions of kernel and user mode: which are emulated, and how the others fault (SDM vol. 2; the PV ABI
//! promises a kernel its control registers, `clts`, `wbinvd`, `rdtsc`, `xsetbv`).

use crate::harness::raw::{self, Start, completes, flag, go, raises, reg};
use crate::harness::{Env, Outcome, same};
use guest_pv_lib::events;
use xen_abi::hypercall::nr;
use xen_abi::physdev::{PHYSDEVOP_SET_IOPL, PhysdevSetIopl};

use crate::call::{hc1, hc2, op};
use crate::harness::need;

const GP: (u64, Option<u64>) = (13, Some(0));
const UD: (u64, Option<u64>) = (6, None);

const READ_CR0: [u8; 3] = [0x0f, 0x20, 0xc0];
const WRITE_CR0: [u8; 3] = [0x0f, 0x22, 0xc0];
const READ_CR2: [u8; 3] = [0x0f, 0x20, 0xd0];
const WRITE_CR2: [u8; 3] = [0x0f, 0x22, 0xd0];
const READ_CR3: [u8; 3] = [0x0f, 0x20, 0xd8];
const WRITE_CR3: [u8; 3] = [0x0f, 0x22, 0xd8];
const READ_CR4: [u8; 3] = [0x0f, 0x20, 0xe0];
const WRITE_CR4: [u8; 3] = [0x0f, 0x22, 0xe0];
const RDTSC: [u8; 2] = [0x0f, 0x31];
const RDFSBASE: [u8; 5] = [0xf3, 0x48, 0x0f, 0xae, 0xc0];
const XSETBV: [u8; 3] = [0x0f, 0x01, 0xd1];
const FNINIT: [u8; 2] = [0xdb, 0xe3];

const TSD: u64 = 1 << 2;
const DE: u64 = 1 << 3;
const FSGSBASE: u64 = 1 << 16;
const OSXSAVE: u64 = 1 << 18;
/// PAE, OSFXSR, OSXMMEXCPT.
const VISIBLE: u64 = 0x620;
/// The hypervisor's choice.
const MCE: u64 = 1 << 6;

/// Instructions that no PV guest has emulated; in both modes they fault as in ring 3 of any kernel.
const FAULTING: [&[u8]; 15] = [
    &[0xf4],                   // hlt
    &[0x0f, 0x08],             // invd
    &[0x0f, 0x01, 0x10],       // lgdt [rax]
    &[0x0f, 0x01, 0x18],       // lidt [rax]
    &[0x0f, 0x00, 0xd0],       // lldt ax
    &[0x0f, 0x00, 0xd8],       // ltr ax
    &[0x0f, 0x01, 0xf0],       // lmsw ax
    &[0x0f, 0x01, 0x38],       // invlpg [rax]
    &[0x0f, 0x01, 0xf8],       // swapgs
    &[0x48, 0x0f, 0x07],       // sysretq
    &[0x0f, 0x33],             // rdpmc
    &[0x44, 0x0f, 0x20, 0xc0], // mov rax, cr8
    &[0x44, 0x0f, 0x22, 0xc0], // mov cr8, rax
    &[0xfa],                   // cli
    &[0xfb],                   // sti
];

case! {
    /// Privileged instructions outside the ABI are general protection faults at the instruction.
    fn not_emulated(env) {
        for code in FAULTING {
            for user in [false, true] {
                raises(env, &Start { user, ..Start::KERNEL }, code, GP, 0)?;
            }
        }
        Ok(())
    }
}

case! {
    /// What a kernel may have emulated its user code may not.
    fn not_for_user_mode(env) {
        let codes: [&[u8]; 9] = [
            &READ_CR0, &WRITE_CR0, &READ_CR3, &WRITE_CR4, &[0x0f, 0x06], &[0x0f, 0x09], &[0x0f, 0x30], &[0x0f, 0x32],
            &[0x0f, 0x23, 0xf8],
        ];
        for code in codes {
            raises(env, &Start::USER.with(reg::RCX, 0xc000_0080), code, GP, 0)?;
        }
        Ok(())
    }
}

case! {
    /// `wbinvd` and `wbnoinvd` are done.
    fn caches(env) {
        completes(env, &Start::KERNEL, &[0x0f, 0x09], &[])?;
        completes(env, &Start::KERNEL, &[0xf3, 0x0f, 0x09], &[]).map(drop)
    }
}

case! {
    /// Redundant prefixes change nothing.
    fn prefixes(env) {
        completes(env, &Start::KERNEL, &[0x66, 0x0f, 0x06], &[])?;
        completes(env, &Start::KERNEL, &[0x48, 0x0f, 0x09], &[])?;
        completes(env, &Start::KERNEL.with(reg::RCX, 0xc000_0080), &[0xf3, 0x0f, 0x32], &[]).map(drop)
    }
}

case! {
    /// CR0 as the ABI has it: PG, AM, WP, NE, ET, MP, PE. Only TS can be changed, and is what `fpu_taskswitch` sets.
    fn cr0(env) {
        const VALUE: u64 = 0x8005_0033;
        const TS: u64 = 1 << 3;
        let read = || completes(env, &Start::KERNEL, &READ_CR0, &[]).map(|seen| seen.regs[reg::RAX]);
        same("CR0", read()?, VALUE)?;
        completes(env, &Start::KERNEL.with(reg::RAX, VALUE | TS), &WRITE_CR0, &[])?;
        same("with TS", read()?, VALUE | TS)?;
        raises(env, &Start::KERNEL, &FNINIT, (7, None), 0)?;
        same("the exception clears TS", read()?, VALUE)?;
        need("fpu_taskswitch", hc1(nr::FPU_TASKSWITCH, 1))?;
        completes(env, &Start::KERNEL.with(reg::RAX, VALUE), &WRITE_CR0, &[])?;
        completes(env, &Start::KERNEL, &FNINIT, &[])?;
        for bit in [0, 1, 2, 5, 16, 18, 30, 31] {
            raises(env, &Start::KERNEL.with(reg::RAX, VALUE ^ 1 << bit), &WRITE_CR0, GP, 0)?;
        }
        Ok(())
    }
}

case! {
    /// In user mode TS raises the same exception, which clears it.
    fn task_switched_in_user_mode(env) {
        need("fpu_taskswitch", hc1(nr::FPU_TASKSWITCH, 1))?;
        raises(env, &Start::USER, &FNINIT, (7, None), 0)?;
        completes(env, &Start::USER, &FNINIT, &[]).map(drop)
    }
}

case! {
    /// CR2 is a word of the guest's.
    fn cr2(env) {
        completes(env, &Start::KERNEL.with(reg::RAX, 0x1234_5678_9abc), &WRITE_CR2, &[])?;
        let seen = completes(env, &Start::KERNEL, &READ_CR2, &[])?;
        same("CR2", seen.regs[reg::RAX], 0x1234_5678_9abc)
    }
}

case! {
    /// CR3 can be loaded with the root it has, not with what is no root.
    fn cr3(env) {
        let root = env.boot.root_table().address();
        completes(env, &Start::KERNEL.with(reg::RAX, root), &WRITE_CR3, &[])?;
        same("CR3", completes(env, &Start::KERNEL, &READ_CR3, &[])?.regs[reg::RAX], root)?;
        for bad in [env.page(7).mfn().address(), crate::call::NO_FRAME << 12, 0] {
            raises(env, &Start::KERNEL.with(reg::RAX, bad), &WRITE_CR3, GP, 0)?;
        }
        same("CR3 afterwards", completes(env, &Start::KERNEL, &READ_CR3, &[])?.regs[reg::RAX], root)
    }
}

fn write_cr4(env: &Env, value: u64) -> Outcome {
    completes(env, &Start::KERNEL.with(reg::RAX, value), &WRITE_CR4, &[]).map(drop)
}

fn read_cr4(env: &Env) -> Result<u64, crate::harness::Verdict> {
    completes(env, &Start::KERNEL, &READ_CR4, &[]).map(|seen| seen.regs[reg::RAX] & !MCE)
}

case! {
    /// CR4 takes TSD and DE from the guest, shows PAE, OSFXSR and OSXMMEXCPT, and ignores the rest without a fault.
    fn cr4(env) {
        write_cr4(env, 0)?;
        same("cleared", read_cr4(env)?, VISIBLE)?;
        write_cr4(env, TSD | DE)?;
        same("own bits", read_cr4(env)?, VISIBLE | TSD | DE)?;
        write_cr4(env, !(FSGSBASE | OSXSAVE))?;
        same("all bits", read_cr4(env)?, VISIBLE | TSD | DE)?;
        write_cr4(env, 0)
    }
}

case! {
    /// With CR4.TSD `rdtsc` and `rdtscp` fault in user mode; the kernel's are emulated.
    fn rdtsc_disabled(env) {
        completes(env, &Start::USER, &RDTSC, &[])?;
        write_cr4(env, TSD)?;
        raises(env, &Start::USER, &RDTSC, GP, 0)?;
        raises(env, &Start::USER, &[0x0f, 0x01, 0xf9], GP, 0)?;
        let tsc = |seen: crate::harness::raw::Seen| seen.regs[reg::RDX] << 32 | seen.regs[reg::RAX];
        let first = tsc(completes(env, &Start::KERNEL, &RDTSC, &[])?);
        let second = tsc(completes(env, &Start::KERNEL, &[0x0f, 0x01, 0xf9], &[])?);
        write_cr4(env, 0)?;
        same("time goes on", second > first, true)?;
        completes(env, &Start::USER, &RDTSC, &[]).map(drop)
    }
}

case! {
    /// The instructions for FS and GS base exist while CR4.FSGSBASE is set, and not before.
    #[feature(fsgsbase)]
    fn fsgsbase(env) {
        write_cr4(env, 0)?;
        for user in [false, true] {
            raises(env, &Start { user, ..Start::KERNEL }, &RDFSBASE, UD, 0)?;
        }
        write_cr4(env, FSGSBASE)?;
        same("CR4", read_cr4(env)?, VISIBLE | FSGSBASE)?;
        for user in [false, true] {
            // wrfsbase rbx; rdfsbase rax
            let code = [0xf3, 0x48, 0x0f, 0xae, 0xd3, 0xf3, 0x48, 0x0f, 0xae, 0xc0];
            let start = Start { user, ..Start::KERNEL }.with(reg::RBX, 0x1234_5000);
            same("base", completes(env, &start, &code, &[])?.regs[reg::RAX], 0x1234_5000)?;
        }
        write_cr4(env, 0)?;
        need("reset", hc2(nr::SET_SEGMENT_BASE, 0, 0)).map(drop)
    }
}

case! {
    /// With FSGSBASE user mode can change its GS base but not the kernel's.
    #[feature(fsgsbase)]
    fn gs_base_of_user_mode(env) {
        need("kernel's", hc2(nr::SET_SEGMENT_BASE, 2, 0x7000))?;
        write_cr4(env, FSGSBASE)?;
        // wrgsbase rbx
        completes(env, &Start::USER.with(reg::RBX, 0x6000), &[0xf3, 0x48, 0x0f, 0xae, 0xdb], &[])?;
        // rdgsbase rax
        let read = [0xf3, 0x48, 0x0f, 0xae, 0xc8];
        let kernel = completes(env, &Start::KERNEL, &read, &[])?.regs[reg::RAX];
        let user = completes(env, &Start::USER, &read, &[])?.regs[reg::RAX];
        write_cr4(env, 0)?;
        for which in [1, 2] {
            need("reset", hc2(nr::SET_SEGMENT_BASE, which, 0))?;
        }
        same("kernel's and user's", (kernel, user), (0x7000, 0x6000))
    }
}

case! {
    /// `xsetbv` exists while CR4.OSXSAVE is set; XCR0 starts with x87 and SSE, and takes what the processor would.
    #[feature(xsave)]
    fn xcr0(env) {
        const XGETBV: [u8; 3] = [0x0f, 0x01, 0xd0];
        let xcr0 = || completes(env, &Start::KERNEL, &XGETBV, &[]).map(|seen| seen.regs[reg::RAX]);
        write_cr4(env, 0)?;
        same("first", xcr0()?, 3)?;
        raises(env, &Start::KERNEL.with(reg::RAX, 3), &XSETBV, UD, 0)?;
        write_cr4(env, OSXSAVE)?;
        same("CR4", read_cr4(env)?, VISIBLE | OSXSAVE)?;
        completes(env, &Start::KERNEL.with(reg::RAX, 1), &XSETBV, &[])?;
        same("x87 only", xcr0()?, 1)?;
        for bad in [0, 2, 5, 1 << 9 | 3, 1 << 62 | 3] {
            let start = Start::KERNEL.with(reg::RAX, bad & 0xffff_ffff).with(reg::RDX, bad >> 32);
            raises(env, &start, &XSETBV, GP, 0)?;
        }
        raises(env, &Start::KERNEL.with(reg::RAX, 3).with(reg::RCX, 1), &XSETBV, GP, 0)?;
        raises(env, &Start::USER.with(reg::RAX, 3), &XSETBV, GP, 0)?;
        completes(env, &Start::KERNEL.with(reg::RAX, 3), &XSETBV, &[])?;
        write_cr4(env, 0)
    }
}

case! {
    /// AVX state survives what the hypervisor does in between, once it is enabled in XCR0.
    #[feature(avx)]
    fn avx_state(env) {
        raw::needs_avx(env)?;
        write_cr4(env, OSXSAVE)?;
        completes(env, &Start::KERNEL.with(reg::RAX, 7), &XSETBV, &[])?;
        // vmovdqu ymm7, [rdi]; mov rcx, cr0; syscall (xen_version); vmovdqu [rdi + 32], ymm7
        let code = [
            0xc5, 0xfe, 0x6f, 0x3f, 0x0f, 0x20, 0xc1, 0xb8, 17, 0, 0, 0, 0x31, 0xf6, 0x57, 0x31, 0xff, 0x0f, 0x05, 0x5f,
            0xc5, 0xfe, 0x7f, 0x7f, 0x20,
        ];
        let data = [0x11, 0x22, 0x33, 0x44];
        let page = env.page(5);
        completes(env, &Start::KERNEL.with(reg::RDI, page.virt()), &code, &data)?;
        completes(env, &Start::KERNEL.with(reg::RAX, 3), &XSETBV, &[])?;
        write_cr4(env, 0)?;
        // What came after the run is in the page still.
        same("ymm7", [4, 5, 6, 7].map(|word| page.get(word)), data)
    }
}

fn iopl(level: u32) -> Outcome {
    need("set_iopl", op(nr::PHYSDEV_OP, PHYSDEVOP_SET_IOPL, &mut PhysdevSetIopl { iopl: level })).map(drop)
}

case! {
    /// With IOPL `cli` and `sti` are accepted, and leave the event mask alone: `popf` could not undo them.
    fn cli_with_iopl(env) {
        iopl(1)?;
        let open = Start { rflags: flag::ONE | flag::IF, ..Start::KERNEL };
        let cli = completes(env, &open, &[0xfa], &[])?;
        let sti = completes(env, &Start::KERNEL, &[0xfb], &[])?;
        let user = go(env, &Start::USER, &[0xfa], &[])?;
        iopl(3)?;
        let user_with_3 = completes(env, &Start { user: true, ..open }, &[0xfa], &[])?;
        iopl(0)?;
        same("mask after cli", cli.saved_mask(), 0)?;
        same("mask after sti", sti.saved_mask(), 1)?;
        same("user mode at IOPL 1", user.what(), GP)?;
        same("user mode at IOPL 3", user_with_3.saved_mask(), 0)?;
        events::mask_upcalls();
        Ok(())
    }
}

case! {
    /// A single step over an emulated instruction ends behind it.
    fn single_step_of_an_emulated_instruction(env) {
        let seen = go(env, &Start { rflags: flag::ONE | flag::TF, ..Start::KERNEL }, &READ_CR0, &[])?;
        need("DR6", hc2(nr::SET_DEBUGREG, 6, 0))?;
        same("what", seen.what(), (1, None))?;
        same("rip", seen.rip(), crate::harness::raw::kernel_code(env) + 3)
    }
}
