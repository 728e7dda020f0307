//! Preparing: targets with everything that the sources have, and change capture.

use pgrx::pg_sys;

use crate::catalog::journal::{self, Migration, Position, Target};
use crate::error::Result;
use crate::migrate::job::Job;
use crate::migrate::{capture, choice, clean, names, preflight};
use crate::pg::spi;

/// Creates the private objects: targets, log and trigger function. Nothing of it locks the sources for
/// longer than a reader would. What an earlier attempt left is dropped first.
pub fn create(migration: Migration) -> Result<()> {
    clean::drop_private(&migration)?;
    preflight::check(migration.relation, &migration.spec)?;
    let mut job = Job::load(migration)?;
    let parts = choice::decide(&mut job)?;
    choose_names(&mut job.migration)?;
    let owner = spi::value::<String>(
        "SELECT rolname::text FROM pg_catalog.pg_roles WHERE oid = $1",
        &[job.owner.into()],
    )?
    .unwrap_or_default();
    for (n, target) in job.rebuilt_targets() {
        create_target(&job, n, target, &owner)?;
    }
    capture::create(&job, &owner)?;
    let position = Position {
        fingerprint: job.fingerprint()?,
        parts,
        ..Position::default()
    };
    journal::restart_copy(&job.migration, &position)
}

/// Fixes the names of the targets, so that an existing relation of another migration's making is not in
/// the way: numbers of migrations begin anew when the extension is created anew.
fn choose_names(migration: &mut Migration) -> Result<()> {
    let Some(schema) = migration
        .spec
        .sources
        .first()
        .map(|source| source.schema.clone())
    else {
        return Ok(());
    };
    let (table, id) = (migration.relation_name.clone(), migration.id);
    for (n, target) in migration.spec.targets.iter_mut().enumerate() {
        if target.name.is_none() {
            target.name = Some(free_name(&schema, &table, id, n)?);
        }
    }
    journal::set_spec(migration)
}

fn free_name(schema: &str, table: &str, id: i64, target: usize) -> Result<String> {
    let mut attempt = 0;
    loop {
        let name = names::public_target(table, id, target, attempt);
        if !is_taken(schema, &name)? {
            return Ok(name);
        }
        attempt += 1;
    }
}

fn is_taken(schema: &str, name: &str) -> Result<bool> {
    let taken = spi::value::<bool>(
        "SELECT pg_catalog.to_regclass(pg_catalog.format('%I.%I', $1, $2)) IS NOT NULL",
        &[schema.into(), name.into()],
    )?;
    Ok(taken.unwrap_or(false))
}

/// Starts change capture; short locks on the sources only.
pub fn start_capture(migration: Migration) -> Result<()> {
    let job = Job::load(migration)?;
    capture::start(&job.migration)?;
    // Nobody can have changed the definition unnoticed: the triggers' locks are held.
    job.require_unchanged()?;
    let position = Position {
        triggers: capture::triggers(&job.migration)?,
        ..job.migration.position.clone()
    };
    journal::restart_copy(&job.migration, &position)
}

fn create_target(job: &Job, n: usize, target: &Target, owner: &str) -> Result<()> {
    let source = job.first_source()?;
    let table = job.target_name(n);
    let facts = facts(source)?;
    let tablespace = target.tablespace.as_deref().unwrap_or(&facts.tablespace);
    let mut sql = format!(
        "CREATE TABLE {table} (LIKE {} INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY EXCLUDING STATISTICS) USING {}",
        facts.name, facts.access_method
    );
    if !facts.options.is_empty() {
        sql += &format!(" WITH ({})", facts.options);
    }
    if !tablespace.is_empty() {
        sql += &format!(" TABLESPACE {}", spi::quote_identifier(tablespace));
    }
    spi::execute(&sql)?;
    // Proves to ATTACH that no row violates the new bound, so that it need not scan.
    spi::execute(&format!(
        "ALTER TABLE {table} ADD CONSTRAINT {} CHECK ({})",
        names::BOUND_CONSTRAINT,
        job.belongs_to(target)
    ))?;
    spi::execute(&format!(
        "ALTER TABLE {table} OWNER TO {}",
        spi::quote_identifier(owner)
    ))?;
    for statement in carried_statements(source, &table)? {
        spi::execute(&statement)?;
    }
    Ok(())
}

struct Facts {
    name: String,
    access_method: String,
    options: String,
    tablespace: String,
}

fn facts(source: pg_sys::Oid) -> Result<Facts> {
    let found = spi::select_first(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.quote_ident(a.amname),
                coalesce((SELECT pg_catalog.string_agg(o, ', ') FROM (
                    SELECT pg_catalog.format('%I = %L', pg_catalog.split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)) AS o
                      FROM pg_catalog.unnest(c.reloptions) o
                    UNION ALL
                    SELECT pg_catalog.format('toast.%I = %L', pg_catalog.split_part(o, '=', 1), substr(o, strpos(o, '=') + 1))
                      FROM pg_catalog.pg_class t, pg_catalog.unnest(t.reloptions) o WHERE t.oid = c.reltoastrelid) x), ''),
                coalesce(s.spcname::text, '')
           FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_catalog.pg_am a ON a.oid = c.relam
           LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace
          WHERE c.oid = $1",
        &[source.into()],
        |row| {
            Ok(Facts {
                name: row.get(1)?,
                access_method: row.get(2)?,
                options: row.get(3)?,
                tablespace: row.get(4)?,
            })
        },
    )?;
    found.ok_or_else(|| crate::error::Error::Internal("a source vanished".to_owned()))
}

/// Grants, row security, comment and column settings of the source, as statements for the target `$2`.
fn carried_statements(source: pg_sys::Oid, table: &str) -> Result<Vec<String>> {
    spi::select(
        "WITH c AS (SELECT * FROM pg_catalog.pg_class WHERE oid = $1)
         SELECT statement FROM (
            SELECT 1 AS n, pg_catalog.format('REVOKE ALL ON %s FROM %I', $2, pg_catalog.pg_get_userbyid(relowner)) AS statement
              FROM c WHERE relacl IS NOT NULL
            UNION ALL
            SELECT 2, pg_catalog.format('GRANT %s ON %s TO %s%s', g.privilege_type, $2,
                     CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END,
                     CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
              FROM c, pg_catalog.aclexplode(c.relacl) g
            UNION ALL
            SELECT 3, pg_catalog.format('GRANT %s (%I) ON %s TO %s%s', g.privilege_type, a.attname, $2,
                     CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END,
                     CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
              FROM pg_catalog.pg_attribute a, pg_catalog.aclexplode(a.attacl) g
             WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL
            SELECT 4, pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', $2) FROM c WHERE relrowsecurity
            UNION ALL
            SELECT 5, pg_catalog.format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', $2) FROM c WHERE relforcerowsecurity
            UNION ALL
            SELECT 6, pg_catalog.format('COMMENT ON TABLE %s IS %L', $2, d)
              FROM pg_catalog.obj_description($1, 'pg_class') d WHERE d IS NOT NULL
            UNION ALL
            SELECT 7, pg_catalog.format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS %s', $2, attname, attstattarget)
              FROM pg_catalog.pg_attribute
             WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND coalesce(attstattarget, -1) >= 0
            UNION ALL
            SELECT 8, pg_catalog.format('ALTER TABLE %s ALTER COLUMN %I SET (%s)', $2, attname,
                     (SELECT pg_catalog.string_agg(o, ', ') FROM pg_catalog.unnest(attoptions) o WHERE o LIKE 'n_distinct%'))
              FROM pg_catalog.pg_attribute
             WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attoptions::text LIKE '%n_distinct%') s
          ORDER BY n",
        &[source.into(), table.into()],
        |row| row.get(1),
    )
}
