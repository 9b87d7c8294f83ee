//! Every kind of instruction that stores to a level-1 table: which ones the hypervisor does on the guest's behalf, and how.
//!
//! Each case starts from a pinned, empty table, mapped for reading, and does one instruction to its word 3 (or near it).

use guest_pv_lib::mmu::Pte;
use xen_abi::hypercall::nr;
use xen_abi::xen::*;

use crate::call::{Ret, hc2, mmu, mmuext, plain};
use crate::harness::fault::{self, Fault, page_fault};
use crate::harness::pool::{Page, store_relative};
use crate::harness::{Env, Outcome, Verdict, check, need, same};

/// Arithmetic flags: CF, PF, AF, ZF, SF, OF.
const FLAGS: u64 = 0x8d5;
const CARRY: u64 = 1;
const ZERO: u64 = 1 << 6;

/// Page 0 as such a table.
fn table(env: &Env) -> Result<Page<'_>, Verdict> {
    let table = env.page(0);
    need("read-only", table.read_only())?;
    need("pin", mmuext(MMUEXT_PIN_L1_TABLE, table.mfn().0, 0))?;
    Ok(table)
}

/// Gives the table up after `then`.
fn with_table(env: &Env, then: impl FnOnce(Page<'_>) -> Outcome) -> Outcome {
    let table = table(env)?;
    let outcome = then(table);
    need("unpin", mmuext(MMUEXT_UNPIN_TABLE, table.mfn().0, 0))?;
    outcome
}

/// What a store that is not emulated looks like.
fn refused(address: u64) -> Result<(), Fault> {
    Err(Fault::page(page_fault::PRESENT | page_fault::WRITE, address))
}

/// Does `instruction` with the memory operand `[rdi]`, `rax`, `rcx` and `rdx`, and flags from `rsi`; evaluates to what
/// came of it and the registers afterwards.
macro_rules! store {
    ($instruction:literal, $at:expr, $rax:expr, $rdx:expr, $flags:expr) => {{
        let (mut rax, mut rdx, mut flags): (u64, u64, u64) = ($rax, $rdx, $flags | 0x202);
        // SAFETY: a store to a table or an unmapped address: the hypervisor does it or it faults. Registers and flags that
        // the instruction changes are named.
        let ended = unsafe {
            core::arch::asm!(
                "push rbx",
                "lea {scratch}, [rip + 2f]",
                "mov [{slot}], {scratch}",
                "mov rbx, 0x1111111122222222",
                "mov ecx, 3",
                "push rsi",
                "popfq",
                $instruction,
                "2:",
                "pushfq",
                "pop rsi",
                "cld",
                "pop rbx",
                scratch = out(reg) _,
                slot = in(reg) fault::resume_slot(),
                inout("rdi") $at => _,
                inout("rax") rax,
                inout("rdx") rdx,
                inout("rsi") flags,
                out("rcx") _,
                out("r11") _,
            );
            fault::taken()
        };
        (ended, rax, rdx, flags & FLAGS)
    }};
}

/// What a store does to word 3, which held `old`: its new value and the flags, none of which were set before.
macro_rules! stored {
    ($env:expr, $instruction:literal, $old:expr, $rax:expr) => {
        (|| -> Result<(u64, u64, u64), Verdict> {
            let table = table($env)?;
            need("old value", mmu(table.entry(3), $old))?;
            let (ended, rax, _, flags) = store!($instruction, table.virt() + 24, $rax, 0u64, 0u64);
            let now = table.get(3);
            need("unpin", mmuext(MMUEXT_UNPIN_TABLE, table.mfn().0, 0))?;
            need("store", ended)?;
            Ok((now, rax, flags))
        })()
    };
}

returns! {
    /// mov of 8 bytes; the values here are not present, so they are stored as they are.
    mov_8(env): stored!(env, "mov [rdi], rax", 0, 0x1234_5678_9abc_def0u64)
        => Ok((0x1234_5678_9abc_def0, 0x1234_5678_9abc_def0, 0));
    /// With a scaled index.
    mov_indexed(env): stored!(env, "mov [rdi + rcx*8 - 24], rax", 0, 0x70u64) => Ok((0x70, 0x70, 0));
    /// With a scaled index among the upper registers and a displacement of 4 bytes.
    mov_indexed_upper(env): stored!(env, "lea rdi, [rdi - 0x100c]; xchg r12, rcx; mov [rdi + r12*4 + 0x1000], rax; xchg r12, rcx", 0, 0x70u64)
        => Ok((0x70, 0x70, 0));
    /// By r12, whose number calls for another byte of the instruction.
    mov_by_r12(env): stored!(env, "xchg r12, rdi; mov [r12], rax; xchg r12, rdi", 0, 0x70u64) => Ok((0x70, 0x70, 0));
    /// By r13, whose number calls for a displacement.
    mov_by_r13(env): stored!(env, "xchg r13, rdi; mov [r13], rax; xchg r13, rdi", 0, 0x70u64) => Ok((0x70, 0x70, 0));
    /// From r8.
    mov_from_r8(env): stored!(env, "xchg r8, rax; mov [rdi], r8; xchg r8, rax", 0, 0x70u64) => Ok((0x70, 0x70, 0));
    /// With an index and no base, at an address of 32 bits that is sign-extended.
    mov_without_base(env): stored!(env, "mov r11d, 0x80000000; lea rdi, [rdi + r11]; mov [rdi*1 - 0x80000000], rax", 0, 0x70u64)
        => Ok((0x70, 0x70, 0));
    /// mov of 4 bytes to the upper half.
    mov_4(env): stored!(env, "mov [rdi + 4], eax", 0x10, 0x1234_5678u64) => Ok((0x1234_5678_0000_0010, 0x1234_5678, 0));
    /// mov of 2 bytes.
    mov_2(env): stored!(env, "mov [rdi + 2], ax", 0x10, 0x5678u64) => Ok((0x5678_0010, 0x5678, 0));
    /// mov of one byte, from the second byte of a register.
    mov_1(env): stored!(env, "mov [rdi + 7], ah", 0x10, 0x5600u64) => Ok((0x5600_0000_0000_0010, 0x5600, 0));
    /// mov of a constant, which is sign-extended.
    mov_constant(env): stored!(env, "mov qword ptr [rdi], -2", 0, 0u64) => Ok((u64::MAX - 1, 0, 0));
    /// A store past the caches.
    movnti(env): stored!(env, "movnti [rdi], rax", 0, 0x70u64) => Ok((0x70, 0x70, 0));
    /// Big-endian store.
    movbe(env): stored!(env, "movbe [rdi], rax", 0, 0x7000_0000_0000_0000u64) => Ok((0x70, 0x7000_0000_0000_0000, 0));
    /// xchg: the old value comes back.
    xchg(env): stored!(env, "xchg [rdi], rax", 0x40, 0x70u64) => Ok((0x70, 0x40, 0));
    /// xchg of 4 bytes clears the register's upper half.
    xchg_4(env): stored!(env, "xchg [rdi], eax", 0x40, 0xffff_ffff_0000_0070u64) => Ok((0x70, 0x40, 0));
    /// xadd: the sum, and the old value.
    xadd(env): stored!(env, "lock xadd [rdi], rax", 0x40, 0x30u64) => Ok((0x70, 0x40, 0));
    /// add, with carry out of a byte.
    add_1(env): stored!(env, "add byte ptr [rdi], 0x20", 0x1f0, 0u64) => Ok((0x110, 0, CARRY));
    /// adc takes no carry where there is none.
    adc(env): stored!(env, "adc [rdi], rax", 0x10, 0x20u64) => Ok((0x30, 0x20, 1 << 2));
    /// sub to zero.
    sub(env): stored!(env, "sub [rdi], rax", 0x10, 0x10u64) => Ok((0, 0x10, ZERO | 1 << 2));
    /// sub of more than there is: carry and sign; the result happens to be not present.
    sub_borrow(env): stored!(env, "sub [rdi], rax", 0x10, 0x20u64) => Ok((0xffff_ffff_ffff_fff0, 0x20, CARRY | 1 << 7 | 1 << 2));
    /// sbb without a borrow.
    sbb(env): stored!(env, "sbb dword ptr [rdi], eax", 0x30, 0x10u64) => Ok((0x20, 0x10, 0));
    /// and.
    and(env): stored!(env, "lock and [rdi], rax", 0x70, 0x30u64) => Ok((0x30, 0x30, 1 << 2));
    /// or.
    or(env): stored!(env, "or [rdi], rax", 0x40, 0x30u64) => Ok((0x70, 0x30, 0));
    /// xor to zero.
    xor(env): stored!(env, "xor [rdi], rax", 0x40, 0x40u64) => Ok((0, 0x40, ZERO | 1 << 2));
    /// inc leaves the carry alone.
    inc(env): stored!(env, "inc byte ptr [rdi + 1]", 0x1100, 0u64) => Ok((0x1200, 0, 1 << 2));
    /// dec.
    dec(env): stored!(env, "dec word ptr [rdi + 2]", 0x100_0000, 0u64) => Ok((0xff_0000, 0, 1 << 2 | 1 << 4));
    /// not changes no flags.
    not(env): stored!(env, "not byte ptr [rdi + 1]", 0x1000, 0u64) => Ok((0xef00, 0, 0));
    /// neg.
    neg(env): stored!(env, "neg qword ptr [rdi]", 0x10, 0u64) => Ok((0xffff_ffff_ffff_fff0, 0, CARRY | 1 << 7 | 1 << 2));
    /// bts says what the bit was.
    bts(env): stored!(env, "lock bts qword ptr [rdi], 5", 0x40, 0u64).map(|(now, _, flags)| (now, flags & CARRY))
        => Ok((0x60, 0));
    /// btr by a register.
    btr(env): stored!(env, "btr [rdi], rax", 0x40, 6u64).map(|(now, _, flags)| (now, flags & CARRY)) => Ok((0, CARRY));
    /// btc.
    btc(env): stored!(env, "btc qword ptr [rdi], 5", 0x60, 0u64).map(|(now, _, flags)| (now, flags & CARRY))
        => Ok((0x40, CARRY));
    /// shl by one.
    shl(env): stored!(env, "shl qword ptr [rdi], 1", 0x8, 0u64).map(|(now, ..)| now) => Ok(0x10);
    /// shr by a constant.
    shr(env): stored!(env, "shr qword ptr [rdi], 4", 0x200, 0u64).map(|(now, ..)| now) => Ok(0x20);
    /// sar by the count register.
    sar(env): stored!(env, "sar qword ptr [rdi], cl", 0x100, 0u64).map(|(now, ..)| now) => Ok(0x20);
    /// rol.
    rol(env): stored!(env, "rol qword ptr [rdi], 8", 0x7000_0000_0000_0000, 0u64).map(|(now, ..)| now) => Ok(0x70);
    /// shld brings bits of a register in.
    shld(env): stored!(env, "shld [rdi], rax, 4", 0x10, 0u64).map(|(now, ..)| now) => Ok(0x100);
    /// setcc writes one byte.
    setcc(env): stored!(env, "setb byte ptr [rdi + 1]", 0x770, 0u64).map(|(now, ..)| now) => Ok(0x70);
    /// stos of 8 bytes.
    stosq(env): stored!(env, "stosq", 0, 0x70u64) => Ok((0x70, 0x70, 0));
    /// stos of one byte.
    stosb(env): stored!(env, "stosb", 0x500, 0x70u64) => Ok((0x570, 0x70, 0));
}

case! {
    /// mov to an address relative to the instruction.
    fn mov_relative(env) {
        with_table(env, |table| {
            store_relative(env, 0x70);
            same("words", [2, 3, 4].map(|n| table.get(n)), [0, 0x70, 0])
        })
    }
}

case! {
    /// A string of stores goes on from word to word.
    fn rep_stosq(env) {
        with_table(env, |table| {
            let (ended, ..) = store!("rep stosq", table.virt() + 24, 0x70u64, 0u64, 0u64);
            same("stores", ended, Ok(()))?;
            same("words", [2, 3, 4, 5, 6].map(|n| table.get(n)), [0, 0x70, 0x70, 0x70, 0])
        })
    }
}

case! {
    /// A string that is copied to a table from elsewhere.
    fn rep_movsq(env) {
        let from = env.page(1);
        for n in 0..3 {
            from.set(n, 0x10 + 0x10 * n as u64);
        }
        with_table(env, |table| {
            let mut rsi = from.virt();
            // SAFETY: three stores to the table, which the hypervisor does.
            unsafe {
                core::arch::asm!("rep movsq", inout("rdi") table.virt() + 24 => _, inout("rsi") rsi,
                    inout("rcx") 3u64 => _)
            };
            same("source", rsi, from.virt() + 24)?;
            same("words", [2, 3, 4, 5, 6].map(|n| table.get(n)), [0, 0x10, 0x20, 0x30, 0])
        })
    }
}

case! {
    /// cmpxchg of every size: where it succeeds, ZF is set; where it fails, the old part comes back.
    fn cmpxchg_sizes(env) {
        with_table(env, |table| {
            let at = table.virt() + 24;
            need("old value", mmu(table.entry(3), 0x3020))?;
            let good = [
                store!("cmpxchg [rdi + 1], dl", at, 0xaa30u64, 0x40u64, 0u64),
                store!("lock cmpxchg [rdi + 2], dx", at, 0xaa_0000u64, 0x5060u64, 0u64),
                store!("cmpxchg [rdi + 4], edx", at, 0xaa_0000_0000u64, 0x70u64, 0u64),
            ];
            same("value", table.get(3), 0x70_5060_4020)?;
            check("ZF", good.iter().all(|(ended, _, _, flags)| ended.is_ok() && flags & ZERO != 0))?;
            let (ended, rax, _, flags) = store!("cmpxchg [rdi], dl", at, 0x1199u64, 0u64, 0u64);
            same("one byte differs", (ended, rax, flags & ZERO), (Ok(()), 0x1120, 0))?;
            let (ended, rax, _, flags) = store!("lock cmpxchg [rdi], edx", at, u64::MAX, 0u64, 0u64);
            same("four bytes differ", (ended, rax, flags & ZERO), (Ok(()), 0x5060_4020, 0))?;
            same("value", table.get(3), 0x70_5060_4020)
        })
    }
}

case! {
    /// cmpxchg8b is one store of 8 bytes: edx:eax against ecx:ebx.
    fn cmpxchg8b(env) {
        with_table(env, |table| {
            let at = table.virt() + 24;
            need("old value", mmu(table.entry(3), 0x5_0000_0040))?;
            let (ended, rax, rdx, flags) = store!("lock cmpxchg8b [rdi]", at, 0x41u64, 5u64, 0u64);
            same("differs", (ended, rax, rdx, flags & ZERO), (Ok(()), 0x40, 5, 0))?;
            let (ended, _, _, flags) = store!("lock cmpxchg8b [rdi]", at, 0x40u64, 5u64, 0u64);
            same("is the same", (ended, flags & ZERO), (Ok(()), ZERO))?;
            same("value", table.get(3), 0x3_2222_2222)
        })
    }
}

case! {
    /// Sixteen bytes are two entries: not done.
    fn cmpxchg16b(env) {
        with_table(env, |table| {
            let at = table.virt() + 32;
            same("refused", store!("lock cmpxchg16b [rdi]", at, 0u64, 0u64, 0u64).0, refused(at))?;
            same("nothing stored", (table.get(4), table.get(5)), (0, 0))
        })
    }
}

case! {
    /// A store that is not aligned to its size is not done.
    fn unaligned(env) {
        with_table(env, |table| {
            let at = table.virt() + 24;
            same("8 bytes", store!("mov [rdi + 4], rax", at, 0x70u64, 0u64, 0u64).0, refused(at + 4))?;
            same("4 bytes", store!("mov [rdi + 2], eax", at, 0x70u64, 0u64, 0u64).0, refused(at + 2))?;
            same("2 bytes", store!("mov [rdi + 1], ax", at, 0x70u64, 0u64, 0u64).0, refused(at + 1))?;
            same("nothing stored", (table.get(3), table.get(4)), (0, 0))
        })
    }
}

case! {
    /// A store that begins before the table, in a writable page, faults where the table begins, and stores nothing.
    fn straddling(env) {
        let (before, table) = (env.page(0), env.page(1));
        need("read-only", table.read_only())?;
        need("pin", mmuext(MMUEXT_PIN_L1_TABLE, table.mfn().0, 0))?;
        let ended = store!("mov [rdi], rax", table.virt() - 4, 0x70_0000_0070u64, 0u64, 0u64).0;
        need("unpin", mmuext(MMUEXT_UNPIN_TABLE, table.mfn().0, 0))?;
        same("refused", ended.map_err(|fault| (fault.vector, fault.error)), Err((14, 3)))?;
        same("the table", table.get(0), 0)?;
        same("the page before", before.get(511), 0)
    }
}

case! {
    /// Tables of levels 2 to 4 are not written so.
    fn upper_levels(env) {
        for pin in MMUEXT_PIN_L2_TABLE..=MMUEXT_PIN_L4_TABLE {
            let table = env.page(0);
            need("read-only", table.read_only())?;
            need("pin", mmuext(pin, table.mfn().0, 0))?;
            let ended = store!("mov [rdi], rax", table.virt() + 24, 0x70u64, 0u64, 0u64).0;
            need("unpin", mmuext(MMUEXT_UNPIN_TABLE, table.mfn().0, 0))?;
            same("refused", ended, refused(table.virt() + 24))?;
        }
        Ok(())
    }
}

case! {
    /// A page that is read-only but no table is not written so.
    fn no_table(env) {
        let page = env.page(0);
        need("read-only", page.read_only())?;
        let ended = store!("mov [rdi], rax", page.virt() + 24, 0x70u64, 0u64, 0u64).0;
        same("refused", ended, refused(page.virt() + 24))
    }
}

case! {
    /// The first domain's tables are written so even where it did not ask for it.
    fn without_the_assist(env) {
        let assist = |command: u32| -> Ret {
            hc2(nr::VM_ASSIST, u64::from(command), u64::from(VMASST_TYPE_WRITABLE_PAGETABLES))
        };
        with_table(env, |table| {
            need("disable", assist(VMASST_CMD_DISABLE))?;
            let ended = store!("mov [rdi], rax", table.virt() + 24, 0x70u64, 0u64, 0u64).0;
            need("enable", assist(VMASST_CMD_ENABLE))?;
            same("without", (ended, table.get(3)), (Ok(()), 0x70))
        })
    }
}

case! {
    /// A part of an entry that is changed leaves the whole present: the references follow.
    fn part_of_a_present_entry(env) {
        let (first, second) = (env.page(1), env.page(2));
        with_table(env, |table| {
            let at = table.virt() + 24;
            need("entry", mmu(table.entry(3), Pte::read_only(first.mfn()).0))?;
            same("made writable", store!("or byte ptr [rdi], 2", at, 0u64, 0u64, 0u64).0, Ok(()))?;
            same("writable", table.get(3) & 3, 3)?;
            // The frame's number changes by half a word.
            let wanted = Pte::data(second.mfn()).0;
            same("another frame", store!("mov [rdi], eax", at, wanted, 0u64, 0u64).0, Ok(()))?;
            same("entry", plain(table.get(3)) & 0xffff_ffff, plain(wanted) & 0xffff_ffff)?;
            same("not present", store!("mov byte ptr [rdi], 0", at, 0u64, 0u64, 0u64).0, Ok(()))?;
            same("entry", table.get(3) & 1, 0)
        })?;
        crate::memory::nothing_left(first)?;
        crate::memory::nothing_left(second)
    }
}

case! {
    /// An entry that is refused is the fault of the instruction, whatever it is.
    fn refused_entries(env) {
        with_table(env, |table| {
            let (at, bad) = (table.virt() + 24, Pte::data(table.mfn()).0);
            same("xchg", store!("xchg [rdi], rax", at, bad, 0u64, 0u64).0, refused(at))?;
            same("or", store!("or [rdi], rax", at, bad, 0u64, 0u64).0, refused(at))?;
            same("xadd", store!("lock xadd [rdi], rax", at, bad, 0u64, 0u64).0, refused(at))?;
            same("stos", store!("stosq", at, bad, 0u64, 0u64).0, refused(at))?;
            same("cmpxchg", store!("cmpxchg [rdi], rdx", at, 0u64, bad, 0u64).0, refused(at))?;
            same("nothing stored", table.get(3), 0)
        })
    }
}

case! {
    /// push and call store, too: a stack in a table.
    fn push(env) {
        with_table(env, |table| {
            let (rsp, value) = (table.virt() + 32, 0x70u64);
            let after: u64;
            // SAFETY: the stack pointer names the table for one instruction, and no upcall comes meanwhile: they are masked.
            unsafe {
                core::arch::asm!("mov {save}, rsp", "mov rsp, {rsp}", "push {value}", "mov {rsp}, rsp", "mov rsp, {save}",
                    save = out(reg) _, rsp = inout(reg) rsp => after, value = in(reg) value)
            };
            same("stack pointer", after, table.virt() + 24)?;
            same("value", table.get(3), 0x70)
        })
    }
}

case! {
    /// A store by an address with a scaled index and a displacement.
    fn addressing(env) {
        with_table(env, |table| {
            let ended = store!("mov [rdi + rcx * 8 - 16], rax", table.virt() + 16, 0x70u64, 0u64, 0u64).0;
            same("store", (ended, table.get(3)), (Ok(()), 0x70))
        })
    }
}

case! {
    /// With 32-bit addressing the upper half of the address is gone: the store goes elsewhere.
    fn truncated_address(env) {
        with_table(env, |table| {
            let ended = store!("mov [edi], rax", table.virt() + 24, 0x70u64, 0u64, 0u64).0;
            same("elsewhere", ended.map_err(|fault| fault.address), Err((table.virt() + 24) & 0xffff_ffff))?;
            same("nothing stored", table.get(3), 0)
        })
    }
}

case! {
    /// The first domain's stores to device memory that it may only look at are dropped; there they do not fault.
    fn read_only_device_memory(env) {
        const HPET: u64 = 0xfed0_0000;
        let page = env.page(0);
        if page.map(Pte(HPET | 0x13)).is_err() {
            return Err(Verdict::Skip("that frame cannot be mapped here"));
        }
        let ended = store!("mov [rdi], eax", page.virt() + 0x10, 0u64, 0u64, 0u64).0;
        same("store", ended, Ok(()))
    }
}

case! {
    /// XSA-123: prefixes of an instruction led its store elsewhere than where it faulted.
    fn xsa_123_prefixes(env) {
        with_table(env, |table| {
            // Segment prefixes other than FS and GS mean nothing in 64-bit mode.
            let ended = store!(".byte 0x2e, 0x36; mov [rdi], rax", table.virt() + 24, 0x70u64, 0u64, 0u64).0;
            same("store", (ended, table.get(3)), (Ok(()), 0x70))
        })
    }
}

case! {
    /// XSA-195: a bit's number in a register reaches beyond the operand; the word that it is in is meant, and no other.
    fn xsa_195_bits_far_away(env) {
        with_table(env, |table| {
            let far = store!("bts [rdi], rax", table.virt() + 24, 70u64, 0u64, 0u64).0;
            let words = [2, 3, 4, 5].map(|at| table.get(at));
            let before = store!("bts [rdi], rax", table.virt() + 24, -58i64 as u64, 0u64, 0u64).0;
            same("bit 70", (far, words), (Ok(()), [0, 0, 0x40, 0]))?;
            same("bit -58", (before, table.get(2), table.get(3)), (Ok(()), 0x40, 0))
        })
    }
}

case! {
    /// XSA-200: an operand-size prefix changed what cmpxchg8b was taken to store.
    fn xsa_200_cmpxchg8b_prefix(env) {
        with_table(env, |table| {
            let (ended, ..) = store!(".byte 0x66; lock cmpxchg8b [rdi]", table.virt() + 24, 0u64, 0u64, 0u64);
            let words = [2, 3, 4].map(|at| table.get(at));
            same("8 bytes", (ended, words), (Ok(()), [0, 0x3_2222_2222, 0]))
        })
    }
}
