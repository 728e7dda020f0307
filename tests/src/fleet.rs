//! Several servers: a coordinator, nodes, and a streaming replica of a node.

use postgres::error::DbError;

use crate::cluster::Cluster;
use crate::repart::Session;
use crate::wait::{LONG, wait_until};

/// A coordinator with foreign servers `north` and `south`, which are no nodes yet. On `north` repart is installed, on
/// `south` it is not.
pub struct Fleet {
    /// Where the sharded tables are.
    pub coordinator: Cluster,
    /// A server with repart.
    pub north: Cluster,
    /// A server without.
    pub south: Cluster,
}

impl Fleet {
    /// Starts them, with lines to add to `postgresql.conf` of the coordinator.
    pub fn start(settings: &[&str]) -> Self {
        Self::of(settings, Cluster::with_repart(&[]))
    }

    /// The same without repart on `north`: of both nodes only what PostgreSQL counts is known.
    pub fn without_repart(settings: &[&str]) -> Self {
        Self::of(settings, bare())
    }

    fn of(settings: &[&str], north: Cluster) -> Self {
        let fleet = Self {
            coordinator: Cluster::with_repart(settings),
            north,
            south: bare(),
        };
        fleet
            .coordinator
            .connect("postgres")
            .batch_execute("CREATE EXTENSION postgres_fdw")
            .unwrap();
        fleet.create_server("north", &fleet.north.server_options("postgres"));
        fleet.create_server("south", &fleet.south.server_options("postgres"));
        fleet
    }

    /// Makes a foreign server on the coordinator, with a user mapping for everybody.
    pub fn create_server(&self, name: &str, options: &str) {
        let sql = format!(
            "CREATE SERVER {name} FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({options});
             CREATE USER MAPPING FOR PUBLIC SERVER {name} OPTIONS (user 'postgres')"
        );
        self.coordinator
            .connect("postgres")
            .batch_execute(&sql)
            .unwrap();
    }

    /// A session on the coordinator.
    pub fn session(&self) -> Session<'_> {
        Session::open(&self.coordinator, "postgres")
    }
}

/// A server without repart.
fn bare() -> Cluster {
    Cluster::start(&["shared_preload_libraries = ''"])
}

/// Number of samples of a node.
pub fn samples(session: &mut Session, node: &str) -> i64 {
    session.number(&format!(
        "SELECT count(*) FROM repart.node_samples WHERE node = '{node}'"
    ))
}

/// Waits for two more samples of a node.
pub fn wait_for_new_samples(session: &mut Session, node: &str) {
    let before = samples(session, node);
    wait_until(&format!("new samples of node {node}"), LONG, || {
        samples(session, node) >= before + 2
    });
}

/// Whether a node answers, as `repart.nodes` says.
pub fn is_reachable(session: &mut Session, node: &str) -> bool {
    session.query(
        "SELECT reachable FROM repart.nodes WHERE node = $1::text::name",
        &[&node],
    )[0]
    .get(0)
}

/// What a statement complains of: SQLSTATE, message, detail and hint in one text.
///
/// # Panics
/// Panics when it succeeds.
pub fn complaint(session: &mut Session, sql: &str) -> String {
    let error = match session.client().batch_execute(sql) {
        Ok(()) => panic!("{sql} succeeded"),
        Err(error) => error,
    };
    let error: &DbError = error
        .as_db_error()
        .unwrap_or_else(|| panic!("{sql}: {error:?}"));
    format!(
        "{} {} | {} | {}",
        error.code().code(),
        error.message(),
        error.detail().unwrap_or_default(),
        error.hint().unwrap_or_default()
    )
}
