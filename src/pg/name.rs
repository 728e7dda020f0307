//! The SQL type `name` as an argument of functions: pgrx has none.

use std::ffi::CStr;

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::impl_sql_translatable;
use pgrx::nullable::Nullable;

/// An identifier, as it is stored: neither quoted nor folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl_sql_translatable!(Name, "name");

impl Name {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// SAFETY: the SQL type declared above is passed as a pointer to 64 bytes that end with NUL: a C string.
unsafe impl<'fcx> ArgAbi<'fcx> for Name {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller vouches for the argument's type and that it is not null.
        let text = unsafe { <&CStr>::unbox_arg_unchecked(arg) };
        Self(text.to_string_lossy().into_owned())
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: the caller vouches for the argument's type.
        match unsafe { <&CStr>::unbox_nullable_arg(arg) } {
            Nullable::Valid(text) => Nullable::Valid(Self(text.to_string_lossy().into_owned())),
            Nullable::Null => Nullable::Null,
        }
    }
}
