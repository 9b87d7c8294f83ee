//! Host tests of the scheduler.
