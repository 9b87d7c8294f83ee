//! Split drivers: a front end in the domain that uses a device, a back end in the one that has it, and between them
//! shared pages, event channels and the states that both publish in xenstore.
//!
//! - [`ring`][]: the request/response ring of `io/ring.h`, both ends, over any memory.
//! - [`transport`][]: what a driver needs of the domain that it runs in.
//! - [`store`][]: xenstore: a client's side, and the server.
//! - [`xenbus`][]: how two ends find each other, and the states of a connection.
//! - [`blk`][]: the block device.
//! - [`console`][]: the console.
//! - [`net`][]: the network device, and a bridge.
//! - [`ninepfs`][]: files of another domain.
//! - [`display`][]: display, keyboard and pointer.
//!
//! Nothing here is unsafe: the pages arrive as slices of atomics (a guest kernel maps them, a test allocates them),
//! and what the other end writes into them is checked before it is believed. The two ends are assumed to distrust
//! each other.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(all(feature = "host", not(target_os = "none")))]
extern crate std;

pub mod blk;
pub mod console;
pub mod display;
pub mod net;
pub mod ninepfs;
pub mod ring;
pub mod store;
pub mod transport;
pub mod xenbus;
