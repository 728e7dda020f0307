//! How fast a shard is rebuilt, beside the least that PostgreSQL needs for it.

use crate::figure::{Figure, Findings, Series, Target, Unit};
use crate::migration::Watched;
use crate::options::Options;
use crate::scene::{Scene, start_server};

use super::{megabytes, thousands};

/// Seconds of the steps of one run.
struct Run {
    copy: f64,
    verify: f64,
    others: f64,
    whole: f64,
    by_hand: ByHand,
}

struct ByHand {
    copy: f64,
    index: f64,
    vacuum: f64,
}

/// A split in two with nobody else at work, and the same rows by hand.
pub fn run(options: &Options) -> Findings {
    let cluster = start_server(options, &[]);
    let mut size = 0.0;
    let mut runs = Vec::new();
    for number in 0..options.runs {
        let mut scene = Scene::set(&cluster, options.rows);
        size = scene.bytes("accounts_1");
        keep_a_copy(&mut scene);
        // Each side is first every other time.
        let first = (number % 2 == 1).then(|| split(&mut scene));
        let by_hand = copy_by_hand(&mut scene);
        let watched = first.unwrap_or_else(|| split(&mut scene));
        scene.assert_complete();
        runs.push(Run::new(&watched, by_hand));
    }
    findings(options, size, &runs)
}

fn split(scene: &mut Scene) -> Watched {
    let middle = scene.rows() / 2;
    scene.migrate(&format!("repart_split('accounts_1', '{middle}')"))
}

/// What is copied by hand: a migration may have dropped the shard by then.
fn keep_a_copy(scene: &mut Scene) {
    scene.session.run(
        "DROP TABLE IF EXISTS kept;
         CREATE TABLE kept (LIKE accounts);
         INSERT INTO kept SELECT * FROM accounts;
         ALTER TABLE kept ADD PRIMARY KEY (aid)",
    );
    scene.session.run("VACUUM (ANALYZE) kept");
}

fn copy_by_hand(scene: &mut Scene) -> ByHand {
    scene.session.run("CREATE TABLE by_hand (LIKE accounts)");
    let mut seconds = |sql| scene.time(sql).as_secs_f64();
    let by_hand = ByHand {
        copy: seconds("INSERT INTO by_hand SELECT * FROM kept"),
        index: seconds("ALTER TABLE by_hand ADD PRIMARY KEY (aid)"),
        vacuum: seconds("VACUUM (ANALYZE) by_hand"),
    };
    scene.session.run("DROP TABLE by_hand");
    by_hand
}

impl Run {
    fn new(watched: &Watched, by_hand: ByHand) -> Self {
        let seconds = |states: &[&str]| watched.time_in(states).as_secs_f64();
        Self {
            copy: seconds(&["copying"]),
            verify: seconds(&["catching_up", "verifying"]),
            others: seconds(&["queued", "preparing", "cutting_over", "cleaning"]),
            whole: watched.duration().as_secs_f64(),
            by_hand,
        }
    }
}

fn findings(options: &Options, size: f64, runs: &[Run]) -> Findings {
    let series = |value: &dyn Fn(&Run) -> f64| runs.iter().map(value).collect::<Series>();
    let rate =
        |seconds: &dyn Fn(&Run) -> f64| series(&|run: &Run| options.rows as f64 / seconds(run));
    let figures = vec![
        Figure::new(
            "rows copied and indexed",
            Unit::PerSecond,
            rate(&|run| run.copy),
        )
        .beside(
            "INSERT ... SELECT, ADD PRIMARY KEY",
            rate(&|run| run.by_hand.copy + run.by_hand.index),
        )
        .target(Target::RatioAtLeast(0.8)),
        Figure::new(
            "the whole migration",
            Unit::PerSecond,
            rate(&|run| run.whole),
        )
        .beside(
            "the same and VACUUM (ANALYZE)",
            rate(&|run| run.by_hand.copy + run.by_hand.index + run.by_hand.vacuum),
        ),
        Figure::new("copy and indexes", Unit::Seconds, series(&|run| run.copy)).beside(
            "by hand",
            series(&|run| run.by_hand.copy + run.by_hand.index),
        ),
        Figure::new(
            "comparison of all rows, VACUUM (ANALYZE)",
            Unit::Seconds,
            series(&|run| run.verify),
        )
        .beside("VACUUM (ANALYZE) alone", series(&|run| run.by_hand.vacuum)),
        Figure::new(
            "start, preparation, cutover, clean-up",
            Unit::Seconds,
            series(&|run| run.others),
        ),
    ];
    Findings {
        name: "rebuild",
        about: format!(
            "a shard of {} rows ({}) is split in two, with no clients",
            thousands(options.rows),
            megabytes(size)
        ),
        figures,
        notes: Vec::new(),
    }
}
