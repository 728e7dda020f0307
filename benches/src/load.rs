//! Clients in a closed loop, one statement per transaction, each statement timed as its client saw it: what
//! `pgbench` does with two one-line scripts, half reads and half updates over all keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postgres::{Client, Config, NoTls};
use repart_tests::cluster::Cluster;

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// How many there are.
    pub clients: u64,
    /// They use the keys 0 .. keys.
    pub keys: i64,
    /// How many of a hundred statements are updates.
    pub updates: u64,
}

impl Mix {
    /// Four clients, half reads and half updates.
    pub fn half_and_half(keys: i64) -> Self {
        Self {
            clients: 4,
            keys,
            updates: 50,
        }
    }

    /// Four clients that only update.
    pub fn updates(keys: i64) -> Self {
        Self {
            updates: 100,
            ..Self::half_and_half(keys)
        }
    }
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Recorded>>,
}

struct Statement {
    ended: Instant,
    took: Duration,
}

/// What the clients saw.
#[derive(Default)]
pub struct Recorded {
    statements: Vec<Statement>,
    /// What the server refused.
    pub errors: Vec<String>,
}

impl Load {
    /// Starts them.
    pub fn start(cluster: &Cluster, mix: Mix) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |number| {
            let (config, stop) = (cluster.config("postgres"), Arc::clone(&stop));
            std::thread::spawn(move || work(&config, mix, number, &stop))
        };
        let threads = (0..mix.clients).map(client).collect();
        Self { stop, threads }
    }

    /// Stops them; what each statement took.
    ///
    /// # Panics
    /// Panics when a client did.
    pub fn stop(self) -> Recorded {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Recorded::default();
        for thread in self.threads {
            let one = thread.join().expect("a client panicked");
            all.statements.extend(one.statements);
            all.errors.extend(one.errors);
        }
        all
    }
}

fn work(config: &Config, mix: Mix, number: u64, stop: &AtomicBool) -> Recorded {
    let mut client = config.connect(NoTls).unwrap();
    let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ (number + 1));
    let mut recorded = Recorded::default();
    while !stop.load(Ordering::Relaxed) {
        let key = random.next() % mix.keys.unsigned_abs();
        let sql = if random.next() % 100 < mix.updates {
            format!("UPDATE accounts SET abalance = abalance + 1 WHERE aid = {key}")
        } else {
            format!("SELECT abalance FROM accounts WHERE aid = {key}")
        };
        let begun = Instant::now();
        let outcome = run(&mut client, &sql);
        let ended = Instant::now();
        match outcome {
            Ok(1) => recorded.statements.push(Statement {
                ended,
                took: ended - begun,
            }),
            Ok(rows) => recorded.errors.push(format!("{sql}: {rows} rows")),
            Err(error) => recorded.errors.push(
                error
                    .as_db_error()
                    .map_or(format!("{sql}: {error:?}"), |error| {
                        format!("{sql}: {} {}", error.code().code(), error.message())
                    }),
            ),
        }
        assert!(!client.is_closed(), "{:?}", recorded.errors.last());
    }
    recorded
}

/// Without a prepared statement: with them, the time of planning a partitioned table would not be seen.
fn run(client: &mut Client, sql: &str) -> Result<u64, postgres::Error> {
    use postgres::SimpleQueryMessage::CommandComplete;
    let messages = client.simple_query(sql)?;
    let rows = messages.iter().map(|message| match message {
        CommandComplete(rows) => *rows,
        _ => 0,
    });
    Ok(rows.sum())
}

impl Recorded {
    /// Statements per second that ended between two moments.
    pub fn rate(&self, from: Instant, to: Instant) -> f64 {
        let ended = self
            .statements
            .iter()
            .filter(|statement| statement.ended >= from && statement.ended < to);
        ended.count() as f64 / (to - from).as_secs_f64()
    }

    /// The longest that a statement took of which a part fell between two moments, ms.
    pub fn longest(&self, from: Instant, to: Instant) -> f64 {
        self.longest_of(from, to)
            .map_or(f64::NAN, |statement| statement.took.as_secs_f64() * 1000.0)
    }

    /// When that one ended.
    pub fn end_of_longest(&self, from: Instant, to: Instant) -> Option<Instant> {
        self.longest_of(from, to).map(|statement| statement.ended)
    }

    fn longest_of(&self, from: Instant, to: Instant) -> Option<&Statement> {
        self.statements
            .iter()
            .filter(|statement| statement.ended >= from && statement.ended - statement.took <= to)
            .max_by_key(|statement| statement.took)
    }
}

/// xorshift64 (Marsaglia 2003): the same keys in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
