//! What a partitioned table takes over from the plain table that becomes its shard: read from the plain
//! table as statements before it is renamed, carried out on the partitioned table afterwards. They name
//! the table as users do, so that after the renaming they concern the partitioned one.
//!
//! `CREATE TABLE … (LIKE …)` brings the rest: columns, defaults, NOT NULL, CHECK constraints, generated
//! columns, collations, storage, compression, and the comments on these.

use crate::error::Result;
use crate::manage::table::Table;
use crate::pg::spi;

/// A plain table's parts, as statements. `$1` of the queries is the table's OID, `$2` its name as SQL
/// writes it, `$3` its schema.
pub struct Parts {
    /// Takes off the plain table what belongs to the partitioned one alone: triggers, which are cloned
    /// to every shard; policies, without which only the owner may read a shard itself; and extended
    /// statistics, since migrations do not carry them from shard to shard.
    pub removals: Vec<String>,
    /// Keys, indexes and outbound foreign keys, in the order of their creation.
    pub indexes: Vec<String>,
    /// Owned sequences, column settings, extended statistics, row-level security.
    pub settings: Vec<String>,
    /// Triggers and whether they are enabled; the replica identity. After the shard is attached.
    pub triggers: Vec<String>,
    /// Comments, once everything that they are on exists.
    pub comments: Vec<String>,
    /// Whether there are row-level triggers.
    pub has_row_triggers: bool,
}

const REMOVALS: &str = "
    SELECT format('DROP TRIGGER %I ON %s', tgname, $2) FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal
    UNION ALL
    SELECT format('DROP POLICY %I ON %s', polname, $2) FROM pg_policy WHERE polrelid = $1
    UNION ALL
    SELECT format('DROP STATISTICS %I.%I', n.nspname, x.stxname)
      FROM pg_statistic_ext x JOIN pg_namespace n ON n.oid = x.stxnamespace WHERE x.stxrelid = $1";

/// PRIMARY KEY, UNIQUE and FOREIGN KEY are constraints, of which ATTACH adopts the shard's own; so it does
/// with indexes that are the same.
const INDEXES: &str = "
    SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s', $2, c.conname, pg_get_constraintdef(c.oid))
      FROM pg_constraint c WHERE c.conrelid = $1 AND c.contype IN ('p', 'u', 'f') AND c.conparentid = 0
    UNION ALL
    SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i
     WHERE i.indrelid = $1 AND NOT EXISTS (
           SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.conrelid = $1 AND c.contype IN ('p', 'u'))";

const SETTINGS: &str = "
    SELECT format('ALTER SEQUENCE %s OWNED BY %s.%I', d.objid::regclass, $2, a.attname)
      FROM pg_depend d
      JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
      JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
     WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
       AND d.deptype = 'a'
    UNION ALL
    SELECT format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS %s', $2, attname, attstattarget)
      FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attstattarget >= 0
    UNION ALL
    SELECT format('ALTER TABLE %s ALTER COLUMN %I SET (%s)', $2, attname, option)
      FROM pg_attribute, unnest(attoptions) option
     WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND option LIKE 'n\\_distinct%'
    UNION ALL
    SELECT s.statement FROM pg_statistic_ext x JOIN pg_namespace n ON n.oid = x.stxnamespace,
           LATERAL (VALUES
               (1, pg_get_statisticsobjdef(x.oid)),
               (2, format('ALTER STATISTICS %I.%I OWNER TO %I', n.nspname, x.stxname, pg_get_userbyid(x.stxowner))),
               (3, CASE WHEN x.stxstattarget >= 0 THEN
                   format('ALTER STATISTICS %I.%I SET STATISTICS %s', n.nspname, x.stxname, x.stxstattarget) END)
           ) s (n, statement)
     WHERE x.stxrelid = $1 AND s.statement IS NOT NULL
    UNION ALL
    SELECT format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', p.polname, $2,
                  CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                  CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                                WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                  (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', ')
                     FROM unnest(p.polroles) r),
                  ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
                  ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
      FROM pg_policy p WHERE p.polrelid = $1
    UNION ALL
    SELECT format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', $2) FROM pg_class WHERE oid = $1 AND relrowsecurity
    UNION ALL
    SELECT format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', $2) FROM pg_class WHERE oid = $1 AND relforcerowsecurity";

const TRIGGERS: &str = "
    SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal
    UNION ALL
    SELECT format('ALTER TABLE %s %s TRIGGER %I', $2,
                  CASE tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, tgname)
      FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal AND tgenabled <> 'O'
    UNION ALL
    SELECT format('ALTER TABLE %s REPLICA IDENTITY %s', $2,
                  CASE relreplident WHEN 'n' THEN 'NOTHING' ELSE 'FULL' END)
      FROM pg_class WHERE oid = $1 AND relreplident IN ('n', 'f')
    UNION ALL
    SELECT format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', $2, x.relname)
      FROM pg_class c
      JOIN pg_index i ON i.indrelid = c.oid AND i.indisreplident
      JOIN pg_class x ON x.oid = i.indexrelid
     WHERE c.oid = $1 AND c.relreplident = 'i'";

const COMMENTS: &str = "
    SELECT format('COMMENT ON %s IS %L', o.object, d.description)
      FROM (SELECT 'pg_class'::regclass AS class, $1::oid AS oid, format('TABLE %s', $2) AS object
            UNION ALL
            SELECT 'pg_class'::regclass, x.oid, format('INDEX %I.%I', $3, x.relname)
              FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = $1
            UNION ALL
            SELECT 'pg_constraint'::regclass, oid, format('CONSTRAINT %I ON %s', conname, $2)
              FROM pg_constraint WHERE conrelid = $1 AND contype IN ('p', 'u', 'f')
            UNION ALL
            SELECT 'pg_trigger'::regclass, oid, format('TRIGGER %I ON %s', tgname, $2)
              FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal
            UNION ALL
            SELECT 'pg_statistic_ext'::regclass, x.oid, format('STATISTICS %I.%I', n.nspname, x.stxname)
              FROM pg_statistic_ext x JOIN pg_namespace n ON n.oid = x.stxnamespace WHERE x.stxrelid = $1
            UNION ALL
            SELECT 'pg_policy'::regclass, oid, format('POLICY %I ON %s', polname, $2)
              FROM pg_policy WHERE polrelid = $1) o
      JOIN pg_description d ON d.classoid = o.class AND d.objoid = o.oid AND d.objsubid = 0";

impl Parts {
    /// Reads the parts of a plain table.
    pub fn read(table: &Table) -> Result<Self> {
        let row_triggers = spi::query(
            "SELECT tgname::text FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal AND tgtype & 1 = 1",
            &[table.oid.into()],
            |row| row.get::<String>(1),
        )?;
        Ok(Self {
            removals: statements(REMOVALS, table)?,
            indexes: statements(INDEXES, table)?,
            settings: statements(SETTINGS, table)?,
            triggers: statements(TRIGGERS, table)?,
            comments: statements(COMMENTS, table)?,
            has_row_triggers: !row_triggers.is_empty(),
        })
    }
}

fn statements(sql: &str, table: &Table) -> Result<Vec<String>> {
    let args = [
        table.oid.into(),
        table.qualified().into(),
        table.schema.as_str().into(),
    ];
    spi::query(sql, &args, |row| row.get(1))
}

/// Carries statements out, in their order.
pub fn execute_all(statements: &[String]) -> Result<()> {
    for statement in statements {
        spi::execute(statement)?;
    }
    Ok(())
}
