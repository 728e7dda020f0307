//! Choosing the model: by the rolling backtest, the simpler one in case of doubt.

use super::{
    ForecastError, Forecaster, Model, Options,
    confidence::confidence,
    ets::Ets,
    mstl::Mstl,
    prepare::History,
    quantiles::Errors,
    seasonal_naive::SeasonalNaive,
    skill::{self, Backtest, NEGLIGIBLE, Origins},
};

/// The part of its loss by which a model must beat a simpler one: less is luck of the few origins.
const MARGIN: f64 = 0.01;

/// The recent steps whose mean is the level of a series.
const LEVEL_STEPS: usize = 24;

/// The model chosen, and its forecast in the unit of the history.
pub(super) struct Choice {
    /// The name of the model.
    pub model: &'static str,
    /// The point forecast.
    pub points: Vec<f64>,
    /// What its quantiles are to be calibrated on.
    pub errors: Errors,
    /// Its skill.
    pub skill: f64,
    /// How far it can be acted upon; see [`confidence`].
    pub confidence: f64,
}

/// One model with its future and its past.
struct Candidate {
    model: &'static str,
    points: Vec<f64>,
    backtest: Backtest,
    loss: f64,
}

/// Chooses a model for the history, or tries the one that was set by hand and then simpler ones.
///
/// Deterministic: models are tried from the simplest to the richest, and a later one must be better by
/// [`MARGIN`].
pub(super) fn choose(history: &History, options: &Options) -> Result<Choice, ForecastError> {
    let origins = skill::origins(history.series.len(), options.horizon, &history.seasons)
        .unwrap_or(Origins {
            at: Vec::new(),
            horizon: 0,
        });
    let evaluate = |model: &dyn Forecaster| candidate(model, history, &origins, options.horizon);
    let naive = evaluate(&SeasonalNaive)?;
    let naive_loss = naive.loss;
    // Without a backtest nothing speaks for a richer model.
    let may_compete = !origins.at.is_empty();
    let chosen = match options.model {
        Model::SeasonalNaive => naive,
        Model::Ets => evaluate(&Ets).unwrap_or(naive),
        Model::Mstl => evaluate(&Mstl).or_else(|_| evaluate(&Ets)).unwrap_or(naive),
        Model::Auto if !may_compete => naive,
        Model::Auto => [&Ets as &dyn Forecaster, &Mstl]
            .into_iter()
            .filter_map(|model| evaluate(model).ok())
            .fold(naive, better),
    };
    Ok(Choice {
        model: chosen.model,
        points: chosen.points,
        skill: skill::skill(chosen.loss, naive_loss),
        confidence: confidence(history, &origins, &chosen.backtest, chosen.loss),
        errors: errors_of(chosen.backtest, history),
    })
}

/// The later candidate if it is better by the margin, else the earlier.
fn better(best: Candidate, other: Candidate) -> Candidate {
    if other.loss < best.loss * (1.0 - MARGIN) - NEGLIGIBLE {
        other
    } else {
        best
    }
}

/// Fits a model to the whole history and to its past.
fn candidate(
    model: &dyn Forecaster,
    history: &History,
    origins: &Origins,
    horizon: usize,
) -> Result<Candidate, ForecastError> {
    let points = model
        .fit(&history.series, &history.seasons)?
        .predict(horizon)?;
    let backtest = skill::backtest(model, history, origins)?;
    Ok(Candidate {
        model: model.name(),
        points,
        loss: skill::mean_pinball(&backtest),
        backtest,
    })
}

/// What quantiles are calibrated on: the backtest, or without one how the series varied so far.
fn errors_of(backtest: Backtest, history: &History) -> Errors {
    let values = &history.series.values;
    let season = history.seasons.first().copied().unwrap_or(1);
    let lag = if values.len() > season { season } else { 1 };
    let recent = values.len().clamp(1, LEVEL_STEPS);
    Errors {
        by_origin: backtest.errors,
        one_step: values
            .iter()
            .skip(lag)
            .zip(values)
            .map(|(now, then)| now - then)
            .collect(),
        level: values.iter().rev().take(recent).sum::<f64>() / recent as f64,
    }
}
