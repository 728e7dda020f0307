//! Every setting of repart: where it is kept, why its default is what it is, and how code reads it.
//! `register.rs` tells PostgreSQL of them.

use std::ffi::CString;
use std::time::Duration;

use pgrx::guc::{GucSetting, PostgresGucEnum};

mod register;

pub use register::register;

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

/// Above this, statements begin to wait for a processor.
static HEADROOM: GucSetting<f64> = GucSetting::<f64>::new(0.8);

/// Empty: at any hour. Which hours are quiet, a plan finds out by itself.
static WINDOW: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// On: where a limit is passed already, waiting for a better moment leaves everybody slow; the copy gives way all the
/// same.
static EMERGENCY: GucSetting<bool> = GucSetting::<bool>::new(true);

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

/// Off: nobody's writers wait for a whole copy unless somebody asked for it.
static ALLOW_BLOCKING: GucSetting<bool> = GucSetting::<bool>::new(false);

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

/// One hour: longer than the reports and backups that hold a table open for a while, and short enough that a
/// forgotten session does not leave a finished copy, with its disk space and capture, standing overnight.
static CUTOVER_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(3_600_000);

/// Off: old shards that are kept double the disk space of the new ones, and the capture that keeps them
/// up to date costs a trigger call and a log entry per row written.
static RETAIN_SOURCE: GucSetting<i32> = GucSetting::<i32>::new(0);

/// On: plans by the rows alone split in the wrong places. What it costs, `make bench TESTS=sampler` prints.
static SAMPLER: GucSetting<bool> = GucSetting::<bool>::new(true);

/// One in 16: a busy shard has its hundred keys within seconds, and few statements look at keys.
static SAMPLE_RATE: GucSetting<i32> = GucSetting::<i32>::new(16);

/// Five seconds: an order of magnitude above what a busy server on another continent needs, and short enough that a
/// dead one is known as such before the next sample is due.
static NODE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);

/// For tests of crash recovery: the mover waits at the named point of a migration.
static HOLD_AT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

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

/// `repart.headroom`, a share of 1.
pub fn headroom() -> f64 {
    HEADROOM.get()
}

/// `repart.maintenance_window` as written; empty means at any hour.
pub fn window() -> String {
    text(&WINDOW)
}

/// `repart.emergency`.
pub fn emergency() -> bool {
    EMERGENCY.get()
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

/// `repart.allow_blocking`.
pub fn allow_blocking() -> bool {
    ALLOW_BLOCKING.get()
}

/// `repart.max_backlog`, captured changes.
pub fn max_backlog() -> i64 {
    i64::from(MAX_BACKLOG.get())
}

/// `repart.cutover_timeout`; `None` means that a switch is waited for without end.
pub fn cutover_timeout() -> Option<Duration> {
    Some(millis(&CUTOVER_TIMEOUT)).filter(|timeout| !timeout.is_zero())
}

/// `repart.retain_source`; zero means not at all.
pub fn retain_source() -> Duration {
    millis(&RETAIN_SOURCE)
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

/// `repart.sampler`, as the server was started with.
pub fn sampler() -> bool {
    SAMPLER.get()
}

/// `repart.sample_rate`: keys are looked at in one statement of so many.
pub fn sample_rate() -> u32 {
    u32::try_from(SAMPLE_RATE.get()).unwrap_or(1).max(1)
}

/// `repart.node_timeout`.
pub fn node_timeout() -> Duration {
    millis(&NODE_TIMEOUT)
}

/// `repart.hold_at`, for tests of crash recovery; empty means nowhere.
pub fn hold_at() -> String {
    text(&HOLD_AT)
}
