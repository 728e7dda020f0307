//! `make demo`: repart on throwaway servers, with clients at work. The first part plays two days, a minute each, on one
//! server; the second one most of a day on a coordinator with two nodes. `make demo PART=2` plays one of them.
//!
//! - [`trace`]: the load that the clients make;
//! - [`pages`]: the sharded table and its rows;
//! - [`clients`]: clients that keep a rate and remember what they committed;
//! - [`observed`]: what repart says, read from its views;
//! - [`days`]: the two days as they are played and shown;
//! - [`migrations`]: plans and migrations as they are shown while they happen;
//! - [`outcome`]: forecast, promised and done, side by side;
//! - [`fleet`]: the servers of the second part, [`second`]: the day that is played on them;
//! - [`text`]: how it is printed;
//! - [`verdict`]: what is checked at the end.

mod clients;
mod days;
mod fleet;
mod migrations;
mod observed;
mod outcome;
mod pages;
mod second;
mod text;
mod trace;
mod verdict;

use std::process::ExitCode;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use repart_tests::cluster::Cluster;

use clients::{CLIENTS, Clients};
use days::Days;
use observed::Observed;
use text::{grouped, headline, paragraph};
use trace::{CAPACITY, DAY, FIRST, HOUR, PAST_DAYS, SHARDS, Trace};
use verdict::Verdict;

/// Whatever goes wrong ends the demonstration.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What differs from the defaults, and why.
const SETTINGS: [(&str, &str, &str); 10] = [
    ("repart.mode", "off", "until the history is imported"),
    (
        "repart.sample_interval",
        "2500ms",
        "an hour of the demonstration",
    ),
    ("repart.forecast_interval", "5s", "two hours"),
    ("repart.horizon", "60s", "a day"),
    (
        "repart.shard_capacity",
        "4000",
        "rows/s that one shard may serve",
    ),
    (
        "repart.min_shard_size",
        "4MB",
        "its shards are small: some 30 MB each",
    ),
    (
        "repart.dwell",
        "60s",
        "a shard rests for a day after a migration",
    ),
    (
        "repart.max_copy_rate",
        "10MB",
        "per second: slow enough to watch",
    ),
    ("shared_buffers", "128MB", ""),
    ("log_min_messages", "warning", ""),
];

/// A migration that is still running at the end has ended by then, and what it leaves is gone.
pub const CLEANED_WITHIN: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let started = Instant::now();
    let part = std::env::args().nth(1).filter(|part| !part.is_empty());
    let outcome = match part.as_deref() {
        None => both(),
        Some("1") => play(),
        Some("2") => second::play(),
        Some(part) => Err(format!("there is no part {part}: 1, 2, or none for both").into()),
    };
    println!("\n{:.0} s in all", started.elapsed().as_secs_f64());
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("demo: {error}");
            // What the server said is below.
            if let Some(cause) = error.source() {
                println!("demo: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn both() -> Result<bool> {
    let first = play()?;
    Ok(second::play()? && first)
}

fn play() -> Result<bool> {
    introduce();
    let settings: Vec<String> = SETTINGS
        .iter()
        .map(|(name, value, _)| format!("{name} = '{value}'"))
        .collect();
    let cluster = Cluster::with_repart(&settings.iter().map(String::as_str).collect::<Vec<_>>());
    let trace = Arc::new(Trace::load(FIRST)?);
    let mut session = cluster.connect("postgres");
    let rows = pages::create(&mut session, &trace.scene)?;
    let shards: i32 = session
        .query_one("SELECT repart_manage('pages')", &[])?
        .get(0);
    println!(
        "table \"pages\": {} rows; SELECT repart_manage('pages') returned {shards} shards",
        grouped(rows)
    );

    let begin = next_hour();
    let clients = Clients::start(&cluster.config("postgres"), &trace, instant_of(begin));
    let mut observed = Observed::new(session, begin)?;
    sleep(instant_of(begin).saturating_duration_since(Instant::now()));
    let imported = observed.import(&trace, -((PAST_DAYS * DAY) as i64)..0)?;
    println!(
        "imported with repart_import_samples: {} samples, the {PAST_DAYS} days before",
        grouped(imported)
    );

    let mut days = Days::new(&mut observed, &clients, &trace, instant_of(begin));
    days.watch_a_day()?;
    days.act_for_a_day()?;
    let mut verdict = Verdict::default();
    days.judge(&mut verdict)?;
    let statements = clients.shared.statements();
    let findings = clients.stop()?;
    verdict.check_clients(&findings, statements);
    verdict.check_rows(&mut observed, trace.scene.keys(), &findings)?;
    let left = left_in_the_end(&mut observed)?;
    verdict.check(
        left == 0,
        &format!("tables and triggers that migrations left behind: {left}"),
    );
    Ok(verdict.is_clean())
}

/// What migrations left behind, once one that is still running at the end of the day has had the time to end.
fn left_in_the_end(observed: &mut Observed) -> Result<i64> {
    let deadline = Instant::now() + CLEANED_WITHIN;
    loop {
        let left = observed.left_behind()?;
        if left == 0 || Instant::now() > deadline {
            return Ok(left);
        }
        sleep(Duration::from_millis(200));
    }
}

fn introduce() {
    headline("repart: a demonstration; first part, one server");
    paragraph(&format!(
        "A server of its own, with a table of {SHARDS} shards and {CLIENTS} clients that read and write it all the \
         time. The rate of their requests is that of the Wikimedia sites, hour by hour (tests/data); a day takes {} s. \
         Every afternoon everybody reads the pages of shard pages_d.",
        HOUR * DAY as i64 / 1_000_000
    ));
    paragraph(&format!(
        "Imported, as if recorded earlier: the load of the {PAST_DAYS} days before. Live: everything else, that is two \
         days. On the first repart only watches, on the second it acts. One shard may serve {} rows/s and should \
         stay below 70 % of that. The \
         clock shown is that of the demonstration; where repart itself speaks of seconds, they are real.",
        grouped(CAPACITY as i64)
    ));
    println!();
    for (name, value, why) in SETTINGS.iter().filter(|(_, _, why)| !why.is_empty()) {
        println!("  {:<40}{why}", format!("{name} = '{value}'"));
    }
    println!();
}

/// Microseconds since the Unix epoch.
fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as i64)
}

/// The beginning of an hour, in a few seconds: repart's steps begin at multiples of their length.
fn next_hour() -> i64 {
    (now() / HOUR + 2) * HOUR
}

fn instant_of(micros: i64) -> Instant {
    let ahead = micros - now();
    match u64::try_from(ahead) {
        Ok(ahead) => Instant::now() + Duration::from_micros(ahead),
        Err(_) => Instant::now() - Duration::from_micros(ahead.unsigned_abs()),
    }
}
