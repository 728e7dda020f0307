//! Values of a type that is known at run time only, as text.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::guc;

/// Reads `text` as a value of the type, under the session's settings, and writes it in the form that
/// every session reads alike. Bad input raises the type's own SQL error, as does what the modifier (such as a
/// length) does not admit.
pub fn normalize(type_oid: pg_sys::Oid, modifier: i32, text: &str) -> Result<String> {
    let input = CString::new(text).map_err(|_| Error::InvalidParameter {
        what: "a boundary contains a NUL character".to_owned(),
        hint: "Give a literal of the shard key's type.".to_owned(),
    })?;
    // SAFETY: the type exists (it is a column's type); look-ups and calls as PostgreSQL does them itself.
    let value = unsafe {
        let mut function = pg_sys::InvalidOid;
        let mut parameter = pg_sys::InvalidOid;
        pg_sys::getTypeInputInfo(type_oid, &mut function, &mut parameter);
        pg_sys::OidInputFunctionCall(function, input.as_ptr().cast_mut(), parameter, modifier)
    };
    guc::with_transmission_modes(|| {
        // SAFETY: the value was made by the same type's input function.
        let output = unsafe {
            let mut function = pg_sys::InvalidOid;
            let mut is_varlena = false;
            pg_sys::getTypeOutputInfo(type_oid, &mut function, &mut is_varlena);
            CStr::from_ptr(pg_sys::OidOutputFunctionCall(function, value))
        };
        Ok(output.to_string_lossy().into_owned())
    })
}
