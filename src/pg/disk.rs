//! Free space of a file system.

use std::ffi::CString;

use crate::error::{Error, Result};

/// Bytes that PostgreSQL can still write below this directory.
pub fn free_bytes(directory: &str) -> Result<u64> {
    let status = status(directory)?;
    Ok(status.f_bavail.saturating_mul(status.f_frsize))
}

/// Bytes that the file system of this directory can hold.
pub fn total_bytes(directory: &str) -> Result<u64> {
    let status = status(directory)?;
    Ok(status.f_blocks.saturating_mul(status.f_frsize))
}

fn status(directory: &str) -> Result<libc::statvfs> {
    let path = CString::new(directory)
        .map_err(|_| Error::Internal("a path contains a NUL character".to_owned()))?;
    let mut status = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: a valid path, and room for the result, which is read only if the call succeeded.
    unsafe {
        if libc::statvfs(path.as_ptr(), status.as_mut_ptr()) != 0 {
            let cause = std::io::Error::last_os_error();
            return Err(Error::Missing {
                what: format!(
                    "could not read the file system of directory \"{directory}\": {cause}"
                ),
                hint: "Check the directory of the tablespace.".to_owned(),
            });
        }
        Ok(status.assume_init())
    }
}
