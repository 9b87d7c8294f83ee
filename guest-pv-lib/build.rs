//! Puts the linker script `guest-pv.ld` on the linker's search path of every crate that depends on this one, and
//! uses it for this package's own examples.
//!
//! A dependent kernel links with it by two lines in its own build script (see the crate's front page).

use std::path::PathBuf;
use std::{env, fs};

const SCRIPT: &str = "guest-pv.ld";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::copy(SCRIPT, out.join(SCRIPT))
        .expect("the linker script lies beside build.rs and OUT_DIR is writable");
    println!("cargo::rerun-if-changed={SCRIPT}");
    println!("cargo::rustc-link-search={}", out.display());
    // The examples are kernels only on a bare-metal target; on a hosted one they are an empty `main`.
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none") {
        println!("cargo::rustc-link-arg-examples=-T{SCRIPT}");
        println!("cargo::rustc-link-arg-examples=--no-pie");
    }
}
