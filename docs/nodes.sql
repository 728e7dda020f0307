-- The second example of README.md, after the first one and in the same database: psql -X -q -a -f docs/nodes.sql
-- -v host=… -v port=…, where another server is, with a database of the same name.

-- Another server: a foreign server of postgres_fdw, as for any foreign table.
CREATE EXTENSION postgres_fdw;
CREATE SERVER north FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host :'host', port :'port', dbname :'DBNAME');
CREATE USER MAPPING FOR PUBLIC SERVER north OPTIONS (user 'postgres');
SELECT repart_add_node('north');

-- Two shards here. A unique index cannot span servers: the table's own becomes one of each shard.
CREATE TABLE visits (visit_id bigint PRIMARY KEY, page text) PARTITION BY RANGE (visit_id);
CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM (MINVALUE) TO (250001);
CREATE TABLE visits_2 PARTITION OF visits FOR VALUES FROM (250001) TO (MAXVALUE);
INSERT INTO visits SELECT n, 'page ' || n % 1000 FROM generate_series(1, 500000) n;
ANALYZE visits;
SELECT repart_manage('visits', leaf_keys => true);

-- A shard moves there, while applications go on reading and writing.
SELECT repart_move('visits_2', node => 'north') AS migration \gset
SELECT repart_wait(:migration);
SELECT shard, key_from, key_to, node, rows FROM repart.shards WHERE relation = 'visits'::regclass ORDER BY shard;

-- It is in use there as it was here.
UPDATE visits SET page = 'changed' WHERE visit_id = 300000;
SELECT count(*), count(*) FILTER (WHERE page = 'changed') AS changed FROM visits WHERE visit_id BETWEEN 250000 AND 300000;

-- What is on the node is split there. Then the node is to be emptied: by plans, or by hand.
SELECT repart_split('visits_2', '375001') AS migration \gset
SELECT repart_wait(:migration);
SELECT repart_drain_node('north') AS shards_to_go;
SELECT repart_move(shard, node => 'local') FROM repart.shards WHERE node = 'north' ORDER BY shard;
SELECT repart_wait(max(id)) FROM repart.migrations;
SELECT node, shards, draining, reachable FROM repart.nodes ORDER BY node;
