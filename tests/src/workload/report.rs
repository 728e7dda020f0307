//! What the clients saw.

use std::collections::BTreeMap;
use std::time::Duration;

/// The sum over all clients.
#[derive(Debug, Default)]
pub struct Report {
    /// How many operations of which kind were committed, or rolled back on purpose.
    pub operations: BTreeMap<&'static str, u64>,
    /// SQLSTATE, operation and message of every error. A lost connection is none where crashes are expected.
    pub errors: Vec<String>,
    /// Every answer that was not what the client had committed.
    pub wrong: Vec<String>,
    /// How often a connection was lost to a crash.
    pub disconnects: u64,
    /// Operations whose commit was in doubt after that, and which turned out to be committed.
    pub committed_in_doubt: u64,
    /// The longest time a statement took, in operations that ended well.
    pub longest: Duration,
    /// Of which operation that was.
    pub longest_in: &'static str,
}

impl Report {
    /// Adds another client's report.
    pub fn add(&mut self, other: Self) {
        for (name, count) in other.operations {
            *self.operations.entry(name).or_default() += count;
        }
        self.errors.extend(other.errors);
        self.wrong.extend(other.wrong);
        self.disconnects += other.disconnects;
        self.committed_in_doubt += other.committed_in_doubt;
        self.time(other.longest, other.longest_in);
    }

    /// Notes how long a statement took.
    pub fn time(&mut self, took: Duration, operation: &'static str) {
        if took > self.longest {
            (self.longest, self.longest_in) = (took, operation);
        }
    }

    /// Proves that every answer was right and none was an error, and prints a line about it.
    ///
    /// # Panics
    /// Panics with the first of the errors and wrong answers otherwise.
    pub fn assert_clean(&self) {
        println!("{self}");
        assert!(
            self.errors.is_empty() && self.wrong.is_empty(),
            "{} errors, {} wrong answers: {:#?}",
            self.errors.len(),
            self.wrong.len(),
            self.wrong
                .iter()
                .chain(&self.errors)
                .take(10)
                .collect::<Vec<_>>()
        );
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "workload: {} operations {:?}, {} errors, {} wrong answers, longest statement {:?} ({})",
            self.operations.values().sum::<u64>(),
            self.operations,
            self.errors.len(),
            self.wrong.len(),
            self.longest,
            self.longest_in
        )?;
        if self.disconnects > 0 {
            write!(
                formatter,
                ", {} disconnects, {} commits in doubt",
                self.disconnects, self.committed_in_doubt
            )?;
        }
        Ok(())
    }
}
