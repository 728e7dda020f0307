//! A migration, watched from outside: when it was in which state, and what it wrote meanwhile.

use std::thread::sleep;
use std::time::{Duration, Instant};

use repart_tests::repart::Session;

/// How often it is looked at: no state that matters is shorter, and it costs little.
const LOOK: Duration = Duration::from_millis(5);

/// The size of the database is asked for less often: that reads a directory.
const LOOK_AT_SIZE: Duration = Duration::from_millis(50);

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
    /// By how much the database had grown when it was largest, bytes.
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

    /// How long it was in these states.
    pub fn time_in(&self, states: &[&str]) -> Duration {
        let ends = self
            .states
            .iter()
            .skip(1)
            .map(|(_, at)| *at)
            .chain([self.ended]);
        self.states
            .iter()
            .zip(ends)
            .filter(|((state, _), _)| states.contains(&state.as_str()))
            .map(|((_, begun), end)| end - *begun)
            .sum()
    }
}

/// Looks at a migration until it has ended, or `limit` has passed.
pub fn watch(session: &mut Session, id: i64, begun: Instant, limit: Duration) -> Watched {
    let size_at_first = database_size(session);
    let mut size_seen = Instant::now();
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
        if size_seen.elapsed() > LOOK_AT_SIZE {
            size_seen = now;
            watched.growth = watched.growth.max(database_size(session) - size_at_first);
        }
        sleep(LOOK);
    }
}

fn database_size(session: &mut Session) -> f64 {
    session.number("SELECT pg_database_size(current_database())") as f64
}
