//! What the load would have been without events: the median of the same time in the seasons beside.

use crate::series::Series;

use super::{Effects, Season};

/// Microseconds per day and per week.
const DAY: i64 = 86_400_000_000;
const WEEK: i64 = 7 * DAY;

/// The seasons to either side that show what is usual.
const BESIDE: usize = 4;

/// What is compared with, in steps: the week of the clock, else the day; `None` for all steps.
pub(super) fn period(series: &Series, season: Season) -> Option<usize> {
    let of_clock = |span: i64| {
        let steps = usize::try_from(span / series.step).ok()?;
        (span % series.step == 0 && 2 * steps <= series.len()).then_some(steps)
    };
    match season {
        Season::Steps(steps) => (steps >= 2 && 2 * steps <= series.len()).then_some(steps),
        Season::Auto => of_clock(WEEK).or(of_clock(DAY)).filter(|steps| *steps >= 2),
    }
}

/// What is usual without events.
pub(super) struct Usual {
    /// NaN where unknown, and during events.
    values: Vec<f64>,
    period: Option<usize>,
    overall: Option<f64>,
}

impl Usual {
    /// Of a series with gaps that are NaN.
    pub(super) fn of(values: &[f64], effects: &Effects, period: Option<usize>) -> Self {
        let mut values = values.to_vec();
        for event in effects.events {
            let from = effects.index(event.from).unwrap_or(0);
            let to = effects
                .index(event.to.saturating_sub(1))
                .map_or(0, |last| last + 1);
            let during = values.iter_mut().take(to).skip(from);
            during.for_each(|v| *v = f64::NAN);
        }
        Self {
            overall: median(values.iter().copied()),
            values,
            period,
        }
    }

    /// At a step; `None` where nothing is known to compare with.
    pub(super) fn at(&self, at: usize) -> Option<f64> {
        let Some(period) = self.period else {
            return self.overall;
        };
        let before = (1..=BESIDE).filter_map(|k| at.checked_sub(k * period));
        let after = (1..=BESIDE).map(|k| at + k * period);
        let beside = before.chain(after).filter_map(|at| self.values.get(at));
        median(beside.copied())
    }
}

/// The median of what is known.
pub(super) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut known: Vec<f64> = values.filter(|v| !v.is_nan()).collect();
    known.sort_by(f64::total_cmp);
    known.get(known.len() / 2).copied()
}
