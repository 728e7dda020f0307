//! Columns: what a shard's own columns have beside name, type and collation, which are the sharded table's.
//!
//! Before the copy, since the rows are written by it: storage and compression decide how, NOT NULL whether.

/// Facts, defaults, NOT NULL, storage, compression, statistics targets, `n_distinct`.
///
/// `LIKE` copies NOT NULL constraints of PostgreSQL 18 under the sharded table's names and as valid; they are
/// taken off and made as the shard has them.
pub const PARTS: &str = "
SELECT s.oid, 'fact', 10, format('column \"%s\"', a.attname),
       concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attcollation, a.attidentity, a.attgenerated,
                 CASE WHEN a.attnotnull THEN 'NOT NULL' END, g.expression),
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attidentity, a.attgenerated,
                 CASE WHEN a.attnotnull THEN 'NOT NULL' END, g.expression)
  FROM s JOIN pg_attribute a ON a.attrelid = s.oid
  LEFT JOIN LATERAL (SELECT pg_get_expr(d.adbin, d.adrelid) AS expression FROM pg_attrdef d
                      WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated <> '') g ON true
 WHERE a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT s.oid, 'prepare', 20, format('default of column \"%s\"', a.attname),
       format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT %s', s.name, a.attname, pg_get_expr(d.adbin, d.adrelid)),
       pg_get_expr(d.adbin, d.adrelid)
  FROM s JOIN pg_attribute a ON a.attrelid = s.oid
  JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attgenerated = ''
UNION ALL
SELECT s.oid, 'prepare', 30, format('constraint \"%s\"', k.conname),
       format('ALTER TABLE %s ALTER COLUMN %I DROP NOT NULL', s.name, a.attname), NULL
  FROM s JOIN pg_constraint k ON k.conrelid = s.oid AND k.contype = 'n'
  JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
UNION ALL
SELECT s.oid, 'owner', 10, format('constraint \"%s\"', k.conname),
       format('ALTER TABLE %s ADD CONSTRAINT %I %s', s.name, k.conname, pg_get_constraintdef(k.oid)),
       pg_get_constraintdef(k.oid)
  FROM s JOIN pg_constraint k ON k.conrelid = s.oid AND k.contype = 'n' AND k.convalidated
UNION ALL
SELECT s.oid, 'owner', 20, format('NOT NULL of column \"%s\"', a.attname),
       format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL', s.name, a.attname), NULL
  FROM s JOIN pg_attribute a ON a.attrelid = s.oid
 WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull
   AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = s.oid AND k.contype = 'n' AND k.conkey[1] = a.attnum)
UNION ALL
SELECT s.oid, 'prepare', 40, format('storage of column \"%s\"', a.attname),
       format('ALTER TABLE %s ALTER COLUMN %I SET STORAGE %s', s.name, a.attname,
              CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END),
       NULL
  FROM s JOIN pg_attribute a ON a.attrelid = s.oid JOIN pg_type t ON t.oid = a.atttypid
 WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attstorage <> t.typstorage
UNION ALL
SELECT s.oid, 'prepare', 50, format('compression of column \"%s\"', a.attname),
       format('ALTER TABLE %s ALTER COLUMN %I SET COMPRESSION %s', s.name, a.attname,
              CASE a.attcompression WHEN 'l' THEN 'lz4' ELSE 'pglz' END),
       NULL
  FROM s JOIN pg_attribute a ON a.attrelid = s.oid
 WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attcompression <> ''
UNION ALL
SELECT s.oid, 'prepare', 60, format('statistics target of column \"%s\"', a.attname),
       format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS %s', s.name, a.attname, a.attstattarget), NULL
  FROM s JOIN pg_attribute a ON a.attrelid = s.oid
 WHERE a.attnum > 0 AND NOT a.attisdropped AND coalesce(a.attstattarget, -1) >= 0
UNION ALL
SELECT s.oid, 'prepare', 60, format('%s of column \"%s\"', split_part(o, '=', 1), a.attname),
       format('ALTER TABLE %s ALTER COLUMN %I SET (%s)', s.name, a.attname, o), NULL
  FROM s JOIN pg_attribute a ON a.attrelid = s.oid, unnest(a.attoptions) o
 WHERE a.attnum > 0 AND NOT a.attisdropped AND o LIKE 'n\\_distinct%'";
