//! See [`pv_drivers_fuzz::TARGETS`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pv_drivers_fuzz::run("files", data));
