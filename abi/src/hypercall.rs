//! The hypercalls, each declared once: number, name, arguments, who may call it, where it is specified.
//!
//! Three forms of the same table:
//! - [`nr`]: a constant for each number;
//! - [`TABLE`]: a slice, for documentation, inventories and lookups at run time;
//! - [`for_each_hypercall!`](crate::for_each_hypercall): hands the rows to a macro of the caller's, for dispatch
//!   tables and typed wrappers.
//!
//! ## A row
//! ```text
//! /// What it does.
//! MMU_UPDATE = 1, mmu_update(ureqs: handle(xen::MmuUpdate), count: u32, …), pv, guest, "xen.h";
//! ```
//! The constant's name, the number, the C name after `__HYPERVISOR_`, the arguments in the order of the registers,
//! the kinds of guests that have it (`pv`, `hvm`, `both`), the right that it takes (`guest`: every domain may call it,
//! single commands or foreign domains can still need a right; `privileged`: control domains, and device models for
//! the domains they serve), the header.
//!
//! An argument is a scalar (`u16`, `u32`, `u64`, `i32`, `i64`), `handle(path)`, the guest address of a type of this
//! crate, or `raw(type)`, that of a plain type (`raw(u8)` where the command decides).
//! [`hypercall_arg_type!`](crate::hypercall_arg_type) turns the tokens into a Rust type. The hypervisor ignores
//! the bits of a register above the width of its argument.
//!
//! What many of them do depends on a command in their first argument: [`commands`] lists those.
//!
//! ```
//! macro_rules! names {
//!     ($($(#[$doc:meta])* $const:ident = $nr:literal, $name:ident($($arg:ident : $ty:ident $(($($of:tt)*))?),*),
//!        $kind:ident, $right:ident, $header:literal;)*) => { [$(stringify!($name)),*] };
//! }
//! let names = xen_abi::for_each_hypercall!(names);
//! assert_eq!(names[1], "mmu_update");
//! ```

pub mod commands;

/// Calls a macro, given by its path, with all rows of the table; see [the module](crate::hypercall).
#[macro_export]
macro_rules! for_each_hypercall {
    ($($callback:tt)+) => {
        $($callback)+! {
            /// Sets entries of the virtual IDT; a null table removes all.
            SET_TRAP_TABLE = 0, set_trap_table(traps: handle(arch_x86::TrapInfo)), pv, guest, "xen.h";
            /// Changes page-table entries and M2P entries.
            MMU_UPDATE = 1, mmu_update(ureqs: handle(xen::MmuUpdate), count: u32, pdone: raw(u32),
                foreigndom: u32), pv, guest, "xen.h";
            /// Loads the GDT: machine frames and the number of entries.
            SET_GDT = 2, set_gdt(frame_list: raw(u64), entries: u32), pv, guest, "xen.h";
            /// Sets the kernel stack that the next entry from user mode gets.
            STACK_SWITCH = 3, stack_switch(ss: u64, esp: u64), pv, guest, "xen.h";
            /// Sets the three entry points (old form of `callback_op`).
            SET_CALLBACKS = 4, set_callbacks(event_address: u64, failsafe_address: u64,
                syscall_address: u64), pv, guest, "xen.h";
            /// Sets or clears CR0.TS.
            FPU_TASKSWITCH = 5, fpu_taskswitch(set: i32), pv, guest, "xen.h";
            /// `sched_op` as it was before interface version 3.1.1.
            SCHED_OP_COMPAT = 6, sched_op_compat(cmd: i32, arg: u64), pv, guest, "sched.h";
            /// Controls the machine: time, CPUs, firmware, power.
            PLATFORM_OP = 7, platform_op(u_xenpf_op: handle(platform::XenPlatformOp)), both, privileged,
                "platform.h";
            /// Sets a debug register.
            SET_DEBUGREG = 8, set_debugreg(reg: i32, value: u64), pv, guest, "xen.h";
            /// Returns a debug register (indistinguishable from an error where it is bad).
            GET_DEBUGREG = 9, get_debugreg(reg: i32), pv, guest, "xen.h";
            /// Writes a descriptor of a GDT or LDT page.
            UPDATE_DESCRIPTOR = 10, update_descriptor(gaddr: u64, desc: u64), pv, guest, "xen.h";
            /// Memory reservation and maps.
            MEMORY_OP = 12, memory_op(cmd: u64, arg: raw(u8)), both, guest, "memory.h";
            /// Makes several hypercalls.
            MULTICALL = 13, multicall(call_list: handle(xen::MulticallEntry), nr_calls: u32), both, guest,
                "xen.h";
            /// Changes the level-1 entry that maps an address.
            UPDATE_VA_MAPPING = 14, update_va_mapping(va: u64, val64: u64, flags: u64), pv, guest, "xen.h";
            /// Sets the vCPU's one-shot timer to a system time; 0 stops it.
            SET_TIMER_OP = 15, set_timer_op(timeout: i64), both, guest, "xen.h";
            /// `event_channel_op` as it was before interface version 3.2.2.
            EVENT_CHANNEL_OP_COMPAT = 16, event_channel_op_compat(op: handle(event_channel::EvtchnOp)), pv,
                guest, "event_channel.h";
            /// Tells about the hypervisor.
            XEN_VERSION = 17, xen_version(cmd: i32, arg: raw(u8)), both, guest, "version.h";
            /// Writes to and reads from the hypervisor's console.
            CONSOLE_IO = 18, console_io(cmd: u32, count: u32, buffer: raw(u8)), both, guest, "xen.h";
            /// `physdev_op` as it was before interface version 3.2.2.
            PHYSDEV_OP_COMPAT = 19, physdev_op_compat(uop: handle(physdev::PhysdevOp)), pv, guest, "physdev.h";
            /// Grants: maps, copies and transfers of pages between domains.
            GRANT_TABLE_OP = 20, grant_table_op(cmd: u32, uop: raw(u8), count: u32), both, guest,
                "grant_table.h";
            /// Turns assistances on and off.
            VM_ASSIST = 21, vm_assist(cmd: u32, type_: u32), both, guest, "xen.h";
            /// `update_va_mapping` with a frame of another domain.
            UPDATE_VA_MAPPING_OTHERDOMAIN = 22, update_va_mapping_otherdomain(va: u64, val64: u64, flags: u64,
                domid: u16), pv, guest, "xen.h";
            /// Returns from an exception or upcall; the frame is on the stack.
            IRET = 23, iret(), pv, guest, "arch-x86/xen-x86_64.h";
            /// Controls vCPUs of the calling domain.
            VCPU_OP = 24, vcpu_op(cmd: i32, vcpuid: u32, arg: raw(u8)), both, guest, "vcpu.h";
            /// Sets a segment base (64-bit guests).
            SET_SEGMENT_BASE = 25, set_segment_base(which: u32, base: u64), pv, guest,
                "arch-x86/xen-x86_64.h";
            /// Pins tables, switches address spaces, flushes, sets the LDT.
            MMUEXT_OP = 26, mmuext_op(uops: handle(xen::MmuextOp), count: u32, pdone: raw(u32),
                foreigndom: u32), both, guest, "xen.h";
            /// Controls the security module.
            XSM_OP = 27, xsm_op(op: raw(u8)), both, privileged, "xsm/flask_op.h";
            /// Sets the NMI callback (old form of `callback_op`).
            NMI_OP = 28, nmi_op(cmd: u32, arg: raw(u8)), pv, guest, "nmi.h";
            /// Yields, blocks, polls, shuts down.
            SCHED_OP = 29, sched_op(cmd: i32, arg: raw(u8)), both, guest, "sched.h";
            /// Sets the kernel's entry points.
            CALLBACK_OP = 30, callback_op(cmd: i32, arg: raw(u8)), pv, guest, "callback.h";
            /// Profiling.
            XENOPROF_OP = 31, xenoprof_op(op: i32, arg: raw(u8)), pv, guest, "xenoprof.h";
            /// Event channels.
            EVENT_CHANNEL_OP = 32, event_channel_op(cmd: i32, arg: raw(u8)), both, guest, "event_channel.h";
            /// Interrupts, I/O privilege, PCI devices.
            PHYSDEV_OP = 33, physdev_op(cmd: i32, arg: raw(u8)), both, guest, "physdev.h";
            /// Parameters and services of hardware-virtualized domains.
            HVM_OP = 34, hvm_op(op: u64, arg: raw(u8)), both, guest, "hvm/hvm_op.h";
            /// Controls the host.
            SYSCTL = 35, sysctl(u_sysctl: handle(sysctl::XenSysctl)), both, privileged, "sysctl.h";
            /// Controls domains.
            DOMCTL = 36, domctl(u_domctl: handle(domctl::XenDomctl)), both, privileged, "domctl.h";
            /// Loads and starts a crash kernel.
            KEXEC_OP = 37, kexec_op(op: u64, uarg: raw(u8)), pv, privileged, "kexec.h";
            /// Argo: messages between domains.
            ARGO_OP = 39, argo_op(cmd: u32, arg1: raw(u8), arg2: raw(u8), arg3: u64, arg4: u64), both, guest,
                "argo.h";
            /// Performance counters.
            XENPMU_OP = 40, xenpmu_op(op: u32, arg: handle(pmu::XenPmuParams)), both, guest, "pmu.h";
            /// Services for device models.
            DM_OP = 41, dm_op(domid: u16, nr_bufs: u32, bufs: handle(hvm::dm_op::XenDmOpBuf)), both, privileged,
                "hvm/dm_op.h";
            /// The hypervisor's own file system of settings.
            HYPFS_OP = 42, hypfs_op(cmd: u32, arg1: raw(u8), arg2: u64, arg3: raw(u8), arg4: u64), both,
                privileged, "hypfs.h";
            /// Machine checks (`__HYPERVISOR_arch_0` on x86).
            MCA = 48, mca(u_xen_mc: handle(mca::XenMc)), pv, privileged, "arch-x86/xen-mca.h";
        }
    };
}

/// The Rust type of an argument in a row of [`for_each_hypercall!`](crate::for_each_hypercall).
#[macro_export]
macro_rules! hypercall_arg_type {
    (handle($($path:tt)*)) => { $crate::GuestHandle<$crate::$($path)*> };
    (raw($target:ident)) => { $crate::GuestHandle<$target> };
    ($scalar:ident) => { $scalar };
}

/// One hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hypercall {
    /// Its number.
    pub nr: u32,
    /// The C name after `__HYPERVISOR_`.
    pub name: &'static str,
    /// The arguments in the order of RDI, RSI, RDX, R10, R8.
    pub args: &'static [Arg],
    /// Who may call it.
    pub callers: Callers,
    /// The public header that specifies it.
    pub header: &'static str,
}

/// An argument of a [`Hypercall`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    /// Its name.
    pub name: &'static str,
    /// Its type: a scalar, `handle(path)` or `raw(type)`.
    pub ty: &'static str,
    /// Bits of the register that count.
    pub bits: u32,
}

/// Who may call a [`Hypercall`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Callers {
    /// Paravirtual guests have it.
    pub pv: bool,
    /// Hardware-virtualized guests have it.
    pub hvm: bool,
    /// Only control domains (and device models for their guests) may use it.
    pub privileged: bool,
}

impl Hypercall {
    /// The hypercall with the number `nr`.
    #[must_use]
    pub fn by_nr(nr: u64) -> Option<&'static Self> {
        TABLE.iter().find(|call| u64::from(call.nr) == nr)
    }
}

macro_rules! callers {
    (pv, $right:ident) => {
        Callers { pv: true, hvm: false, privileged: callers!($right) }
    };
    (hvm, $right:ident) => {
        Callers { pv: false, hvm: true, privileged: callers!($right) }
    };
    (both, $right:ident) => {
        Callers { pv: true, hvm: true, privileged: callers!($right) }
    };
    (guest) => {
        false
    };
    (privileged) => {
        true
    };
}

macro_rules! arg_bits {
    ($scalar:ident) => {
        $scalar::BITS
    };
    ($handle:ident $of:tt) => {
        u64::BITS
    };
}

/// Defines the constants of rows of numbers and registers them.
macro_rules! numbers {
    ($($(#[$doc:meta])* $const:ident = $nr:literal, $name:ident;)*) => {
        $($(#[$doc])* pub const $const: u32 = $nr;)*
        const CONSTS: &[crate::registry::Const] = &[$(crate::registry::Const {
            name: stringify!($const),
            c: crate::registry::CName::Is(concat!("__HYPERVISOR_", stringify!($name))),
            value: crate::registry::Value::Int($nr),
        }),*];
        abi_module! { "xen.h", "arch-x86/xen-mca.h": consts }
    };
}

macro_rules! table {
    ($($(#[$doc:meta])* $const:ident = $nr:literal,
       $name:ident($($arg:ident : $ty:ident $(($($of:tt)*))?),*), $kind:ident, $right:ident, $header:literal;)*) => {
        /// All hypercalls, by number.
        pub const TABLE: &[Hypercall] = &[$(Hypercall {
            nr: $nr,
            name: stringify!($name),
            args: &[$(Arg {
                name: stringify!($arg),
                ty: concat!(stringify!($ty) $(, "(", stringify!($($of)*), ")")?),
                bits: arg_bits!($ty $(($($of)*))?),
            }),*],
            callers: callers!($kind, $right),
            header: $header,
        }),*];

        pub mod nr {
            //! The numbers of the hypercalls (`__HYPERVISOR_*`).

            numbers! {
                $($(#[$doc])* $const = $nr, $name;)*
                /// Removed in Xen 4.13: transcendent memory.
                TMEM_OP = 38, tmem_op;
                /// First of the eight numbers that belong to the architecture ([`MCA`] on x86).
                ARCH_0 = 48, arch_0;
                /// The hypervisor's own continuation of a paging `domctl`.
                ARCH_1 = 49, arch_1;
                /// Architectural, unused.
                ARCH_2 = 50, arch_2;
                /// Architectural, unused.
                ARCH_3 = 51, arch_3;
                /// Architectural, unused.
                ARCH_4 = 52, arch_4;
                /// Architectural, unused.
                ARCH_5 = 53, arch_5;
                /// Architectural, unused.
                ARCH_6 = 54, arch_6;
                /// Architectural, unused.
                ARCH_7 = 55, arch_7;
            }
        }
    };
}

for_each_hypercall!(table);

abi_module! { children: nr }
