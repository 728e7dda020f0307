//! The same split by pg_partman: it moves rows out of the default partition, one interval per transaction.

use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;

use crate::load::Mix;
use crate::options::Options;
use crate::scene::Scene;

use super::watched::{self, Seen};

/// Why it is not there, when it is not.
pub const WHY_NOT: &str =
    "it is not installed in this copy of the server (tests/bin/bench says why when it begins)";

/// Whether the server has it.
pub fn is_available(cluster: &Cluster) -> bool {
    let sql = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_partman'";
    Session::open(cluster, "postgres").number(sql) > 0
}

/// Two intervals of half of the rows each, while clients work; and why it failed, when it did.
pub fn split(cluster: &Cluster, options: &Options) -> (Seen, Option<String>) {
    let mut scene = Scene::with_empty_table(cluster, options.rows);
    prepare(&mut scene);
    let mix = Mix::half_and_half(options.rows);
    let mut failure = None;
    let seen = watched::watch(cluster, &mut scene, options, mix, |scene| {
        let call = "CALL partman.partition_data_proc('public.accounts', p_wait := 0)";
        let outcome = scene.session.client().batch_execute(call);
        failure = outcome.err().map(|error| {
            let text = error
                .as_db_error()
                .map_or(error.to_string(), |error| error.message().to_owned());
            // It puts the whole context into the message.
            text.lines().next().unwrap_or_default().to_owned()
        });
    });
    scene.session.run(
        "DROP TABLE accounts; DELETE FROM partman.part_config;
         DROP TABLE IF EXISTS partman.template_public_accounts",
    );
    (seen, failure)
}

/// Its own partitions begin far above the rows, which are then all in the default partition.
fn prepare(scene: &mut Scene) {
    let rows = scene.rows();
    let interval = rows / 2;
    scene.session.run(&format!(
        "CREATE SCHEMA IF NOT EXISTS partman;
         CREATE EXTENSION IF NOT EXISTS pg_partman SCHEMA partman;
         SELECT partman.create_parent('public.accounts', 'aid', 'native', '{interval}',
                                      p_premake := 1, p_start_partition := '{}')",
        rows * 10
    ));
    scene.fill();
}
