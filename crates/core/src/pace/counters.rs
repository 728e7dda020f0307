//! Looking twice at the counters of a machine.

use super::Usage;

/// The kernel counts in hundredths of a second, and processors that sleep now and then a little late: by so many seconds,
/// for each of them, two looks at the same moment may differ.
const SLACK: f64 = 0.05;

/// What the counters of a machine are at a moment: they only grow, so that whoever looks twice knows what happened.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Counters {
    /// When, in seconds of any clock that goes steadily.
    pub at: f64,
    /// Seconds that all its processors together have existed.
    pub all: f64,
    /// Those in which they worked.
    pub busy: f64,
    /// Those in which they worked for the migration.
    pub own: f64,
    /// Number of processors.
    pub processors: f64,
    /// Seconds in which somebody waited for I/O; `None` where the system does not tell.
    pub stalled: Option<f64>,
}

impl Counters {
    /// What the machine did since; the migration worked for so many seconds of that time. `None` where that cannot be
    /// said: no time has passed, or a counter began anew, as those of a machine that was restarted and of a session that
    /// has taken the place of another.
    pub fn since(&self, before: &Self, worked: f64) -> Option<Usage> {
        let seconds = self.at - before.at;
        let all = self.all - before.all;
        let (busy, own) = (self.busy - before.busy, self.own - before.own);
        if !(seconds > 0.0 && all > 0.0 && busy >= 0.0 && own >= 0.0) {
            return None;
        }
        let stalled = self.stalled.zip(before.stalled);
        Some(Usage {
            all: busy / all,
            own: own / all,
            processors: self.processors,
            stalled: stalled.map(|(now, before)| ((now - before) / seconds).clamp(0.0, 1.0)),
            seconds,
            worked: (worked / seconds).clamp(0.0, 1.0),
            is_short: false,
        })
    }

    /// Whether these are the counters of the machine that was looked at before and after them. (Those of two machines are
    /// never the same: they count since each was started.)
    pub fn is_between(&self, before: &Self, after: &Self) -> bool {
        let slack = SLACK * self.processors;
        let within =
            |before: f64, value: f64, after: f64| (before - slack..=after + slack).contains(&value);
        within(before.all, self.all, after.all) && within(before.busy, self.busy, after.busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_began_anew_say_nothing() {
        let before = Counters {
            at: 1.0,
            all: 100.0,
            busy: 50.0,
            own: 5.0,
            processors: 2.0,
            stalled: Some(3.0),
        };
        let now = Counters {
            at: 2.0,
            all: 102.0,
            busy: 51.0,
            own: 5.5,
            stalled: Some(3.5),
            ..before
        };
        let usage = now.since(&before, 0.25).expect("counters that grew");
        let shares = [
            usage.all,
            usage.own,
            usage.stalled.unwrap_or(9.0),
            usage.worked,
        ];
        for (share, expected) in shares.into_iter().zip([0.5, 0.25, 0.5, 0.25]) {
            assert!((share - expected).abs() < 1e-9, "{usage:?}");
        }
        for anew in [
            Counters { at: 1.0, ..now },
            Counters { all: 1.0, ..now },
            Counters { busy: 1.0, ..now },
            Counters { own: 0.0, ..now },
            Counters {
                busy: f64::NAN,
                ..now
            },
        ] {
            assert_eq!(anew.since(&before, 0.25), None, "{anew:?}");
        }
        let stalled = Counters {
            stalled: None,
            ..now
        };
        assert_eq!(
            stalled.since(&before, 0.25).and_then(|usage| usage.stalled),
            None
        );
    }

    #[test]
    fn a_machine_is_known_by_its_counters() {
        let before = Counters {
            at: 50.0,
            all: 7_000.0,
            busy: 3_000.0,
            own: 40.0,
            processors: 2.0,
            stalled: None,
        };
        let after = Counters {
            all: before.all + 0.02,
            busy: before.busy + 0.01,
            ..before
        };
        assert!(before.is_between(&before, &after));
        assert!(after.is_between(&before, &after));
        // It went on for a minute; it is another.
        let later = Counters {
            all: before.all + 120.0,
            busy: before.busy + 20.0,
            ..before
        };
        let other = Counters {
            busy: before.busy - 1.0,
            ..before
        };
        assert!(!later.is_between(&before, &after));
        assert!(!other.is_between(&before, &after));
    }
}
