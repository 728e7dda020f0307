//! What can fail, and how a test makes it fail.

use super::kind::{Family, Kind, Place};
use crate::cluster::{Cluster, Shutdown};
use crate::fleet::Fleet;
use crate::repart::Session;

/// The variable of the environment with which also those failures are tried that others nearly cover.
const THOROUGH: &str = "REPART_THOROUGH";

/// What fails while migrations are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// SIGKILL of the coordinator's postmaster, and a new start.
    CoordinatorKilled,
    /// `pg_ctl stop -m immediate` of `north`, which starts again later.
    NorthStopped,
    /// The same of `south`.
    SouthStopped,
    /// The same of the streaming replica of `north`, whose commits wait for it; SIGKILL of the movers meanwhile, for
    /// which the postmaster of the coordinator ends all sessions and recovers.
    ReplicaStoppedAndMoversKilled,
    /// SIGKILL of the movers' backends on the nodes: the postmasters there end all sessions and recover.
    RemoteBackendsKilled,
    /// `pg_terminate_backend` of the same; the nodes stay. Only where [`THOROUGH`] is set.
    RemoteBackendsTerminated,
    /// `pg_terminate_backend` of the movers; what they had on the nodes may live on for a moment. As above.
    MoversTerminated,
    /// Nothing passes between the coordinator and `north` any more, for a while, without a word.
    NorthCutOff,
}

impl Strike {
    /// Those that can strike a family.
    pub fn all_of(family: Family) -> Vec<Self> {
        let mut all = vec![
            Self::CoordinatorKilled,
            Self::NorthStopped,
            Self::SouthStopped,
            Self::ReplicaStoppedAndMoversKilled,
            Self::RemoteBackendsKilled,
            Self::NorthCutOff,
        ];
        // Sessions also end in the rows above, with more besides.
        let gentle = [Self::RemoteBackendsTerminated, Self::MoversTerminated];
        if std::env::var_os(THOROUGH).is_some() {
            all.extend(gentle);
        } else {
            println!("not run without {THOROUGH}: {gentle:?}");
        }
        all.retain(|strike| match strike.place() {
            Some(place) => family.kinds().iter().any(|kind| kind.concerns(place)),
            None => true,
        });
        all
    }

    /// The server that is away until [`Strike::mend`].
    pub fn place(self) -> Option<Place> {
        match self {
            Self::NorthStopped | Self::NorthCutOff | Self::ReplicaStoppedAndMoversKilled => {
                Some(Place::North)
            }
            Self::SouthStopped => Some(Place::South),
            _ => None,
        }
    }

    /// Whether migrations of this kind have to wait until it is mended.
    pub fn holds_up(self, kind: Kind) -> bool {
        self.place().is_some_and(|place| kind.concerns(place))
    }

    /// Lets it happen; afterwards the session works again.
    pub fn inflict(self, fleet: &Fleet, replica: &Cluster, session: &mut Session, movers: &[i32]) {
        let nodes = [&fleet.north, &fleet.south];
        match self {
            Self::CoordinatorKilled => fleet.coordinator.kill_postmaster_and_start(),
            Self::NorthStopped => fleet.north.stop(Shutdown::Immediate),
            Self::SouthStopped => fleet.south.stop(Shutdown::Immediate),
            Self::ReplicaStoppedAndMoversKilled => {
                let mut north = Session::open(&fleet.north, "postgres");
                north.set("synchronous_standby_names", "'*'");
                replica.stop(Shutdown::Immediate);
                fleet.coordinator.kill9_all(movers);
            }
            Self::RemoteBackendsKilled => {
                for node in nodes {
                    let pids = sessions_of_movers(node);
                    if !pids.is_empty() {
                        node.kill9_all(&pids);
                        drop(node.reconnect("postgres"));
                    }
                }
            }
            Self::RemoteBackendsTerminated => {
                for node in nodes {
                    let pids = sessions_of_movers(node);
                    Session::open(node, "postgres").query(
                        "SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid",
                        &[&pids],
                    );
                }
            }
            Self::MoversTerminated => {
                session.query(
                    "SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid",
                    &[&movers],
                );
            }
            Self::NorthCutOff => fleet.cut_off_north(),
        }
        if matches!(
            self,
            Self::CoordinatorKilled | Self::ReplicaStoppedAndMoversKilled
        ) {
            session.reopen();
        }
    }

    /// Ends what lasts.
    pub fn mend(self, fleet: &Fleet, replica: &Cluster) {
        match self {
            Self::NorthStopped => fleet.north.start_again(),
            Self::SouthStopped => fleet.south.start_again(),
            Self::ReplicaStoppedAndMoversKilled => replica.start_again(),
            Self::NorthCutOff => fleet.mend_way_to_north(),
            _ => {}
        }
    }

    /// Undoes what further rows are not about.
    pub fn forget(self, fleet: &Fleet) {
        if self == Self::ReplicaStoppedAndMoversKilled {
            let mut north = Session::open(&fleet.north, "postgres");
            north.run("ALTER SYSTEM RESET synchronous_standby_names");
            north.run("SELECT pg_reload_conf()");
        }
    }
}

/// The backends of movers on a node: they hold locks there that nobody else does.
fn sessions_of_movers(node: &Cluster) -> Vec<i32> {
    let sql = "SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory'";
    let rows = Session::open(node, "postgres").query(sql, &[]);
    rows.iter().map(|row| row.get(0)).collect()
}
