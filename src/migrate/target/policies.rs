//! Row-level security. The flags are set before the copy, which runs as the owner, whom they do not concern; the
//! policies come inside the switch, since a sub-select in one names the shard that it is on.

/// The flags, and the policies of the shard itself.
pub const PARTS: &str = "
SELECT s.oid, 'prepare', 80, 'row-level security',
       format('ALTER TABLE %s %s ROW LEVEL SECURITY', s.name, f.verb), f.verb
  FROM s JOIN pg_class c ON c.oid = s.oid,
       LATERAL (VALUES ('ENABLE', c.relrowsecurity), ('FORCE', c.relforcerowsecurity)) f (verb, is_set)
 WHERE f.is_set
UNION ALL
SELECT s.oid, 'switch', 30, format('policy \"%s\"', p.polname),
       format('CREATE POLICY %I ON %s%s', p.polname, s.own, d.definition), d.definition
  FROM s JOIN pg_policy p ON p.polrelid = s.oid,
       LATERAL (SELECT format(' AS %s FOR %s TO %s%s%s',
                    CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                    CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                                  WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                    (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', '
                                       ORDER BY n) FROM unnest(p.polroles) WITH ORDINALITY x (r, n)),
                    ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
                    ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')) d (definition)";
