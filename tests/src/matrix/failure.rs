//! What can fail, and how a test makes it fail.

use postgres::Client;

use super::cell::Cell;
use crate::cluster::Shutdown;
use crate::disk::SmallDisk;
use crate::repart::Session;

/// What fails while migrations are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// SIGKILL of the movers: the postmaster ends all sessions and recovers.
    MoverKilled,
    /// SIGKILL of the observer.
    ObserverKilled,
    /// SIGKILL of the launcher.
    LauncherKilled,
    /// SIGKILL of a client's backend in a transaction that has written the migrating shards.
    ClientKilled,
    /// SIGKILL of the postmaster.
    PostmasterKilled,
    /// `pg_ctl stop -m immediate` and a new start.
    ImmediateShutdown,
    /// `pg_ctl stop -m fast` and a new start.
    FastShutdown,
    /// `pg_terminate_backend` of all workers; the server stays.
    WorkersTerminated,
    /// `pg_terminate_backend` of a client in a transaction that has written the migrating shards.
    ClientTerminated,
    /// No space left in the tablespace of the targets; the server stays.
    FullDisk,
}

impl Failure {
    /// All of them. The compiler asks for a row of each, see `tests/crash.rs`.
    pub const ALL: [Self; 10] = [
        Self::MoverKilled,
        Self::ObserverKilled,
        Self::LauncherKilled,
        Self::ClientKilled,
        Self::PostmasterKilled,
        Self::ImmediateShutdown,
        Self::FastShutdown,
        Self::WorkersTerminated,
        Self::ClientTerminated,
        Self::FullDisk,
    ];

    /// Whether all sessions end, and clients have to connect again.
    pub fn ends_sessions(self) -> bool {
        !matches!(
            self,
            Self::WorkersTerminated | Self::ClientTerminated | Self::FullDisk
        )
    }

    /// Lets it happen to these movers, and clients of these tables; afterwards the session works again. A full
    /// disk is the caller's to make.
    pub fn inflict(self, session: &mut Session, tables: &[&str], movers: &[i32]) {
        let cluster = session.cluster();
        match self {
            Self::MoverKilled => cluster.kill9_all(movers),
            Self::ObserverKilled => cluster.kill9(session.wait_worker("observer")),
            Self::LauncherKilled => cluster.kill9(session.wait_worker("launcher")),
            Self::ClientKilled => {
                let mut victim = writing_client(session, tables);
                cluster.kill9(backend_of(&mut victim));
            }
            Self::PostmasterKilled => cluster.kill_postmaster_and_start(),
            Self::ImmediateShutdown => cluster.restart(Shutdown::Immediate),
            Self::FastShutdown => cluster.restart(Shutdown::Fast),
            Self::WorkersTerminated => {
                let mut pids = session.workers("observer");
                pids.extend(session.workers("launcher"));
                pids.extend(movers);
                session.query(
                    "SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid",
                    &[&pids],
                );
            }
            Self::ClientTerminated => {
                let mut victim = writing_client(session, tables);
                let pid = backend_of(&mut victim);
                session.query("SELECT pg_terminate_backend($1)", &[&pid]);
            }
            Self::FullDisk => {}
        }
        if self.ends_sessions() {
            session.reopen();
        }
    }
}

/// A session in a transaction that has written the lowest shard of each table.
fn writing_client(session: &mut Session, tables: &[&str]) -> Client {
    let mut client = session.cluster().connect("postgres");
    client.batch_execute("BEGIN").unwrap();
    for table in tables {
        // A key that no client of the workload owns: if it is there afterwards, they will tell.
        let sql = format!("INSERT INTO {table} VALUES (-1, 'never committed', 0)");
        client.batch_execute(&sql).unwrap();
    }
    client
}

fn backend_of(client: &mut Client) -> i32 {
    let row = client.query_one("SELECT pg_backend_pid()", &[]).unwrap();
    row.get(0)
}

/// Fills the disk while migrations are held, then lets them go one by one: what one that failed gave back must
/// not be what the next one goes on with.
pub fn fill_disk(session: &mut Session, cells: &mut [Cell], disk: &mut SmallDisk) {
    for cell in cells.iter().filter(|cell| cell.moment.lets_clients_work()) {
        // More to catch up with than any space left within pages.
        session.run(&format!(
            "INSERT INTO {} SELECT -id, repeat('x', 400), 0 FROM generate_series(1, 1000) id",
            cell.table
        ));
    }
    for at in 0..cells.len() {
        disk.fill();
        let held: Vec<String> = cells[at + 1..].iter().map(Cell::hold).collect();
        session.hold_at(&held.join(","));
        if cells[at].moment.is_switched() {
            // The table itself is on the full disk now.
            cells[at].excused = Some("53100");
        }
        cells[at].wait_ended(session);
        // The old shards are served throughout.
        cells[at].proceed(10);
    }
    assert_only_owned_files(session, disk);
    disk.free();
    for cell in cells.iter() {
        session.run(&format!("DELETE FROM {} WHERE id < 0", cell.table));
    }
}

/// Proves that what is on the disk belongs to a relation: nothing of a failed migration takes space.
fn assert_only_owned_files(session: &mut Session, disk: &SmallDisk) {
    let owned = session.texts(
        "SELECT pg_relation_filenode(c.oid)::text FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace
         WHERE t.spcname = 'small'",
    );
    for file in disk.files() {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let number = name.split(['.', '_']).next().unwrap_or(&name).to_owned();
        assert!(
            owned.contains(&number),
            "{} belongs to no relation",
            file.display()
        );
    }
}
