//! Forecasts of imported load.

use pgrx::prelude::*;

use super::observe::{error_of, one, orders};

/// Imports two weeks of hourly load with a daily wave around `mean`, up to the last full hour.
pub fn import_waves(shard: &str, mean: f64) {
    Spi::run(&format!(
        "SELECT repart_import_samples('{shard}', jsonb_agg(jsonb_build_object(
                'at', date_trunc('hour', now()) - n * interval '1 hour',
                'reads', {mean} * (1 + 0.5 * sin(2 * pi() * n / 24)) + n % 5, 'writes', 1 + n % 3, 'bytes', 8192 * (1 + n % 7))))
           FROM generate_series(0, 335) n"
    ))
    .expect("imported");
}

#[pgrx::pg_schema]
mod tests {
    use super::*;

    #[pg_test]
    fn a_forecast_has_the_step_of_the_history_and_quantiles_in_order() {
        orders();
        import_waves("orders_low", 1000.0);
        Spi::run("CREATE TEMP TABLE f AS SELECT * FROM repart_forecast('orders', '24 hours')")
            .expect("forecast");
        assert_eq!(one::<i64>("SELECT count(*) FROM f"), 3 * 24);
        assert_eq!(
            one::<i64>("SELECT count(*) FROM f WHERE q50 < 0 OR q50 > q90 OR q90 > q99"),
            0
        );
        assert_eq!(
            one::<String>("SELECT string_agg(DISTINCT metric, ' ') FROM f"),
            "bytes reads writes"
        );
        assert_eq!(
            one::<String>("SELECT string_agg(DISTINCT shard::text, ' ') FROM f"),
            "orders_low"
        );
        let first = "SELECT min(at) = date_trunc('hour', now()) + interval '1 hour' FROM f";
        assert!(one::<bool>(first));
        let steps = "SELECT bool_and(d = interval '1 hour') FROM (
                         SELECT at - lag(at) OVER (ORDER BY at) d FROM f WHERE metric = 'reads') x WHERE d IS NOT NULL";
        assert!(one::<bool>(steps));
    }

    #[pg_test]
    fn a_forecast_follows_the_daily_wave() {
        orders();
        import_waves("orders_low", 1000.0);
        let wape = "SELECT sum(abs(f.q50 - s.reads)) / sum(s.reads)
                      FROM repart_forecast('orders', '24 hours') f
                      JOIN repart.samples s ON s.at = f.at - interval '1 day' WHERE f.metric = 'reads'";
        let error = one::<f64>(wape);
        assert!(error < 0.1, "WAPE {error}");
    }

    #[pg_test]
    fn the_model_asked_for_is_used() {
        orders();
        import_waves("orders_low", 1000.0);
        let models = "SELECT string_agg(DISTINCT model, ' ') FROM repart_forecast('orders', '6 hours', 'seasonal_naive')";
        assert_eq!(one::<String>(models), "seasonal_naive");
    }

    #[pg_test]
    fn a_shard_without_history_gives_no_rows() {
        orders();
        assert_eq!(
            one::<i64>("SELECT count(*) FROM repart_forecast('orders')"),
            0
        );
    }

    #[pg_test]
    fn a_long_history_is_forecast_in_steps_that_divide_a_day() {
        orders();
        Spi::run(
            "INSERT INTO repart.samples (shard, at, seconds, reads, writes, bytes)
             SELECT 'orders_low'::regclass, date_trunc('day', now()) - n * interval '1 minute', 60,
                    100 * (1 + sin(2 * pi() * n / 1440)), 1, 1 FROM generate_series(0, 14 * 1440) n",
        )
        .expect("samples");
        let step = "SELECT min(d) FROM (SELECT at - lag(at) OVER (ORDER BY at) AS d
                      FROM repart_forecast('orders', '1 day') WHERE metric = 'reads') x";
        assert_eq!(one::<String>(&format!("SELECT ({step})::text")), "00:15:00");
    }

    #[pg_test]
    fn a_forecast_that_cannot_be_made_is_refused() {
        orders();
        Spi::run("CREATE TABLE plain (id int)").expect("a table");
        for (call, expected) in [
            ("NULL", "22004: argument \"relation\" must not be null"),
            ("'plain'", "55000: table \"plain\" is not managed by repart"),
            ("'orders', '0'", "22023: horizon must be positive"),
            ("'orders', '-1 day'", "22023: horizon must be positive"),
            (
                "'orders', '1 day', 'crystal'",
                "22023: invalid value for parameter \"model\": \"crystal\"",
            ),
        ] {
            assert_eq!(
                error_of(&format!("SELECT repart_forecast({call})")),
                expected
            );
        }
        Spi::run("SET LOCAL repart.season = 'soon'").expect("set");
        let expected = "22023: invalid value for parameter \"repart.season\": \"soon\"";
        assert_eq!(error_of("SELECT repart_forecast('orders')"), expected);
    }
}
