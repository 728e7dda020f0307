//! Choosing: the model set by hand, or the ensemble of those that do well on the series' own past.

use super::{
    ForecastError, Forecaster, Model, Options,
    analog::Analog,
    combine::{self, Member, combine},
    confidence::confidence,
    ets::Ets,
    log_linear::LogLinear,
    mstl::Mstl,
    prepare::History,
    profile::Profile,
    prophet::Prophet,
    quantiles::{Errors, mean_pinball},
    seasonal_naive::{SeasonalNaive, best_season},
    skill::{self, Origins},
    spar::Spar,
    spread::Tested,
};

/// The recent steps whose mean is the level of a series.
const LEVEL_STEPS: usize = 24;

/// The share of the weight above which an ensemble is named after one member.
const DOMINANT: f64 = 0.95;

/// The name of a combination of several models.
pub const ENSEMBLE: &str = "ensemble";

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

/// What candidates are judged on.
struct Trial<'a> {
    history: &'a History,
    origins: Origins,
    weights: Vec<f64>,
    horizon: usize,
}

/// Chooses a model for the history, or tries the one that was set by hand and then simpler ones.
pub(super) fn choose(history: &History, options: &Options) -> Result<Choice, ForecastError> {
    let origins = skill::origins(history.series.len(), options.horizon, &history.seasons);
    let origins = origins.unwrap_or(Origins {
        at: Vec::new(),
        horizon: 0,
    });
    let trial = Trial {
        history,
        weights: origins.weights(),
        origins,
        horizon: options.horizon,
    };
    let all = &history.seasons;
    let naive = trial.member(&SeasonalNaive::default(), all)?;
    let naive_loss = mean_pinball(&trial.tested(naive.backtest.errors.clone()));
    let spar = Spar {
        horizon: options.horizon,
    };
    let single = match options.model {
        Model::SeasonalNaive => Some(naive.clone()),
        Model::Ets => trial.member(&Ets, all).ok(),
        Model::Mstl => trial
            .member(&Mstl, all)
            .or_else(|_| trial.member(&Ets, all))
            .ok(),
        Model::Spar => trial.member(&spar, all).ok(),
        Model::LogLinear => trial.member(&LogLinear, all).ok(),
        Model::Prophet => trial.member(&Prophet::default(), all).ok(),
        #[cfg(feature = "lstm")]
        Model::Lstm => trial.member(&super::lstm::Lstm, all).ok(),
        #[cfg(not(feature = "lstm"))]
        Model::Lstm => None,
        // Without a backtest nothing speaks for a richer model.
        Model::Auto if trial.origins.at.is_empty() => Some(naive.clone()),
        Model::Auto => return Ok(trial.ensemble(naive, naive_loss)),
    };
    let single = single.unwrap_or(naive);
    let errors = single.backtest.errors.clone();
    Ok(trial.choice(single.name, single.points, errors, naive_loss))
}

impl Trial<'_> {
    /// Fits a model to the whole history and to its past.
    fn member(&self, model: &dyn Forecaster, seasons: &[usize]) -> Result<Member, ForecastError> {
        let (fitted, backtest) = skill::tested(model, self.history, seasons, &self.origins)?;
        Ok(Member {
            name: model.name(),
            points: fitted.predict(self.horizon)?,
            backtest,
        })
    }

    /// Combines all models that suit the series.
    fn ensemble(&self, naive: Member, naive_loss: f64) -> Choice {
        let seasons = &self.history.seasons;
        let repeated = best_season(&self.history.series.values, seasons);
        let mut members = vec![naive];
        let mut add = |model: &dyn Forecaster, seasons: &[usize]| {
            members.extend(self.member(model, seasons).ok());
        };
        let spar = Spar {
            horizon: self.horizon,
        };
        for season in seasons.iter().filter(|season| Some(**season) != repeated) {
            add(
                &SeasonalNaive {
                    season: Some(*season),
                },
                seasons,
            );
        }
        if seasons.is_empty() {
            add(&Ets, seasons);
        }
        let profile = Profile {
            horizon: self.horizon,
        };
        // With and without the week: where it is not worth its coefficients.
        for upto in 1..=seasons.len().max(1) {
            let seasons = seasons.get(..upto).unwrap_or_default();
            add(&spar, seasons);
            add(&profile, seasons);
            add(&LogLinear, seasons);
            add(&Mstl, seasons);
            add(&Analog, seasons);
        }
        if let Some(day) = self.history.day {
            let seasons = [day];
            add(&spar, &seasons);
            add(&profile, &seasons);
            add(&LogLinear, &seasons);
            add(&Mstl, &seasons);
            add(&Analog, &seasons);
        }
        let combined = combine(&members, &self.weights);
        let dominant = combined.shares.iter().position(|share| *share >= DOMINANT);
        let name = dominant
            .and_then(|index| members.get(index))
            .map_or(ENSEMBLE, |member| member.name);
        self.choice(name, combined.points, combined.errors, naive_loss)
    }

    fn tested(&self, errors: Vec<Vec<f64>>) -> Tested {
        let season = self.history.seasons.first().copied().unwrap_or(0);
        combine::tested(
            errors,
            &self.origins.at,
            &self.history.series.values,
            &self.weights,
            season,
        )
    }

    fn choice(
        &self,
        model: &'static str,
        points: Vec<f64>,
        errors: Vec<Vec<f64>>,
        naive_loss: f64,
    ) -> Choice {
        let tested = self.tested(errors);
        let loss = mean_pinball(&tested);
        Choice {
            model,
            points,
            skill: skill::skill(loss, naive_loss),
            confidence: confidence(self.history, &self.origins, &tested, loss),
            errors: errors_of(tested, self.history),
        }
    }
}

/// What quantiles are calibrated on: the backtest, or without one how the series varied so far.
fn errors_of(tested: Tested, history: &History) -> Errors {
    let values = &history.series.values;
    let season = history.seasons.first().copied().unwrap_or(1);
    let lag = if values.len() > season { season } else { 1 };
    let recent = values.len().clamp(1, LEVEL_STEPS);
    Errors {
        tested,
        one_step: values
            .iter()
            .skip(lag)
            .zip(values)
            .map(|(now, then)| now - then)
            .collect(),
        level: values.iter().rev().take(recent).sum::<f64>() / recent as f64,
    }
}
