//! Clients that lock shards and rows in any order, while shards move again and again: none of them is ever
//! chosen as the victim of a deadlock, or gets any other error.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, spawn};

use postgres::Client;
use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;

const KEYS: i64 = 3_000;
const CLIENTS: u64 = 4;
const SHARDS: u64 = 4;

/// Modes in which clients are not in each other's way.
const MODES: [&str; 3] = ["ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE"];

/// A client that works until told to stop, and returns its errors.
struct Locker {
    client: Client,
    number: u64,
    seed: u64,
}

impl Locker {
    fn below(&mut self, limit: u64) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % limit
    }

    /// One of this client's own keys: with others' keys, clients could deadlock without repart.
    fn key(&mut self) -> u64 {
        self.below(KEYS as u64 / CLIENTS) * CLIENTS + self.number
    }

    fn table(&mut self) -> String {
        match self.below(SHARDS + 1) {
            0 => "orders".to_owned(),
            shard => format!("orders{shard}"),
        }
    }

    fn statement(&mut self) -> String {
        match self.below(4) {
            0 => {
                let mode = MODES[self.below(MODES.len() as u64) as usize];
                let only = if self.below(2) == 0 { "ONLY " } else { "" };
                format!("LOCK TABLE {only}{} IN {mode} MODE", self.table())
            }
            1 => format!(
                "SELECT FROM {} WHERE id = {} FOR UPDATE",
                self.table(),
                self.key()
            ),
            2 => format!(
                "UPDATE orders SET counter = counter + 1 WHERE id = {}",
                self.key()
            ),
            _ => format!("SELECT count(*) FROM {} WHERE id < 100", self.table()),
        }
    }

    fn transaction(&mut self) -> Result<(), String> {
        let mut statements = vec!["BEGIN".to_owned()];
        for _ in 0..=self.below(5) {
            statements.push(self.statement());
        }
        statements.push("COMMIT".to_owned());
        for statement in &statements {
            if let Err(error) = self.client.batch_execute(statement) {
                let _ = self.client.batch_execute("ROLLBACK");
                return Err(format!("{statement}: {error:?} in {statements:?}"));
            }
        }
        Ok(())
    }
}

fn start(
    cluster: &Cluster,
    stop: &Arc<AtomicBool>,
    done: &Arc<AtomicU64>,
) -> Vec<JoinHandle<Vec<String>>> {
    (0..CLIENTS)
        .map(|number| {
            let mut locker = Locker {
                client: cluster.connect("postgres"),
                number,
                seed: number,
            };
            let (stop, done) = (Arc::clone(stop), Arc::clone(done));
            spawn(move || {
                let mut errors = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    errors.extend(locker.transaction().err());
                    done.fetch_add(1, Ordering::Relaxed);
                }
                errors
            })
        })
        .collect()
}

/// Moves each shard there and back, and now and then all of them at the same time.
fn move_shards(session: &mut Session) {
    for tablespace in ["elsewhere", "pg_default"] {
        let all: Vec<i64> = (1..=SHARDS)
            .map(|shard| {
                let id = session.queue(&format!(
                    "repart_move('orders{shard}', tablespace => '{tablespace}')"
                ));
                if shard % 2 == 0 {
                    session.wait_done(id);
                }
                id
            })
            .collect();
        for id in all {
            session.wait_done(id);
        }
    }
}

fn nobody_gets_an_error(settings: &[&str]) {
    let cluster = Cluster::with_repart(settings);
    cluster.create_tablespace("elsewhere");
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[750, 1_500, 2_250], KEYS);
    let (stop, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let clients = start(&cluster, &stop, &done);
    move_shards(&mut session);
    stop.store(true, Ordering::Relaxed);
    let errors: Vec<String> = clients
        .into_iter()
        .flat_map(|client| client.join().unwrap())
        .collect();
    let transactions = done.load(Ordering::Relaxed);
    println!("{transactions} transactions, {} errors", errors.len());
    assert!(errors.is_empty(), "{errors:#?}");
    assert!(
        transactions > 100,
        "{transactions} transactions prove nothing"
    );
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

#[test]
fn clients_that_lock_in_any_order_get_no_error() {
    nobody_gets_an_error(&["repart.max_movers = 2"]);
}

/// However long repart may wait, it gives way before PostgreSQL looks for a victim.
#[test]
fn clients_that_lock_in_any_order_get_no_error_where_deadlocks_are_found_soon() {
    nobody_gets_an_error(&[
        "repart.max_movers = 2",
        "deadlock_timeout = '20ms'",
        "repart.lock_timeout = '1s'",
    ]);
}
