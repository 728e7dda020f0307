//! Times and spans. Inside repart both are µs as `i64`, times counted from the Unix epoch; PostgreSQL
//! counts from 2000-01-01. Nothing else in repart converts between the two.

use std::ffi::CString;
use std::panic::AssertUnwindSafe;

use pgrx::datum::{Interval, IntoDatum, TimestampWithTimeZone};
use pgrx::{PgTryBuilder, direct_function_call, pg_sys};

/// One second in µs.
pub const SECOND: i64 = 1_000_000;

/// 2000-01-01 in µs since 1970-01-01.
const POSTGRES_EPOCH: i64 = 946_684_800 * SECOND;

/// A time as SQL takes it. Times that PostgreSQL cannot express become the nearest one that it can:
/// `infinity` or `-infinity`.
pub fn to_sql(unix: i64) -> TimestampWithTimeZone {
    let infinity = if unix < 0 {
        TimestampWithTimeZone::negative_infinity()
    } else {
        TimestampWithTimeZone::positive_infinity()
    };
    unix.checked_sub(POSTGRES_EPOCH)
        .and_then(|micros| TimestampWithTimeZone::try_from(micros).ok())
        .unwrap_or(infinity)
}

/// A time as SQL gives it; `infinity` becomes the largest and `-infinity` the smallest number.
pub fn from_sql(time: TimestampWithTimeZone) -> i64 {
    match time.into_inner() {
        i64::MIN => i64::MIN,
        micros => micros.saturating_add(POSTGRES_EPOCH),
    }
}

/// A time as PostgreSQL counts it, as µs since the Unix epoch.
pub fn from_postgres(micros: i64) -> i64 {
    micros.saturating_add(POSTGRES_EPOCH)
}

/// A span as SQL takes it. Days are not told apart from 24 hours.
pub fn span_to_sql(micros: i64) -> Interval {
    Interval::from_micros(micros)
}

/// A span as SQL gives it; a month counts as 30 days and a day as 24 hours.
pub fn span_from_sql(span: &Interval) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(if span.is_negative() {
        i64::MIN
    } else {
        i64::MAX
    })
}

/// A duration in µs.
pub fn span(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The start of the running transaction, as `now()`: everything that one transaction writes has this time.
pub fn now() -> i64 {
    // SAFETY: reads a variable of this process; inside a transaction, as all our code is.
    let micros = unsafe { pg_sys::GetCurrentTransactionStartTimestamp() };
    micros.saturating_add(POSTGRES_EPOCH)
}

/// The time by the clock.
pub fn clock() -> i64 {
    // SAFETY: reads the clock.
    let micros = unsafe { pg_sys::GetCurrentTimestamp() };
    micros.saturating_add(POSTGRES_EPOCH)
}

/// Reads an interval as PostgreSQL does; `None` for text that is none. Then an SQL error was caught, so
/// the caller has to end the transaction with an error of its own.
pub fn parse_span(text: &str) -> Option<i64> {
    let text = CString::new(text).ok()?;
    let read = || {
        let arguments = [
            text.as_c_str().into_datum(),
            pg_sys::InvalidOid.into_datum(),
            (-1i32).into_datum(),
        ];
        // SAFETY: the function's own arguments: text, type (unused) and modifier.
        unsafe { direct_function_call::<Interval>(pg_sys::interval_in, &arguments) }
    };
    PgTryBuilder::new(AssertUnwindSafe(read))
        .catch_others(|_| None)
        .execute()
        .as_ref()
        .map(span_from_sql)
}

/// Reads a time as PostgreSQL does; `None` for text that is none, where the same holds as for
/// [`parse_span`].
pub fn parse(text: &str) -> Option<i64> {
    let text = CString::new(text).ok()?;
    let read = || {
        let arguments = [
            text.as_c_str().into_datum(),
            pg_sys::InvalidOid.into_datum(),
            (-1i32).into_datum(),
        ];
        // SAFETY: the function's own arguments: text, type (unused) and modifier.
        unsafe { direct_function_call::<TimestampWithTimeZone>(pg_sys::timestamptz_in, &arguments) }
    };
    PgTryBuilder::new(AssertUnwindSafe(read))
        .catch_others(|_| None)
        .execute()
        .map(from_sql)
}
