//! The directory in which the servers of a test run live: the one that `tests/bin/throwaway` made and will
//! remove, or, without it, one of our own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// PostgreSQL's major version under test.
fn major() -> String {
    std::env::var("REPART_PG_MAJOR").unwrap_or_else(|_| "15".to_owned())
}

/// A directory that the server's user can reach, with a copy of the server that has repart installed.
pub struct RunDir {
    path: PathBuf,
    /// Whether it is removed at the end; otherwise somebody else does.
    ours: bool,
    initialised: Mutex<()>,
}

static CURRENT: Mutex<Weak<RunDir>> = Mutex::new(Weak::new());

/// A test that panicked while it held a lock has nothing to do with the next one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl RunDir {
    /// The directory of this process; it goes with the last cluster that uses it.
    pub fn get() -> Arc<Self> {
        let mut current = lock(&CURRENT);
        if let Some(run_dir) = current.upgrade() {
            return run_dir;
        }
        let run_dir = Arc::new(match std::env::var_os("REPART_RUN_DIR") {
            Some(path) => Self {
                path: path.into(),
                ours: false,
                initialised: Mutex::new(()),
            },
            None => Self::create(),
        });
        *current = Arc::downgrade(&run_dir);
        run_dir
    }

    fn create() -> Self {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("bin");
        run(Command::new(scripts.join("remove-leftovers")));
        let output = run({
            let mut mktemp = Command::new("mktemp");
            mktemp.args(["-d", "/tmp/repart-XXXXXX"]);
            mktemp
        });
        let path = PathBuf::from(output.trim());
        fs::write(path.join("owner"), std::process::id().to_string()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let run_dir = Self {
            path,
            ours: true,
            initialised: Mutex::new(()),
        };
        if is_root() {
            let mut chown = Command::new("chown");
            chown.arg(server_user()).arg(&run_dir.path);
            run(chown);
        }
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(installed_tree()).arg(run_dir.tree());
        run(copy);
        run_dir
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn tree(&self) -> PathBuf {
        self.path.join("pg")
    }

    /// One of the server's programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.tree()
            .join("lib/postgresql")
            .join(major())
            .join("bin")
            .join(name)
    }

    /// A freshly initialised data directory to copy clusters from: initdb is run once.
    pub fn template(&self) -> PathBuf {
        let _guard = lock(&self.initialised);
        let template = self.path.join("template");
        if !template.exists() {
            let scratch = self.path.join(format!("template.{}", std::process::id()));
            let mut initdb = as_server_user(self.program("initdb"));
            initdb.args([
                "-U",
                "postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "-D",
            ]);
            initdb.arg(&scratch);
            run(initdb);
            fs::rename(&scratch, &template).unwrap();
        }
        template
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// The server tree to copy when nobody has done it: REPART_PG_TREE, or the one in the cache.
fn installed_tree() -> PathBuf {
    if let Some(tree) = std::env::var_os("REPART_PG_TREE") {
        return tree.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME is not set")).join(".cache"),
        PathBuf::from,
    );
    cache.join("repart/pg").join(major())
}

/// Whether this process may do anything.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// The user that owns the servers.
pub fn server_user() -> String {
    std::env::var("REPART_SERVER_USER").unwrap_or_else(|_| {
        if is_root() {
            return "postgres".to_owned();
        }
        run({
            let mut id = Command::new("id");
            id.arg("-un");
            id
        })
        .trim()
        .to_owned()
    })
}

/// A command as the user that owns the servers: PostgreSQL refuses to run as root.
pub fn as_server_user(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command;
    if is_root() {
        command = Command::new("runuser");
        command.args(["-u", &server_user(), "--"]).arg(program);
    } else {
        command = Command::new(program);
    }
    command.current_dir("/");
    command
}

/// Runs a command to its end and returns its standard output.
///
/// # Panics
/// Panics with its output when it fails.
pub fn run(mut command: Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}
