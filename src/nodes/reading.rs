//! What a server, this one or a node, is doing: the question that is asked of both, and what two answers say of the
//! time between them.

use serde::Deserialize;

use crate::catalog::nodes::NodeSample;
use crate::nodes::facts::Facts;

/// Counters of a server at one time; see `usage::Usage` for those of its machine.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Reading {
    /// Seconds since 1970, by its own clock.
    clock: f64,
    /// Whether it replays the changes of another server.
    pub replica: bool,
    connections: Option<i32>,
    active: Option<i32>,
    max_connections: Option<i32>,
    transactions: Option<i64>,
    lag: Option<f64>,
    cpus: Option<i32>,
    cpu_seconds: Option<f64>,
    cpu_busy_seconds: Option<f64>,
    load: Option<f64>,
    memory_total: Option<i64>,
    memory_available: Option<i64>,
    cpu_stall_us: Option<i64>,
    memory_stall_us: Option<i64>,
    io_stall_us: Option<i64>,
    read_bytes: Option<i64>,
    write_bytes: Option<i64>,
    disk_total: Option<i64>,
    disk_free: Option<i64>,
}

/// What SQL knows anywhere; with it, what the machine does, where repart is installed and may be asked.
///
/// A replica that receives and has replayed everything is not behind, however old its last transaction is.
pub fn question(facts: &Facts) -> String {
    let machine = facts.usage.as_ref().map_or_else(String::new, |function| {
        format!(" || (SELECT pg_catalog.to_jsonb(u) FROM {function}() u)")
    });
    format!(
        "SELECT (pg_catalog.jsonb_build_object(
         'clock', extract(epoch FROM pg_catalog.clock_timestamp())::float8,
         'replica', pg_catalog.pg_is_in_recovery(),
         'connections', (SELECT sum(numbackends) FROM pg_catalog.pg_stat_database),
         'active', CASE WHEN pg_catalog.pg_has_role('pg_monitor', 'USAGE') THEN
                   (SELECT count(*) FROM pg_catalog.pg_stat_activity
                     WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()) END,
         'max_connections', pg_catalog.current_setting('max_connections')::int,
         'transactions', (SELECT sum(xact_commit + xact_rollback)::int8 FROM pg_catalog.pg_stat_database),
         'lag', CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN NULL
                     WHEN EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver WHERE pid IS NOT NULL)
                          AND pg_catalog.pg_last_wal_receive_lsn() = pg_catalog.pg_last_wal_replay_lsn() THEN 0
                     ELSE extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()) END
         ){machine})::text"
    )
}

/// What a counter grew by; `None` where it began anew.
fn growth(before: Option<i64>, now: Option<i64>) -> Option<f64> {
    let growth = now?.checked_sub(before?)?;
    (growth >= 0).then_some(growth as f64)
}

/// The load between two readings; `None` where they say nothing about a span.
pub fn sample(before: &Reading, now: &Reading) -> Option<NodeSample> {
    let seconds = now.clock - before.clock;
    if seconds <= 0.0 {
        return None;
    }
    let rate = |before, now| growth(before, now).map(|growth| growth / seconds);
    let stall = |before, now| rate(before, now).map(|us| (us / 1e6).min(1.0));
    let busy = now.cpu_busy_seconds.zip(before.cpu_busy_seconds);
    let all = now.cpu_seconds.zip(before.cpu_seconds);
    let cpu = busy
        .zip(all)
        .and_then(|((busy, busy_before), (all, all_before))| {
            let share = (busy - busy_before) / (all - all_before);
            (all > all_before && (0.0..=1.1).contains(&share)).then_some(share.min(1.0))
        });
    Some(NodeSample {
        seconds,
        cpu,
        load: now.load,
        memory_total: now.memory_total,
        memory_available: now.memory_available,
        stalls: [
            stall(before.cpu_stall_us, now.cpu_stall_us),
            stall(before.memory_stall_us, now.memory_stall_us),
            stall(before.io_stall_us, now.io_stall_us),
        ],
        bytes: [
            rate(before.read_bytes, now.read_bytes),
            rate(before.write_bytes, now.write_bytes),
        ],
        disk: [now.disk_total, now.disk_free],
        sessions: [now.connections, now.active, now.max_connections],
        transactions: rate(before.transactions, now.transactions),
        lag: now.lag,
        cpus: now.cpus,
    })
}
