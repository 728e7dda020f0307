CREATE VIEW repart.nodes AS
SELECT n.node,
       n.replica_of,
       n.weight,
       n.draining,
       n.node = 'local' OR (t.seen_at IS NOT NULL AND t.error IS NULL) AS reachable,
       t.seen_at,
       t.error,
       t.error_since,
       t.facts ->> 'release' AS version,
       t.facts ->> 'repart' AS repart_version,
       h.shards,
       s.at AS sampled_at,
       s.cpu, s.load,
       s.memory_total, s.memory_available,
       s.cpu_stall, s.memory_stall, s.io_stall,
       s.read_bytes, s.write_bytes,
       s.disk_total, s.disk_free,
       s.connections, s.active, s.max_connections,
       s.transactions, s.lag, s.cpus,
       CASE WHEN n.node = 'local' AND pg_catalog.current_setting('repart.sampler', true) = 'on'
                 OR t.facts ->> 'sampler' IS NOT NULL THEN 'sampler' ELSE 'statistics' END AS shards_observed_by
  FROM (SELECT 'local'::name AS node, NULL::name AS replica_of, coalesce(o.weight, 1) AS weight,
               coalesce(o.draining, false) AS draining
          FROM (VALUES (true)) one LEFT JOIN repart.local_node o ON true
        UNION ALL
        SELECT node, replica_of, weight, draining FROM repart.node_list) n
  LEFT JOIN repart.node_state t ON t.node = n.node
  LEFT JOIN LATERAL (SELECT * FROM repart.node_samples a WHERE a.node = n.node ORDER BY a.at DESC LIMIT 1) s ON true
 CROSS JOIN LATERAL (
       SELECT count(*) AS shards
         FROM repart.sharded_tables m
         JOIN pg_catalog.pg_inherits i ON i.inhparent = m.relation
         JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
         LEFT JOIN pg_catalog.pg_foreign_table f ON f.ftrelid = c.oid
         LEFT JOIN pg_catalog.pg_foreign_server v ON v.oid = f.ftserver
        WHERE pg_catalog.pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT' AND coalesce(v.srvname, 'local') = n.node) h;
COMMENT ON VIEW repart.nodes IS 'servers that can hold shards, this one (local) included, with their latest sample: cpu and stalls as shares of 1, bytes and transactions per second, lag of a replica in seconds; shards_observed_by: its access sampler, or only PostgreSQL''s statistics, which know no execution times and no keys';

CREATE VIEW repart.in_doubt AS
SELECT p.node, p.gid, p.decision, p.purpose, p.decided_at, coalesce(t.error, p.error) AS error
  FROM repart.two_phase p LEFT JOIN repart.node_state t ON t.node = p.node;
COMMENT ON VIEW repart.in_doubt IS 'prepared transactions on nodes that are decided and not yet committed or rolled back there, and why not';
