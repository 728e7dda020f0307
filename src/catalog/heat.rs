//! The order of sampled keys, as SQL has it: by the operator and collation of the partition key.

use crate::catalog::shards::{Shard, ShardKey};
use crate::error::Result;
use crate::pg::{guc, relation, role, spi};

/// What comes next in the order.
pub enum Next {
    /// An inner edge of the rows' buckets.
    Edge,
    /// The key with this number, from 0.
    Key(usize),
}

/// Keys and edges in the order of the shard key; an edge comes before keys that equal it. Keys that the shard does
/// not have room for are left out. Runs as the shard's owner, since it runs the key type's functions.
pub fn order(
    key: &ShardKey,
    shard: &Shard,
    keys: &[String],
    edges: &[String],
) -> Result<Vec<Next>> {
    let sql = format!(
        "SELECT k.n FROM (SELECT u.key::{0} AS key, u.n FROM unnest($3::text[]) WITH ORDINALITY u (key, n)
                           UNION ALL
                          SELECT e.key::{0}, 0 FROM unnest($4::text[]) e (key)) k
          WHERE {1} ORDER BY {2}, k.n",
        key.type_name,
        key.inside("k.key"),
        key.by("k.key")
    );
    let arguments = [
        shard.lower.clone().into(),
        shard.upper.clone().into(),
        keys.to_vec().into(),
        edges.to_vec().into(),
    ];
    let owner = relation::owner(shard.oid)?;
    role::as_owner(owner, || {
        guc::with_transmission_modes(|| {
            spi::query(&sql, &arguments, |row| {
                let number = row.get::<i64>(1)?;
                Ok(match usize::try_from(number - 1) {
                    Ok(number) => Next::Key(number),
                    Err(_) => Next::Edge,
                })
            })
        })
    })
}
