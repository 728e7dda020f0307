//! Samples, imported load, lineage and retention.

use pgrx::prelude::*;

/// A managed table with the shards `orders_low` (keys below 100) and `orders_high`.
pub fn orders() {
    Spi::run(
        "CREATE TABLE orders (id int NOT NULL, note text) PARTITION BY RANGE (id);
         CREATE TABLE orders_low PARTITION OF orders FOR VALUES FROM (MINVALUE) TO (100);
         CREATE TABLE orders_high PARTITION OF orders FOR VALUES FROM (100) TO (MAXVALUE);
         SELECT repart_manage('orders')",
    )
    .expect("a managed table");
}

/// The single value of a query.
pub fn one<T: FromDatum + IntoDatum>(sql: &str) -> T {
    Spi::get_one(sql)
        .expect("the query runs")
        .unwrap_or_else(|| panic!("no value: {sql}"))
}

/// The SQLSTATE and the message of the error that a statement raises, as `22023: …`. The statement runs in a
/// subtransaction, so that the test can go on.
pub fn error_of(sql: &str) -> String {
    Spi::run(
        "CREATE OR REPLACE FUNCTION pg_temp.error_of(sql text) RETURNS text LANGUAGE plpgsql AS $$
         BEGIN
             EXECUTE sql;
             RETURN 'no error';
         EXCEPTION WHEN OTHERS THEN
             RETURN SQLSTATE || ': ' || SQLERRM;
         END $$",
    )
    .expect("a function");
    one(&format!(
        "SELECT pg_temp.error_of({})",
        pgrx::spi::quote_literal(sql)
    ))
}

#[pgrx::pg_schema]
mod tests {
    use super::*;
    use crate::observe::history::{Metric, history};
    use crate::pg::time::{self, SECOND};

    fn shard(name: &str) -> pg_sys::Oid {
        one(&format!("SELECT '{name}'::regclass::oid"))
    }

    #[pg_test]
    fn the_first_sample_only_remembers_the_counters() {
        orders();
        assert_eq!(one::<i32>("SELECT repart_sample()"), 2);
        assert_eq!(one::<i64>("SELECT count(*) FROM repart.counters"), 2);
        assert_eq!(one::<i64>("SELECT count(*) FROM repart.samples"), 0);
    }

    #[pg_test]
    fn a_session_knows_how_long_it_has_worked_and_tells_members_of_pg_monitor_only() {
        let worked = || one::<f64>("SELECT repart_session_usage()");
        let before = worked();
        Spi::run("SELECT count(*) FROM generate_series(1, 3000000)").expect("some work");
        let (after, machine) = (
            worked(),
            one::<f64>("SELECT cpu_busy_seconds FROM repart_node_usage()"),
        );
        assert!(
            before < after && after < machine,
            "{before} {after} {machine}"
        );
        Spi::run("CREATE ROLE nobody_in_particular").expect("a role");
        for (role, may) in [("nobody_in_particular", false), ("pg_monitor", true)] {
            for function in ["repart_session_usage()", "repart_node_usage()"] {
                let sql =
                    format!("SELECT has_function_privilege('{role}', '{function}', 'EXECUTE')");
                assert_eq!(one::<bool>(&sql), may, "{role} {function}");
            }
        }
    }

    #[pg_test]
    fn the_second_sample_makes_rates_of_the_time_between() {
        orders();
        Spi::run(
            "SELECT repart_sample(); UPDATE repart.counters SET at = at - interval '10 seconds'",
        )
        .expect("sampled");
        assert_eq!(one::<i32>("SELECT repart_sample()"), 2);
        let rows = "SELECT count(*) FROM repart.load WHERE seconds BETWEEN 10 AND 12 AND reads = 0 AND writes = 0
                       AND size > 0 AND relation = 'orders'::regclass";
        assert_eq!(one::<i64>(rows), 2);
    }

    #[pg_test]
    fn counters_that_went_back_leave_a_gap() {
        orders();
        Spi::run(
            "SELECT repart_sample();
             UPDATE repart.counters SET at = at - interval '10 seconds', reads = 5000 WHERE shard = 'orders_low'::regclass;
             UPDATE repart.counters SET at = at - interval '10 seconds', writes = 1 WHERE shard = 'orders_high'::regclass;
             SELECT repart_sample()",
        )
        .expect("sampled");
        assert_eq!(one::<i64>("SELECT count(*) FROM repart.samples"), 0);
        assert_eq!(
            one::<i64>("SELECT count(*) FROM repart.counters WHERE reads = 0 AND writes = 0"),
            2
        );
    }

    #[pg_test]
    fn imported_samples_replace_those_of_the_same_time() {
        orders();
        let import = |reads: i32| {
            one::<i32>(&format!(
                "SELECT repart_import_samples('orders_low', jsonb_agg(jsonb_build_object(
                        'at', now() - n * interval '1 hour', 'reads', {reads}, 'writes', 0.5, 'bytes', 8192)))
                   FROM generate_series(1, 5) n"
            ))
        };
        assert_eq!(import(10), 5);
        assert_eq!(import(20), 5);
        let rows = "SELECT count(*) FROM repart.samples
                     WHERE reads = 20 AND writes = 0.5 AND bytes = 8192 AND seconds = 3600";
        assert_eq!(one::<i64>(rows), 5);
    }

    #[pg_test]
    fn a_gap_between_imported_samples_is_not_a_long_span() {
        orders();
        Spi::run(
            "SELECT repart_import_samples('orders_low', jsonb_agg(jsonb_build_object(
                    'at', extract(epoch FROM now() - n * interval '1 minute'), 'reads', 1, 'writes', 1, 'bytes', 1)))
               FROM unnest(ARRAY[1, 2, 3, 60, 61, 62]) n",
        )
        .expect("imported");
        assert_eq!(
            one::<f64>("SELECT max(round(seconds)::float8) FROM repart.samples"),
            60.0
        );
    }

    #[pg_test]
    fn samples_that_make_no_sense_are_refused() {
        orders();
        for (samples, expected) in [
            ("{}", "samples must be a JSON array"),
            ("[1]", "element 0: not a JSON object"),
            (
                r#"[{"reads": 1, "writes": 1, "bytes": 1}]"#,
                r#"element 0: "at" is missing"#,
            ),
            (
                r#"[{"at": "soon", "reads": 1, "writes": 1, "bytes": 1}]"#,
                r#"element 0: "at" is not a time: "soon""#,
            ),
            (
                r#"[{"at": "2999-01-01", "reads": 1, "writes": 1, "bytes": 1}]"#,
                r#"element 0: "at" is in the future"#,
            ),
            (
                r#"[{"at": "-infinity", "reads": 1, "writes": 1, "bytes": 1}]"#,
                r#"element 0: "at" is infinite"#,
            ),
            (
                r#"[{"at": "2020-01-01", "writes": 1, "bytes": 1}]"#,
                r#"element 0: "reads" is missing"#,
            ),
            (
                r#"[{"at": "2020-01-01", "reads": -1, "writes": 1, "bytes": 1}]"#,
                r#"element 0: "reads" is negative: -1"#,
            ),
            (
                r#"[{"at": "2020-01-01", "reads": "a", "writes": 1, "bytes": 1}]"#,
                r#"element 0: "reads" is not a number: "a""#,
            ),
        ] {
            let error = error_of(&format!(
                "SELECT repart_import_samples('orders_low', '{samples}')"
            ));
            assert_eq!(error, format!("22023: {expected}"));
        }
    }

    /// Adds samples of one row read per second and minute, from `first` minutes ago to `last`.
    fn reads(shard: &str, first: i32, last: i32, reads: f64) {
        Spi::run(&format!(
            "INSERT INTO repart.samples (shard, at, seconds, reads, writes, bytes)
             SELECT '{shard}'::regclass, now() - n * interval '1 minute', 60, {reads}, 0, 0
               FROM generate_series({last}, {first}) n"
        ))
        .expect("samples");
    }

    fn link(shard: &str, ancestor: &str, share: f64, minutes_ago: i32) {
        Spi::run(&format!(
            "INSERT INTO repart.lineage (shard, ancestor, share, at)
             VALUES ('{shard}'::regclass, '{ancestor}'::regclass, {share}, now() - interval '{minutes_ago} minutes')"
        ))
        .expect("lineage");
    }

    fn loads(name: &str) -> Vec<f64> {
        let history = history(shard(name), i64::MIN).expect("history");
        history
            .samples(Metric::Load)
            .iter()
            .map(|sample| sample.value)
            .collect()
    }

    #[pg_test]
    fn a_shard_inherits_through_generations() {
        Spi::run("CREATE TABLE root (); CREATE TABLE half (); CREATE TABLE other (); CREATE TABLE merged ()").expect("tables");
        reads("root", 30, 21, 100.0);
        reads("half", 19, 11, 40.0);
        reads("other", 19, 11, 60.0);
        reads("merged", 9, 0, 90.0);
        link("half", "root", 0.25, 20);
        link("other", "root", 0.75, 20);
        link("merged", "half", 1.0, 10);
        link("merged", "other", 1.0, 10);
        let expected: Vec<f64> = [vec![100.0; 10], vec![100.0; 9], vec![90.0; 10]].concat();
        let got = loads("merged");
        assert_eq!(got.len(), expected.len());
        assert!(
            got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6),
            "{got:?}"
        );
        assert_eq!(loads("half").first(), Some(&25.0));
    }

    #[pg_test]
    fn load_imported_for_a_new_shard_takes_the_place_of_what_it_inherited() {
        Spi::run("CREATE TABLE ancestor (); CREATE TABLE young ()").expect("tables");
        reads("ancestor", 30, 11, 100.0);
        link("young", "ancestor", 0.5, 10);
        assert_eq!(loads("young"), vec![50.0; 20]);
        reads("young", 25, 5, 7.0);
        let got = loads("young");
        assert_eq!(
            got.iter().filter(|load| **load == 7.0).count(),
            21,
            "{got:?}"
        );
        assert!(
            got.iter().filter(|load| **load == 50.0).count() <= 5,
            "{got:?}"
        );
    }

    #[pg_test]
    fn a_shard_that_kept_its_table_inherits_from_itself() {
        Spi::run("CREATE TABLE kept (); CREATE TABLE carved ()").expect("tables");
        reads("kept", 20, 11, 100.0);
        reads("kept", 9, 0, 60.0);
        reads("carved", 9, 0, 40.0);
        link("kept", "kept", 0.6, 10);
        link("carved", "kept", 0.4, 10);
        let own = loads("kept");
        assert!(
            own.len() >= 20 && own.iter().all(|load| (load - 60.0).abs() < 1e-6),
            "{own:?}"
        );
        let carved = loads("carved");
        assert!(
            carved.len() >= 20 && carved.iter().all(|load| (load - 40.0).abs() < 1e-6),
            "{carved:?}"
        );
    }

    #[pg_test]
    fn what_is_older_than_the_retention_is_deleted() {
        orders();
        Spi::run(
            "INSERT INTO repart.samples (shard, at, seconds, reads, writes, bytes)
             SELECT 'orders_low'::regclass, now() - n * interval '10 days', 60, 1, 1, 1 FROM generate_series(0, 5) n;
             INSERT INTO repart.counters VALUES (1, now(), 0, 0, 0);
             INSERT INTO repart.lineage VALUES (1, 2, 1, now() - interval '50 days'),
                                               ('orders_low'::regclass, 2, 1, now());
             INSERT INTO repart.events (at, severity, message) VALUES (now() - interval '50 days', 'info', 'old'),
                                                                      (now(), 'info', 'new');
             INSERT INTO repart.plan_steps (plan_id, step, made_at, spec) VALUES (-2, 1, now() - interval '50 days', '{}'),
                                                                                 (-1, 1, now(), '{}');
             INSERT INTO repart.journal (kind, relation, relation_name, state, spec, finished_at)
             VALUES ('split', 1, 'gone', 'done', '{}', now() - interval '50 days'),
                    ('split', 1, 'recent', 'failed', '{}', now() - interval '1 day'),
                    ('split', 1, 'unfinished', 'copying', '{}', NULL)",
        )
        .expect("rows");
        let more = crate::observe::purge().expect("purged");
        assert!(!more);
        let count = |table: &str| one::<i64>(&format!("SELECT count(*) FROM repart.{table}"));
        assert_eq!(count("samples"), 4);
        assert_eq!(count("counters"), 0);
        assert_eq!(count("lineage"), 1);
        assert_eq!(count("events WHERE message = 'old'"), 0);
        assert_eq!(count("events WHERE message = 'new'"), 1);
        assert_eq!(count("plan_steps WHERE plan_id < 0"), 1);
        assert_eq!(
            one::<String>("SELECT string_agg(relation_name, ' ' ORDER BY id) FROM repart.journal"),
            "recent unfinished"
        );
    }

    #[pg_test]
    fn times_survive_the_way_to_sql_and_back() {
        let epoch: TimestampWithTimeZone = one("SELECT '1970-01-01 00:00:01+00'::timestamptz");
        assert_eq!(time::from_sql(epoch), SECOND);
        for micros in [
            0,
            SECOND,
            -86_400 * SECOND,
            1_900_000_000 * SECOND + 1,
            i64::MAX,
            i64::MIN,
        ] {
            assert_eq!(time::from_sql(time::to_sql(micros)), micros);
        }
        assert_eq!(
            time::parse_span("1 day 00:00:00.1"),
            Some(86_400 * SECOND + 100_000)
        );
    }

    #[pg_test]
    fn only_ones_own_tables_are_written_back() {
        orders();
        Spi::run(
            "INSERT INTO orders SELECT n, repeat(md5(n::text), 100) FROM generate_series(1, 5000) n;
             CREATE VIEW seen AS SELECT * FROM orders; CREATE ROLE stranger",
        )
        .expect("a view and a role");
        assert_eq!(
            error_of("SELECT repart_write_back('orders_high')"),
            "no error"
        );
        for (call, expected) in [
            ("NULL", "22004: argument \"shard\" must not be null"),
            (
                "'orders'",
                "42809: \"orders\" is not a table that is stored here",
            ),
            (
                "'seen'",
                "42809: \"seen\" is not a table that is stored here",
            ),
        ] {
            let sql = format!("SELECT repart_write_back({call})");
            assert_eq!(error_of(&sql), expected, "{call}");
        }
        assert_eq!(
            error_of("SET LOCAL ROLE stranger; SELECT repart_write_back('orders_high')"),
            "42501: must be owner of table \"orders_high\""
        );
    }
}
