//! What is written to carve one row in a hundred out of a shard.

use crate::figure::{Figure, Findings, Series, Target, Unit};
use crate::options::Options;
use crate::scene::{Cutover, Scene, start_server};

use super::{megabytes, thousands};

/// Shares of the shard's bytes.
struct Run {
    wal: f64,
    growth: f64,
    seconds: f64,
    by_hand: f64,
    cutover: Cutover,
}

/// The last hundredth of the keys becomes a shard of its own.
pub fn run(options: &Options) -> Findings {
    // Whatever autovacuum wrote would count for one side or the other by chance.
    let cluster = start_server(options, &["autovacuum = off"]);
    let rows = options.rows * 2;
    let mut size = 0.0;
    let mut runs = Vec::new();
    for _ in 0..options.runs {
        let by_hand = move_by_hand(&mut Scene::set(&cluster, rows));
        let mut scene = Scene::set(&cluster, rows);
        scene.watches_size = true;
        size = scene.bytes("accounts_1");
        let wal = scene.wal();
        let watched = scene.migrate(&format!(
            "repart_split('accounts_1', '{}')",
            first_leaving(rows)
        ));
        let wal = scene.wal() - wal;
        scene.assert_complete();
        runs.push(Run {
            wal: wal / size * 100.0,
            growth: watched.growth / size * 100.0,
            seconds: watched.duration().as_secs_f64(),
            by_hand: by_hand / size * 100.0,
            cutover: scene.last_cutover(),
        });
    }
    findings(rows, size, &runs)
}

fn first_leaving(rows: i64) -> i64 {
    rows - rows / 100
}

/// WAL of moving the rows as one would without repart; it leaves the table of the rows unattached.
fn move_by_hand(scene: &mut Scene) -> f64 {
    scene
        .session
        .run("DROP TABLE IF EXISTS by_hand; CREATE TABLE by_hand (LIKE accounts)");
    let wal = scene.wal();
    let first = first_leaving(scene.rows());
    scene.session.run(&format!(
        "WITH gone AS (DELETE FROM accounts_1 WHERE aid >= {first} RETURNING *)
         INSERT INTO by_hand SELECT * FROM gone"
    ));
    scene
        .session
        .run("ALTER TABLE by_hand ADD PRIMARY KEY (aid)");
    let written = scene.wal() - wal;
    scene.session.run("DROP TABLE by_hand");
    written
}

fn findings(rows: i64, size: f64, runs: &[Run]) -> Findings {
    let series = |value: fn(&Run) -> f64| runs.iter().map(value).collect::<Series>();
    Findings {
        name: "carve",
        about: format!(
            "the last {} of a shard's {} rows ({}) become a shard, with no clients; shares of the shard's bytes",
            thousands(rows / 100),
            thousands(rows),
            megabytes(size)
        ),
        figures: vec![
            Figure::new("WAL written", Unit::Percent, series(|run| run.wal))
                .beside(
                    "DELETE ... RETURNING, INSERT, ADD PRIMARY KEY",
                    series(|run| run.by_hand),
                )
                .target(Target::AtMost(2.0)),
            Figure::new(
                "files grown, at the most",
                Unit::Percent,
                series(|run| run.growth),
            )
            .target(Target::AtMost(2.0)),
            Figure::new(
                "the whole migration",
                Unit::Seconds,
                series(|run| run.seconds),
            ),
            Figure::new(
                "pause of the cutover",
                Unit::Milliseconds,
                series(|run| run.cutover.pause),
            ),
            Figure::new(
                "rows deleted in it",
                Unit::PerSecond,
                series(|run| run.cutover.delete_rate),
            ),
        ],
        notes: vec!["Autovacuum is off here, so that the bytes are the migration's.".to_owned()],
    }
}
