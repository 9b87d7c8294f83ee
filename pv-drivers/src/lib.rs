//! Xen's split drivers.
#![no_std]
#![forbid(unsafe_code)]
