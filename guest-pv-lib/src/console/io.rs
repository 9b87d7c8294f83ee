//! The console as a value that implements the traits of readers and writers.

use core::fmt;

/// The domain's console. All values are the same one.
///
/// ```no_run
/// use core::fmt::Write;
/// use guest_pv_lib::console::Console;
///
/// writeln!(Console, "{} apples", 3).unwrap();
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        super::write(text.as_bytes());
        Ok(())
    }

    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> fmt::Result {
        super::print(text);
        Ok(())
    }
}

#[cfg(feature = "embedded-io")]
mod traits {
    use core::convert::Infallible;

    use embedded_io::{ErrorType, Read, Write};

    use super::Console;

    impl ErrorType for Console {
        type Error = Infallible;
    }

    impl Write for Console {
        fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
            super::super::write(bytes);
            Ok(bytes.len())
        }

        /// Nothing is kept back.
        fn flush(&mut self) -> Result<(), Infallible> {
            Ok(())
        }
    }

    impl Read for Console {
        /// Waits until something was typed.
        fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
            loop {
                let len = super::super::read(buffer);
                if len > 0 || buffer.is_empty() {
                    return Ok(len);
                }
                super::super::pause();
            }
        }
    }
}
