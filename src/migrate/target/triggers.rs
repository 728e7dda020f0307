//! Triggers. Inside the switch: before, they would fire for the rows that repart writes. Those of the sharded
//! table are cloned by ATTACH, in their state there; a shard's own state of a clone is set afterwards.

/// Own triggers of the shard and their state; the state of clones where it is not that of the original. Not
/// those of change capture.
pub const PARTS: &str = "
SELECT s.oid, 'switch', 50, format('trigger \"%s\"', t.tgname), pg_get_triggerdef(t.oid), pg_get_triggerdef(t.oid)
  FROM s JOIN pg_trigger t ON t.tgrelid = s.oid
 WHERE NOT t.tgisinternal AND t.tgparentid = 0
   AND NOT EXISTS (SELECT FROM pg_proc p WHERE p.oid = t.tgfoid AND p.pronamespace = 'repart'::regnamespace)
UNION ALL
SELECT s.oid, 'switch', 51, format('state of trigger \"%s\"', t.tgname), d.definition, d.definition
  FROM s JOIN pg_trigger t ON t.tgrelid = s.oid,
       LATERAL (SELECT format('ALTER TABLE ONLY %s %s TRIGGER %I', s.own,
                    CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END,
                    t.tgname)) d (definition)
 WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled <> 'O'
   AND NOT EXISTS (SELECT FROM pg_proc p WHERE p.oid = t.tgfoid AND p.pronamespace = 'repart'::regnamespace)
UNION ALL
SELECT s.oid, 'attached', 10, format('state of trigger \"%s\"', t.tgname), d.definition, d.definition
  FROM s JOIN pg_trigger t ON t.tgrelid = s.oid AND NOT t.tgisinternal
  JOIN pg_trigger o ON o.oid = t.tgparentid AND o.tgenabled <> t.tgenabled,
       LATERAL (SELECT format('ALTER TABLE ONLY %s %s TRIGGER %I', s.own,
                    CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS'
                                     ELSE 'ENABLE' END,
                    t.tgname)) d (definition)";
