//! Every benchmark comes to its figures, with tables so small that those of time and bytes say nothing. What is
//! counted (errors of clients, migrations that did not end) must be right all the same.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_bench::bench::ALL;
use repart_bench::options::Options;

#[test]
fn every_benchmark_comes_to_its_figures() {
    for (name, run) in ALL {
        let begun = std::time::Instant::now();
        let found = run(&Options::smoke());
        println!("{found}  took {:?}", begun.elapsed());
        assert_eq!(found.name, name);
        assert!(!found.figures.is_empty(), "{name} has no figures");
        for figure in &found.figures {
            assert!(figure.is_measured(), "{name}: {figure:?}");
            let met = figure.verdict().is_none_or(|(_, met)| met);
            assert!(met || !figure.is_count(), "{name}: {figure:?}");
        }
    }
}
