//! Managing tables: what a dropped table leaves behind is forgotten, and nothing else.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::catalog::tables;

    fn oid(name: &str) -> pg_sys::Oid {
        Spi::get_one::<pg_sys::Oid>(&format!("SELECT '{name}'::regclass::oid"))
            .unwrap()
            .unwrap()
    }

    fn count(sql: &str) -> i64 {
        Spi::get_one::<i64>(sql).unwrap().unwrap()
    }

    fn add_history(shard: pg_sys::Oid, ancestor: pg_sys::Oid) {
        Spi::run(&format!(
            "INSERT INTO repart.samples VALUES ({0}, now(), 1, 1, 1, 1, 1);
             INSERT INTO repart.counters VALUES ({0}, now(), 1, 1, 1);
             INSERT INTO repart.lineage VALUES ({0}, {1}, 1, now())",
            shard.to_u32(),
            ancestor.to_u32()
        ))
        .unwrap();
    }

    #[pg_test]
    fn a_dropped_table_is_forgotten_with_its_history() {
        Spi::run("CREATE TABLE gone (id int PRIMARY KEY); SELECT repart_manage('gone')").unwrap();
        let (table, shard) = (oid("gone"), oid("gone_0"));
        assert!(tables::is_managed(table).unwrap());
        add_history(shard, pg_sys::Oid::from(1));
        Spi::run("DROP TABLE gone").unwrap();

        assert!(
            tables::all()
                .unwrap()
                .iter()
                .all(|managed| managed.relation != table)
        );
        assert_eq!(tables::forget_dropped().unwrap(), 1);
        assert!(!tables::is_managed(table).unwrap());
        for history in ["samples", "counters", "lineage"] {
            assert_eq!(
                count(&format!(
                    "SELECT count(*) FROM repart.{history} WHERE shard = {}",
                    shard.to_u32()
                )),
                0
            );
        }
        assert_eq!(tables::forget_dropped().unwrap(), 0);
    }

    #[pg_test]
    fn a_dropped_shard_is_remembered_while_another_descends_from_it() {
        Spi::run("CREATE TABLE kept (id int PRIMARY KEY); SELECT repart_manage('kept')").unwrap();
        let (parent, grandparent) = (
            pg_sys::Oid::from(4_000_000_001),
            pg_sys::Oid::from(4_000_000_002),
        );
        add_history(oid("kept_0"), parent);
        add_history(parent, grandparent);
        add_history(grandparent, pg_sys::Oid::from(1));
        tables::forget_dropped().unwrap();
        assert_eq!(
            count("SELECT count(*) FROM repart.samples WHERE shard IN (4000000001, 4000000002)"),
            2
        );

        Spi::run("DROP TABLE kept").unwrap();
        tables::forget_dropped().unwrap();
        assert_eq!(
            count("SELECT count(*) FROM repart.samples WHERE shard IN (4000000001, 4000000002)"),
            0
        );
    }
}
