//! What a client can do: statements to send, and what they must do to its keys.

use super::Options;
use super::memory::{Change, Memory, Value};
use super::random::Random;

/// One statement.
#[derive(Clone, Debug)]
pub enum Statement {
    /// Reads one key.
    Read(i64),
    /// Reads the client's keys in a range, ends included.
    Range(i64, i64),
    /// Inserts a row.
    Insert(i64, Value),
    /// Inserts a row, or replaces the one that has the key.
    Upsert(i64, Value),
    /// Replaces the row of a key.
    Update(i64, Value),
    /// Deletes the row of a key.
    Delete(i64),
    /// Changes a key, perhaps into another shard.
    Rekey(i64, i64),
}

/// A transaction.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What it is called in the report.
    pub name: &'static str,
    /// Its statements, in order; more than one make a transaction block.
    pub statements: Vec<Statement>,
    /// What it does to which keys, when it commits.
    pub changes: Vec<Change>,
    /// Whether it commits, or rolls back on purpose.
    pub commits: bool,
}

/// How many neighbouring keys a range read spans.
const RANGE: i64 = 200;

/// Any operation that the state of memory allows.
pub fn any(memory: &Memory, random: &mut Random, number: u64, options: &Options) -> Operation {
    let chance = match random.below(100) {
        // What a foreign shard does not have.
        69..72 | 80..88 | 94.. if options.nodes => 40,
        // PostgreSQL does not commit on two servers at once.
        88..94 if options.nodes && options.crashes => 40,
        chance => chance,
    };
    let operation = match chance {
        0..30 => None,
        30..40 => Some(range(memory, random)),
        40..62 => update(memory, random, number),
        62..69 => insert(memory, random, number),
        69..72 => Some(upsert(memory, random, number)),
        72..80 => delete(memory, random),
        80..88 => rekey(memory, random),
        88..94 => transfer(memory, random, number),
        _ => swap(memory, random),
    };
    operation.unwrap_or_else(|| read(memory, random))
}

fn single(name: &'static str, statement: Statement, changes: Vec<Change>) -> Operation {
    Operation {
        name,
        statements: vec![statement],
        changes,
        commits: true,
    }
}

fn read(memory: &Memory, random: &mut Random) -> Operation {
    single("read", Statement::Read(memory.any_key(random)), Vec::new())
}

fn range(memory: &Memory, random: &mut Random) -> Operation {
    let from = memory.any_key(random);
    single("range", Statement::Range(from, from + RANGE), Vec::new())
}

/// Texts of different lengths, so that some updates fit into their page and others do not.
fn value(memory: &Memory, random: &mut Random, number: u64, counter: i64) -> Value {
    let padding = "x".repeat(random.below(200) as usize);
    Value {
        payload: format!("client {} operation {number} {padding}", memory.client()),
        counter,
    }
}

fn change(memory: &Memory, key: i64, after: Option<Value>) -> Change {
    Change {
        key,
        before: memory.get(key).cloned(),
        after,
    }
}

fn update(memory: &Memory, random: &mut Random, number: u64) -> Option<Operation> {
    let key = memory.used_key(random)?;
    let after = value(memory, random, number, memory.get(key)?.counter + 1);
    let changes = vec![change(memory, key, Some(after.clone()))];
    Some(single("update", Statement::Update(key, after), changes))
}

fn insert(memory: &Memory, random: &mut Random, number: u64) -> Option<Operation> {
    let key = memory.free_key(random)?;
    let after = value(memory, random, number, 0);
    let changes = vec![change(memory, key, Some(after.clone()))];
    Some(single("insert", Statement::Insert(key, after), changes))
}

fn upsert(memory: &Memory, random: &mut Random, number: u64) -> Operation {
    let key = memory.any_key(random);
    let after = value(memory, random, number, 0);
    let changes = vec![change(memory, key, Some(after.clone()))];
    single("upsert", Statement::Upsert(key, after), changes)
}

fn delete(memory: &Memory, random: &mut Random) -> Option<Operation> {
    let key = memory.used_key(random)?;
    Some(single(
        "delete",
        Statement::Delete(key),
        vec![change(memory, key, None)],
    ))
}

fn rekey(memory: &Memory, random: &mut Random) -> Option<Operation> {
    let (from, to) = (memory.used_key(random)?, memory.free_key(random)?);
    let moved = memory.get(from).cloned();
    let changes = vec![change(memory, from, None), change(memory, to, moved)];
    Some(single("key change", Statement::Rekey(from, to), changes))
}

/// One counter down, another up: both or, now and then on purpose, neither.
fn transfer(memory: &Memory, random: &mut Random, number: u64) -> Option<Operation> {
    let (payer, payee) = (memory.used_key(random)?, memory.used_key(random)?);
    if payer == payee {
        return None;
    }
    let paid = value(memory, random, number, memory.get(payer)?.counter - 1);
    let got = value(memory, random, number, memory.get(payee)?.counter + 1);
    let statements = vec![
        Statement::Read(payee),
        Statement::Update(payer, paid.clone()),
        Statement::Update(payee, got.clone()),
    ];
    let commits = !random.once_in(5);
    let changes = vec![
        change(memory, payer, Some(paid)),
        change(memory, payee, Some(got)),
    ];
    Some(Operation {
        name: if commits { "transfer" } else { "rollback" },
        statements,
        changes,
        commits,
    })
}

/// Two rows exchange their keys by way of a free one: for a moment a unique key is used anew.
fn swap(memory: &Memory, random: &mut Random) -> Option<Operation> {
    let (one, other, free) = (
        memory.used_key(random)?,
        memory.used_key(random)?,
        memory.free_key(random)?,
    );
    if one == other {
        return None;
    }
    let statements = vec![
        Statement::Rekey(one, free),
        Statement::Rekey(other, one),
        Statement::Rekey(free, other),
    ];
    let changes = vec![
        change(memory, one, memory.get(other).cloned()),
        change(memory, other, memory.get(one).cloned()),
    ];
    Some(Operation {
        name: "swap",
        statements,
        changes,
        commits: true,
    })
}
