//! Rules. Inside the switch: before, they would change what the copy and the catch-up write.

/// The rules of the shard itself, and whether they are enabled.
pub const PARTS: &str = "
SELECT s.oid, 'switch', 40, format('rule \"%s\"', r.rulename), pg_get_ruledef(r.oid), pg_get_ruledef(r.oid)
  FROM s JOIN pg_rewrite r ON r.ev_class = s.oid
UNION ALL
SELECT s.oid, 'switch', 41, format('state of rule \"%s\"', r.rulename), d.definition, d.definition
  FROM s JOIN pg_rewrite r ON r.ev_class = s.oid,
       LATERAL (SELECT format('ALTER TABLE %s %s RULE %I', s.own,
                    CASE r.ev_enabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END,
                    r.rulename)) d (definition)
 WHERE r.ev_enabled <> 'O'";
