//! The driver domain's kernel.
fn main() {}
