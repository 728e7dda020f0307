//! Indexes and keys.

use crate::carried_over;

carried_over! {
    composite_key: { columns: "v text, k bigint, n int, PRIMARY KEY (n, k)" }
    covering_key: { columns: "k bigint, v text, n int, PRIMARY KEY (k) INCLUDE (n)" }
    unique_constraint: { columns: "k bigint PRIMARY KEY, v text, n int, CONSTRAINT once UNIQUE (v, k) INCLUDE (n)" }
    unique_constraint_deferrable: {
        columns: "k bigint PRIMARY KEY, v text, n int, CONSTRAINT once UNIQUE (v, k) DEFERRABLE INITIALLY DEFERRED,
                  CONSTRAINT twice UNIQUE (n, k) DEFERRABLE",
    }
    unique_nulls_not_distinct: {
        columns: "k bigint PRIMARY KEY, v text, n int, UNIQUE NULLS NOT DISTINCT (v, k)",
        table: "CREATE UNIQUE INDEX ON tbl (n, k) NULLS NOT DISTINCT WHERE k > 5",
    }
    no_key_but_a_unique_index: {
        columns: "k bigint NOT NULL, v text, n int NOT NULL",
        table: "CREATE UNIQUE INDEX ON tbl (k, n)",
    }
    unique_constraint_of_the_shard: {
        shard: "ALTER TABLE {leaf} ADD CONSTRAINT {leaf}_own UNIQUE (n, k); COMMENT ON CONSTRAINT {leaf}_own ON {leaf} IS 'own key'",
    }
    expression_index: {
        table: "CREATE INDEX ON tbl (lower(v), (n + 1) DESC NULLS LAST)",
        shard: "CREATE INDEX ON {leaf} ((k % 10), (v || 'it''s'))",
    }
    partial_index: { table: "CREATE INDEX ON tbl (n) WHERE v LIKE '%USING %'", shard: "CREATE INDEX ON {leaf} (v) WHERE n IS NOT NULL" }
    covering_index: { table: "CREATE INDEX ON tbl (n) INCLUDE (v, k)" }
    storage_parameters_of_an_index: {
        table: "CREATE INDEX ON tbl (n) WITH (fillfactor = 70)",
        shard: "CREATE INDEX ON {leaf} (v) WITH (fillfactor = 60, deduplicate_items = off);
                CREATE INDEX ON {leaf} USING brin (k) WITH (pages_per_range = 16, autosummarize = on);
                ALTER INDEX {leaf}_pkey SET (fillfactor = 77)",
    }
    index_methods: {
        columns: "k bigint PRIMARY KEY, v text, n int, a int[], p point, t tsvector",
        table: "CREATE INDEX ON tbl USING hash (v); CREATE INDEX ON tbl USING brin (n); CREATE INDEX ON tbl USING gin (a);
                CREATE INDEX ON tbl USING gist (p); CREATE INDEX ON tbl USING spgist (p); CREATE INDEX ON tbl USING gin (t)",
        rows: "INSERT INTO tbl SELECT g, 'v', g, array[g], point(g, g), to_tsvector('simple', 'word' || g)
                 FROM generate_series(0, 1999) g",
    }
    operator_classes_and_collations_of_an_index: {
        table: "CREATE INDEX ON tbl (v text_pattern_ops); CREATE INDEX ON tbl (v COLLATE \"C\" DESC, n int4_ops)",
        shard: "CREATE INDEX ON {leaf} (v COLLATE \"und-x-icu\" varchar_pattern_ops);
                CREATE INDEX ON {leaf} USING gist (to_tsvector('simple', v) tsvector_ops (siglen = 64))",
    }
    operator_class_of_a_user: {
        table: "CREATE FUNCTION backwards(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT btint4cmp($2, $1)';
                CREATE OPERATOR CLASS reverse_ops FOR TYPE int USING btree AS
                    OPERATOR 1 > , OPERATOR 2 >= , OPERATOR 3 = , OPERATOR 4 <= , OPERATOR 5 < , FUNCTION 1 backwards(int, int);
                CREATE INDEX ON tbl (n reverse_ops)",
    }
    index_on_a_user_function: {
        table: "CREATE FUNCTION half(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 / 2; END';
                CREATE INDEX ON tbl (half(n)) WHERE half(n) > 0",
    }
    comments_on_indexes: {
        table: "CREATE INDEX by_n ON tbl (n)",
        shard: "CREATE INDEX own_{leaf} ON {leaf} (v); COMMENT ON INDEX own_{leaf} IS 'own'; COMMENT ON INDEX {leaf}_pkey IS 'key';
                COMMENT ON CONSTRAINT {leaf}_pkey ON {leaf} IS 'key constraint'",
    }
    statistics_target_of_an_index: {
        table: "CREATE INDEX by_expression ON tbl (lower(v), (n % 3))",
        shard: "CREATE INDEX own_{leaf} ON {leaf} ((n + 1), k, (n + 2)); ALTER INDEX own_{leaf} ALTER COLUMN 1 SET STATISTICS 300,
                ALTER COLUMN 3 SET STATISTICS 0",
    }
    index_with_a_name_to_be_quoted: { shard: "CREATE INDEX \"My {leaf} USING x\" ON {leaf} (n) WHERE v <> ' USING '" }
    index_with_a_long_name: {
        shard: "CREATE INDEX {leaf}_very_long_name_of_an_index_that_fills_all_sixty_three ON {leaf} (n)",
    }
    tablespace_of_indexes: {
        shard: "CREATE INDEX ON {leaf} (n) TABLESPACE indexes; ALTER INDEX {leaf}_pkey SET TABLESPACE indexes",
    }
    tablespace_of_the_shard: { shard: "ALTER TABLE {leaf} SET TABLESPACE indexes" }
    mark_of_cluster: { table: "CREATE INDEX ON tbl (n)", shard: "ALTER TABLE {leaf} CLUSTER ON {leaf}_n_idx" }
    replica_identity_index: {
        columns: "k bigint PRIMARY KEY, v text, n int NOT NULL",
        table: "CREATE UNIQUE INDEX ON tbl (n, k)",
        shard: "ALTER TABLE {leaf} REPLICA IDENTITY USING INDEX {leaf}_n_k_idx",
    }
    replica_identity_full: { shard: "ALTER TABLE {leaf} REPLICA IDENTITY FULL" }
    replica_identity_nothing: { shard: "ALTER TABLE {leaf} REPLICA IDENTITY NOTHING" }
}
