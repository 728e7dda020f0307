//! The trigger function of change capture: writes the keys of changed rows to a log. In PostgreSQL's own terms,
//! since every write of a client runs it: as a function in plpgsql it costs several times as much.
//!
//! Its arguments are the log's name in schema `repart` and the numbers of the key's columns in the table that the
//! trigger is on. The log has the columns `op`, `source` (of a truncated table) and then those of the key.

use std::ffi::{CStr, c_char};
use std::num::NonZeroUsize;

use pgrx::{PgSqlErrorCode, PgTupleDesc, ereport, pg_guard, pg_sys};

/// The entry that names a changed row.
pub const KEY: char = 'k';

/// The entry that says that a table was truncated.
pub const TRUNCATED: char = 't';

/// The entry that says that a change could not be noted, since the type of a key's column was changed.
pub const UNKNOWN: char = '?';

/// As many columns as an index may have.
const MOST_COLUMNS: usize = pg_sys::INDEX_MAX_KEYS as usize;

/// Columns of a log before those of the key.
const FIRST: usize = 2;

/// Values of a log's columns.
type Values = [pg_sys::Datum; MOST_COLUMNS + FIRST];

/// Which of them are null.
type Nulls = [bool; MOST_COLUMNS + FIRST];

/// Those of an entry without a key.
const NO_VALUES: (Values, Nulls) = (
    [pg_sys::Datum::null(); MOST_COLUMNS + FIRST],
    [true; MOST_COLUMNS + FIRST],
);

/// PostgreSQL asks for this of every function in C.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_repart_capture() -> &'static pg_sys::Pg_finfo_record {
    const RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &RECORD
}

/// The function. What it returns is ignored after a row was changed.
///
/// # Safety
/// To be called by PostgreSQL only.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn repart_capture(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL passes a valid structure; its context says what kind of call it is.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                "repart_capture can only be called as a trigger"
            );
        }
        capture(&*context.cast::<pg_sys::TriggerData>());
        (*fcinfo).isnull = false;
    }
    pg_sys::Datum::from(0)
}

unsafe fn capture(data: &pg_sys::TriggerData) {
    // SAFETY: PostgreSQL fills in what belongs to the event; the arguments are those of `capture::start`.
    unsafe {
        let trigger = &*data.tg_trigger;
        if trigger.tgnargs < 2 {
            return;
        }
        let arguments = std::slice::from_raw_parts(trigger.tgargs, trigger.tgnargs as usize);
        let [log, columns @ ..] = arguments else {
            return;
        };
        let Some(log) = Log::open(*log, data.tg_relation, columns) else {
            return;
        };
        match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_TRUNCATE => log.write_truncated(),
            pg_sys::TRIGGER_EVENT_UPDATE => {
                let old = log.key(data.tg_trigtuple);
                let new = log.key(data.tg_newtuple);
                log.write_key(&old);
                if !log.is_same(&old, &new) {
                    log.write_key(&new);
                }
            }
            _ => log.write_key(&log.key(data.tg_trigtuple)),
        }
        pg_sys::table_close(log.relation, pg_sys::NoLock as i32);
    }
}

/// A log, open to be written to, and the table whose changes it takes.
struct Log<'a> {
    relation: pg_sys::Relation,
    columns: PgTupleDesc<'a>,
    table: pg_sys::Relation,
    numbers: &'a [*mut c_char],
}

/// The key of a row. `None` where it does not fit into the log.
type Key = Option<(Values, Nulls)>;

impl<'a> Log<'a> {
    /// `None` if there is no such log any more: nobody is interested, and the client's write must not fail.
    unsafe fn open(
        name: *const c_char,
        table: pg_sys::Relation,
        numbers: &'a [*mut c_char],
    ) -> Option<Self> {
        // SAFETY: catalog look-ups; the lock is that of any writer, and kept to the end of the transaction.
        unsafe {
            let schema = pg_sys::get_namespace_oid(c"repart".as_ptr(), true);
            let oid = pg_sys::get_relname_relid(name, schema);
            if oid == pg_sys::InvalidOid {
                return None;
            }
            let relation = pg_sys::try_table_open(oid, pg_sys::RowExclusiveLock as i32);
            if relation.is_null() {
                return None;
            }
            let columns = PgTupleDesc::from_pg_unchecked((*relation).rd_att);
            Some(Self {
                relation,
                columns,
                table,
                numbers,
            })
        }
    }

    unsafe fn key(&self, row: pg_sys::HeapTuple) -> Key {
        let (mut values, mut nulls) = NO_VALUES;
        // SAFETY: the row is one of the table; each number is that of one of its columns.
        unsafe {
            let of_table = PgTupleDesc::from_pg_unchecked((*self.table).rd_att);
            for (n, number) in self.numbers.iter().enumerate() {
                let n = n + FIRST;
                let number: usize = CStr::from_ptr(*number).to_str().ok()?.parse().ok()?;
                let number = NonZeroUsize::new(number)?;
                let (there, here) = (self.columns.get(n)?, of_table.get(number.get() - 1)?);
                if here.atttypid != there.atttypid || here.attisdropped {
                    return None;
                }
                let value = pgrx::htup::heap_getattr_raw(row, number, (*self.table).rd_att);
                *nulls.get_mut(n)? = value.is_none();
                *values.get_mut(n)? = value.unwrap_or(pg_sys::Datum::null());
            }
        }
        Some((values, nulls))
    }

    unsafe fn write_key(&self, key: &Key) {
        // SAFETY: the values were just read.
        unsafe {
            match key {
                Some((values, nulls)) => self.write(KEY, *values, *nulls),
                None => self.write(UNKNOWN, NO_VALUES.0, NO_VALUES.1),
            }
        }
    }

    unsafe fn write_truncated(&self) {
        let (mut values, mut nulls) = NO_VALUES;
        // SAFETY: the second column is an oid.
        unsafe {
            values[1] = (*self.table).rd_id.into();
            nulls[1] = false;
            self.write(TRUNCATED, values, nulls);
        }
    }

    unsafe fn write(&self, op: char, mut values: Values, mut nulls: Nulls) {
        values[0] = pg_sys::Datum::from(op as i8);
        nulls[0] = false;
        // SAFETY: as many values as the log has columns, of their types. The tuple is freed with the context of
        // the trigger's call.
        unsafe {
            let tuple = pg_sys::heap_form_tuple(
                (*self.relation).rd_att,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            pg_sys::simple_heap_insert(self.relation, tuple);
        }
    }

    /// Whether two keys are the same to the last byte. Where one is stored differently, both are noted: that
    /// does no harm.
    unsafe fn is_same(&self, one: &Key, other: &Key) -> bool {
        let (Some((ours, _)), Some((theirs, _))) = (one, other) else {
            return one.is_none() && other.is_none();
        };
        (FIRST..FIRST + self.numbers.len()).all(|n| {
            let (Some(column), Some(a), Some(b)) =
                (self.columns.get(n), ours.get(n), theirs.get(n))
            else {
                return false;
            };
            // SAFETY: both are values of this column's type.
            unsafe {
                a == b || (!column.attbyval && bytes(*a, column.attlen) == bytes(*b, column.attlen))
            }
        })
    }
}

/// The bytes of a value that is passed by reference; none of one without a fixed or stored length.
unsafe fn bytes<'a>(value: pg_sys::Datum, length: i16) -> Option<&'a [u8]> {
    let start = value.cast_mut_ptr::<u8>();
    if start.is_null() {
        return None;
    }
    // SAFETY: the value is of a type with this length; -1 says that its own header has it.
    unsafe {
        let length = match length {
            1.. => length as usize,
            -1 => pgrx::varsize_any(start.cast()),
            _ => return None,
        };
        Some(std::slice::from_raw_parts(start, length))
    }
}
