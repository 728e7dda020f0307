//! Clients that keep a rate, remember what they committed and compare every answer with that.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, Config, Error, NoTls, Row, Statement};

use crate::Result;
use crate::pages::{self, BLOCK};
use crate::trace::{FIRST, HOUR, SECOND, Trace};

/// How many there are.
pub const CLIENTS: i64 = 8;

// Every client owns as many blocks of each shard.
const _: () = assert!(FIRST.keys_per_shard % (BLOCK * CLIENTS) == 0);
const _: () = assert!(SECOND.keys_per_shard % (BLOCK * CLIENTS) == 0);

/// Work that a client may be behind, in seconds; more is dropped, so that a stall is not followed by a burst.
const MAX_BEHIND: f64 = 1.0;

/// The longest waits are kept per span of this length, ms.
const SPAN: u64 = 100;

/// Spans that are kept: ten minutes.
const SPANS: usize = 6_000;

/// What a client remembers of its keys: only where a row is not as it was at first.
pub type Memory = HashMap<i64, Option<i64>>;

/// The revision of a key's row; `None` if there is none.
pub fn remembered(memory: &Memory, key: i64) -> Option<i64> {
    match memory.get(&key) {
        Some(revision) => *revision,
        None => pages::exists_at_first(key).then_some(0),
    }
}

/// The client that owns a key.
pub fn owner(key: i64) -> i64 {
    (key / BLOCK) % CLIENTS
}

/// What the clients tell the others while they run.
pub struct Shared {
    stop: AtomicBool,
    started: Instant,
    statements: AtomicU64,
    waits: Vec<AtomicU64>,
}

impl Shared {
    /// The longest time that a statement took which ended between two moments.
    pub fn longest_wait(&self, from: Instant, to: Instant) -> Duration {
        let span = |at: Instant| {
            (at.saturating_duration_since(self.started).as_millis() as u64 / SPAN) as usize
        };
        let waits = self.waits.iter().take(span(to) + 1).skip(span(from));
        Duration::from_micros(
            waits
                .map(|wait| wait.load(Ordering::Relaxed))
                .max()
                .unwrap_or(0),
        )
    }

    /// Statements so far.
    pub fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    fn note(&self, wait: Duration) {
        self.statements.fetch_add(1, Ordering::Relaxed);
        let span = self.started.elapsed().as_millis() as u64 / SPAN;
        if let Some(longest) = self.waits.get(span as usize) {
            longest.fetch_max(wait.as_micros() as u64, Ordering::Relaxed);
        }
    }
}

/// What one client found.
#[derive(Default)]
pub struct Findings {
    /// Errors that the server raised.
    pub errors: Vec<String>,
    /// Transactions that were rolled back with a serialization failure (40001), where that may be: one that used a node
    /// before a shard came there.
    pub refused: u64,
    /// Answers that were not what the client had committed.
    pub wrong: Vec<String>,
    /// What it remembers.
    pub memory: Memory,
}

/// Running clients.
pub struct Clients {
    /// What they tell while they run.
    pub shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<Findings>>>,
}

impl Clients {
    /// Starts them; `begin` is the beginning of the days played.
    pub fn start(config: &Config, trace: &Arc<Trace>, begin: Instant) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            started: Instant::now(),
            statements: AtomicU64::new(0),
            waits: (0..SPANS).map(|_| AtomicU64::new(0)).collect(),
        });
        let start = |number| {
            let (config, trace, shared) = (config.clone(), Arc::clone(trace), Arc::clone(&shared));
            std::thread::spawn(move || {
                Ok(Worker::new(number, &config, shared, &trace)?.work(&trace, begin))
            })
        };
        let threads = (0..CLIENTS).map(start).collect();
        Self { shared, threads }
    }

    /// Stops them and returns what they found, one entry per client.
    pub fn stop(self) -> Result<Vec<Findings>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "a client panicked")?)
            .collect()
    }
}

struct Worker {
    number: i64,
    client: Client,
    statements: Statements,
    shared: Arc<Shared>,
    random: u64,
    revision: i64,
    /// Rows that it still has to read or write, per shard.
    due: Vec<f64>,
    keys_per_shard: i64,
    findings: Findings,
}

struct Statements {
    read: Statement,
    insert: Statement,
    update: Statement,
    delete: Statement,
}

impl Worker {
    fn new(number: i64, config: &Config, shared: Arc<Shared>, trace: &Trace) -> Result<Self> {
        let mut client = config.connect(NoTls)?;
        let statements = Statements {
            read: client.prepare(
                "SELECT page_id, revision, body FROM pages WHERE page_id >= $1 AND page_id < $2 ORDER BY page_id",
            )?,
            insert: client.prepare("INSERT INTO pages (page_id, revision, body) VALUES ($1, $2, $3)")?,
            update: client.prepare("UPDATE pages SET revision = $2, body = $3 WHERE page_id = $1")?,
            delete: client.prepare("DELETE FROM pages WHERE page_id = $1")?,
        };
        let random = number.unsigned_abs() + 1;
        let findings = Findings::default();
        Ok(Self {
            number,
            client,
            statements,
            shared,
            random,
            revision: 0,
            due: vec![0.0; trace.scene.shards],
            keys_per_shard: trace.scene.keys_per_shard,
            findings,
        })
    }

    /// Works until told to stop: always in the shard where it is most behind.
    fn work(mut self, trace: &Trace, begin: Instant) -> Findings {
        // A session reports to PostgreSQL's statistics once a second: not all in the same moment.
        sleep(Duration::from_millis(
            1_000 * self.number.unsigned_abs() / CLIENTS.unsigned_abs(),
        ));
        self.due = (0..trace.scene.shards)
            .map(|_| -(self.below(40) as f64))
            .collect();
        let mut last = Instant::now();
        while !self.shared.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            self.fall_due(trace, begin, now - last);
            last = now;
            let (shard, due) =
                self.due
                    .iter()
                    .copied()
                    .enumerate()
                    .fold(
                        (0, f64::MIN),
                        |most, next| {
                            if next.1 > most.1 { next } else { most }
                        },
                    );
            if due < 0.0 {
                sleep(Duration::from_millis(2));
            } else if let Err(error) = self.operate(shard) {
                match error.code() {
                    Some(&SqlState::T_R_SERIALIZATION_FAILURE) if trace.scene.is_on_nodes => {
                        self.findings.refused += 1;
                    }
                    _ => self.findings.errors.push(describe(&error)),
                }
                // A session that cannot even do this will say so at the next operation.
                let _ = self.client.batch_execute("ROLLBACK");
            }
        }
        self.findings
    }

    fn fall_due(&mut self, trace: &Trace, begin: Instant, passed: Duration) {
        let micros = match Instant::now().checked_duration_since(begin) {
            Some(since) => since.as_micros() as i64,
            None => -(begin.saturating_duration_since(Instant::now()).as_micros() as i64),
        };
        for (shard, due) in self.due.iter_mut().enumerate() {
            let rate = trace.rate(micros.div_euclid(HOUR), shard) / CLIENTS as f64;
            *due = (*due + rate * passed.as_secs_f64()).min(rate * MAX_BEHIND);
        }
    }

    /// One transaction. Most read a block of pages; others change one page or two.
    fn operate(&mut self, shard: usize) -> std::result::Result<(), Error> {
        let before = Instant::now();
        let done = match self.below(100) {
            0..72 => self.read(shard),
            72..96 => self.change(shard),
            _ => self.change_two(shard),
        };
        if done.is_ok() {
            self.shared.note(before.elapsed());
        }
        done
    }

    fn read(&mut self, shard: usize) -> std::result::Result<(), Error> {
        let from = self.any_block(shard);
        let rows = self
            .client
            .query(&self.statements.read, &[&from, &(from + BLOCK)])?;
        self.due[shard] -= rows.len().max(1) as f64;
        let found: Vec<(i64, i64, String)> = rows.iter().map(columns).collect();
        let expected: Vec<(i64, i64, String)> = (from..from + BLOCK)
            .filter_map(|key| {
                remembered(&self.findings.memory, key).map(|revision| (key, revision))
            })
            .map(|(key, revision)| (key, revision, pages::body(key, revision)))
            .collect();
        if found != expected {
            let what = format!(
                "keys {from} to {}: {} rows, not the {} expected",
                from + BLOCK - 1,
                found.len(),
                expected.len()
            );
            self.findings.wrong.push(what);
        }
        Ok(())
    }

    fn change(&mut self, shard: usize) -> std::result::Result<(), Error> {
        let key = self.any_block(shard) + self.below(BLOCK);
        let after = self.decide(key);
        let changed = Self::send(
            &mut self.client,
            &self.statements,
            key,
            remembered(&self.findings.memory, key),
            after,
        )?;
        self.settle(shard, key, after, changed);
        Ok(())
    }

    /// Two pages, perhaps in two shards, in one transaction: both or none.
    fn change_two(&mut self, shard: usize) -> std::result::Result<(), Error> {
        let other_shard = self.below(self.due.len() as i64) as usize;
        let one = self.any_block(shard) + self.below(BLOCK);
        let other = self.any_block(other_shard) + self.below(BLOCK);
        if one == other {
            return Ok(());
        }
        let mut done = Vec::new();
        let mut transaction = self.client.transaction()?;
        for (shard, key) in [(shard, one), (other_shard, other)] {
            self.revision += 1;
            let before = remembered(&self.findings.memory, key);
            let after = Some(self.revision);
            let changed = Self::send(&mut transaction, &self.statements, key, before, after)?;
            done.push((shard, key, after, changed));
        }
        transaction.commit()?;
        for (shard, key, after, changed) in done {
            self.settle(shard, key, after, changed);
        }
        Ok(())
    }

    /// What becomes of a page: a new revision, or now and then nothing.
    fn decide(&mut self, key: i64) -> Option<i64> {
        if remembered(&self.findings.memory, key).is_some() && self.below(5) == 0 {
            return None;
        }
        self.revision += 1;
        Some(self.revision)
    }

    fn send(
        client: &mut impl postgres::GenericClient,
        statements: &Statements,
        key: i64,
        before: Option<i64>,
        after: Option<i64>,
    ) -> std::result::Result<u64, Error> {
        match (before, after) {
            (_, None) => client.execute(&statements.delete, &[&key]),
            (None, Some(revision)) => client.execute(
                &statements.insert,
                &[&key, &revision, &pages::body(key, revision)],
            ),
            (Some(_), Some(revision)) => client.execute(
                &statements.update,
                &[&key, &revision, &pages::body(key, revision)],
            ),
        }
    }

    fn settle(&mut self, shard: usize, key: i64, after: Option<i64>, changed: u64) {
        self.due[shard] -= 2.0;
        if changed != 1 {
            self.findings
                .wrong
                .push(format!("a change of key {key} met {changed} rows"));
        }
        self.findings.memory.insert(key, after);
    }

    /// The first key of any block of this client in a shard.
    fn any_block(&mut self, shard: usize) -> i64 {
        let first = shard as i64 * self.keys_per_shard / BLOCK;
        let round = self.below(self.keys_per_shard / BLOCK / CLIENTS);
        (first + round * CLIENTS + self.number) * BLOCK
    }

    /// A number in 0 .. limit. SplitMix64 (Steele, Lea, Flood 2014).
    fn below(&mut self, limit: i64) -> i64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % limit.unsigned_abs()) as i64
    }
}

fn columns(row: &Row) -> (i64, i64, String) {
    (row.get(0), row.get(1), row.get(2))
}

fn describe(error: &Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{}: {}", error.code().code(), error.message()),
        None => error.to_string(),
    }
}
