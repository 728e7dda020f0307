-- What was observed, forecast, planned and learned.

CREATE VIEW repart.load AS
SELECT i.inhparent::regclass AS relation,
       s.shard::regclass AS shard,
       s.at, s.seconds, s.reads, s.writes, s.bytes, s.size,
       s.statements_read, s.statements_written, s.busy_ms, s.p50_ms, s.p99_ms
  FROM repart.sharded_tables t
  JOIN pg_catalog.pg_inherits i ON i.inhparent = t.relation
 CROSS JOIN LATERAL (
       SELECT * FROM repart.samples s WHERE s.shard = i.inhrelid ORDER BY s.at DESC LIMIT 1) s;
COMMENT ON VIEW repart.load IS 'latest sample of each shard: rows read, rows written and bytes accessed per second; size in bytes; with the access sampler also statements that read and that wrote and milliseconds of execution, per second, and the median and 99 % quantile of their execution times in milliseconds';
GRANT SELECT ON repart.load TO pg_monitor;

CREATE VIEW repart.heat AS SELECT * FROM repart_heat(NULL);
COMMENT ON VIEW repart.heat IS 'where inside each shard the load falls, on this server and of late: buckets [key_from, key_to) with rows read and written per second and their share of the shard''s load; append is 1 where keys are written in ascending order, -1 in descending order, 0 without order';
GRANT SELECT ON repart.heat TO pg_monitor;

CREATE VIEW repart.forecasts AS
SELECT i.inhparent::regclass AS relation,
       f.shard::regclass AS shard,
       f.metric,
       f.first_at + q.n * f.step AS at,
       q.q50, q.q90, q.q99, q.peak,
       f.model, f.skill, f.season, f.made_at
  FROM repart.forecast_curves f
  JOIN pg_catalog.pg_inherits i ON i.inhrelid = f.shard
 CROSS JOIN LATERAL unnest(f.q50, f.q90, f.q99, f.peak) WITH ORDINALITY AS q (q50, q90, q99, peak, n);
COMMENT ON VIEW repart.forecasts IS 'latest stored forecast of each shard and metric, one row per step, "at" its end, as in repart.load; metric load is reads and writes together; peak is the 90 % quantile of the highest value up to that time';
GRANT SELECT ON repart.forecasts TO pg_monitor;

CREATE VIEW repart.plans AS
SELECT p.plan_id, p.step, p.made_at,
       p.spec ->> 'action' AS action,
       p.relation_name AS relation,
       ARRAY(SELECT coalesce(c.relname::text, o.oid)
               FROM pg_catalog.jsonb_array_elements_text(p.spec -> 'sources') WITH ORDINALITY AS o (oid, n)
               LEFT JOIN pg_catalog.pg_class c ON c.oid = o.oid::oid
              ORDER BY o.n) AS shards,
       ARRAY(SELECT b.boundary FROM pg_catalog.jsonb_array_elements_text(p.spec -> 'boundaries')
               WITH ORDINALITY AS b (boundary, n) ORDER BY b.n) AS boundaries,
       p.spec ->> 'reason' AS reason,
       p.spec ->> 'why' AS why,
       (p.spec ->> 'bytes')::float8::bigint AS bytes,
       (p.spec ->> 'load_before')::float8 AS load_before,
       (p.spec ->> 'load_after')::float8 AS load_after,
       (p.spec ->> 'benefit')::float8 AS benefit,
       (p.spec ->> 'cost')::float8 AS cost,
       pg_catalog.to_timestamp((p.spec ->> 'start_by')::float8 / 1e6) AS start_by,
       pg_catalog.to_timestamp((p.spec ->> 'planned_start')::float8 / 1e6) AS planned_start,
       pg_catalog.to_timestamp((p.spec ->> 'deadline')::float8 / 1e6) AS deadline,
       (p.spec ->> 'will_miss')::boolean AS will_miss,
       (p.spec ->> 'confidence')::float8 AS confidence,
       p.spec -> 'alternatives' AS alternatives,
       p.migration,
       p.spec ->> 'source' AS source,
       p.spec ->> 'target' AS target
  FROM repart.plan_steps p;
COMMENT ON VIEW repart.plans IS 'stored plans; migration is the one that carries the step out, once the step is applied';
GRANT SELECT ON repart.plans TO pg_monitor;

CREATE VIEW repart.outcomes AS
SELECT o.migration, o.kind, o.relation_name AS relation, o.finished_at, o.rows, o.bytes,
       o.duration, o.predicted_duration,
       o.rate, o.predicted_rate,
       o.pause_ms, o.predicted_pause_ms,
       o.load_before, o.predicted_load_after, o.load_after, o.judged_until
  FROM repart.outcome_log o;
COMMENT ON VIEW repart.outcomes IS 'what each finished migration cost and gained, beside what was predicted: seconds, bytes per second, milliseconds, rows per second';
GRANT SELECT ON repart.outcomes TO pg_monitor;
