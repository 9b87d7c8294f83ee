//! The memory that a domain and the hypervisor both write: `shared_info`, `vcpu_info` and the time record.
//!
//! These types describe the layout. Nobody may hold a `&` to them while the other side runs: access goes field
//! by field through atomics at the documented offsets.

use crate::arch_x86::{ArchSharedInfo, ArchVcpuInfo, XEN_LEGACY_MAX_VCPUS};

consts! {
    /// Flag of the time record: the record of all vCPUs is one clock, monotonic between them.
    XEN_PVCLOCK_TSC_STABLE_BIT: u8 = 1 << 0;
    /// Flag of the time record: the guest was stopped by its host (set by the host, cleared by the guest).
    XEN_PVCLOCK_GUEST_STOPPED: u8 = 1 << 1;
}

wire! {
    /// How to turn the TSC into system time (nanoseconds since boot):
    /// `system_time + ((((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul) >> 32)`.
    ///
    /// A sequence lock: the writer makes `version` odd before and even after it changes the rest. For interface
    /// versions up to 4.6 `flags` was padding.
    pub struct VcpuTimeInfo("struct vcpu_time_info", 32) [shared] {
        /// Odd while an update is under way; changes with every update.
        @0 version: u32,
        @4 _pad0("pad0"): u32,
        /// TSC at the last update.
        @8 tsc_timestamp: u64,
        /// System time at the last update, in ns.
        @16 system_time: u64,
        /// Nanoseconds per shifted TSC tick, as a 0.32 fixed-point fraction.
        @24 tsc_to_system_mul: u32,
        /// Left shift of the TSC difference; right where negative.
        @28 tsc_shift: i8,
        /// `XEN_PVCLOCK_*`.
        @29 flags: u8,
        @30 _pad1("pad1"): [u8; 2],
    }

    /// The part of a vCPU that its guest and the hypervisor share; in `shared_info` or where
    /// `VCPUOP_register_vcpu_info` put it.
    pub struct VcpuInfo("struct vcpu_info", 64) [shared] {
        /// Written non-zero by the hypervisor when an event is pending; the guest clears it before it looks.
        @0 evtchn_upcall_pending: u8,
        /// Non-zero: no upcalls, the event counterpart of a clear interrupt flag. Written by the guest; cleared
        /// by the hypervisor when the vCPU blocks.
        @1 evtchn_upcall_mask: u8,
        @2 _pad0(): [u8; 6],
        /// Two-level events: bit *n* says that word *n* of the pending bitmap has a pending unmasked bit.
        @8 evtchn_pending_sel: u64,
        /// Fault address and reserve.
        @16 arch: ArchVcpuInfo,
        /// The clock.
        @32 time: VcpuTimeInfo,
    }

    /// The page that a domain shares with the hypervisor. Its size may grow: guests do not rely on it.
    pub struct SharedInfo("struct shared_info", 3136) [shared] {
        /// The first 32 vCPUs' records, until they are moved by `VCPUOP_register_vcpu_info`.
        @0 vcpu_info: [VcpuInfo; XEN_LEGACY_MAX_VCPUS],
        /// Two-level events: one bit a port, set by the hypervisor, cleared by the guest.
        @2048 evtchn_pending: [u64; 64],
        /// Two-level events: a set bit keeps the port from raising the selector. All set at the start.
        @2560 evtchn_mask: [u64; 64],
        /// Sequence lock of the wall clock below.
        @3072 wc_version: u32,
        /// Unix time at system time 0, seconds, low half.
        @3076 wc_sec: u32,
        /// Nanoseconds of it.
        @3080 wc_nsec: u32,
        /// Seconds, high half.
        @3084 wc_sec_hi: u32,
        /// Where the domain's P2M is, and the NMI reason.
        @3088 arch: ArchSharedInfo,
    }
}

abi_module! { "xen.h": consts, wire }
