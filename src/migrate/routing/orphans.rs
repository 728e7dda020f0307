//! Copies of tables that were dropped here: they lead nowhere, and go too.

use std::collections::BTreeSet;

use crate::catalog::journal;
use crate::catalog::routes::{self, RoutingCopy};
use crate::catalog::two_phase;
use crate::error::{Error, Result};
use crate::migrate::away::link::Link;
use crate::migrate::routing::add;
use crate::pg::txn;

/// One round of the janitor, outside of a transaction. What cannot be done now is tried again in the next one.
pub fn tidy() -> Result<()> {
    let mut first = None;
    let mut silent = BTreeSet::new();
    for copy in txn::run(routes::orphans)? {
        // One that does not answer is waited for once in a round.
        if silent.contains(&copy.node) {
            continue;
        }
        match txn::run(|| tidy_one(&copy)) {
            Err(error) if error.is_of_lost_server() => {
                silent.insert(copy.node);
            }
            Err(error) if !error.is_transient() && first.is_none() => first = Some(error),
            _ => {}
        }
    }
    first.map_or(Ok(()), Err)
}

/// It is committed there first: a crash in between repeats what is harmless to repeat.
fn tidy_one(copy: &RoutingCopy) -> Result<()> {
    let node = &copy.node;
    // The table there may be the one that it was before, still.
    if !two_phase::open_on(node)?.is_empty() {
        return Err(Error::Waiting(format!(
            "node \"{node}\" has still to carry out what was decided"
        )));
    }
    // First, since a new table may have taken it over as its own copy meanwhile.
    if !routes::delete(copy.relation, node)? {
        return Ok(());
    }
    let mut link = Link::visit(node)?;
    add::begin(&mut link)?;
    add::drop_there(&mut link, copy)?;
    link.ask("COMMIT")?;
    let message = format!(
        "the routing copy {} on node \"{node}\" was dropped, as its table was",
        copy.name()
    );
    journal::event("notice", None, &message)
}
