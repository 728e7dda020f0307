//! Whether the library was loaded by `shared_preload_libraries`, on which workers, shared memory and
//! the snapshot guard depend.

use once_cell::sync::OnceCell;
use pgrx::pg_sys;

use crate::error::{Error, Result};

static PRELOADED: OnceCell<()> = OnceCell::new();

/// Whether the postmaster is loading its preload libraries now; remembers it for [`is_preloaded`].
pub fn in_progress() -> bool {
    // SAFETY: a global that only the loading process writes, before any other code runs.
    let in_progress = unsafe { pg_sys::process_shared_preload_libraries_in_progress };
    if in_progress {
        // Set once per postmaster; children inherit it by fork.
        PRELOADED.get_or_init(|| ());
    }
    in_progress
}

/// Whether this server preloaded repart.
pub fn is_preloaded() -> bool {
    PRELOADED.get().is_some()
}

/// Fails with what to configure where the library is not preloaded.
pub fn require(what: &str) -> Result<()> {
    if is_preloaded() {
        return Ok(());
    }
    Err(Error::Prerequisite {
        what: format!("{what} needs the library repart to be preloaded"),
        hint: "Add shared_preload_libraries = 'repart' to postgresql.conf and restart the server."
            .to_owned(),
    })
}
