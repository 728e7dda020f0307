REVOKE EXECUTE ON FUNCTION
    repart_add_node(name, double precision, name, name), repart_remove_node(name), repart_drain_node(name),
    repart_node_usage(), repart_session_usage(), repart_run_on_nodes(text, text[]),
    repart_count_shard(regclass, text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION repart_node_usage(), repart_session_usage(), repart_count_shard(regclass, text, boolean) TO pg_monitor;
GRANT SELECT ON repart.nodes, repart.node_samples, repart.in_doubt TO pg_monitor;

COMMENT ON FUNCTION repart_add_node(name, double precision, name, name) IS 'make a foreign server of postgres_fdw a node, or a replica of one, after checking everything that it will be needed for';
COMMENT ON FUNCTION repart_remove_node(name) IS 'forget a node that holds no shards and has no replicas; the foreign server stays';
COMMENT ON FUNCTION repart_drain_node(name) IS 'let a node receive no more shards; returns how many it still holds';
COMMENT ON FUNCTION repart_node_usage() IS 'counters of this server''s machine: CPU seconds, memory and disk in bytes, stalls in microseconds; NULL where the system does not tell';
COMMENT ON FUNCTION repart_session_usage() IS 'CPU seconds of the calling session; for movers of another server, which give way to others here; NULL where the system does not tell';
COMMENT ON FUNCTION repart_run_on_nodes(text, text[]) IS 'run a command on nodes, by default on all: on all of them or on none, together with the calling transaction; returns on how many';
COMMENT ON FUNCTION repart_count_shard(regclass, text, boolean) IS 'count a table here, which is a shard of another server''s table, as shards are; returns what was counted so far; for the watcher of that server';
COMMENT ON FUNCTION repart_write_back(regclass) IS 'ask the kernel to begin writing a table of yours to the disk; for movers of another server, whose shard the table is';
