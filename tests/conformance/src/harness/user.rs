//! User mode: runs a few instructions with a page table of their own and says how they came back.
//!
//! The way in is the `iret` hypercall, the ways out are the syscall callback, an exception and an upcall. Each way out
//! arrives on the stack that `stack_switch` named; from there the harness returns to where it went in, as if the
//! whole trip were one function call.

use core::cell::Cell;

use guest_pv_lib::events;
use guest_pv_lib::mmu::{Level, Pte, index};
use guest_pv_lib::traps::Frame;
use xen_abi::arch_x86::*;
use xen_abi::callback::*;
use xen_abi::hypercall::nr;
use xen_abi::xen::{MMUEXT_NEW_USER_BASEPTR, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE};

use super::fault::Fault;
use super::pool::Page;
use super::{Env, Verdict, need};
use crate::call::{hc2, mmuext, op};

/// Where the code lies in user mode.
pub const CODE: u64 = 0x0040_0000;
/// The data page, which is also the stack: it grows down from its end.
pub const DATA: u64 = 0x0040_1000;

/// Why user mode ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// `syscall`.
    Syscall,
    /// An exception.
    Fault(Fault),
    /// An upcall, whose handler called [`leave`].
    Event,
}

/// What user mode looked like when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Why it ended.
    pub cause: Cause,
    /// The instruction pointer.
    pub rip: u64,
    /// The code segment, as the hypervisor shows it to the kernel.
    pub cs: u64,
    /// The stack pointer.
    pub rsp: u64,
    /// The first register.
    pub rax: u64,
}

/// How to enter.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Flags of the `iret` hypercall.
    pub flags: u64,
    /// Whether upcalls may come.
    pub events: bool,
}

impl Entry {
    /// The ordinary way.
    pub const PLAIN: Self = Self { flags: 0, events: false };
}

/// What an exception or an upcall left behind for [`run`]. One CPU, and no way out while another is under way.
struct Left(Cell<Option<Exit>>);
// SAFETY: only the one CPU touches it, and no handler runs while `run` looks.
unsafe impl Sync for Left {}
static LEFT: Left = Left(Cell::new(None));

/// Five pages that make up user mode: four tables and the two pages they show.
pub(super) struct Space<'a> {
    root: Page<'a>,
}

impl<'a> Space<'a> {
    pub(super) fn build(env: &'a Env, code: &[u8], data: &[u64]) -> Result<Self, Verdict> {
        let [l1, l2, l3, l4, text, stack] = [0, 1, 2, 3, 4, 5].map(|at| env.page(at));
        // An earlier run of the same case left the tables read-only.
        for table in [l1, l2, l3, l4] {
            need("writable", table.writable())?;
        }
        for (word, bytes) in code.chunks(8).enumerate() {
            let mut whole = [0x90; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            text.set(word, u64::from_le_bytes(whole));
        }
        for (word, value) in data.iter().enumerate() {
            stack.set(word, *value);
        }
        l1.set(index(CODE, Level::L1), Pte::new(text.mfn(), Pte::PRESENT | Pte::USER).0);
        l1.set(index(DATA, Level::L1), Pte::data(stack.mfn()).0 | Pte::USER);
        l2.set(index(CODE, Level::L2), Pte::table(l1.mfn()).0);
        l3.set(index(CODE, Level::L3), Pte::table(l2.mfn()).0);
        l4.set(index(CODE, Level::L4), Pte::table(l3.mfn()).0);
        for table in [l1, l2, l3, l4] {
            need("read-only", table.read_only())?;
        }
        need("pin", mmuext(MMUEXT_PIN_L4_TABLE, l4.mfn().0, 0))?;
        need("user root", mmuext(MMUEXT_NEW_USER_BASEPTR, l4.mfn().0, 0))?;
        Ok(Self { root: l4 })
    }

    pub(super) fn tear_down(&self) -> Result<(), Verdict> {
        need("no user root", mmuext(MMUEXT_NEW_USER_BASEPTR, 0, 0))?;
        need("unpin", mmuext(MMUEXT_UNPIN_TABLE, self.root.mfn().0, 0)).map(drop)
    }
}

/// Runs `code` in user mode, with `data` at [`DATA`], until it comes back.
pub fn run(env: &Env, entry: Entry, code: &[u8], data: &[u64]) -> Result<Exit, Verdict> {
    let space = Space::build(env, code, data)?;
    let kernel_stack = env.page(6);
    need("stack_switch", hc2(nr::STACK_SWITCH, u64::from(FLAT_KERNEL_SS), kernel_stack.virt() + 4096))?;
    let mut callback = CallbackRegister {
        type_: CALLBACKTYPE_SYSCALL,
        address: asm::syscall_entry(),
        ..CallbackRegister::default()
    };
    need("callback", op(nr::CALLBACK_OP, CALLBACKOP_REGISTER, &mut callback))?;

    const INTERRUPTS: u64 = 1 << 9;
    let frame = IretContext {
        flags: entry.flags,
        rip: CODE,
        cs: u64::from(FLAT_USER_CS),
        rflags: 2 | if entry.events { INTERRUPTS } else { 0 },
        rsp: DATA + 4096,
        ss: u64::from(FLAT_USER_SS),
        ..IretContext::default()
    };
    LEFT.0.set(None);
    let (syscall_frame, rax) = asm::enter(&frame);
    events::mask_upcalls();
    let exit = LEFT.0.take().unwrap_or_else(|| {
        // rcx, r11, rip, cs, rflags, rsp, ss on the stack of page 6.
        let word = |at| kernel_stack.get((syscall_frame - kernel_stack.virt()) as usize / 8 + at);
        Exit { cause: Cause::Syscall, rip: word(2), cs: word(3), rsp: word(5), rax }
    });
    space.tear_down()?;
    Ok(exit)
}

/// Called by the handler of exceptions: where user mode was interrupted, ends it.
pub fn trapped(frame: &Frame, fault: Fault) {
    if frame.from_user() {
        LEFT.0.set(Some(Exit {
            cause: Cause::Fault(fault),
            rip: frame.instruction_pointer(),
            cs: 3,
            rsp: frame.stack_pointer(),
            rax: frame.rax(),
        }));
        asm::leave();
    }
}

/// Called by the handler of an event: ends user mode.
pub fn leave() -> ! {
    LEFT.0.set(Some(Exit { cause: Cause::Event, rip: 0, cs: 0, rsp: 0, rax: 0 }));
    asm::leave()
}

#[cfg(target_os = "none")]
mod asm {
    use core::arch::global_asm;

    use xen_abi::arch_x86::IretContext;
    use xen_abi::hypercall::nr;

    // `case_user_enter` saves what the C convention wants saved, and where, and leaves by the hypercall; whichever way
    // user mode ends, `case_user_leave` restores it and returns to `case_user_enter`'s caller.
    global_asm!(
        ".pushsection .bss.pv_user, \"aw\", @nobits",
        ".balign 8",
        "case_user_saved_rsp: .skip 8",
        "case_user_rax: .skip 8",
        ".popsection",
        ".pushsection .text.pv_user, \"ax\", @progbits",
        ".global case_user_enter",
        ".type case_user_enter, @function",
        "case_user_enter:",
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rip + case_user_saved_rsp], rsp",
        "sub rsp, 72",
        "mov rsi, rdi",
        "mov rdi, rsp",
        "mov ecx, 9",
        "rep movsq",
        "mov eax, {iret}",
        "syscall",
        "ud2",
        ".size case_user_enter, . - case_user_enter",
        ".global case_user_syscall",
        ".type case_user_syscall, @function",
        "case_user_syscall:",
        "mov [rip + case_user_rax], rax",
        "mov rdi, rsp",
        "jmp case_user_leave",
        ".size case_user_syscall, . - case_user_syscall",
        ".global case_user_leave",
        ".type case_user_leave, @function",
        "case_user_leave:",
        "mov rax, rdi",
        "mov rdx, [rip + case_user_rax]",
        "mov rsp, [rip + case_user_saved_rsp]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        ".size case_user_leave, . - case_user_leave",
        ".popsection",
        iret = const nr::IRET,
    );

    /// Two registers' worth of result.
    #[repr(C)]
    struct Pair(u64, u64);

    unsafe extern "C" {
        fn case_user_enter(frame: *const IretContext) -> Pair;
        fn case_user_leave(frame: u64) -> !;
        safe static case_user_syscall: u8;
    }

    /// The syscall callback's address.
    pub fn syscall_entry() -> u64 {
        &raw const case_user_syscall as u64
    }

    /// Enters user mode by `frame`; returns, when it has ended, the kernel's stack pointer then and the user's rax.
    pub fn enter(frame: &IretContext) -> (u64, u64) {
        // SAFETY: the frame leads to user mode, which cannot touch the kernel's memory; its page table and the stack
        // for the way back are set up by the only caller. The stub returns once and preserves what it must.
        let Pair(stack, rax) = unsafe { case_user_enter(frame) };
        (stack, rax)
    }

    /// Returns from the [`enter`] that is under way.
    pub fn leave() -> ! {
        // SAFETY: called by handlers that interrupted user mode, so `enter` is under way and its frame on the first
        // stack intact. What is abandoned on the handler's stack owns nothing.
        unsafe { case_user_leave(0) }
    }
}

#[cfg(not(target_os = "none"))]
mod asm {
    //! Nothing of this runs on a host.
    use xen_abi::arch_x86::IretContext;

    pub fn syscall_entry() -> u64 {
        0
    }
    pub fn enter(_: &IretContext) -> (u64, u64) {
        (0, 0)
    }
    pub fn leave() -> ! {
        std::process::abort()
    }
}
