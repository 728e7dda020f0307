//! The sharded table and its rows. Every row can be computed from its key and its revision, so that a client
//! need only remember revisions to know what it must read.

use postgres::Client;

use crate::Result;
use crate::trace::Scene;

/// Neighbouring keys that one client owns and reads together.
pub const BLOCK: i64 = 48;

/// Whether a key has a row at the beginning: five of six have, so that there is room for inserts.
pub fn exists_at_first(key: i64) -> bool {
    key % 6 != 5
}

/// The text of a page.
pub fn body(key: i64, revision: i64) -> String {
    format!("Page {key}, revision {revision}: {:.<60}", "")
}

/// The name of a shard at the beginning: `pages_a` and so on.
pub fn shard_name(shard: usize) -> String {
    format!("pages_{}", char::from(b'a' + shard as u8))
}

/// Creates the table with its shards and rows; returns how many rows.
pub fn create(client: &mut Client, scene: &Scene) -> Result<i64> {
    client.batch_execute(
        "CREATE TABLE pages (page_id bigint PRIMARY KEY, revision bigint NOT NULL, body text NOT NULL)
         PARTITION BY RANGE (page_id)",
    )?;
    for shard in 0..scene.shards {
        let from = shard as i64 * scene.keys_per_shard;
        let to = from + scene.keys_per_shard;
        let name = shard_name(shard);
        client.batch_execute(&format!(
            "CREATE TABLE {name} PARTITION OF pages FOR VALUES FROM ({from}) TO ({to});
             INSERT INTO {name}
             SELECT n, 0, 'Page ' || n || ', revision 0: ' || repeat('.', 60)
               FROM generate_series({from}::bigint, {to} - 1) n WHERE n % 6 <> 5"
        ))?;
    }
    client.batch_execute("VACUUM ANALYZE pages")?;
    Ok(client.query_one("SELECT count(*) FROM pages", &[])?.get(0))
}
