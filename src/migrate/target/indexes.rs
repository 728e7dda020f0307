//! Indexes and the constraints that they carry, as facts: they are built after the copy, by `migrate::index`.

/// Facts. Names are no part of the comparison of shards: they usually contain the shard's.
pub const PARTS: &str = "
SELECT s.oid, 'fact', 100, format('index \"%s\"', x.relname),
       concat_ws('|', i.indexrelid, pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisreplident, i.indisclustered,
                 x.reltablespace, k.definition, k.description, obj_description(x.oid, 'pg_class'), t.targets),
       CASE WHEN i.indisvalid THEN
           concat_ws('|', substr(pg_get_indexdef(i.indexrelid), strpos(pg_get_indexdef(i.indexrelid), ' ON ' || s.own) + 4),
                     i.indisunique, i.indisreplident, k.definition) END
  FROM s JOIN pg_index i ON i.indrelid = s.oid JOIN pg_class x ON x.oid = i.indexrelid
  LEFT JOIN LATERAL (SELECT pg_get_constraintdef(c.oid) AS definition, obj_description(c.oid, 'pg_constraint') AS description
                       FROM pg_constraint c
                      WHERE c.conindid = i.indexrelid AND c.conrelid = s.oid AND c.contype IN ('p', 'u', 'x')) k ON true
  LEFT JOIN LATERAL (SELECT string_agg(a.attnum || '=' || a.attstattarget, ' ' ORDER BY a.attnum) AS targets
                       FROM pg_attribute a WHERE a.attrelid = i.indexrelid AND coalesce(a.attstattarget, -1) >= 0) t ON true";
