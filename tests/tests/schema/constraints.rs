//! Constraints.

use repart_tests::describe;
use repart_tests::repart::Session;

use crate::{carried_over, missing, shared_cluster};

const CUSTOMERS: &str = "CREATE TABLE customer (id int PRIMARY KEY, name text UNIQUE);
     INSERT INTO customer SELECT g, 'c' || g FROM generate_series(0, 6) g";

carried_over! {
    check_of_the_parent: { columns: "k bigint PRIMARY KEY, v text, n int CONSTRAINT small CHECK (n < 100)" }
    check_of_the_shard: {
        shard: "ALTER TABLE {leaf} ADD CONSTRAINT \"own check\" CHECK (n >= 0 AND v <> 'it''s'),
                                   ADD CONSTRAINT local CHECK (n < 1000) NO INHERIT;
                COMMENT ON CONSTRAINT local ON {leaf} IS 'here only'",
    }
    check_that_rows_violate: {
        filled: "ALTER TABLE {leaf} ADD CONSTRAINT late CHECK (n < 3) NOT VALID; COMMENT ON CONSTRAINT late ON {leaf} IS 'later'",
    }
    check_of_the_parent_that_rows_violate: {
        table: "",
        filled: "DO $$ BEGIN
                     IF NOT EXISTS (SELECT FROM pg_constraint WHERE conname = 'late' AND conrelid = 'tbl'::regclass) THEN
                         ALTER TABLE tbl ADD CONSTRAINT late CHECK (n < 3) NOT VALID;
                     END IF; END $$",
    }
    check_not_enforced: { since: 18, filled: "ALTER TABLE {leaf} ADD CONSTRAINT hint CHECK (n < 3) NOT ENFORCED" }
    check_with_a_function: {
        table: "CREATE FUNCTION is_good(int) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 < 100; END';
                ALTER TABLE tbl ADD CHECK (is_good(n) AND is_good(5))",
    }
    foreign_key_of_the_parent: {
        table: "CREATE TABLE customer (id int PRIMARY KEY); INSERT INTO customer SELECT generate_series(0, 6);
                ALTER TABLE tbl ADD CONSTRAINT to_customer FOREIGN KEY (n) REFERENCES customer ON DELETE SET NULL ON UPDATE CASCADE",
    }
    foreign_key_of_the_shard: {
        table: CUSTOMERS,
        shard: "ALTER TABLE {leaf} ADD CONSTRAINT own FOREIGN KEY (n) REFERENCES customer MATCH FULL
                    ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED; COMMENT ON CONSTRAINT own ON {leaf} IS 'own'",
    }
    foreign_key_that_rows_violate: {
        table: "CREATE TABLE customer (id int PRIMARY KEY); INSERT INTO customer VALUES (1)",
        filled: "ALTER TABLE {leaf} ADD CONSTRAINT late FOREIGN KEY (n) REFERENCES customer NOT VALID",
    }
    foreign_key_to_a_partitioned_table: {
        table: "CREATE TABLE customer (id int PRIMARY KEY) PARTITION BY RANGE (id);
                CREATE TABLE c1 PARTITION OF customer FOR VALUES FROM (0) TO (3);
                CREATE TABLE c2 PARTITION OF customer FOR VALUES FROM (3) TO (10);
                INSERT INTO customer SELECT generate_series(0, 6);
                ALTER TABLE tbl ADD CONSTRAINT to_customer FOREIGN KEY (n) REFERENCES customer",
        shard: "ALTER TABLE {leaf} ADD CONSTRAINT own FOREIGN KEY (n) REFERENCES customer ON DELETE CASCADE",
    }
    foreign_key_of_several_columns: {
        table: "CREATE TABLE customer (id int, name text, PRIMARY KEY (id, name));
                INSERT INTO customer SELECT g % 7, 'value ' || g FROM generate_series(0, 1999) g;
                ALTER TABLE tbl ADD FOREIGN KEY (v, n) REFERENCES customer (name, id) ON DELETE SET NULL (n)",
    }
    exclusion_constraint_of_the_shard: {
        shard: "ALTER TABLE {leaf} ADD CONSTRAINT {leaf}_apart EXCLUDE USING btree (k WITH =, (n + 0) WITH =) WITH (fillfactor = 80)
                    WHERE (n > 2) DEFERRABLE; COMMENT ON CONSTRAINT {leaf}_apart ON {leaf} IS 'apart'; COMMENT ON INDEX {leaf}_apart IS 'index'",
    }
    exclusion_constraint_with_gist: {
        columns: "k bigint PRIMARY KEY, v text, n int, c circle",
        shard: "ALTER TABLE {leaf} ADD CONSTRAINT {leaf}_no_overlap EXCLUDE USING gist (c WITH &&)",
        rows: "INSERT INTO tbl SELECT g, 'v', g, circle(point(g * 10, 0), 2) FROM generate_series(0, 1999) g",
    }
    exclusion_constraint_of_the_parent: {
        since: 17,
        columns: "k bigint PRIMARY KEY, v text, n int, EXCLUDE USING btree (k WITH =, n WITH =)",
    }
}

/// Its key is of another type than that of the other features: PostgreSQL wants a GiST operator class for it.
#[test]
fn key_without_overlaps() {
    let cluster = shared_cluster();
    let mut session = Session::open(&cluster, "postgres");
    if let Some(reason) = missing(&mut session, 18, "") {
        eprintln!("skipped: key_without_overlaps: {reason}");
        return;
    }
    session.run(
        "CREATE SCHEMA temporal; SET search_path = temporal, public;
         CREATE TABLE tbl (k int4range, v text, r int4range, PRIMARY KEY (k, r WITHOUT OVERLAPS)) PARTITION BY RANGE (k);
         CREATE TABLE leaf PARTITION OF tbl FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
         ALTER INDEX leaf_pkey SET (fillfactor = 70); COMMENT ON CONSTRAINT leaf_pkey ON leaf IS 'temporal';
         INSERT INTO tbl SELECT int4range(g, g + 1), 'v', int4range(g % 7, g % 7 + 3) FROM generate_series(0, 999) g;
         SELECT repart_manage('tbl')",
    );
    let before = describe::shard(&mut session, "leaf", true);
    let id = session.queue("repart_split('leaf', '[500,501)')");
    session.wait_done(id);
    for n in [1, 2] {
        let shard = format!("tbl_{id}_{n}");
        describe::assert_same(
            &shard,
            &before,
            &describe::shard(&mut session, &shard, true),
        );
    }
    assert_eq!(session.number("SELECT count(*) FROM tbl"), 1000);
    session.run("DROP SCHEMA temporal CASCADE");
}
