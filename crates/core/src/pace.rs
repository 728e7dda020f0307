//! How much of its time a migration works while others want the processors or the disks of a server that it uses.
//!
//! While enough of all that is left, it works all the time. Otherwise it rests between its pieces of work, more and more,
//! until it takes no more than [`LEAST_SHARE`] of them; when there is room again it works more and more.
//!
//! Each server is looked at for itself, and whoever has least room says how long to rest.

mod counters;

pub use counters::Counters;

/// The share of all processors that a migration takes at least, as long as it needs them: one that never ends helps
/// nobody.
pub const LEAST_SHARE: f64 = 0.1;

/// Others that take less than this share of the processors do not compete for them: the migration itself is what
/// keeps them busy.
const COMPETING: f64 = 0.05;

/// Somebody who waits for I/O for a larger part of the time than the migration itself can is another.
const OTHERS_STALLED: f64 = 0.1;

/// Seconds in which stalls are not looked at once the migration was found to be what causes them.
const IGNORED: f64 = 30.0;

/// What a machine did lately, as shares of the time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// All work of its processors, that of the migration included.
    pub all: f64,
    /// That of the migration.
    pub own: f64,
    /// Number of processors.
    pub processors: f64,
    /// The share of the time in which somebody waited for I/O; `None` where the system does not tell.
    pub stalled: Option<f64>,
    /// How long that was, s.
    pub seconds: f64,
    /// For which share of it the migration worked.
    pub worked: f64,
    /// Whether it has no headroom for another reason: its memory, or all that is known of it is a sample that says so.
    pub is_short: bool,
}

/// The part of its time that a migration works.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Duty {
    share: f64,
    stalls: Stalls,
}

impl Default for Duty {
    fn default() -> Self {
        Self {
            share: 1.0,
            stalls: Stalls::default(),
        }
    }
}

/// Whose I/O it is that somebody waits for. A migration that copies keeps a disk busy by itself, and to whom the waits
/// belong the system does not say: so it rests, and sees whether they go on.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Stalls {
    /// It rests since there were stalls.
    resting: bool,
    /// It was the cause: for so many seconds nobody looks at them.
    ignored: f64,
}

impl Stalls {
    /// Whether others want the disks.
    fn compete(&mut self, stalled: f64, usage: &Usage, headroom: f64) -> bool {
        if self.ignored > 0.0 {
            self.ignored -= usage.seconds;
            return false;
        }
        let is_short = stalled > headroom;
        if self.resting && !is_short {
            self.resting = false;
            if stalled - usage.worked < OTHERS_STALLED {
                self.ignored = IGNORED;
            }
        }
        self.resting |= is_short;
        is_short
    }
}

impl Duty {
    /// Takes note of what was measured, where `headroom` is the share of the processors that may be in use; 1 means that
    /// nobody is given way to.
    pub fn observe(&mut self, usage: Usage, headroom: f64) {
        let measured = [usage.all, usage.own, usage.seconds, usage.worked];
        if !(measured.iter().all(|value| value.is_finite()) && usage.processors >= 1.0) {
            return;
        }
        let competes = usage.all - usage.own >= COMPETING;
        // Counters that waver can make more than all of it.
        let is_short = usage.all > headroom && competes;
        let stalls = match usage.stalled {
            Some(stalled) => self.stalls.compete(stalled, &usage, headroom),
            None => false,
        };
        let gives_way = headroom < 1.0 && (is_short || stalls || usage.is_short);
        // Down at once, up step by step: clients wait now.
        let change = if gives_way { 0.25 } else { 1.5 };
        let least = (LEAST_SHARE * usage.processors).min(1.0);
        self.share = (self.share * change).clamp(least, 1.0);
    }

    /// Whether it works for a part of its time only.
    pub fn is_shared(self) -> bool {
        self.share < 1.0
    }

    /// How long to rest after so many seconds of work.
    pub fn rest(self, worked: f64) -> f64 {
        worked.max(0.0) * (1.0 / self.share - 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Seconds between two looks.
    const LOOK: f64 = 0.2;

    fn after(all: f64, own: f64, processors: f64, times: usize) -> Duty {
        let mut duty = Duty::default();
        for _ in 0..times {
            let usage = Usage {
                all,
                own,
                processors,
                ..Usage::default()
            };
            duty.observe(usage, 0.8);
        }
        duty
    }

    #[test]
    fn works_all_the_time_while_there_is_room() {
        assert!(after(0.79, 0.5, 2.0, 9).rest(1.0).abs() < 1e-9);
    }

    #[test]
    fn takes_no_more_than_a_tenth_of_busy_processors() {
        let duty = after(1.0, 0.3, 2.0, 9);
        // A fifth of one of two.
        assert!((duty.rest(1.0) - 4.0).abs() < 1e-9, "{duty:?}");
    }

    #[test]
    fn does_not_give_way_to_itself() {
        assert!(after(1.0, 0.97, 1.0, 9).rest(1.0).abs() < 1e-9);
    }

    #[test]
    fn with_a_headroom_of_one_gives_way_to_nobody() {
        let mut duty = Duty::default();
        let usage = Usage {
            all: 1.01,
            own: 0.1,
            processors: 2.0,
            ..Usage::default()
        };
        duty.observe(usage, 1.0);
        assert!(duty.rest(1.0).abs() < 1e-9, "{duty:?}");
    }

    #[test]
    fn of_many_processors_one_is_less_than_a_tenth() {
        assert!(after(1.0, 0.05, 16.0, 9).rest(1.0).abs() < 1e-9);
    }

    #[test]
    fn works_again_when_the_others_have_gone() {
        let mut duty = after(1.0, 0.1, 2.0, 9);
        let alone = Usage {
            all: 0.5,
            own: 0.5,
            processors: 2.0,
            ..Usage::default()
        };
        for _ in 0..5 {
            duty.observe(alone, 0.8);
        }
        assert!(duty.rest(1.0).abs() < 1e-9, "{duty:?}");
    }

    /// How it goes on, of two processors that are idle, with stalls by others and by the migration while it works.
    fn stalled(others: f64, own: f64, times: usize) -> Duty {
        let mut duty = Duty::default();
        for _ in 0..times {
            let stalled = (others + own * duty.share).min(1.0);
            let usage = Usage {
                processors: 2.0,
                stalled: Some(stalled),
                seconds: LOOK,
                worked: duty.share,
                ..Usage::default()
            };
            duty.observe(usage, 0.8);
        }
        duty
    }

    #[test]
    fn gives_way_to_others_who_wait_for_a_disk() {
        assert!((stalled(0.9, 0.1, 9).rest(1.0) - 4.0).abs() < 1e-9);
        assert!(stalled(0.5, 0.2, 9).rest(1.0).abs() < 1e-9);
    }

    #[test]
    fn finds_out_that_nobody_but_itself_waits_for_a_disk() {
        let duty = stalled(0.0, 1.0, 40);
        assert!(duty.rest(1.0).abs() < 1e-9, "{duty:?}");
        let looks = (IGNORED / LOOK) as usize;
        let rested = (1..looks)
            .filter(|times| stalled(0.0, 1.0, *times).rest(1.0) > 0.0)
            .count();
        assert!(rested <= 5, "rests {rested} of {looks} times");
    }

    #[test]
    fn gives_way_to_a_server_of_which_no_more_is_known_than_that_it_has_no_headroom() {
        let mut duty = Duty::default();
        let mut usage = Usage {
            processors: 2.0,
            is_short: true,
            ..Usage::default()
        };
        for _ in 0..4 {
            duty.observe(usage, 0.8);
        }
        assert!((duty.rest(1.0) - 4.0).abs() < 1e-9, "{duty:?}");
        usage.is_short = false;
        for _ in 0..5 {
            duty.observe(usage, 0.8);
        }
        assert!(duty.rest(1.0).abs() < 1e-9, "{duty:?}");
    }

    /// A machine with two processors, and a migration that keeps one of them busy while it works.
    struct Machine {
        counters: Counters,
        duty: Duty,
    }

    impl Machine {
        fn new() -> Self {
            let counters = Counters {
                at: 50.0,
                all: 7_000.0,
                busy: 3_000.0,
                own: 40.0,
                processors: 2.0,
                stalled: None,
            };
            Self {
                counters,
                duty: Duty::default(),
            }
        }

        /// A second goes by in which others want so many processors.
        fn second(&mut self, others: f64) {
            let before = self.counters;
            let own = self.duty.share;
            self.counters = Counters {
                at: before.at + 1.0,
                all: before.all + 2.0,
                busy: before.busy + (others + own).min(2.0),
                own: before.own + own,
                ..before
            };
            let usage = self
                .counters
                .since(&before, own)
                .expect("counters that grow");
            self.duty.observe(usage, 0.8);
        }
    }

    #[test]
    fn follows_load_that_comes_and_goes_by_its_own_counters() {
        let mut machine = Machine::new();
        for _ in 0..60 {
            machine.second(0.3);
        }
        assert!(!machine.duty.is_shared(), "{:?}", machine.duty);
        // One second of load is enough.
        machine.second(1.9);
        assert!(machine.duty.rest(1.0) >= 3.0, "{:?}", machine.duty);
        for _ in 0..60 {
            machine.second(1.9);
        }
        assert!((machine.duty.rest(1.0) - 4.0).abs() < 1e-9);
        // However long it lasted, a few seconds without it are enough.
        for _ in 0..4 {
            machine.second(0.0);
        }
        assert!(!machine.duty.is_shared(), "{:?}", machine.duty);
    }

    proptest! {
        #[test]
        fn a_rest_is_finite_and_bounded(
            all in -1.0..2.0f64, own in -1.0..2.0f64, processors in 0.0..512.0f64,
            headroom in 0.0..1.0f64, worked in -1.0..1e3f64,
        ) {
            let mut duty = Duty::default();
            for _ in 0..20 {
                let usage = Usage {
                    all, own, processors, stalled: Some(all), seconds: worked, worked: own, is_short: own > 0.5,
                };
                duty.observe(usage, headroom);
            }
            let rest = duty.rest(worked);
            prop_assert!(rest >= 0.0 && rest <= worked.max(0.0) / LEAST_SHARE, "{rest}");
        }
    }
}
