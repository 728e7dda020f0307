//! The janitor, a job of the observer: keeps old shards up to date while a revert may need them, drops them when
//! it may not, and drops what migrations had to leave.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::catalog::journal::Migration;
use crate::catalog::node_objects;
use crate::catalog::retained::{self, Keeper};
use crate::error::{Error, Result};
use crate::migrate::clean::{self, How};
use crate::migrate::{away, retain, routing};
use crate::pg::txn;
use crate::settings;

/// For so many times `repart.node_timeout` a node that did not answer is not asked again.
const REST: u32 = 3;

/// What the janitor remembers between rounds: which nodes did not answer, and when.
#[derive(Default)]
pub struct Janitor {
    silent: BTreeMap<String, Instant>,
}

impl Janitor {
    /// One round, outside of a transaction. Whatever a lock denies is tried again in the next one; an error of one
    /// migration's objects does not keep the others from their turn.
    pub fn round(&mut self) -> Result<()> {
        let rest = REST * settings::node_timeout();
        self.silent.retain(|_, since| since.elapsed() < rest);
        round(&mut self.silent)
    }
}

fn round(silent: &mut BTreeMap<String, Instant>) -> Result<()> {
    let mut first = None;
    let mut note = |outcome: Result<()>| match outcome {
        Err(error) if !error.is_transient() && first.is_none() => first = Some(error),
        _ => {}
    };
    for keeper in txn::run(retained::all)? {
        note(attend(&keeper));
    }
    for number in txn::run(retained::leftovers)? {
        note(txn::run(|| clean::drop_private(number, How::Thoroughly)));
    }
    for made in txn::run(node_objects::leftovers)? {
        // One that does not answer is waited for once: migrations wait meanwhile to be started.
        if silent.contains_key(&made.node) {
            continue;
        }
        let outcome = away::clean::drop_there(&made);
        if outcome.as_ref().is_err_and(Error::is_of_lost_server) {
            silent.insert(made.node.clone(), Instant::now());
        }
        note(outcome);
    }
    note(routing::tidy());
    first.map_or(Ok(()), Err)
}

/// Looks after the old shards of one migration.
fn attend(keeper: &Keeper) -> Result<()> {
    let why = if keeper.is_expired {
        Some(retain::EXPIRED.to_owned())
    } else {
        match retain::follow(keeper) {
            Err(error) if error.is_transient() => None,
            Err(error) => Some(error.to_string()),
            Ok(()) => None,
        }
    };
    why.map_or(Ok(()), |why| retain::give_up(keeper.id, &why))
}

/// Gives up what is kept of shards that the shards of a migration have replaced: they are about to be replaced
/// themselves. Outside of a transaction.
pub fn give_way_to(migration: &Migration) -> Result<()> {
    let sources: Vec<_> = migration
        .spec
        .sources
        .iter()
        .map(|source| source.relation())
        .collect();
    for id in txn::run(|| retained::replaced_by(&sources))? {
        let why = format!("migration {} changes their replacement", migration.id);
        retain::give_up(id, &why)?;
    }
    Ok(())
}
