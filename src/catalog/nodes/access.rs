//! What PostgreSQL knows of foreign servers.

use crate::error::Result;
use crate::pg::spi;

/// How PostgreSQL itself would reach a foreign server for a role.
pub struct Access {
    /// Whether the server is one of postgres_fdw.
    pub is_postgres: bool,
    /// Whether there is a user mapping for the role, or for everybody.
    pub is_mapped: bool,
    /// Options of the server, followed by those of the mapping.
    pub options: Vec<(String, String)>,
}

/// How to reach a foreign server as a role; `None` if there is no such server.
pub fn access(server: &str, role: &str) -> Result<Option<Access>> {
    let found = spi::select_first(
        "SELECT h.proname = 'postgres_fdw_handler', m.umoptions IS NOT NULL OR m.oid IS NOT NULL,
                ARRAY(SELECT x FROM pg_catalog.pg_options_to_table(s.srvoptions) o, unnest(ARRAY[o.option_name, o.option_value]) x)
                || ARRAY(SELECT x FROM pg_catalog.pg_options_to_table(m.umoptions) o, unnest(ARRAY[o.option_name, o.option_value]) x)
           FROM pg_catalog.pg_foreign_server s
           JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
           LEFT JOIN pg_catalog.pg_proc h ON h.oid = w.fdwhandler
           LEFT JOIN LATERAL (
                SELECT u.* FROM pg_catalog.pg_user_mapping u
                 WHERE u.umserver = s.oid
                   AND u.umuser IN (0, (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = $2::name))
                 ORDER BY u.umuser = 0 LIMIT 1) m ON true
          WHERE s.srvname = $1::name",
        &[server.into(), role.into()],
        |row| {
            let flat: Vec<String> = row.get(3)?;
            Ok(Access {
                is_postgres: row.optional(1)?.unwrap_or(false),
                is_mapped: row.get(2)?,
                options: flat
                    .chunks_exact(2)
                    .filter_map(|pair| Some((pair.first()?.clone(), pair.get(1)?.clone())))
                    .collect(),
            })
        },
    )?;
    Ok(found)
}

/// Whether plans for tables on a server are made with estimates from there.
pub fn asks_for_estimates(server: &str) -> Result<bool> {
    let found = spi::query_value::<bool>(
        "SELECT EXISTS (
            SELECT FROM pg_catalog.pg_foreign_server s
              LEFT JOIN pg_catalog.pg_foreign_table f ON f.ftserver = s.oid,
                   LATERAL (SELECT option_name, option_value FROM pg_catalog.pg_options_to_table(s.srvoptions)
                             UNION ALL
                            SELECT option_name, option_value FROM pg_catalog.pg_options_to_table(f.ftoptions)) o
             WHERE s.srvname = $1::name AND o.option_name = 'use_remote_estimate' AND o.option_value::bool)",
        &[server.into()],
    )?;
    Ok(found.unwrap_or(false))
}
