//! What users wrote into the calendar of forecasts is theirs: a dump and restore keeps it, and so does an upgrade.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::path::Path;

use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;
use repart_tests::run_dir::run;
use repart_tests::upgrade::offer_next_version;

// The observer must not sample, plan or purge meanwhile.
const SETTINGS: &[&str] = &["repart.mode = 'off'"];

const EVENTS: &str = "SELECT concat_ws(' ', name, relation::text, extract(epoch FROM starts), extract(epoch FROM ends))
                        FROM repart.calendar ORDER BY starts, name";

/// A table in a schema and with a name that need quotes, with events of its own and of all tables; three weeks of
/// hours in which a sale tripled the load.
fn scene(cluster: &Cluster) -> Session<'_> {
    let mut session = Session::open(cluster, "postgres");
    session.run(
        r#"CREATE SCHEMA "My shop";
           CREATE TABLE "My shop"."Orders" (id bigint PRIMARY KEY) PARTITION BY RANGE (id);
           CREATE TABLE "My shop".orders1 PARTITION OF "My shop"."Orders" FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
           SELECT repart_manage('"My shop"."Orders"');
           SELECT repart_import_samples('"My shop".orders1', jsonb_agg(jsonb_build_object(
                      'at', date_trunc('hour', now()) - n * interval '1 hour', 'writes', 100, 'bytes', 81920,
                      'reads', (1000 + 500 * sin(2 * pi() * n / 24)) * CASE WHEN n >= 96 AND n < 120 THEN 3 ELSE 1 END)))
             FROM generate_series(0, 503) n;
           SELECT repart_add_event('sale', date_trunc('hour', now()) + days * interval '1 day',
                                   date_trunc('hour', now()) + (days + 1) * interval '1 day', '"My shop"."Orders"')
             FROM unnest(ARRAY[-5, 0]) days;
           SELECT repart_add_event(E'New Year\t\\N', '2027-01-01 00:00+01', '2027-01-02 00:00+01')"#,
    );
    session
}

/// Dumps the database, in the format of psql or of pg_restore, and restores it as another one.
fn restored<'a>(cluster: &'a Cluster, session: &mut Session, plain: bool) -> Session<'a> {
    let file = cluster.scratch("calendar");
    let mut dump = cluster.client_program("pg_dump", "postgres");
    dump.arg(if plain { "-Fp" } else { "-Fc" });
    dump.arg("-f").arg(&file);
    run(dump);
    session.run("CREATE DATABASE restored TEMPLATE template0");
    restore(cluster, &file, plain);
    Session::open(cluster, "restored")
}

fn restore(cluster: &Cluster, file: &Path, plain: bool) {
    let (program, options): (_, &[&str]) = if plain {
        ("psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
    } else {
        ("pg_restore", &["-e"])
    };
    let mut program = cluster.client_program(program, "restored");
    program.args(options);
    program.arg(file);
    run(program);
}

/// The events of the first session are in the second too, and can be changed and forgotten there.
fn assert_same_calendar(original: &mut Session, restored: &mut Session) {
    let expected = original.texts(EVENTS);
    assert_eq!(expected.len(), 3, "{expected:?}");
    assert_eq!(restored.texts(EVENTS), expected);
    // The one at the same time is replaced, not doubled.
    restored.run(
        r#"SELECT repart_add_event(name, starts, ends + interval '1 hour', relation) FROM repart.calendar"#,
    );
    assert_eq!(restored.number("SELECT count(*) FROM repart.calendar"), 3);
    let dropped = r#"SELECT repart_drop_event('sale', relation => '"My shop"."Orders"')::bigint"#;
    assert_eq!(restored.number(dropped), 2);
}

#[test]
fn a_dump_and_restore_keeps_the_calendar() {
    let cluster = Cluster::with_repart(SETTINGS);
    let mut session = scene(&cluster);
    for plain in [true, false] {
        let mut restored = restored(&cluster, &mut session, plain);
        assert_same_calendar(&mut session, &mut restored);
        drop(restored);
        session.run("DROP DATABASE restored WITH (FORCE)");
    }
}

#[test]
fn an_upgrade_keeps_the_calendar_and_it_is_dumped_after_it() {
    let cluster = Cluster::with_repart(SETTINGS);
    let mut session = scene(&cluster);
    let forecast = r#"SELECT concat_ws(' ', at, metric, q50, q90, q99)
                        FROM repart_forecast('"My shop"."Orders"', '6 hours', 'seasonal_naive') ORDER BY at, metric"#;
    let tripled = r#"SELECT count(*) FROM repart_forecast('"My shop"."Orders"', '6 hours', 'seasonal_naive')
                      WHERE metric = 'reads'
                        AND q50 > 2 * (1000 + 500 * sin(2 * pi() * extract(epoch FROM date_trunc('hour', now()) - at) / 86400))"#;
    assert_eq!(session.number(tripled), 6);
    let (calendar, before) = (session.texts(EVENTS), session.texts(forecast));
    offer_next_version(&cluster);
    session.run("ALTER EXTENSION repart UPDATE TO 'next'");
    assert_eq!(session.texts(EVENTS), calendar);
    assert_eq!(session.texts(forecast), before);
    let mut restored = restored(&cluster, &mut session, true);
    assert_same_calendar(&mut session, &mut restored);
}
