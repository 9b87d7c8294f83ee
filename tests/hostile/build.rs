//! Links the kernel with the guest library's script.

fn main() {
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none") {
        println!("cargo::rustc-link-arg-bins=-Tguest-pv.ld");
        println!("cargo::rustc-link-arg-bins=--no-pie");
    }
}
