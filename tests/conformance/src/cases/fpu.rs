//! x87, SSE and XSAVE of a guest: exceptions, state, and bad images (SDM vol. 1, chapters 8 to 13).

use crate::harness::raw::{self, Start, completes, go, places, raises, reg};
use crate::harness::{Env, Outcome, same};

const GP: (u64, Option<u64>) = (13, Some(0));
const CR4_OSXSAVE: u64 = 1 << 18;

/// `mov cr4, rax`; with OSXSAVE kernels may use what the hypervisor enabled.
fn set_cr4(env: &Env, value: u64) -> Outcome {
    completes(env, &Start::KERNEL.with(reg::RAX, value), &[0x0f, 0x22, 0xe0], &[]).map(drop)
}

/// Leaves the FPU as it is after a reset.
fn clean(env: &Env) -> Outcome {
    // fninit; mov dword [rdi], 0x1f80; ldmxcsr [rdi]
    let code = [0xdb, 0xe3, 0xc7, 0x07, 0x80, 0x1f, 0, 0, 0x0f, 0xae, 0x17];
    completes(env, &Start::KERNEL.with(reg::RDI, env.page(5).virt()), &code, &[]).map(drop)
}

case! {
    /// An unmasked x87 exception arrives as vector 16 at the next instruction that waits.
    fn x87_exception(env) {
        for user in [false, true] {
            let (_, data) = places(env, user);
            // fninit; mov word [rdi], 0x37b; fldcw [rdi]; fld1; fldz; fdivp; fwait
            let code = [
                0xdb, 0xe3, 0x66, 0xc7, 0x07, 0x7b, 0x03, 0xd9, 0x2f, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x9b,
            ];
            let start = Start { user, ..Start::KERNEL }.with(reg::RDI, data);
            let seen = raises(env, &start, &code, (16, None), 15);
            clean(env)?;
            seen?;
        }
        Ok(())
    }
}

case! {
    /// An unmasked SSE exception arrives as vector 19 at the instruction.
    #[emulator(qemu, "raises no SSE exceptions")]
    fn sse_exception(env) {
        let (_, data) = places(env, true);
        // mov dword [rdi], 0x1d80; ldmxcsr [rdi]; xorps xmm0, xmm0; divss xmm0, xmm0 with all but #Z and #I masked
        let code = [0xc7, 0x07, 0x00, 0x1d, 0, 0, 0x0f, 0xae, 0x17, 0x0f, 0x57, 0xc0, 0xf3, 0x0f, 0x5e, 0xc0];
        let seen = raises(env, &Start::USER.with(reg::RDI, data), &code, (19, None), 12);
        clean(env)?;
        seen.map(drop)
    }
}

case! {
    /// Reserved bits of MXCSR are a general protection fault.
    #[emulator(qemu, "takes reserved bits of MXCSR")]
    fn mxcsr_reserved(env) {
        let start = Start::USER.with(reg::RDI, places(env, true).1);
        let seen = go(env, &start, &[0x0f, 0xae, 0x17], &[0xffff_ffff])?;
        clean(env)?;
        same("ldmxcsr", seen.what(), GP)
    }
}

case! {
    /// SSE registers survive hypercalls, emulated instructions and faults.
    fn sse_state(env) {
        // movups xmm9, [rdi]; mov rcx, cr0; mov eax, 17; xor esi, esi; push rdi; xor edi, edi; syscall; pop rdi;
        // movups [rdi + 16], xmm9
        let code = [
            0x44, 0x0f, 0x10, 0x0f, 0x0f, 0x20, 0xc1, 0xb8, 17, 0, 0, 0, 0x31, 0xf6, 0x57, 0x31, 0xff, 0x0f, 0x05, 0x5f,
            0x44, 0x0f, 0x11, 0x4f, 0x10,
        ];
        completes(env, &Start::KERNEL.with(reg::RDI, env.page(5).virt()), &code, &[0x1234, 0x5678])?;
        same("xmm9", [env.page(5).get(2), env.page(5).get(3)], [0x1234, 0x5678])
    }
}

case! {
    /// The x87 environment survives as well: the control word is what the program set.
    fn x87_state(env) {
        // fninit; mov word [rdi], 0x27f; fldcw [rdi]; mov rcx, cr0; fnstcw [rdi + 8]
        let code = [
            0xdb, 0xe3, 0x66, 0xc7, 0x07, 0x7f, 0x02, 0xd9, 0x2f, 0x0f, 0x20, 0xc1, 0xd9, 0x7f, 0x08,
        ];
        completes(env, &Start::KERNEL.with(reg::RDI, env.page(5).virt()), &code, &[])?;
        let word = env.page(5).get(1);
        clean(env)?;
        same("control word", word, 0x27f)
    }
}

/// With `rdi` at the data page, `eax` and `edx` all ones.
fn xsave_start(env: &Env) -> Start<'static> {
    Start::USER.with(reg::RDI, places(env, true).1).with(reg::RAX, 7).with(reg::RDX, 0)
}

case! {
    /// `xsave` and `xrstor` work in user mode, with the parts that XCR0 has.
    #[feature(xsave)]
    fn xsave(env) {
        // xsave64 [rdi]; xrstor64 [rdi]
        let code = [0x48, 0x0f, 0xae, 0x27, 0x48, 0x0f, 0xae, 0x2f];
        completes(env, &xsave_start(env), &code, &[])?;
        same("parts", env.page(5).get(64) & !3, 0)
    }
}

case! {
    /// `xsave` to a misaligned area and `xrstor` of an image with unknown parts are general protection faults.
    #[feature(xsave)]
    fn xsave_faults(env) {
        raises(env, &xsave_start(env).with(reg::RDI, places(env, true).1 + 8), &[0x48, 0x0f, 0xae, 0x27], GP, 0)?;
        let mut image = [0; 72];
        image[64] = 1 << 62;
        let seen = go(env, &xsave_start(env), &[0x48, 0x0f, 0xae, 0x2f], &image)?;
        same("xrstor", seen.what(), GP)
    }
}

case! {
    /// Without the part in XCR0, AVX instructions do not exist.
    #[feature(avx)]
    fn avx_disabled(env) {
        raw::needs_avx(env)?;
        // vpxor xmm0, xmm0, xmm0
        raises(env, &Start::USER, &[0xc5, 0xf9, 0xef, 0xc0], (6, None), 0)?;
        set_cr4(env, CR4_OSXSAVE)?;
        completes(env, &Start::KERNEL.with(reg::RAX, 7), &[0x0f, 0x01, 0xd1], &[])?;
        completes(env, &Start::USER, &[0xc5, 0xf9, 0xef, 0xc0], &[])?;
        completes(env, &Start::KERNEL.with(reg::RAX, 3), &[0x0f, 0x01, 0xd1], &[])?;
        set_cr4(env, 0)
    }
}

case! {
    /// An alignment check: in user mode with the flag on, and in the kernel, which runs in ring 3 as well.
    #[emulator(qemu, "checks no alignment")]
    fn alignment_check(env) {
        for user in [false, true] {
            let (_, data) = places(env, user);
            let start = Start { user, rflags: crate::harness::raw::flag::ONE | 1 << 18, ..Start::KERNEL };
            // mov eax, [rdi]
            raises(env, &start.with(reg::RDI, data + 1), &[0x8b, 0x07], (17, Some(0)), 0)?;
            completes(env, &start.with(reg::RDI, data + 4), &[0x8b, 0x07], &[])?;
        }
        Ok(())
    }
}
