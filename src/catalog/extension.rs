//! The extension itself.

use crate::error::Result;
use crate::pg::spi;

/// Whether this database has the extension.
pub fn is_installed() -> Result<bool> {
    let found = spi::value::<bool>(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'repart')",
        &[],
    )?;
    Ok(found.unwrap_or(false))
}
