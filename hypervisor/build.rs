//! Links the hypervisor at its fixed address with its own linker script.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    println!("cargo:rerun-if-changed=src/boot/link.ld");
    println!("cargo:rustc-link-arg-bins=-T{here}/src/boot/link.ld");
    println!("cargo:rustc-link-arg-bins=--no-pie");
    println!("cargo:rustc-link-arg-bins=--build-id=none");
    println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
    // Generic code of many types is the same for several of them. No function is told apart by its address here.
    println!("cargo:rustc-link-arg-bins=--icf=all");
}
