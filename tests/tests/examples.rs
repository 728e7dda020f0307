//! The examples of README.md, as a user runs them, and README.md itself: it shows what is run.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::io::Write;
use std::process::Stdio;

use repart_tests::cluster::Cluster;

const README: &str = include_str!("../../README.md");
const EXAMPLE: &str = include_str!("../../docs/example.sql");
const NODES: &str = include_str!("../../docs/nodes.sql");

/// What `psql` prints; it stops at the first error.
fn psql(cluster: &Cluster, script: &str, variables: &[String]) -> String {
    let mut program = cluster.client_program("psql", "shop");
    program.args(["-X", "-q", "-a", "-v", "ON_ERROR_STOP=1"]);
    for variable in variables {
        program.args(["-v", variable]);
    }
    program.args(["-f", "-"]);
    program.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut psql = program.spawn().unwrap();
    let mut input = psql.stdin.take().expect("a pipe");
    input.write_all(script.as_bytes()).unwrap();
    drop(input);
    let output = psql.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{printed}");
    assert!(output.status.success(), "psql: {}", output.status);
    printed
}

#[test]
fn the_examples_do_what_the_readme_says() {
    let cluster = Cluster::with_repart(&[]);
    let north = Cluster::with_repart(&[]);
    for server in [&cluster, &north] {
        let mut client = server.connect("postgres");
        client.batch_execute("CREATE DATABASE shop").unwrap();
    }
    let mut client = north.connect("shop");
    client.batch_execute("CREATE EXTENSION repart").unwrap();
    let printed = psql(&cluster, EXAMPLE, &[]);
    for result in [
        "split | {orders_0} | done  |   1000000",
        "saves ",
        "queued |",
    ] {
        assert!(printed.contains(result), "{result}");
    }
    let variables = [
        "host=127.0.0.1".to_owned(),
        format!("port={}", north.port()),
    ];
    let printed = psql(&cluster, NODES, &variables);
    for result in [
        "| north | 250000",
        " 50001 |       1",
        " local |      7 | f        | t",
        " north |      0 | t        | t",
    ] {
        assert!(printed.contains(result), "{result}");
    }
}

#[test]
fn the_readme_shows_the_examples() {
    let lines = [EXAMPLE, NODES].into_iter().flat_map(|example| {
        let after_header = example.lines().skip_while(|line| !line.is_empty());
        after_header.filter(|line| !line.is_empty())
    });
    for line in lines {
        assert!(README.lines().any(|shown| shown == line), "{line}");
    }
}
