//! Settings of the running session.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

/// Makes an unknown `prefix.name` an error, so that a misspelt setting is noticed.
pub fn reserve_prefix(prefix: &'static CStr) {
    // SAFETY: called from _PG_init with a static C string, as PostgreSQL asks.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) }
}

/// Sets a setting of this session, as a superuser's `SET` would. For workers: their session is ours.
pub fn set(name: &str, value: &str) {
    let (Ok(name), Ok(value)) = (CString::new(name), CString::new(value)) else {
        return;
    };
    // SAFETY: both strings are valid for the call; PostgreSQL copies them. Errors unwind as usual.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
}

/// Re-reads postgresql.conf if a reload was asked for: the signal handler only sets a flag.
pub fn reload_if_asked() -> bool {
    // SAFETY: plain globals of this process; ProcessConfigFile is what every PostgreSQL process calls here.
    unsafe {
        if pg_sys::ConfigReloadPending == 0 {
            return false;
        }
        pg_sys::ConfigReloadPending = 0;
        pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
    }
    true
}

/// Settings on which the text form of a value depends, and the values under which it always reads the same.
pub const TRANSMISSION_MODES: [(&str, &str); 6] = [
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("timezone", "UTC"),
    ("bytea_output", "hex"),
    ("standard_conforming_strings", "on"),
];

/// Runs `body` with the output formats that PostgreSQL itself uses between servers, so that a literal
/// written under one session's settings reads the same under another's.
pub fn with_transmission_modes<T>(
    body: impl FnOnce() -> crate::error::Result<T>,
) -> crate::error::Result<T> {
    with_settings(&TRANSMISSION_MODES, body)
}

/// Runs `body` with these settings, each a name and a value that any user may set, and restores them.
pub fn with_settings<T>(
    settings: &[(&str, &str)],
    body: impl FnOnce() -> crate::error::Result<T>,
) -> crate::error::Result<T> {
    // SAFETY: opens a nest level and closes it; on an SQL error the transaction's abort closes it.
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    for (name, value) in settings {
        set_local(name, value);
    }
    let outcome = body();
    // SAFETY: see above.
    unsafe { pg_sys::AtEOXact_GUC(false, level) };
    outcome
}

/// Runs `body` without counting what it reads in the statistics: what repart looks at is no load of the
/// users, and must not be taken for one.
pub fn without_counting<T>(
    body: impl FnOnce() -> crate::error::Result<T>,
) -> crate::error::Result<T> {
    // SAFETY: as in `with_settings`.
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    change(
        "track_counts",
        "off",
        pg_sys::GucContext::PGC_SUSET,
        pg_sys::GucAction::GUC_ACTION_SAVE,
    );
    let outcome = body();
    // SAFETY: see above.
    unsafe { pg_sys::AtEOXact_GUC(false, level) };
    outcome
}

/// Sets a setting that any user may set, until the end of the nest level.
fn set_local(name: &str, value: &str) {
    change(
        name,
        value,
        pg_sys::GucContext::PGC_USERSET,
        pg_sys::GucAction::GUC_ACTION_SAVE,
    );
}

/// Sets a setting until the end of the transaction, as a superuser's `SET LOCAL` would. For workers.
pub fn set_for_transaction(name: &str, value: &str) {
    change(
        name,
        value,
        pg_sys::GucContext::PGC_SUSET,
        pg_sys::GucAction::GUC_ACTION_LOCAL,
    );
}

fn change(
    name: &str,
    value: &str,
    context: pg_sys::GucContext::Type,
    action: pg_sys::GucAction::Type,
) {
    let (Ok(name), Ok(value)) = (CString::new(name), CString::new(value)) else {
        return;
    };
    // SAFETY: valid strings, which PostgreSQL copies; the action says when the value is restored.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            context,
            pg_sys::GucSource::PGC_S_SESSION,
            action,
            true,
            0,
            false,
        );
    }
}
