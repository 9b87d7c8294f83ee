//! Model-specific registers of a PV kernel: which answer, which fault, which ignore what is written.

use core::arch::x86_64::__cpuid;

use xen_abi::hypercall::nr;
use xen_abi::version::XENVER_VERSION;

use crate::call::NON_CANONICAL;
use crate::harness::raw::{Start, completes, go, raises, reg};
use crate::harness::{Env, Outcome, Verdict, need, same};
use guest_pv_lib::mmu::Pte;

const GP: (u64, Option<u64>) = (13, Some(0));
const RDMSR: [u8; 2] = [0x0f, 0x32];
const WRMSR: [u8; 2] = [0x0f, 0x30];
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
const TSC_AUX: u32 = 0xc000_0103;
const HYPERCALL_PAGE: u32 = 0x4000_0000;

/// What `rdmsr` says; `None` for a general protection fault.
fn read(env: &Env, msr: u32) -> Result<Option<u64>, Verdict> {
    let seen = go(env, &Start::KERNEL.with(reg::RCX, msr.into()), &[0x0f, 0x32, 0x0f, 0x0b], &[])?;
    match seen.what() {
        (6, None) => Ok(Some(seen.regs[reg::RDX] << 32 | seen.regs[reg::RAX])),
        GP => Ok(None),
        other => same("exception", other, GP).map(|()| None),
    }
}

/// Whether `wrmsr` is accepted.
fn write(env: &Env, msr: u32, value: u64) -> Result<bool, Verdict> {
    let start = Start::KERNEL
        .with(reg::RCX, msr.into())
        .with(reg::RAX, value & 0xffff_ffff)
        .with(reg::RDX, value >> 32);
    let seen = go(env, &start, &[0x0f, 0x30, 0x0f, 0x0b], &[])?;
    match seen.what() {
        (6, None) => Ok(true),
        GP => Ok(false),
        other => same("exception", other, GP).map(|()| false),
    }
}

fn reads(env: &Env, list: &[(u32, Option<u64>)]) -> Outcome {
    for (msr, value) in list {
        let got = read(env, *msr)?;
        if got != *value {
            guest_pv_lib::println!("# register {msr:#x}");
        }
        same("value", got, *value)?;
    }
    Ok(())
}

fn writes(env: &Env, list: &[(u32, u64, bool)]) -> Outcome {
    for (msr, value, accepted) in list {
        let got = write(env, *msr, *value)?;
        if got != *accepted {
            guest_pv_lib::println!("# register {msr:#x}, value {value:#x}");
        }
        same("accepted", got, *accepted)?;
    }
    Ok(())
}

case! {
    /// Registers of the machine that no guest has: system-call entries, debug control, power meters, APIC, tracing.
    fn not_there(env) {
        let list = [
            0x10b, 0x174, 0x175, 0x176, 0x1d9, 0x1db, 0x2ff, 0x4d0, 0x560, 0x606, 0x611, 0x6a0, 0x802, 0xd90, 0xda0,
            0x4000_0001, 0x4000_0200, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc001_0020, 0xc001_0114,
            0xc001_0117, 0xdead_beef,
        ];
        for msr in list {
            reads(env, &[(msr, None)])?;
            writes(env, &[(msr, 0, false), (msr, 1, false)])?;
        }
        Ok(())
    }
}

case! {
    /// Registers that read as the ABI has them on any processor.
    fn fixed(env) {
        reads(env, &[
            (0x1b, Some(0xfee0_0900)),
            (0x140, Some(0)),
            (0x17a, Some(0)),
            (0x17b, Some(0)),
            (0x277, Some(0x0501_0007_0406)),
            (0x280, Some(0)),
            (0x29f, Some(0)),
            (0x345, Some(0)),
            (0x400, Some(u64::MAX)),
            (0x401, Some(0)),
            (0x404, Some(u64::MAX)),
            (0x407, Some(0)),
            (0x408, Some(0)),
            (0x47f, Some(0)),
            (HYPERCALL_PAGE, Some(0)),
        ])?;
        same("banks", read(env, 0x179)?.map(|cap| cap & 0xff), Some(2))
    }
}

case! {
    /// What writes do: the APIC base, the PAT and the TSC are not the guest's; machine-check controls take anything, their
    /// status only zero; frequency counters ignore it.
    fn writes_accepted(env) {
        writes(env, &[
            (0x10, 0, false),
            (0x1b, 0xfee0_0900, false),
            (0x140, 0, true),
            (0x140, 2, false),
            (0x179, 0, true),
            (0x17a, 4, true),
            (0x17a, 0, true),
            (0x17b, 1, true),
            (0x277, 0x0501_0007_0406, false),
            (0x281, 0, true),
            (0x400, 0, true),
            (0x401, 0, true),
            (0x401, 1, false),
            (0x402, 1, false),
            (0x407, 1, false),
            (0x409, 1, true),
            (0xe7, 0, true),
            (0xe8, 0, true),
        ])
    }
}

case! {
    /// The machine-check status register keeps what is written.
    fn machine_check_status(env) {
        writes(env, &[(0x17a, 5, true)])?;
        reads(env, &[(0x17a, Some(5))])?;
        writes(env, &[(0x17a, 0, true)])
    }
}

case! {
    /// EFER shows long mode, and takes what it shows.
    fn efer(env) {
        let value = read(env, EFER)?.ok_or(Verdict::Failure("EFER is there"))?;
        same("SCE, LME, LMA", value & 0x501, 0x501)?;
        same("SVME", value & 1 << 12, 0)?;
        writes(env, &[(EFER, value, true), (EFER, value ^ 1 << 11, false), (EFER, value & !1, false), (EFER, 0, false)])
    }
}

case! {
    /// Base registers take canonical addresses only, and are what `set_segment_base` sets.
    fn bases(env) {
        for (msr, which) in (FS_BASE..).zip([0u64, 2, 1]) {
            writes(env, &[(msr, 0x5000, true), (msr, NON_CANONICAL, false), (msr, 0x8000_0000_0000, false)])?;
            reads(env, &[(msr, Some(0x5000))])?;
            need("set_segment_base", crate::call::hc2(nr::SET_SEGMENT_BASE, which, 0x7000))?;
            reads(env, &[(msr, Some(0x7000))])?;
            need("reset", crate::call::hc2(nr::SET_SEGMENT_BASE, which, 0))?;
        }
        Ok(())
    }
}

case! {
    /// IA32_TSC_AUX is what `rdtscp` shows in user mode, and has 32 bits.
    #[feature(rdtscp)]
    fn tsc_aux(env) {
        writes(env, &[(TSC_AUX, 0x5a, true), (TSC_AUX, 1 << 32, false)])?;
        reads(env, &[(TSC_AUX, Some(0x5a))])?;
        // rdtscp; mov rbx, rcx
        let seen = completes(env, &Start::USER, &[0x0f, 0x01, 0xf9, 0x48, 0x89, 0xcb], &[])?;
        writes(env, &[(TSC_AUX, 0, true)])?;
        same("rdtscp", seen.regs[reg::RBX], 0x5a)
    }
}

case! {
    /// The TSC reads as `rdtsc` does.
    fn tsc(env) {
        let before = guest_pv_lib::time::tsc();
        let value = read(env, 0x10)?.ok_or(Verdict::Failure("the TSC is there"))?;
        same("in between", before < value && value < guest_pv_lib::time::tsc(), true)
    }
}

case! {
    /// User mode may not execute `rdmsr` or `wrmsr` at all.
    fn user_mode(env) {
        raises(env, &Start::USER.with(reg::RCX, EFER.into()), &RDMSR, GP, 0)?;
        raises(env, &Start::USER.with(reg::RCX, FS_BASE.into()), &WRMSR, GP, 0).map(drop)
    }
}

case! {
    /// The hypercall page: a frame of the guest's is filled with stubs that work; a table, no frame, or another page
    /// number is refused.
    fn hypercall_page(env) {
        let page = env.page(7);
        let address = page.mfn().address();
        writes(env, &[
            (HYPERCALL_PAGE, address | 1, false),
            (HYPERCALL_PAGE, crate::call::NO_FRAME << 12, false),
            (HYPERCALL_PAGE, env.boot.root_table().address(), false),
            (HYPERCALL_PAGE, address, true),
        ])?;
        need("executable", page.map(Pte::new(page.mfn(), Pte::PRESENT)))?;
        // call rax: xen_version(XENVER_version)
        let start = Start::KERNEL
            .with(reg::RAX, page.virt() + 32 * u64::from(nr::XEN_VERSION))
            .with(reg::RDI, XENVER_VERSION.into());
        let seen = completes(env, &start, &[0xff, 0xd0], &[])?;
        same("version 4", seen.regs[reg::RAX] >> 16, 4)
    }
}

fn is_amd() -> bool {
    __cpuid(0).ebx == u32::from_le_bytes(*b"Auth")
}

case! {
    /// On AMD's processors: power states, performance counters and hardware configuration read as zero and ignore writes.
    fn of_amd(env) {
        if !is_amd() {
            return Err(Verdict::Skip("another maker's processor"));
        }
        reads(env, &[
            (0x3a, None), (0x17, None), (0x19c, None), (0x199, None), (0xc1, None), (0x186, None),
            (0xc001_0000, Some(0)), (0xc001_0007, Some(0)), (0xc001_0015, Some(0)), (0xc001_001f, Some(0)),
            (0xc001_0061, Some(0)), (0xc001_006b, Some(0)), (0xc001_0200, Some(0)), (0xc001_1029, Some(2)),
        ])?;
        writes(env, &[
            (0x8b, 0, false), (0x199, 0, false), (0xc001_0000, 1, true), (0xc001_0015, 1, true),
            (0xc001_001f, 1, true), (0xc001_0062, 1, true), (0xc001_0200, 1, true), (0xc001_1029, 0, true),
            (0xc001_0010, 0, false), (0xc001_001a, 0, false),
        ])?;
        reads(env, &[(0xc001_0015, Some(0)), (0xc001_1029, Some(2))])
    }
}

case! {
    /// On Intel's processors: feature control is locked, power and performance registers read as zero and ignore writes.
    #[feature(intel)]
    fn of_intel(env) {
        reads(env, &[
            (0x3a, Some(1)), (0x198, Some(0)), (0x199, Some(0)), (0x19c, Some(0)), (0xc1, Some(0)), (0x186, Some(0)),
            (0x38f, Some(0)), (0xc001_0015, None), (0xc001_1029, None),
        ])?;
        writes(env, &[
            (0x3a, 1, false), (0x8b, 0, true), (0x8b, 1, false), (0x198, 0, false), (0x199, 1, true),
            (0x19a, 1, true), (0x1b0, 1, true), (0x186, 1, true), (0xc001_0015, 1, false),
        ])
    }
}
