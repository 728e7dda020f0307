//! Views that read a plain table. They are bound to its OID, which becomes the shard's; replacing each by
//! its own definition binds it to the partitioned table. Owner, grants, triggers and column defaults of a
//! view stay, since it remains the same object.

use crate::error::Result;
use crate::manage::table::Table;
use crate::pg::spi;

/// The statements that re-create the views that read the table, written while it has its name.
/// Views that only read other views need nothing.
pub fn statements(table: &Table) -> Result<Vec<String>> {
    spi::query(
        "SELECT format('CREATE OR REPLACE VIEW %I.%I%s AS %s', n.nspname, v.relname,
                       (SELECT ' WITH (' || string_agg(format('%I=%L', o.option_name, o.option_value), ', ') || ')'
                          FROM pg_options_to_table(v.reloptions) o),
                       pg_get_viewdef(v.oid))
           FROM pg_class v JOIN pg_namespace n ON n.oid = v.relnamespace
          WHERE v.relkind = 'v' AND EXISTS (
                SELECT FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid AND r.rulename = '_RETURN'
                 WHERE d.classid = 'pg_rewrite'::regclass AND r.ev_class = v.oid
                   AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1)
          ORDER BY v.oid",
        &[table.oid.into()],
        |row| row.get(1),
    )
}
