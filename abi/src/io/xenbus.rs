//! Connection states of a split driver (`io/xenbus.h`).
//!
//! Each end writes its own state, in decimal, to the `state` node of its xenstore directory and watches the peer's.

consts! {
    /// No state is known (missing node).
    XENBUS_STATE_UNKNOWN("XenbusStateUnknown"): u32 = 0;
    /// Starting up.
    XENBUS_STATE_INITIALISING("XenbusStateInitialising"): u32 = 1;
    /// Early set-up done; waiting for the peer or hotplug scripts.
    XENBUS_STATE_INIT_WAIT("XenbusStateInitWait"): u32 = 2;
    /// Transport parameters published; waiting for the peer to connect.
    XENBUS_STATE_INITIALISED("XenbusStateInitialised"): u32 = 3;
    /// In operation.
    XENBUS_STATE_CONNECTED("XenbusStateConnected"): u32 = 4;
    /// Shutting down because of an error or an unplug.
    XENBUS_STATE_CLOSING("XenbusStateClosing"): u32 = 5;
    /// Shut down.
    XENBUS_STATE_CLOSED("XenbusStateClosed"): u32 = 6;
    /// Changing configuration while connected.
    XENBUS_STATE_RECONFIGURING("XenbusStateReconfiguring"): u32 = 7;
    /// Configuration change done.
    XENBUS_STATE_RECONFIGURED("XenbusStateReconfigured"): u32 = 8;
}

abi_module! { "io/xenbus.h": consts }
