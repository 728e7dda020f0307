//! Creating a target, without indexes: everything that it can have before the rows.

use pgrx::pg_sys;

use crate::catalog::journal::Target;
use crate::error::Result;
use crate::migrate::job::Job;
use crate::migrate::names;
use crate::migrate::target::{self, Part, Phase, statistics, table};
use crate::pg::{grants, relation, role, spi};

/// Creates the target `n` of a job.
pub fn create(job: &Job, n: usize, target: &Target, owner: &str) -> Result<()> {
    let source = job.first_source()?;
    let name = job.target_name(n);
    let parts = target::parts(source, &name)?;
    create_table(job, source, target, &name, &parts)?;
    spi::execute(&format!(
        "ALTER TABLE {name} OWNER TO {}",
        spi::quote_identifier(owner)
    ))?;
    for statement in target::statements(&parts, Phase::Prepare) {
        spi::execute(statement)?;
    }
    for statement in target::statements(&parts, Phase::Owner) {
        role::as_owner(job.owner, || spi::execute(statement))?;
    }
    for statement in target::statements(&parts, Phase::Commented) {
        spi::execute(statement)?;
    }
    statistics::create(job, n, source)?;
    grants::copy(source, relation::find(&name)?)
}

/// The CHECK on the bound proves to ATTACH that no row violates it, so that it need not scan.
fn create_table(
    job: &Job,
    source: pg_sys::Oid,
    target: &Target,
    name: &str,
    parts: &[Part],
) -> Result<()> {
    let place = table::place(source)?;
    let model = relation::name(table::model(job.migration.relation, source)?)?;
    let mut elements = vec![format!("LIKE {model} INCLUDING GENERATED")];
    elements.extend(target::statements(parts, Phase::Table).map(str::to_owned));
    elements.push(format!(
        "CONSTRAINT {} CHECK ({})",
        names::BOUND_CONSTRAINT,
        job.belongs_to(target)
    ));
    let mut sql = format!(
        "CREATE TABLE {name} ({}) USING {}",
        elements.join(", "),
        place.access_method
    );
    if !place.options.is_empty() {
        sql += &format!(" WITH ({})", place.options);
    }
    let tablespace = target.tablespace.as_deref().unwrap_or(&place.tablespace);
    if !tablespace.is_empty() {
        sql += &format!(" TABLESPACE {}", spi::quote_identifier(tablespace));
    }
    spi::execute(&sql)?;
    Ok(())
}
