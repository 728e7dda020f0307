-- The tables about nodes: servers other than this one that can hold shards, and replicas of them.

-- Which foreign servers are nodes. By name, so that a restored dump keeps them.
CREATE TABLE repart.node_list (
    node        name             PRIMARY KEY CHECK (node <> 'local'),
    replica_of  name             CHECK (replica_of <> node),
    weight      double precision NOT NULL DEFAULT 1 CHECK (weight > 0 AND weight < 'Infinity'),
    draining    boolean          NOT NULL DEFAULT false,
    connects_as name             NOT NULL,
    coordinator name,
    added_at    timestamptz      NOT NULL DEFAULT now()
);
COMMENT ON TABLE repart.node_list IS 'foreign servers that are nodes; connects_as is the role whose user mapping repart uses, coordinator the foreign server there that leads back here';
SELECT pg_catalog.pg_extension_config_dump('repart.node_list', '');

-- What was last found out about a node, "local" included.
CREATE TABLE repart.node_state (
    node        name        PRIMARY KEY,
    seen_at     timestamptz,
    error       text,
    error_since timestamptz,
    facts       jsonb
);
COMMENT ON TABLE repart.node_state IS 'when each node last answered, why it does not, and what it said of itself';

CREATE TABLE repart.node_samples (
    node             name             NOT NULL,
    at               timestamptz      NOT NULL,
    seconds          double precision NOT NULL CHECK (seconds > 0),
    cpu              double precision,
    load             double precision,
    memory_total     bigint,
    memory_available bigint,
    cpu_stall        double precision,
    memory_stall     double precision,
    io_stall         double precision,
    read_bytes       double precision,
    write_bytes      double precision,
    disk_total       bigint,
    disk_free        bigint,
    connections      integer,
    active           integer,
    max_connections  integer,
    transactions     double precision,
    lag              double precision,
    cpus             integer,
    PRIMARY KEY (node, at)
);
COMMENT ON TABLE repart.node_samples IS 'observed load of each node over the seconds before "at": cpu and stalls as shares of 1, bytes and transactions per second, lag of a replica in seconds; kept for repart.retention';
CREATE INDEX node_samples_at_idx ON repart.node_samples (at);

-- What is foreseen of each node, for admitting migrations: as much of it as is used, as a share of 1.
CREATE TABLE repart.node_curves (
    node     name             NOT NULL,
    metric   text             NOT NULL CHECK (metric IN ('cpu', 'io', 'memory')),
    made_at  timestamptz      NOT NULL DEFAULT now(),
    first_at timestamptz      NOT NULL,
    step     interval         NOT NULL,
    q90      double precision[] NOT NULL,
    PRIMARY KEY (node, metric)
);
COMMENT ON TABLE repart.node_curves IS 'the latest forecast of what is used of the processors, the I/O and the memory of each node, "local" included: 90 % quantiles as shares of 1, one per step';

-- By which keys shards on nodes were used lately, as their access samplers tell: what shared memory has for local ones.
CREATE TABLE repart.node_keys (
    shard oid         NOT NULL,
    node  name        NOT NULL,
    at    timestamptz NOT NULL,
    keys  jsonb       NOT NULL,
    PRIMARY KEY (shard, node)
);
COMMENT ON TABLE repart.node_keys IS 'the keys by which each shard on a node was used lately, as sampled there';

-- What replicas of this server have served of its shards, until the observer puts it into a sample. Lost in a crash.
CREATE UNLOGGED TABLE repart.replica_reads (
    shard      oid              NOT NULL,
    rows       double precision NOT NULL,
    bytes      double precision NOT NULL,
    statements double precision,
    busy_ms    double precision,
    latency    bigint[]
);
COMMENT ON TABLE repart.replica_reads IS 'what replicas of this server have served and is in no sample yet';

-- What was said of this server as a node: a row where it is not as any other.
CREATE TABLE repart.local_node (
    single   boolean          PRIMARY KEY DEFAULT true CHECK (single),
    weight   double precision NOT NULL DEFAULT 1 CHECK (weight > 0 AND weight < 'Infinity'),
    draining boolean          NOT NULL DEFAULT false
);
COMMENT ON TABLE repart.local_node IS 'weight of this server as a node, and whether shards are to leave it';
SELECT pg_catalog.pg_extension_config_dump('repart.local_node', '');

-- Begins the name of every transaction that is prepared on a node, so that coordinators that share one leave those of
-- each other alone. Not dumped: a restored database is another coordinator.
CREATE TABLE repart.coordinator (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    id     uuid    NOT NULL DEFAULT pg_catalog.gen_random_uuid()
);
COMMENT ON TABLE repart.coordinator IS 'who this database is to its nodes';
INSERT INTO repart.coordinator DEFAULT VALUES;

-- The decisions on transactions that were prepared on nodes: each a row until the node has carried it out. One that is
-- prepared and has no row here, and nobody at work, is rolled back.
CREATE TABLE repart.two_phase (
    gid        text        PRIMARY KEY,
    node       name        NOT NULL,
    decision   text        NOT NULL CHECK (decision IN ('commit', 'rollback')),
    purpose    text        NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    error      text
);
COMMENT ON TABLE repart.two_phase IS 'decisions on prepared transactions that nodes have still to carry out';

-- Nodes on which a migration may have made something: written before anything is made there, deleted when nothing is
-- left to be dropped. What it is follows from the numbers of coordinator and migration. Whether its table there is a
-- shard by now ("switched") is decided by the commit of the switch.
CREATE TABLE repart.node_objects (
    migration bigint  NOT NULL,
    node      name    NOT NULL,
    role      text    NOT NULL CHECK (role IN ('source', 'target')),
    tag       text    NOT NULL,
    relation  text    NOT NULL,
    switched  boolean NOT NULL DEFAULT false,
    PRIMARY KEY (migration, role)
);
COMMENT ON TABLE repart.node_objects IS 'nodes on which a migration may have left something to be dropped';
