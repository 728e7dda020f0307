-- Forecasts of imported load.
SET client_min_messages = warning;
-- The observer must not sample, plan or purge meanwhile.
ALTER SYSTEM SET repart.mode = 'off';
SELECT pg_reload_conf(), pg_sleep(0.2);
CREATE TABLE forecasted (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE forecasted_1 PARTITION OF forecasted FOR VALUES FROM (MINVALUE) TO (1000);
CREATE TABLE forecasted_2 PARTITION OF forecasted FOR VALUES FROM (1000) TO (MAXVALUE);
SELECT repart_manage('forecasted');
RESET client_min_messages;

-- Without history there is nothing to say.
SELECT * FROM repart_forecast('forecasted');

-- A week of hourly load with a daily wave.
SELECT repart_import_samples('forecasted_1', jsonb_agg(jsonb_build_object(
           'at', date_trunc('hour', now()) - n * interval '1 hour',
           'reads', 1000 + 500 * sin(2 * pi() * n / 24), 'writes', 100, 'bytes', 81920)))
  FROM generate_series(0, 167) n;
SELECT shard, metric, count(*), count(DISTINCT at) AS times,
       bool_and(q50 >= 0 AND q50 <= q90 AND q90 <= q99) AS ordered,
       max(at) - min(at) AS span, count(DISTINCT model) AS models, bool_and(skill <= 1) AS skill
  FROM repart_forecast('forecasted', '12 hours') GROUP BY shard, metric ORDER BY shard::text, metric;
SELECT metric, round(avg(q50)) AS mean FROM repart_forecast('forecasted', '24 hours', 'seasonal_naive')
 WHERE metric <> 'reads' GROUP BY metric ORDER BY metric;

-- The season by hand.
SET repart.season = '1 day';
SELECT count(*) FROM repart_forecast('forecasted', '24 hours', 'seasonal_naive') WHERE model = 'seasonal_naive';
SET repart.season = 'none';
SELECT count(DISTINCT q50) FROM repart_forecast('forecasted', '24 hours', 'seasonal_naive') WHERE metric = 'writes';
SET repart.season = 'summer';
SELECT * FROM repart_forecast('forecasted');
SET repart.season = '-1 day';
SELECT * FROM repart_forecast('forecasted');
RESET repart.season;

-- What is refused.
SELECT * FROM repart_forecast(NULL);
SELECT * FROM repart_forecast('forecasted_1');
SELECT * FROM repart_forecast('pg_class');
SELECT * FROM repart_forecast('forecasted', '0');
SELECT * FROM repart_forecast('forecasted', '-1 hour');
SELECT * FROM repart_forecast('forecasted', '100 years');
SELECT * FROM repart_forecast('forecasted', '1 hour', 'oracle');
SET repart.model = 'oracle';
SELECT * FROM repart_forecast('forecasted', '1 hour');
RESET repart.model;

-- A model of one table.
SELECT repart_set_model('forecasted', 'spar');
SELECT DISTINCT model FROM repart_forecast('forecasted', '6 hours') WHERE metric = 'reads';
SELECT DISTINCT model FROM repart_forecast('forecasted', '6 hours', 'seasonal_naive');
SELECT model FROM repart.sharded_tables WHERE relation = 'forecasted'::regclass;
SELECT repart_set_model('forecasted', 'oracle');
SELECT repart_set_model('pg_class', 'spar');
SELECT repart_set_model(NULL);
SELECT repart_set_model('forecasted');
SELECT DISTINCT model FROM repart_forecast('forecasted', '6 hours', 'prophet') WHERE metric = 'reads';
SELECT DISTINCT model FROM repart_forecast('forecasted', '6 hours', 'lstm') WHERE metric = 'reads';

-- Who may: the owner, and pg_monitor.
CREATE ROLE regress_repart_reader;
SET ROLE regress_repart_reader;
SELECT count(*) FROM repart_forecast('forecasted', '1 hour');
RESET ROLE;
GRANT pg_monitor TO regress_repart_reader;
SET ROLE regress_repart_reader;
SELECT count(*) FROM repart_forecast('forecasted', '1 hour') WHERE metric = 'reads';
RESET ROLE;
DROP ROLE regress_repart_reader;

DROP TABLE forecasted;
ALTER SYSTEM RESET repart.mode;
SELECT pg_reload_conf();
