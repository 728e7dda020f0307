//! What a shard is, as the catalogs have it: everything but what names or numbers this very relation.
//!
//! Whole catalog rows as JSON, from which only what is listed here is left out, so that a property that nobody
//! thought of is compared too.

use crate::repart::Session;

/// Creates the function `describe(regclass)`, whose rows are equal for shards that are alike. The tablespace is
/// left out on request: it is what a move changes.
pub const CREATE: &str = r#"
CREATE FUNCTION public.describe(shard regclass, tablespaces boolean DEFAULT true) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
WITH me AS (
    SELECT c.oid, c.relname::text AS name, '\m' || c.relname || '(?=\M|_)' AS pattern FROM pg_class c WHERE c.oid = shard),
acl (oid, kind, number, list) AS (
    SELECT c.oid, 'table', 0, (SELECT array_agg(a::text ORDER BY a::text)
                                 FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a)
      FROM pg_class c JOIN me USING (oid)
    UNION ALL
    SELECT a.attrelid, 'column', a.attnum, (SELECT array_agg(x::text ORDER BY x::text) FROM aclexplode(a.attacl) x)
      FROM pg_attribute a JOIN me ON me.oid = a.attrelid),
parts (part) AS (
    SELECT concat_ws(' ', 'table',
               to_jsonb(c) - '{oid,relname,reltype,relfilenode,relpages,reltuples,relallvisible,relallfrozen,
                               reltoastrelid,relfrozenxid,relminmxid,relpartbound,relnatts,relhastriggers,relacl,
                               reltablespace}'::text[],
               'tablespace', CASE WHEN tablespaces THEN c.reltablespace END,
               'toast', (SELECT t.reloptions FROM pg_class t WHERE t.oid = c.reltoastrelid),
               'grants', (SELECT list FROM acl WHERE kind = 'table'),
               'comment', obj_description(c.oid, 'pg_class'))
      FROM pg_class c JOIN me USING (oid)
    UNION ALL
    SELECT concat_ws(' ', 'column', a.attname, format_type(a.atttypid, a.atttypmod),
               to_jsonb(a) - '{attrelid,attnum,attislocal,attinhcount,atthasmissing,attmissingval,attcacheoff,attacl,
                               attoptions}'::text[],
               'options', (SELECT array_agg(o) FROM unnest(a.attoptions) o WHERE o LIKE 'n\_distinct%'),
               'default', (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
                            WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum),
               'grants', (SELECT list FROM acl WHERE kind = 'column' AND number = a.attnum),
               'comment', col_description(a.attrelid, a.attnum))
      FROM pg_attribute a JOIN me ON me.oid = a.attrelid WHERE a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT concat_ws(' ', 'constraint', CASE WHEN k.contype IN ('p', 'u', 'x') OR k.contype = 'n' AND k.conname LIKE '%\_not\_null' THEN NULL
                    ELSE k.conname END, -- Not a name that PostgreSQL made of the shard's.
               pg_get_constraintdef(k.oid),
               to_jsonb(k) - '{oid,conname,conrelid,conindid,conparentid,conislocal,coninhcount,conkey,conbin}'::text[]
                           -- Of keys it says nothing: only how they were made.
                           - CASE WHEN k.contype IN ('p', 'u', 'x', 'f') THEN 'connoinherit' ELSE '' END,
               'of the parent', k.conparentid <> 0,
               'triggers', (SELECT count(*) FROM pg_trigger t WHERE t.tgconstraint = k.oid AND t.tgenabled = 'O'),
               'comment', obj_description(k.oid, 'pg_constraint'))
      FROM pg_constraint k JOIN me ON me.oid = k.conrelid
     WHERE k.contype <> 't' AND NOT EXISTS (SELECT FROM pg_constraint up WHERE up.oid = k.conparentid AND up.conrelid = k.conrelid)
    UNION ALL
    SELECT concat_ws(' ', 'index', regexp_replace(pg_get_indexdef(x.oid), 'INDEX .*? ON ', 'INDEX ON '),
               to_jsonb(i) - '{indexrelid,indrelid,indkey,indexprs,indpred,indcheckxmin}'::text[],
               'options', x.reloptions, 'access method', x.relam,
               'tablespace', CASE WHEN tablespaces THEN x.reltablespace END,
               'of the parent', EXISTS (SELECT FROM pg_inherits WHERE inhrelid = x.oid),
               'statistics', (SELECT array_agg(a.attnum || '=' || a.attstattarget) FROM pg_attribute a
                               WHERE a.attrelid = x.oid AND a.attstattarget >= 0),
               'comment', obj_description(x.oid, 'pg_class'))
      FROM pg_index i JOIN me ON me.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
    UNION ALL
    SELECT concat_ws(' ', 'trigger', pg_get_triggerdef(t.oid),
               to_jsonb(t) - '{oid,tgrelid,tgparentid,tgconstrrelid,tgconstrindid,tgconstraint,tgqual,tgattr}'::text[],
               'of the parent', t.tgparentid <> 0, 'comment', obj_description(t.oid, 'pg_trigger'))
      FROM pg_trigger t JOIN me ON me.oid = t.tgrelid WHERE NOT t.tgisinternal
    UNION ALL
    SELECT concat_ws(' ', 'rule', pg_get_ruledef(r.oid),
               to_jsonb(r) - '{oid,ev_class,ev_qual,ev_action}'::text[], 'comment', obj_description(r.oid, 'pg_rewrite'))
      FROM pg_rewrite r JOIN me ON me.oid = r.ev_class
    UNION ALL
    SELECT concat_ws(' ', 'policy', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid),
               to_jsonb(p) - '{oid,polrelid,polqual,polwithcheck}'::text[], 'comment', obj_description(p.oid, 'pg_policy'))
      FROM pg_policy p JOIN me ON me.oid = p.polrelid
    UNION ALL
    SELECT concat_ws(' ', 'statistics', pg_get_statisticsobjdef_columns(s.oid),
               to_jsonb(s) - '{oid,stxrelid,stxname,stxkeys,stxexprs}'::text[],
               'analysed', EXISTS (SELECT FROM pg_statistic_ext_data d WHERE d.stxoid = s.oid),
               'comment', obj_description(s.oid, 'pg_statistic_ext'))
      FROM pg_statistic_ext s JOIN me ON me.oid = s.stxrelid
    UNION ALL
    SELECT concat_ws(' ', 'label', l.provider, l.label, l.objsubid) FROM pg_seclabel l JOIN me ON me.oid = l.objoid)
SELECT regexp_replace(part, me.pattern, '<shard>', 'g') FROM parts, me ORDER BY 1
$$"#;

/// The description of a shard.
pub fn shard(session: &mut Session, name: &str, tablespaces: bool) -> Vec<String> {
    session
        .query(
            "SELECT * FROM public.describe($1::text::regclass, $2)",
            &[&name, &tablespaces],
        )
        .iter()
        .map(|row| row.get(0))
        .collect()
}

/// Fails with the lines in which two descriptions differ.
///
/// # Panics
/// Panics when they do.
pub fn assert_same(what: &str, before: &[String], after: &[String]) {
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these
            .iter()
            .filter(|line| !those.contains(line))
            .cloned()
            .collect()
    };
    let (lost, gained) = (only(before, after), only(after, before));
    assert!(
        lost.is_empty() && gained.is_empty() && before.len() == after.len(),
        "{what}: lost {lost:#?}, gained {gained:#?}"
    );
}
