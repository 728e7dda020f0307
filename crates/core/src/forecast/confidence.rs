//! How far a forecast can be acted upon. Skill compares a model with seasonal naive, so that a load which
//! repeats perfectly has no skill at all, though nothing is easier to forecast. Confidence asks instead
//! whether the forecast says anything: better than a flat line, or close in absolute terms.

use super::prepare::History;
use super::quantiles::mean_pinball;
use super::seasonal_naive::SeasonalNaive;
use super::skill::{self, Origins};
use super::spread::Tested;

/// The steps whose median is one of the flat lines.
const MEDIAN_STEPS: usize = 500;

/// In [0, 1]: the better of two measures over the rolling backtest. 1 − loss / loss of a flat forecast
/// (pinball loss, the same level for every step), and 1 − the sum of absolute errors / the sum of what was
/// measured (1 − WAPE). 0 without a backtest, and for bursts that no model sees coming.
pub(super) fn confidence(history: &History, origins: &Origins, chosen: &Tested, loss: f64) -> f64 {
    if origins.at.is_empty() {
        return 0.0;
    }
    let level = skill::backtest(&SeasonalNaive::default(), history, &[], origins);
    let level = level.map_or(Vec::new(), |backtest| backtest.errors);
    let over_flat = [level, median_errors(history, origins)]
        .into_iter()
        .map(|errors| {
            let tested = Tested {
                errors,
                ..chosen.clone()
            };
            skill::skill(loss, mean_pinball(&tested))
        })
        .fold(1.0, f64::min);
    over_flat
        .max(1.0 - relative_error(history, chosen))
        .clamp(0.0, 1.0)
}

/// The errors of forecasting the median of the last steps: of a load in bursts, a better flat line than
/// its mean.
fn median_errors(history: &History, origins: &Origins) -> Vec<Vec<f64>> {
    let values = &history.series.values;
    let of_origin = |origin: &usize| {
        let mut recent: Vec<f64> = values
            .iter()
            .take(*origin)
            .rev()
            .take(MEDIAN_STEPS)
            .copied()
            .collect();
        recent.sort_by(f64::total_cmp);
        let median = recent.get(recent.len() / 2).copied().unwrap_or(0.0);
        let error = |step: usize| {
            let known = history.observed.get(origin + step) == Some(&true);
            let value = values.get(origin + step).filter(|_| known);
            value.map_or(f64::NAN, |value| value - median)
        };
        (0..origins.horizon).map(error).collect()
    };
    origins.at.iter().map(of_origin).collect()
}

/// The sum of absolute errors relative to the sum of what was measured. A series of zeros that was
/// forecast as such has no error.
fn relative_error(history: &History, tested: &Tested) -> f64 {
    let (mut wrong, mut measured) = (0.0, 0.0);
    for (origin, errors) in tested.at.iter().zip(&tested.errors) {
        let values = history.series.values.iter().skip(*origin);
        for (error, value) in errors
            .iter()
            .zip(values)
            .filter(|(error, _)| !error.is_nan())
        {
            wrong += error.abs();
            measured += value.abs();
        }
    }
    if wrong <= skill::NEGLIGIBLE {
        0.0
    } else if measured > 0.0 {
        wrong / measured
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use crate::forecast::{Forecast, Model, Options, Season, forecast};
    use crate::series::Series;

    fn forecast_of(values: Vec<f64>) -> Forecast {
        let series = Series {
            start: 0,
            step: 1_000_000,
            values,
        };
        let options = Options {
            horizon: 24,
            season: Season::Steps(24),
            model: Model::Auto,
        };
        forecast(&series, &options).expect("a forecast")
    }

    #[test]
    fn a_load_that_repeats_perfectly_has_no_skill_but_full_confidence() {
        let wave = |n: u32| 100.0 + 80.0 * (f64::from(n) * std::f64::consts::TAU / 24.0).sin();
        let made = forecast_of((0..240).map(wave).collect());
        assert!(made.skill.abs() < 0.05, "skill {}", made.skill);
        assert!(made.confidence > 0.95, "confidence {}", made.confidence);
    }

    #[test]
    fn a_constant_load_has_full_confidence() {
        assert!(forecast_of(vec![42.0; 240]).confidence > 0.95);
    }

    #[test]
    fn bursts_that_come_at_random_have_little_confidence() {
        let mut state = 7_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % 20
        };
        let bursts = (0..240)
            .map(|_| if next() == 0 { 1_000.0 } else { 1.0 })
            .collect();
        let made = forecast_of(bursts);
        assert!(made.confidence < 0.2, "confidence {}", made.confidence);
    }

    #[test]
    fn a_history_of_a_few_points_has_no_confidence() {
        assert!(forecast_of(vec![1.0, 2.0, 3.0]).confidence < 0.01);
    }
}
