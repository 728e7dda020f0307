//! Whether a relation is a shard of a managed table, asked of the catalogs.
//!
//! Asked once per relation and process, and again after some seconds or when tables are managed. Nothing is waited
//! for: while somebody holds `repart.sharded_tables`, as DROP EXTENSION does, the answer is that it is not known.

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

use super::hosted;
use super::process::KeyColumn;

unsafe extern "C-unwind" {
    // pgrx has no binding of it; the same in all supported versions.
    fn get_partition_parent(relation: pg_sys::Oid, even_if_detached: bool) -> pg_sys::Oid;
}

/// Column `partdefid` of pg_partitioned_table.
const DEFAULT_PARTITION: i16 = 4;
/// Column `partattrs` of pg_partitioned_table.
const KEY_COLUMNS: i16 = 5;
/// Where the numbers of an int2vector begin.
const VECTOR_HEADER: usize = 24;

/// What the catalogs say.
pub enum Answer {
    /// It is no shard.
    No,
    /// A shard, with its key.
    Shard(KeyColumn),
    /// Somebody is changing what is managed.
    NotNow,
}

/// Whether a relation is a shard.
///
/// # Safety
/// Inside a transaction; the caller holds a lock on the relation.
pub unsafe fn classify(relation: pg_sys::Oid) -> Answer {
    // SAFETY: look-ups in the catalogs; see the contract.
    unsafe {
        let Some(parent) = parent(relation) else {
            return hosted_key(relation).map_or(Answer::No, Answer::Shard);
        };
        match is_managed(parent) {
            None => Answer::NotNow,
            Some(false) => hosted_key(relation).map_or(Answer::No, Answer::Shard),
            Some(true) => key_of(relation, parent).map_or(Answer::No, Answer::Shard),
        }
    }
}

/// The key of a table that another server has named as its shard.
unsafe fn hosted_key(relation: pg_sys::Oid) -> Option<KeyColumn> {
    let number = hosted::key_of(relation.to_u32())?;
    // SAFETY: look-ups in the catalogs.
    unsafe {
        let type_oid = pg_sys::get_atttype(relation, number);
        Some(if number <= 0 || type_oid == pg_sys::InvalidOid {
            KeyColumn::default()
        } else {
            column(number, type_oid)
        })
    }
}

/// Whether a table is in `repart.sharded_tables`; `None` while that is locked.
unsafe fn is_managed(table: pg_sys::Oid) -> Option<bool> {
    // SAFETY: inside a transaction, as the caller says.
    unsafe { managed(Some(table)).map(|found| !found.is_empty()) }
}

/// The managed tables, or one of them; `None` while `repart.sharded_tables` is locked.
///
/// # Safety
/// Inside a transaction.
pub unsafe fn managed(table: Option<pg_sys::Oid>) -> Option<Vec<pg_sys::Oid>> {
    // SAFETY: a scan by the rules of genam.h; all that is opened is closed, or goes with the transaction's abort.
    // Column 1 is the table's OID and not null.
    unsafe {
        let Some(list) = list() else {
            return Some(Vec::new());
        };
        let lock = pg_sys::AccessShareLock as i32;
        if !pg_sys::ConditionalLockRelationOid(list, lock) {
            return None;
        }
        let heap = pg_sys::try_table_open(list, pg_sys::NoLock as i32);
        if heap.is_null() {
            pg_sys::UnlockRelationOid(list, lock);
            return None;
        }
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &mut key,
            1,
            pg_sys::BTEqualStrategyNumber as u16,
            pg_sys::Oid::from(pg_sys::F_OIDEQ),
            table.unwrap_or(pg_sys::InvalidOid).into(),
        );
        let keys = i32::from(table.is_some());
        // What is committed at this moment, and what this transaction did itself. Without the index, which would
        // be one more lock to wait for.
        let snapshot = &raw mut pg_sys::SnapshotSelfData;
        let scan =
            pg_sys::systable_beginscan(heap, pg_sys::InvalidOid, false, snapshot, keys, &mut key);
        let mut found = Vec::new();
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let value =
                pgrx::htup::heap_getattr_raw(tuple, std::num::NonZeroUsize::MIN, (*heap).rd_att);
            found.extend(value.map(|value| pg_sys::Oid::from(value.value() as u32)));
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(heap, lock);
        Some(found)
    }
}

/// `repart.sharded_tables`, if this database has it. (Where the extension is not installed, anybody may have made
/// something of that name.)
unsafe fn list() -> Option<pg_sys::Oid> {
    // SAFETY: look-ups in the catalogs.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"repart".as_ptr(), true);
        if schema == pg_sys::InvalidOid {
            return None;
        }
        let list = pg_sys::get_relname_relid(c"sharded_tables".as_ptr(), schema);
        (list != pg_sys::InvalidOid
            && pg_sys::get_rel_relkind(list) as u8 == pg_sys::RELKIND_RELATION
            && pg_sys::get_atttype(list, 1) == pg_sys::REGCLASSOID)
            .then_some(list)
    }
}

/// The table that a relation is a partition of, if it is one.
///
/// # Safety
/// Inside a transaction.
pub unsafe fn parent(relation: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: look-ups in the catalogs.
    unsafe {
        pg_sys::get_rel_relispartition(relation)
            .then(|| pg_guard_ffi_boundary(|| get_partition_parent(relation, true)))
    }
}

/// The column of a shard that its table is partitioned by; `None` for a DEFAULT partition.
unsafe fn key_of(shard: pg_sys::Oid, parent: pg_sys::Oid) -> Option<KeyColumn> {
    // SAFETY: look-ups in the catalogs; what they return is released, or belongs to the transaction's memory.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::PARTRELID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, parent.into());
        if tuple.is_null() {
            return None;
        }
        let mut is_null = false;
        let default = pg_sys::SysCacheGetAttr(cache, tuple, DEFAULT_PARTITION, &mut is_null);
        let columns = pg_sys::SysCacheGetAttr(cache, tuple, KEY_COLUMNS, &mut is_null);
        let number = columns
            .cast_mut_ptr::<u8>()
            .add(VECTOR_HEADER)
            .cast::<i16>()
            .read_unaligned();
        pg_sys::ReleaseSysCache(tuple);
        if default.value() as u32 == shard.to_u32() {
            return None;
        }
        let name = pg_sys::get_attname(parent, number, true);
        if number <= 0 || name.is_null() {
            return Some(KeyColumn::default());
        }
        let own = pg_sys::get_attnum(shard, name);
        let type_oid = pg_sys::get_atttype(shard, own);
        Some(if own <= 0 || type_oid == pg_sys::InvalidOid {
            KeyColumn::default()
        } else {
            column(own, type_oid)
        })
    }
}

unsafe fn column(number: i16, type_oid: pg_sys::Oid) -> KeyColumn {
    // SAFETY: look-ups in the catalogs, into variables of ours.
    unsafe {
        let (mut length, mut by_value) = (0, false);
        pg_sys::get_typlenbyval(type_oid, &mut length, &mut by_value);
        let base = pg_sys::getBaseType(type_oid);
        let is_text = [pg_sys::TEXTOID, pg_sys::VARCHAROID, pg_sys::BPCHAROID].contains(&base);
        // An index keeps a `name` as a string of another length.
        let can_be_kept = base != pg_sys::NAMEOID && length != -2;
        KeyColumn {
            number: if can_be_kept { number } else { 0 },
            type_oid: type_oid.to_u32(),
            length,
            by_value,
            is_text,
        }
    }
}
