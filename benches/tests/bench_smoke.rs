//! Every benchmark comes to a figure, with tables so small that the figures say nothing. Nothing here asserts
//! speed.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_bench::bench::ALL;
use repart_bench::options::Options;

#[test]
fn every_benchmark_comes_to_its_figures() {
    for (name, run) in ALL {
        let found = run(&Options::smoke());
        println!("{found}");
        assert_eq!(found.name, name);
        assert!(!found.figures.is_empty(), "{name} has no figures");
        for figure in &found.figures {
            assert!(figure.is_measured(), "{name}: {figure:?}");
        }
    }
}
