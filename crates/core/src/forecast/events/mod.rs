//! Events known in advance: holidays, sales, batch jobs. What the load was by a name before is taken out of the history,
//! so that no model repeats it a day or a week later, and put onto the forecast where the name comes again.
//!
//! As the *prior adjustments* of seasonal adjustment (X-13ARIMA-SEATS reference manual, U.S. Census Bureau): apart
//! from the models, so that all of them, and the shards that share a fit, know events. An effect is a factor, by how
//! long ago the event began.

mod usual;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::series::{Series, usable_or_nan};

use super::{Forecast, ForecastError, Options, Season, forecast};

use usual::{Usual, median, period};

/// What is added to the load before ratios are taken, as a part of its mean: zeros have none.
const OFFSET: f64 = 0.1;

/// The steps that it weighs as much as, that an event changes nothing; and for a time within the event, that the effect
/// is the same as at the others.
const PRIOR_STEPS: f64 = 2.0;

/// The part of an event to either side over which the effect is averaged.
const SMOOTHED: usize = 24;

/// No event changes the load by more than this factor.
const MAX_FACTOR: f64 = 20.0;

/// One occurrence of an event. Occurrences with the same name are expected to do the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What it is.
    pub name: String,
    /// When it begins, in microseconds since the Unix epoch.
    pub from: i64,
    /// When it ends.
    pub to: i64,
}

/// What events do to one series.
#[derive(Debug, Clone, PartialEq)]
pub struct Effects<'a> {
    events: &'a [Event],
    /// Per name, the logarithm of the factor at each step since the beginning, and beyond those.
    by_name: BTreeMap<&'a str, (Vec<f64>, f64)>,
    offset: f64,
    start: i64,
    step: i64,
}

/// As [`forecast`], knowing events. Those of a name that has not come yet in the series change nothing.
///
/// # Errors
/// Those of [`forecast`].
pub fn forecast_with(
    series: &Series,
    options: &Options,
    events: &[Event],
) -> Result<Forecast, ForecastError> {
    let Some(effects) = Effects::of(series, options.season, events) else {
        return forecast(series, options);
    };
    let mut made = forecast(&effects.without(series), options)?;
    effects.put_on(&mut made);
    Ok(made)
}

impl<'a> Effects<'a> {
    /// Learns them; `None` if no event touches the series, or nothing is known to compare with.
    pub fn of(series: &Series, season: Season, events: &'a [Event]) -> Option<Self> {
        let touches = |event: &Event| {
            event.from < event.to && event.from < series.end() && event.to > series.start
        };
        if series.step <= 0 || !events.iter().any(touches) {
            return None;
        }
        let values: Vec<f64> = series.values.iter().copied().map(usable_or_nan).collect();
        let count = values.iter().filter(|v| !v.is_nan()).count().max(1) as f64;
        let known = values.iter().filter(|v| !v.is_nan());
        let mut effects = Self {
            events,
            by_name: BTreeMap::new(),
            offset: OFFSET * known.map(|v| v / count).sum::<f64>(),
            start: series.start,
            step: series.step,
        };
        if effects.offset <= 0.0 {
            return None;
        }
        let mut ratios: BTreeMap<&str, Vec<(usize, f64)>> = BTreeMap::new();
        let usual = Usual::of(&values, &effects, period(series, season));
        for event in events.iter().filter(|event| touches(event)) {
            let first = effects.index(event.from).unwrap_or(0);
            let last = effects.index(event.to.saturating_sub(1)).unwrap_or(0);
            for at in first..=last.min(values.len().saturating_sub(1)) {
                // A step that the event covers in part says little.
                if effects.share(event, at) < 0.5 {
                    continue;
                }
                let value = values.get(at).copied().filter(|v| !v.is_nan());
                if let (Some(value), Some(usual)) = (value, usual.at(at)) {
                    let ratio = (value + effects.offset).ln() - (usual + effects.offset).ln();
                    let age = effects.age(event, at);
                    ratios
                        .entry(event.name.as_str())
                        .or_default()
                        .push((age, ratio));
                }
            }
        }
        let learnt = |(name, ratios): (&'a str, Vec<(usize, f64)>)| (name, curve(&ratios));
        effects.by_name = ratios.into_iter().map(learnt).collect();
        (!effects.by_name.is_empty()).then_some(effects)
    }

    /// The step of the series that a time falls into; `None` before the first.
    fn index(&self, at: i64) -> Option<usize> {
        usize::try_from(at.checked_sub(self.start)?.div_euclid(self.step)).ok()
    }

    /// The steps from the beginning of an event to a step of the series.
    fn age(&self, event: &Event, at: usize) -> usize {
        let begin = self.begin(at);
        usize::try_from(begin.saturating_sub(event.from) / self.step).unwrap_or(0)
    }

    fn begin(&self, at: usize) -> i64 {
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        self.start.saturating_add(self.step.saturating_mul(at))
    }

    /// The part of a step of the series that an event covers.
    fn share(&self, event: &Event, at: usize) -> f64 {
        let begin = self.begin(at);
        let end = begin.saturating_add(self.step);
        let covered = event.to.min(end).saturating_sub(event.from.max(begin));
        covered.max(0) as f64 / self.step as f64
    }

    /// The logarithm of the factor of all events at a step.
    fn at(&self, at: usize) -> f64 {
        let of = |event: &Event| {
            let share = self.share(event, at);
            let (curve, beyond) = self.by_name.get(event.name.as_str())?;
            let effect = curve.get(self.age(event, at)).unwrap_or(beyond);
            (share > 0.0).then_some(share * effect)
        };
        let most = MAX_FACTOR.ln();
        self.events
            .iter()
            .filter_map(of)
            .sum::<f64>()
            .clamp(-most, most)
    }

    fn times(&self, value: f64, effect: f64) -> f64 {
        if effect == 0.0 {
            return value;
        }
        let changed = (value + self.offset) * effect.exp() - self.offset;
        changed.clamp(0.0, f64::MAX)
    }

    /// The series as it would have been.
    pub fn without(&self, series: &Series) -> Series {
        let value = |(at, value): (usize, &f64)| match usable_or_nan(*value) {
            known if known.is_nan() => f64::NAN,
            known => self.times(known, -self.at(at)),
        };
        Series {
            values: series.values.iter().enumerate().map(value).collect(),
            ..series.clone()
        }
    }

    /// Puts the effects of the events to come on a forecast of such a series.
    pub fn put_on(&self, made: &mut Forecast) {
        let first = self.index(made.start).unwrap_or(0);
        let (mut plain, mut highest, mut peak) = (0.0_f64, 0.0_f64, 0.0_f64);
        let curves = made.q50.iter_mut().zip(&mut made.q90).zip(&mut made.q99);
        for (ahead, (((q50, q90), q99), top)) in curves.zip(&mut made.peak).enumerate() {
            let effect = self.at(first.saturating_add(ahead));
            plain = plain.max(*q90);
            for value in [&mut *q50, &mut *q90, q99] {
                *value = self.times(*value, effect);
            }
            highest = highest.max(*q90);
            // What the peak was above, or below, the highest q90 so far, at the level of now.
            let relative = if plain > 0.0 { *top / plain } else { 1.0 };
            peak = peak.max(*q50).max((highest * relative).min(f64::MAX));
            *top = peak;
        }
    }
}

/// The effect by age, and beyond the oldest, from logarithms of ratios.
fn curve(ratios: &[(usize, f64)]) -> (Vec<f64>, f64) {
    let usual = median(ratios.iter().map(|(_, ratio)| *ratio)).unwrap_or(0.0);
    let count = ratios.len() as f64;
    let all = usual * count / (count + PRIOR_STEPS);
    let length = ratios.iter().map(|(age, _)| age + 1).max().unwrap_or(0);
    let reach = length / SMOOTHED;
    let mut sums = vec![(0.0, 0.0); length];
    for (age, ratio) in ratios {
        if let Some(slot) = sums.get_mut(*age) {
            *slot = (slot.0 + ratio, slot.1 + 1.0);
        }
    }
    let at = |age: usize| {
        let near = sums
            .iter()
            .take(age + reach + 1)
            .skip(age.saturating_sub(reach));
        let (sum, count) = near.fold((0.0, 0.0), |(s, n), (sum, count)| (s + sum, n + count));
        (sum + PRIOR_STEPS * all) / (count + PRIOR_STEPS)
    };
    ((0..length).map(at).collect(), all)
}

#[cfg(test)]
mod tests {
    use super::super::Model;
    use super::*;
    use std::f64::consts::TAU;

    const HOUR: i64 = 3_600_000_000;
    const DAY: i64 = 24 * HOUR;

    fn event(name: &str, day: i64, days: i64) -> Event {
        Event {
            name: name.to_owned(),
            from: day * DAY,
            to: (day + days) * DAY,
        }
    }

    /// A load by day and week that a holiday halves and a sale triples, for its first six hours fivefold.
    fn load(hour: usize, holidays: &[usize], sales: &[usize]) -> f64 {
        let day = hour / 24;
        let weekend = if day % 7 >= 5 { 0.6 } else { 1.0 };
        let wave = 100.0 * weekend * (1.5 + (hour as f64 * TAU / 24.0).sin());
        let noise = 1.0
            + 0.05 * ((hour as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64
                / f64::from(1_u32 << 24);
        let sale = if hour % 24 < 6 { 5.0 } else { 3.0 };
        wave * noise
            * if holidays.contains(&day) { 0.5 } else { 1.0 }
            * if sales.contains(&day) { sale } else { 1.0 }
    }

    fn error(made: &Forecast, hours: usize, load: impl Fn(usize) -> f64) -> f64 {
        let steps = made.q50.iter().enumerate();
        let wrong: f64 = steps
            .map(|(step, q50)| (q50 - load(hours + step)).abs())
            .sum();
        wrong
            / (0..made.q50.len())
                .map(|step| load(hours + step))
                .sum::<f64>()
    }

    #[test]
    fn what_an_event_did_before_is_expected_when_it_comes_again_and_not_after_it() {
        let load = |hour| load(hour, &[9, 24, 37], &[16, 38]);
        let events = [
            event("holiday", 9, 1),
            event("holiday", 24, 1),
            event("sale", 16, 1),
            event("sale", 38, 1),
            event("holiday", 37, 1),
        ];
        for model in [
            Model::Auto,
            Model::Spar,
            Model::SeasonalNaive,
            Model::Prophet,
        ] {
            let options = Options {
                horizon: 48,
                season: Season::Auto,
                model,
            };
            let past = |days: usize| Series {
                start: 0,
                step: HOUR,
                values: (0..24 * days).map(load).collect(),
            };
            let ignorant = forecast(&past(37), &options).unwrap();
            let knowing = forecast_with(&past(37), &options, &events).unwrap();
            let (plain, known) = (
                error(&ignorant, 24 * 37, load),
                error(&knowing, 24 * 37, load),
            );
            assert!(
                known < 0.2 && known < 0.5 * plain,
                "{model}: {known}, without events {plain}"
            );
            // The day after, nothing of it is left.
            let after = forecast_with(&past(39), &options, &events).unwrap();
            assert!(
                error(&after, 24 * 39, load) < 0.12,
                "{model}: {}",
                error(&after, 24 * 39, load)
            );
            let ordered = |m: &Forecast| {
                (0..48)
                    .all(|i| m.q50[i] <= m.q90[i] && m.q90[i] <= m.q99[i] && m.q50[i] <= m.peak[i])
            };
            assert!(ordered(&knowing) && knowing.peak.windows(2).all(|p| p[0] <= p[1]));
        }
    }

    #[test]
    fn an_event_that_never_came_before_or_touches_nothing_changes_nothing() {
        let past = Series {
            start: 0,
            step: HOUR,
            values: (0..24 * 21).map(|h| load(h, &[], &[])).collect(),
        };
        let options = Options {
            horizon: 24,
            season: Season::Auto,
            model: Model::Auto,
        };
        let plain = forecast(&past, &options).unwrap();
        for events in [
            vec![],
            vec![event("new", 21, 1)],
            vec![event("old", -5, 1)],
            vec![event("empty", 5, 0), event("backwards", 5, -1)],
            vec![Event {
                name: "far".to_owned(),
                from: i64::MAX - 1,
                to: i64::MAX,
            }],
        ] {
            assert_eq!(
                forecast_with(&past, &options, &events).unwrap(),
                plain,
                "{events:?}"
            );
        }
    }

    #[test]
    fn no_series_and_no_event_makes_it_panic_or_infinite() {
        let always = Event {
            name: "always".to_owned(),
            from: i64::MIN,
            to: i64::MAX,
        };
        let events = [
            always,
            event("day", 0, 1),
            event("day", 1, 1),
            event("hours", 0, 90),
        ];
        let options = Options {
            horizon: 5,
            season: Season::Auto,
            model: Model::Auto,
        };
        for values in [
            vec![],
            vec![f64::NAN; 40],
            vec![0.0; 40],
            vec![f64::MAX; 40],
            vec![-1.0, f64::INFINITY, 3.0],
            vec![1e-300; 90],
        ] {
            for step in [HOUR, 1, DAY, i64::MAX, 0] {
                let series = Series {
                    start: 0,
                    step,
                    values: values.clone(),
                };
                if let Ok(made) = forecast_with(&series, &options, &events) {
                    let all = [made.q50, made.q90, made.q99, made.peak].concat();
                    assert!(
                        all.iter().all(|v| v.is_finite() && *v >= 0.0),
                        "{values:?} {step}"
                    );
                }
            }
        }
    }
}
