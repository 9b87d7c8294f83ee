//! `vcpu.h`: the commands of `vcpu_op(cmd, vcpuid, arg)`.

use crate::GuestHandle;
use crate::xen::VcpuTimeInfo;

consts! {
    /// Gives a vCPU its first context ([`crate::arch_x86::VcpuGuestContext`] for PV); once.
    VCPUOP_INITIALISE("VCPUOP_initialise"): u32 = 0;
    /// Starts a vCPU.
    VCPUOP_UP("VCPUOP_up"): u32 = 1;
    /// Stops a vCPU; it keeps its context. May return before the vCPU has stopped.
    VCPUOP_DOWN("VCPUOP_down"): u32 = 2;
    /// Returns 1 where the vCPU is up.
    VCPUOP_IS_UP("VCPUOP_is_up"): u32 = 3;
    /// Copies the run state out. Argument: [`VcpuRunstateInfo`].
    VCPUOP_GET_RUNSTATE_INFO("VCPUOP_get_runstate_info"): u32 = 4;
    /// Keeps the run state up to date in guest memory. Argument: [`VcpuRegisterRunstateMemoryArea`].
    VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA("VCPUOP_register_runstate_memory_area"): u32 = 5;
    /// Starts the periodic timer. Argument: [`VcpuSetPeriodicTimer`].
    VCPUOP_SET_PERIODIC_TIMER("VCPUOP_set_periodic_timer"): u32 = 6;
    /// Stops the periodic timer. No argument.
    VCPUOP_STOP_PERIODIC_TIMER("VCPUOP_stop_periodic_timer"): u32 = 7;
    /// Sets the one-shot timer. Argument: [`VcpuSetSingleshotTimer`].
    VCPUOP_SET_SINGLESHOT_TIMER("VCPUOP_set_singleshot_timer"): u32 = 8;
    /// Stops the one-shot timer. No argument.
    VCPUOP_STOP_SINGLESHOT_TIMER("VCPUOP_stop_singleshot_timer"): u32 = 9;
    /// Moves the vCPU's record out of the shared page; once. Argument: [`VcpuRegisterVcpuInfo`].
    VCPUOP_REGISTER_VCPU_INFO("VCPUOP_register_vcpu_info"): u32 = 10;
    /// Sends an NMI. No argument.
    VCPUOP_SEND_NMI("VCPUOP_send_nmi"): u32 = 11;
    /// Asks for the physical CPU under a pinned vCPU. Argument: [`VcpuGetPhysid`].
    VCPUOP_GET_PHYSID("VCPUOP_get_physid"): u32 = 12;
    /// Keeps a second copy of the time record. Argument: [`VcpuRegisterTimeMemoryArea`].
    VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA("VCPUOP_register_vcpu_time_memory_area"): u32 = 13;

    /// It runs on a physical CPU.
    RUNSTATE_RUNNING("RUNSTATE_running"): i32 = 0;
    /// It could run, but no physical CPU is free.
    RUNSTATE_RUNNABLE("RUNSTATE_runnable"): i32 = 1;
    /// It sleeps.
    RUNSTATE_BLOCKED("RUNSTATE_blocked"): i32 = 2;
    /// It is down or paused: neither runs nor wants to.
    RUNSTATE_OFFLINE("RUNSTATE_offline"): i32 = 3;
    /// Set in `state_entry_time` while the hypervisor updates the guest's copy, where the guest asked for it
    /// (`VMASST_TYPE_RUNSTATE_UPDATE_FLAG`).
    XEN_RUNSTATE_UPDATE: u64 = 1 << 63;

    /// Timer flag: answer `-ETIME` where the time has passed (the hypervisor may ignore it).
    VCPU_SSHOTTMR_FUTURE("VCPU_SSHOTTMR_future"): u32 = 1 << 0;
}

wire! {
    /// How a vCPU has spent its time.
    pub struct VcpuRunstateInfo("struct vcpu_runstate_info", 48) {
        /// One of `RUNSTATE_*`.
        @0 state: i32,
        @4 _pad0(): u32,
        /// System time, in ns, at which it entered the state; see [`XEN_RUNSTATE_UPDATE`].
        @8 state_entry_time: u64,
        /// Nanoseconds spent in each state; their sum is system time.
        @16 time: [u64; 4],
    }

    /// Argument of [`VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA`].
    pub struct VcpuRegisterRunstateMemoryArea("struct vcpu_register_runstate_memory_area", 8) {
        /// Where the copy is kept; null ends it.
        @0 addr("addr.h"): GuestHandle<VcpuRunstateInfo>,
    }

    /// Argument of [`VCPUOP_SET_PERIODIC_TIMER`].
    pub struct VcpuSetPeriodicTimer("struct vcpu_set_periodic_timer", 8) {
        /// Nanoseconds between two ticks; at least a millisecond.
        @0 period_ns: u64,
    }

    /// Argument of [`VCPUOP_SET_SINGLESHOT_TIMER`].
    pub struct VcpuSetSingleshotTimer("struct vcpu_set_singleshot_timer", 16) {
        /// System time, in ns, at which to raise `VIRQ_TIMER`.
        @0 timeout_abs_ns: u64,
        /// `VCPU_SSHOTTMR_*`.
        @8 flags: u32,
        @12 _pad0(): u32,
    }

    /// Argument of [`VCPUOP_REGISTER_VCPU_INFO`].
    pub struct VcpuRegisterVcpuInfo("struct vcpu_register_vcpu_info", 16) {
        /// The frame (machine frame for PV).
        @0 mfn: u64,
        /// Offset of the record in it; it does not cross the page's end.
        @8 offset: u32,
        @12 rsvd("rsvd"): u32,
    }

    /// Argument of [`VCPUOP_GET_PHYSID`].
    pub struct VcpuGetPhysid("struct vcpu_get_physid", 8) {
        /// APIC id in the low, ACPI processor id in the high half.
        @0 phys_id: u64,
    }

    /// Argument of [`VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA`].
    pub struct VcpuRegisterTimeMemoryArea("struct vcpu_register_time_memory_area", 8) {
        /// Where the copy is kept; null ends it.
        @0 addr("addr.h"): GuestHandle<VcpuTimeInfo>,
    }
}

abi_module! { "vcpu.h": consts, wire }
