//! See [`hypervisor_core_fuzz::TARGETS`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hypervisor_core_fuzz::run("description", data));
