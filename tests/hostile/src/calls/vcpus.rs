//! The attacking vCPUs: how they start, what puts one right again, and what wakes one that sleeps or loops.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::SeqCst;

use guest_pv_lib::{BootContext, Errno, hypercall, shared};
use xen_abi::arch_x86::{FLAT_KERNEL_CS, FLAT_KERNEL_SS, TrapInfo, VGCF_IN_KERNEL, VcpuGuestContext};
use xen_abi::callback::*;
use xen_abi::event_channel::*;
use xen_abi::hypercall::nr;
use xen_abi::vcpu::*;
use xen_abi::xen::{MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR};
use zerocopy::FromZeros;

use super::argument::Cx;
use super::edge::{VCPUS, call, entry, is_error, stack_top, stub};
use super::pool::place;
use super::tables::mmuext;

fn vcpu_op(command: u32, vcpu: usize, arg: u64) -> i64 {
    call(nr::VCPU_OP, [u64::from(command), vcpu as u64, arg, 0, 0, 0])
}

/// vCPUs that this domain has.
pub fn present() -> usize {
    (0..32).take_while(|vcpu| !is_error(vcpu_op(VCPUOP_IS_UP, *vcpu, 0))).count()
}

/// Starts one.
pub fn start(boot: &BootContext, vcpu: usize) -> Result<(), Errno> {
    let mut context = VcpuGuestContext::new_zeroed();
    context.flags = VGCF_IN_KERNEL;
    context.user_regs.rip = stub(vcpu, entry::START);
    context.user_regs.rsp = stack_top(vcpu) - 8;
    context.user_regs.rflags = 0x200;
    context.user_regs.cs = FLAT_KERNEL_CS;
    context.user_regs.ss = FLAT_KERNEL_SS;
    context.kernel_ss = FLAT_KERNEL_SS.into();
    context.kernel_sp = stack_top(vcpu);
    context.ctrlreg[3] = boot.root_table().address();
    context.event_callback_eip = stub(vcpu, entry::EVENT);
    context.failsafe_callback_eip = stub(vcpu, entry::FAILSAFE);
    hypercall::check(vcpu_op(VCPUOP_INITIALISE, vcpu, &raw const context as u64))?;
    hypercall::check(vcpu_op(VCPUOP_UP, vcpu, 0)).map(drop)
}

/// Puts the calling vCPU right: entries, stack, tables, segment bases, debug registers.
pub fn reset(cx: &mut Cx) {
    let vcpu = cx.vcpu;
    mmuext(MMUEXT_NEW_BASEPTR, place().root.0, 0);
    mmuext(MMUEXT_NEW_USER_BASEPTR, place().user_root.0, 0);
    let mut table = [TrapInfo::default(); 34];
    let vectors = (0..32u8).chain([0x80]);
    for (slot, vector) in table.iter_mut().zip(vectors) {
        let dpl = if matches!(vector, 3 | 4 | 0x80) || cx.rarely(3) { 3 } else { 0 };
        *slot = TrapInfo {
            vector,
            flags: dpl + 4 * cx.below(2) as u8,
            cs: FLAT_KERNEL_CS,
            address: stub(vcpu, u64::from(vector & 31)),
            ..TrapInfo::default()
        };
    }
    call(nr::SET_TRAP_TABLE, [&raw const table as u64, 0, 0, 0, 0, 0]);
    for (type_, number) in [
        (CALLBACKTYPE_EVENT, entry::EVENT),
        (CALLBACKTYPE_FAILSAFE, entry::FAILSAFE),
        (CALLBACKTYPE_SYSCALL, entry::SYSCALL),
        (CALLBACKTYPE_SYSCALL32, entry::SYSCALL32),
        (CALLBACKTYPE_SYSENTER, entry::SYSENTER),
        (CALLBACKTYPE_NMI, entry::NMI),
    ] {
        let arg = CallbackRegister {
            type_,
            flags: cx.below(2) as u16,
            address: stub(vcpu, number),
            ..CallbackRegister::default()
        };
        let at = &raw const arg as u64;
        call(nr::CALLBACK_OP, [u64::from(CALLBACKOP_REGISTER), at, 0, 0, 0, 0]);
    }
    // Below what this turn itself has on the stack: an entry from user mode takes it from its start all the same.
    call(nr::STACK_SWITCH, [u64::from(FLAT_KERNEL_SS), stack_top(vcpu) - 16384, 0, 0, 0, 0]);
    for which in 0..3 {
        call(nr::SET_SEGMENT_BASE, [which, 0, 0, 0, 0, 0]);
    }
    call(nr::SET_DEBUGREG, [7, 0, 0, 0, 0, 0]);
    call(nr::FPU_TASKSWITCH, [0; 6]);
    call(nr::VM_ASSIST, [0, 4, 0, 0, 0, 0]);
}

/// Gets a vCPU that does not go on back to its entry: it may be down, asleep, or in a loop with upcalls masked.
pub fn nudge(vcpu: usize) {
    if vcpu >= VCPUS {
        return;
    }
    if vcpu_op(VCPUOP_IS_UP, vcpu, 0) == 0 {
        vcpu_op(VCPUOP_UP, vcpu, 0);
    }
    // An NMI reaches it in most cases. One that has not left the last one's entry by `iret` takes no other, but takes events.
    vcpu_op(VCPUOP_SEND_NMI, vcpu, 0);
    let mut bind = EvtchnBindIpi { vcpu: vcpu as u32, port: 0 };
    let events = |command: u32, at: u64| call(nr::EVENT_CHANNEL_OP, [u64::from(command), at, 0, 0, 0, 0]);
    if is_error(events(EVTCHNOP_BIND_IPI, &raw mut bind as u64)) {
        return;
    }
    // The upcall mask is the second byte of the vCPU's record, pending ports are masked by the words from 2560 on.
    word(8 * vcpu).fetch_and(!0xff00, SeqCst);
    if bind.port < 4096 {
        word(320 + bind.port as usize / 64).fetch_and(!(1 << (bind.port % 64)), SeqCst);
    }
    let port = EvtchnSend { port: bind.port };
    events(EVTCHNOP_SEND, &raw const port as u64);
    guest_pv_lib::sched::yield_now();
    events(EVTCHNOP_CLOSE, &raw const port as u64);
}

/// A word of the shared page.
fn word(index: usize) -> &'static AtomicU64 {
    assert!(index < 512);
    // SAFETY: the page is mapped for ever and made of words that both sides change atomically.
    unsafe { &*core::ptr::from_ref(shared::info()).cast::<AtomicU64>().add(index) }
}
