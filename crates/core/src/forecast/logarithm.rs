//! The scale on which load is regressed: logarithms, because load varies in proportion to its level, and because
//! what a regression of them forecasts is close to a median where the load comes in bursts.

use super::ForecastError;

/// What is added before taking logarithms, as a part of the mean: zeros have none.
const OFFSET: f64 = 0.1;

/// A forecast may exceed everything in the history by this part of its range: iterating must not run away.
const HEADROOM: f64 = 0.5;

/// Logarithms around 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Logarithm {
    offset: f64,
    mean: f64,
    /// What a forecast may be, on this scale.
    range: (f64, f64),
}

impl Logarithm {
    /// The scale of these values, and the values on it.
    ///
    /// # Errors
    /// [`ForecastError::DoesNotFit`] in the name of a model if all are zero.
    pub(super) fn of(
        values: &[f64],
        model: &'static str,
    ) -> Result<(Self, Vec<f64>), ForecastError> {
        let count = values.len() as f64;
        let offset = OFFSET * values.iter().map(|v| v / count).sum::<f64>();
        if offset.is_nan() || offset <= 0.0 {
            return Err(ForecastError::does_not_fit(model, "all values are zero"));
        }
        let plain = Self {
            offset,
            mean: 0.0,
            range: (f64::NEG_INFINITY, f64::INFINITY),
        };
        let mut logs = plain.to(values);
        let mean = logs.iter().map(|v| v / count).sum::<f64>();
        logs.iter_mut().for_each(|v| *v -= mean);
        Ok((Self { mean, ..plain }.having_seen(&logs), logs))
    }

    /// The same scale for a forecast that has seen no more than these logarithms.
    pub(super) fn having_seen(self, logs: &[f64]) -> Self {
        let least = logs.iter().copied().fold(f64::INFINITY, f64::min);
        let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let room = HEADROOM * (most - least);
        Self {
            range: (least - room, most + room),
            ..self
        }
    }

    /// The values on this scale.
    pub(super) fn to(self, values: &[f64]) -> Vec<f64> {
        let log = |v: &f64| (v.max(0.0) + self.offset).ln() - self.mean;
        values.iter().map(log).collect()
    }

    /// What was forecast on this scale, as far as it may be.
    pub(super) fn limited(self, value: f64) -> f64 {
        value.clamp(self.range.0, self.range.1)
    }

    /// A curve on this scale as load.
    pub(super) fn back(self, curve: impl IntoIterator<Item = f64>) -> Vec<f64> {
        let load = |v: f64| (v + self.mean).exp() - self.offset;
        curve.into_iter().map(load).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_forecasts_stay_near_what_was() {
        let values = [0.0, 3.0, 9.0, 1.0];
        let (scale, logs) = Logarithm::of(&values, "test").unwrap();
        assert!(logs.iter().sum::<f64>().abs() < 1e-12);
        for (value, back) in values.iter().zip(scale.back(logs)) {
            assert!((value - back).abs() < 1e-12);
        }
        assert!(scale.back([scale.limited(1e9)])[0] < 90.0);
        assert!(Logarithm::of(&[0.0; 5], "test").is_err() && Logarithm::of(&[], "test").is_err());
    }
}
