//! What a client knows about its keys.

use std::collections::BTreeMap;

use super::random::Random;
use crate::repart::is_loaded;

/// A row but for its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Anything.
    pub payload: String,
    /// A number to count with.
    pub counter: i64,
}

/// What an operation does to one key.
#[derive(Clone, Debug)]
pub struct Change {
    /// The key.
    pub key: i64,
    /// Its row before, if there was one.
    pub before: Option<Value>,
    /// Its row after, if there is one.
    pub after: Option<Value>,
}

/// The rows of the keys that a client owns, as it committed them.
pub struct Memory {
    client: i64,
    clients: i64,
    keys: i64,
    rows: BTreeMap<i64, Value>,
}

impl Memory {
    /// The rows as the table was loaded.
    pub fn of_loaded(client: i64, clients: i64, keys: i64) -> Self {
        let rows = (client..keys)
            .step_by(clients as usize)
            .filter(|&key| is_loaded(key))
            .map(|key| {
                (
                    key,
                    Value {
                        payload: format!("loaded {key}"),
                        counter: 0,
                    },
                )
            })
            .collect();
        Self {
            client,
            clients,
            keys,
            rows,
        }
    }

    /// The number of the client.
    pub fn client(&self) -> i64 {
        self.client
    }

    /// How many clients share the table.
    pub fn clients(&self) -> i64 {
        self.clients
    }

    /// The row of a key.
    pub fn get(&self, key: i64) -> Option<&Value> {
        self.rows.get(&key)
    }

    /// All rows in `from .. to`, in key order.
    pub fn range(&self, from: i64, to: i64) -> Vec<(i64, Value)> {
        self.rows
            .range(from..to)
            .map(|(&key, value)| (key, value.clone()))
            .collect()
    }

    /// Any key of this client, with or without a row.
    pub fn any_key(&self, random: &mut Random) -> i64 {
        random.below(self.keys / self.clients) * self.clients + self.client
    }

    /// A key that has a row.
    pub fn used_key(&self, random: &mut Random) -> Option<i64> {
        let start = self.any_key(random);
        self.rows
            .range(start..)
            .next()
            .or_else(|| self.rows.iter().next())
            .map(|(&key, _)| key)
    }

    /// A key that has none, if one is found soon.
    pub fn free_key(&self, random: &mut Random) -> Option<i64> {
        (0..100)
            .map(|_| self.any_key(random))
            .find(|key| !self.rows.contains_key(key))
    }

    /// Remembers what was committed.
    pub fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change.after {
                Some(value) => self.rows.insert(change.key, value),
                None => self.rows.remove(&change.key),
            };
        }
    }

    /// All rows.
    pub fn into_rows(self) -> BTreeMap<i64, Value> {
        self.rows
    }
}
