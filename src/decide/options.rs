//! What a forecast is asked to be: horizon, season, model and step, from settings and arguments.

use pgrx::datum::Interval;
use pgrx::pg_sys;
use repart_core::forecast::events::Event;
use repart_core::forecast::{self, MAX_HORIZON, Model};
use repart_core::series::{Sample, natural_step};

use crate::catalog::{events, forecasts};
use crate::error::{Error, Result};
use crate::pg::time::{self, SECOND};
use crate::settings;

/// A longer history is averaged over longer steps. Five weeks become steps of half an hour: fine enough
/// for any ramp of a day, and a fit takes milliseconds.
const MAX_POINTS: usize = 2_000;

/// A finer history needs no finer plan: the planner has as many slots.
const PLANNED_STEPS: usize = 2_000;

const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Steps that divide the next unit of time, and so every season that people have.
const ROUND_STEPS: [i64; 30] = [
    SECOND / 10,
    SECOND / 5,
    SECOND / 2,
    SECOND,
    2 * SECOND,
    3 * SECOND,
    5 * SECOND,
    6 * SECOND,
    10 * SECOND,
    15 * SECOND,
    20 * SECOND,
    30 * SECOND,
    MINUTE,
    2 * MINUTE,
    3 * MINUTE,
    4 * MINUTE,
    5 * MINUTE,
    6 * MINUTE,
    10 * MINUTE,
    15 * MINUTE,
    20 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    3 * HOUR,
    4 * HOUR,
    6 * HOUR,
    8 * HOUR,
    12 * HOUR,
    DAY,
];

/// Where the season comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Season {
    /// Found in the data.
    Detected,
    /// There is none.
    None,
    /// Given, µs.
    Given(i64),
}

/// How far ahead to forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Horizon {
    /// By the setting, µs; cut where that would be too many steps.
    Setting(i64),
    /// As asked for, µs; an error where that would be too many steps.
    Asked(i64),
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How far ahead.
    pub horizon: Horizon,
    /// The season.
    pub season: Season,
    /// The model.
    pub model: Model,
    /// What is known to change the load.
    pub events: Vec<Event>,
}

impl Options {
    /// What the settings ask for.
    pub fn from_settings() -> Result<Self> {
        Self::new(None, None)
    }

    /// What arguments ask for, or else the settings.
    pub fn new(horizon: Option<&Interval>, model: Option<&str>) -> Result<Self> {
        let horizon = match horizon.map(time::span_from_sql) {
            None => Horizon::Setting(time::span(settings::horizon())),
            Some(span) if span > 0 => Horizon::Asked(span),
            Some(_) => return Err(invalid_horizon("horizon must be positive".to_owned())),
        };
        let model = match model {
            Some(name) => parse_model("model", name)?,
            None => parse_model("repart.model", &settings::model())?,
        };
        Ok(Self {
            horizon,
            season: parse_season(&settings::season())?,
            model,
            events: Vec::new(),
        })
    }

    /// The same with the model that was chosen for a table, if one was, and its events.
    pub fn with_model_of(&self, table: pg_sys::Oid) -> Result<Self> {
        let model = match forecasts::model_of(table)? {
            Some(name) => parse_model("model", &name)?,
            None => self.model,
        };
        Ok(Self {
            model,
            ..self.with_events_of(table)?
        })
    }

    /// The same with the events that concern a table.
    pub fn with_events_of(&self, table: pg_sys::Oid) -> Result<Self> {
        Ok(Self {
            events: events::of(table)?,
            ..self.clone()
        })
    }

    /// What the core is asked for, with `ahead` more µs than the horizon.
    pub fn for_step(&self, step: i64, ahead: i64) -> Result<forecast::Options> {
        let steps = |span: i64| {
            usize::try_from((span.saturating_add(ahead.max(0)) - 1) / step + 1).unwrap_or(0)
        };
        let horizon = match self.horizon {
            Horizon::Setting(span) => steps(span).clamp(1, PLANNED_STEPS),
            Horizon::Asked(span) => steps(span),
        };
        if horizon > MAX_HORIZON {
            let most = span_text(step.saturating_mul(MAX_HORIZON as i64));
            let what = format!(
                "horizon is {horizon} steps of {}, more than {MAX_HORIZON}",
                span_text(step)
            );
            return Err(Error::InvalidParameter {
                what,
                hint: format!("Give a horizon of at most {most}."),
            });
        }
        let season = match self.season {
            Season::Detected => forecast::Season::Auto,
            Season::None => forecast::Season::Steps(1),
            Season::Given(span) => forecast::Season::Steps(
                usize::try_from((span + step / 2) / step)
                    .unwrap_or(1)
                    .max(1),
            ),
        };
        Ok(forecast::Options {
            horizon,
            season,
            model: self.model,
        })
    }

    /// The step that suits the samples: their own, or where there are too many a longer one that divides
    /// the season. `None` for fewer than two samples.
    pub fn step(&self, samples: &[Sample]) -> Option<i64> {
        let own = natural_step(samples, usize::MAX)?;
        let needed = natural_step(samples, MAX_POINTS)?;
        if needed <= own {
            return Some(own.max(1));
        }
        match self.season {
            Season::Given(span) if span >= needed.saturating_mul(2) => Some(span / (span / needed)),
            _ => Some(
                ROUND_STEPS
                    .into_iter()
                    .find(|round| *round >= needed)
                    .unwrap_or(needed),
            ),
        }
    }
}

fn span_text(micros: i64) -> String {
    format!("{} s", micros as f64 / SECOND as f64)
}

fn invalid_horizon(what: String) -> Error {
    Error::InvalidParameter {
        what,
        hint: "Give an interval such as '1 day'.".to_owned(),
    }
}

/// The model of a name, as a parameter gives it.
pub fn parse_model(parameter: &str, name: &str) -> Result<Model> {
    name.trim().parse().map_err(|_| Error::InvalidParameter {
        what: format!("invalid value for parameter \"{parameter}\": \"{name}\""),
        hint: format!(
            "Available models: {}.",
            Model::ALL.map(Model::name).join(", ")
        ),
    })
}

fn parse_season(text: &str) -> Result<Season> {
    match text {
        "auto" | "" => Ok(Season::Detected),
        "none" => Ok(Season::None),
        span => match time::parse_span(span) {
            Some(span) if span > 0 => Ok(Season::Given(span)),
            _ => Err(Error::InvalidParameter {
                what: format!("invalid value for parameter \"repart.season\": \"{span}\""),
                hint: "Set it to auto, none, or a positive interval such as '1 day'.".to_owned(),
            }),
        },
    }
}
