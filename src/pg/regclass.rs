//! The SQL type `regclass` as an argument and a result of functions: pgrx maps only `PgRelation` to it,
//! which opens the relation and takes a lock on it.

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Datum, FromDatum, IntoDatum, UnboxDatum};
use pgrx::nullable::Nullable;
use pgrx::{impl_sql_translatable, pg_sys};

/// A relation by its OID, which SQL shows as its name. Nothing is opened or locked; an OID given as a
/// number need not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Regclass(pub pg_sys::Oid);

impl_sql_translatable!(Regclass, "regclass");

impl Regclass {
    /// Its OID.
    pub fn oid(self) -> pg_sys::Oid {
        self.0
    }
}

impl From<pg_sys::Oid> for Regclass {
    fn from(oid: pg_sys::Oid) -> Self {
        Self(oid)
    }
}

impl FromDatum for Regclass {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        typoid: pg_sys::Oid,
    ) -> Option<Self> {
        // SAFETY: regclass is stored as oid is; the caller vouches for the datum.
        unsafe { pg_sys::Oid::from_polymorphic_datum(datum, is_null, typoid) }.map(Self)
    }
}

impl IntoDatum for Regclass {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        self.0.into_datum()
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::REGCLASSOID
    }
}

// SAFETY: regclass is passed by value, as oid is.
unsafe impl UnboxDatum for Regclass {
    type As<'src> = Regclass;

    unsafe fn unbox<'src>(datum: Datum<'src>) -> Self::As<'src>
    where
        Self: 'src,
    {
        // SAFETY: the caller vouches for the datum.
        Self(unsafe { pg_sys::Oid::unbox(datum) })
    }
}

// SAFETY: the SQL type declared above has the layout of oid, whose implementation does the work.
unsafe impl<'fcx> ArgAbi<'fcx> for Regclass {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller vouches for the argument's type and that it is not null.
        Self(unsafe { pg_sys::Oid::unbox_arg_unchecked(arg) })
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: the caller vouches for the argument's type.
        match unsafe { pg_sys::Oid::unbox_nullable_arg(arg) } {
            Nullable::Valid(oid) => Nullable::Valid(Self(oid)),
            Nullable::Null => Nullable::Null,
        }
    }
}

// SAFETY: as for the argument.
unsafe impl BoxRet for Regclass {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: the caller returns the datum to the function, as asked.
        unsafe { self.0.box_into(fcinfo) }
    }
}
