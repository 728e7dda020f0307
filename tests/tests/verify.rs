//! The comparison of all rows before the switch: whatever differs is noticed and copied again.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::time::{Duration, Instant};

use repart_tests::aftermath::assert_nothing_left;
use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;

const ROWS: &str = "SELECT string_agg(r::text, E'\\n' ORDER BY r::text) FROM readings r";

/// Splits `readings`, of which a mover has just copied every row, after something was done to the copy; the copy
/// must be noticed to differ, and the rows must be the old ones in the end.
fn damaged_copy_is_mended(key: &str, damage: &str) {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.run(&format!(
        "CREATE TABLE readings (id bigint NOT NULL, value numeric, note text, {key}) PARTITION BY RANGE (id);
         CREATE TABLE readings1 PARTITION OF readings FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
         INSERT INTO readings SELECT id, 1.0, CASE WHEN id % 2 = 0 THEN 'note ' || id END
                                FROM generate_series(1, 2000) AS id;
         SELECT repart_manage('readings')"
    ));
    let before = session.texts(ROWS);
    session.hold_at("verifying");
    let id = session.queue("repart_split('readings1', '1000')");
    session.wait_held("verifying");
    let target = format!("repart.t_{id}_1");
    session.run(&damage.replace("{target}", &target));
    session.release();
    session.wait_done(id);
    let again = session.number(
        "SELECT count(*) FROM repart.events WHERE message LIKE '%differ after the copy%copying the range again'",
    );
    assert_eq!(again, 1, "{damage}");
    assert_eq!(session.texts(ROWS), before, "{damage}");
    assert_nothing_left(&mut session);
}

/// Led by the shard key: rows are compared with rows.
const BY_KEY: &str = "PRIMARY KEY (id)";

/// Not led by it: sums are compared.
const BY_SUMS: &str = "tag text NOT NULL DEFAULT 'x', PRIMARY KEY (tag, id)";

#[test]
fn a_value_that_is_not_the_sources_is_copied_again() {
    for key in [BY_KEY, BY_SUMS] {
        damaged_copy_is_mended(key, "UPDATE {target} SET note = 'other' WHERE id = 17");
    }
}

/// PostgreSQL takes 1.0 and 1.00 for equal.
#[test]
fn a_value_that_is_only_equal_is_copied_again() {
    for key in [BY_KEY, BY_SUMS] {
        damaged_copy_is_mended(key, "UPDATE {target} SET value = 1.00 WHERE id = 17");
    }
}

#[test]
fn a_null_that_is_not_the_sources_is_copied_again() {
    for key in [BY_KEY, BY_SUMS] {
        damaged_copy_is_mended(key, "UPDATE {target} SET note = NULL WHERE id = 18");
    }
}

#[test]
fn a_row_that_is_missing_is_copied_again() {
    for key in [BY_KEY, BY_SUMS] {
        damaged_copy_is_mended(key, "DELETE FROM {target} WHERE id = 999");
    }
}

#[test]
fn a_row_that_no_source_has_is_taken_away() {
    for key in [BY_KEY, BY_SUMS] {
        damaged_copy_is_mended(key, "INSERT INTO {target} (id, value) VALUES (-5, 1.0)");
    }
}

/// Both sides have as many rows.
#[test]
fn a_row_under_another_key_is_copied_again() {
    for key in [BY_KEY, BY_SUMS] {
        damaged_copy_is_mended(key, "UPDATE {target} SET id = -5 WHERE id = 17");
    }
}

/// That more time passes than the limit allows would prove nothing; that less does not is what it is for.
#[test]
fn the_comparison_keeps_to_the_rate_of_the_copy() {
    let cluster = Cluster::with_repart(&["repart.max_copy_rate = 1024kB"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[], 0);
    session.run(
        "INSERT INTO orders SELECT id, repeat('x', 100), 0 FROM generate_series(1, 10000) AS id",
    );
    let kilobytes = session.number("SELECT pg_relation_size('orders1') / 1024");
    let begun = Instant::now();
    let id = session.queue("repart_split('orders1', '5000')");
    session.wait_done(id);
    let least = Duration::from_secs_f64(2.0 * kilobytes as f64 / 1024.0);
    assert!(
        begun.elapsed() > least.mul_f64(0.9),
        "{:?}",
        begun.elapsed()
    );
}
