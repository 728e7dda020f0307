//! What belongs to the table as a whole: its place, its storage parameters, its owner, grants, replica identity.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::spi;

/// Facts and the replica identity. Grants are carried by `pg::grants`; an index that is the replica identity
/// says so itself. A replica identity whose index was dropped identifies nothing. That of a foreign table is always said to
/// be nothing, and means nothing.
pub const PARTS: &str = "
SELECT s.oid, 'fact', 1, 'its place',
       concat_ws('|', c.relname, c.relnamespace, c.relowner, c.reltablespace, c.relam, c.relpersistence,
                 c.relispartition, pg_get_expr(c.relpartbound, c.oid)), NULL
  FROM s JOIN pg_class c ON c.oid = s.oid
UNION ALL
SELECT s.oid, 'fact', 2, 'storage parameters', concat_ws('|', c.reloptions::text, t.reloptions::text), NULL
  FROM s JOIN pg_class c ON c.oid = s.oid LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
UNION ALL
SELECT s.oid, 'fact', 3, 'grants', g.list, g.list
  FROM s JOIN pg_class c ON c.oid = s.oid,
       LATERAL (SELECT string_agg(concat_ws(' ', a.grantor, a.grantee, a.privilege_type, a.is_grantable), ', '
                                  ORDER BY a.grantor, a.grantee, a.privilege_type)
                  FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a) g (list)
UNION ALL
SELECT s.oid, 'fact', 4, format('grants on column \"%s\"', t.attname), g.list, g.list
  FROM s JOIN pg_attribute t ON t.attrelid = s.oid AND t.attnum > 0 AND NOT t.attisdropped AND t.attacl IS NOT NULL,
       LATERAL (SELECT string_agg(concat_ws(' ', a.grantor, a.grantee, a.privilege_type, a.is_grantable), ', '
                                  ORDER BY a.grantor, a.grantee, a.privilege_type) FROM aclexplode(t.attacl) a) g (list)
 WHERE g.list <> ''
UNION ALL
SELECT s.oid, 'prepare', 70, 'replica identity',
       format('ALTER TABLE %s REPLICA IDENTITY %s', s.name, CASE c.relreplident WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END),
       CASE c.relreplident WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END
  FROM s JOIN pg_class c ON c.oid = s.oid
 WHERE c.relkind <> 'f'
   AND (c.relreplident IN ('n', 'f')
        OR c.relreplident = 'i' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = s.oid AND i.indisreplident))";

/// What CREATE TABLE has to say about the place of a source's replacement.
pub struct Place {
    /// The access method, as SQL writes it.
    pub access_method: String,
    /// Storage parameters as `WITH` lists them, those of the TOAST table included; may be empty.
    pub options: String,
    /// The tablespace; empty for the database's default.
    pub tablespace: String,
}

/// Reads the place of a table.
pub fn place(table: pg_sys::Oid) -> Result<Place> {
    let found = spi::select_first(
        "SELECT pg_catalog.quote_ident(a.amname),
                coalesce((SELECT pg_catalog.string_agg(o, ', ') FROM (
                    SELECT pg_catalog.format('%I = %L', pg_catalog.split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)) AS o
                      FROM pg_catalog.unnest(c.reloptions) o
                    UNION ALL
                    SELECT pg_catalog.format('toast.%I = %L', pg_catalog.split_part(o, '=', 1), substr(o, strpos(o, '=') + 1))
                      FROM pg_catalog.pg_class t, pg_catalog.unnest(t.reloptions) o WHERE t.oid = c.reltoastrelid) x), ''),
                coalesce(s.spcname::text, '')
           FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_am a ON a.oid = c.relam
           LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace
          WHERE c.oid = $1",
        &[table.into()],
        |row| {
            Ok(Place {
                access_method: row.get(1)?,
                options: row.get(2)?,
                tablespace: row.get(3)?,
            })
        },
    )?;
    found.ok_or_else(|| Error::Internal("a source vanished".to_owned()))
}

/// The table in whose image a source's replacement is created: the sharded table, so that both have their
/// columns in one order and PostgreSQL passes rows on as they are; but the source itself where it computes a
/// generated column in its own way, since only `LIKE` copies an expression without evaluating any of it.
pub fn model(parent: pg_sys::Oid, source: pg_sys::Oid) -> Result<pg_sys::Oid> {
    let differs = spi::query_value::<bool>(
        "SELECT EXISTS (
             SELECT FROM pg_catalog.pg_attribute a
               JOIN pg_catalog.pg_attribute p ON p.attrelid = $1 AND p.attname = a.attname AND NOT p.attisdropped
               JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
               LEFT JOIN pg_catalog.pg_attrdef e ON e.adrelid = p.attrelid AND e.adnum = p.attnum
              WHERE a.attrelid = $2 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> ''
                AND pg_catalog.pg_get_expr(d.adbin, d.adrelid)
                    IS DISTINCT FROM pg_catalog.pg_get_expr(e.adbin, e.adrelid))",
        &[parent.into(), source.into()],
    )?;
    Ok(if differs == Some(true) {
        source
    } else {
        parent
    })
}
