//! Results of libpq as values.

use std::str::FromStr;

use pgrx::PgSqlErrorCode;
use pq_sys::{ExecStatusType, PGresult};

use super::{Connection, text};
use crate::error::{Error, Result};

/// `PG_DIAG_SQLSTATE` and its neighbours in `postgres_ext.h`.
const DIAGNOSTICS: [i32; 4] = [b'C' as i32, b'M' as i32, b'D' as i32, b'H' as i32];

/// What a statement returned: rows of text.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    rows: Vec<Vec<Option<String>>>,
    affected: u64,
}

impl Answer {
    /// Number of rows that a command without rows has changed.
    pub fn affected(&self) -> u64 {
        self.affected
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// A column of a row; both count from 0. `None` where it is NULL, missing, or of another form.
    pub fn get<T: FromStr>(&self, row: usize, column: usize) -> Option<T> {
        self.rows.get(row)?.get(column)?.as_deref()?.parse().ok()
    }

    /// A column of a row that must be there.
    pub fn require<T: FromStr>(&self, row: usize, column: usize) -> Result<T> {
        self.get(row, column).ok_or_else(|| {
            Error::Internal(format!(
                "row {row} of an answer has nothing readable in column {column}"
            ))
        })
    }
}

/// A result, freed when it is dropped.
pub(super) struct Owned(pub(super) *mut PGresult);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: made by libpq, and freed here only.
        unsafe { pq_sys::PQclear(self.0) }
    }
}

impl Connection {
    /// Takes what has arrived of the answer; `true` once it is complete.
    pub(super) fn take_results(&mut self) -> bool {
        loop {
            // SAFETY: both look at what was received; neither waits when PQisBusy says 0.
            let result = unsafe {
                if pq_sys::PQisBusy(self.raw) != 0 {
                    return false;
                }
                pq_sys::PQgetResult(self.raw)
            };
            if result.is_null() {
                return true;
            }
            self.take(&Owned(result));
            if self.is_broken() {
                return true;
            }
        }
    }

    pub(super) fn take(&mut self, result: &Owned) {
        // SAFETY: a result of this connection that lives as long as the call.
        let status = unsafe { pq_sys::PQresultStatus(result.0) };
        match status {
            ExecStatusType::PGRES_TUPLES_OK => self.answers.push(rows(result)),
            ExecStatusType::PGRES_COMMAND_OK | ExecStatusType::PGRES_EMPTY_QUERY => {
                // SAFETY: a string that belongs to the result, copied at once; empty where nothing was changed.
                let affected = unsafe { text(pq_sys::PQcmdTuples(result.0)) };
                self.answers.push(Answer {
                    affected: affected.parse().unwrap_or(0),
                    ..Answer::default()
                });
            }
            ExecStatusType::PGRES_NONFATAL_ERROR => {}
            ExecStatusType::PGRES_FATAL_ERROR | ExecStatusType::PGRES_BAD_RESPONSE => {
                self.said.clear();
                let failure = self.failure_of(result);
                self.failure.get_or_insert(failure);
            }
            // COPY: nothing here says it.
            _ => self.give_up("an answer of an unexpected kind"),
        }
    }

    fn failure_of(&self, result: &Owned) -> Error {
        let [code, message, detail, hint] = DIAGNOSTICS.map(|field| {
            // SAFETY: a string that belongs to the result, copied at once, or null.
            let value = unsafe { text(pq_sys::PQresultErrorField(result.0, field)) };
            Some(self.without_secrets(&value)).filter(|value| !value.is_empty())
        });
        Error::Sql {
            code: code.map_or(PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE, |code| {
                PgSqlErrorCode::from(packed(&code))
            }),
            message: format!(
                "{}: {}",
                self.server,
                message.unwrap_or_else(|| "the connection was lost".to_owned())
            ),
            detail,
            hint,
        }
    }
}

/// A SQLSTATE as PostgreSQL packs it into a number: six bits for each character.
fn packed(code: &str) -> i32 {
    let bits = |byte: u8| i32::from(byte.wrapping_sub(b'0') & 0x3f);
    let placed = code.bytes().take(5).zip([0, 6, 12, 18, 24]);
    placed.map(|(byte, shift)| bits(byte) << shift).sum()
}

fn rows(result: &Owned) -> Answer {
    // SAFETY: rows and columns are within the numbers that libpq gives; the values belong to the result and are copied.
    let rows = unsafe {
        (0..pq_sys::PQntuples(result.0))
            .map(|row| {
                (0..pq_sys::PQnfields(result.0))
                    .map(|column| {
                        let is_null = pq_sys::PQgetisnull(result.0, row, column) != 0;
                        (!is_null).then(|| text(pq_sys::PQgetvalue(result.0, row, column)))
                    })
                    .collect()
            })
            .collect()
    };
    Answer { rows, affected: 0 }
}
