-- Pausing, resuming, cancelling and reverting through SQL: what they return, show and refuse.
CREATE SCHEMA control;
SET search_path = control, public;
SET client_min_messages = warning;
SELECT setval(pg_get_serial_sequence('repart.journal', 'id'), 3000);
CREATE TABLE orders (id bigint PRIMARY KEY, note text) PARTITION BY RANGE (id);
CREATE TABLE orders_low PARTITION OF orders FOR VALUES FROM (MINVALUE) TO (5000);
CREATE TABLE orders_high PARTITION OF orders FOR VALUES FROM (5000) TO (MAXVALUE);
INSERT INTO orders SELECT g, 'note ' || g FROM generate_series(0, 9999) g;
SELECT repart_manage('orders');

\df repart_pause
\df repart_resume
\df repart_revert
SHOW repart.cutover_timeout;
SHOW repart.retain_source;

-- Arguments.
SELECT repart_pause(0);
\echo :SQLSTATE
SELECT repart_resume(0);
\echo :SQLSTATE
SELECT repart_cancel(0);
\echo :SQLSTATE
SELECT repart_revert(0);
\echo :SQLSTATE
SELECT repart_revert(NULL);
\echo :SQLSTATE

-- While all is paused, what is queued stays queued.
SELECT repart_pause();
SELECT repart_pause();
SELECT repart_split('orders_low', '1000') AS split \gset
SELECT repart_wait(:split, '500 ms');
SELECT id, state, paused, reason = 'paused by ' || current_user AS named FROM repart.migrations WHERE id = :split;
SELECT repart_resume(:split);
\echo :SQLSTATE
SELECT repart_revert(:split);
\echo :SQLSTATE
SELECT repart_cancel(:split);
SELECT state, paused, reason FROM repart.migrations WHERE id = :split;
SELECT repart_cancel(:split);
\echo :SQLSTATE
SELECT repart_pause(:split);
\echo :SQLSTATE
SELECT repart_revert(:split);
\echo :SQLSTATE
SELECT repart_resume();
SELECT repart_resume();

-- One at a time.
SELECT repart_pause();
SELECT repart_split('orders_low', '1000') AS split \gset
SELECT repart_split('orders_high', '7000') AS other \gset
SELECT repart_pause(:split);
SELECT repart_resume();
SELECT repart_wait(:other, '60 s');
SELECT repart_wait(:split, '60 s');
SELECT repart_pause(:split);
\echo :SQLSTATE
SELECT repart_cancel(:split);
\echo :SQLSTATE
SELECT shard, key_from, key_to FROM repart.shards WHERE relation = 'orders'::regclass ORDER BY shard::text COLLATE "C";

-- There and back.
SELECT repart_revert(:split) AS revert \gset
SELECT repart_wait(:revert, '60 s');
SELECT repart_wait(repart_revert(:other), '60 s');
\echo :SQLSTATE
SELECT repart_revert(:other) AS revert_other \gset
SELECT repart_wait(:revert_other, '60 s');
SELECT shard, key_from, key_to FROM repart.shards WHERE relation = 'orders'::regclass ORDER BY shard::text COLLATE "C";
SELECT id, kind, sources, targets, state, reverts, state_since <= now() AS since, retained_until
  FROM repart.migrations WHERE id BETWEEN :split AND :split + 99 ORDER BY id;

-- What was changed since cannot be taken back before that is.
SELECT repart_revert(:split);
\echo :SQLSTATE
SELECT repart_revert(:revert) AS again \gset
SELECT repart_wait(:again, '60 s');
SELECT repart_merge(VARIADIC array_agg(shard)) AS merge FROM repart.shards WHERE relation = 'orders'::regclass AND key_to IN ('1000', '5000') \gset
SELECT repart_wait(:merge, '60 s');
SELECT repart_revert(:again);
\echo :SQLSTATE
SELECT repart_revert(:merge) AS first \gset
SELECT repart_wait(:first, '60 s');
SELECT repart_revert(:again) AS second \gset
SELECT repart_wait(:second, '60 s');
SELECT shard, key_from, key_to FROM repart.shards WHERE relation = 'orders'::regclass ORDER BY shard::text COLLATE "C";
SELECT count(*), sum(id) FROM orders;

-- A name that somebody else has by now is not taken.
SELECT repart_split('orders_high', '8000') AS split \gset
SELECT repart_wait(:split, '60 s');
CREATE TABLE orders_high ();
SELECT repart_revert(:split) AS revert \gset
SELECT repart_wait(:revert, '60 s');
SELECT shard <> 'orders_high'::regclass AS another, key_from, key_to FROM repart.shards WHERE relation = 'orders'::regclass AND key_to = 'MAXVALUE';

-- Rights.
CREATE ROLE control_owner;
CREATE ROLE control_stranger;
GRANT USAGE, CREATE ON SCHEMA control TO control_owner, control_stranger;
SET ROLE control_owner;
SELECT repart_pause(:revert);
\echo :SQLSTATE
SELECT repart_resume();
\echo :SQLSTATE
SELECT repart_revert(:revert);
\echo :SQLSTATE
RESET ROLE;
GRANT EXECUTE ON FUNCTION repart_pause(bigint), repart_resume(bigint), repart_revert(bigint), repart_cancel(bigint),
    repart_split(regclass, text[]) TO control_owner, control_stranger;
ALTER TABLE orders OWNER TO control_owner;
SELECT format('ALTER TABLE %s OWNER TO control_owner', shard) FROM repart.shards WHERE relation = 'orders'::regclass \gexec
SELECT repart_pause();
SET ROLE control_stranger;
SELECT repart_revert(:revert);
\echo :SQLSTATE
SET ROLE control_owner;
SELECT repart_pause();
\echo :SQLSTATE
SELECT repart_resume();
\echo :SQLSTATE
SELECT repart_revert(:revert) AS own \gset
SELECT repart_pause(:own);
SELECT repart_resume(:own);
\echo :SQLSTATE
SELECT repart_cancel(:own);
RESET ROLE;
SELECT repart_resume();
SELECT state, requested_by, reverts = :revert AS reverts FROM repart.migrations WHERE id = :own;
SELECT relname FROM pg_class WHERE relnamespace = 'repart'::regnamespace AND relkind = 'r' AND relname ~ '_[0-9]+$';
SELECT repart_unmanage('orders');
DROP TABLE orders, orders_high;
DROP OWNED BY control_owner, control_stranger;
DROP ROLE control_owner, control_stranger;
