//! Migrations that between them make every transition there is.

use repart_core::state::State;

use super::observed::{Edge, edges_of_table};
use crate::repart::Session;

/// How a kind of migration comes about.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name, part of the names of tables.
    pub name: &'static str,
    /// Makes the table with this name, of keys below [`KEYS`].
    pub prepare: fn(&mut Session, &str),
    /// The call that queues the migration of this table.
    pub call: fn(&str) -> String,
    /// The inner bounds of the table before and after.
    pub bounds: (&'static [i64], &'static [i64]),
    /// How many shards, the lowest ones, are replaced.
    pub replaced: usize,
    /// Further moments than each state: `repart.hold_at` and the state that the journal has then.
    pub moments: &'static [(State, &'static str)],
}

/// Keys that clients use: 0 .. this. The lowest shard, which is migrated, has negative keys for tests too.
pub const KEYS: i64 = 4_000;

const OLD: &[i64] = &[3_000];

const NEW: &[i64] = &[1_000, 3_000];

/// Between two batches, and inside of steps, in their transactions just before they commit.
const ONLINE: &[(State, &str)] = &[
    (State::Copying, "copying#2"),
    (State::Copying, "copying#3"),
    (State::Preparing, "created"),
    (State::Preparing, "captured"),
    (State::Copying, "copied"),
    (State::Copying, "indexed"),
    (State::CatchingUp, "applied"),
    (State::CuttingOver, "switched"),
    (State::Cleaning, "cleaned"),
];

/// The first is tested in all its states; the others where they make transitions that those before do not. A
/// transition that none of them makes needs a migration here that makes it.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "split",
        prepare: |session, table| session.create_sharded_table(table, OLD, KEYS),
        call: split,
        bounds: (OLD, NEW),
        replaced: 1,
        moments: ONLINE,
    },
    // preparing → cutting_over
    Scenario {
        name: "keyless",
        prepare: create_keyless,
        call: split,
        bounds: (OLD, NEW),
        replaced: 1,
        moments: &[
            (State::CuttingOver, "blocking"),
            (State::CuttingOver, "switched"),
        ],
    },
    // preparing → catching_up
    Scenario {
        name: "revert",
        prepare: create_with_old_shards_kept,
        call: |table| {
            format!(
                "repart_revert((SELECT max(id) FROM repart.journal WHERE relation = '{table}'::regclass))"
            )
        },
        bounds: (NEW, OLD),
        replaced: 2,
        moments: &[],
    },
    // cutting_over → preparing
    Scenario {
        name: "outgrown",
        prepare: create_growing_table,
        call: |table| format!("repart_split('{table}1', '-100000')"),
        bounds: (OLD, &[-100_000, 3_000]),
        replaced: 1,
        moments: &[],
    },
];

fn split(table: &str) -> String {
    format!("repart_split('{table}1', '1000')")
}

/// A unique index that rows without a key may evade: clients can use it, repart cannot.
fn create_keyless(session: &mut Session, table: &str) {
    session.create_sharded_table(table, OLD, KEYS);
    session.run(&format!(
        "ALTER TABLE {table} DROP CONSTRAINT {table}_pkey;
         ALTER TABLE {table} ALTER COLUMN id DROP NOT NULL;
         CREATE UNIQUE INDEX ON {table} (id)"
    ));
}

fn create_with_old_shards_kept(session: &mut Session, table: &str) {
    session.create_sharded_table(table, OLD, KEYS);
    session.set("repart.retain_source", "'1h'");
    let id = session.queue(&split(table));
    session.wait_done(id);
    session.set("repart.retain_source", "0");
    let kept = "SELECT count(*) FROM repart.migrations WHERE retained_until > now() AND id = ";
    assert_eq!(session.number(&format!("{kept}{id}")), 1, "{table}");
}

/// Makes a table whose lowest shard is kept in place when it is split at -100000: it is large, and no row leaves
/// it. But as soon as the split is to be cut over, a trigger on the journal inserts more rows below than can leave
/// in time, so that it begins again. All rows with negative keys are gone when the new shards are there: clients
/// know nothing of them.
fn create_growing_table(session: &mut Session, table: &str) {
    session.create_sharded_table(table, OLD, KEYS);
    session.run(&format!(
        "INSERT INTO {table} SELECT -1000 - n, repeat('x', 1000), 0 FROM generate_series(1, 5000) n;
         ANALYZE {table};
         CREATE SCHEMA IF NOT EXISTS growth;
         CREATE FUNCTION growth.{table}() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.state = 'cutting_over' THEN
                 INSERT INTO public.{table} SELECT -100000 - n, 'grown', 0 FROM generate_series(1, 50000) n
                     ON CONFLICT DO NOTHING;
             ELSIF NEW.state = 'cleaning' THEN
                 DELETE FROM public.{table} WHERE id < 0;
             END IF;
             RETURN NULL;
         END $$;
         CREATE TRIGGER growth_{table} AFTER UPDATE ON repart.journal FOR EACH ROW
             WHEN (OLD.state <> NEW.state AND NEW.kind = 'split' AND NEW.relation_name = '{table}')
             EXECUTE FUNCTION growth.{table}()"
    ));
}

/// Fills another tablespace, named `small`.
pub const MOVE_TO_SMALL: Scenario = Scenario {
    name: "move",
    prepare: |session, table| session.create_sharded_table(table, OLD, KEYS),
    call: |table| format!("repart_move('{table}1', tablespace => 'small')"),
    bounds: (OLD, OLD),
    replaced: 1,
    moments: ONLINE,
};

/// The transitions to a forced end, which are made from wherever a migration is held.
pub fn is_forced_end(edge: &Edge) -> bool {
    matches!(edge.1, State::Cancelled | State::Failed)
}

/// Fails unless every transition is made by a scenario, or is a forced end.
///
/// # Panics
/// Panics with what to add otherwise.
pub fn require_all_reached(reached: &[Edge]) {
    let missing: Vec<String> = edges_of_table()
        .into_iter()
        .filter(|edge| !is_forced_end(edge) && !reached.contains(edge))
        .map(|(from, to)| format!("{from} → {to}"))
        .collect();
    assert!(
        missing.is_empty(),
        "no scenario makes the transitions {missing:?}: add to SCENARIOS in tests/src/matrix/scenario.rs a \
         migration that makes them, so that a crash before and after each of them is tested"
    );
}
