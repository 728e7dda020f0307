//! Comments, each as soon as what it is on exists. Those of indexes and extended statistics come with them.

/// Comments on the table, its columns, constraints, policies, rules and triggers. A key's constraint is named
/// like its index and gets its comment with that.
pub const PARTS: &str = "
SELECT s.oid, 'prepare', 90, format('comment on %s', o.object),
       format('COMMENT ON %s IS %L', o.object, d.description), NULL
  FROM s, LATERAL (
       SELECT 0 AS number, format('TABLE %s', s.name) AS object
        UNION ALL
       SELECT a.attnum, format('COLUMN %s.%I', s.name, a.attname) FROM pg_attribute a
        WHERE a.attrelid = s.oid AND a.attnum > 0 AND NOT a.attisdropped) o
  JOIN pg_description d ON d.objsubid = o.number AND d.classoid = 'pg_class'::regclass
 WHERE d.objoid = s.oid
UNION ALL
SELECT s.oid, CASE WHEN k.contype IN ('c', 'n') AND k.convalidated THEN 'commented' ELSE 'switch' END, 90,
       format('comment on constraint \"%s\"', k.conname),
       format('COMMENT ON CONSTRAINT %I ON %s IS %L', k.conname,
              CASE WHEN k.contype IN ('c', 'n') AND k.convalidated THEN s.name ELSE s.own END, d.description), NULL
  FROM s JOIN pg_constraint k ON k.conrelid = s.oid AND k.contype IN ('c', 'n', 'f')
  JOIN pg_description d ON d.objoid = k.oid AND d.classoid = 'pg_constraint'::regclass
 WHERE NOT EXISTS (SELECT FROM pg_constraint up WHERE up.oid = k.conparentid AND up.conrelid = k.conrelid)
UNION ALL
SELECT s.oid, 'switch', 90, format('comment on policy \"%s\"', p.polname),
       format('COMMENT ON POLICY %I ON %s IS %L', p.polname, s.own, d.description), NULL
  FROM s JOIN pg_policy p ON p.polrelid = s.oid
  JOIN pg_description d ON d.objoid = p.oid AND d.classoid = 'pg_policy'::regclass
UNION ALL
SELECT s.oid, 'switch', 90, format('comment on rule \"%s\"', r.rulename),
       format('COMMENT ON RULE %I ON %s IS %L', r.rulename, s.own, d.description), NULL
  FROM s JOIN pg_rewrite r ON r.ev_class = s.oid
  JOIN pg_description d ON d.objoid = r.oid AND d.classoid = 'pg_rewrite'::regclass
UNION ALL
SELECT s.oid, CASE t.tgparentid WHEN 0 THEN 'switch' ELSE 'attached' END, 90, format('comment on trigger \"%s\"', t.tgname),
       format('COMMENT ON TRIGGER %I ON %s IS %L', t.tgname, s.own, d.description), NULL
  FROM s JOIN pg_trigger t ON t.tgrelid = s.oid AND NOT t.tgisinternal
  JOIN pg_description d ON d.objoid = t.oid AND d.classoid = 'pg_trigger'::regclass";
