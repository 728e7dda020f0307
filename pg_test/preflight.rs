//! Room on disk.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::error::Error;
    use crate::migrate::preflight;
    use crate::pg::disk;

    #[pg_test]
    fn a_full_disk_is_noticed_before_anything_is_copied() {
        assert!(preflight::space::require_free("pg_default", 10 << 20, 10 << 20).is_ok());
        let error: Error = preflight::space::require_free("pg_default", (10 << 20) - 1, 20 << 20)
            .expect_err("too little");
        assert_eq!(error.code(), PgSqlErrorCode::ERRCODE_DISK_FULL);
        assert_eq!(
            error.to_string(),
            "tablespace \"pg_default\" has 10 MB free, but the new shards need some 20 MB"
        );
        assert!(error.hint().is_some());
    }

    #[pg_test]
    fn free_space_is_that_of_the_file_system() {
        let directory = Spi::get_one::<String>("SELECT current_setting('data_directory')")
            .expect("a setting")
            .expect("a directory");
        assert!(disk::free_bytes(&directory).expect("free space") > 0);
        assert!(disk::free_bytes("/nowhere/at/all").is_err());
    }
}
