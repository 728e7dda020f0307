//! Whether a migration that is ready may start: at this hour, and on its nodes as they are and will be. What it waits for
//! is in `repart.migrations`.
//!
//! This is for migrations of plans. One that somebody asked for by hand starts at once, and gives way as it copies.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use repart_core::admission::{self, Ready, Window};

use crate::catalog::journal;
use crate::catalog::nodes::{self, LOCAL};
use crate::catalog::runnable::{self, Runnable};
use crate::catalog::usage::{self, Latest, Resource};
use crate::error::Result;
use crate::pg::{time, txn};
use crate::settings;

/// Migrations that are looked at together: those with the earliest deadlines.
const LOOKED_AT: usize = 8;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// What was found at the last look.
#[derive(Default)]
pub struct Admission {
    looked: Option<Instant>,
    /// Those that may start, in the order in which they should.
    admitted: Vec<i64>,
}

impl Admission {
    /// Which of the queued migrations of plans may start now, in this order. The others are told why not.
    pub fn admit(&mut self, queued: &[&Runnable]) -> Result<Vec<i64>> {
        let is_known = |id: &i64| queued.iter().any(|one| one.id == *id);
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK) {
            self.looked = Some(Instant::now());
            self.admitted = txn::run(|| look(queued))?;
        }
        self.admitted.retain(is_known);
        Ok(self.admitted.clone())
    }
}

fn look(queued: &[&Runnable]) -> Result<Vec<i64>> {
    let mut first: Vec<&Runnable> = queued.to_vec();
    first.sort_by_key(|one| (one.deadline.unwrap_or(i64::MAX), one.id));
    first.truncate(LOOKED_AT);
    let mut known = BTreeMap::new();
    let mut ready = Vec::new();
    for one in first {
        match judge(one, &mut known)? {
            Ok(room) => ready.push(Ready {
                id: one.id,
                deadline: one.deadline,
                room,
            }),
            Err(Wait::For(node)) => runnable::wait_for(one.id, &node)?,
            Err(Wait::Because(reason)) => journal::set_reason(one.id, Some(&reason))?,
        }
    }
    admission::order(&mut ready);
    Ok(ready.into_iter().map(|one| one.id).collect())
}

/// Why a migration does not start.
enum Wait {
    /// This node does not answer.
    For(String),
    /// Something else.
    Because(String),
}

/// What the nodes of a migration have left, or why it has to wait.
fn judge(
    one: &Runnable,
    known: &mut BTreeMap<String, Option<Latest>>,
) -> Result<std::result::Result<f64, Wait>> {
    let mut room = 1.0;
    for node in nodes_of(one.id)? {
        if node != LOCAL && nodes::is_away(&node)? {
            return Ok(Err(Wait::For(node)));
        }
        if !known.contains_key(&node) {
            let latest = usage::latest(&node, settings::sample_interval())?;
            known.insert(node.clone(), latest);
        }
        let latest = known.get(&node).copied().flatten();
        match headroom(&node, latest.as_ref(), one.duration)? {
            Ok(left) => room = f64::min(room, left),
            Err(_) if is_emergency(one) => room = 0.0,
            Err(reason) => return Ok(Err(Wait::Because(reason))),
        }
    }
    if is_emergency(one) {
        return Ok(Ok(room));
    }
    Ok(closed()?.map_or(Ok(room), |reason| Err(Wait::Because(reason))))
}

/// Whether the limit that the migration is to keep is passed already, and that is a reason not to wait.
fn is_emergency(one: &Runnable) -> bool {
    settings::emergency()
        && one
            .deadline
            .is_some_and(|deadline| deadline <= time::clock())
}

/// The nodes that a migration keeps at work. What goes from one to another goes through this server.
fn nodes_of(migration: i64) -> Result<Vec<String>> {
    let mut nodes = journal::nodes_of(migration)?;
    if nodes.len() > 1 && !nodes.iter().any(|node| node == LOCAL) {
        nodes.push(LOCAL.to_owned());
    }
    Ok(nodes)
}

/// What a node has left below `repart.headroom` now and for so many seconds, or what it has too little of. What nobody
/// observes is taken to be there.
fn headroom(
    node: &str,
    latest: Option<&Latest>,
    seconds: f64,
) -> Result<std::result::Result<f64, String>> {
    let limit = settings::headroom();
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let what = |resource: Resource| format!("the {} of node \"{node}\"", resource.in_words());
    let mut left = limit;
    for resource in Resource::ALL {
        let now = latest.and_then(|latest| latest.of(resource)).unwrap_or(0.0);
        if now > limit && limit < 1.0 {
            return Ok(Err(format!(
                "waits for headroom: {} are used to {} (repart.headroom {})",
                what(resource),
                percent(now),
                percent(limit)
            )));
        }
        let foreseen = usage::foreseen(node, resource, seconds)?.unwrap_or(0.0);
        if foreseen > limit && limit < 1.0 {
            return Ok(Err(format!(
                "waits for headroom: {} will be used to {} before it could end, in {seconds:.0} s (repart.headroom {})",
                what(resource),
                percent(foreseen),
                percent(limit)
            )));
        }
        left = left.min(limit - now.max(foreseen));
    }
    Ok(Ok(left))
}

/// Why no routine work starts at this hour, if none does.
fn closed() -> Result<Option<String>> {
    let text = settings::window();
    let window: Window = match text.parse() {
        Ok(window) => window,
        Err(error) => {
            return Ok(Some(format!(
                "invalid value for parameter \"repart.maintenance_window\": \"{text}\"; {error}"
            )));
        }
    };
    let is_open = window.contains(usage::minute_of_day()?);
    Ok((!is_open).then(|| format!("waits for repart.maintenance_window ({text})")))
}
