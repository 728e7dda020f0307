//! Quantiles from the errors that a model made in its backtest: split conformal prediction.
//!
//! Vovk, Gammerman and Shafer 2005; per step of the horizon as in Stankeviciute et al. 2021. The
//! offset of quantile q at step h is the ⌈(n + 1) q⌉-th smallest of the n errors around step h, so that
//! the next error lies below it with probability q at least if it is like those before. Where that
//! rank exceeds n, the tail of a normal distribution continues what the errors show.

/// The quantiles of a forecast.
pub const LEVELS: [f64; 3] = [0.5, 0.9, 0.99];

/// The errors that are pooled for one step, if there are as many: enough for a rank at 0.9 that is not
/// just the largest or the second largest.
const POOL: usize = 50;

/// The errors below which a rank means nothing and a normal distribution is assumed instead.
const FEW: usize = 20;

/// Quantiles of the standard normal distribution at 0.9 and 0.99.
const NORMAL_90: f64 = 1.281_551_565_544_6;
const NORMAL_99: f64 = 2.326_347_874_040_841;

/// What is assumed of a series of which nothing is known yet: its standard deviation is half its level.
const PRIOR_SPREAD: f64 = 0.5;

/// The errors that this assumption weighs as much as.
const PRIOR_WEIGHT: f64 = 2.0;

/// What is added to a point forecast to get its upper quantiles: not negative, and ascending. The median
/// is the point forecast itself: the median of ten errors is mostly chance, and adding it made real
/// traces worse; it also lets a model without a season borrow one from its own errors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Offset {
    /// For the 0.9 quantile.
    pub q90: f64,
    /// For the 0.99 quantile.
    pub q99: f64,
}

impl Offset {
    /// The offsets in the order of [`LEVELS`].
    pub fn levels(&self) -> [f64; 3] {
        [0.0, self.q90, self.q99]
    }
}

/// The errors that quantiles are calibrated on.
#[derive(Debug, Clone, PartialEq)]
pub struct Errors {
    /// Per origin and step: measured − forecast; NaN where unknown. Empty if there was no backtest.
    pub by_origin: Vec<Vec<f64>>,
    /// Errors of forecasting one step ahead, used where there was no backtest.
    pub one_step: Vec<f64>,
    /// The recent level of the series, for the assumption made where there are few errors.
    pub level: f64,
}

/// Quantile curves, one value per step of the horizon.
#[derive(Debug, Clone, PartialEq)]
pub struct Bands {
    /// The median.
    pub q50: Vec<f64>,
    /// The 0.9 quantile.
    pub q90: Vec<f64>,
    /// The 0.99 quantile.
    pub q99: Vec<f64>,
}

/// The quantiles around a curve of points: never negative, and ascending at each step.
///
/// Steps beyond those of the backtest get the widths of its last one, growing with √h as those of a
/// random walk do. Without a backtest, or with few errors, widths are those of a normal distribution
/// whose variance is that of the errors mixed with the assumption of [`PRIOR_SPREAD`].
pub fn around(points: &[f64], errors: &Errors) -> Bands {
    let by_origin: Vec<&[f64]> = errors.by_origin.iter().map(Vec::as_slice).collect();
    let mut known = offsets_with(&by_origin, errors.level);
    if known.is_empty() {
        known.push(normal(&errors.one_step, errors.level));
    }
    let last = known
        .last()
        .copied()
        .unwrap_or_else(|| normal(&[], errors.level));
    let reach = known.len().max(1) as f64;
    let offset = |step: usize| {
        known.get(step).copied().unwrap_or_else(|| {
            let growth = ((step + 1) as f64 / reach).sqrt();
            Offset {
                q90: last.q90 * growth,
                q99: last.q99 * growth,
            }
        })
    };
    let curve = |pick: fn(&Offset) -> f64| -> Vec<f64> {
        let steps = points.iter().enumerate();
        steps
            .map(|(step, point)| (point + pick(&offset(step))).max(0.0))
            .collect()
    };
    Bands {
        q50: curve(|_| 0.0),
        q90: curve(|o| o.q90),
        q99: curve(|o| o.q99),
    }
}

/// The offsets at each step, from errors by origin and step (measured − forecast, NaN where unknown),
/// without any assumption on the level.
pub fn offsets(by_origin: &[&[f64]]) -> Vec<Offset> {
    offsets_with(by_origin, 0.0)
}

fn offsets_with(by_origin: &[&[f64]], level: f64) -> Vec<Offset> {
    let horizon = by_origin
        .iter()
        .map(|errors| errors.len())
        .max()
        .unwrap_or(0);
    (0..horizon)
        .map(|step| {
            let mut pooled = pool(by_origin, step, horizon);
            if pooled.len() < FEW {
                normal(&pooled, level)
            } else {
                conformal(&mut pooled)
            }
        })
        .collect()
}

/// The errors at one step of all origins, and of neighbour steps until they are [`POOL`].
fn pool(by_origin: &[&[f64]], step: usize, horizon: usize) -> Vec<f64> {
    let at = |step: usize| by_origin.iter().filter_map(move |errors| errors.get(step));
    let mut pooled: Vec<f64> = at(step).copied().filter(|e| !e.is_nan()).collect();
    for reach in 1..horizon {
        if pooled.len() >= POOL {
            break;
        }
        let before = step.checked_sub(reach).into_iter().flat_map(at);
        let after = at(step + reach);
        pooled.extend(before.chain(after).copied().filter(|e| !e.is_nan()));
    }
    pooled
}

/// Offsets by rank. A model that forecast too high gets no negative offset: it may be right next time.
fn conformal(errors: &mut [f64]) -> Offset {
    errors.sort_by(f64::total_cmp);
    let ranked = |q: f64| {
        let rank = ((errors.len() + 1) as f64 * q).ceil() as usize;
        errors.get(rank.saturating_sub(1)).copied()
    };
    let largest = errors.last().copied().unwrap_or(0.0);
    let q90 = ranked(0.9).unwrap_or(largest).max(0.0);
    let tail = q90 * (NORMAL_99 / NORMAL_90);
    let q99 = ranked(0.99).unwrap_or(largest.max(tail)).max(q90);
    Offset { q90, q99 }
}

/// Offsets of a normal distribution around the point forecast.
fn normal(errors: &[f64], level: f64) -> Offset {
    let count = errors.len() as f64;
    let prior = PRIOR_WEIGHT * (PRIOR_SPREAD * level).powi(2);
    let squares: f64 = errors.iter().map(|e| e * e).sum();
    let deviation = ((squares + prior) / (count + PRIOR_WEIGHT)).sqrt();
    Offset {
        q90: NORMAL_90 * deviation,
        q99: NORMAL_99 * deviation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_of_a_quantile_counts_the_next_error() {
        let mut errors: Vec<f64> = (1..=99).map(f64::from).collect();
        errors.reverse();
        let offset = conformal(&mut errors);
        assert_eq!((offset.q90, offset.q99), (90.0, 99.0));
    }

    #[test]
    fn where_the_rank_exceeds_the_errors_the_tail_goes_beyond_the_largest_known() {
        let mut errors: Vec<f64> = (1..=29).map(f64::from).collect();
        let offset = conformal(&mut errors);
        assert_eq!(offset.q90, 27.0);
        assert!((offset.q99 - 27.0 * NORMAL_99 / NORMAL_90).abs() < 1e-9);
        assert!(offset.q99 > 29.0);
    }

    #[test]
    fn a_model_that_forecast_too_high_gets_no_negative_offset() {
        assert_eq!(conformal(&mut [-5.0; 40]), Offset { q90: 0.0, q99: 0.0 });
    }

    #[test]
    fn neighbour_steps_are_pooled_only_while_errors_are_few() {
        let by_origin: Vec<Vec<f64>> = (0..10).map(|_| (0..30).map(f64::from).collect()).collect();
        let by_origin: Vec<&[f64]> = by_origin.iter().map(Vec::as_slice).collect();
        let pooled = pool(&by_origin, 15, 30);
        assert_eq!(pooled.len(), POOL);
        assert!(pooled.iter().all(|e| (13.0..=17.0).contains(e)));
        let unknown = [f64::NAN; 30];
        assert!(pool(&[&unknown], 15, 30).is_empty());
    }

    #[test]
    fn widths_grow_beyond_the_steps_that_were_tested() {
        let errors = Errors {
            by_origin: vec![vec![-4.0, 4.0, -4.0, 4.0]; 10],
            one_step: Vec::new(),
            level: 0.0,
        };
        let bands = around(&[10.0; 16], &errors);
        assert_eq!(
            (bands.q50[0], bands.q90[0], bands.q90[3]),
            (10.0, 14.0, 14.0)
        );
        assert_eq!(bands.q90[15], 18.0);
    }
}
