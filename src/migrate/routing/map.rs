//! What a routing copy is to lead to, what it leads to, and the statements that make the one of the other.

use std::collections::BTreeSet;

use crate::catalog::journal::{Source, Target};
use crate::catalog::routes::{self, Partition, RoutingCopy};
use crate::error::{Error, Result};
use crate::migrate::away::link::Link;
use crate::migrate::job::Job;
use crate::migrate::names;
use crate::pg::spi;

/// Where a partition of a copy leads to, as seen there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A table of another server, through a foreign server of this name: server, schema, table.
    Far(String, String, String),
    /// A table of the copy's own node: schema, table.
    Own(String, String),
}

/// A partition of a copy.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its schema.
    pub schema: String,
    /// Its name, unless it is a table of the copy's own node.
    pub name: String,
    /// Its bound, as PostgreSQL prints it.
    pub bound: String,
    /// Where it leads to.
    pub place: Place,
}

impl Route {
    /// A partition as it is on the copy's node.
    pub fn there(partition: Partition) -> Self {
        let place = match partition.foreign {
            Some((server, schema, table)) => Place::Far(server, schema, table),
            None => Place::Own(partition.schema.clone(), partition.name.clone()),
        };
        Self {
            schema: partition.schema,
            name: partition.name,
            bound: partition.bound,
            place,
        }
    }

    /// What two partitions have in common that are the same: their names on the two servers may differ.
    fn identity(&self) -> (&str, &Place) {
        (&self.bound, &self.place)
    }

    fn qualified(&self) -> String {
        match &self.place {
            Place::Far(..) => spi::quote_qualified_identifier(&self.schema, &self.name),
            Place::Own(schema, table) => spi::quote_qualified_identifier(schema, table),
        }
    }
}

/// Where a shard is, as the copy sees it: `remote` as this server sees it, node, schema and table.
fn place(
    copy: &RoutingCopy,
    remote: Option<(String, String, String)>,
    (schema, name): (&str, &str),
) -> Place {
    match remote {
        None => Place::Far(copy.coordinator.clone(), schema.to_owned(), name.to_owned()),
        Some((node, schema, table)) if node == copy.node => Place::Own(schema, table),
        Some((node, schema, table)) => Place::Far(node, schema, table),
    }
}

/// What the copy of a table is to lead to now. Partitions there are in the schema of the table there.
pub fn wanted(copy: &RoutingCopy) -> Result<Vec<(u32, Route)>> {
    let route = |shard: Partition| {
        if shard.has_column_options {
            return Err(Error::Unsupported {
                what: format!("shard \"{}\" is a foreign table whose columns have options", shard.name),
                detail: "A routing copy has the names of columns that this table has.".to_owned(),
                hint: "Give its columns the names that they have on the node, and drop the options with ALTER FOREIGN TABLE."
                    .to_owned(),
            });
        }
        let place = place(copy, shard.foreign, (&shard.schema, &shard.name));
        Ok((
            shard.oid,
            Route {
                schema: copy.schema.clone(),
                name: shard.name,
                bound: shard.bound,
                place,
            },
        ))
    };
    let shards = routes::partitions(copy.relation)?;
    shards.into_iter().map(route).collect()
}

/// What it is to lead to after a migration has switched.
pub fn after(job: &Job, copy: &RoutingCopy, now: &[(u32, Route)]) -> Result<Vec<Route>> {
    let spec = &job.migration.spec;
    let first = spec.first_source()?;
    let stays = |(oid, _): &&(u32, Route)| spec.sources.iter().all(|source| source.oid != *oid);
    let mut routes: Vec<Route> = now
        .iter()
        .filter(stays)
        .map(|(_, route)| route.clone())
        .collect();
    for target in &spec.targets {
        let kept = target.keeps.and_then(|n| spec.sources.get(n));
        let (schema, name) = match (kept, &target.name) {
            (Some(source), _) => (&source.schema, source.name.clone()),
            (None, Some(name)) => (&first.schema, name.clone()),
            (None, None) => return Err(Error::Internal("a target without a name".to_owned())),
        };
        let remote = target.remote.as_ref();
        let remote = remote.map(|r| (r.node.clone(), r.schema.clone(), r.table.clone()));
        routes.push(Route {
            schema: copy.schema.clone(),
            place: place(copy, remote, (schema, &name)),
            name,
            bound: bound(target),
        });
    }
    Ok(routes)
}

fn bound(target: &Target) -> String {
    let end = |bound: &Option<String>, open: &str| {
        bound.as_ref().map_or(open.to_owned(), spi::quote_literal)
    };
    format!(
        "FOR VALUES FROM ({}) TO ({})",
        end(&target.lower, "MINVALUE"),
        end(&target.upper, "MAXVALUE")
    )
}

/// Whether a source's table is on the copy's own node.
pub fn is_own(source: &Source, copy: &RoutingCopy) -> bool {
    let remote = source.remote.as_ref();
    remote.is_some_and(|remote| remote.node == copy.node)
}

/// Partitions, to look others up in.
fn identities(routes: &[Route]) -> BTreeSet<(&str, &Place)> {
    routes.iter().map(Route::identity).collect()
}

/// The first partition of one of them that the other does not have.
pub fn difference<'a>(one: &'a [Route], other: &'a [Route]) -> Option<&'a Route> {
    let lacks = |routes: &'a [Route], others: &'a [Route]| {
        let others = identities(others);
        routes
            .iter()
            .find(|route| !others.contains(&route.identity()))
    };
    lacks(one, other).or_else(|| lacks(other, one))
}

/// What the exchange locks there, as an array of OIDs: the table, its partitions that go, and its DEFAULT partition, whose
/// bound changes with theirs.
pub fn concerned(copy: &RoutingCopy, there: &[Route], wanted: &[Route]) -> String {
    let stay = identities(wanted);
    let goes = |route: &&Route| route.bound == "DEFAULT" || !stay.contains(&route.identity());
    let names = [copy.name()]
        .into_iter()
        .chain(there.iter().filter(goes).map(Route::qualified));
    let list: Vec<String> = names
        .map(|name| format!("pg_catalog.to_regclass({})", spi::quote_literal(name)))
        .collect();
    format!("ARRAY[{}]::oid[]", list.join(", "))
}

/// Gives the partitions that are to be made there names that are free there, as they will be when those that are to go
/// have gone: something else on the node may have the name of a shard, and shards of several schemas the same.
pub fn name_new(link: &mut Link, there: &[Route], wanted: &mut [Route]) -> Result<()> {
    let is_far = |route: &Route| matches!(route.place, Place::Far(..));
    let stay = identities(wanted);
    let going: Vec<String> = there
        .iter()
        .filter(|route| is_far(route) && !stay.contains(&route.identity()))
        .map(|route| format!("{}::regclass", spi::quote_literal(route.qualified())))
        .collect();
    let known = identities(there);
    let mut nameless: Vec<&mut Route> = wanted
        .iter_mut()
        .filter(|route| is_far(route) && !known.contains(&route.identity()))
        .collect();
    let mut used = BTreeSet::new();
    let mut attempt = 0;
    while !nameless.is_empty() {
        let suffix = format!("_{attempt}");
        let candidate = |route: &Route| match attempt {
            0 => route.name.clone(),
            _ => names::joined(&route.name, &suffix),
        };
        let candidates: Vec<String> = nameless.iter().map(|route| candidate(route)).collect();
        let taken = taken(link, &nameless[0].schema, &candidates, &going)?;
        let mut left = Vec::new();
        for (route, name) in nameless.into_iter().zip(candidates) {
            if !taken.contains(&name) && used.insert(name.clone()) {
                route.name = name;
            } else {
                left.push(route);
            }
        }
        nameless = left;
        attempt += 1;
    }
    Ok(())
}

/// Which of these names tables or types of the schema there have, but for those that are `going`.
fn taken(
    link: &mut Link,
    schema: &str,
    names: &[String],
    going: &[String],
) -> Result<BTreeSet<String>> {
    let names: Vec<String> = names.iter().map(spi::quote_literal).collect();
    let sql = format!(
        "SELECT DISTINCT x.name
           FROM pg_catalog.pg_namespace n,
                LATERAL (SELECT c.relname::text, c.oid FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid
                          UNION ALL
                         SELECT t.typname::text, t.typrelid FROM pg_catalog.pg_type t WHERE t.typnamespace = n.oid) x (name, oid)
          WHERE n.nspname = {} AND x.name = ANY (ARRAY[{}]) AND x.oid <> ALL (ARRAY[{}]::oid[])",
        spi::quote_literal(schema),
        names.join(", "),
        going.join(", ")
    );
    let answer = link.ask(&sql)?;
    Ok((0..answer.len())
        .filter_map(|row| answer.get(row, 0))
        .collect())
}

/// The statements that make `there` lead to what is wanted, for the table `parent` there; `note` is the function that notes
/// it for the guard. All of them, in one transaction that holds the table.
pub fn script(parent: &str, there: &[Route], wanted: &[Route], note: &str) -> String {
    let mut script = String::new();
    let (before, after) = (identities(there), identities(wanted));
    for route in there {
        if after.contains(&route.identity()) {
            continue;
        }
        let name = route.qualified();
        script += &match &route.place {
            Place::Far(..) => format!("DROP FOREIGN TABLE {name};"),
            Place::Own(..) => format!("ALTER TABLE {parent} DETACH PARTITION {name};"),
        };
    }
    let mut changed = vec![parent.to_owned()];
    for route in wanted {
        if before.contains(&route.identity()) {
            continue;
        }
        let (name, bound) = (route.qualified(), &route.bound);
        script += &match &route.place {
            Place::Far(server, schema, table) => format!(
                "CREATE FOREIGN TABLE {name} PARTITION OF {parent} {bound} SERVER {}
                     OPTIONS (schema_name {}, table_name {});",
                spi::quote_identifier(server),
                spi::quote_literal(schema),
                spi::quote_literal(table)
            ),
            // Its CHECK proves the bound: it is not scanned.
            Place::Own(..) => format!("ALTER TABLE {parent} ATTACH PARTITION {name} {bound};"),
        };
        // Whoever uses a table of the node itself as a shard, from another server, has waited for this transaction with a
        // snapshot that sees all of its rows: they were committed before.
        if matches!(route.place, Place::Far(..)) {
            changed.push(name);
        }
    }
    let changed: Vec<String> = changed
        .iter()
        .map(|name| format!("{}::regclass", spi::quote_literal(name)))
        .collect();
    script + &format!("SELECT {note}(ARRAY[{}]::oid[])", changed.join(", "))
}
