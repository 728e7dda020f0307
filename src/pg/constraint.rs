//! What PostgreSQL does with constraints inside of its commands, where no command does that alone.

use pgrx::pg_sys;

/// The OID of the catalog `pg_constraint`.
const CONSTRAINTS: pg_sys::Oid = pg_sys::Oid::from_u32(2606);

// Not among the bindings of pgrx; the same in PostgreSQL 15 to 18.
unsafe extern "C-unwind" {
    fn ConstraintSetParentConstraint(
        child: pg_sys::Oid,
        parent: pg_sys::Oid,
        child_table: pg_sys::Oid,
    );
}

/// Drops what a partition has of a foreign key that references the partitioned table, with its triggers on the
/// partition. This is what DETACH PARTITION does with it (`DetachPartitionFinalize` in tablecmds.c, the same in
/// PostgreSQL 15 to 18), by the same functions.
pub fn take_from_partition(constraint: pg_sys::Oid) {
    let object = pg_sys::ObjectAddress {
        classId: CONSTRAINTS,
        objectId: constraint,
        objectSubId: 0,
    };
    // SAFETY: inside a transaction with an active snapshot; the constraint exists, was looked up under locks of
    // its tables, and has a parent, as the first two calls ask. `object` outlives the call.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            ConstraintSetParentConstraint(constraint, pg_sys::InvalidOid, pg_sys::InvalidOid);
        });
        pg_sys::deleteDependencyRecordsForClass(
            CONSTRAINTS,
            constraint,
            CONSTRAINTS,
            pg_sys::DependencyType::DEPENDENCY_INTERNAL as std::ffi::c_char,
        );
        pg_sys::CommandCounterIncrement();
        pg_sys::performDeletion(&object, pg_sys::DropBehavior::DROP_RESTRICT, 0);
        pg_sys::CommandCounterIncrement();
    }
}

/// Makes an index of a partition, and the constraint that it carries (invalid for none), independent of those of the
/// partitioned table. This is what DETACH PARTITION does with them (`DetachPartitionFinalize` in tablecmds.c, the same
/// in PostgreSQL 15 to 18), by the same functions. No row is looked at.
pub fn take_index_from_partition(index: pg_sys::Oid, constraint: pg_sys::Oid) {
    // SAFETY: inside a transaction with an active snapshot; index and constraint were looked up under an exclusive lock
    // of the partition, and have parents, as the calls ask. The lock of the index is kept to the end of the transaction.
    unsafe {
        let relation = pg_sys::index_open(index, pg_sys::AccessExclusiveLock as i32);
        pg_sys::IndexSetParentIndex(relation, pg_sys::InvalidOid);
        pg_sys::index_close(relation, pg_sys::NoLock as i32);
        if constraint != pg_sys::InvalidOid {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                ConstraintSetParentConstraint(constraint, pg_sys::InvalidOid, pg_sys::InvalidOid);
            });
        }
        pg_sys::CommandCounterIncrement();
    }
}
