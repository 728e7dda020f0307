//! Runs the benchmarks that its arguments name, or all, and prints what they found.

#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::Instant;

use repart_bench::bench::{ALL, Benchmark};
use repart_bench::figure::Findings;
use repart_bench::machine;
use repart_bench::options::Options;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(&name.as_str())) {
        eprintln!(
            "there is no benchmark \"{unknown}\"; there are {}",
            names.join(", ")
        );
        return ExitCode::FAILURE;
    }
    let chosen: Vec<Benchmark> = ALL
        .into_iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|one| one == name))
        .collect();
    let options = Options::from_environment();
    println!("{}", machine::describe());
    println!("{options:?}\n");
    let findings: Vec<Findings> = chosen
        .into_iter()
        .map(|(_, run)| timed(run, &options))
        .collect();
    summarise(&findings)
}

fn timed(run: fn(&Options) -> Findings, options: &Options) -> Findings {
    let begun = Instant::now();
    let found = run(options);
    println!(
        "{found}  took {:.0} s; {}\n",
        begun.elapsed().as_secs_f64(),
        machine::load()
    );
    found
}

/// One line for each target. A missed one is no failure: whether speed is enough is for people to say. A figure
/// that could not be measured is.
fn summarise(findings: &[Findings]) -> ExitCode {
    let mut complete = true;
    for found in findings {
        for figure in &found.figures {
            if let Some((target, met)) = figure.verdict() {
                let verdict = if met { "met" } else { "MISSED" };
                println!("{verdict:6} {}: {} ({target})", found.name, figure.what());
            }
            if !figure.is_measured() {
                println!("FAILED {}: {} was not measured", found.name, figure.what());
                complete = false;
            }
        }
    }
    if complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
