-- The tables of repart. The catalogs of PostgreSQL are the only truth about boundaries; what is kept
-- here is what they cannot know: what is managed, what was observed, what was decided and what was done.

CREATE SCHEMA repart;
COMMENT ON SCHEMA repart IS 'repart: state and views; private tables of running migrations';

CREATE TABLE repart.sharded_tables (
    relation    regclass    PRIMARY KEY,
    shard_key   name        NOT NULL,
    leaf_keys   boolean     NOT NULL DEFAULT false,
    model       text,
    managed_at  timestamptz NOT NULL DEFAULT now(),
    -- Tables with the same number are reshaped together. A number, so that a dump and restore keeps it.
    colocation_group integer
);
COMMENT ON TABLE repart.sharded_tables IS 'tables that repart manages; those with the same colocation_group share their boundaries';
SELECT pg_catalog.pg_extension_config_dump('repart.sharded_tables', '');

-- What is known in advance to change the load: of one table, or of all.
CREATE TABLE repart.calendar (
    name     text        NOT NULL,
    relation regclass,
    starts   timestamptz NOT NULL,
    ends     timestamptz NOT NULL CHECK (ends > starts),
    UNIQUE NULLS NOT DISTINCT (name, relation, starts)
);
COMMENT ON TABLE repart.calendar IS 'holidays, sales and other occurrences that forecasts know of; those with one name are expected to do the same; relation NULL: all tables';
SELECT pg_catalog.pg_extension_config_dump('repart.calendar', '');

-- Cumulative counters at the last sample, to make rates of.
CREATE TABLE repart.counters (
    shard   oid         PRIMARY KEY,
    at      timestamptz NOT NULL,
    reads   bigint      NOT NULL,
    writes  bigint      NOT NULL,
    blocks  bigint      NOT NULL
);
COMMENT ON TABLE repart.counters IS 'cumulative access counters of each shard at its last sample';

-- The same of the access sampler, since it gave the shard a slot.
CREATE TABLE repart.access_counters (
    shard              oid         PRIMARY KEY,
    at                 timestamptz NOT NULL,
    since              timestamptz NOT NULL,
    statements_read    bigint      NOT NULL,
    statements_written bigint      NOT NULL,
    rows_read          bigint      NOT NULL,
    rows_written       bigint      NOT NULL,
    bytes              bigint      NOT NULL,
    busy               bigint      NOT NULL,
    latency            bigint[]    NOT NULL
);
COMMENT ON TABLE repart.access_counters IS 'what the access sampler had counted of each shard at its last sample; busy in microseconds';

CREATE TABLE repart.samples (
    shard   oid              NOT NULL,
    at      timestamptz      NOT NULL,
    seconds double precision NOT NULL CHECK (seconds > 0),
    reads   double precision NOT NULL CHECK (reads >= 0),
    writes  double precision NOT NULL CHECK (writes >= 0),
    bytes   double precision NOT NULL CHECK (bytes >= 0),
    size    bigint,
    -- Known where the access sampler counted the whole span.
    statements_read    double precision,
    statements_written double precision,
    busy_ms            double precision,
    p50_ms             double precision,
    p99_ms             double precision,
    PRIMARY KEY (shard, at)
);
COMMENT ON TABLE repart.samples IS 'observed load of each shard: rates per second over the seconds before "at"; size in bytes; median and 99 % quantile of execution times in milliseconds';
CREATE INDEX samples_at_idx ON repart.samples (at);

-- Where the history of a shard made by a migration comes from.
CREATE TABLE repart.lineage (
    shard    oid              NOT NULL,
    ancestor oid              NOT NULL,
    share    double precision NOT NULL CHECK (share >= 0 AND share <= 1),
    at       timestamptz      NOT NULL,
    PRIMARY KEY (shard, ancestor, at)
);
COMMENT ON TABLE repart.lineage IS 'from which shards, and with which share of their load, a shard was made';
CREATE INDEX lineage_ancestor_idx ON repart.lineage (ancestor);

CREATE TABLE repart.forecast_curves (
    shard    oid              NOT NULL,
    metric   text             NOT NULL,
    made_at  timestamptz      NOT NULL,
    first_at timestamptz      NOT NULL,
    step     interval         NOT NULL,
    q50      double precision[] NOT NULL,
    q90      double precision[] NOT NULL,
    q99      double precision[] NOT NULL,
    peak     double precision[] NOT NULL,
    model    text             NOT NULL,
    skill    double precision NOT NULL,
    season   interval,
    PRIMARY KEY (shard, metric)
);
COMMENT ON TABLE repart.forecast_curves IS 'the latest forecast of each shard and metric; arrays hold one value per step';

CREATE SEQUENCE repart.plan_id;
CREATE TABLE repart.plan_steps (
    plan_id      bigint      NOT NULL,
    step         integer     NOT NULL,
    made_at      timestamptz NOT NULL DEFAULT now(),
    relation     oid,
    relation_name text,
    spec         jsonb       NOT NULL,
    migration    bigint,
    PRIMARY KEY (plan_id, step)
);
COMMENT ON TABLE repart.plan_steps IS 'steps of stored plans, as the planner made them; migration is set once a step is applied';
CREATE INDEX plan_steps_made_at_idx ON repart.plan_steps (made_at);

-- The journal: one row per migration. It decides after a crash.
CREATE TABLE repart.journal (
    id               bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind             text        NOT NULL CHECK (kind IN ('split', 'merge', 'shift', 'move')),
    relation         oid         NOT NULL,
    relation_name    text        NOT NULL,
    spec             jsonb       NOT NULL,
    state            text        NOT NULL DEFAULT 'queued' CHECK (state IN
                     ('queued', 'preparing', 'copying', 'catching_up', 'verifying', 'cutting_over', 'cleaning',
                      'done', 'cancelled', 'failed')),
    reason           text,
    error            text,
    plan_id          bigint,
    step             integer,
    requested_by     name        NOT NULL DEFAULT current_user,
    cancel_requested boolean     NOT NULL DEFAULT false,
    attempts         integer     NOT NULL DEFAULT 0,
    position         jsonb,
    rows_done        bigint      NOT NULL DEFAULT 0,
    rows_total       bigint      NOT NULL DEFAULT 0,
    bytes_done       bigint      NOT NULL DEFAULT 0,
    bytes_total      bigint      NOT NULL DEFAULT 0,
    lag              bigint      NOT NULL DEFAULT 0,
    copy_seconds     double precision NOT NULL DEFAULT 0,
    pause_ms         double precision,
    predicted        jsonb,
    queued_at        timestamptz NOT NULL DEFAULT now(),
    start_at         timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    finished_at      timestamptz,
    state_since      timestamptz NOT NULL DEFAULT now(),
    paused_by        name,
    resumed_at       timestamptz,
    reverts          bigint,
    -- Old shards kept after the switch: as what they are, and until when; NULL once they are not kept any more.
    retained         jsonb,
    retained_until   timestamptz,
    -- The migration of a colocated table that this one is carried out with.
    leader           bigint,
    -- The node that it waits for, which does not answer; since when, and when it is tried again at the latest.
    waits_for        name,
    waiting_since    timestamptz,
    retry_at         timestamptz
);
COMMENT ON TABLE repart.journal IS 'the durable journal of migrations';
CREATE INDEX journal_unfinished_idx ON repart.journal (id) WHERE state NOT IN ('done', 'cancelled', 'failed');
CREATE INDEX journal_leader_idx ON repart.journal (leader) WHERE leader IS NOT NULL;
CREATE INDEX journal_finished_idx ON repart.journal (finished_at);

-- Read by the snapshot guard on a hot standby, which finds it by its name and that of its index.
CREATE TABLE repart.cutovers (
    relation oid  NOT NULL PRIMARY KEY,
    xid      xid8 NOT NULL
);
COMMENT ON TABLE repart.cutovers IS 'the transaction that last changed the shards of a table, or made a shard';
CREATE INDEX journal_retained_idx ON repart.journal (id) WHERE retained_until IS NOT NULL;

-- Who has paused all migrations of this database: no row, or one.
CREATE TABLE repart.pause (
    single    boolean     PRIMARY KEY DEFAULT true CHECK (single),
    paused_by name        NOT NULL,
    paused_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE repart.pause IS 'who has paused all migrations of this database, if somebody has';

CREATE TABLE repart.outcome_log (
    migration          bigint      PRIMARY KEY,
    kind               text        NOT NULL,
    relation           oid         NOT NULL,
    relation_name      text        NOT NULL,
    finished_at        timestamptz NOT NULL DEFAULT now(),
    rows               bigint      NOT NULL,
    bytes              bigint      NOT NULL,
    copy_seconds       double precision NOT NULL,
    duration           double precision NOT NULL,
    predicted_duration double precision,
    rate               double precision,
    predicted_rate     double precision,
    pause_ms           double precision,
    predicted_pause_ms double precision,
    load_before        double precision,
    predicted_load_after double precision,
    load_after         double precision,
    judged_until       timestamptz,
    rows_deleted       bigint      NOT NULL DEFAULT 0,
    delete_seconds     double precision NOT NULL DEFAULT 0,
    rows_inserted      bigint      NOT NULL DEFAULT 0,
    insert_seconds     double precision NOT NULL DEFAULT 0,
    shards             oid[]       NOT NULL
);
COMMENT ON TABLE repart.outcome_log IS 'what each finished migration cost and gained, beside what was predicted';
CREATE INDEX outcome_log_finished_at_idx ON repart.outcome_log (finished_at);

CREATE TABLE repart.events (
    id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    severity  text        NOT NULL,
    relation  text,
    migration bigint,
    message   text        NOT NULL
);
COMMENT ON TABLE repart.events IS 'what repart did and could not do, newest last; kept for repart.retention';
CREATE INDEX events_at_idx ON repart.events (at);
