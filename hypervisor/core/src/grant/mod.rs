//! Grant tables: pages that one domain lets another one use.

use spin::Mutex;

/// A domain's grant table and the grants of others that it mapped.
pub struct DomainGrants {
    table: Mutex<()>,
}

impl DomainGrants {
    /// An empty table with the default limits.
    pub fn new() -> Self {
        Self { table: Mutex::new(()) }
    }
}

impl Default for DomainGrants {
    fn default() -> Self {
        Self::new()
    }
}
