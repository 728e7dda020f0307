//! Which transitions migrations really made, written down by a trigger of the test on the journal.

use repart_core::state::{State, TRANSITIONS};

use crate::repart::Session;

/// A transition, from and to.
pub type Edge = (State, State);

/// The transitions that the table has.
pub fn edges_of_table() -> Vec<Edge> {
    TRANSITIONS
        .iter()
        .map(|&(from, to, _)| (from, to))
        .collect()
}

/// Begins to write down the transitions of all migrations of this database.
pub fn watch(session: &mut Session) {
    session.run(
        "CREATE SCHEMA observed;
         CREATE TABLE observed.steps (n serial, migration bigint, before text, after text);
         CREATE FUNCTION observed.note() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO observed.steps (migration, before, after) VALUES (NEW.id, OLD.state, NEW.state);
             RETURN NULL;
         END $$;
         CREATE TRIGGER note AFTER UPDATE ON repart.journal FOR EACH ROW WHEN (OLD.state <> NEW.state)
             EXECUTE FUNCTION observed.note()",
    );
}

/// The transitions of a migration, in order.
///
/// # Panics
/// Panics if the journal made one that the table of transitions does not have.
pub fn edges(session: &mut Session, migration: i64) -> Vec<Edge> {
    let sql = "SELECT before, after FROM observed.steps WHERE migration = $1 ORDER BY n";
    let edges: Vec<Edge> = session
        .query(sql, &[&migration])
        .iter()
        .map(|row| (parse(row.get(0)), parse(row.get(1))))
        .collect();
    for (from, to) in &edges {
        from.require_transition(*to).unwrap();
    }
    edges
}

fn parse(name: String) -> State {
    name.parse().unwrap()
}
