//! Clients on two colocated tables: orders, and lines that reference them. An order and its lines are written in one
//! transaction; its total is the sum of its lines. Each client remembers its own orders, and none ever sees a line
//! without its order, or a total that is not the sum.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, Config, Error, NoTls, Transaction};

use crate::cluster::Cluster;
use crate::repart::Session;
use crate::wait::{LONG, wait_for, wait_until};
use crate::workload::random::Random;

/// Amounts of the lines of an order, by their number.
type Lines = Vec<i64>;

/// Finds wrong totals and lines without an order, in one snapshot.
pub const AUDIT: &str = "
    SELECT count(*) FROM (SELECT id, total FROM orders) o
      FULL JOIN (SELECT id, sum(amount)::bigint AS total FROM lines GROUP BY id) l USING (id)
     WHERE o.total IS DISTINCT FROM l.total";

/// How many clients there are.
const CLIENTS: i64 = 4;

/// Creates both tables, cut at the bounds, with a foreign key, and manages them as a group. Half of the keys
/// below `keys` have an order with two lines.
pub fn create(session: &mut Session, bounds: &[i64], keys: i64) {
    session.run(
        "CREATE TABLE orders (id bigint PRIMARY KEY, total bigint NOT NULL) PARTITION BY RANGE (id);
         CREATE TABLE lines (id bigint NOT NULL, n int NOT NULL, amount bigint NOT NULL, PRIMARY KEY (id, n))
             PARTITION BY RANGE (id)",
    );
    for table in ["orders", "lines"] {
        let mut from = "MINVALUE".to_owned();
        let ends = bounds.iter().map(i64::to_string);
        for (n, to) in ends.chain(["MAXVALUE".to_owned()]).enumerate() {
            session.run(&format!(
                "CREATE TABLE {table}{} PARTITION OF {table} FOR VALUES FROM ({from}) TO ({to})",
                n + 1
            ));
            from = to;
        }
    }
    session.run(&format!(
        "INSERT INTO orders SELECT id, 3 FROM generate_series(0, {keys} - 1) AS id WHERE id / {CLIENTS} % 2 = 0;
         INSERT INTO lines SELECT id, n, n FROM orders, generate_series(1, 2) AS n;
         ALTER TABLE lines ADD CONSTRAINT of_order FOREIGN KEY (id) REFERENCES orders ON UPDATE CASCADE;
         ANALYZE orders, lines"
    ));
    session.run("SELECT repart_manage('lines')");
    session.run("SELECT repart_manage('orders', colocate_with => 'lines')");
}

/// Whether [`create`] puts an order with this key: half of each client's.
fn is_loaded(key: i64) -> bool {
    key / CLIENTS % 2 == 0
}

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Report {
    /// How many transactions of which kind ended as they should.
    pub done: BTreeMap<&'static str, u64>,
    /// Every error that should not have been, and every answer that was wrong.
    pub wrong: Vec<String>,
    /// How often a connection was lost.
    pub disconnects: u64,
    /// The longest time a transaction took.
    pub longest: Duration,
}

impl Report {
    /// Proves that all was right.
    ///
    /// # Panics
    /// Panics with the first of what was wrong.
    pub fn assert_clean(&self) {
        println!(
            "families: {:?}, {} disconnects, longest transaction {:?}",
            self.done, self.disconnects, self.longest
        );
        let first: Vec<_> = self.wrong.iter().take(10).collect();
        assert!(first.is_empty(), "{} wrong: {first:#?}", self.wrong.len());
        for kind in [
            "place", "remove", "change", "rekey", "orphan", "bereave", "read", "audit",
        ] {
            assert!(
                self.done.contains_key(kind),
                "no {kind} was done: {:?}",
                self.done
            );
        }
    }
}

/// Running clients.
pub struct Families {
    config: Config,
    keys: i64,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<(BTreeMap<i64, Lines>, Report)>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    done: AtomicU64,
}

impl Families {
    /// Starts the clients on tables that are as [`create`] made them. With `crashes`, the server may go away.
    pub fn start(cluster: &Cluster, keys: i64, crashes: bool) -> Self {
        let config = cluster.config("postgres");
        let shared = Arc::new(Shared::default());
        let threads = (0..CLIENTS)
            .map(|number| {
                let one = One {
                    number,
                    keys,
                    crashes,
                    memory: (0..keys)
                        .filter(|key| key % CLIENTS == number && is_loaded(*key))
                        .map(|key| (key, vec![1, 2]))
                        .collect(),
                    random: Random::new(number.unsigned_abs() + 1),
                    report: Report::default(),
                    config: config.clone(),
                    shared: Arc::clone(&shared),
                };
                std::thread::spawn(move || one.work())
            })
            .collect();
        let families = Self {
            config,
            keys,
            shared,
            threads,
        };
        families.proceed(50);
        families
    }

    /// Waits until the clients together have done so much more.
    pub fn proceed(&self, transactions: u64) {
        let goal = self.shared.done.load(Ordering::Relaxed) + transactions;
        wait_until(&format!("{transactions} more transactions"), LONG, || {
            self.shared.done.load(Ordering::Relaxed) >= goal
                || self.threads.iter().any(JoinHandle::is_finished)
        });
    }

    /// Stops the clients, and compares the tables with what they remember.
    pub fn stop(mut self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut report = Report::default();
        let mut remembered = BTreeMap::new();
        for thread in std::mem::take(&mut self.threads) {
            let (memory, one) = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            remembered.extend(memory);
            report.wrong.extend(one.wrong);
            report.disconnects += one.disconnects;
            report.longest = report.longest.max(one.longest);
            for (kind, count) in one.done {
                *report.done.entry(kind).or_default() += count;
            }
        }
        let mut client = self.config.connect(NoTls).unwrap();
        let wrong: i64 = client.query_one(AUDIT, &[]).unwrap().get(0);
        if wrong != 0 {
            report
                .wrong
                .push(format!("in the end {wrong} orders and lines do not match"));
        }
        let mut transaction = client.transaction().unwrap();
        for key in 0..self.keys {
            let found = read(&mut transaction, key).unwrap();
            if found.as_ref() != remembered.get(&key) {
                report.wrong.push(format!(
                    "in the end order {key} is {found:?} and should be {:?}",
                    remembered.get(&key)
                ));
            }
        }
        report
    }
}

impl Drop for Families {
    /// A test that panics must not leave clients at work.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            let _ = thread.join();
        }
    }
}

/// One client.
struct One {
    number: i64,
    keys: i64,
    crashes: bool,
    memory: BTreeMap<i64, Lines>,
    random: Random,
    report: Report,
    config: Config,
    shared: Arc<Shared>,
}

/// A transaction, and what it makes of which orders.
struct Deed {
    kind: &'static str,
    statements: Vec<String>,
    after: Vec<(i64, Option<Lines>)>,
    /// Whether a foreign key must forbid it.
    forbidden: bool,
}

impl One {
    fn work(mut self) -> (BTreeMap<i64, Lines>, Report) {
        let mut client = self.connect();
        while !self.shared.stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let outcome = match self.random.below(100) {
                0..25 => self.look(&mut client),
                25..28 => self.audit(&mut client),
                _ => self.act(&mut client),
            };
            self.report.longest = self.report.longest.max(begun.elapsed());
            if let Err(error) = outcome {
                let message = error
                    .as_db_error()
                    .map_or_else(|| error.to_string(), ToString::to_string);
                self.report.wrong.push(message);
                client = self.connect();
            }
            self.shared.done.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(1));
        }
        (self.memory, self.report)
    }

    fn connect(&self) -> Client {
        wait_for("a client to connect", LONG, || {
            self.config.connect(NoTls).ok()
        })
    }

    fn note(&mut self, kind: &'static str) {
        *self.report.done.entry(kind).or_default() += 1;
    }

    /// Whether the connection was lost to a crash that was expected; then there is a new one.
    fn is_crash(&mut self, client: &mut Client, error: &Error) -> bool {
        let shuts_down = error.code().is_some_and(|code| {
            [
                SqlState::ADMIN_SHUTDOWN,
                SqlState::CRASH_SHUTDOWN,
                SqlState::CANNOT_CONNECT_NOW,
            ]
            .contains(code)
        });
        if !self.crashes || !(error.code().is_none() || shuts_down) {
            return false;
        }
        self.report.disconnects += 1;
        *client = self.connect();
        true
    }

    fn look(&mut self, client: &mut Client) -> Result<(), Error> {
        let key = self.any_key();
        let found = match client.transaction().and_then(|mut t| read(&mut t, key)) {
            Err(error) if self.is_crash(client, &error) => return Ok(()),
            found => found?,
        };
        if found.as_ref() != self.memory.get(&key) {
            self.report.wrong.push(format!(
                "order {key} is {found:?} and should be {:?}",
                self.memory.get(&key)
            ));
        }
        self.note("read");
        Ok(())
    }

    fn audit(&mut self, client: &mut Client) -> Result<(), Error> {
        let wrong: i64 = match client.query_one(AUDIT, &[]) {
            Err(error) if self.is_crash(client, &error) => return Ok(()),
            row => row?.get(0),
        };
        if wrong != 0 {
            self.report
                .wrong
                .push(format!("{wrong} orders and lines do not match"));
        }
        self.note("audit");
        Ok(())
    }

    fn any_key(&mut self) -> i64 {
        self.random.below(self.keys / CLIENTS) * CLIENTS + self.number
    }

    fn key(&mut self, used: bool) -> i64 {
        loop {
            let key = self.any_key();
            if self.memory.contains_key(&key) == used {
                return key;
            }
        }
    }

    fn deed(&mut self) -> Deed {
        let used = self.key(true);
        let free = self.key(false);
        let lines = self.memory[&used].clone();
        let deed = |kind, statements, after| Deed {
            kind,
            statements,
            after,
            forbidden: false,
        };
        match self.random.below(8) {
            0 | 1 => {
                let lines: Lines = (0..=self.random.below(3)).map(|n| n * 7 + 1).collect();
                let total: i64 = lines.iter().sum();
                let rows: Vec<String> = lines
                    .iter()
                    .enumerate()
                    .map(|(n, amount)| format!("({free}, {}, {amount})", n + 1))
                    .collect();
                let statements = vec![
                    format!("INSERT INTO orders VALUES ({free}, {total})"),
                    format!("INSERT INTO lines VALUES {}", rows.join(", ")),
                ];
                deed("place", statements, vec![(free, Some(lines))])
            }
            2 => {
                let statements = vec![
                    format!("DELETE FROM lines WHERE id = {used}"),
                    format!("DELETE FROM orders WHERE id = {used}"),
                ];
                deed("remove", statements, vec![(used, None)])
            }
            3 | 4 => {
                // The lines first: others take the tables in the other order.
                let mut after = lines;
                after[0] += 5;
                let statements = vec![
                    format!("UPDATE lines SET amount = amount + 5 WHERE id = {used} AND n = 1"),
                    format!("UPDATE orders SET total = total + 5 WHERE id = {used}"),
                ];
                deed("change", statements, vec![(used, Some(after))])
            }
            5 => {
                let statements = vec![format!("UPDATE orders SET id = {free} WHERE id = {used}")];
                deed("rekey", statements, vec![(used, None), (free, Some(lines))])
            }
            6 => Deed {
                forbidden: true,
                ..deed(
                    "orphan",
                    vec![format!("INSERT INTO lines VALUES ({free}, 1, 1)")],
                    Vec::new(),
                )
            },
            _ => Deed {
                forbidden: true,
                ..deed(
                    "bereave",
                    vec![format!("DELETE FROM orders WHERE id = {used}")],
                    Vec::new(),
                )
            },
        }
    }

    fn act(&mut self, client: &mut Client) -> Result<(), Error> {
        let deed = self.deed();
        match carry_out(client, &deed.statements) {
            Err(error) if self.is_crash(client, &error) => self.resolve(client, deed),
            Err(error)
                if deed.forbidden && error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) =>
            {
                self.note(deed.kind);
                Ok(())
            }
            Ok(()) if deed.forbidden => {
                self.report
                    .wrong
                    .push(format!("{:?} was not forbidden", deed.statements));
                Ok(())
            }
            outcome => {
                outcome?;
                self.remember(deed);
                Ok(())
            }
        }
    }

    fn remember(&mut self, deed: Deed) {
        for (key, lines) in deed.after {
            match lines {
                Some(lines) => self.memory.insert(key, lines),
                None => self.memory.remove(&key),
            };
        }
        self.note(deed.kind);
    }

    /// Finds out whether what a crash cut off was committed: all of it or nothing.
    fn resolve(&mut self, client: &mut Client, deed: Deed) -> Result<(), Error> {
        let mut found = Vec::new();
        for (key, _) in &deed.after {
            let lines = loop {
                match client.transaction().and_then(|mut t| read(&mut t, *key)) {
                    Err(error) if self.is_crash(client, &error) => {}
                    lines => break lines?,
                }
            };
            found.push((*key, lines));
        }
        let before: Vec<_> = deed
            .after
            .iter()
            .map(|(key, _)| (*key, self.memory.get(key).cloned()))
            .collect();
        if found == deed.after {
            self.remember(deed);
        } else if found != before {
            self.report.wrong.push(format!(
                "after a crash in {:?} there is {found:?}",
                deed.statements
            ));
        }
        Ok(())
    }
}

fn carry_out(client: &mut Client, statements: &[String]) -> Result<(), Error> {
    let mut transaction = client.transaction()?;
    for statement in statements {
        transaction.execute(statement.as_str(), &[])?;
    }
    transaction.commit()
}

/// The lines of an order, with the order's total checked; `None` if there is no such order.
fn read(transaction: &mut Transaction, key: i64) -> Result<Option<Lines>, Error> {
    let rows = transaction.query(
        "SELECT o.total, l.n, l.amount FROM orders o FULL JOIN lines l USING (id) WHERE id = $1 ORDER BY l.n",
        &[&key],
    )?;
    let lines: Lines = rows
        .iter()
        .filter_map(|row| row.get::<_, Option<i64>>(2))
        .collect();
    let total: i64 = lines.iter().sum();
    let matches = rows
        .iter()
        .all(|row| row.get::<_, Option<i64>>(0) == Some(total));
    // A family that does not match is none that anybody remembers.
    Ok(match (rows.is_empty(), matches) {
        (true, _) => None,
        (false, true) => Some(lines),
        (false, false) => Some(vec![i64::MIN]),
    })
}
