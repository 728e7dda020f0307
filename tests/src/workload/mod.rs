//! Clients that remember what they committed. Each owns the keys of its own remainder, so that it alone knows
//! what every one of them must look like, compares every single read with that, and at the end the whole
//! table is compared with what all of them remember: no row lost, doubled or wrong.

mod client;
mod memory;
mod operation;
pub mod random;
mod report;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use postgres::Config;

use crate::cluster::Cluster;
use crate::wait::{LONG, wait_until};
use client::Worker;
use memory::{Memory, Value};
pub use report::Report;

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The table, made by [`crate::repart::Session::create_sharded_table`].
    pub table: String,
    /// The keys they use are 0 .. keys.
    pub keys: i64,
    /// How many clients.
    pub clients: i64,
    /// Whether the server may go away under them: they then connect again and find out what was committed.
    pub crashes: bool,
    /// Whether shards may be on nodes, where a table has no key of its own for upserts, and rows do not leave their
    /// shard: keys are not changed then.
    pub nodes: bool,
    /// Time that a client thinks between two operations.
    pub pause: Duration,
}

impl Options {
    /// Four clients on a table with keys below `keys`, on a server that stays.
    #[must_use]
    pub fn new(table: &str, keys: i64) -> Self {
        Self {
            table: table.to_owned(),
            keys,
            clients: 4,
            crashes: false,
            nodes: false,
            pause: Duration::from_millis(1),
        }
    }

    /// The same, on a table with shards on nodes.
    #[must_use]
    pub fn with_nodes(self) -> Self {
        Self {
            nodes: true,
            ..self
        }
    }

    /// The same, on a server that may crash.
    #[must_use]
    pub fn with_crashes(self) -> Self {
        Self {
            crashes: true,
            ..self
        }
    }
}

/// Running clients.
pub struct Workload {
    options: Options,
    configs: Vec<Config>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<(Memory, Report)>>,
}

/// What the clients and the test tell each other.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    operations: AtomicU64,
    /// What was wrong so far.
    trouble: Mutex<Vec<String>>,
}

impl Shared {
    fn note(&self, trouble: &str) {
        let mut all = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(trouble.to_owned());
    }
}

impl Workload {
    /// Starts the clients, on a table that is as it was created, and waits until they are at work.
    pub fn start(cluster: &Cluster, database: &str, options: Options) -> Self {
        let workload = Self::spawn(cluster, database, options);
        workload.proceed(50);
        workload
    }

    /// As [`Workload::start`], without waiting.
    pub fn spawn(cluster: &Cluster, database: &str, options: Options) -> Self {
        Self::spread(&[cluster], database, options)
    }

    /// As [`Workload::spawn`], with clients that connect to these servers in turn; all of them have the table.
    pub fn spread(clusters: &[&Cluster], database: &str, options: Options) -> Self {
        let configs: Vec<Config> = clusters.iter().map(|one| one.config(database)).collect();
        let shared = Arc::new(Shared::default());
        let threads = (0..options.clients)
            .map(|client| {
                let memory = Memory::of_loaded(client, options.clients, options.keys);
                let config = configs[client as usize % configs.len()].clone();
                let worker = Worker::new(config, options.clone(), memory, Arc::clone(&shared));
                std::thread::spawn(move || worker.work())
            })
            .collect();
        Self {
            options,
            configs,
            shared,
            threads,
        }
    }

    /// Waits until the clients together have done so many more operations.
    pub fn proceed(&self, operations: u64) {
        self.reach(self.operations() + operations);
    }

    /// How many operations they have done.
    pub fn operations(&self) -> u64 {
        self.shared.operations.load(Ordering::Relaxed)
    }

    /// Waits until they have done so many since they began.
    pub fn reach(&self, operations: u64) {
        let what = format!("the clients to do {operations} operations");
        wait_until(&what, LONG, || {
            self.operations() >= operations || self.threads.iter().any(JoinHandle::is_finished)
        });
    }

    /// What was wrong so far: answers, and errors that no client may get.
    pub fn trouble(&self) -> Vec<String> {
        let all = self.shared.trouble.lock();
        all.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops the clients, compares the table with what they remember, and reports.
    pub fn stop(mut self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut report = Report::default();
        let mut remembered = BTreeMap::new();
        for thread in std::mem::take(&mut self.threads) {
            let (memory, one) = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            remembered.extend(memory.into_rows());
            report.add(one);
        }
        for config in &self.configs {
            self.compare(config, &remembered, &mut report);
        }
        report
    }

    fn compare(&self, config: &Config, remembered: &BTreeMap<i64, Value>, report: &mut Report) {
        let mut client = config.connect(postgres::NoTls).unwrap();
        let sql = format!(
            "SELECT id, payload, counter FROM {} ORDER BY id",
            self.options.table
        );
        let mut found: BTreeMap<i64, Value> = BTreeMap::new();
        for row in client.query(&sql, &[]).unwrap() {
            let key = row.get(0);
            if found
                .insert(
                    key,
                    Value {
                        payload: row.get(1),
                        counter: row.get(2),
                    },
                )
                .is_some()
            {
                report
                    .wrong
                    .push(format!("in the end key {key} is there twice"));
            }
        }
        for key in 0..self.options.keys {
            let (is, should) = (found.remove(&key), remembered.get(&key));
            if is.as_ref() != should {
                report.wrong.push(format!(
                    "in the end key {key} is {is:?} and should be {should:?}"
                ));
            }
        }
        report.wrong.extend(
            found
                .keys()
                .map(|key| format!("in the end there is key {key}, which nobody inserted")),
        );
    }
}

impl Drop for Workload {
    /// A test that panics must not leave clients at work.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            let _ = thread.join();
        }
    }
}
