-- Routing copies: tables on nodes that have the same map as a sharded table here, for clients that connect there. Not
-- dumped: a restored database is another coordinator, and what the copies route to is the old one.
CREATE TABLE repart.routing_copies (
    relation regclass    NOT NULL,
    node     name        NOT NULL,
    added_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (relation, node)
);
COMMENT ON TABLE repart.routing_copies IS 'nodes with a table of the same name that routes to the same shards, and is switched together with it';
GRANT SELECT ON repart.routing_copies TO pg_monitor;

REVOKE EXECUTE ON FUNCTION
    repart_add_routing_copy(regclass, name), repart_drop_routing_copy(regclass, name, boolean),
    repart_note_switch(oid[]) FROM PUBLIC;
COMMENT ON FUNCTION repart_add_routing_copy(regclass, name) IS 'make a table on a node that routes to the shards of this one, or bring it up to date; returns the number of its partitions';
COMMENT ON FUNCTION repart_drop_routing_copy(regclass, name, boolean) IS 'drop the routing copy of a table on a node; with force, forget it without asking the node';
COMMENT ON FUNCTION repart_note_switch(oid[]) IS 'note that the running transaction changes what these tables route to, for the guard of old snapshots; called by another coordinator';
