//! Migrations in which a node has a part.
//!
//! The states are those of any migration; what is done in them is written once for both ends, this server and a node
//! (`ends.rs`), over one connection to each node (`link.rs`). The rules that keep every row in exactly one place:
//!
//! - **What is made on a node is written down here before** (`repart.node_objects`), and has a name that follows from
//!   it, so that it is found and dropped whatever happened.
//! - **One session per node and migration**, by a lock there: whoever takes over ends the session of a mover that is
//!   gone first, so that nothing of its can be committed late.
//! - **A batch and the note of it are one transaction on the node**; the journal follows it.
//! - **The target is committed before the log is emptied**: a crash in between repeats what is harmless to repeat.
//! - **The commit here is the only decision.** Until then nobody sees the table on the node, and nothing there has to
//!   change at the same moment; a commit that fails leaves a target that the log still brings up to date.
//! - **Nobody's clients wait for a node for longer than the pause**: under locks, a node that does not answer in time
//!   makes the switch give way.

pub mod apply;
pub mod capture;
pub mod clean;
pub mod copy;
pub mod define;
pub mod ends;
pub mod link;
mod pipe;
pub mod preflight;
pub mod prepare;
mod receiver;
pub mod switch;
pub mod verify;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::error::{Error, Result};
use crate::migrate::job::Job;
use crate::migrate::routing::Sessions;
use crate::nodes::usage::Usage;
use ends::Ends;

/// The connections of a mover: of each migration that it carries out, both ends; and those to routing copies.
#[derive(Default)]
pub struct Links {
    ends: BTreeMap<i64, Ends>,
    /// Where the tables have routing copies, while a switch is tried.
    pub copies: Sessions,
}

impl Links {
    /// The ends of a migration, connected to if they are not. Inside a transaction.
    pub fn of(&mut self, job: &Job) -> Result<&mut Ends> {
        Ok(match self.ends.entry(job.id()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Ends::open(job)?),
        })
    }

    /// Those that are connected to.
    pub fn open(&mut self, job: &Job) -> Result<&mut Ends> {
        self.ends
            .get_mut(&job.id())
            .ok_or_else(|| Error::Internal("a node is not connected to".to_owned()))
    }

    /// What the machine of a node does, by the sessions of a migration there, and how many seconds of a processor these
    /// have used; `None` where that is not known. Outside of transactions.
    pub fn usage_of(&mut self, migration: i64, node: &str) -> Result<Option<(Usage, f64)>> {
        match self.ends.get_mut(&migration) {
            Some(ends) => ends.usage_of(node),
            None => Ok(None),
        }
    }

    /// Closes all connections, and with them what is not committed there.
    pub fn close(&mut self) {
        self.ends.clear();
        self.copies.close();
    }
}
