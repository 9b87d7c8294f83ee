//! The boot tests live in `boot/`; this empty library only gives the package a target that Cargo accepts.
