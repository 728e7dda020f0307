//! Several servers: a coordinator, nodes, and a streaming replica of a node.

use postgres::error::DbError;

use crate::aftermath::{assert_nothing_left, assert_nothing_left_on};
use crate::cluster::Cluster;
use crate::namespace::Network;
use crate::proxy::Proxy;
use crate::repart::Session;
use crate::wait::{LONG, wait_until};
use crate::workload::{Options, Workload};

/// Settings with which samples come soon, and see every statement. Keys are asked for four times in each forecast interval.
pub const OFTEN: [&str; 4] = [
    "repart.sample_interval = 300ms",
    "repart.forecast_interval = 2s",
    "repart.sample_rate = 1",
    "repart.node_timeout = 2s",
];

/// A coordinator with foreign servers `north` and `south`, which are no nodes yet. On `north` repart is installed, on
/// `south` it is not.
pub struct Fleet {
    /// Where the sharded tables are.
    pub coordinator: Cluster,
    /// A server with repart.
    pub north: Cluster,
    /// A server without.
    pub south: Cluster,
    /// What is between the coordinator and `north`, if anything is. Last: it is taken down when they are gone.
    way: Option<Way>,
}

/// A way between two servers that can be cut off.
enum Way {
    /// A router in a network namespace.
    Routed(Network),
    /// A process that passes bytes on, where there are no such namespaces.
    Proxied(Proxy),
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

    /// The same with a network between the coordinator and `north` that can be cut off: by a router in a network
    /// namespace that drops packets, or else, where none can be made, by a proxy. With lines to add to
    /// `postgresql.conf` of all three, and of the nodes.
    pub fn apart(settings: &[&str], of_nodes: &[&str]) -> Self {
        let network = Network::build().inspect_err(|reason| {
            println!("no network namespaces here, a proxy cuts off instead: {reason}");
        });
        let machine = |n| network.as_ref().ok().map(|network| network.machine(n));
        let mut on_nodes = of_nodes.to_vec();
        on_nodes.push("shared_preload_libraries = ''");
        let coordinator = Cluster::with_repart_on(machine(0), settings);
        let north = Cluster::with_repart_on(machine(1), of_nodes);
        let south = Cluster::start(&on_nodes);
        let way = match network {
            Ok(network) => Way::Routed(network),
            Err(_) => Way::Proxied(Proxy::to(north.port())),
        };
        let to_north = north.distant_options("postgres").unwrap_or_else(|| {
            let port = match &way {
                Way::Proxied(proxy) => proxy.port(),
                Way::Routed(_) => north.port(),
            };
            format!("host '127.0.0.1', port '{port}', dbname 'postgres'")
        });
        let fleet = Self {
            coordinator,
            north,
            south,
            way: Some(way),
        };
        // What hangs must notice when the other end is gone for good: PostgreSQL's own connections are left to that.
        fleet.join(&format!("{to_north}, keepalives_idle '1'"));
        fleet
    }

    fn of(settings: &[&str], north: Cluster) -> Self {
        let fleet = Self {
            coordinator: Cluster::with_repart(settings),
            north,
            south: bare(),
            way: None,
        };
        fleet.join(&fleet.north.server_options("postgres"));
        fleet
    }

    /// Tells the coordinator of the servers.
    fn join(&self, to_north: &str) {
        self.coordinator
            .connect("postgres")
            .batch_execute("CREATE EXTENSION postgres_fdw")
            .unwrap();
        self.create_server("north", to_north);
        self.create_server("south", &self.south.server_options("postgres"));
    }

    /// Whether it is a network that can be cut off, and no proxy.
    pub fn has_network(&self) -> bool {
        matches!(self.way, Some(Way::Routed(_)))
    }

    /// From now on nothing passes between the coordinator and `north`: connections hang.
    ///
    /// # Panics
    /// Panics if the fleet was not started for that.
    pub fn cut_off_north(&self) {
        match self.way.as_ref().expect("a way to north") {
            Way::Routed(network) => network.cut(),
            Way::Proxied(proxy) => proxy.cut(),
        }
    }

    /// Everything passes again.
    ///
    /// # Panics
    /// As above.
    pub fn mend_way_to_north(&self) {
        match self.way.as_ref().expect("a way to north") {
            Way::Routed(network) => network.mend(),
            Way::Proxied(proxy) => proxy.mend(),
        }
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

    /// Waits until nothing is in doubt and nothing is left to be dropped, and makes sure that nothing is left anywhere but so
    /// many shards on either node, and that nobody waits for a node.
    ///
    /// # Panics
    /// Panics when something is left.
    pub fn wait_settled(&self, session: &mut Session, (north, south): (i64, i64)) {
        for what in ["in_doubt", "node_objects"] {
            wait_until(&format!("repart.{what} to be empty"), LONG, || {
                session.number(&format!("SELECT count(*) FROM repart.{what}")) == 0
            });
        }
        assert_nothing_left_on(&self.north, north);
        assert_nothing_left_on(&self.south, south);
        assert_nothing_left(session);
        let waiting = "SELECT count(*) FROM repart.journal
                        WHERE waits_for IS NOT NULL OR waiting_since IS NOT NULL OR retry_at IS NOT NULL";
        assert_eq!(session.number(waiting), 0);
    }

    /// Clients of a table whose keys are below `keys`, and who go on while servers crash.
    pub fn load(&self, table: &str, keys: i64) -> Workload {
        let options = Options::new(table, keys).with_nodes().with_crashes();
        Workload::start(&self.coordinator, "postgres", options)
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
