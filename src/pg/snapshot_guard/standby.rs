//! The guard on a hot standby, where no mover has told shared memory of a cutover. The table
//! `repart.cutovers` came with the cutover's own transaction, and says as much: one row per relation that was
//! ever cut over. It is read directly, as it is now and not as a snapshot sees it.
//!
//! Asked only about snapshots that were taken during recovery, also after a promotion, which they outlive, and
//! about shards on other servers; only about sharded tables and shards.

use pgrx::pg_sys;

/// The transaction of the relation's last cutover, if it ever had one.
///
/// A cutover that is replayed cannot be missed: its locks are released after its commit is visible, and the
/// caller holds a lock on the relation. For the same reason the row does not change while it is looked for.
pub fn cutover_of(relation: pg_sys::Oid) -> Option<u64> {
    // SAFETY: catalog look-ups and an index scan by the rules of genam.h; everything that is opened is closed,
    // or goes with the transaction's abort. Column 2 of the table is an xid8 that is not null.
    unsafe {
        if pg_sys::get_rel_relkind(relation) as u8 != pg_sys::RELKIND_PARTITIONED_TABLE
            && !pg_sys::get_rel_relispartition(relation)
        {
            return None;
        }
        let (table, index) = relations()?;
        let heap = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        // What is committed at this moment. A new MVCC snapshot is not to be had in a parallel worker.
        let snapshot = &raw mut pg_sys::SnapshotSelfData;
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &mut key,
            1,
            pg_sys::BTEqualStrategyNumber as u16,
            pg_sys::Oid::from(pg_sys::F_OIDEQ),
            relation.into(),
        );
        let scan = pg_sys::systable_beginscan(heap, index, true, snapshot, 1, &mut key);
        let tuple = pg_sys::systable_getnext(scan);
        let xid = (!tuple.is_null())
            .then(|| {
                pgrx::htup::heap_getattr_raw(
                    tuple,
                    std::num::NonZeroUsize::MIN.saturating_add(1),
                    (*heap).rd_att,
                )
            })
            .flatten()
            .map(|datum| datum.value() as u64);
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(heap, pg_sys::AccessShareLock as i32);
        xid
    }
}

/// The table and its index, if this database has the extension. Without it, a table of that name is somebody else's,
/// and may be anything.
unsafe fn relations() -> Option<(pg_sys::Oid, pg_sys::Oid)> {
    // SAFETY: catalog look-ups; inside a transaction.
    unsafe {
        let extension = pg_sys::get_extension_oid(c"repart".as_ptr(), true);
        let schema = pg_sys::get_namespace_oid(c"repart".as_ptr(), true);
        if extension == pg_sys::InvalidOid || schema == pg_sys::InvalidOid {
            return None;
        }
        let table = pg_sys::get_relname_relid(c"cutovers".as_ptr(), schema);
        let index = pg_sys::get_relname_relid(c"cutovers_pkey".as_ptr(), schema);
        if table == pg_sys::InvalidOid || index == pg_sys::InvalidOid {
            return None;
        }
        let is_ours = pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, table) == extension
            && pg_sys::IndexGetRelation(index, true) == table;
        is_ours.then_some((table, index))
    }
}
