//! Waiting for a node that does not answer. The mover goes, and gives its place to another migration: what to do next is
//! in the journal. From time to time, and at once when the watcher reaches the node again, the migration goes on.

use repart_core::state::State;

use super::log::require_backlog;
use super::{Drive, next_of};
use crate::catalog::journal::Migration;
use crate::catalog::node_objects::Role;
use crate::catalog::{nodes, runnable};
use crate::error::{Error, Result};
use crate::migrate::away::ends::End;
use crate::migrate::away::link::Link;
use crate::migrate::{away, capture};
use crate::nodes::connect;
use crate::pg::txn;

/// The node that a group waits for, unless it is to end without it.
pub(super) fn awaited(group: &[Migration]) -> Option<&str> {
    let first = group.first()?;
    let ends = first.cancel_requested && first.state.is_before_switch();
    first.waits_for.as_deref().filter(|_| !ends)
}

/// The node that could not be connected to, if that is what the error says. (One that was lost is connected to anew.)
pub(super) fn unreachable(error: &Error) -> Result<Option<String>> {
    let Error::Unreachable {
        server,
        connected: false,
        ..
    } = error
    else {
        return Ok(None);
    };
    let known = txn::run(nodes::all)?;
    let found = known
        .into_iter()
        .find(|node| connect::label(&node.name) == *server);
    Ok(found.map(|node| node.name))
}

impl Drive {
    /// Leaves the migration to be tried again later. The log of changes goes on growing meanwhile: where it has become
    /// too long, the migration ends.
    pub(super) fn wait_for(
        &mut self,
        node: &str,
        error: &Error,
        migration: &Migration,
        group: &[Migration],
    ) -> Result<()> {
        self.links.close();
        for member in group {
            match watch_backlog(member, node) {
                Err(error) if !error.is_transient() => {
                    return self.give_up(migration, group, error);
                }
                _ => {}
            }
        }
        let cause = error
            .detail()
            .map_or_else(|| error.to_string(), str::to_owned);
        let reason = format!("waits for node \"{node}\", which does not answer: {cause}");
        txn::run(|| runnable::put_off(self.id, node, &reason))
    }

    /// Looks whether the node is back. If it is, whoever waits for it goes on as soon as there is a place for a mover.
    pub(super) fn look_for(&mut self, node: &str, group: &[Migration]) -> Result<()> {
        let Some(migration) = next_of(group) else {
            return Ok(());
        };
        match txn::run(|| Link::visit(node).map(|_| ())) {
            Err(error) if error.is_cancellation() => Ok(()),
            Err(error) if error.is_of_lost_server() => {
                self.wait_for(node, &error, migration, group)
            }
            // What else may be wrong with it, the next step finds.
            Ok(()) | Err(_) => txn::run(|| runnable::release(node).map(|_| ())),
        }
    }
}

/// Counts what is captured of a migration's sources, unless that is on the node that does not answer. Outside of a
/// transaction.
fn watch_backlog(migration: &Migration, lost: &str) -> Result<()> {
    let captures = matches!(
        migration.state,
        State::Copying | State::CatchingUp | State::Verifying | State::CuttingOver
    );
    if !captures || migration.spec.blocking {
        return Ok(());
    }
    let remote = migration.spec.first_source()?.remote.as_ref();
    txn::run(|| {
        let pending = match remote {
            None => capture::pending(migration)?,
            Some(remote) if remote.node == lost => return Ok(()),
            Some(remote) => {
                let link = Link::open(&remote.node, migration.id, Role::Source)?;
                let log = away::ends::log(migration)?;
                away::capture::count(
                    &migration.relation_name,
                    &mut End::There(Box::new(link)),
                    &log,
                )?
            }
        };
        require_backlog(migration, pending).map(|_| ())
    })
}
