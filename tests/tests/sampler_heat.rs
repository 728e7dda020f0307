//! Where the access sampler says that the load falls, beside where a client put it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::time::{Duration, Instant};

use postgres::Client;
use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;

const KEYS: i64 = 6_000;

/// Settings with which each statement gives its key, and nothing decays during a test.
const STEADY: &[&str] = &[
    "autovacuum = off",
    "enable_seqscan = off",
    "enable_bitmapscan = off",
    "repart.sample_rate = 1",
    "repart.sample_interval = '1d'",
];

/// Numbers from 0 to 1, always the same.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A bucket of a shard: from which key on, and what is read and written in it.
struct Bucket {
    from: f64,
    reads: f64,
    writes: f64,
}

fn heat(client: &mut Client, shard: &str) -> Vec<Bucket> {
    client
        .query(
            "SELECT CASE key_from WHEN 'MINVALUE' THEN '-Infinity' ELSE key_from END::float8, reads, writes
               FROM repart.heat WHERE shard = $1::text::regclass ORDER BY bucket",
            &[&shard],
        )
        .unwrap()
        .iter()
        .map(|row| Bucket {
            from: row.get(0),
            reads: row.get(1),
            writes: row.get(2),
        })
        .collect()
}

/// The largest difference, over all edges of buckets, between the share of keys below it as counted by the client
/// and as the sampler says: Kolmogorov's distance.
fn distance(keys: &[i64], buckets: &[Bucket], value: fn(&Bucket) -> f64) -> f64 {
    let total: f64 = buckets.iter().map(value).sum();
    let mut below = 0.0;
    let mut most = 0f64;
    for bucket in buckets {
        let truly = keys
            .iter()
            .filter(|key| (**key as f64) < bucket.from)
            .count() as f64
            / keys.len() as f64;
        most = most.max((below / total - truly).abs());
        below += value(bucket);
    }
    most
}

/// A sample of n differs by more than this from what it was taken of once in a thousand times.
fn allowed(n: f64) -> f64 {
    1.95 / n.sqrt()
}

/// Keys that were loaded: two of three.
fn loaded(key: f64) -> i64 {
    let key = key as i64;
    if key % 3 == 0 { key + 1 } else { key }
}

#[test]
fn keys_that_are_read_and_written_are_distributed_as_the_client_chose_them() {
    let cluster = Cluster::with_repart(STEADY);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[KEYS], KEYS);
    let client = session.client();
    let mut chance = Chance(42);
    let read = client
        .prepare("SELECT payload FROM orders WHERE id = $1")
        .unwrap();
    let write = client
        .prepare("UPDATE orders SET counter = counter + 1 WHERE id = $1")
        .unwrap();
    // Reads crowd at the low end, writes at the high one.
    let mut read_keys = Vec::new();
    let mut written_keys = Vec::new();
    for _ in 0..3_000 {
        let key = loaded(f64::powi(chance.next(), 3) * 5_990.0);
        client.query(&read, &[&key]).unwrap();
        read_keys.push(key);
        let key = loaded(5_990.0 - f64::powi(chance.next(), 2) * 5_980.0);
        client.execute(&write, &[&key]).unwrap();
        written_keys.push(key);
    }
    read_keys.extend(&written_keys); // an UPDATE reads what it writes
    let buckets = heat(client, "orders1");
    assert!(
        buckets.len() > 32,
        "a hot shard has some 64 buckets, not {}",
        buckets.len()
    );
    // 512 keys are kept of each kind.
    let (reads, writes) = (
        distance(&read_keys, &buckets, |bucket| bucket.reads),
        distance(&written_keys, &buckets, |bucket| bucket.writes),
    );
    assert!(reads <= allowed(512.0), "reads: {reads}");
    assert!(writes <= allowed(512.0), "writes: {writes}");
    let uniform: Vec<i64> = (0..KEYS).collect();
    let other = distance(&uniform, &buckets, |bucket| bucket.writes);
    assert!(other > 0.2, "the measure can fail: {other}");
}

#[test]
fn a_shard_that_is_not_hot_has_some_16_buckets() {
    let cluster = Cluster::with_repart(STEADY);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[KEYS], KEYS);
    session.reopen();
    let client = session.client();
    let mut chance = Chance(7);
    let read = client
        .prepare("SELECT payload FROM orders WHERE id = $1")
        .unwrap();
    let mut keys = Vec::new();
    for _ in 0..60 {
        let key = loaded(chance.next() * 3_000.0);
        client.query(&read, &[&key]).unwrap();
        keys.push(key);
    }
    let buckets = heat(client, "orders1");
    assert!((8..=18).contains(&buckets.len()), "{}", buckets.len());
    let reads = distance(&keys, &buckets, |bucket| bucket.reads);
    assert!(reads <= allowed(60.0), "{reads}");
}

#[test]
fn a_range_scan_counts_over_its_range() {
    let cluster = Cluster::with_repart(STEADY);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[KEYS], KEYS);
    session.reopen();
    let client = session.client();
    for _ in 0..40 {
        client
            .query(
                "SELECT payload FROM orders WHERE id BETWEEN 2000 AND 3999",
                &[],
            )
            .unwrap();
    }
    let buckets = heat(client, "orders1");
    let keys: Vec<i64> = (2_000..4_000).filter(|key| key % 3 != 0).collect();
    let reads = distance(&keys, &buckets, |bucket| bucket.reads);
    // 64 to 512 keys are kept, 320 were looked at.
    assert!(reads <= allowed(64.0), "{reads}");
}

#[test]
fn keys_of_other_types_are_kept_and_ordered_as_their_type_says() {
    let cluster = Cluster::with_repart(STEADY);
    let mut session = Session::open(&cluster, "postgres");
    for (number, (key, value)) in [
        (
            "text",
            "'key ' || lpad(n::text, 4, '0') || ' with much more behind it than is kept'",
        ),
        ("uuid", "lpad(n::text, 32, '0')::uuid"),
        (
            "timestamptz",
            "'2030-01-01'::timestamptz + n * interval '1 day'",
        ),
        ("numeric", "n * 1.5"),
        ("date", "'2030-01-01'::date + n"),
    ]
    .into_iter()
    .enumerate()
    {
        let table = format!("t{number}");
        session.run(&format!(
            "CREATE TABLE {table} (k {key} PRIMARY KEY) PARTITION BY RANGE (k);
             CREATE TABLE {table}_all PARTITION OF {table} FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
             SELECT repart_manage('{table}');
             INSERT INTO {table} SELECT {value} FROM generate_series(1, 400) n"
        ));
        let mut client = cluster.connect("postgres");
        for n in (100..200).cycle().take(800) {
            let sql = format!("SELECT * FROM {table}, (SELECT {n} AS n) s WHERE k = {value}");
            client.batch_execute(&sql).unwrap();
        }
        let inside: f64 = session.query(
            &format!(
                "SELECT sum(reads) FILTER (WHERE key_from <> 'MINVALUE' AND key_from::{key} >= (SELECT {value} FROM (SELECT 99 AS n) s)
                                             AND key_from::{key} < (SELECT {value} FROM (SELECT 200 AS n) s)) / sum(reads)
                   FROM repart.heat WHERE relation = '{table}'::regclass"
            ),
            &[],
        )[0].get(0);
        assert!(inside > 0.8, "{key}: {inside}");
    }
}

#[test]
fn a_moving_hotspot_is_seen_within_two_sample_intervals_and_the_old_one_decays() {
    const INTERVAL: Duration = Duration::from_secs(1);
    let cluster = Cluster::with_repart(&[
        "autovacuum = off",
        "enable_seqscan = off",
        "enable_bitmapscan = off",
        "repart.sample_rate = 1",
        "repart.sample_interval = '1s'",
        "repart.mode = 'off'",
    ]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[KEYS], KEYS);
    session.reopen();
    let client = session.client();
    let read = client
        .prepare("SELECT payload FROM orders WHERE id = $1")
        .unwrap();
    let mut chance = Chance(3);
    let mut read_for = |client: &mut Client, intervals: u32, from: f64| {
        let begun = Instant::now();
        while begun.elapsed() < INTERVAL * intervals {
            let key = loaded(from + chance.next() * 500.0);
            client.query(&read, &[&key]).unwrap();
            // A steady rate, whatever the machine.
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let share_above = |client: &mut Client, key: f64| {
        let buckets = heat(client, "orders1");
        let total: f64 = buckets.iter().map(|bucket| bucket.reads).sum();
        let above: f64 = buckets
            .iter()
            .filter(|bucket| bucket.from >= key)
            .map(|bucket| bucket.reads)
            .sum();
        (above / total, total)
    };
    read_for(client, 4, 1_000.0);
    assert!(share_above(client, 4_000.0).0 < 0.1);
    read_for(client, 2, 5_000.0);
    let (moved, rate) = share_above(client, 4_000.0);
    assert!(
        moved > 0.6,
        "three quarters of the heat are that of the last two intervals: {moved}"
    );
    std::thread::sleep(INTERVAL * 4);
    let (_, later) = share_above(client, 4_000.0);
    assert!(
        later < rate / 8.0,
        "what is not used cools down: {rate} rows/s, then {later}"
    );
}

#[test]
fn one_hot_key_and_appended_keys_are_recognised() {
    let cluster = Cluster::with_repart(STEADY);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[KEYS], KEYS);
    session.create_sharded_table("others", &[KEYS], KEYS);
    let mut client = cluster.connect("postgres");
    let read = client
        .prepare("SELECT payload FROM orders WHERE id = $1")
        .unwrap();
    let mut chance = Chance(11);
    for number in 0..900 {
        let key = if number % 3 == 0 {
            loaded(chance.next() * 5_990.0)
        } else {
            4_000
        };
        client.query(&read, &[&key]).unwrap();
    }
    let row = client
        .query_one(
            "SELECT popular_key, popular_share, count(*) FILTER (WHERE single_key AND key_from = '4000')
               FROM repart_heat('orders') WHERE shard = 'orders1'::regclass GROUP BY 1, 2",
            &[],
        )
        .unwrap();
    assert_eq!(row.get::<_, String>(0), "4000");
    let share: f64 = row.get(1);
    assert!((share - 0.667).abs() < 0.1, "{share}");
    assert_eq!(row.get::<_, i64>(2), 1);

    // Above all keys, in order; and elsewhere without order.
    for number in 0..200i64 {
        let sql = format!("INSERT INTO orders VALUES ({}, '', 0)", 10_000 + number);
        client.batch_execute(&sql).unwrap();
        let anywhere = (chance.next() * 1_999.0) as i64 * 3;
        let sql = format!("INSERT INTO others VALUES ({anywhere}, '', 0) ON CONFLICT DO NOTHING");
        client.batch_execute(&sql).unwrap();
    }
    let mut direction = |shard: &str| -> f64 {
        let sql = "SELECT max(append) FROM repart.heat WHERE shard = $1::text::regclass";
        client.query_one(sql, &[&shard]).unwrap().get(0)
    };
    assert!(direction("orders2") > 0.9, "{}", direction("orders2"));
    assert!(direction("others1").abs() < 0.6, "{}", direction("others1"));
}

/// What a migration is planned from: load that was imported, and heat that a client made.
fn plan(session: &mut Session) -> (String, String, String, Option<String>) {
    session.run(
        "SELECT repart_import_samples('orders1', (
             SELECT jsonb_agg(jsonb_build_object('at', now() - n * interval '1 minute', 'reads', 900, 'writes', 0,
                                                 'bytes', 0)) FROM generate_series(1, 60) n));
         SET repart.shard_capacity = 1000; SET repart.min_shard_size = 0; SET repart.dwell = 0",
    );
    let rows = session.query(
        "SELECT action, reason, why, key_to FROM repart_plan('orders')",
        &[],
    );
    let sql = "SELECT boundaries[1] FROM repart.plans ORDER BY plan_id DESC, step LIMIT 1";
    let boundary = session.query(sql, &[])[0].get(0);
    (rows[0].get(0), rows[0].get(1), rows[0].get(2), boundary)
}

#[test]
fn a_split_is_planned_where_the_heat_is_and_not_in_the_middle_of_the_rows() {
    let cluster = Cluster::with_repart(STEADY);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[KEYS], KEYS);
    session.reopen();
    let (action, _, why, boundary) = plan(&mut session);
    assert_eq!(action, "split", "{why}");
    let middle: i64 = boundary.unwrap().parse().unwrap();
    assert!((2_700..=3_300).contains(&middle), "by rows: {middle}");

    let mut chance = Chance(5);
    let client = session.client();
    let read = client
        .prepare("SELECT payload FROM orders WHERE id = $1")
        .unwrap();
    for _ in 0..600 {
        client
            .query(&read, &[&loaded(5_000.0 + chance.next() * 900.0)])
            .unwrap();
    }
    let (action, _, why, boundary) = plan(&mut session);
    assert_eq!(action, "split", "{why}");
    let by_heat: i64 = boundary.unwrap().parse().unwrap();
    assert!((5_300..=5_600).contains(&by_heat), "{by_heat}");
}

#[test]
fn a_shard_with_one_hot_key_or_a_hot_end_is_not_split() {
    let cluster = Cluster::with_repart(STEADY);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_000_000], KEYS);
    session.reopen();
    let client = session.client();
    let read = client
        .prepare("SELECT payload FROM orders WHERE id = $1")
        .unwrap();
    for _ in 0..300 {
        client.query(&read, &[&4_000i64]).unwrap();
    }
    let (action, reason, why, _) = plan(&mut session);
    assert_eq!(
        (action.as_str(), reason.as_str()),
        ("none", "SINGLE_KEY_HOT"),
        "{why}"
    );

    for key in 0..4_000i64 {
        let sql = format!("INSERT INTO orders VALUES ({}, '', 0)", 10_000 + key);
        session.client().batch_execute(&sql).unwrap();
    }
    // Only the last ones still count.
    session.set("repart.sample_interval", "'100ms'");
    for key in 0..1_500i64 {
        let sql = format!("INSERT INTO orders VALUES ({}, '', 0)", 20_000 + key);
        session.client().batch_execute(&sql).unwrap();
        if key == 500 {
            std::thread::sleep(Duration::from_secs(2));
        }
    }
    session.run("ANALYZE orders1");
    let (action, reason, why, _) = plan(&mut session);
    assert_eq!(
        (action.as_str(), reason.as_str()),
        ("none", "APPEND_HOT"),
        "{why}"
    );
}
