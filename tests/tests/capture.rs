//! Change capture: whatever the key is made of, however a row was changed, the change is not lost.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_tests::aftermath::assert_nothing_left;
use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;

/// A table whose key has a by-value, a fixed-length and a long variable-length column, behind a dropped one.
const TABLE: &str = "
    CREATE TABLE parts (gone int, id bigint NOT NULL, code uuid NOT NULL, label text NOT NULL, amount numeric,
                        PRIMARY KEY (label, id, code)) PARTITION BY RANGE (id);
    ALTER TABLE parts DROP COLUMN gone;
    CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
    INSERT INTO parts SELECT id, md5(id::text)::uuid, label(id), id / 7.0 FROM generate_series(1, 3000) AS id;
    SELECT repart_manage('parts')";

/// Long, and hard to compress.
const LABEL: &str = "
    CREATE FUNCTION label(id bigint) RETURNS text IMMUTABLE LANGUAGE sql AS
    $$ SELECT string_agg(md5(id::text || n), '') FROM generate_series(1, (id % 60)::int + 1) AS n $$";

const ROWS: &str = "SELECT r::text FROM parts r ORDER BY r::text COLLATE \"C\"";

/// Every kind of change, by its place in the key.
const CHANGES: [&str; 8] = [
    "UPDATE parts SET amount = amount + 1 WHERE id % 10 = 1",
    "UPDATE parts SET label = label || 'x' WHERE id % 10 = 2",
    "UPDATE parts SET code = gen_random_uuid() WHERE id % 10 = 3",
    "UPDATE parts SET id = id + 10000 WHERE id % 10 = 4 AND id < 1000",
    "DELETE FROM parts WHERE id % 10 = 5",
    "INSERT INTO parts SELECT -id, gen_random_uuid(), label(id), NULL FROM generate_series(1, 500) AS id",
    "INSERT INTO parts SELECT * FROM parts WHERE id % 10 = 6
         ON CONFLICT (label, id, code) DO UPDATE SET amount = 0",
    "BEGIN; DELETE FROM parts; SAVEPOINT s; INSERT INTO parts VALUES (1, gen_random_uuid(), '', 1); ROLLBACK",
];

#[test]
fn changes_of_rows_with_any_kind_of_key_arrive() {
    for point in ["copying", "catching_up", "cutting_over"] {
        let cluster = Cluster::with_repart(&[]);
        let mut session = Session::open(&cluster, "postgres");
        session.run(LABEL);
        session.run(TABLE);
        session.hold_at(point);
        let id = session.queue("repart_split('parts1', '1500')");
        session.wait_held(point);
        for change in CHANGES {
            session.run(change);
        }
        let expected = session.texts(ROWS);
        session.release();
        session.wait_done(id);
        assert!(
            session.texts(ROWS) == expected,
            "rows differ, held at {point}"
        );
        assert_nothing_left(&mut session);
    }
}

/// Nothing is inserted into the log with the rights of whoever writes to the table.
#[test]
fn a_client_without_rights_on_the_log_is_captured_too() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[], 1_000);
    session.run("CREATE ROLE clerk; GRANT SELECT, UPDATE ON orders TO clerk");
    session.hold_at("copying");
    let id = session.queue("repart_split('orders1', '500')");
    session.wait_held("copying");
    session.run(
        "SET ROLE clerk; SET search_path = pg_temp;
         UPDATE public.orders SET counter = 7 WHERE id = 10; RESET ROLE; RESET search_path",
    );
    let logged = session.number(&format!(
        "SELECT count(*) FROM repart.log_{id} WHERE repart_key_0 = 10"
    ));
    assert_eq!(logged, 1);
    session.release();
    session.wait_done(id);
    assert_eq!(
        session.number("SELECT counter FROM orders WHERE id = 10"),
        7
    );
}

/// Somebody changes the type of a column of the key, writes, and changes it back: as if nothing had been, but for a
/// change that no log could take.
#[test]
fn a_change_that_cannot_be_captured_ends_the_migration_and_not_the_write() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.run(LABEL);
    session.run(TABLE);
    session.hold_at("catching_up");
    let id = session.queue("repart_split('parts1', '1500')");
    session.wait_held("catching_up");
    session.run("ALTER TABLE parts ALTER COLUMN label TYPE varchar(4000)");
    session.run("INSERT INTO parts VALUES (7000, gen_random_uuid(), 'new', 1)");
    session.run("ALTER TABLE parts ALTER COLUMN label TYPE text");
    session.release();
    let migration = session.wait_ended(id);
    assert_eq!(migration.state, "failed", "{migration:?}");
    assert_eq!(
        session.number("SELECT count(*) FROM parts WHERE id = 7000"),
        1
    );
    assert_nothing_left(&mut session);
}

#[test]
fn the_function_is_good_for_nothing_but_triggers() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[], 100);
    session.hold_at("copying");
    let id = session.queue("repart_split('orders1', '50')");
    session.wait_held("copying");
    let error = session
        .client()
        .batch_execute(&format!("SELECT repart.capture_{id}()"))
        .unwrap_err();
    let text = error.as_db_error().unwrap().message().to_owned();
    assert!(text.contains("can only be called as a trigger"), "{text}");
    session.run("CREATE ROLE clerk; GRANT CREATE ON SCHEMA public TO clerk; SET ROLE clerk; CREATE TABLE own (id bigint)");
    let refused = session.client().batch_execute(&format!(
        "CREATE TRIGGER own AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION repart.capture_{id}('log_{id}', '1')"
    ));
    assert_eq!(refused.unwrap_err().code().unwrap().code(), "42501");
    session.run("DROP TABLE own; RESET ROLE");
    session.release();
    session.wait_done(id);
    assert_nothing_left(&mut session);
}
