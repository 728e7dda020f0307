//! repart: adaptive data partitioning with predictive migration.
//!
//! This file only wires: what it does lives in the modules, in the direction
//! `observe → catalog → core → catalog → migrate → catalog → core`.

use pgrx::prelude::*;

mod api;
mod catalog;
mod decide;
mod error;
mod manage;
mod migrate;
mod nodes;
mod observe;
mod pg;
mod settings;
mod worker;

pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/catalog.sql", name = "catalog", bootstrap);
extension_sql_file!(
    "../sql/views.sql",
    name = "views",
    requires = ["catalog", api::shards::repart_bound]
);
extension_sql_file!(
    "../sql/views_observe.sql",
    name = "views_observe",
    requires = ["catalog", api::heat::repart_heat]
);
extension_sql_file!("../sql/nodes.sql", name = "nodes", requires = ["catalog"]);
extension_sql_file!(
    "../sql/views_nodes.sql",
    name = "views_nodes",
    requires = ["nodes"]
);
extension_sql_file!(
    "../sql/grants_nodes.sql",
    name = "grants_nodes",
    requires = [
        "views_nodes",
        api::nodes::repart_run_on_nodes,
        api::nodes::repart_add_node,
        api::nodes::repart_remove_node,
        api::nodes::repart_drain_node,
        api::nodes::repart_node_usage,
        api::nodes::repart_session_usage,
        api::hosted::repart_count_shard,
        api::hosted::repart_write_back
    ]
);
extension_sql_file!(
    "../sql/routes.sql",
    name = "routes",
    requires = [
        "nodes",
        api::routes::repart_add_routing_copy,
        api::routes::repart_drop_routing_copy,
        api::routes::repart_note_switch
    ]
);
extension_sql_file!("../sql/grants.sql", name = "grants", finalize);

/// Called by PostgreSQL when it loads the library.
#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::register();
    if pg::preload::in_progress() {
        pg::shared::register();
        pg::snapshot_guard::install();
        if settings::sampler() {
            pg::sampler::install();
        }
        worker::launcher::register();
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[path = "../pg_test/mod.rs"]
mod pg_tests;

/// Required by `cargo pgrx test`: how the test server is configured.
#[cfg(test)]
pub mod pg_test {
    /// Nothing to prepare before the tests.
    pub fn setup(_options: Vec<&str>) {}

    /// Settings of the test server.
    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries='repart'"]
    }
}
