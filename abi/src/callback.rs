//! `callback.h`: the commands of `callback_op(cmd, arg)`, by which a PV kernel names its entry points.

consts! {
    /// Sets an entry point. Argument: [`CallbackRegister`].
    CALLBACKOP_REGISTER("CALLBACKOP_register"): u32 = 0;
    /// Removes one. Argument: [`CallbackUnregister`].
    CALLBACKOP_UNREGISTER("CALLBACKOP_unregister"): u32 = 1;

    /// Entry for events.
    CALLBACKTYPE_EVENT("CALLBACKTYPE_event"): u16 = 0;
    /// Entry for segment registers that could not be restored on the way to the guest.
    CALLBACKTYPE_FAILSAFE("CALLBACKTYPE_failsafe"): u16 = 1;
    /// Entry for SYSCALL from 64-bit user mode.
    CALLBACKTYPE_SYSCALL("CALLBACKTYPE_syscall"): u16 = 2;
    /// The number of SYSENTER before interface version 3.2.7.
    CALLBACKTYPE_SYSENTER_DEPRECATED("CALLBACKTYPE_sysenter_deprecated"): u16 = 3;
    /// Entry for NMIs.
    CALLBACKTYPE_NMI("CALLBACKTYPE_nmi"): u16 = 4;
    /// Entry for SYSENTER.
    CALLBACKTYPE_SYSENTER("CALLBACKTYPE_sysenter"): u16 = 5;
    /// Entry for SYSCALL from 32-bit user mode.
    CALLBACKTYPE_SYSCALL32("CALLBACKTYPE_syscall32"): u16 = 7;

    /// The callback masks events; ignored for events and NMIs, which always do.
    CALLBACKF_MASK_EVENTS("CALLBACKF_mask_events"): u16 = 1 << 0;
}

wire! {
    /// Argument of [`CALLBACKOP_REGISTER`].
    pub struct CallbackRegister("struct callback_register", 16) {
        /// One of `CALLBACKTYPE_*`.
        @0 type_("type"): u16,
        /// `CALLBACKF_*`.
        @2 flags: u16,
        @4 _pad0(): u32,
        /// The entry point; 64-bit guests: canonical.
        @8 address: u64,
    }

    /// Argument of [`CALLBACKOP_UNREGISTER`].
    pub struct CallbackUnregister("struct callback_unregister", 4) {
        /// One of `CALLBACKTYPE_*`; those that cannot be removed answer `-EINVAL`.
        @0 type_("type"): u16,
        @2 _unused("_unused"): u16,
    }
}

abi_module! { "callback.h": consts, wire }
