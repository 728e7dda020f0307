//! A network of the test's own, in network namespaces of the kernel: two machines and a router between them. The router
//! can stop passing packets on, without a word to anybody: connections hang, as they do when a cable is pulled or a
//! firewall drops. All addresses are inside of the namespaces; the machine's own network is not touched.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::run_dir::is_root;

/// The addresses of the two machines.
const ADDRESSES: [&str; 2] = ["10.231.1.2", "10.231.2.2"];

/// The addresses of the router, in the nets of the two machines.
const GATEWAYS: [&str; 2] = ["10.231.1.1", "10.231.2.1"];

/// From where the machines trust each other.
pub const NET: &str = "10.231.0.0/16";

/// The variable of the environment with which no network is built, as where none can be: a proxy cuts off instead.
const PROXY: &str = "REPART_PROXY";

/// Where the server under test finds its libraries.
const LIBRARIES: &str = "LD_LIBRARY_PATH";

/// Two machines with a router between them. It is taken down when dropped; what a killed test leaves,
/// `tests/bin/remove-leftovers` removes.
pub struct Network {
    prefix: String,
}

/// One of its two machines.
#[derive(Clone, Debug)]
pub struct Machine {
    namespace: String,
    address: &'static str,
}

impl Network {
    /// Builds one, or says why that is not possible here.
    pub fn build() -> Result<Self, String> {
        if std::env::var_os(PROXY).is_some() {
            return Err(format!("{PROXY} is set"));
        }
        static BUILT: AtomicU32 = AtomicU32::new(0);
        let number = BUILT.fetch_add(1, Ordering::Relaxed);
        let network = Self {
            prefix: format!("repart-{}-{number}", std::process::id()),
        };
        let router = network.router();
        ip(&["netns", "add", &router])?;
        for (n, address) in ADDRESSES.iter().enumerate() {
            let machine = network.machine(n).namespace;
            let (inside, port) = ("eth0", format!("port{n}"));
            ip(&["netns", "add", &machine])?;
            ip(&[
                "link", "add", inside, "netns", &machine, "type", "veth", "peer", "name", &port,
                "netns", &router,
            ])?;
            for (namespace, link, address) in [
                (&machine, inside, *address),
                (&router, port.as_str(), GATEWAYS[n]),
            ] {
                let address = format!("{address}/24");
                ip(&["-n", namespace, "addr", "add", &address, "dev", link])?;
                ip(&["-n", namespace, "link", "set", link, "up"])?;
                ip(&["-n", namespace, "link", "set", "lo", "up"])?;
            }
            ip(&[
                "-n",
                &machine,
                "route",
                "add",
                "default",
                "via",
                GATEWAYS[n],
            ])?;
            // A machine that stops does not go on saying goodbye to whom it was connected to.
            set(&machine, "tcp_orphan_retries", "1")?;
        }
        set(&router, "ip_forward", "1")?;
        Ok(network)
    }

    fn router(&self) -> String {
        format!("{}-router", self.prefix)
    }

    /// The first or the second machine.
    pub fn machine(&self, n: usize) -> Machine {
        Machine {
            namespace: format!("{}-{n}", self.prefix),
            address: ADDRESSES[n],
        }
    }

    /// From now on nothing passes between the machines, in either direction; nobody is told.
    pub fn cut(&self) {
        self.discard("add");
    }

    /// Everything passes again.
    pub fn mend(&self) {
        self.discard("del");
    }

    fn discard(&self, verb: &str) {
        for address in ADDRESSES {
            let address = format!("{address}/32");
            ip(&["-n", &self.router(), "route", verb, "blackhole", &address]).unwrap();
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let machines = (0..ADDRESSES.len()).map(|n| self.machine(n).namespace);
        for namespace in machines.chain([self.router()]) {
            // One that could not be added is not there.
            let _ = ip(&["netns", "del", &namespace]);
        }
    }
}

impl Machine {
    /// Its address.
    pub fn address(&self) -> &'static str {
        self.address
    }

    /// A command on this machine, as the user that owns the servers.
    pub fn as_server_user(&self, program: &std::path::Path) -> Command {
        let mut command = inside(&self.namespace, "runuser");
        command.args(["-u", &crate::run_dir::server_user(), "--"]);
        command.arg(program).current_dir("/");
        command
    }
}

/// A command in a network namespace, as root.
fn inside(namespace: &str, program: &str) -> Command {
    let mut command = privileged("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}"));
    command.arg(program);
    command
}

/// Sets a parameter of the kernel for a namespace.
fn set(namespace: &str, name: &str, value: &str) -> Result<(), String> {
    let mut command = inside(namespace, "sh");
    command.args(["-c", &format!("echo {value} > /proc/sys/net/ipv4/{name}")]);
    succeed(command)
}

fn privileged(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", "env"]);
    // A program that gains rights loses this variable before it could preserve it.
    if let Ok(libraries) = std::env::var(LIBRARIES) {
        command.arg(format!("{LIBRARIES}={libraries}"));
    }
    command.arg(program);
    command
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let mut command = privileged("ip");
    command.args(arguments);
    succeed(command)
}

fn succeed(mut command: Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{command:?}: {said}"))
}
