//! Real schemas while clients write: no row lost, and the clients never notice.

use repart_tests::aftermath::assert_sound;
use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 6_000;

/// Splits, shifts and merges under load; returns the pauses in ms.
fn migrate_under_load(session: &mut Session, cluster: &Cluster) -> Vec<f64> {
    let workload = Workload::start(cluster, "postgres", Options::new("orders", KEYS));
    for call in [
        "repart_split('{0}', '1500')",
        "repart_shift('{0}', '{1}', '1000')",
        "repart_merge('{0}', '{1}', '{2}')",
    ] {
        let call = session
            .shards("orders")
            .iter()
            .enumerate()
            .fold(call.to_owned(), |call, (n, shard)| {
                call.replace(&format!("{{{n}}}"), &shard.name)
            });
        let id = session.queue(&call);
        session.wait_done(id);
        workload.proceed(100);
    }
    workload.stop().assert_clean();
    assert_sound(session, "orders");
    session
        .query(
            "SELECT pause_ms::float8 FROM repart.outcomes ORDER BY migration",
            &[],
        )
        .iter()
        .map(|row| row.get(0))
        .collect()
}

#[test]
fn triggers_rules_policies_and_foreign_keys_under_load() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    session.run(
        "CREATE TABLE kind (id int PRIMARY KEY); INSERT INTO kind VALUES (1);
         ALTER TABLE orders ADD COLUMN kind int DEFAULT 1 REFERENCES kind;
         CREATE TABLE fired (id bigint, op text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO fired VALUES (coalesce(NEW.id, OLD.id), TG_OP); RETURN NULL; END';
         CREATE TRIGGER every AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION note();
         CREATE INDEX ON orders (lower(payload)) WHERE counter > 0",
    );
    for leaf in ["orders1", "orders2"] {
        session.run(&format!(
            "CREATE TRIGGER own AFTER INSERT OR DELETE ON {leaf} FOR EACH ROW EXECUTE FUNCTION note();
             CREATE RULE r AS ON DELETE TO {leaf} WHERE OLD.counter = -12345 DO INSTEAD NOTHING;
             ALTER TABLE {leaf} ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON {leaf} USING (counter > -100);
             CREATE STATISTICS {leaf}_s ON payload, counter FROM {leaf};
             ALTER TABLE {leaf} ADD CONSTRAINT late CHECK (payload <> 'loaded 1') NOT VALID"
        ));
    }
    let pauses = migrate_under_load(&mut session, &cluster);
    eprintln!(
        "pauses with triggers, rules, policies, statistics and foreign keys: {pauses:.1?} ms"
    );
    // What repart itself copies, deletes and inserts, no trigger may see. Of a row that no client ever touched, the
    // copy would have noted inserts and nothing else.
    assert!(session.number("SELECT count(*) FROM fired") > 0);
    let copied = session.number(
        "SELECT count(*) FROM orders WHERE payload = 'loaded ' || id AND counter = 0
            AND id IN (SELECT f.id FROM fired f GROUP BY f.id HAVING bool_and(f.op = 'INSERT'))",
    );
    assert_eq!(copied, 0, "triggers fired for rows that only repart wrote");
}

#[test]
fn other_column_orders_dropped_generated_and_toasted_columns_under_load() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.run(
        "CREATE TABLE orders (gone int, id bigint PRIMARY KEY, payload text NOT NULL, counter bigint NOT NULL,
                              twice bigint GENERATED ALWAYS AS (counter * 2) STORED, big text DEFAULT repeat('x', 5000))
             PARTITION BY RANGE (id);
         ALTER TABLE orders DROP COLUMN gone;
         CREATE TABLE orders1 (counter bigint NOT NULL, gone text, twice bigint GENERATED ALWAYS AS (counter * 2) STORED,
                               big text DEFAULT repeat('y', 4000), payload text NOT NULL, id bigint NOT NULL);
         ALTER TABLE orders1 DROP COLUMN gone; ALTER TABLE orders1 ALTER big SET STORAGE EXTERNAL;
         ALTER TABLE orders ATTACH PARTITION orders1 FOR VALUES FROM (MINVALUE) TO (3000);
         CREATE TABLE orders2 PARTITION OF orders FOR VALUES FROM (3000) TO (MAXVALUE);
         ALTER TABLE orders2 ALTER big SET DEFAULT repeat('y', 4000)",
    );
    session.run(&format!(
        "INSERT INTO orders (id, payload, counter) SELECT id, 'loaded ' || id, 0 FROM generate_series(0, {KEYS} - 1) AS id
          WHERE id % 3 <> 0; ANALYZE orders; SELECT repart_manage('orders')"
    ));
    let pauses = migrate_under_load(&mut session, &cluster);
    eprintln!("pauses with other column orders: {pauses:.1?} ms");
    assert_eq!(
        session.number("SELECT count(*) FROM orders WHERE twice <> counter * 2"),
        0
    );
    assert_eq!(
        session.number("SELECT count(*) FROM orders WHERE length(big) NOT IN (4000, 5000)"),
        0
    );
}
