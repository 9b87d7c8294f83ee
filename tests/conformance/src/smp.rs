//! Other vCPUs of the domain, for cases that need them: bring one up, let it do one thing, take it down again.
//!
//! The first use of a vCPU initialises it with a stack of this module's and upcalls masked. It does what lies in its mailbox and
//! goes down; the next use brings it up where it went down. What runs there gets one word and answers one, and must not use what
//! belongs to the boot vCPU: the parts of the guest library that mask upcalls or read the clock. No trap table is
//! registered: an exception ends the domain, which the host reports.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::SeqCst};

use guest_pv_lib::{Errno, sched, shared, time};
use xen_abi::arch_x86::*;
use xen_abi::hypercall::nr;
use xen_abi::vcpu::*;
use zerocopy::FromZeros;

use crate::call::{Ret, hc3};
use crate::harness::{Env, Verdict, check, need};

/// vCPUs that can be used, the boot vCPU included.
const VCPUS: usize = 4;
/// How long a vCPU may take for what it is given, in nanoseconds.
const PATIENCE: u64 = 5_000_000_000;
/// Words of a stack.
const STACK: usize = 4096;

/// What a vCPU can be given to do.
pub type Work = fn(u64) -> u64;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u64; STACK]>);

// SAFETY: each stack is one vCPU's, and nothing else touches it.
unsafe impl Sync for Stack {}

struct Mail {
    /// A [`Work`]; null: nothing to do.
    work: AtomicPtr<()>,
    argument: AtomicU64,
    answer: AtomicU64,
    /// How many pieces of work are done.
    done: AtomicU32,
}

static STACKS: [Stack; VCPUS] = [const { Stack(UnsafeCell::new([0; STACK])) }; VCPUS];
static MAIL: [Mail; VCPUS] = [const {
    Mail {
        work: AtomicPtr::new(core::ptr::null_mut()),
        argument: AtomicU64::new(0),
        answer: AtomicU64::new(0),
        done: AtomicU32::new(0),
    }
}; VCPUS];

/// `vcpu_op` with any address.
pub fn vcpu_at(command: u32, id: u32, at: u64) -> Ret {
    hc3(nr::VCPU_OP, u64::from(command), u64::from(id), at)
}

/// `VCPUOP_initialise`.
pub fn initialise(id: u32, context: &VcpuGuestContext) -> Ret {
    vcpu_at(VCPUOP_INITIALISE, id, context as *const VcpuGuestContext as u64)
}

/// Word `index` of the shared page.
pub fn shared_word(index: usize) -> &'static AtomicU64 {
    assert!(index < 512);
    // SAFETY: the shared page is mapped for ever and made of words that both sides change atomically.
    unsafe { &*core::ptr::from_ref(shared::info()).cast::<AtomicU64>().add(index) }
}

/// The first word of the `vcpu_info` of a vCPU: upcall pending in the lowest byte, upcall mask in the next.
pub fn flags(id: u32) -> &'static AtomicU64 {
    shared_word(id as usize * 8)
}

/// A context that starts `entry` with `argument` on a stack of this module's, in the boot vCPU's address space.
pub fn context(env: &Env, id: u32, entry: extern "sysv64" fn(u64) -> !, argument: u64) -> VcpuGuestContext {
    let mut context = VcpuGuestContext::new_zeroed();
    // As if `entry` had been called: one word below a multiple of 16.
    let top = STACKS[id as usize].0.get() as u64 + (STACK as u64 - 1) * 8;
    context.flags = VGCF_IN_KERNEL;
    context.user_regs.rip = entry as *const () as u64;
    context.user_regs.rsp = top;
    context.user_regs.rdi = argument;
    context.user_regs.rflags = 0x200;
    context.user_regs.cs = FLAT_KERNEL_CS;
    context.user_regs.ss = FLAT_KERNEL_SS;
    context.kernel_ss = FLAT_KERNEL_SS.into();
    context.kernel_sp = top;
    context.ctrlreg[3] = env.boot.root_table().0 << 12;
    context
}

extern "sysv64" fn secondary(id: u64) -> ! {
    let mail = &MAIL[id as usize];
    loop {
        let work = mail.work.swap(core::ptr::null_mut(), SeqCst);
        if !work.is_null() {
            // SAFETY: `start` put a `Work` there.
            let work = unsafe { core::mem::transmute::<*mut (), Work>(work) };
            mail.answer.store(work(mail.argument.load(SeqCst)), SeqCst);
            mail.done.fetch_add(1, SeqCst);
        }
        // Refused at most where the argument is wrong, and then the boot vCPU sees that it stays up.
        let _ = vcpu_at(VCPUOP_DOWN, id as u32, 0);
    }
}

/// A vCPU at work.
pub struct Running {
    id: u32,
    done: u32,
}

/// Lets vCPU `id` do `work`, and comes back at once.
pub fn start(env: &Env, id: u32, work: Work, argument: u64) -> Result<Running, Verdict> {
    let mail = &MAIL[id as usize];
    flags(id).fetch_or(0x100, SeqCst);
    match initialise(id, &context(env, id, secondary, id.into())) {
        Ok(_) | Err(Errno::EEXIST) => {}
        Err(error) => return need("initialise", Err(error)),
    }
    let running = Running { id, done: mail.done.load(SeqCst) };
    mail.argument.store(argument, SeqCst);
    mail.work.store(work as *mut (), SeqCst);
    need("up", vcpu_at(VCPUOP_UP, id, 0))?;
    Ok(running)
}

impl Running {
    /// Waits until the work is done and the vCPU down, and says what the work answered.
    pub fn finish(self) -> Result<u64, Verdict> {
        let mail = &MAIL[self.id as usize];
        check("the other vCPU did its work", wait(|| mail.done.load(SeqCst) != self.done))?;
        check("the other vCPU went down", wait(|| vcpu_at(VCPUOP_IS_UP, self.id, 0) == Ok(0)))?;
        Ok(mail.answer.load(SeqCst))
    }
}

/// Lets vCPU `id` do `work` and waits for it.
pub fn run(env: &Env, id: u32, work: Work, argument: u64) -> Result<u64, Verdict> {
    start(env, id, work, argument)?.finish()
}

/// Waits until `condition` holds, letting other vCPUs run; false where it takes too long.
pub fn wait(condition: impl Fn() -> bool) -> bool {
    let end = time::now() + PATIENCE;
    while !condition() {
        if time::now() > end {
            return false;
        }
        sched::yield_now();
    }
    true
}

/// Waits on a vCPU that has no clock of its own: for a while, but not for ever.
pub fn spin(condition: impl Fn() -> bool) -> bool {
    (0..100_000_000u64).any(|_| {
        core::hint::spin_loop();
        condition()
    })
}
