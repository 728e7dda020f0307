//! The posterior density of Prophet's Stan model, with its gradient.
//!
//! Taylor and Letham 2018, *Forecasting at scale*; the model is `prophet.stan`:
//! k, m ~ N(0, 5), δ ~ Laplace(0, τ), σ ~ N(0, 0.5), β ~ N(0, sigmas),
//! y ~ N(trend·(1 + X_m·β) + X_a·β, σ), with trend = k·t + m + Σ δ_s·(t − c_s)₊ for linear growth and m
//! for flat growth. Maximised over k, m, δ, ln σ and β, without the Jacobian of ln σ, as Stan does.

use augurs::prophet::optimizer::{Data, TrendIndicator};

use crate::forecast::linear::dot;

/// Standard deviations of the priors of k and m, and of σ.
const TREND_SCALE: f64 = 5.0;
const NOISE_SCALE: f64 = 0.5;

/// Within this part of τ of zero the Laplace prior is rounded off, because L-BFGS needs a gradient there.
const ROUNDED: f64 = 1e-3;

/// The model without its parameters, by columns.
#[derive(Debug, Clone)]
pub(super) struct Posterior {
    y: Vec<f64>,
    /// What k, m and the δ multiply: the trend is linear in them.
    trend: Vec<Vec<f64>>,
    /// What the β multiply.
    features: Vec<Feature>,
    tau: f64,
}

#[derive(Debug, Clone)]
struct Feature {
    column: Vec<f64>,
    additive: f64,
    multiplicative: f64,
    sigma: f64,
}

impl Posterior {
    /// From the data that Stan would get; `None` for a logistic trend, which is not linear in its
    /// parameters and which a load without a known ceiling does not have.
    pub(super) fn new(data: &Data) -> Option<Self> {
        let trend = match data.trend_indicator {
            TrendIndicator::Linear => {
                let hinge = |change: &f64| data.t.iter().map(|t| (t - change).max(0.0)).collect();
                let ones = vec![1.0; data.t.len()];
                let mut columns = vec![data.t.clone(), ones];
                columns.extend(data.t_change.iter().map(hinge));
                columns
            }
            TrendIndicator::Flat => vec![vec![1.0; data.t.len()]],
            TrendIndicator::Logistic => return None,
        };
        let count = usize::try_from(data.K).ok()?;
        let feature = |index: usize| {
            Some(Feature {
                column: data.X.iter().skip(index).step_by(count).copied().collect(),
                additive: f64::from(*data.s_a.get(index)?),
                multiplicative: f64::from(*data.s_m.get(index)?),
                sigma: f64::from(*data.sigmas.get(index)?),
            })
        };
        Some(Self {
            y: data.y.clone(),
            trend,
            features: (0..count).map(feature).collect::<Option<_>>()?,
            tau: f64::from(data.tau),
        })
    }

    /// The number of parameters: trend, features, ln σ.
    pub(super) fn size(&self) -> usize {
        self.trend.len() + self.features.len() + 1
    }

    /// The columns of the trend: 2 + changepoints for linear growth, 1 for flat growth.
    pub(super) fn trend_size(&self) -> usize {
        self.trend.len()
    }

    /// The trend for these parameters.
    pub(super) fn trend_of(&self, parameters: &[f64]) -> Vec<f64> {
        combination(self.trend.iter().zip(parameters), self.y.len())
    }

    /// The order of the features that does not depend on how they are named: libraries keep them in hash
    /// tables with an order of their own in each process, which would show in the last digits.
    pub(super) fn canonical_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.features.len()).collect();
        let column = |index: &usize| {
            self.features
                .get(*index)
                .map_or(&[][..], |f| f.column.as_slice())
        };
        let compare = |a: &usize, b: &usize| {
            let pairs = column(a).iter().zip(column(b));
            pairs
                .map(|(x, y)| x.total_cmp(y))
                .find(|o| o.is_ne())
                .unwrap_or(std::cmp::Ordering::Equal)
        };
        order.sort_by(compare);
        order
    }

    /// The same model with its features in another order.
    pub(super) fn reordered(&self, order: &[usize]) -> Self {
        Self {
            features: order
                .iter()
                .filter_map(|index| self.features.get(*index).cloned())
                .collect(),
            ..self.clone()
        }
    }

    /// What one unit of each parameter should be for the curvature to be about 1 in all directions, if the
    /// noise is `noise`.
    pub(super) fn scales(&self, noise: f64) -> Vec<f64> {
        let squares = |column: &[f64]| column.iter().map(|x| x * x).sum::<f64>() / (noise * noise);
        let by_trend = self.trend.iter().enumerate().map(|(index, column)| {
            let prior = if index < 2 { TREND_SCALE } else { self.tau };
            1.0 / (squares(column) + 1.0 / (prior * prior)).sqrt()
        });
        let by_feature = self.features.iter().map(|feature| {
            1.0 / (squares(&feature.column) + 1.0 / (feature.sigma * feature.sigma)).sqrt()
        });
        let noise = 1.0 / (2.0 * self.y.len().max(1) as f64).sqrt();
        by_trend.chain(by_feature).chain([noise]).collect()
    }

    /// The negative log density and its gradient.
    pub(super) fn evaluate(&self, parameters: &[f64]) -> (f64, Vec<f64>) {
        let (trend_part, rest) = parameters.split_at(self.trend.len().min(parameters.len()));
        let (betas, log_sigma) = rest.split_at(self.features.len().min(rest.len()));
        let log_sigma = log_sigma.first().copied().unwrap_or(0.0).clamp(-40.0, 40.0);
        let sigma = log_sigma.exp();
        let precision = (-2.0 * log_sigma).exp();
        let count = self.y.len();
        let trend = combination(self.trend.iter().zip(trend_part), count);
        let (additive, multiplicative) = self.seasonal(betas);
        let mut squares = 0.0;
        let mut residuals = Vec::with_capacity(count);
        for (((y, trend), add), times) in self
            .y
            .iter()
            .zip(&trend)
            .zip(&additive)
            .zip(&multiplicative)
        {
            let residual = y - (trend * (1.0 + times) + add);
            squares += residual * residual;
            residuals.push(residual * precision);
        }
        let (prior, mut gradient) = self.priors(trend_part, betas, sigma);
        let density = prior + count as f64 * log_sigma + 0.5 * squares * precision;
        let through_trend: Vec<f64> = residuals
            .iter()
            .zip(&multiplicative)
            .map(|(r, m)| r * (1.0 + m))
            .collect();
        let through_times: Vec<f64> = residuals.iter().zip(&trend).map(|(r, t)| r * t).collect();
        let by_trend = self.trend.iter().map(|column| dot(column, &through_trend));
        let by_feature = self.features.iter().map(|feature| {
            let mut sum = 0.0;
            if feature.additive != 0.0 {
                sum += feature.additive * dot(&feature.column, &residuals);
            }
            if feature.multiplicative != 0.0 {
                sum += feature.multiplicative * dot(&feature.column, &through_times);
            }
            sum
        });
        let by_noise = squares * precision - count as f64;
        let likelihood = by_trend.chain(by_feature).chain([by_noise]);
        gradient
            .iter_mut()
            .zip(likelihood)
            .for_each(|(slot, part)| *slot -= part);
        (density, gradient)
    }

    /// The sums of features that are added, and that multiply the trend.
    fn seasonal(&self, betas: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let mut sums = (vec![0.0; self.y.len()], vec![0.0; self.y.len()]);
        for (feature, beta) in self.features.iter().zip(betas) {
            if feature.additive != 0.0 {
                add(&mut sums.0, &feature.column, feature.additive * beta);
            }
            if feature.multiplicative != 0.0 {
                add(&mut sums.1, &feature.column, feature.multiplicative * beta);
            }
        }
        sums
    }

    /// The part of the priors, and its gradient.
    fn priors(&self, trend: &[f64], betas: &[f64], sigma: f64) -> (f64, Vec<f64>) {
        let mut sum = 0.0;
        let mut gradient = Vec::with_capacity(self.size());
        for (index, value) in trend.iter().enumerate() {
            if index < 2 {
                sum += 0.5 * (value / TREND_SCALE).powi(2);
                gradient.push(value / (TREND_SCALE * TREND_SCALE));
            } else {
                let rounded = ROUNDED * self.tau;
                let size = value.hypot(rounded);
                sum += (size - rounded) / self.tau;
                gradient.push(value / size / self.tau);
            }
        }
        for (feature, beta) in self.features.iter().zip(betas) {
            sum += 0.5 * (beta / feature.sigma).powi(2);
            gradient.push(beta / (feature.sigma * feature.sigma));
        }
        sum += 0.5 * (sigma / NOISE_SCALE).powi(2);
        gradient.push((sigma / NOISE_SCALE).powi(2));
        (sum, gradient)
    }
}

fn combination<'a>(terms: impl Iterator<Item = (&'a Vec<f64>, &'a f64)>, count: usize) -> Vec<f64> {
    let mut sum = vec![0.0; count];
    for (column, factor) in terms {
        add(&mut sum, column, *factor);
    }
    sum
}

fn add(sum: &mut [f64], column: &[f64], factor: f64) {
    sum.iter_mut()
        .zip(column)
        .for_each(|(slot, value)| *slot += factor * value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use augurs::prophet::PositiveFloat;

    fn data(trend: TrendIndicator, multiplicative: bool) -> Data {
        let count = 60;
        let t: Vec<f64> = (0..count)
            .map(|i| f64::from(i) / f64::from(count - 1))
            .collect();
        let wave = |t: &f64| (t * 40.0).sin();
        Data {
            T: count,
            y: t.iter().map(|t| 0.4 + 0.3 * t + 0.1 * wave(t)).collect(),
            cap: vec![0.0; 60],
            S: 2,
            t_change: vec![0.3, 0.6],
            trend_indicator: trend,
            K: 2,
            s_a: vec![1, i32::from(!multiplicative)],
            s_m: vec![0, i32::from(multiplicative)],
            X: t.iter().flat_map(|t| [wave(t), (t * 40.0).cos()]).collect(),
            t,
            sigmas: vec![PositiveFloat::try_new(10.0).unwrap(); 2],
            tau: PositiveFloat::try_new(0.05).unwrap(),
        }
    }

    #[test]
    fn the_gradient_is_that_of_the_density() {
        for trend in [TrendIndicator::Linear, TrendIndicator::Flat] {
            for multiplicative in [false, true] {
                let posterior = Posterior::new(&data(trend, multiplicative)).unwrap();
                let at: Vec<f64> = (0..posterior.size())
                    .map(|i| 0.1 + 0.03 * i as f64)
                    .collect();
                let (_, gradient) = posterior.evaluate(&at);
                for index in 0..at.len() {
                    let shifted = |by: f64| {
                        let mut moved = at.clone();
                        moved[index] += by;
                        posterior.evaluate(&moved).0
                    };
                    let numeric = (shifted(1e-6) - shifted(-1e-6)) / 2e-6;
                    let error = (numeric - gradient[index]).abs() / (1.0 + numeric.abs());
                    assert!(
                        error < 1e-5,
                        "{trend:?} {index}: {numeric} is not {}",
                        gradient[index]
                    );
                }
            }
        }
    }

    #[test]
    fn a_logistic_trend_is_refused() {
        assert!(Posterior::new(&data(TrendIndicator::Logistic, false)).is_none());
    }
}
