//! Moves of shards between servers while clients read and write through the coordinator: no error, no wrong answer,
//! each row in one place, and nothing left behind on any server.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::thread::JoinHandle;
use std::time::Duration;

use repart_tests::aftermath::{assert_nothing_left, assert_nothing_left_on, assert_sound};
use repart_tests::fleet::{Fleet, complaint};
use repart_tests::repart::Session;
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 12_000;

const SETTINGS: [&str; 2] = ["repart.sample_interval = 300ms", "repart.node_timeout = 5s"];

/// A table of three shards cut at 4000 and 8000 whose unique indexes are those of its shards.
fn create_table(session: &mut Session) {
    session.run("SELECT repart_add_node('north'); SELECT repart_add_node('south')");
    session.create_movable_table("orders", &[4_000, 8_000], KEYS);
}

fn places(session: &mut Session) -> Vec<String> {
    session.texts(
        "SELECT concat_ws(' ', shard, key_from, key_to, node) FROM repart.shards ORDER BY shard::text",
    )
}

#[test]
fn a_move_to_a_node_under_load_loses_nothing() {
    let fleet = Fleet::start(&SETTINGS);
    let mut session = fleet.session();
    create_table(&mut session);
    session.run(
        "CREATE INDEX by_counter ON orders2 (counter) WHERE counter > 5;
         ALTER TABLE orders2 ALTER payload SET STATISTICS 77, ADD CONSTRAINT sane CHECK (counter > -1000000);
         COMMENT ON TABLE orders2 IS 'it''s the second'; COMMENT ON COLUMN orders2.payload IS 'what';
         COMMENT ON INDEX by_counter IS 'few'; ALTER TABLE orders2 SET (fillfactor = 90)",
    );
    let before = session.number("SELECT count(*) FROM orders");
    let workload = Workload::start(
        &fleet.coordinator,
        "postgres",
        Options::new("orders", KEYS).with_nodes(),
    );
    for (shard, node) in [("orders2", "north"), ("orders3", "south")] {
        let id = session.queue(&format!("repart_move('{shard}', node => '{node}')"));
        session.wait_done(id);
        workload.proceed(200);
    }
    workload.stop().assert_clean();
    assert_eq!(
        places(&mut session),
        [
            "orders1 MINVALUE 4000 local",
            "orders2 4000 8000 north",
            "orders3 8000 MAXVALUE south"
        ]
    );
    assert!(before > 0);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
    for cluster in [&fleet.north, &fleet.south] {
        assert_nothing_left_on(cluster, 1);
    }
    let mut north = fleet.north.connect("postgres");
    let facts: String = north
        .query_one(
            "SELECT concat_ws(' | ', obj_description(c.oid), col_description(c.oid, 2), c.reloptions::text,
                    (SELECT attstattarget FROM pg_attribute WHERE attrelid = c.oid AND attname = 'payload'),
                    (SELECT string_agg(regexp_replace(pg_get_indexdef(indexrelid), '.* USING ', '') || ' '
                                       || coalesce(obj_description(indexrelid), ''), ', ' ORDER BY indexrelid)
                       FROM pg_index WHERE indrelid = c.oid),
                    (SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid), ', ' ORDER BY conname)
                       FROM pg_constraint WHERE conrelid = c.oid AND contype = 'c'))
               FROM pg_class c WHERE relnamespace = 'repart_shards'::regnamespace AND relkind = 'r'",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(
        facts,
        "it's the second | what | {fillfactor=90} | 77 | btree (id) , btree (counter) WHERE (counter > 5) few | \
         repart_bound CHECK (((id IS NOT NULL) AND (id >= '4000'::bigint) AND (id < '8000'::bigint))), \
         sane CHECK ((counter > '-1000000'::integer))"
    );
    // A row that does not belong there is refused there, too.
    let refused = complaint(&mut session, "UPDATE orders SET id = 1 WHERE id = 4001");
    assert!(refused.contains("repart_bound"), "{refused}");
    assert_eq!(
        session.texts("SELECT obj_description('orders2'::regclass)"),
        ["it's the second"]
    );
}

/// Somebody who writes to a shard on its node, past the coordinator, until it is gone from there; returns how many rows
/// he has put in.
fn write_directly(fleet: &Fleet, table: &str, first: i64) -> JoinHandle<i64> {
    let mut client = fleet.north.connect("postgres");
    let sql = format!("INSERT INTO {table} VALUES ($1, 'direct', 0)");
    std::thread::spawn(move || {
        for n in 0.. {
            if let Err(error) = client.execute(&sql, &[&(first + n)]) {
                let code = error.code().map(|state| state.code().to_owned());
                assert_eq!(code.as_deref(), Some("42P01"), "{error:?}");
                return n;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        0
    })
}

#[test]
fn moves_from_node_to_node_and_back_under_load_lose_nothing() {
    let fleet = Fleet::start(&SETTINGS);
    let mut session = fleet.session();
    session.run("SELECT repart_add_node('north'); SELECT repart_add_node('south')");
    session.create_sharded_table("orders", &[4_000], 8_000);
    session.run(
        "SELECT repart_manage('orders', leaf_keys => true);
         CREATE UNIQUE INDEX twofold ON orders2 (id, counter); ALTER TABLE orders2 SET (fillfactor = 80);
         ALTER TABLE orders2 ADD CONSTRAINT sane CHECK (counter > -1000000), ALTER payload SET STORAGE external",
    );
    let workload = Workload::start(
        &fleet.coordinator,
        "postgres",
        Options::new("orders", 8_000).with_nodes(),
    );
    let id = session.queue("repart_move('orders2', node => 'north')");
    session.wait_done(id);
    workload.proceed(100);
    let table = session.texts(
        "SELECT format('%I.%I', 'repart_shards', o.option_value)
           FROM pg_foreign_table f, pg_options_to_table(f.ftoptions) o
          WHERE f.ftrelid = 'orders2'::regclass AND o.option_name = 'table_name'",
    );
    let direct = write_directly(&fleet, &table[0], 100_000);
    let id = session.queue("repart_move('orders2', node => 'south')");
    session.wait_done(id);
    let inserted = direct.join().unwrap();
    assert!(inserted > 0);
    let mine = "SELECT count(*) FROM orders WHERE id >= 100000";
    assert_eq!(session.number(mine), inserted);
    workload.proceed(100);
    let id = session.queue("repart_move('orders2', node => 'local')");
    session.wait_done(id);
    assert_eq!(session.number(mine), inserted);
    session.run("DELETE FROM orders WHERE id >= 100000");
    workload.proceed(100);
    workload.stop().assert_clean();
    assert_eq!(
        places(&mut session),
        ["orders1 MINVALUE 4000 local", "orders2 4000 MAXVALUE local"]
    );
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
    for cluster in [&fleet.north, &fleet.south] {
        assert_nothing_left_on(cluster, 0);
    }
    assert_eq!(
        session.texts(
            "SELECT concat_ws(' | ', c.reloptions::text, (SELECT attstorage FROM pg_attribute
                                                      WHERE attrelid = c.oid AND attname = 'payload'),
                    (SELECT string_agg(regexp_replace(pg_get_indexdef(indexrelid), '.* USING ', ''), ', ' ORDER BY indexrelid)
                       FROM pg_index WHERE indrelid = c.oid AND indisunique),
                    (SELECT string_agg(contype::text || ' ' || pg_get_constraintdef(oid), ', ' ORDER BY conname)
                       FROM pg_constraint WHERE conrelid = c.oid AND contype <> 'n'))
               FROM pg_class c WHERE oid = 'orders2'::regclass"
        ),
        ["{fillfactor=80} | e | btree (id), btree (id, counter) | p PRIMARY KEY (id), c CHECK ((counter > '-1000000'::integer))"]
    );
    assert_eq!(session.number("SELECT count(*) FROM repart.in_doubt"), 0);
    // What was done can be taken back.
    let id = session.queue(&format!("repart_revert({id})"));
    session.wait_done(id);
    assert_eq!(places(&mut session)[1], "orders2 4000 MAXVALUE south");
}

/// Split, merge and shift of shards on a node: their rows do not leave it.
#[test]
fn shards_are_reshaped_on_their_node_under_load_and_lose_nothing() {
    let fleet = Fleet::start(&SETTINGS);
    let mut session = fleet.session();
    create_table(&mut session);
    session.run("CREATE INDEX by_payload ON orders2 (payload)");
    let workload = Workload::start(
        &fleet.coordinator,
        "postgres",
        Options::new("orders", KEYS).with_nodes(),
    );
    let id = session.queue("repart_move('orders2', node => 'north')");
    session.wait_done(id);
    for (call, expected) in [
        (
            "repart_split('{1}', '5000', '6500')",
            vec!["4000 5000 north", "5000 6500 north", "6500 8000 north"],
        ),
        (
            "repart_shift('{1}', '{2}', '4700')",
            vec!["4000 4700 north", "4700 6500 north", "6500 8000 north"],
        ),
        ("repart_merge('{1}', '{2}', '{3}')", vec!["4000 8000 north"]),
    ] {
        let shards = session.shards("orders");
        let call = shards
            .iter()
            .enumerate()
            .fold(call.to_owned(), |call, (n, shard)| {
                call.replace(&format!("{{{n}}}"), &shard.name)
            });
        let id = session.queue(&call);
        session.wait_done(id);
        workload.proceed(100);
        let found = session.texts(
            "SELECT concat_ws(' ', key_from, key_to, node) FROM repart.shards WHERE node <> 'local'
              ORDER BY key_from::bigint",
        );
        assert_eq!(found, expected, "{call}");
        assert_nothing_left_on(&fleet.north, i64::try_from(expected.len()).unwrap());
    }
    let refused = complaint(
        &mut session,
        "SELECT repart_merge('orders1', (SELECT shard FROM repart.shards WHERE node = 'north'))",
    );
    assert!(
        refused.starts_with("0A000 shards of table \"orders\" are on different servers"),
        "{refused}"
    );
    workload.stop().assert_clean();
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
    let indexes: Option<String> = fleet
        .north
        .connect("postgres")
        .query_one(
            "SELECT string_agg(regexp_replace(pg_get_indexdef(indexrelid), '.* USING ', ''), ', ' ORDER BY indexrelid)
               FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
              WHERE c.relnamespace = 'repart_shards'::regnamespace",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(indexes.as_deref(), Some("btree (id), btree (payload)"));
    assert_eq!(session.number("SELECT count(*) FROM repart.in_doubt"), 0);
}

/// Colocated tables go together, and so does a role on the node that is nobody special.
#[test]
fn a_group_moves_as_a_role_without_privileges() {
    let fleet = Fleet::start(&SETTINGS);
    let mut session = fleet.session();
    fleet
        .north
        .connect("postgres")
        .batch_execute(
            "CREATE ROLE shards LOGIN; GRANT CREATE, TEMPORARY ON DATABASE postgres TO shards",
        )
        .unwrap();
    session.run(&format!(
        "CREATE SERVER plain FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({});
         CREATE USER MAPPING FOR PUBLIC SERVER plain OPTIONS (user 'shards');
         SELECT repart_add_node('plain')",
        fleet.north.server_options("postgres")
    ));
    session.create_movable_table("orders", &[4_000], KEYS);
    session.run(
        "CREATE TABLE items (id bigint NOT NULL, at timestamptz DEFAULT now(), tags text[], size numeric(12, 3),
                             doubled numeric GENERATED ALWAYS AS (size * 2) STORED, raw bytea, note json)
             PARTITION BY RANGE (id);
         CREATE TABLE items1 PARTITION OF items (PRIMARY KEY (id)) FOR VALUES FROM (MINVALUE) TO (4000);
         CREATE TABLE items2 PARTITION OF items (PRIMARY KEY (id)) FOR VALUES FROM (4000) TO (MAXVALUE);
         INSERT INTO items (id, tags, size, raw, note)
             SELECT n, ARRAY['a', NULL, n::text], n / 7.0, decode(md5(n::text), 'hex'), json_build_object('n', n)
               FROM generate_series(1, 9000) n;
         CREATE ROLE app; ALTER TABLE items OWNER TO app; ALTER TABLE items1 OWNER TO app; ALTER TABLE items2 OWNER TO app;
         SELECT repart_manage('items', colocate_with => 'orders')",
    );
    let sums = "SELECT concat_ws(' ', count(*), sum(hashtext(i::text))) FROM items i
                 UNION ALL SELECT concat_ws(' ', count(*), sum(hashtext(o::text))) FROM orders o";
    let before = session.texts(sums);
    for node in ["plain", "local"] {
        let id = session.queue(&format!("repart_move('orders2', node => '{node}')"));
        session.wait_done(id);
        assert_eq!(session.texts(sums), before, "{node}");
        assert_eq!(
            session.texts("SELECT DISTINCT node FROM repart.shards WHERE shard::text LIKE '%2'"),
            [node]
        );
        assert_nothing_left(&mut session);
        assert_nothing_left_on(&fleet.north, if node == "plain" { 2 } else { 0 });
    }
    session.run("INSERT INTO items (id, size) VALUES (100000, 1.5)");
    assert_eq!(
        session.texts("SELECT doubled::text FROM items WHERE id = 100000"),
        ["3.000"]
    );
}

#[test]
fn what_cannot_be_on_a_node_is_refused_with_its_name() {
    let fleet = Fleet::start(&SETTINGS);
    let mut session = fleet.session();
    create_table(&mut session);
    let mut refuse = |prepare: &str, expected: &str, undo: &str| {
        session.run(prepare);
        let refused = complaint(
            &mut session,
            "SELECT repart_move('orders2', node => 'north')",
        );
        assert!(refused.starts_with(expected), "{prepare}: {refused}");
        session.run(undo);
        refused
    };
    let function =
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';";
    let detail = refuse(
        &format!(
            "{function} CREATE TRIGGER own BEFORE INSERT ON orders2 FOR EACH ROW EXECUTE FUNCTION f()"
        ),
        "0A000 shard \"orders2\" of table \"orders\" cannot be moved to another server",
        "DROP TRIGGER own ON orders2",
    );
    assert!(detail.contains("trigger \"own\""), "{detail}");
    refuse(
        "CREATE TRIGGER all_of_them BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION f()",
        "0A000 shard \"orders2\" of table \"orders\" cannot be moved to another server",
        "DROP TRIGGER all_of_them ON orders",
    );
    refuse(
        "CREATE TABLE others (id bigint PRIMARY KEY); INSERT INTO others SELECT counter FROM orders GROUP BY 1;
         ALTER TABLE orders ADD CONSTRAINT away FOREIGN KEY (counter) REFERENCES others",
        "0A000 shard \"orders2\" of table \"orders\" cannot be moved to another server",
        "ALTER TABLE orders DROP CONSTRAINT away; DROP TABLE others",
    );
    refuse(
        "ALTER TABLE orders2 ENABLE ROW LEVEL SECURITY",
        "0A000 shard \"orders2\" of table \"orders\" cannot be moved to another server",
        "ALTER TABLE orders2 DISABLE ROW LEVEL SECURITY",
    );
    refuse(
        "SELECT repart_drain_node('north')",
        "55000 node \"north\" is draining",
        "SELECT repart_add_node('north')",
    );
    refuse(
        "CREATE ROLE writer LOGIN; GRANT SELECT ON orders TO writer; DROP USER MAPPING FOR PUBLIC SERVER north;
         CREATE USER MAPPING FOR postgres SERVER north OPTIONS (user 'postgres')",
        "55000 users of table \"orders\" have no user mapping for node \"north\": writer",
        "REVOKE SELECT ON orders FROM writer",
    );
    let missing = refuse(
        "CREATE TYPE mood AS ENUM ('sad', 'glad'); ALTER TABLE orders ADD feeling mood DEFAULT 'glad'",
        "55000 type public.mood does not exist on node \"north\"",
        "",
    );
    assert!(missing.contains("Create it there"), "{missing}");
    for (call, expected) in [
        (
            "repart_move('orders2', node => 'nowhere')",
            "42704 node \"nowhere\" does not exist",
        ),
        (
            "repart_move('orders2', node => 'north', tablespace => 'pg_default')",
            "22023 a tablespace on another node cannot be chosen",
        ),
    ] {
        let refused = complaint(&mut session, &format!("SELECT {call}"));
        assert!(refused.starts_with(expected), "{call}: {refused}");
    }
    // With the type there it goes, and labels arrive as what they are.
    fleet
        .north
        .connect("postgres")
        .batch_execute("CREATE TYPE mood AS ENUM ('glad', 'sad')")
        .unwrap();
    session.run("UPDATE orders SET feeling = 'sad' WHERE id = 4001");
    let id = session.queue("repart_move('orders2', node => 'north')");
    session.wait_done(id);
    assert_eq!(
        session.texts("SELECT feeling::text FROM orders WHERE id IN (4001, 4003) ORDER BY id"),
        ["sad", "glad"]
    );
    assert_nothing_left(&mut session);
    assert_nothing_left_on(&fleet.north, 1);
}

/// The connection of postgres_fdw has one snapshot for a whole transaction, also under READ COMMITTED: rows that came to
/// the node later are not in it.
#[test]
fn a_transaction_that_used_the_node_before_does_not_see_a_shard_without_its_rows() {
    let fleet = Fleet::start(&SETTINGS);
    let mut session = fleet.session();
    create_table(&mut session);
    session.create_movable_table("others", &[], 1_000);
    let id = session.queue("repart_move('others1', node => 'north')");
    session.wait_done(id);
    let rows = session.number("SELECT count(*) FROM orders");
    let uses = [
        "SELECT count(*) FROM others",
        "INSERT INTO others VALUES (5000, 'x', 0)",
        "COPY others FROM PROGRAM 'echo 6000,x,0' (FORMAT csv)",
    ];
    let mut readers: Vec<_> = uses
        .iter()
        .map(|sql| {
            let mut reader = fleet.session();
            reader.run(&format!("BEGIN; {sql}"));
            reader
        })
        .collect();
    session.create_sharded_table("here", &[500], 1_000);
    let mut elsewhere = fleet.session();
    elsewhere.run(
        "BEGIN; SELECT now(); UPDATE here SET counter = 1; INSERT INTO here VALUES (7000, 'x', 0);
         COPY here FROM PROGRAM 'echo 8000,x,0' (FORMAT csv)",
    );
    let id = session.queue("repart_move('orders2', node => 'north')");
    session.wait_done(id);
    for (reader, sql) in readers.iter_mut().zip(uses) {
        let refused = complaint(reader, "SELECT count(*) FROM orders WHERE id > 5000");
        assert!(
            refused.starts_with("40001 could not serialize access to table \"orders2\""),
            "{sql}: {refused}"
        );
        // Once more, as an application does.
        reader.run("ROLLBACK; BEGIN; SELECT count(*) FROM others");
        assert_eq!(reader.number("SELECT count(*) FROM orders"), rows);
        reader.run("ROLLBACK");
    }
    // One that was there before, and has not used the node, is not concerned; nor is a later one.
    assert_eq!(elsewhere.number("SELECT count(*) FROM orders"), rows);
    elsewhere.run("COMMIT; BEGIN; SELECT count(*) FROM others");
    assert_eq!(elsewhere.number("SELECT count(*) FROM orders"), rows);
    elsewhere.run("COMMIT");
}
