//! What stands between the models of `augurs` and the rest: scaling is done before, checking here.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::ForecastError;

/// Runs a fit or a prediction of a library. A panic in it becomes an error, because one odd series must
/// not end the forecasts of all the others. Inputs that are known to make it panic are refused before.
pub(super) fn guarded<T>(
    model: &'static str,
    run: impl FnOnce() -> Result<T, String>,
) -> Result<T, ForecastError> {
    let outcome = catch_unwind(AssertUnwindSafe(run));
    outcome
        .unwrap_or_else(|_| Err("its implementation failed".to_owned()))
        .map_err(|reason| ForecastError::DoesNotFit { model, reason })
}

/// The values clamped to what a rate can be.
pub(super) fn checked(model: &'static str, values: Vec<f64>) -> Result<Vec<f64>, ForecastError> {
    if values.iter().all(|v| v.is_finite()) {
        Ok(values.into_iter().map(|v| v.max(0.0)).collect())
    } else {
        Err(ForecastError::DoesNotFit {
            model,
            reason: "it gives values that are not finite".to_owned(),
        })
    }
}
