-- Plans: made, explained, stored.
SET client_min_messages = warning;
-- The observer must not sample, plan or purge meanwhile.
ALTER SYSTEM SET repart.mode = 'off';
SELECT pg_reload_conf(), pg_sleep(0.2);
CREATE TABLE planned (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
CREATE TABLE planned_1 PARTITION OF planned FOR VALUES FROM (MINVALUE) TO (10000);
CREATE TABLE planned_2 PARTITION OF planned FOR VALUES FROM (10000) TO (MAXVALUE);
SELECT repart_manage('planned');
INSERT INTO planned SELECT i, 'x' FROM generate_series(1, 9999) i;
ANALYZE planned;
RESET client_min_messages;

-- No history: one row that says so.
SELECT action, relation, reason, why FROM repart_plan('planned');

-- A load that stays: nothing to do, ever.
SELECT repart_import_samples('planned_1', jsonb_agg(jsonb_build_object(
           'at', date_trunc('hour', now()) - n * interval '1 hour', 'reads', 100, 'writes', 10, 'bytes', 81920)))
  FROM generate_series(0, 167) n;
SELECT action, reason FROM repart_plan('planned');

-- A load that rises above the limit: the shard is split before, since its neighbour has no room.
SELECT repart_import_samples('planned_2', jsonb_agg(jsonb_build_object(
           'at', date_trunc('hour', now()) - n * interval '1 hour', 'reads', 600, 'writes', 10, 'bytes', 81920)))
  FROM generate_series(0, 167) n;
SET repart.shard_capacity = 1000;
SET repart.min_shard_size = 0;
SELECT repart_import_samples('planned_1', jsonb_agg(jsonb_build_object(
           'at', date_trunc('hour', now()) - n * interval '1 hour', 'reads', 650 - 3.5 * n, 'writes', 10, 'bytes', 81920)))
  FROM generate_series(0, 167) n;
SELECT action, relation, shard, key_from, key_to, source, target, bytes > 0 AS bytes, reason,
       why LIKE 'planned_1 %' AS why, load_before > load_after AS relief, benefit > cost AS worth,
       start_by IS NOT NULL OR reason = 'HOT_NOW' AS start_by, confidence BETWEEN 0 AND 1 AS confidence,
       jsonb_typeof(alternatives) AS alternatives
  FROM repart_plan('planned');
SELECT action, relation, shards, cardinality(boundaries) > 0 AS boundaries, migration
  FROM repart.plans ORDER BY plan_id DESC, step LIMIT 1;
SELECT DISTINCT metric FROM repart.forecasts WHERE shard = 'planned_1'::regclass ORDER BY metric;

-- The table is as it was.
SELECT count(*) FROM pg_inherits WHERE inhparent = 'planned'::regclass;

-- What is refused.
SELECT * FROM repart_plan('pg_class');
SELECT * FROM repart_plan('planned_1');
SET repart.season = 'summer';
SELECT * FROM repart_plan('planned');
RESET repart.season;

-- Who may: the owner and pg_monitor; without a table, for all that one may plan for.
CREATE ROLE regress_repart_reader;
SET ROLE regress_repart_reader;
SELECT * FROM repart_plan('planned');
RESET ROLE;
GRANT EXECUTE ON FUNCTION repart_plan(regclass) TO regress_repart_reader;
SET ROLE regress_repart_reader;
SELECT * FROM repart_plan('planned');
SELECT action, why FROM repart_plan();
RESET ROLE;
GRANT pg_monitor TO regress_repart_reader;
SET ROLE regress_repart_reader;
SELECT DISTINCT action FROM repart_plan('planned');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION repart_plan(regclass) FROM regress_repart_reader;
DROP ROLE regress_repart_reader;

DROP TABLE planned;
ALTER SYSTEM RESET repart.mode;
SELECT pg_reload_conf();
