//! What the access sampler costs: transactions per second with it and without it.

use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;

use crate::figure::{Figure, Findings, Series, Target, Unit};
use crate::options::Options;
use crate::scene::start_server;

use super::thousands;

/// Rows of `pgbench_accounts` per unit of scale.
const ROWS: i64 = 100_000;

/// Shards of `pgbench_accounts`.
const SHARDS: &str = "8";

/// A load of pgbench: what it is called, and its arguments.
type Kind = (&'static str, &'static [&'static str]);

const READS: Kind = ("pgbench -S -M prepared", &["-S", "-M", "prepared"]);
const TPC_B: Kind = ("pgbench -M prepared (TPC-B-like)", &["-M", "prepared"]);

/// Two servers with the same tables, one with the sampler and one without any hook of it, in turn.
pub fn run(options: &Options) -> Findings {
    let scale = (options.rows / ROWS).max(1);
    let servers = [true, false].map(|on| server(options, on, scale));
    let [with, without] = &servers;
    let pairs = options.runs * 2;
    let figures = [READS, TPC_B]
        .iter()
        .map(|kind| figure(options, kind, with, without, pairs))
        .collect();
    Findings {
        name: "sampler",
        about: format!(
            "pgbench with 4 clients on {} rows in {SHARDS} shards, {pairs} pairs in turn, with the access sampler and without",
            thousands(scale * ROWS)
        ),
        figures,
        notes: vec![
            "synchronous_commit is off: waiting for the disk would hide what the processor does"
                .to_owned(),
        ],
    }
}

fn server(options: &Options, on: bool, scale: i64) -> Cluster {
    let switch = format!("repart.sampler = {}", if on { "on" } else { "off" });
    let settings = [
        switch.as_str(),
        "repart.mode = off",
        "autovacuum = off",
        "synchronous_commit = off",
    ];
    let cluster = start_server(options, &settings);
    let mut initialise = cluster.client_program("pgbench", "postgres");
    initialise.args(["-i", "-q", "-s", &scale.to_string()]);
    initialise.args(["--partitions", SHARDS, "--partition-method", "range"]);
    let output = initialise.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Session::open(&cluster, "postgres").run("SELECT repart_manage('pgbench_accounts')");
    cluster
}

fn figure(
    options: &Options,
    kind: &Kind,
    with: &Cluster,
    without: &Cluster,
    pairs: usize,
) -> Figure {
    let (name, arguments) = kind;
    // What is not in memory yet, and plans.
    for cluster in [with, without] {
        rate(options, cluster, arguments);
    }
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for number in 0..pairs {
        // Each is first every other time.
        if number % 2 == 0 {
            off.push(rate(options, without, arguments));
            on.push(rate(options, with, arguments));
        } else {
            on.push(rate(options, with, arguments));
            off.push(rate(options, without, arguments));
        }
    }
    Figure::new(*name, Unit::PerSecond, Series(on))
        .beside("off", Series(off))
        .target(Target::RatioAtLeast(0.99))
}

/// Transactions per second.
fn rate(options: &Options, cluster: &Cluster, arguments: &[&str]) -> f64 {
    let seconds = options.seconds.as_secs().max(1).to_string();
    let mut pgbench = cluster.client_program("pgbench", "postgres");
    pgbench
        .args(["-n", "-c", "4", "-j", "2", "-T", &seconds])
        .args(arguments);
    let output = pgbench.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text.lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
        .unwrap_or(f64::NAN)
}
