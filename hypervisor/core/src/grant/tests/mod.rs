//! Grants on the mock machine.
