//! The settings as PostgreSQL is told of them: names, descriptions, units, ranges, and who may set them.

use std::ffi::CStr;

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

use super::*;

/// Defines all settings and reserves the prefix, so that a misspelt name is an error.
pub fn register() {
    register_process();
    register_sampler();
    register_forecasting();
    register_planning();
    register_migrating();
    register_nodes();
    crate::pg::guc::reserve_prefix(c"repart");
}

fn register_process() {
    GucRegistry::define_enum_guc(
        c"repart.mode",
        c"How far repart goes by itself: off, advise or auto.",
        c"advise observes, forecasts and plans; auto also carries plans out.",
        &MODE,
        GucContext::Sighup,
        GucFlags::default(),
    );
    int_ms(
        c"repart.sample_interval",
        c"Time between two samples of every shard's load.",
        &SAMPLE_INTERVAL,
        100,
        86_400_000,
    );
    int_ms(
        c"repart.forecast_interval",
        c"Time between two forecasts, each followed by a plan.",
        &FORECAST_INTERVAL,
        100,
        86_400_000,
    );
    GucRegistry::define_int_guc(
        c"repart.retention",
        c"How long samples, plans, outcomes, events and finished migrations are kept.",
        c"",
        &RETENTION,
        1,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_MIN,
    );
}

fn register_sampler() {
    GucRegistry::define_bool_guc(
        c"repart.sampler",
        c"Whether the access sampler counts how every shard is used.",
        c"Its memory is set by repart.max_shards as the server is started with.",
        &SAMPLER,
        // Without preload it has no effect, and PostgreSQL admits no setting of that kind any more.
        if crate::pg::preload::in_progress() {
            GucContext::Postmaster
        } else {
            GucContext::Sighup
        },
        GucFlags::default(),
    );
    int_sighup(
        c"repart.sample_rate",
        c"The keys of one statement in so many are looked at.",
        &SAMPLE_RATE,
        1,
        100_000,
        GucFlags::default(),
    );
}

fn register_forecasting() {
    GucRegistry::define_int_guc(
        c"repart.horizon",
        c"How far ahead load is forecast.",
        c"",
        &HORIZON,
        1_000,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_string_guc(
        c"repart.season",
        c"The season of the load: auto (detected), none, or an interval such as '1 day'.",
        c"",
        &SEASON,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"repart.model",
        c"The forecasting model: auto, seasonal_naive, ets, mstl, spar, log_linear, prophet or lstm.",
        c"auto combines the best by rolling backtest, for each shard and metric. repart_set_model chooses for one table.",
        &MODEL,
        GucContext::Userset,
        GucFlags::default(),
    );
}

fn register_planning() {
    GucRegistry::define_float_guc(
        c"repart.target_utilisation",
        c"Share of its capacity that a shard may be forecast to use.",
        c"",
        &TARGET_UTILISATION,
        0.05,
        1.0,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_float_guc(
        c"repart.shard_capacity",
        c"Load that one shard may serve, in rows read and written per second.",
        c"",
        &SHARD_CAPACITY,
        1.0,
        1e12,
        GucContext::Userset,
        GucFlags::default(),
    );
    int_kb(
        c"repart.min_shard_size",
        c"A shard smaller than this is never split.",
        &MIN_SHARD_SIZE,
    );
    int_kb(
        c"repart.max_shard_size",
        c"A shard larger than this is split whatever its load; 0 means no limit.",
        &MAX_SHARD_SIZE,
    );
    GucRegistry::define_int_guc(
        c"repart.max_shards",
        c"No plan makes a table of more shards than this.",
        c"",
        &MAX_SHARDS,
        1,
        100_000,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"repart.dwell",
        c"How long a plan leaves a shard alone after a migration of it.",
        c"",
        &DWELL,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
}

fn register_migrating() {
    int_ms(
        c"repart.max_pause",
        c"Longest planned pause of a cutover.",
        &MAX_PAUSE,
        1,
        60_000,
    );
    int_ms(
        c"repart.lock_timeout",
        c"Longest time that a lock request of repart may make others queue.",
        &LOCK_TIMEOUT,
        1,
        60_000,
    );
    int_ms(
        c"repart.batch_duration",
        c"Aimed duration of one transaction of a copy.",
        &BATCH_DURATION,
        10,
        60_000,
    );
    GucRegistry::define_int_guc(
        c"repart.max_copy_rate",
        c"Limit of the copy rate of one migration, per second; 0 means none.",
        c"",
        &MAX_COPY_RATE,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_float_guc(
        c"repart.headroom",
        c"Share of a node's processors, I/O and memory that may be in use before migrations wait and give way.",
        c"1 means that they never do.",
        &HEADROOM,
        0.0,
        1.0,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"repart.maintenance_window",
        c"Hours of the day in which migrations of plans may start, such as '22:00-06:00, 12:00-13:00'; empty: all.",
        c"In the time zone of the server.",
        &WINDOW,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"repart.emergency",
        c"Whether a migration whose limit is passed already starts without headroom, and outside of repart.maintenance_window.",
        c"",
        &EMERGENCY,
        GucContext::Sighup,
        GucFlags::default(),
    );
    int_sighup(
        c"repart.max_movers",
        c"Migrations of one database that may run at the same time.",
        &MAX_MOVERS,
        0,
        64,
        GucFlags::default(),
    );
    int_sighup(
        c"repart.max_backlog",
        c"Captured changes that may wait for a migration before it is given up.",
        &MAX_BACKLOG,
        1_000,
        i32::MAX,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"repart.allow_blocking",
        c"Whether a shard without a key that identifies its rows may be migrated while all writers to its table wait.",
        c"The value when the migration is queued counts.",
        &ALLOW_BLOCKING,
        GucContext::Userset,
        GucFlags::default(),
    );
    int_ms(
        c"repart.cutover_timeout",
        c"How long a migration tries to switch before it is given up; 0 means without end.",
        &CUTOVER_TIMEOUT,
        0,
        i32::MAX,
    );
    int_ms(
        c"repart.retain_source",
        c"How long the old shards are kept up to date after a switch, for a quick revert; 0 means not at all.",
        &RETAIN_SOURCE,
        0,
        i32::MAX,
    );
    GucRegistry::define_string_guc(
        c"repart.hold_at",
        c"Developer option: movers wait at these points of a migration.",
        c"",
        &HOLD_AT,
        GucContext::Sighup,
        GucFlags::NO_SHOW_ALL,
    );
}

fn register_nodes() {
    GucRegistry::define_int_guc(
        c"repart.node_timeout",
        c"How long repart waits for an answer of a node before it takes it for unreachable.",
        c"",
        &NODE_TIMEOUT,
        100,
        600_000,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
}

fn int_ms(
    name: &'static CStr,
    what: &'static CStr,
    setting: &'static GucSetting<i32>,
    min: i32,
    max: i32,
) {
    int_sighup(name, what, setting, min, max, GucFlags::UNIT_MS);
}

fn int_kb(name: &'static CStr, what: &'static CStr, setting: &'static GucSetting<i32>) {
    GucRegistry::define_int_guc(
        name,
        what,
        c"",
        setting,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_KB,
    );
}

fn int_sighup(
    name: &'static CStr,
    what: &'static CStr,
    setting: &'static GucSetting<i32>,
    min: i32,
    max: i32,
    flags: GucFlags,
) {
    GucRegistry::define_int_guc(
        name,
        what,
        c"",
        setting,
        min,
        max,
        GucContext::Sighup,
        flags,
    );
}
