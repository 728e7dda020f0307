//! What a server says of itself: asked of nodes and of this server by the same statement, so that the answers compare.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pg::spi;

/// Asked first: what older servers can answer too.
pub const VERSION: &str = "SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.current_setting('server_version')";

/// Asks for the name of a function of repart, as SQL writes it there: a subquery, NULL where it is missing or may not be
/// called. Somebody else's of the same name is none: whatever it does it would do with our rights.
fn named(name: &str) -> String {
    format!(
        "(SELECT pg_catalog.min(pg_catalog.quote_ident(n.nspname) || '.{name}')
            FROM pg_catalog.pg_extension e
            JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
            JOIN pg_catalog.pg_proc p ON p.pronamespace = n.oid AND p.proname = '{name}'
            JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
             AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = e.oid AND d.deptype = 'e'
           WHERE e.extname = 'repart' AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
             AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE'))"
    )
}

/// Asks a server for the names of functions of repart, as SQL writes them there: one row, NULL for each that is missing or
/// may not be called.
pub fn functions<const N: usize>(names: [&str; N]) -> String {
    format!("SELECT {}", names.map(named).join(", "))
}

/// Asks for the rest, as one JSON document. `to_jsonb` spares us the columns that not all versions have.
pub fn question() -> String {
    let (usage, sampler) = (named("repart_node_usage"), named("repart_count_shard"));
    format!(
        "SELECT pg_catalog.json_build_object(
                'version', pg_catalog.current_setting('server_version_num')::int,
                'release', pg_catalog.current_setting('server_version'),
                'replica', pg_catalog.pg_is_in_recovery(),
                'system', (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),
                'database', d.oid::text,
                'database_name', d.datname,
                'started', extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text,
                'encoding', pg_catalog.pg_encoding_to_char(d.encoding),
                'collation', pg_catalog.concat_ws(' ', d.datcollate, d.datctype, pg_catalog.to_jsonb(d) ->> 'datlocprovider',
                             coalesce(pg_catalog.to_jsonb(d) ->> 'datlocale', pg_catalog.to_jsonb(d) ->> 'daticulocale')),
                'collation_version', pg_catalog.pg_database_collation_actual_version(d.oid),
                'clock', extract(epoch FROM pg_catalog.clock_timestamp())::float8,
                'max_prepared_transactions', pg_catalog.current_setting('max_prepared_transactions')::int,
                'can_create', pg_catalog.has_database_privilege(d.oid, 'CREATE'),
                'has_plpgsql', EXISTS (SELECT FROM pg_catalog.pg_language l
                                        WHERE l.lanname = 'plpgsql' AND pg_catalog.has_language_privilege(l.oid, 'USAGE')),
                'is_monitor', pg_catalog.pg_has_role('pg_monitor', 'USAGE'),
                'role', current_user,
                'repart', (SELECT e.extversion FROM pg_catalog.pg_extension e WHERE e.extname = 'repart'),
                'usage', {usage},
                'sampler', CASE WHEN pg_catalog.current_setting('repart.sampler', true) = 'on' THEN {sampler} END)
           FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()"
    )
}

/// The oldest version that can be a node: the oldest that repart runs on.
pub const OLDEST: i32 = 150_000;

/// What [`question`] asks.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Facts {
    /// Such as 150020.
    pub version: i32,
    /// Such as `15.20`.
    pub release: String,
    /// Whether it replays the changes of another server.
    pub replica: bool,
    /// What a cluster and its physical replicas share.
    pub system: String,
    /// The database's OID.
    pub database: String,
    /// The database's name.
    pub database_name: String,
    /// When its postmaster started.
    pub started: String,
    /// The database's encoding.
    pub encoding: String,
    /// The database's default collation.
    pub collation: String,
    /// The version of the library that collates, where it has one.
    pub collation_version: Option<String>,
    /// Seconds since 1970.
    pub clock: f64,
    /// How many transactions can be prepared.
    pub max_prepared_transactions: i32,
    /// Whether schemas can be created.
    pub can_create: bool,
    /// Whether functions can be written in PL/pgSQL.
    pub has_plpgsql: bool,
    /// Whether statistics of others can be read.
    pub is_monitor: bool,
    /// As whom we are connected.
    pub role: String,
    /// The version of the extension repart there.
    pub repart: Option<String>,
    /// The function that tells the machine's load there, if it may be called.
    pub usage: Option<String>,
    /// The function that counts shards by the access sampler there, if that runs and it may be called. (Where the
    /// library is not preloaded, its settings are not known.)
    #[serde(default)]
    pub sampler: Option<String>,
}

impl Facts {
    /// From the answer of a server.
    pub fn read(json: &str) -> Result<Self> {
        Ok(serde_json::from_str(json)?)
    }

    /// Of this server.
    pub fn here() -> Result<Self> {
        let json = spi::value::<pgrx::Json>(&question(), &[])?
            .ok_or_else(|| Error::Internal("a query without a row".to_owned()))?;
        Ok(serde_json::from_value(json.0)?)
    }

    /// Whether both are the same database, or one of a physical copy.
    pub fn is_same_database(&self, other: &Self) -> bool {
        self.system == other.system && self.database == other.database
    }

    /// Whether both are the same database of the same running server.
    pub fn is_same_server(&self, other: &Self) -> bool {
        self.is_same_database(other) && self.started == other.started
    }
}
