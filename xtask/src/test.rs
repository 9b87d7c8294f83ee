//! new_test
/// o
#[derive(clap::Args, Debug, Clone)]
pub struct Options {}
/// r
/// # Errors
/// x
pub fn run(_: &Options) -> anyhow::Result<()> { Ok(()) }
