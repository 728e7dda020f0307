//! What the access sampler costs: transactions per second with it and without it, and the server's processor time for
//! one of them, which wanders less.

use std::time::Duration;

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

/// Pairs per run. The machine's moods last for seconds: many short runs in turn tell a hundredth, few long ones do not.
const PAIRS: usize = 8;

/// For how long one side of a pair runs, as a part of the time that other benchmarks watch clients.
const PART: f64 = 0.4;

/// Ticks per second in which Linux tells processor time to programs, on all of its platforms.
const TICKS: f64 = 100.0;

/// A load of pgbench: what it is called, and its arguments.
type Kind = (&'static str, &'static [&'static str]);

const READS: Kind = ("pgbench -S -M prepared", &["-S", "-M", "prepared"]);
const TPC_B: Kind = ("pgbench -M prepared (TPC-B-like)", &["-M", "prepared"]);

/// Two servers with the same tables, one with the sampler and one without any hook of it, in turn.
pub fn run(options: &Options) -> Findings {
    let scale = (options.rows / ROWS).max(1);
    let servers = [true, false].map(|on| server(options, on, scale));
    let [with, without] = &servers;
    let pairs = options.runs * PAIRS;
    let figures = [READS, TPC_B]
        .iter()
        .flat_map(|kind| figures(options, kind, with, without, pairs))
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

fn figures(
    options: &Options,
    kind: &Kind,
    with: &Cluster,
    without: &Cluster,
    pairs: usize,
) -> [Figure; 2] {
    let (name, arguments) = kind;
    // What is not in memory yet, and plans.
    for cluster in [with, without] {
        measure(options, cluster, arguments);
    }
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for number in 0..pairs {
        // Each is first every other time.
        if number % 2 == 0 {
            off.push(measure(options, without, arguments));
            on.push(measure(options, with, arguments));
        } else {
            on.push(measure(options, with, arguments));
            off.push(measure(options, without, arguments));
        }
    }
    let rate = |runs: &[Run]| runs.iter().map(|run| run.rate).collect::<Series>();
    let processor = |runs: &[Run]| runs.iter().map(|run| run.processor).collect::<Series>();
    [
        Figure::new(*name, Unit::PerSecond, rate(&on))
            .beside("off", rate(&off))
            .target(Target::RatioAtLeast(0.99)),
        Figure::new(
            "  processor time of the server",
            Unit::Microseconds,
            processor(&on),
        )
        .beside("off", processor(&off)),
    ]
}

/// What one side of a pair came to.
struct Run {
    /// Transactions per second.
    rate: f64,
    /// Processor time of the server per transaction, µs.
    processor: f64,
}

fn measure(options: &Options, cluster: &Cluster, arguments: &[&str]) -> Run {
    let seconds = (options.seconds.as_secs_f64() * PART).ceil().max(1.0);
    let postmaster = postmaster(cluster);
    let before = ended_processes(&postmaster);
    let mut pgbench = cluster.client_program("pgbench", "postgres");
    pgbench
        .args(["-n", "-c", "4", "-j", "2", "-T", &seconds.to_string()])
        .args(arguments);
    let output = pgbench.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let rate = number_after(&text, "tps = ");
    let transactions = number_after(&text, "number of transactions actually processed: ");
    // The server's processes end a moment after their clients.
    std::thread::sleep(Duration::from_millis(100));
    let ticks = ended_processes(&postmaster) - before;
    Run {
        rate,
        processor: ticks / TICKS * 1e6 / transactions,
    }
}

fn number_after(text: &str, words: &str) -> f64 {
    text.lines()
        .find_map(|line| {
            line.strip_prefix(words)?
                .split([' ', '/'])
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(f64::NAN)
}

/// The number of the postmaster's process.
fn postmaster(cluster: &Cluster) -> String {
    let file = "SELECT pg_read_file('postmaster.pid')";
    Session::open(cluster, "postgres").texts(file)[0]
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Processor time of the processes that a postmaster has had and that have ended, in ticks.
fn ended_processes(postmaster: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{postmaster}/stat")).unwrap_or_default();
    // The second field is a name in parentheses, which may have spaces.
    let fields = text.rsplit(')').next().unwrap_or_default();
    let mut fields = fields.split_whitespace().skip(13);
    let ticks = fields.by_ref().take(2).map(|field| field.parse::<f64>());
    ticks.sum::<Result<f64, _>>().unwrap_or(f64::NAN)
}
