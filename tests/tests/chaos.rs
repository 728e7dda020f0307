//! Migrations at random under load, each disturbed by something at random, at a random moment. Where the
//! matrix in `crash.rs` stops a mover at known points, this one meets the moments between them.
//!
//! REPART_CHAOS_ROUNDS sets how many rounds; a long run is worth more than the default. REPART_CHAOS_SEED
//! repeats the decisions of a run, whose seed is printed; the moments themselves are the machine's.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::Cluster;
use repart_tests::disk::SmallDisk;
use repart_tests::matrix::Failure;
use repart_tests::repart::{Migration, Session, Shard};
use repart_tests::workload::random::Random;
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 30_000;
const TABLES: [&str; 2] = ["orders", "items"];
const DEFAULT_ROUNDS: u64 = 6;

/// The longest time from the queueing of a migration to the disturbance, in ms: about what it takes.
const LONGEST: i64 = 1_500;

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().unwrap())
}

/// What happens while migrations run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disturbance {
    Nothing,
    Cancel,
    Failure(Failure),
}

impl Disturbance {
    fn any(random: &mut Random) -> Self {
        match random.below(12) {
            0 => Self::Nothing,
            1 => Self::Cancel,
            n => Self::Failure(Failure::ALL[n as usize - 2]),
        }
    }
}

/// A migration of one table, and what must come of it.
#[derive(Debug)]
struct Step {
    table: &'static str,
    call: String,
    before: Vec<Shard>,
    bounds: Vec<i64>,
    id: i64,
}

impl Step {
    /// Any migration that the shards of the table allow.
    fn any(session: &mut Session, table: &'static str, random: &mut Random) -> Self {
        let before = session.shards(table);
        let mut bounds = session.bounds(table);
        let shard = |n: usize| before[n].name.clone();
        let count = before.len();
        let kind = random.below(4);
        let call = if count == 1 || (kind == 0 && count < 6) {
            let n = random.below(count as i64) as usize;
            let (from, to) = range(&bounds, n, n);
            let at = from + 1 + random.below(to - from - 1);
            bounds.insert(n, at);
            format!("repart_split('{}', '{at}')", shard(n))
        } else if kind == 1 {
            let n = random.below(count as i64) as usize;
            let to = match before[n].tablespace.as_deref() {
                None | Some("pg_default") => "small",
                Some(_) => "pg_default",
            };
            format!("repart_move('{}', tablespace => '{to}')", shard(n))
        } else if kind == 2 {
            let n = random.below(count as i64 - 1) as usize;
            let (from, to) = range(&bounds, n, n + 1);
            // The boundary that there is would be refused.
            let at = from + 1 + random.below(to - from - 1);
            let at = if at == bounds[n] { at - 1 } else { at };
            if at <= from {
                return Self::any(session, table, random);
            }
            bounds[n] = at;
            format!("repart_shift('{}', '{}', '{at}')", shard(n), shard(n + 1))
        } else {
            let n = random.below(count as i64 - 1) as usize;
            bounds.remove(n);
            format!("repart_merge('{}', '{}')", shard(n), shard(n + 1))
        };
        let id = session.queue(&call);
        Self {
            table,
            call,
            before,
            bounds,
            id,
        }
    }

    /// Exactly the old or the new shards; and no end but the one that the disturbance explains.
    fn assert_right(&self, session: &mut Session, migration: &Migration, what: Disturbance) {
        match (migration.state.as_str(), what) {
            ("done", _) => assert_eq!(session.bounds(self.table), self.bounds, "{self:?}"),
            ("cancelled", Disturbance::Cancel)
            | ("failed", Disturbance::Failure(Failure::FullDisk)) => {
                assert_eq!(session.shards(self.table), self.before, "{self:?}");
            }
            _ => panic!("{self:?} with {what:?} ended as {migration:?}"),
        }
        if let Some(error) = &migration.error {
            assert!(error.contains("SQLSTATE: 53100"), "{self:?}: {error}");
        }
    }
}

/// The keys of the shards from `first` to `last`, within those that clients use.
fn range(bounds: &[i64], first: usize, last: usize) -> (i64, i64) {
    let from = first.checked_sub(1).map_or(0, |n| bounds[n]);
    let to = bounds.get(last).copied().unwrap_or(KEYS);
    // Splits and shifts may have left a shard of a few keys at an end.
    (from, to.max(from + 3))
}

/// Lets the disturbance happen.
fn disturb(session: &mut Session, what: Disturbance, steps: &[Step], disk: Option<&mut SmallDisk>) {
    match what {
        Disturbance::Nothing => {}
        Disturbance::Cancel => {
            for step in steps {
                // It may have ended, or be past its switch.
                let _ = session
                    .client()
                    .execute("SELECT repart_cancel($1)", &[&step.id]);
            }
        }
        Disturbance::Failure(Failure::MoverKilled) => {
            let cluster = session.cluster();
            if let Some(&mover) = session.workers("mover").first() {
                cluster.try_kill9(mover);
                session.reopen();
            }
        }
        Disturbance::Failure(Failure::FullDisk) => {
            if let Some(disk) = disk {
                disk.fill();
                sleep(Duration::from_millis(500));
                disk.free();
            }
        }
        Disturbance::Failure(failure) => {
            let movers = session.workers("mover");
            failure.inflict(session, &TABLES, &movers);
        }
    }
}

#[test]
fn random_failures_at_random_moments_lose_nothing() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = from_environment("REPART_CHAOS_SEED", now.as_secs());
    // Not captured, so that a run that hangs can be repeated too.
    eprintln!("REPART_CHAOS_SEED={seed}");
    let mut random = Random::new(seed);
    let cluster = Cluster::with_repart(&[
        "repart.batch_duration = '10ms'",
        "repart.max_copy_rate = '8MB'",
        "repart.max_movers = 2",
        "max_worker_processes = 20",
    ]);
    let directory = cluster.create_tablespace("small");
    let mut disk = SmallDisk::mount(&directory, 64);
    let mut session = Session::open(&cluster, "postgres");
    let mut workloads = Vec::new();
    let mut excused = [false; TABLES.len()];
    for table in TABLES {
        session.create_sharded_table(table, &[10_000, 20_000], KEYS);
        let options = Options {
            clients: 2,
            ..Options::new(table, KEYS).with_crashes()
        };
        workloads.push(Workload::start(&cluster, "postgres", options));
    }
    for round in 0..from_environment("REPART_CHAOS_ROUNDS", DEFAULT_ROUNDS) {
        let what = Disturbance::any(&mut random);
        let steps = TABLES.map(|table| Step::any(&mut session, table, &mut random));
        let moment = random.below(LONGEST);
        println!(
            "round {round}: {what:?} {moment} ms after {}, {}",
            steps[0].call, steps[1].call
        );
        sleep(Duration::from_millis(moment.unsigned_abs()));
        disturb(&mut session, what, &steps, disk.as_mut());
        for step in &steps {
            let migration = session.wait_ended(step.id);
            println!("    {}: {}", step.call, migration.state);
            step.assert_right(&mut session, &migration, what);
        }
        if what == Disturbance::Failure(Failure::FullDisk) {
            // Shards that are on the full disk cannot be written then, whoever writes.
            for (excused, step) in excused.iter_mut().zip(&steps) {
                let after = session.shards(step.table);
                let mut shards = step.before.iter().chain(&after);
                *excused |= shards.any(|shard| shard.tablespace.as_deref() == Some("small"));
            }
        }
        assert_nothing_left(&mut session);
        for (table, workload) in TABLES.iter().zip(&workloads) {
            assert_sound(&mut session, table);
            workload.proceed(50);
        }
    }
    for (workload, excused) in workloads.into_iter().zip(excused) {
        let mut report = workload.stop();
        if excused {
            report.errors.retain(|error| !error.starts_with("53100"));
        }
        report.assert_clean();
    }
}
