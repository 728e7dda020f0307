-- What users look at. Bounds come from PostgreSQL's own catalogs; nothing about them is stored.

CREATE VIEW repart.shards AS
SELECT s.relation,
       c.oid::regclass AS shard,
       repart_bound(pg_catalog.pg_get_expr(c.relpartbound, c.oid), false) AS key_from,
       repart_bound(pg_catalog.pg_get_expr(c.relpartbound, c.oid), true) AS key_to,
       coalesce(v.srvname, 'local')::text AS node,
       CASE WHEN v.oid IS NULL THEN coalesce(t.spcname, d.spcname) END::text AS tablespace,
       greatest(c.reltuples, 0)::bigint AS rows,
       CASE WHEN v.oid IS NULL THEN pg_catalog.pg_total_relation_size(c.oid) ELSE l.size END AS bytes,
       l.load,
       f.peak AS load_forecast,
       s.colocation_group
  FROM repart.sharded_tables s
  JOIN pg_catalog.pg_inherits i ON i.inhparent = s.relation
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
  LEFT JOIN pg_catalog.pg_tablespace t ON t.oid = c.reltablespace
  CROSS JOIN (SELECT ts.spcname FROM pg_catalog.pg_database db JOIN pg_catalog.pg_tablespace ts ON ts.oid = db.dattablespace
               WHERE db.datname = pg_catalog.current_database()) d
  LEFT JOIN pg_catalog.pg_foreign_table g ON g.ftrelid = c.oid
  LEFT JOIN pg_catalog.pg_foreign_server v ON v.oid = g.ftserver
  LEFT JOIN LATERAL (SELECT a.reads + a.writes AS load, a.size FROM repart.samples a
                      WHERE a.shard = c.oid ORDER BY a.at DESC LIMIT 1) l ON true
  LEFT JOIN LATERAL (SELECT max(q) AS peak FROM repart.forecast_curves u, pg_catalog.unnest(u.q90) q
                      WHERE u.shard = c.oid AND u.metric = 'load') f ON true
 WHERE pg_catalog.pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT';
COMMENT ON VIEW repart.shards IS 'shards of managed tables: range [key_from, key_to), place, estimated rows, bytes with indexes, load now and highest q90 load forecast in rows per second; tables of one colocation_group share their boundaries';

CREATE VIEW repart.migrations AS
SELECT j.id,
       j.kind,
       j.relation_name AS relation,
       ARRAY(SELECT s ->> 'name' FROM pg_catalog.jsonb_array_elements(j.spec -> 'sources') s) AS sources,
       ARRAY(SELECT coalesce(s ->> 'lower', 'MINVALUE') || ' .. ' || coalesce(s ->> 'upper', 'MAXVALUE')
                     || CASE WHEN s ->> 'keeps' IS NOT NULL THEN ' (in place)' ELSE '' END
                     || coalesce(' on ' || (s ->> 'node'), '')
               FROM pg_catalog.jsonb_array_elements(j.spec -> 'targets') s) AS targets,
       j.state,
       j.state_since,
       p.by IS NOT NULL AS paused,
       coalesce('paused by ' || p.by, j.reason) AS reason,
       j.rows_done,
       j.rows_total,
       j.bytes_done,
       j.bytes_total,
       CASE WHEN j.state IN ('cleaning', 'done') THEN 1
            WHEN j.bytes_total > 0 THEN least(j.bytes_done::float8 / j.bytes_total, 1) ELSE 0 END AS progress,
       CASE WHEN j.copy_seconds > 0 THEN j.bytes_done / j.copy_seconds END AS rate,
       CASE WHEN j.state = 'copying' AND j.copy_seconds > 0 AND j.bytes_done > 0
            THEN pg_catalog.make_interval(secs => greatest(j.bytes_total - j.bytes_done, 0) * j.copy_seconds / j.bytes_done)
       END AS eta,
       j.lag,
       j.pause_ms,
       j.plan_id,
       j.step,
       j.requested_by,
       j.queued_at,
       j.start_at,
       j.started_at,
       j.finished_at,
       j.reverts,
       j.retained_until,
       j.error,
       j.leader,
       j.waits_for,
       j.waiting_since,
       j.retry_at
  FROM repart.journal j
  LEFT JOIN repart.pause a ON true
 CROSS JOIN LATERAL (
       SELECT CASE WHEN j.state NOT IN ('cleaning', 'done', 'cancelled', 'failed')
                   THEN coalesce(j.paused_by, a.paused_by)::text END AS by) p;
COMMENT ON VIEW repart.migrations IS 'migrations, queued, running and ended: progress 0 to 1, rate in bytes per second of copying, lag in captured changes, pause_ms of the cutover, reverts the migration that it takes back, retained_until when its old shards are dropped, leader the migration of a colocated table that it is part of, waits_for a node that does not answer, waiting_since when it was first tried in vain, retry_at when it is tried again at the latest';
