//! The console behind the macros of the crate `log`.

use log::{LevelFilter, Log, Metadata, Record, SetLoggerError};

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        super::print(format_args!("{:5} {}: {}\n", record.level(), record.target(), record.args()));
    }

    fn flush(&self) {}
}

/// Prints what is logged at `most` or above.
///
/// # Errors
///
/// Where the program has another logger already.
pub fn init_log(most: LevelFilter) -> Result<(), SetLoggerError> {
    log::set_logger(&Logger)?;
    log::set_max_level(most);
    Ok(())
}
