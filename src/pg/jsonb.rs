//! The SQL type `jsonb` as an argument that may hold anything: pgrx's own `JsonB` panics on numbers that
//! `f64` cannot express, which jsonb can.

use std::ffi::CStr;

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::datum::{AnyElement, IntoDatum};
use pgrx::nullable::Nullable;
use pgrx::{direct_function_call, impl_sql_translatable, pg_sys};

/// JSON as its text.
#[derive(Clone, Debug)]
pub struct JsonText(String);

impl_sql_translatable!(JsonText, "jsonb");

impl JsonText {
    /// Its value; an error where it has a number that is too large.
    pub fn parse(&self) -> crate::error::Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.0)?)
    }

    fn of(element: &AnyElement) -> Self {
        let argument = [element.datum().into_datum()];
        // SAFETY: the output function of the argument's type, jsonb, as declared above.
        let text = unsafe { direct_function_call::<&CStr>(pg_sys::jsonb_out, &argument) };
        Self(
            text.map(|text| text.to_string_lossy().into_owned())
                .unwrap_or_default(),
        )
    }
}

// SAFETY: the argument has the SQL type declared above; its datum is only read.
unsafe impl<'fcx> ArgAbi<'fcx> for JsonText {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller vouches for the argument's type and that it is not null.
        Self::of(&unsafe { AnyElement::unbox_arg_unchecked(arg) })
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: the caller vouches for the argument's type.
        match unsafe { AnyElement::unbox_nullable_arg(arg) } {
            Nullable::Valid(element) => Nullable::Valid(Self::of(&element)),
            Nullable::Null => Nullable::Null,
        }
    }
}
