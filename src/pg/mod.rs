//! What touches PostgreSQL's C interface: the only folder with unsafe code.

pub mod background;
pub mod capture;
pub mod constraint;
pub mod databases;
pub mod dependents;
pub mod disk;
pub mod grants;
pub mod guc;
pub mod jsonb;
pub mod libpq;
pub mod literal;
pub mod lock;
pub mod name;
pub mod on_commit;
pub mod opclass;
pub mod partition;
pub mod preload;
pub mod regclass;
pub mod relation;
pub mod role;
pub mod shared;
pub mod snapshot_guard;
pub mod spi;
pub mod time;
pub mod transfer;
pub mod txn;
