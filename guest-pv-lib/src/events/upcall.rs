//! The upcall itself: registered once, entered by the hypervisor whenever an unmasked port fires.
#![cfg(target_os = "none")]

use xen_abi::callback::{
    CALLBACKF_MASK_EVENTS, CALLBACKOP_REGISTER, CALLBACKTYPE_EVENT, CALLBACKTYPE_FAILSAFE, CallbackRegister,
};
use xen_abi::hypercall::nr;

use crate::hypercall::{check, raw};
use crate::shared;
use crate::traps::stubs;

/// Masks every port and registers the two callbacks. Upcalls stay masked until the kernel unmasks them.
pub(crate) fn init() {
    for word in &shared::info().mask {
        word.store(u64::MAX, core::sync::atomic::Ordering::Relaxed);
    }
    register(CALLBACKTYPE_EVENT, 0, stubs::event_address());
    register_failsafe();
}

/// Registers what is entered where the hypervisor cannot load the kernel's segments: nothing to repair, the stub says so.
pub(crate) fn register_failsafe() {
    register(CALLBACKTYPE_FAILSAFE, CALLBACKF_MASK_EVENTS, stubs::failsafe_address());
}

fn register(kind: u16, flags: u16, address: u64) {
    let arg = CallbackRegister { type_: kind, flags, address, ..CallbackRegister::default() };
    // SAFETY: `arg` lives across the call, and `address` is a stub that expects the frame of that callback.
    let result =
        unsafe { raw::call2(nr::CALLBACK_OP, u64::from(CALLBACKOP_REGISTER), &raw const arg as u64) };
    if let Err(error) = check(result) {
        panic!("registering callback {kind}: {error:?}");
    }
}
