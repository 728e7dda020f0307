//! What hangs on a shard: statistics, storage parameters, rights, triggers, rules, policies, comments.

use crate::carried_over;

const TRIGGER_FUNCTION: &str = "CREATE TABLE fired (name text, op text);
     CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
     BEGIN
         INSERT INTO {name}.fired VALUES (tg_name, tg_op);
         IF TG_OP = 'TRUNCATE' THEN RETURN NULL; END IF;
         IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
         RETURN NEW;
     END $$;";

carried_over! {
    extended_statistics: {
        shard: "CREATE STATISTICS {leaf}_all ON v, n FROM {leaf}; CREATE STATISTICS some_{leaf} (mcv) ON n, k, v FROM {leaf};
                CREATE STATISTICS {leaf}_expression ON (n % 3) FROM {leaf};
                CREATE STATISTICS {leaf}_mixed (ndistinct, dependencies) ON (lower(v)), n FROM {leaf};
                ALTER STATISTICS {leaf}_all SET STATISTICS 400; COMMENT ON STATISTICS {leaf}_all IS 'all'",
    }
    extended_statistics_elsewhere_and_of_others: {
        table: "CREATE ROLE {name}; CREATE SCHEMA {name}_stats; GRANT CREATE, USAGE ON SCHEMA {name}_stats TO {name}",
        shard: "CREATE STATISTICS {name}_stats.{leaf} ON v, n FROM {leaf}; ALTER STATISTICS {name}_stats.{leaf} OWNER TO {name}",
    }
    storage_parameters: {
        columns: "k bigint PRIMARY KEY, v text, n int",
        shard: "ALTER TABLE {leaf} SET (fillfactor = 80, autovacuum_enabled = off, autovacuum_vacuum_scale_factor = 0.05,
                    parallel_workers = 2, toast.autovacuum_enabled = off, toast.autovacuum_vacuum_threshold = 77,
                    toast_tuple_target = 256, user_catalog_table = off, vacuum_index_cleanup = on)",
    }
    owner: { table: "CREATE ROLE {name}; ALTER TABLE tbl OWNER TO {name}; GRANT USAGE, CREATE ON SCHEMA {name} TO {name}", shard: "ALTER TABLE {leaf} OWNER TO {name}" }
    owner_of_the_shards_only: { table: "CREATE ROLE {name}; GRANT USAGE ON SCHEMA {name} TO {name}", shard: "ALTER TABLE {leaf} OWNER TO {name}" }
    grants: {
        table: "CREATE ROLE {name}_reader; CREATE ROLE {name}_writer",
        shard: "GRANT SELECT ON {leaf} TO {name}_reader, PUBLIC; GRANT INSERT, UPDATE, TRUNCATE ON {leaf} TO {name}_writer WITH GRANT OPTION;
                GRANT SELECT (v), UPDATE (n) ON {leaf} TO {name}_writer; REVOKE DELETE ON {leaf} FROM postgres",
    }
    grants_by_others: {
        table: "CREATE ROLE {name}_owner; CREATE ROLE {name}_friend; CREATE ROLE {name}_guest;
                GRANT USAGE ON SCHEMA {name} TO PUBLIC",
        shard: "ALTER TABLE {leaf} OWNER TO {name}_owner;
                SET ROLE {name}_owner; GRANT SELECT ON {leaf} TO {name}_friend WITH GRANT OPTION;
                GRANT UPDATE (v) ON {leaf} TO {name}_friend WITH GRANT OPTION;
                SET ROLE {name}_friend; GRANT SELECT ON {leaf} TO {name}_guest; GRANT UPDATE (v) ON {leaf} TO {name}_guest; RESET ROLE",
    }
    default_privileges_do_not_come_in: {
        table: "CREATE ROLE {name}_reader; ALTER DEFAULT PRIVILEGES IN SCHEMA repart GRANT SELECT ON TABLES TO {name}_reader",
        filled: "SELECT 1",
    }
    row_level_security: {
        table: "CREATE ROLE {name}_reader; CREATE TABLE visible (n int)",
        shard: "ALTER TABLE {leaf} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
                CREATE POLICY all_of_it ON {leaf} USING (n > 3);
                CREATE POLICY \"some of it\" ON {leaf} AS RESTRICTIVE FOR UPDATE TO {name}_reader, postgres
                    USING (v <> 'it''s') WITH CHECK (n < 1000);
                CREATE POLICY joined ON {leaf} FOR SELECT USING (EXISTS (SELECT FROM visible i WHERE i.n = {leaf}.n));
                CREATE POLICY adding ON {leaf} FOR INSERT WITH CHECK (true);
                COMMENT ON POLICY joined ON {leaf} IS 'a sub-select'",
    }
    row_level_security_of_the_parent_only: {
        table: "ALTER TABLE tbl ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON tbl USING (true)",
    }
    trigger_of_the_parent: {
        table: "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
                CREATE TRIGGER every BEFORE INSERT OR UPDATE OF v, n ON tbl FOR EACH ROW WHEN (NEW.n > 3) EXECUTE FUNCTION note('a', 'it''s');
                CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON tbl DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
                CREATE TRIGGER off BEFORE DELETE ON tbl FOR EACH ROW EXECUTE FUNCTION note();
                CREATE TRIGGER always AFTER DELETE ON tbl FOR EACH ROW EXECUTE FUNCTION note()",
        filled: "ALTER TABLE tbl DISABLE TRIGGER off; ALTER TABLE tbl ENABLE ALWAYS TRIGGER always;
                 ALTER TABLE {leaf} ENABLE REPLICA TRIGGER every; ALTER TABLE {leaf} DISABLE TRIGGER later;
                 COMMENT ON TRIGGER every ON {leaf} IS 'of a clone'",
    }
    trigger_of_the_shard: {
        table: TRIGGER_FUNCTION,
        filled: "CREATE TRIGGER own BEFORE INSERT OR UPDATE OF v OR DELETE ON {leaf} FOR EACH ROW EXECUTE FUNCTION note();
                 CREATE TRIGGER \"own when\" AFTER UPDATE ON {leaf} FOR EACH ROW
                     WHEN (OLD.v IS DISTINCT FROM NEW.v AND OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION note('x');
                 CREATE TRIGGER own_statement AFTER INSERT ON {leaf} REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION note();
                 CREATE TRIGGER own_truncate BEFORE TRUNCATE ON {leaf} FOR EACH STATEMENT EXECUTE FUNCTION note();
                 CREATE CONSTRAINT TRIGGER own_constraint AFTER INSERT ON {leaf} DEFERRABLE FOR EACH ROW EXECUTE FUNCTION note();
                 CREATE TRIGGER repart_capture_of_a_user AFTER DELETE ON {leaf} FOR EACH ROW EXECUTE FUNCTION note();
                 ALTER TABLE {leaf} DISABLE TRIGGER own_statement, ENABLE ALWAYS TRIGGER own_truncate, ENABLE REPLICA TRIGGER own;
                 COMMENT ON TRIGGER own ON {leaf} IS 'own'",
    }
    rules: {
        table: "CREATE TABLE noted (n int)",
        filled: "CREATE RULE note AS ON INSERT TO {leaf} DO ALSO INSERT INTO noted VALUES (NEW.n);
                 CREATE RULE \"keep it\" AS ON DELETE TO {leaf} WHERE OLD.n = 3 DO INSTEAD NOTHING;
                 CREATE RULE own AS ON UPDATE TO {leaf} WHERE OLD.k <> NEW.k DO ALSO DELETE FROM {leaf} WHERE n = OLD.n;
                 ALTER TABLE {leaf} DISABLE RULE own; ALTER TABLE {leaf} ENABLE ALWAYS RULE note;
                 COMMENT ON RULE note ON {leaf} IS 'notes'",
    }
    shards_in_another_schema: {
        table: "CREATE SCHEMA {name}_shards",
        shard: "ALTER TABLE {leaf} SET SCHEMA {name}_shards;
                CREATE STATISTICS {leaf}_s ON v, n FROM {leaf}; CREATE POLICY p ON {leaf} USING (n > 1)",
    }
    access_method: { shard: "ALTER TABLE {leaf} SET (fillfactor = 50)", table: "SET default_table_access_method = heap" }
    everything_at_once: {
        columns: "gone int, g int GENERATED ALWAYS AS (n * 2) STORED, k bigint, v text COMPRESSION pglz DEFAULT 'x', n int NOT NULL,
                  CONSTRAINT pk PRIMARY KEY (k) INCLUDE (n), CONSTRAINT once UNIQUE (v, k) DEFERRABLE, CHECK (n < 1000)",
        table: (
            "ALTER TABLE tbl DROP COLUMN gone; CREATE ROLE {name}_owner; CREATE ROLE {name}_reader;
             CREATE TABLE customer (id int PRIMARY KEY); INSERT INTO customer SELECT generate_series(0, 6);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             ALTER TABLE tbl ADD FOREIGN KEY (n) REFERENCES customer; CREATE INDEX ON tbl (lower(v)) WHERE n > 2;
             CREATE TRIGGER every BEFORE INSERT ON tbl FOR EACH ROW EXECUTE FUNCTION note();
             GRANT USAGE ON SCHEMA {name} TO PUBLIC; GRANT CREATE ON SCHEMA {name} TO {name}_owner;"),
        shard: "ALTER TABLE {leaf} SET (fillfactor = 80, toast.autovacuum_enabled = off);
                CREATE STATISTICS {leaf}_s ON v, n FROM {leaf};
                ALTER TABLE {leaf} ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON {leaf} USING (EXISTS (SELECT FROM customer WHERE id = {leaf}.n));
                CREATE RULE keep AS ON DELETE TO {leaf} WHERE OLD.n = 3 DO INSTEAD NOTHING;
                CREATE INDEX ON {leaf} (n) TABLESPACE indexes;
                ALTER TABLE {leaf} ALTER v SET STATISTICS 200, ALTER v SET STORAGE MAIN, REPLICA IDENTITY FULL, CLUSTER ON {leaf}_n_idx;
                GRANT SELECT ON {leaf} TO {name}_reader; GRANT UPDATE (v) ON {leaf} TO {name}_reader;
                COMMENT ON TABLE {leaf} IS 'a shard'; COMMENT ON COLUMN {leaf}.v IS 'v';
                COMMENT ON POLICY p ON {leaf} IS 'p'; ALTER TABLE {leaf} OWNER TO {name}_owner",
        filled: "ALTER TABLE {leaf} ADD CONSTRAINT late CHECK (n < 3) NOT VALID;
                 ALTER TABLE {leaf} ADD CONSTRAINT own FOREIGN KEY (n) REFERENCES customer ON DELETE CASCADE;
                 CREATE TRIGGER own AFTER UPDATE ON {leaf} FOR EACH ROW EXECUTE FUNCTION note(); ALTER TABLE {leaf} DISABLE TRIGGER own",
    }
}
