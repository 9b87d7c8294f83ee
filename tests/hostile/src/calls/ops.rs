//! Typed generators: for each hypercall its commands with structures of half-valid fields.
//!
//! A generator makes a [`Call`]; the caller makes it alone or as one of a multicall. What a success may leave behind (ports,
//! grants, tables, timers) stays for what comes next.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use xen_abi::arch_x86::{FLAT_KERNEL_CS, TrapInfo};
use xen_abi::callback::*;
use xen_abi::event_channel::*;
use xen_abi::hypercall::nr;
use xen_abi::physdev::*;
use xen_abi::sched::*;
use xen_abi::vcpu::*;
use zerocopy::IntoBytes;

use super::argument::Cx;
use super::edge::{VCPUS, entry, stub};
use super::pool::place;
use super::{grants, memory, privileged};

/// A hypercall that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its number.
    pub nr: u32,
    /// Its arguments.
    pub args: [u64; 6],
}

impl Call {
    /// With these first arguments.
    pub fn new(nr: u32, first: &[u64]) -> Self {
        let mut args = [0; 6];
        args[..first.len()].copy_from_slice(first);
        Self { nr, args }
    }
}

/// A kind of hypercall, and how often of a hundred it is made.
type Kind = (usize, fn(&mut Cx) -> Call);

/// The kinds of hypercalls. `kinds=MASK` on the command line lets only those whose bits are set happen.
const KINDS: [Kind; 14] = [
    (14, memory::mmu_update),
    (12, memory::mmuext),
    (10, memory::va_mapping),
    (10, memory::memory_op),
    (3, memory::descriptors),
    (16, grants::any),
    (12, events),
    (4, vcpu),
    (5, sched),
    (3, processor),
    (3, physdev),
    (3, misc),
    (2, privileged::any),
    (3, wild),
];

/// Bits of the kinds that may happen; another asks for the version instead.
pub static ALLOWED: AtomicU64 = AtomicU64::new(u64::MAX);

fn choose(cx: &mut Cx) -> Call {
    let mut at = cx.below(100);
    for (number, (share, make)) in KINDS.iter().enumerate() {
        if at < *share {
            let is_allowed = ALLOWED.load(Relaxed) >> number & 1 != 0;
            return if is_allowed { make(cx) } else { Call::new(nr::XEN_VERSION, &[0]) };
        }
        at -= share;
    }
    misc(cx)
}

/// Any hypercall.
pub fn any(cx: &mut Cx) -> Call {
    let mut call = choose(cx);
    // Another register than it should be; a command of these may be one that is left out on purpose.
    let is_left_out =
        matches!(call.nr, nr::SCHED_OP | nr::SCHED_OP_COMPAT | nr::CONSOLE_IO | nr::EVENT_CHANNEL_OP);
    let is_open = !is_left_out && !cx.first;
    if is_open && cx.rarely(64) {
        // With another number of structures, what is written into them must not be the program's.
        if call.nr == nr::GRANT_TABLE_OP {
            call.args[1] = cx.far();
        }
        call.args[cx.below(6)] = if cx.rarely(2) { cx.number() } else { cx.far() };
    }
    call
}

/// Hypercalls that end a domain, or take a vCPU where no generator of this file wants it, only ever made on purpose.
fn is_for_purpose(call: &Call) -> bool {
    let command = call.args[0] as u32;
    match call.nr {
        nr::IRET | nr::MULTICALL => true,
        nr::SCHED_OP | nr::SCHED_OP_COMPAT => !matches!(command, SCHEDOP_YIELD | SCHEDOP_POLL),
        // Its entries would be anywhere.
        nr::SET_TRAP_TABLE | nr::SET_CALLBACKS | nr::CALLBACK_OP | nr::NMI_OP | nr::STACK_SWITCH => true,
        nr::DOMCTL | nr::SYSCTL | nr::PLATFORM_OP | nr::KEXEC_OP | nr::MCA | nr::CONSOLE_IO => true,
        nr::PHYSDEV_OP | nr::PHYSDEV_OP_COMPAT => true,
        nr::EVENT_CHANNEL_OP_COMPAT => true,
        nr::EVENT_CHANNEL_OP => matches!(command, EVTCHNOP_CLOSE | EVTCHNOP_RESET),
        _ => false,
    }
}

/// Any number with any registers.
fn wild(cx: &mut Cx) -> Call {
    let number = match cx.below(12) {
        0 => cx.number() as u32,
        _ => cx.below(56) as u32,
    };
    let mut args = [0; 6];
    for arg in &mut args {
        *arg = match cx.below(5) {
            0 => cx.number(),
            1 => cx.address(),
            2 => cx.frame(),
            3 => u64::from(cx.domid()),
            _ => cx.below(48) as u64,
        };
    }
    let call = Call { nr: number, args };
    let is_harmless = |nr| matches!(nr, nr::XEN_VERSION | nr::ARGO_OP | nr::XENPMU_OP | nr::HVM_OP | 56..);
    if is_for_purpose(&call) || (cx.first && !is_harmless(call.nr)) { misc(cx) } else { call }
}

/// `event_channel_op`.
pub fn events(cx: &mut Cx) -> Call {
    let (vcpu, port) = (cx.any_vcpu(), cx.port());
    let command = cx.pick(&[0, 0, 1, 2, 3, 3, 4, 4, 4, 5, 6, 6, 7, 8, 9, 9, 11, 12, 13]);
    let arg = match command {
        EVTCHNOP_BIND_INTERDOMAIN => {
            let arg =
                EvtchnBindInterdomain { remote_dom: cx.peer(), remote_port: port, ..Default::default() };
            cx.put(&arg)
        }
        EVTCHNOP_BIND_VIRQ => {
            let virq = if cx.rarely(8) { cx.number() as u32 } else { cx.below(24) as u32 };
            cx.put(&EvtchnBindVirq { virq, vcpu, port: 0 })
        }
        EVTCHNOP_BIND_PIRQ => {
            let arg = EvtchnBindPirq { pirq: cx.below(300) as u32, flags: cx.below(3) as u32, port: 0 };
            cx.put(&arg)
        }
        EVTCHNOP_STATUS => cx.made(|cx| EvtchnStatus { dom: cx.domid(), port, ..Default::default() }),
        EVTCHNOP_ALLOC_UNBOUND => {
            let arg = EvtchnAllocUnbound { dom: cx.domid(), remote_dom: cx.peer(), port };
            cx.put(&arg)
        }
        EVTCHNOP_BIND_IPI => cx.put(&EvtchnBindIpi { vcpu, port: 0 }),
        EVTCHNOP_BIND_VCPU => cx.put(&EvtchnBindVcpu { port, vcpu }),
        EVTCHNOP_INIT_CONTROL if cx.rarely(40) => {
            let offset = if cx.rarely(4) { cx.offset() } else { 128 * cx.below(32) as u64 };
            let arg = EvtchnInitControl {
                control_gfn: cx.gfn(),
                offset: offset as u32,
                vcpu,
                ..Default::default()
            };
            cx.put(&arg)
        }
        EVTCHNOP_EXPAND_ARRAY => cx.made(|cx| EvtchnExpandArray { array_gfn: cx.gfn() }),
        EVTCHNOP_SET_PRIORITY => cx.made(|cx| EvtchnSetPriority { port, priority: cx.below(20) as u32 }),
        // Everything that this domain has.
        EVTCHNOP_RESET => cx.made(|cx| EvtchnReset { dom: cx.domid() }),
        // By another's structure it could be the console's.
        EVTCHNOP_CLOSE => cx.store(EvtchnClose { port }.as_bytes()),
        _ => cx.put(&EvtchnSend { port }),
    };
    let command = if super::is_late() && cx.rarely(300) { EVTCHNOP_RESET } else { command };
    if cx.rarely(64) {
        // The old form: command and structure in one.
        let words = [u64::from(command), 0, 0, 0];
        let at = cx.store(words.as_bytes());
        return Call::new(nr::EVENT_CHANNEL_OP_COMPAT, &[at]);
    }
    Call::new(nr::EVENT_CHANNEL_OP, &[u64::from(command), arg])
}

/// `vcpu_op`.
fn vcpu(cx: &mut Cx) -> Call {
    let vcpu = cx.any_vcpu();
    let command = cx.pick(&[2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 12, 13, 13, 1, 14, 15]);
    let arg = match command {
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA | VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA => {
            let at = cx.address();
            cx.put(&at)
        }
        VCPUOP_SET_PERIODIC_TIMER => {
            let period_ns = if cx.rarely(2) { cx.number() } else { 1_000_000 + cx.below(5_000_000) as u64 };
            cx.put(&VcpuSetPeriodicTimer { period_ns })
        }
        VCPUOP_SET_SINGLESHOT_TIMER => {
            let arg = VcpuSetSingleshotTimer {
                timeout_abs_ns: cx.moment(),
                flags: cx.below(3) as u32,
                ..Default::default()
            };
            cx.put(&arg)
        }
        VCPUOP_REGISTER_VCPU_INFO => {
            let offset = if cx.rarely(4) { cx.offset() } else { 64 * cx.below(64) as u64 };
            let arg = VcpuRegisterVcpuInfo { mfn: cx.gfn(), offset: offset as u32, ..Default::default() };
            cx.put(&arg)
        }
        _ => cx.address(),
    };
    // The supervisor's records stay where they are, or nobody would see the next fault of this life.
    let target =
        if command == VCPUOP_REGISTER_VCPU_INFO || command == VCPUOP_DOWN { vcpu.max(1) } else { vcpu };
    Call::new(nr::VCPU_OP, &[u64::from(command), u64::from(target), arg])
}

/// `sched_op`: what does not end the domain.
fn sched(cx: &mut Cx) -> Call {
    let command = if cx.rarely(40) { SCHEDOP_BLOCK } else { cx.pick(&[0, 0, 0, 3, 3, 3, 4, 5, 6, 7, 8]) };
    let arg = match command {
        SCHEDOP_POLL => {
            let count = cx.count();
            let ports = cx.list(count, |cx| u64::from(cx.port()) | u64::from(cx.port()) << 32);
            let timeout = match cx.below(32) {
                0 => cx.number(),
                1..16 => 1,
                _ => guest_pv_lib::time::now() + cx.below(100_000) as u64,
            };
            let arg =
                SchedPoll { ports: ports.into(), nr_ports: count as u32, timeout, ..Default::default() };
            cx.put(&arg)
        }
        SCHEDOP_REMOTE_SHUTDOWN => {
            // Lawful for the first domain.
            let domain_id = if cx.first { 0x7000 } else { cx.domid() };
            cx.made(|cx| SchedRemoteShutdown { domain_id, reason: cx.below(8) as u32, ..Default::default() })
        }
        // Slot 0 is for a new one: the supervisor's own must not be renewed for ever.
        SCHEDOP_WATCHDOG => {
            let arg = SchedWatchdog { id: cx.pick(&[3, 4, u32::MAX, 1 << 31]), timeout: 0 };
            cx.store(arg.as_bytes())
        }
        SCHEDOP_PIN_OVERRIDE if cx.first => 0,
        // What is announced counts when this life ends: those reasons after which the next one begins, or an address that is none.
        SCHEDOP_SHUTDOWN_CODE if cx.rarely(2) => 1 << 63,
        SCHEDOP_SHUTDOWN_CODE => {
            let arg = SchedShutdown { reason: cx.pick(&[1, 3, 4]) };
            cx.store(arg.as_bytes())
        }
        _ => cx.address(),
    };
    Call::new(nr::SCHED_OP, &[u64::from(command), arg])
}

/// What says where the hypervisor enters this kernel. A reset of the vCPU undoes it.
pub fn entries(cx: &mut Cx) -> Call {
    let vcpu = cx.vcpu % VCPUS;
    match cx.below(6) {
        0 => {
            let mut table = [TrapInfo::default(); 8];
            for slot in &mut table[..7] {
                let vector = if cx.rarely(4) { cx.random.any() as u8 } else { cx.below(32) as u8 };
                *slot = TrapInfo {
                    vector,
                    flags: if cx.rarely(8) { cx.random.any() as u8 } else { cx.below(8) as u8 },
                    cs: if cx.rarely(16) { cx.random.any() as u16 } else { FLAT_KERNEL_CS },
                    address: if cx.rarely(16) { cx.address() } else { stub(vcpu, u64::from(vector & 31)) },
                    ..Default::default()
                };
            }
            let at = cx.put(&table[..]);
            Call::new(nr::SET_TRAP_TABLE, &[at])
        }
        1 => {
            let arg = CallbackRegister {
                type_: cx.below(9) as u16,
                flags: cx.below(3) as u16,
                address: if cx.rarely(16) { cx.address() } else { stub(vcpu, entry::EVENT) },
                ..Default::default()
            };
            let command = cx.below(3) as u64;
            let at = cx.put(&arg);
            Call::new(nr::CALLBACK_OP, &[command, at])
        }
        2 => {
            let places = [stub(vcpu, entry::EVENT), stub(vcpu, entry::FAILSAFE), stub(vcpu, entry::SYSCALL)];
            Call::new(nr::SET_CALLBACKS, &places)
        }
        3 => {
            let at = cx.put(&[stub(vcpu, entry::NMI), 0][..]);
            Call::new(nr::NMI_OP, &[cx.below(3) as u64, at])
        }
        4 => {
            let stack = if cx.rarely(8) { cx.address() } else { super::edge::stack_top(vcpu) - 8192 };
            Call::new(nr::STACK_SWITCH, &[if cx.rarely(8) { cx.number() } else { 0xe02b }, stack])
        }
        _ => Call::new(nr::SET_TRAP_TABLE, &[cx.address()]),
    }
}

/// Registers of the processor: segment bases, debug registers, TS, assistances.
fn processor(cx: &mut Cx) -> Call {
    match cx.below(8) {
        0..3 => {
            let base = if cx.rarely(2) { cx.address() } else { cx.number() };
            Call::new(nr::SET_SEGMENT_BASE, &[cx.below(5) as u64, base])
        }
        3 => {
            let value = if cx.rarely(2) { cx.address() } else { cx.number() };
            Call::new(nr::SET_DEBUGREG, &[cx.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 7, 8, 1 << 31]), value])
        }
        4 => Call::new(nr::GET_DEBUGREG, &[cx.below(10) as u64]),
        5 => Call::new(nr::FPU_TASKSWITCH, &[cx.below(3) as u64]),
        6 => Call::new(
            nr::VM_ASSIST,
            &[cx.below(3) as u64, cx.pick(&[0, 1, 2, 3, 4, 5, 6, 31, 32, 63, 64, 1 << 31])],
        ),
        _ => Call::new(nr::SET_TIMER_OP, &[cx.moment()]),
    }
}

/// `physdev_op`. For the first domain what the devices of the machine cannot mind.
pub fn physdev(cx: &mut Cx) -> Call {
    let mut command = cx.below(34) as u32;
    // Neither the controllers' registers, nor lines and devices that the machine itself uses.
    let gentle = [5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 18, 20, 21, 22, 24, 25, 26, 27, 28, 29];
    if cx.first && !gentle.contains(&command) {
        command = cx.pick(&[PHYSDEVOP_SET_IOPL, PHYSDEVOP_SET_IOBITMAP, PHYSDEVOP_IRQ_STATUS_QUERY]);
    }
    let arg = match command {
        PHYSDEVOP_SET_IOPL => cx.made(|cx| PhysdevSetIopl { iopl: cx.below(5) as u32 }),
        PHYSDEVOP_SET_IOBITMAP => {
            let nr_ports = if cx.rarely(4) { cx.number() as u32 } else { cx.below(65537) as u32 };
            let arg = PhysdevSetIobitmap { bitmap: cx.address().into(), nr_ports, ..Default::default() };
            cx.put(&arg)
        }
        PHYSDEVOP_MAP_PIRQ => {
            let arg = PhysdevMapPirq {
                domid: cx.domid(),
                type_: cx.below(5) as i32,
                index: cx.below(40) as i32 - 1,
                pirq: cx.below(300) as i32 - 2,
                bus: cx.below(3) as i32,
                devfn: cx.below(256) as i32,
                entry_nr: cx.count() as i32,
                table_base: cx.frame() << 12,
                ..Default::default()
            };
            cx.put(&arg)
        }
        _ => {
            let make = |cx: &mut Cx| match cx.below(4) {
                0 => cx.gfn(),
                1 => cx.number(),
                _ => cx.below(300) as u64,
            };
            cx.list(5, make)
        }
    };
    Call::new(nr::PHYSDEV_OP, &[u64::from(command), arg])
}

/// What is left: version, console, services for other guests, and what is not there.
fn misc(cx: &mut Cx) -> Call {
    match cx.below(12) {
        0..3 => Call::new(nr::XEN_VERSION, &[cx.below(14) as u64, cx.address()]),
        3 => {
            // Nothing of it, or from where nothing is: what it writes is on everybody's screen.
            let (count, at) = match cx.below(3) {
                0 => (cx.number(), cx.pick(&[1 << 63, 0xffff_82d0_4020_0000, 0x1000])),
                _ => (0, cx.address()),
            };
            Call::new(nr::CONSOLE_IO, &[u64::from(!cx.first && cx.rarely(2)), count, at])
        }
        4 | 5 => {
            let number = cx.pick(&[
                nr::HVM_OP,
                nr::ARGO_OP,
                nr::XENPMU_OP,
                nr::DM_OP,
                nr::XSM_OP,
                nr::HYPFS_OP,
                31,
                38,
            ]);
            let args = [cx.below(16) as u64, cx.address(), cx.address(), cx.number(), cx.number()];
            Call::new(number, &args)
        }
        6 => {
            // In a domain's name: by the old form of `sched_op`, which only yields here.
            Call::new(nr::SCHED_OP_COMPAT, &[0, cx.number()])
        }
        7 => Call::new(nr::SET_TIMER_OP, &[cx.moment()]),
        8 => {
            let word = cx.number();
            let at = cx.put(&[place().root.0, word, word][..]);
            Call::new(nr::MCA, &[if cx.first { 0 } else { at }])
        }
        9 => {
            let at = cx.put(&[0u64; 4][..]);
            Call::new(nr::SCHED_OP, &[u64::from(SCHEDOP_YIELD), at])
        }
        _ => Call::new(48 + cx.below(16) as u32, &[cx.number(), if cx.first { 0 } else { cx.address() }]),
    }
}
