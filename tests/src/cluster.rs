//! Throwaway PostgreSQL clusters.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use postgres::{Client, Config, NoTls};

use crate::namespace::{Machine, NET};
use crate::run_dir::{RunDir, as_server_user, run};
use crate::wait::{LONG, wait_for, wait_until};

/// How `pg_ctl` stops a server.
#[derive(Clone, Copy, Debug)]
pub enum Shutdown {
    /// Rolls back, writes a checkpoint.
    Fast,
    /// Like a crash: recovery at the next start.
    Immediate,
}

impl Shutdown {
    fn mode(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Immediate => "immediate",
        }
    }
}

/// A running server of its own, with repart preloaded. It is stopped and removed when dropped.
pub struct Cluster {
    run_dir: Arc<RunDir>,
    name: String,
    port: u16,
    /// Where it runs, if not simply here.
    machine: Option<Machine>,
}

static STARTED: AtomicU32 = AtomicU32::new(0);

impl Cluster {
    /// Starts one with lines to add to `postgresql.conf`.
    pub fn start(settings: &[&str]) -> Self {
        Self::start_on(None, settings)
    }

    /// The same on a machine of a network of the test's own, if one is given. Its sockets are where those of the others
    /// are: the test reaches it whatever becomes of that network.
    pub fn start_on(machine: Option<Machine>, settings: &[&str]) -> Self {
        let run_dir = RunDir::get();
        let name = format!(
            "c{}-{}",
            std::process::id(),
            STARTED.fetch_add(1, Ordering::Relaxed)
        );
        let cluster = Self {
            run_dir,
            name,
            port: free_port(),
            machine,
        };
        let mut copy = as_server_user("cp");
        copy.arg("-a")
            .arg(cluster.run_dir.template())
            .arg(cluster.data_dir());
        run(copy);
        cluster.configure(settings);
        if cluster.machine.is_some() {
            cluster.append("postgresql.conf", "listen_addresses = '*'");
            cluster.append("pg_hba.conf", &format!("host all all {NET} trust"));
        }
        cluster.pg_ctl(&["start"]);
        cluster
    }

    /// [`Cluster::start`], with the extension created in the database `postgres`.
    pub fn with_repart(settings: &[&str]) -> Self {
        Self::with_repart_on(None, settings)
    }

    /// [`Cluster::start_on`], with the extension created in the database `postgres`.
    pub fn with_repart_on(machine: Option<Machine>, settings: &[&str]) -> Self {
        let cluster = Self::start_on(machine, settings);
        let created = cluster
            .connect("postgres")
            .batch_execute("CREATE EXTENSION repart");
        created.unwrap_or_else(|error| panic!("CREATE EXTENSION repart: {error:?}"));
        cluster
    }

    fn configure(&self, settings: &[&str]) {
        let mut lines = vec![
            format!("port = {}", self.port),
            "listen_addresses = '127.0.0.1'".to_owned(),
            format!(
                "unix_socket_directories = '{}'",
                self.run_dir.path().display()
            ),
            "shared_preload_libraries = 'repart'".to_owned(),
            // What these tests are about is what survives a crash of processes, not of the machine.
            "fsync = off".to_owned(),
            // Many servers share the machine: their migrations would all give way to each other.
            "repart.headroom = 1".to_owned(),
            "shared_buffers = 64MB".to_owned(),
            "max_prepared_transactions = 10".to_owned(),
            "log_line_prefix = '%m [%p] %b '".to_owned(),
            // A slow test must not leave a session that waits forever.
            "statement_timeout = 120s".to_owned(),
        ];
        lines.extend(settings.iter().map(|&line| line.to_owned()));
        self.append("postgresql.conf", &lines.join("\n"));
    }

    /// Adds lines to one of its files.
    fn append(&self, file: &str, lines: &str) {
        use std::io::Write;
        let mut tee = as_server_user("tee")
            .arg("-a")
            .arg(self.data_dir().join(file))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        tee.stdin
            .take()
            .unwrap()
            .write_all(format!("{lines}\n").as_bytes())
            .unwrap();
        assert!(tee.wait().unwrap().success());
    }

    fn data_dir(&self) -> PathBuf {
        self.run_dir.path().join(&self.name)
    }

    fn log_file(&self) -> PathBuf {
        self.run_dir.path().join(format!("{}.log", self.name))
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    fn pg_ctl(&self, arguments: &[&str]) {
        assert!(
            self.try_pg_ctl(arguments),
            "pg_ctl {arguments:?} failed; the log ends with:\n{}",
            self.log_tail(40)
        );
    }

    fn try_pg_ctl(&self, arguments: &[&str]) -> bool {
        let pg_ctl = self.run_dir.program("pg_ctl");
        let mut command = match &self.machine {
            Some(machine) => machine.as_server_user(&pg_ctl),
            None => as_server_user(pg_ctl),
        };
        command
            .arg("-D")
            .arg(self.data_dir())
            .arg("-l")
            .arg(self.log_file())
            .args(["-w", "-s"]);
        // The server inherits these; a pipe would never reach its end.
        let status = command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.unwrap().success()
    }

    /// Stops the server and starts it again.
    pub fn restart(&self, how: Shutdown) {
        self.stop(how);
        self.pg_ctl(&["start"]);
    }

    /// Starts it again after [`Cluster::stop`].
    pub fn start_again(&self) {
        self.pg_ctl(&["start"]);
    }

    /// Stops the server.
    pub fn stop(&self, how: Shutdown) {
        self.pg_ctl(&["stop", "-m", how.mode()]);
    }

    /// How clients reach a database.
    pub fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host_path(self.run_dir.path())
            .port(self.port)
            .user("postgres")
            .dbname(database);
        config
    }

    /// Its port, on 127.0.0.1 and in the name of its socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The options of a foreign server that leads to a database here.
    pub fn server_options(&self, database: &str) -> String {
        format!(
            "host '{}', port '{}', dbname '{database}'",
            self.run_dir.path().display(),
            self.port
        )
    }

    /// As above, over the network of the test's own that it is in.
    pub fn distant_options(&self, database: &str) -> Option<String> {
        let address = self.machine.as_ref()?.address();
        let port = self.port;
        Some(format!(
            "host '{address}', port '{port}', dbname '{database}'"
        ))
    }

    /// A new session.
    pub fn connect(&self, database: &str) -> Client {
        self.config(database).connect(NoTls).unwrap()
    }

    /// A new session as soon as the server admits one: after a crash it takes a moment.
    pub fn reconnect(&self, database: &str) -> Client {
        wait_for("the server to accept connections", LONG, || {
            self.config(database).connect(NoTls).ok()
        })
    }

    /// Kills a process that may have ended by itself; returns whether the postmaster took it for a crash.
    pub fn try_kill9(&self, pid: i32) -> bool {
        let mut witness = self.connect("postgres");
        assert!(pid > 1);
        // SAFETY: as in `send`; the process may be gone.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            if witness.batch_execute("SELECT 1").is_err() {
                return true;
            }
            sleep(Duration::from_millis(20));
        }
        false
    }

    fn postmaster(&self) -> i32 {
        let text = fs::read_to_string(self.data_dir().join("postmaster.pid")).unwrap();
        text.lines().next().unwrap().parse().unwrap()
    }

    /// Kills the postmaster with SIGKILL, and starts the server again as soon as that is possible: the other
    /// processes notice by themselves, and the memory that they share must be released first.
    pub fn kill_postmaster_and_start(&self) {
        send(self.postmaster(), libc::SIGKILL);
        wait_until("the server to start after its postmaster", LONG, || {
            self.try_pg_ctl(&["start"])
        });
    }

    /// Runs SQL through psql and returns what it prints, unaligned.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let mut psql = as_server_user(self.run_dir.program("psql"));
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-d",
            database,
            "-h",
        ]);
        psql.arg(self.run_dir.path())
            .args(["-p", &self.port.to_string(), "-c", sql]);
        run(psql)
    }

    /// One of PostgreSQL's client programs, told how to reach a database of this server.
    pub fn client_program(&self, name: &str, database: &str) -> Command {
        let mut program = as_server_user(self.run_dir.program(name));
        program.arg("-h").arg(self.run_dir.path());
        program.args([
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "-d",
            database,
        ]);
        program
    }

    /// A hot standby of this server.
    pub fn standby(&self, settings: &[&str]) -> Self {
        let standby = Self {
            run_dir: Arc::clone(&self.run_dir),
            name: format!("{}-standby", self.name),
            port: free_port(),
            machine: None,
        };
        let mut backup = as_server_user(self.run_dir.program("pg_basebackup"));
        backup.arg("-h").arg(self.run_dir.path());
        backup.args(["-p", &self.port.to_string(), "-U", "postgres"]);
        backup.args(["-c", "fast", "-R", "--no-sync", "-D"]);
        backup.arg(standby.data_dir());
        run(backup);
        standby.configure(settings);
        standby.pg_ctl(&["start"]);
        standby
    }

    /// Makes a standby a server that can be written to.
    pub fn promote(&self) {
        self.pg_ctl(&["promote"]);
    }

    /// Where `CREATE EXTENSION` and `ALTER EXTENSION` find their scripts. All clusters share it.
    pub fn extension_dir(&self) -> PathBuf {
        PathBuf::from(
            self.psql(
                "postgres",
                "SELECT setting || '/extension' FROM pg_config WHERE name = 'SHAREDIR'",
            )
            .trim(),
        )
    }

    /// A path below the directory of this run that no other cluster uses.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.run_dir.path().join(format!("{}-{name}", self.name))
    }

    /// Kills a process of this server with SIGKILL, and waits until the postmaster has answered by ending all
    /// the others: until then it would still hand out sessions.
    pub fn kill9(&self, pid: i32) {
        self.kill9_all(&[pid]);
    }

    /// As [`Cluster::kill9`], for several processes at once.
    pub fn kill9_all(&self, pids: &[i32]) {
        let mut witness = self.connect("postgres");
        // While it is stopped, the postmaster cannot end the others for the first one's sake.
        let postmaster = self.postmaster();
        send(postmaster, libc::SIGSTOP);
        for &pid in pids {
            send(pid, libc::SIGKILL);
        }
        send(postmaster, libc::SIGCONT);
        wait_until("the server to notice a crash", LONG, || {
            witness.batch_execute("SELECT 1").is_err()
        });
    }

    /// Makes a tablespace and returns its directory.
    pub fn create_tablespace(&self, name: &str) -> PathBuf {
        let directory = self.run_dir.path().join(format!("{}-{name}", self.name));
        let mut mkdir = as_server_user("mkdir");
        mkdir.args(["-m", "700"]).arg(&directory);
        run(mkdir);
        let sql = format!(
            "CREATE TABLESPACE {name} LOCATION '{}'",
            directory.display()
        );
        self.connect("postgres").batch_execute(&sql).unwrap();
        directory
    }

    fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the server's log ends with:\n{}", self.log_tail(60));
        }
        let mut stop = as_server_user(self.run_dir.program("pg_ctl"));
        stop.arg("-D")
            .arg(self.data_dir())
            .args(["-m", "immediate", "-w", "-s", "stop"]);
        let _ = stop.output();
        let _ = fs::remove_dir_all(self.data_dir());
        let _ = fs::remove_file(self.log_file());
    }
}

fn send(pid: i32, signal: i32) {
    assert!(pid > 1);
    // SAFETY: kill takes any process id; the caller got this one from the server just now.
    let result = unsafe { libc::kill(pid, signal) };
    assert_eq!(result, 0, "process {pid} was not there for signal {signal}");
}

/// A port below the range from which the kernel takes those of outgoing connections.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port =
            20_000 + (std::process::id().wrapping_mul(37).wrapping_add(next) % 10_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
