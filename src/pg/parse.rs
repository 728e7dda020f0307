//! What a statement is, before it is carried out: for texts that another server wrote.

use std::ffi::CString;

use pgrx::pg_sys;

use crate::error::{Error, Result};

/// CREATE INDEX.
pub const CREATE_INDEX: pg_sys::NodeTag = pg_sys::NodeTag::T_IndexStmt;

/// ALTER TABLE.
pub const ALTER_TABLE: pg_sys::NodeTag = pg_sys::NodeTag::T_AlterTableStmt;

/// Fails unless the text is a single statement of one of these kinds.
pub fn require(sql: &str, kinds: &[pg_sys::NodeTag]) -> Result<()> {
    let text =
        CString::new(sql).map_err(|_| Error::Internal("a statement contains NUL".to_owned()))?;
    // SAFETY: the parser returns a list of statements, in the current memory context.
    let is_right = unsafe {
        let statements = pgrx::PgList::<pg_sys::RawStmt>::from_pg(pg_sys::raw_parser(
            text.as_ptr(),
            pg_sys::RawParseMode::RAW_PARSE_DEFAULT,
        ));
        statements.len() == 1
            && statements
                .get_ptr(0)
                .is_some_and(|statement| kinds.contains(&(*(*statement).stmt).type_))
    };
    if is_right {
        return Ok(());
    }
    Err(Error::Internal(format!(
        "a node gave another statement than was asked for: {sql}"
    )))
}
