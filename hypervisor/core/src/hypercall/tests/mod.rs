//! Host tests of dispatch, of guest pointers, and of the adapters that have no subsystem of their own.

mod answers;
mod control;
mod machine;
mod memory;
mod outputs;
mod vcpu;

use super::*;
use crate::domain::VcpuFlags;
use crate::guest_ptr::GuestPtr;
use crate::mock::{self, FLAT_BASE, FLAT_SIZE, MockPlatform};
use crate::platform::GuestFault;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::SeqCst;
use xen_abi::arch_x86::TrapInfo;
use xen_abi::callback::*;
use xen_abi::version::*;
use xen_abi::xen::MulticallEntry;
use zerocopy::{Immutable, IntoBytes};

/// A machine with a domain of two vCPUs, the first of which makes hypercalls.
pub(super) struct Caller {
    pub hv: Hypervisor<MockPlatform>,
    pub domain: Arc<Domain<MockPlatform>>,
}

impl Caller {
    pub fn new() -> Self {
        Self::with_id(0)
    }

    pub fn with_id(id: u16) -> Self {
        let mut hv = mock::hypervisor(128);
        hv.machine.apic_ids = vec![10, 11];
        hv.machine.acpi_ids = vec![20, 21];
        let domain = mock::domain(&hv, id, 2, 64);
        for vcpu in &domain.vcpus {
            vcpu.time.disable_periodic();
        }
        domain.vcpus[0].pv.set_flags(VcpuFlags::INITIALISED, true);
        hv.bring_up(&VcpuRef { domain: domain.clone(), id: crate::ids::VcpuId(0) });
        let first = hv.schedule(None).unwrap();
        hv.vcpu_switched(None, Some(&first));
        Self { hv, domain }
    }

    pub fn vcpu(&self, n: usize) -> &Vcpu<MockPlatform> {
        &self.domain.vcpus[n]
    }

    pub fn outcome(&self, nr: u32, args: [u64; 6]) -> Outcome {
        let cx = Cx { hv: &self.hv, domain: &self.domain, vcpu: self.vcpu(0) };
        call(cx, nr.into(), &args, &mut Regs::default())
    }

    /// A hypercall with up to three arguments.
    pub fn call(&self, nr: u32, args: &[u64]) -> Result<i64, Errno> {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        match self.outcome(nr, all) {
            Outcome::Done(value) => Errno::from_ret(value).map_or(Ok(value), Err),
            other => panic!("{other:?}"),
        }
    }

    /// Puts an argument where the guest has memory; answers its address.
    pub fn put<T: IntoBytes + Immutable>(&self, value: &T) -> u64 {
        self.put_at(FLAT_BASE, value)
    }

    pub fn put_at<T: IntoBytes + Immutable>(&self, address: u64, value: &T) -> u64 {
        GuestPtr::<T>::new(address).write(&self.hv, value).unwrap();
        address
    }

    pub fn bytes<const N: usize>(&self, address: u64) -> [u8; N] {
        GuestPtr::<[u8; N]>::new(address).read(&self.hv).unwrap()
    }

    pub fn word(&self, address: u64) -> u64 {
        GuestPtr::<u64>::new(address).read(&self.hv).unwrap()
    }

    fn preempt_every(&self, n: u32) {
        self.hv.platform.preempt_every.store(n, SeqCst);
    }
}

/// Numbers without a hypercall, on both sides of the table's end.
#[test]
fn unknown_numbers() {
    let caller = Caller::new();
    let cx = Cx { hv: &caller.hv, domain: &caller.domain, vcpu: caller.vcpu(0) };
    for number in [11, 50, 63, 64, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(dispatch(cx, number, &mut Regs::default()), Errno::ENOSYS.into(), "{number}");
    }
}

/// The dispatch table against the ABI's: every hypercall of PV guests is served, but for those that `unsupported` names and
/// `physdev_op`, which has no command 0.
#[test]
fn every_hypercall_is_served() {
    const NOT_SERVED: [u32; 8] = [
        nr::PHYSDEV_OP,
        nr::XSM_OP,
        nr::XENOPROF_OP,
        nr::KEXEC_OP,
        nr::TMEM_OP,
        nr::ARGO_OP,
        nr::DM_OP,
        nr::HYPFS_OP,
    ];
    for row in xen_abi::hypercall::TABLE {
        let served = Caller::new().outcome(row.nr, [0; 6]) != Errno::ENOSYS.into();
        let expected = row.callers.pv && !NOT_SERVED.contains(&row.nr);
        assert_eq!(served, expected, "{}", row.name);
    }
}

/// Arithmetic on guest addresses never wraps into something valid.
#[test]
fn guest_pointers_do_not_wrap() {
    let caller = Caller::new();
    let hv = &caller.hv;
    let last = GuestPtr::<u64>::new(u64::MAX - 3);
    assert_eq!(last.read(hv), Err(GuestFault));
    assert_eq!(last.write(hv, &1), Err(GuestFault));
    assert!(last.at(1).is_err());
    assert!(GuestPtr::<u64>::new(FLAT_BASE).at(u64::MAX / 8 + 1).is_err());
    assert!(GuestPtr::<u64>::new(FLAT_BASE).at(u64::MAX).is_err());
    assert!(GuestPtr::<u64>::new(u64::MAX - 8).field::<u8>(16).is_err());
    assert_eq!(GuestPtr::<u64>::new(u64::MAX - 15).read_slice(hv, &mut [0; 3]), Err(GuestFault));
    // No element, no access: whatever the address.
    assert_eq!(GuestPtr::<u64>::new(u64::MAX).read_slice(hv, &mut []), Ok(()));
    assert_eq!(GuestPtr::<u64>::new(u64::MAX).write_slice(hv, &[]), Ok(()));
    let end = FLAT_BASE + FLAT_SIZE as u64;
    assert_eq!(GuestPtr::<u64>::new(end - 8).write(hv, &7), Ok(()));
    assert_eq!(GuestPtr::<u64>::new(end - 16).read_at(hv, 1), Ok(7));
    assert_eq!(GuestPtr::<u64>::new(end - 7).read(hv), Err(GuestFault));
}

fn entry(op: u32, args: &[u64]) -> MulticallEntry {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    MulticallEntry { op: op.into(), result: 0x5555, args: all }
}

/// Every entry gets its own result; a failing one does not stop the others.
#[test]
fn multicall_results() {
    let caller = Caller::new();
    let list = [
        entry(nr::XEN_VERSION, &[XENVER_VERSION.into()]),
        entry(nr::XEN_VERSION, &[99]),
        entry(nr::MULTICALL, &[FLAT_BASE, 1]),
        entry(63, &[]),
        entry(nr::XEN_VERSION, &[XENVER_PAGESIZE.into()]),
    ];
    let at = caller.put(&list);
    assert_eq!(caller.call(nr::MULTICALL, &[at, 5]), Ok(0));
    let results: Vec<i64> = (0..5).map(|n| caller.word(at + 64 * n + 8).cast_signed()).collect();
    assert_eq!(results, [0x4_0011, -38, -22, -38, 4096]);
    assert_eq!(caller.call(nr::MULTICALL, &[0x10, 1]), Err(Errno::EFAULT));
    assert_eq!(caller.call(nr::MULTICALL, &[0x10, 0]), Ok(0));
    // The last entry lies outside: those before it were made.
    let near_end = FLAT_BASE + FLAT_SIZE as u64 - 64;
    caller.put_at(near_end, &list[0]);
    assert_eq!(caller.call(nr::MULTICALL, &[near_end, 2]), Err(Errno::EFAULT));
    assert_eq!(caller.word(near_end + 8), 0x4_0011);
}

/// A batch that returns somewhere else ends there.
#[test]
fn multicall_ends_with_iret() {
    let caller = Caller::new();
    let list = [
        entry(nr::XEN_VERSION, &[XENVER_VERSION.into()]),
        entry(nr::IRET, &[]),
        entry(nr::XEN_VERSION, &[0]),
    ];
    let at = caller.put(&list);
    assert_eq!(caller.outcome(nr::MULTICALL, [at, 3, 0, 0, 0, 0]), Outcome::RegsReplaced);
    assert_eq!(
        [8, 72, 136].map(|n| caller.word(at + n)),
        [0x4_0011, 0x1234, 0x5555],
        "the one before is made, the return says what it put into rax, the one behind is not made"
    );
}

/// Preempted between entries and within one, a batch goes on until all of it is done exactly once.
#[test]
fn multicall_continues() {
    let text: Vec<u8> = (0..700u32).map(|n| b'a' + (n % 26) as u8).collect();
    for every in 1..6 {
        let caller = Caller::new();
        let buffer = FLAT_BASE + 0x1000;
        GuestPtr::<u8>::new(buffer).write_slice(&caller.hv, &text).unwrap();
        let list = [
            entry(nr::CONSOLE_IO, &[0, 700, buffer]),
            entry(nr::XEN_VERSION, &[0]),
            entry(nr::CONSOLE_IO, &[0, 300, buffer]),
        ];
        let mut args = [caller.put(&list), 3, 0, 0, 0, 0];
        caller.preempt_every(every);
        let mut rounds = 0;
        let end = loop {
            rounds += 1;
            assert!(rounds < 20, "no progress");
            match caller.outcome(nr::MULTICALL, args) {
                Outcome::Again(next) => args = next,
                end => break end,
            }
        };
        assert_eq!(end, Outcome::Done(0));
        assert!(every > 2 || rounds > 1);
        let want = [&text[..], &text[..300]].concat();
        assert_eq!(caller.hv.platform.record.lock().unwrap().console, want, "every {every}");
        assert_eq!([8, 72, 136].map(|n| caller.word(FLAT_BASE + n)), [0, 0x4_0011, 0]);
    }
}

/// The trap table: selectors get ring 3, flags are kept, a bad entry ends it, a null table clears it, and preemption
/// goes on behind the entries that are done.
#[test]
fn trap_table() {
    let caller = Caller::new();
    let trap = |vector: u8, flags: u8, address: u64| TrapInfo { vector, flags, cs: 0x10, _pad0: 0, address };
    let table = [trap(3, 3, 0x1000), trap(14, 4, 0x2000), trap(0, 0, 0)];
    let at = caller.put(&table);
    assert_eq!(caller.call(nr::SET_TRAP_TABLE, &[at]), Ok(0));
    let traps = &caller.vcpu(0).pv.traps;
    assert_eq!((traps[3].selector(), traps[3].dpl(), traps[3].address.load(SeqCst)), (0x13, 3, 0x1000));
    assert_ne!(traps[14].meta.load(SeqCst) & crate::domain::TrapSlot::MASK_EVENTS, 0);
    let bad = [trap(5, 0, 0x5000), trap(6, 0, 1 << 47), trap(0, 0, 0)];
    assert_eq!(caller.call(nr::SET_TRAP_TABLE, &[caller.put(&bad)]), Err(Errno::EINVAL));
    assert_eq!((traps[5].selector(), traps[6].selector()), (0x13, 0));
    assert_eq!(caller.call(nr::SET_TRAP_TABLE, &[0x10]), Err(Errno::EFAULT));
    caller.preempt_every(1);
    let at = caller.put(&table);
    assert_eq!(caller.outcome(nr::SET_TRAP_TABLE, [at; 6]), Outcome::Again([at + 16, at, at, at, at, at]));
    assert_eq!(caller.call(nr::SET_TRAP_TABLE, &[0]), Ok(0));
    assert!(traps.iter().all(|slot| slot.selector() == 0 && slot.address.load(SeqCst) == 0));
}

/// Each callback lands in its place with its mask flag; only the NMI callback can be taken back.
#[test]
fn callbacks() {
    let caller = Caller::new();
    let pv = &caller.vcpu(0).pv;
    let register = |type_, flags, address| {
        let at = caller.put(&CallbackRegister { type_, flags, _pad0: 0, address });
        caller.call(nr::CALLBACK_OP, &[CALLBACKOP_REGISTER.into(), at])
    };
    let unregister = |type_| {
        let at = caller.put(&CallbackUnregister { type_, _unused: 0 });
        caller.call(nr::CALLBACK_OP, &[CALLBACKOP_UNREGISTER.into(), at])
    };
    assert_eq!(register(CALLBACKTYPE_EVENT, 0, 0x10), Ok(0));
    assert_eq!(register(CALLBACKTYPE_FAILSAFE, CALLBACKF_MASK_EVENTS, 0x20), Ok(0));
    assert_eq!(register(CALLBACKTYPE_SYSCALL, CALLBACKF_MASK_EVENTS, 0x30), Ok(0));
    assert_eq!(register(CALLBACKTYPE_SYSCALL32, 0, 0x40), Ok(0));
    assert_eq!(register(CALLBACKTYPE_SYSENTER, CALLBACKF_MASK_EVENTS, 0x50), Ok(0));
    assert_eq!(register(CALLBACKTYPE_NMI, 0, 0x60), Ok(0));
    let at = [&pv.event_callback, &pv.failsafe_callback, &pv.syscall_callback, &pv.syscall32_callback];
    assert_eq!(at.map(|a| a.load(SeqCst)), [0x10, 0x20, 0x30, 0x40]);
    assert_eq!(pv.sysenter_callback.load(SeqCst), 0x50);
    assert_eq!(pv.traps[2].address.load(SeqCst), 0x60);
    assert!(pv.has_flags(VcpuFlags::SYSCALL_MASKS_EVENTS | VcpuFlags::FAILSAFE_MASKS_EVENTS));
    assert!(!pv.has_flags(VcpuFlags::SYSCALL32_MASKS_EVENTS));
    assert_eq!(register(CALLBACKTYPE_SYSCALL, 0, 0x31), Ok(0));
    assert!(!pv.has_flags(VcpuFlags::SYSCALL_MASKS_EVENTS));
    assert_eq!(register(CALLBACKTYPE_EVENT, 0, 1 << 63), Err(Errno::EINVAL));
    assert_eq!(register(CALLBACKTYPE_SYSENTER_DEPRECATED, 0, 1), Err(Errno::ENOSYS));
    assert_eq!(unregister(CALLBACKTYPE_EVENT), Err(Errno::EINVAL));
    assert_eq!(unregister(CALLBACKTYPE_NMI), Ok(0));
    assert_eq!(unregister(99), Err(Errno::ENOSYS));
    assert_eq!(pv.traps[2].address.load(SeqCst), 0);
    assert_eq!(caller.call(nr::CALLBACK_OP, &[7, FLAT_BASE]), Err(Errno::ENOSYS));
    // The old way leaves out what is not canonical.
    assert_eq!(caller.call(nr::SET_CALLBACKS, &[0x100, 1 << 63, 0x300]), Ok(0));
    assert_eq!(at.map(|a| a.load(SeqCst)), [0x100, 0x20, 0x300, 0x40]);
}

/// Version texts, features, and what the unprivileged may not know.
#[test]
fn version() {
    let caller = Caller::new();
    let ask = |cmd: u32| caller.call(nr::XEN_VERSION, &[cmd.into(), FLAT_BASE]);
    assert_eq!(ask(XENVER_VERSION), Ok(0x4_0011));
    assert_eq!(ask(XENVER_CAPABILITIES), Ok(0));
    assert_eq!(&caller.bytes::<16>(FLAT_BASE), b"xen-3.0-x86_64 \0");
    assert_eq!(ask(XENVER_PLATFORM_PARAMETERS), Ok(0));
    assert_eq!(caller.word(FLAT_BASE), 0xffff_8000_0000_0000);
    caller.put(&0u64);
    assert_eq!(ask(XENVER_GET_FEATURES), Ok(0));
    assert_eq!(caller.word(FLAT_BASE) >> 32, 0x2_28e0);
    caller.put(&1u64);
    assert_eq!(ask(XENVER_GET_FEATURES), Err(Errno::EINVAL));
    assert_eq!(ask(XENVER_PAGESIZE), Err(Errno::EINVAL));
    assert_eq!(caller.call(nr::XEN_VERSION, &[XENVER_PAGESIZE.into(), 0]), Ok(4096));
    assert_eq!(caller.call(nr::XEN_VERSION, &[XENVER_BUILD_ID.into(), 0]), Err(Errno::ENODATA));
    caller.put(&0u32);
    assert_eq!(ask(XENVER_BUILD_ID), Err(Errno::EINVAL));
    assert_eq!(caller.call(nr::XEN_VERSION, &[XENVER_EXTRAVERSION.into(), 8]), Err(Errno::EFAULT));
    for cmd in [XENVER_COMPILE_INFO, XENVER_CHANGESET, XENVER_GUEST_HANDLE, XENVER_COMMANDLINE] {
        assert_eq!(ask(cmd), Ok(0));
    }
    let guest = Caller::with_id(3);
    let ask = |cmd: u32| guest.call(nr::XEN_VERSION, &[cmd.into(), FLAT_BASE]);
    guest.put(&0u64);
    assert_eq!(ask(XENVER_GET_FEATURES), Ok(0));
    assert_eq!(guest.word(FLAT_BASE) >> 32, 0x2_20e0);
    assert_eq!(ask(XENVER_COMMANDLINE), Ok(0));
    assert_eq!(&guest.bytes::<9>(FLAT_BASE), b"<denied>\0");
    assert_eq!(ask(XENVER_BUILD_ID), Err(Errno::EPERM));
}

#[test]
fn vm_assist() {
    let caller = Caller::new();
    let assist = |cmd, type_| caller.call(nr::VM_ASSIST, &[cmd, type_]);
    assert_eq!(assist(0, 32), Ok(0));
    assert_eq!(assist(0, 5), Ok(0));
    assert_eq!(caller.domain.vm_assist.load(SeqCst), 1 << 32 | 1 << 5);
    assert_eq!(assist(1, 5), Ok(0));
    assert_eq!(assist(2, 5), Err(Errno::ENOSYS));
    for type_ in [6, 31, 33, 63, 64, 1000] {
        assert_eq!(assist(0, type_), Err(Errno::EINVAL), "{type_}");
    }
    assert_eq!(caller.domain.vm_assist.load(SeqCst), 1 << 32);
}
