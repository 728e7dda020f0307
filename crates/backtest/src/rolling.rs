//! The rolling origin.

use repart_core::forecast::{self, Model, Options, Season};
use repart_core::series::Series;

use crate::{
    arguments::Arguments,
    clock::Clock,
    score::Score,
    trace::{DAY, SECOND, Trace},
};

/// The golden ratio − 1: multiples of it modulo 1 are spread evenly, so that origins meet all times of day.
const GOLDEN: f64 = 0.618_033_988_749_895;

/// What is forecast of a trace.
#[derive(Debug, Clone)]
pub struct Task {
    /// The horizons, in steps, ascending.
    pub horizons: Vec<usize>,
    /// Their names.
    pub names: Vec<String>,
    /// The season of the seasonal naive forecast to compare with, in steps.
    pub season: usize,
    /// Whether the horizons are 1, 6 and 24 hours.
    pub is_daily: bool,
    /// How many values each forecast sees.
    pub origins: Vec<usize>,
}

/// How one model did. The first is seasonal naive over the day, or else the week.
pub type Scores = Vec<(String, Score)>;

impl Task {
    /// Hours for a trace whose day has steps, else steps. `None` if it is too short.
    pub fn of(trace: &Trace, arguments: &Arguments) -> Option<Self> {
        let day = trace.steps(DAY).filter(|day| *day > 1);
        let hours = |hours: i64| trace.steps(hours * 3_600 * SECOND);
        let hourly = [1, 6, 24]
            .into_iter()
            .filter_map(|h| Some((hours(h)?, format!("{h} h"))));
        let by_step = [1, 7, 28].map(|steps| (steps, format!("{steps} steps")));
        let (horizons, names): (Vec<usize>, Vec<String>) = match day {
            Some(_) => hourly.unzip(),
            None => by_step.into_iter().unzip(),
        };
        let longest = horizons.last().copied()?;
        Some(Self {
            origins: origins(trace.series.len(), longest, arguments)?,
            is_daily: day.is_some() && horizons.len() == 3,
            season: day.unwrap_or(7),
            horizons,
            names,
        })
    }
}

/// The origins in a part of a trace, spread evenly over it and over the times of day.
fn origins(count: usize, horizon: usize, arguments: &Arguments) -> Option<Vec<usize>> {
    let (from, to) = arguments.part.bounds();
    let (from, to) = (count * from / 100, count * to / 100);
    let room = to.checked_sub(horizon)?.checked_sub(from)? as f64;
    let number = arguments.origins;
    let origin = |i: usize| {
        let jitter = (i as f64 * GOLDEN).fract();
        from + ((i as f64 + jitter) / number as f64 * room) as usize
    };
    let mut all: Vec<usize> = (0..number).map(origin).collect();
    all.dedup();
    Some(all)
}

/// Forecasts a trace with every model at every origin.
pub fn evaluate(trace: &Trace, task: &Task, arguments: &Arguments) -> Scores {
    let naive = Season::Steps(task.season);
    let season = arguments.season.map_or(Season::Auto, Season::Steps);
    let mut rows = vec![("naive (day)".to_owned(), Model::SeasonalNaive, naive)];
    if let Some(week) = trace.steps(7 * DAY).filter(|_| task.is_daily) {
        rows.push((
            "naive (week)".to_owned(),
            Model::SeasonalNaive,
            Season::Steps(week),
        ));
    }
    let models = arguments.models.iter();
    rows.extend(models.map(|model| (model.to_string(), *model, season)));
    rows.into_iter()
        .map(|(name, model, season)| (name, score(trace, task, model, season)))
        .collect()
}

fn score(trace: &Trace, task: &Task, model: Model, season: Season) -> Score {
    let horizon = task.horizons.last().copied().unwrap_or(1);
    let options = Options {
        horizon,
        season,
        model,
    };
    let mut score = Score::new(task.horizons.len());
    for origin in &task.origins {
        let past = Series {
            values: trace.series.values.iter().take(*origin).copied().collect(),
            ..trace.series.clone()
        };
        let measured: Vec<f64> = trace
            .series
            .values
            .iter()
            .skip(*origin)
            .take(horizon)
            .copied()
            .collect();
        let clock = Clock::start();
        let Ok(made) = forecast::forecast(&past, &options) else {
            continue;
        };
        score.add(&made, &measured, &task.horizons, clock.millis());
    }
    score
}
