//! Host tests of time.
