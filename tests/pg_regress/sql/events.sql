-- Events that forecasts know of.
SET client_min_messages = warning;
-- The observer must not sample, plan or purge meanwhile.
ALTER SYSTEM SET repart.mode = 'off';
SELECT pg_reload_conf(), pg_sleep(0.2);
-- The hour must not turn meanwhile.
SELECT date_trunc('hour', now()) AS hour \gset
CREATE TABLE seasonal (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE seasonal_1 PARTITION OF seasonal FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
SELECT repart_manage('seasonal');
RESET client_min_messages;

-- Three weeks of hours with a daily wave; from 120 to 96 hours ago a sale tripled the load.
SELECT repart_import_samples('seasonal_1', jsonb_agg(jsonb_build_object(
           'at', :'hour'::timestamptz - n * interval '1 hour', 'writes', 100, 'bytes', 81920,
           'reads', (1000 + 500 * sin(2 * pi() * n / 24)) * CASE WHEN n >= 96 AND n < 120 THEN 3 ELSE 1 END)))
  FROM generate_series(0, 503) n;

-- The next one begins in six hours and lasts for six.
CREATE VIEW seen AS
SELECT count(*) FILTER (WHERE q50 > 2 * usual) AS high,
       count(*) FILTER (WHERE abs(q50 - usual) < 0.1 * usual) AS usual,
       bool_and(q50 <= q90 AND q90 <= q99) AS ordered
  FROM (SELECT f.*, 1000 + 500 * sin(2 * pi() * extract(epoch FROM :'hour'::timestamptz - at) / 86400) AS usual
          FROM repart_forecast('seasonal', '24 hours', 'seasonal_naive') f WHERE metric = 'reads') f;
SELECT * FROM seen;
SELECT repart_add_event('sale', :'hour'::timestamptz - interval '120 hours',
                        :'hour'::timestamptz - interval '96 hours', 'seasonal');
SELECT repart_add_event('sale', :'hour'::timestamptz + interval '6 hours',
                        :'hour'::timestamptz + interval '12 hours', 'seasonal');
SELECT * FROM seen;
-- An occurrence of the same beginning is replaced; one that never came before says nothing.
SELECT repart_add_event('sale', :'hour'::timestamptz + interval '6 hours',
                        :'hour'::timestamptz + interval '9 hours', 'seasonal');
SELECT repart_add_event('launch', :'hour'::timestamptz, :'hour'::timestamptz + interval '1 day');
SELECT name, relation, ends - starts AS span FROM repart.calendar ORDER BY starts, name;
SELECT * FROM seen;
SELECT action FROM repart_plan('seasonal');

-- What is refused.
SELECT repart_add_event(NULL, now(), now());
SELECT repart_add_event('sale', NULL, now());
SELECT repart_add_event('sale', now(), NULL);
SELECT repart_add_event('sale', 'today', 'today', 'seasonal');
SELECT repart_add_event(' ', 'today', 'tomorrow', 'seasonal');
SELECT repart_add_event('sale', 'today', 'tomorrow', 'pg_class');
SELECT repart_drop_event(NULL);
CREATE ROLE regress_repart_seller;
GRANT EXECUTE ON FUNCTION repart_add_event(text, timestamptz, timestamptz, regclass) TO regress_repart_seller;
SET ROLE regress_repart_seller;
SELECT repart_add_event('sale', 'today', 'tomorrow');
SELECT repart_add_event('sale', 'today', 'tomorrow', 'seasonal');
SELECT repart_drop_event('sale');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION repart_add_event(text, timestamptz, timestamptz, regclass) FROM regress_repart_seller;
DROP ROLE regress_repart_seller;

-- Forgetting.
SELECT repart_drop_event('launch', '2001-01-01'), repart_drop_event('launch'), repart_drop_event('launch');
SELECT repart_drop_event('sale', relation => 'seasonal', starts => :'hour'::timestamptz + interval '6 hours');
SELECT * FROM seen;
SET client_min_messages = warning;
SELECT repart_unmanage('seasonal');
SELECT count(*) FROM repart.calendar;
DROP TABLE seasonal CASCADE;
ALTER SYSTEM RESET repart.mode;
SELECT pg_reload_conf();
