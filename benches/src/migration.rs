//! A migration, watched from outside: when it was in which state, and what it wrote meanwhile.

use std::thread::sleep;
use std::time::{Duration, Instant};

use repart_tests::repart::Session;

/// How often it is looked at. Looking takes processor time from the clients that are measured.
const LOOK: Duration = Duration::from_millis(20);

/// What was seen.
#[derive(Clone)]
pub struct Watched {
    /// Its number.
    pub id: i64,
    /// The state it ended in, or was in when it was given up.
    pub state: String,
    /// When it was queued.
    pub begun: Instant,
    /// When it was seen to have ended.
    pub ended: Instant,
    /// By how much the database had grown when it was largest, bytes; 0 if that was not asked for.
    pub growth: f64,
    /// When it was first seen in each state.
    states: Vec<(String, Instant)>,
}

impl Watched {
    /// From queued to done.
    pub fn duration(&self) -> Duration {
        self.ended - self.begun
    }

    /// The state that it was in, as far as it was seen.
    pub fn state_at(&self, moment: Instant) -> &str {
        let before = self.states.iter().rev().find(|(_, at)| *at <= moment);
        before.map_or("queued", |(state, _)| state)
    }

    /// The states that it was in, with the moments when they began and ended.
    pub fn spans(&self) -> Vec<(&str, Instant, Instant)> {
        let ends = self.states.iter().skip(1).map(|(_, at)| *at);
        self.states
            .iter()
            .zip(ends.chain([self.ended]))
            .map(|((state, begun), end)| (state.as_str(), *begun, end))
            .collect()
    }

    /// How long it was in these states.
    pub fn time_in(&self, states: &[&str]) -> Duration {
        self.spans()
            .iter()
            .filter(|(state, ..)| states.contains(state))
            .map(|(_, begun, end)| *end - *begun)
            .sum()
    }
}

/// Looks at a migration until it has ended, or `limit` has passed; with `size`, also at the size of the database, which
/// reads its directory.
pub fn watch(
    session: &mut Session,
    id: i64,
    begun: Instant,
    limit: Duration,
    size: bool,
) -> Watched {
    let size_at_first = if size { database_size(session) } else { 0.0 };
    let mut watched = Watched {
        id,
        state: String::new(),
        begun,
        ended: begun,
        growth: 0.0,
        states: Vec::new(),
    };
    loop {
        let state = session.query("SELECT state FROM repart.journal WHERE id = $1", &[&id])[0]
            .get::<_, String>(0);
        let now = Instant::now();
        watched.ended = now;
        if watched.state != state {
            watched.state.clone_from(&state);
            watched.states.push((state, now));
        }
        if ["done", "failed", "cancelled"].contains(&watched.state.as_str())
            || begun.elapsed() > limit
        {
            return watched;
        }
        if size {
            watched.growth = watched.growth.max(database_size(session) - size_at_first);
        }
        sleep(LOOK);
    }
}

fn database_size(session: &mut Session) -> f64 {
    session.number("SELECT pg_database_size(current_database())") as f64
}
