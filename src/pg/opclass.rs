//! The order of a type's values.

use pgrx::pg_sys;

/// The operator class that orders values of the type by default; `None` for types without a btree order,
/// such as `json` and `point`.
pub fn default_btree(type_oid: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: a catalog look-up; inside a transaction, as all our code is.
    let class = unsafe { pg_sys::GetDefaultOpClass(type_oid, pg_sys::BTREE_AM_OID) };
    (class != pg_sys::InvalidOid).then_some(class)
}
