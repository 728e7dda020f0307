//! Which targets keep the table of a source, and how the rows of the others are read: decided when a
//! migration is prepared, from the rows that are there and from what was measured in this database before.

use repart_core::in_place::{self, Budget, Flow, Moves};

use crate::catalog::journal::{self, Migration, Part, Source};
use crate::decide::learn;
use crate::error::Result;
use crate::migrate::flows::{self, Overlap, Size};
use crate::migrate::job::Job;
use crate::pg::{guc, spi};
use crate::settings;

/// Less than this share of a source is read through the index: a page is then read for a few rows, and
/// reading all pages would cost more.
const INDEX_SHARE: f64 = 0.2;

/// What a cutover may do with one of its tables, by `repart.max_pause` and by what was measured: all of them have the
/// same part of the pause.
pub fn budget(migration: &Migration) -> Result<Budget> {
    let learned = learn::learned()?;
    Ok(Budget {
        delete_rate: learned.delete_rate,
        insert_rate: learned.insert_rate,
        max_pause: settings::max_pause().as_secs_f64() / migration.tables.max(1) as f64,
    })
}

/// Decides and notes in the migration which targets keep which source; returns what is to be copied for the
/// others.
pub fn decide(job: &mut Job) -> Result<Vec<Part>> {
    for target in &mut job.migration.spec.targets {
        if target.keeps.take().is_some() {
            target.name = None;
        }
    }
    let overlaps = flows::overlaps(job)?;
    let budget = budget(&job.migration)?;
    let flows = measure(job, &overlaps, &budget)?;
    let kept = in_place::choose(&flows, &budget);
    for (source, target) in &kept {
        let name = job
            .migration
            .spec
            .sources
            .get(*source)
            .map(|source| source.name.clone());
        if let Some(target) = job.migration.spec.targets.get_mut(*target) {
            target.keeps = Some(*source);
            target.name = name;
        }
    }
    if !kept.is_empty() {
        let message = explained(job, in_place::moves(&flows, &kept), &budget);
        journal::event("notice", Some(&job.migration), &message)?;
    }
    parts(job, &flows)
}

fn explained(job: &Job, moves: Moves, budget: &Budget) -> String {
    let names: Vec<String> = job
        .kept()
        .map(|kept| format!("\"{}\"", kept.source.name))
        .collect();
    format!(
        "migration {} keeps {} in place: {} rows leave and {} arrive in its cutover, which should take some {:.0} ms",
        job.id(),
        names.join(" and "),
        moves.deletes,
        moves.inserts,
        budget.pause(moves) * 1e3
    )
}

/// The rows that go from each source to each target, exact where they are few enough to be moved.
fn measure(job: &Job, overlaps: &[Overlap], budget: &Budget) -> Result<Vec<Flow>> {
    let most = budget.most_rows() as i64 + 1;
    let mut flows: Vec<Flow> = Vec::new();
    for (s, source) in job.migration.spec.sources.iter().enumerate() {
        let size = Size::of(job, source)?;
        let indexed = flows::has_key_index(job, source)?;
        let keepable = indexed && flows::may_keep(job) && is_keepable(job, source)?;
        let own: Vec<&Overlap> = overlaps.iter().filter(|o| o.source == s).collect();
        let mut found = Vec::new();
        for overlap in &own {
            found.push(rows(job, source, overlap, indexed, most)?);
        }
        let known: f64 = found
            .iter()
            .filter(|(_, exact)| *exact)
            .map(|(rows, _)| rows)
            .sum();
        let single = found.iter().filter(|(_, exact)| !exact).count() == 1;
        for (overlap, (rows, exact)) in own.iter().zip(&found) {
            // Where all others are counted, the rest is known as well as the whole.
            let rest = (size.rows - known).max(most as f64);
            let rows = if *exact || !single { *rows } else { rest };
            let target = job.migration.spec.targets.get(overlap.target);
            let may_keep = keepable
                && target.is_some_and(|target| target.tablespace.is_none() && !target.outgrown);
            flows.push(Flow {
                source: s,
                target: overlap.target,
                rows,
                bytes: rows * size.row_bytes,
                may_keep,
            });
        }
    }
    Ok(flows)
}

/// Rows of a range, and whether they were counted.
fn rows(
    job: &Job,
    source: &Source,
    overlap: &Overlap,
    indexed: bool,
    most: i64,
) -> Result<(f64, bool)> {
    let (table, condition) = (source.qualified(), overlap.condition(&job.key));
    if indexed {
        let counted = flows::count(job, &table, &condition, most)?;
        if counted < most {
            return Ok((counted as f64, true));
        }
    }
    let estimated = flows::estimate(job, &table, &condition)?;
    Ok((estimated.max(most as f64), false))
}

/// Whether rows can be moved out of and into the table unnoticed by anything of the users': no trigger and no
/// rule that works even for replicated changes, no forced row security, no publication of the shard by itself
/// or of its schema, and an owner who may write his table. The same goes for constraints that are checked
/// by triggers (a foreign key of its own, deferrable keys), and for those that rows which leave and rows which
/// arrive could only satisfy one after the other.
fn is_keepable(job: &Job, source: &Source) -> Result<bool> {
    let found = spi::value::<bool>(
        "SELECT NOT c.relforcerowsecurity
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgenabled IN ('A', 'R')
                               AND t.tgname NOT LIKE 'repart\\_capture\\_%')
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid)
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE puballtables)
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_rel p WHERE p.prrelid = c.oid)
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_namespace p WHERE p.pnnspid = c.relnamespace)
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k
                             WHERE k.conrelid = c.oid AND k.contype = 'f' AND k.conparentid = 0)
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid
                               AND (i.indisexclusion OR i.indisunique AND (NOT i.indimmediate OR NOT EXISTS (
                                    SELECT FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY u (attnum, n)
                                      JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.attnum
                                     WHERE u.n <= i.indnkeyatts AND a.attname = $3))))
            AND pg_catalog.has_table_privilege($2::oid, c.oid, 'SELECT')
            AND pg_catalog.has_table_privilege($2::oid, c.oid, 'INSERT')
            AND pg_catalog.has_table_privilege($2::oid, c.oid, 'DELETE')
           FROM pg_catalog.pg_class c WHERE c.oid = $1",
        &[
            source.relation().into(),
            job.owner.into(),
            job.key.column.as_str().into(),
        ],
    )?;
    Ok(found.unwrap_or(false))
}

/// What is to be copied into the targets that are rebuilt: narrow ranges through the index, the rest by
/// reading the source once from beginning to end.
fn parts(job: &Job, flows: &[Flow]) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for (s, source) in job.migration.spec.sources.iter().enumerate() {
        let rebuilt = |flow: &&Flow| {
            let target = job.migration.spec.targets.get(flow.target);
            flow.source == s && target.is_some_and(|target| target.keeps.is_none())
        };
        let size = Size::of(job, source)?;
        let indexed = flows::has_key_index(job, source)?;
        let mut whole = Part {
            source: s,
            row_bytes: size.row_bytes,
            ..Part::default()
        };
        for flow in flows.iter().filter(rebuilt) {
            if indexed && flow.rows < INDEX_SHARE * size.rows {
                parts.push(Part {
                    source: s,
                    targets: vec![flow.target],
                    by_index: true,
                    rows: flow.rows,
                    row_bytes: size.row_bytes,
                });
            } else {
                whole.targets.push(flow.target);
                whole.rows += flow.rows;
            }
        }
        if !whole.targets.is_empty() {
            parts.push(whole);
        }
    }
    Ok(parts)
}

/// Rows and bytes that are to be inserted into kept tables.
pub fn arriving(job: &Job) -> Result<(f64, f64)> {
    let (mut rows, mut bytes) = (0.0, 0.0);
    if job.kept().next().is_none() {
        return Ok((rows, bytes));
    }
    for overlap in flows::overlaps(job)?.iter().filter(|o| job.arrives(o)) {
        if let Some(source) = job.migration.spec.sources.get(overlap.source) {
            let (table, condition) = (source.qualified(), overlap.condition(&job.key));
            let arriving = flows::count(job, &table, &condition, i64::MAX)? as f64;
            rows += arriving;
            bytes += arriving * Size::of(job, source)?.row_bytes;
        }
    }
    Ok((rows, bytes))
}

/// The rows that would change tables if the cutover were now, counted without a lock up to what never fits.
/// Rows that come later are in the log of captured changes.
pub fn moves_now(job: &Job, budget: &Budget) -> Result<Moves> {
    let mut moves = Moves::default();
    if job.kept().next().is_none() {
        return Ok(moves);
    }
    let most = budget.most_rows() as i64 + 1;
    // Also brings the rows into memory, so that the cutover need not wait for the disk.
    guc::set_for_transaction("enable_indexonlyscan", "off");
    for overlap in flows::overlaps(job)? {
        let Some(source) = job.migration.spec.sources.get(overlap.source) else {
            continue;
        };
        let (leaves, arrives) = (job.leaves(&overlap), job.arrives(&overlap));
        if !leaves && !arrives {
            continue;
        }
        let table = source.qualified();
        let rows = flows::count(job, &table, &overlap.condition(&job.key), most)? as f64;
        moves.deletes += if leaves { rows } else { 0.0 };
        moves.inserts += if arrives { rows } else { 0.0 };
    }
    Ok(moves)
}

/// Gives up keeping these tables for these targets, since more rows than fit would have to be moved: the caller
/// prepares anew.
pub fn rebuild_instead(job: &Job, moves: Moves, budget: &Budget) -> Result<()> {
    let mut migration = job.migration.clone();
    for target in &mut migration.spec.targets {
        if target.keeps.is_some() {
            target.outgrown = true;
        }
    }
    journal::set_spec(&migration)?;
    let message = format!(
        "migration {} would have to delete {} rows and insert {} in its cutover, some {:.0} ms, longer than repart.max_pause = {:.0} ms; it begins again, with that target rebuilt",
        job.id(),
        moves.deletes,
        moves.inserts,
        budget.pause(moves) * 1e3,
        budget.max_pause * 1e3
    );
    journal::event("warning", Some(&migration), &message)
}
