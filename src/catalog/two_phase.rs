//! Decisions on transactions that were prepared on nodes: `repart.two_phase`, and the names of these transactions.

use crate::error::{Error, Result};
use crate::pg::spi;

/// What is to become of a prepared transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is committed.
    Commit,
    /// It is rolled back.
    Rollback,
}

impl Decision {
    fn as_str(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Rollback => "rollback",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        [Self::Commit, Self::Rollback]
            .into_iter()
            .find(|decision| decision.as_str() == text)
            .ok_or_else(|| Error::Internal(format!("unknown decision \"{text}\"")))
    }

    /// The command by which a node carries it out.
    pub fn command(self, gid: &str) -> String {
        let verb = match self {
            Self::Commit => "COMMIT",
            Self::Rollback => "ROLLBACK",
        };
        format!("{verb} PREPARED {}", spi::quote_literal(gid))
    }
}

/// One transaction on several nodes: what its names have in common.
pub struct Number {
    prefix: String,
    /// As 16 hexadecimal digits it follows the prefix; the key of the lock that says that somebody is at work on it.
    key: i64,
}

impl Number {
    /// A number that nobody had before. It is random, and no sequence: one that a crash takes back a little would name
    /// two transactions alike.
    pub fn new() -> Result<Self> {
        let digits: Option<String> = spi::query_value(
            "SELECT pg_catalog.left(pg_catalog.replace(pg_catalog.gen_random_uuid()::text, '-', ''), 16)",
            &[],
        )?;
        let digits = digits.unwrap_or_default();
        Ok(Self {
            prefix: prefix()?,
            key: key(&digits)?,
        })
    }

    /// The name of its part on the so-many-th node.
    pub fn gid(&self, node: usize) -> String {
        format!("{}{:016x}_{node}", self.prefix, self.key as u64)
    }

    /// Says until the end of the local transaction, whatever ends it, that somebody is at work on it.
    pub fn hold(&self) -> Result<()> {
        spi::run(
            "SELECT pg_catalog.pg_advisory_xact_lock($1)",
            &[self.key.into()],
        )?;
        Ok(())
    }
}

fn key(digits: &str) -> Result<i64> {
    u64::from_str_radix(digits, 16)
        .map(|number| number as i64)
        .map_err(|_| Error::Internal(format!("unexpected name of a transaction: {digits}")))
}

/// With what the names of all transactions of this coordinator begin.
pub fn prefix() -> Result<String> {
    let id = spi::query_value::<String>(
        "SELECT pg_catalog.replace(id::text, '-', '') FROM repart.coordinator",
        &[],
    )?;
    let id = id.ok_or_else(|| Error::Internal("repart.coordinator is empty".to_owned()))?;
    Ok(format!("repart_{id}_"))
}

/// Notes in the local transaction that a prepared one is to be committed: the commit of this is the decision.
pub fn decide_commit(gid: &str, node: &str, purpose: &str) -> Result<()> {
    insert(gid, node, Decision::Commit, purpose)
}

fn insert(gid: &str, node: &str, decision: Decision, purpose: &str) -> Result<()> {
    spi::run(
        "INSERT INTO repart.two_phase (gid, node, decision, purpose) VALUES ($1, $2::name, $3, $4)",
        &[
            gid.into(),
            node.into(),
            decision.as_str().into(),
            purpose.into(),
        ],
    )?;
    Ok(())
}

/// What is to become of a transaction that was found prepared on a node: what was decided, or else to be rolled back,
/// which is noted. `None` while whoever prepared it is at work. Inside a transaction at READ COMMITTED.
pub fn decision(gid: &str, node: &str) -> Result<Option<Decision>> {
    let digits = gid
        .strip_prefix(&prefix()?)
        .and_then(|rest| rest.split_once('_'))
        .map(|(digits, _)| digits)
        .ok_or_else(|| Error::Internal(format!("unexpected name of a transaction: {gid}")))?;
    let is_idle = spi::query_value::<bool>(
        "SELECT pg_catalog.pg_try_advisory_xact_lock($1)",
        &[key(digits)?.into()],
    )?;
    if is_idle != Some(true) {
        return Ok(None);
    }
    // A statement of its own: its snapshot sees what was committed before the lock was released.
    let decided = spi::query(
        "SELECT decision FROM repart.two_phase WHERE gid = $1",
        &[gid.into()],
        |row| Decision::parse(&row.get::<String>(1)?),
    )?;
    if let Some(decision) = decided.first() {
        return Ok(Some(*decision));
    }
    insert(gid, node, Decision::Rollback, "whoever prepared it is gone")?;
    Ok(Some(Decision::Rollback))
}

/// The decisions that nodes have still to carry out: names of nodes and transactions.
pub fn open() -> Result<Vec<(String, String)>> {
    spi::query(
        "SELECT node::text, gid FROM repart.two_phase ORDER BY decided_at, gid",
        &[],
        |row| Ok((row.get(1)?, row.get(2)?)),
    )
}

/// Those of one node.
pub fn open_on(node: &str) -> Result<Vec<String>> {
    let open = open()?.into_iter();
    Ok(open
        .filter(|(other, _)| other == node)
        .map(|(_, gid)| gid)
        .collect())
}

/// Those of one node that were made before the running transaction began.
pub fn open_before_on(node: &str) -> Result<Vec<String>> {
    spi::query(
        "SELECT gid FROM repart.two_phase WHERE node = $1::name AND decided_at < pg_catalog.now() ORDER BY gid",
        &[node.into()],
        |row| row.get(1),
    )
}

/// Those that were made for a purpose: names of nodes and transactions.
pub fn of_purpose(purpose: &str) -> Result<Vec<(String, String)>> {
    spi::query(
        "SELECT node::text, gid FROM repart.two_phase WHERE purpose = $1 AND decision = 'commit' ORDER BY gid",
        &[purpose.into()],
        |row| Ok((row.get(1)?, row.get(2)?)),
    )
}

/// Forgets a decision that was carried out.
pub fn forget(gid: &str) -> Result<()> {
    spi::run("DELETE FROM repart.two_phase WHERE gid = $1", &[gid.into()])?;
    Ok(())
}

/// Notes why a decision could not be carried out.
pub fn set_error(gid: &str, error: &str) -> Result<()> {
    spi::run(
        "UPDATE repart.two_phase SET error = $2 WHERE gid = $1 AND error IS DISTINCT FROM $2",
        &[gid.into(), error.into()],
    )?;
    Ok(())
}
