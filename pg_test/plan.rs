//! Plans, and the distribution of keys that their boundaries come from.

use pgrx::prelude::*;

use super::forecast::import_waves;
use super::observe::{one, orders};

#[pgrx::pg_schema]
mod tests {
    use super::*;
    use crate::catalog::{keys, outcomes, plans, shards};
    use crate::decide::{learn, plan};
    use repart_core::heat;

    /// The action and the reason of the only step of a plan.
    fn only_step(call: &str) -> (String, String) {
        Spi::run(&format!("CREATE TEMP TABLE p AS SELECT * FROM {call}")).expect("a plan");
        assert_eq!(one::<i64>("SELECT count(*) FROM p"), 1);
        (one("SELECT action FROM p"), one("SELECT reason FROM p"))
    }

    #[pg_test]
    fn without_a_managed_table_the_plan_says_so() {
        let (action, _) = only_step("repart_plan()");
        assert_eq!(action, "none");
        assert!(
            one::<String>("SELECT why FROM p")
                .contains("no table is managed; run SELECT repart_manage(")
        );
        assert_eq!(
            one::<i64>("SELECT count(*) FROM repart.plans WHERE plan_id = (SELECT plan_id FROM p)"),
            1
        );
    }

    #[pg_test]
    fn without_history_the_plan_is_one_explained_row() {
        orders();
        let (action, _) = only_step("repart_plan('orders')");
        assert_eq!(action, "none");
        assert!(one::<i32>("SELECT length(why) FROM p") > 20);
    }

    #[pg_test]
    fn a_steady_load_needs_nothing() {
        orders();
        import_waves("orders_low", 300.0);
        import_waves("orders_high", 300.0);
        Spi::run("SET LOCAL repart.shard_capacity = 1000").expect("set");
        let (action, reason) = only_step("repart_plan()");
        assert_eq!((action.as_str(), reason.as_str()), ("none", "NO_ACTION"));
        assert_eq!(
            one::<i64>("SELECT count(DISTINCT metric) FROM repart.forecasts"),
            4
        );
    }

    /// Load that rises to the capacity within three days, in hours.
    fn import_rise(shard: &str) {
        Spi::run(&format!(
            "SELECT repart_import_samples('{shard}', jsonb_agg(jsonb_build_object(
                    'at', date_trunc('hour', now()) - (72 - n) * interval '1 hour',
                    'reads', 10.0 * n, 'writes', n, 'bytes', 8192 * n)))
               FROM generate_series(0, 72) n"
        ))
        .expect("imported");
    }

    /// The lower shard gets too much load.
    fn orders_with_a_rising_shard() {
        orders();
        Spi::run("INSERT INTO orders SELECT i % 100, 'x' FROM generate_series(1, 5000) i; ANALYZE orders_low").expect("rows");
        import_rise("orders_low");
        // The neighbour has no room, or the boundary between the two would be moved instead.
        import_waves("orders_high", 450.0);
        Spi::run("SET LOCAL repart.shard_capacity = 1000; SET LOCAL repart.min_shard_size = 0; SET LOCAL repart.dwell = 0")
            .expect("settings");
    }

    #[pg_test]
    fn a_shard_that_becomes_hot_is_split_where_its_rows_are() {
        orders_with_a_rising_shard();
        Spi::run("CREATE TEMP TABLE p AS SELECT * FROM repart_plan('orders')").expect("a plan");
        assert_eq!(
            one::<String>("SELECT action || ' ' || shard FROM p"),
            "split orders_low",
            "{}",
            one::<String>("SELECT why FROM p")
        );
        assert_eq!(
            one::<String>("SELECT key_from || ' ' || key_to FROM p"),
            "MINVALUE 100"
        );
        assert!(one::<bool>(
            "SELECT load_after < load_before AND benefit > cost FROM p"
        ));
        let (_, step) = plans::steps(one("SELECT plan_id FROM p"))
            .expect("stored")
            .remove(0);
        let boundary: i32 = step
            .boundaries
            .first()
            .expect("a boundary")
            .parse()
            .expect("a key");
        assert!((20..80).contains(&boundary), "{boundary}");
        assert_eq!(
            plans::latest().expect("plans"),
            Some(one("SELECT plan_id FROM p"))
        );
    }

    #[pg_test]
    fn a_step_whose_shard_is_in_use_can_be_applied_later() {
        orders_with_a_rising_shard();
        let plan: i64 = one("SELECT plan_id FROM repart_plan('orders')");
        let apply = format!("SELECT count(*) FROM repart_apply({plan})");
        Spi::run("SET LOCAL repart.allow_blocking = on").expect("settings");
        let other: i64 = one("SELECT repart_split('orders_low', '10')");
        assert_eq!(one::<i64>(&apply), 0);
        Spi::run(&format!("SELECT repart_cancel({other})")).expect("cancelled");
        assert_eq!(one::<i64>(&apply), 1);
        let kind = format!("SELECT kind FROM repart.migrations WHERE id > {other}");
        assert_eq!(one::<String>(&kind), "split");
        // It is applied once.
        assert_eq!(one::<i64>(&apply), 0);
    }

    /// Neither table passes the limit by itself.
    #[pg_test]
    fn colocated_tables_are_planned_as_one() {
        orders();
        Spi::run(
            "CREATE TABLE lines (id int NOT NULL, n int) PARTITION BY RANGE (id);
             CREATE TABLE lines_low PARTITION OF lines FOR VALUES FROM (MINVALUE) TO (100);
             CREATE TABLE lines_high PARTITION OF lines FOR VALUES FROM (100) TO (MAXVALUE);
             INSERT INTO lines SELECT i % 100, i FROM generate_series(1, 5000) i; ANALYZE lines_low;
             SELECT repart_manage('lines')",
        )
        .expect("a second table");
        for shard in ["orders_low", "lines_low"] {
            import_rise(shard);
        }
        for shard in ["orders_high", "lines_high"] {
            import_waves(shard, 450.0);
        }
        Spi::run("SET LOCAL repart.shard_capacity = 2000; SET LOCAL repart.min_shard_size = 0; SET LOCAL repart.dwell = 0")
            .expect("settings");
        assert_eq!(only_step("repart_plan()").0, "none");
        Spi::run("DROP TABLE p; SELECT repart_manage('lines', colocate_with => 'orders')")
            .expect("colocated");
        // For whichever of them is asked, and for all.
        for call in [
            "repart_plan('lines')",
            "repart_plan('orders')",
            "repart_plan()",
        ] {
            Spi::run(&format!("CREATE TEMP TABLE p AS SELECT * FROM {call}")).expect("a plan");
            assert_eq!(one::<i64>("SELECT count(*) FROM p"), 1, "{call}");
            let why: String = one("SELECT why FROM p");
            assert_eq!(
                one::<String>("SELECT action || ' ' || shard FROM p"),
                "split orders_low",
                "{why}"
            );
            assert!(
                why.ends_with("loads and sizes include colocated table lines, reshaped alike"),
                "{why}"
            );
            // 72 hours of a load that rises by 11 rows/s in each of two tables.
            assert!(one::<f64>("SELECT load_before FROM p") > 1400.0);
            // There are rows in one of them only: that decides where the keys are.
            let bytes = "SELECT bytes = pg_total_relation_size('lines_low') + pg_total_relation_size('orders_low') FROM p";
            assert!(one::<bool>(bytes));
            Spi::run("DROP TABLE p").expect("dropped");
        }
    }

    #[pg_test]
    fn a_group_whose_shards_differ_is_left_alone() {
        orders();
        Spi::run(
            "CREATE TABLE lines (id int NOT NULL, n int) PARTITION BY RANGE (id);
             CREATE TABLE lines_low PARTITION OF lines FOR VALUES FROM (MINVALUE) TO (100);
             CREATE TABLE lines_high PARTITION OF lines FOR VALUES FROM (100) TO (MAXVALUE);
             INSERT INTO lines SELECT i % 100, i FROM generate_series(1, 5000) i; ANALYZE lines_low;
             SELECT repart_manage('lines', colocate_with => 'orders');
             ALTER TABLE lines DETACH PARTITION lines_high;
             ALTER TABLE lines ATTACH PARTITION lines_high FOR VALUES FROM (200) TO (MAXVALUE)",
        )
        .expect("a group");
        for shard in ["orders_low", "lines_low"] {
            import_rise(shard);
        }
        Spi::run("SET LOCAL repart.shard_capacity = 1000; SET LOCAL repart.min_shard_size = 0; SET LOCAL repart.dwell = 0")
            .expect("settings");
        Spi::run("CREATE TEMP TABLE p AS SELECT * FROM repart_plan()").expect("a plan");
        let why: String = one("SELECT action || ': ' || why || alternatives FROM p");
        assert!(
            why.starts_with("none")
                && why.contains("colocated with table \"lines\", which has other shards"),
            "{why}"
        );
    }

    #[pg_test]
    fn history_that_ended_long_ago_is_no_reason_to_act() {
        orders();
        import_rise("orders_low");
        Spi::run("UPDATE repart.samples SET at = at - interval '5 days'; SET LOCAL repart.shard_capacity = 100").expect("old");
        assert_eq!(only_step("repart_plan('orders')").0, "none");
        assert_eq!(one::<i64>("SELECT count(*) FROM repart.forecasts"), 0);
    }

    #[pg_test]
    fn all_tables_share_one_plan() {
        orders();
        let id = plan::make_plan(None).expect("a plan");
        assert_eq!(plans::steps(id).expect("steps").len(), 1);
    }

    /// The share of a shard's rows below the boundary that halves it.
    fn halved(table: &str, shard: &str, condition: &str) -> f64 {
        let relation: pg_sys::Oid = one(&format!("SELECT '{table}'::regclass::oid"));
        let (_, found) =
            shards::find(one(&format!("SELECT '{shard}'::regclass::oid"))).expect("a shard");
        let key = shards::key(relation).expect("a key");
        let buckets = keys::buckets(&key, &found).expect("buckets");
        let points = heat::split_points(found.lower.as_deref(), &buckets, 2).expect("a boundary");
        let boundary = pgrx::spi::quote_literal(points.first().expect("a boundary"));
        one(&format!(
            "SELECT avg(({condition} {boundary})::int)::float8 FROM {shard}"
        ))
    }

    #[pg_test]
    fn the_boundary_halves_the_rows_of_a_skewed_key() {
        orders();
        Spi::run("INSERT INTO orders SELECT 100 + (1000000 * (i / 9000.0) ^ 8)::int, 'x' FROM generate_series(1, 9000) i")
            .expect("rows");
        let sampled = halved("orders", "orders_high", "id <");
        assert!((0.45..0.55).contains(&sampled), "from rows: {sampled}");
        Spi::run("ANALYZE orders_high").expect("analysed");
        let known = halved("orders", "orders_high", "id <");
        assert!((0.45..0.55).contains(&known), "from statistics: {known}");
    }

    #[pg_test]
    fn looking_at_the_keys_of_a_shard_is_not_counted_as_its_load() {
        orders();
        Spi::run("INSERT INTO orders SELECT 100 + i, 'x' FROM generate_series(1, 5000) i")
            .expect("rows");
        let counted = || -> i64 {
            one(
                "SELECT pg_stat_get_xact_tuples_returned('orders_high'::regclass)
                        + pg_stat_get_xact_blocks_fetched('orders_high'::regclass)",
            )
        };
        let relation: pg_sys::Oid = one("SELECT 'orders'::regclass::oid");
        let (_, high) = shards::find(one("SELECT 'orders_high'::regclass::oid")).expect("a shard");
        let key = shards::key(relation).expect("a key");
        // Never analysed, so that its rows are read.
        let before = counted();
        assert!(!keys::buckets(&key, &high).expect("buckets").is_empty());
        assert_eq!(counted(), before);
        one::<i64>("SELECT count(*) FROM orders_high");
        assert!(counted() > before + 5000, "what a user reads is counted");
    }

    #[pg_test]
    fn common_keys_and_a_histogram_are_joined_in_the_order_of_the_key() {
        Spi::run(
            r#"CREATE TABLE words (word text COLLATE "C" NOT NULL) PARTITION BY RANGE (word);
               CREATE TABLE words_all PARTITION OF words FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
               INSERT INTO words SELECT CASE WHEN i % 10 < 3 THEN 'Zeta''s' ELSE 'a' || lpad(i::text, 6, '0') END
                 FROM generate_series(1, 10000) i;
               ANALYZE words_all"#,
        )
        .expect("rows");
        let known = halved("words", "words_all", "word <");
        assert!((0.45..0.55).contains(&known), "{known}");
    }

    #[pg_test]
    fn boundaries_do_not_depend_on_how_the_session_writes_times() {
        Spi::run(
            "CREATE TABLE log (at timestamptz NOT NULL) PARTITION BY RANGE (at);
             CREATE TABLE log_all PARTITION OF log FOR VALUES FROM ('2020-01-01') TO (MAXVALUE);
             INSERT INTO log SELECT timestamptz '2024-01-01' + i * interval '7 hours' FROM generate_series(1, 5000) i;
             ANALYZE log_all;
             SET LOCAL datestyle = 'German'",
        )
        .expect("rows");
        let relation: pg_sys::Oid = one("SELECT 'log'::regclass::oid");
        let (_, found) = shards::find(one("SELECT 'log_all'::regclass::oid")).expect("a shard");
        let buckets =
            keys::buckets(&shards::key(relation).expect("a key"), &found).expect("buckets");
        let points = heat::split_points(found.lower.as_deref(), &buckets, 2).expect("a boundary");
        let boundary = points.first().expect("a boundary");
        assert!(
            boundary.starts_with("20") && boundary.as_bytes().get(4) == Some(&b'-'),
            "{boundary}"
        );
    }

    #[pg_test]
    fn an_empty_shard_has_no_buckets() {
        orders();
        let relation: pg_sys::Oid = one("SELECT 'orders'::regclass::oid");
        let (_, found) = shards::find(one("SELECT 'orders_low'::regclass::oid")).expect("a shard");
        assert!(
            keys::buckets(&shards::key(relation).expect("a key"), &found)
                .expect("none")
                .is_empty()
        );
    }

    fn finished(migration: i64) -> outcomes::NewOutcome {
        outcomes::NewOutcome {
            migration,
            kind: "split".to_owned(),
            relation: one("SELECT 'orders'::regclass::oid"),
            relation_name: "orders".to_owned(),
            rows: 1_000_000,
            bytes: 400_000_000,
            copy_seconds: 10.0,
            duration: 12.0,
            pause_ms: 20.0,
            predicted: Some(
                serde_json::json!({ "duration": 10.0, "rate": 4e7, "pause_ms": 50.0, "load_after": 50.0 }),
            ),
            load_before: Some(100.0),
            moved: repart_core::feedback::Moved {
                deleted: 10_000.0,
                delete_seconds: 0.05,
                ..Default::default()
            },
            shards: vec![one("SELECT 'orders_low'::regclass::oid")],
        }
    }

    #[pg_test]
    fn outcomes_teach_the_copy_rate_and_are_judged_by_the_load_that_followed() {
        orders();
        for migration in 1..=5 {
            outcomes::record(&finished(migration)).expect("recorded");
            outcomes::record(&finished(migration)).expect("recorded twice");
        }
        let learned = learn::learned().expect("learned");
        assert_eq!(learned.outcomes, 5);
        assert!(
            (3.5e7..4.5e7).contains(&learned.copy_rate),
            "{}",
            learned.copy_rate
        );
        Spi::run(
            "UPDATE repart.outcome_log SET finished_at = now() - interval '2 hours';
             INSERT INTO repart.samples (shard, at, seconds, reads, writes, bytes)
             SELECT 'orders_low'::regclass, now() - n * interval '1 minute', 60, 40, 5, 0 FROM generate_series(0, 59) n",
        )
        .expect("samples");
        learn::judge().expect("judged");
        let judged =
            "SELECT count(*) FROM repart.outcomes WHERE load_after = 45 AND judged_until = now()
                         AND predicted_load_after = 50 AND rate = 4e7";
        assert_eq!(one::<i64>(judged), 5);
    }
}
