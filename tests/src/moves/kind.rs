//! Kinds of migrations with nodes, and where the shards of a table are between them.

/// Keys that clients use: 0 .. this.
pub const KEYS: i64 = 4_000;

/// Below this key, shards stay where they are.
const LOW: i64 = 1_000;

/// Where a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the coordinator.
    Local,
    /// On node `north`, which can be cut off.
    North,
    /// On node `south`.
    South,
}

impl Place {
    /// Its name in `repart.shards`.
    pub fn node(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::North => "north",
            Self::South => "south",
        }
    }
}

/// Which kinds a table goes through, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// To a node, to another one, and back.
    Moves,
    /// Split, shift and merge, on a node.
    Reshapes,
}

/// What a migration does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From the coordinator to `north`.
    ToNode,
    /// From `north` to `south`.
    Across,
    /// From `south` to the coordinator.
    ToLocal,
    /// One shard of `north` becomes two.
    Split,
    /// Two shards of `north` exchange rows.
    Shift,
    /// Two shards of `north` become one.
    Merge,
}

impl Family {
    /// Its kinds, in order.
    pub fn kinds(self) -> [Kind; 3] {
        match self {
            Self::Moves => [Kind::ToNode, Kind::Across, Kind::ToLocal],
            Self::Reshapes => [Kind::Split, Kind::Shift, Kind::Merge],
        }
    }

    /// What a table goes through in the so-many-th step.
    pub fn kind(self, step: usize) -> Kind {
        let kinds = self.kinds();
        kinds[step % kinds.len()]
    }
}

impl Kind {
    /// The shards before, from the lowest to the highest: where each begins (all but the first) and is.
    pub fn layout(self) -> Vec<(i64, Place)> {
        match self {
            Self::ToNode => vec![(LOW, Place::Local)],
            Self::Across | Self::Split => vec![(LOW, Place::North)],
            Self::ToLocal => vec![(LOW, Place::South)],
            Self::Shift => vec![(LOW, Place::North), (2_000, Place::North)],
            Self::Merge => vec![(LOW, Place::North), (3_000, Place::North)],
        }
    }

    /// The server that gives rows.
    pub fn giver(self) -> Place {
        self.layout()[0].1
    }

    /// The server that receives them.
    pub fn receiver(self) -> Place {
        match self {
            Self::ToNode => Place::North,
            Self::Across => Place::South,
            Self::ToLocal => Place::Local,
            Self::Split | Self::Shift | Self::Merge => Place::North,
        }
    }

    /// Whether a server has a part in it.
    pub fn concerns(self, place: Place) -> bool {
        self.giver() == place || self.receiver() == place
    }

    /// The call that queues it.
    pub fn call(self, table: &str) -> String {
        // Not from repart.shards, which says more of every table there is.
        let shard = |from: i64| {
            format!(
                "(SELECT inhrelid::regclass FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
                   WHERE inhparent = '{table}'::regclass
                     AND pg_get_expr(c.relpartbound, c.oid) LIKE 'FOR VALUES FROM (''{from}'')%')"
            )
        };
        let low = shard(LOW);
        match self {
            Self::ToNode | Self::Across | Self::ToLocal => {
                format!("repart_move({low}, node => '{}')", self.receiver().node())
            }
            Self::Split => format!("repart_split({low}, '2000')"),
            Self::Shift => format!("repart_shift({low}, {}, '3000')", shard(2_000)),
            Self::Merge => format!("repart_merge({low}, {})", shard(3_000)),
        }
    }
}
