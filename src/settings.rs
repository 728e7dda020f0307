//! Every setting of repart: where it is kept, why its default is what it is, and how code reads it.

use std::ffi::CString;
use std::time::Duration;

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

/// How far repart goes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum Mode {
    /// Observes nothing and decides nothing; migrations queued by hand still run.
    #[name = c"off"]
    Off,
    /// Observes, forecasts and plans; a person applies the plan.
    #[name = c"advise"]
    Advise,
    /// Applies its plans too.
    #[name = c"auto"]
    Auto,
}

/// `advise`: a newly installed extension shows what it would do, and moves nothing unasked.
static MODE: GucSetting<Mode> = GucSetting::<Mode>::new(Mode::Advise);

/// One minute: fine enough to see a ramp, and 50,000 rows per shard over the default retention.
static SAMPLE_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(60_000);

/// A quarter of an hour: forecasts move slowly, and a plan every 15 min is what pg_cron users write.
static FORECAST_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(900_000);

/// One day: the shortest season that most tables have, so that the next peak is always in sight.
static HORIZON: GucSetting<i32> = GucSetting::<i32>::new(86_400_000);

/// Detected from the data; an interval such as `1 day` sets it by hand.
static SEASON: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"auto"));

/// The best model by rolling backtest, for each shard.
static MODEL: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"auto"));

/// Five weeks: four whole weekly seasons to learn from, and the running one.
static RETENTION: GucSetting<i32> = GucSetting::<i32>::new(35 * 24 * 60);

/// 0.7 leaves room for the error of a forecast and for the copy itself; queueing delay doubles near 0.7.
static TARGET_UTILISATION: GucSetting<f64> = GucSetting::<f64>::new(0.7);

/// Rows per second one shard may serve. 50,000 is far above what an idle shard sees and below what
/// one table's index takes on one core, so that only real hotspots are split by default.
static SHARD_CAPACITY: GucSetting<f64> = GucSetting::<f64>::new(50_000.0);

/// The budget of a cutover: what a client may wait, longest, for the switch itself.
static MAX_PAUSE: GucSetting<i32> = GucSetting::<i32>::new(50);

/// How long a lock of ours may make others queue. Well below `deadlock_timeout`, so that repart gives
/// way before PostgreSQL has to choose a victim.
static LOCK_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(50);

/// 200 ms per transaction: short enough for vacuum and for a cancel, long enough that commits cost little.
static BATCH_DURATION: GucSetting<i32> = GucSetting::<i32>::new(200);

/// kB/s, 0 = unlimited. Unlimited, since the right limit depends on the machine.
static MAX_COPY_RATE: GucSetting<i32> = GucSetting::<i32>::new(0);

/// One: a migration is a background task, and one at a time is the gentlest.
static MAX_MOVERS: GucSetting<i32> = GucSetting::<i32>::new(1);

/// Captured changes that may wait before a migration is given up: bounds the log to some 100 MB.
static MAX_BACKLOG: GucSetting<i32> = GucSetting::<i32>::new(1_000_000);

/// kB. Below 16 MB a shard fits into any cache, and splitting it gains nothing.
static MIN_SHARD_SIZE: GucSetting<i32> = GucSetting::<i32>::new(16 * 1024);

/// kB, 0 = no limit.
static MAX_SHARD_SIZE: GucSetting<i32> = GucSetting::<i32>::new(0);

/// Planning time of stock PostgreSQL grows with the number of partitions: 4,000 cost 9 ms once per session.
static MAX_SHARDS: GucSetting<i32> = GucSetting::<i32>::new(4_096);

/// One hour: a shard is left alone for this long after a migration.
static DWELL: GucSetting<i32> = GucSetting::<i32>::new(3_600_000);

/// For tests of crash recovery: the mover waits at the named point of a migration.
static HOLD_AT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Defines all settings and reserves the prefix, so that a misspelt name is an error.
pub fn register() {
    register_process();
    register_forecasting();
    register_planning();
    register_migrating();
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
        c"The forecasting model: auto, seasonal_naive, ets or mstl.",
        c"auto takes the best by rolling backtest for each shard and metric.",
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
    int_sighup(
        c"repart.max_movers",
        c"Migrations of one database that may run at the same time.",
        &MAX_MOVERS,
        0,
        64,
    );
    int_sighup(
        c"repart.max_backlog",
        c"Captured changes that may wait for a migration before it is given up.",
        &MAX_BACKLOG,
        1_000,
        i32::MAX,
    );
    GucRegistry::define_string_guc(
        c"repart.hold_at",
        c"Developer option: the mover waits at this point of a migration.",
        c"",
        &HOLD_AT,
        GucContext::Sighup,
        GucFlags::NO_SHOW_ALL,
    );
}

fn int_ms(
    name: &'static std::ffi::CStr,
    what: &'static std::ffi::CStr,
    setting: &'static GucSetting<i32>,
    min: i32,
    max: i32,
) {
    GucRegistry::define_int_guc(
        name,
        what,
        c"",
        setting,
        min,
        max,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
}

fn int_kb(
    name: &'static std::ffi::CStr,
    what: &'static std::ffi::CStr,
    setting: &'static GucSetting<i32>,
) {
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
    name: &'static std::ffi::CStr,
    what: &'static std::ffi::CStr,
    setting: &'static GucSetting<i32>,
    min: i32,
    max: i32,
) {
    GucRegistry::define_int_guc(
        name,
        what,
        c"",
        setting,
        min,
        max,
        GucContext::Sighup,
        GucFlags::default(),
    );
}

fn millis(setting: &GucSetting<i32>) -> Duration {
    Duration::from_millis(u64::try_from(setting.get()).unwrap_or(0))
}

fn text(setting: &GucSetting<Option<CString>>) -> String {
    setting
        .get()
        .map(|value| value.to_string_lossy().trim().to_owned())
        .unwrap_or_default()
}

/// `repart.mode`.
pub fn mode() -> Mode {
    MODE.get()
}

/// `repart.sample_interval`.
pub fn sample_interval() -> Duration {
    millis(&SAMPLE_INTERVAL)
}

/// `repart.forecast_interval`.
pub fn forecast_interval() -> Duration {
    millis(&FORECAST_INTERVAL)
}

/// `repart.horizon`.
pub fn horizon() -> Duration {
    millis(&HORIZON)
}

/// `repart.season` as written: `auto`, `none`, or an interval.
pub fn season() -> String {
    text(&SEASON)
}

/// `repart.model` as written.
pub fn model() -> String {
    text(&MODEL)
}

/// `repart.retention`.
pub fn retention() -> Duration {
    Duration::from_secs(60 * u64::try_from(RETENTION.get()).unwrap_or(1))
}

/// `repart.target_utilisation`, a share of 1.
pub fn target_utilisation() -> f64 {
    TARGET_UTILISATION.get()
}

/// `repart.shard_capacity`, rows per second.
pub fn shard_capacity() -> f64 {
    SHARD_CAPACITY.get()
}

/// `repart.max_pause`.
pub fn max_pause() -> Duration {
    millis(&MAX_PAUSE)
}

/// `repart.lock_timeout`.
pub fn lock_timeout() -> Duration {
    millis(&LOCK_TIMEOUT)
}

/// `repart.batch_duration`.
pub fn batch_duration() -> Duration {
    millis(&BATCH_DURATION)
}

/// `repart.max_copy_rate` in bytes per second; `None` means unlimited.
pub fn max_copy_rate() -> Option<f64> {
    match MAX_COPY_RATE.get() {
        0 => None,
        kilobytes => Some(f64::from(kilobytes) * 1024.0),
    }
}

/// `repart.max_movers`.
pub fn max_movers() -> usize {
    usize::try_from(MAX_MOVERS.get()).unwrap_or(0)
}

/// `repart.max_backlog`, captured changes.
pub fn max_backlog() -> i64 {
    i64::from(MAX_BACKLOG.get())
}

/// `repart.min_shard_size` in bytes.
pub fn min_shard_size() -> f64 {
    f64::from(MIN_SHARD_SIZE.get()) * 1024.0
}

/// `repart.max_shard_size` in bytes; 0 means no limit.
pub fn max_shard_size() -> f64 {
    f64::from(MAX_SHARD_SIZE.get()) * 1024.0
}

/// `repart.max_shards`.
pub fn max_shards() -> usize {
    usize::try_from(MAX_SHARDS.get()).unwrap_or(1)
}

/// `repart.dwell`.
pub fn dwell() -> Duration {
    millis(&DWELL)
}

/// `repart.hold_at`, for tests of crash recovery; empty means nowhere.
pub fn hold_at() -> String {
    text(&HOLD_AT)
}
