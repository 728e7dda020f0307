//! The rolling origin.

use repart_core::forecast::{self, Forecast, Model, Options, Season};
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

    /// The longest horizon.
    fn longest(&self) -> usize {
        self.horizons.last().copied().unwrap_or(1)
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

/// What a model made of a trace.
pub struct Run {
    /// The name of the row.
    pub name: String,
    /// The model.
    pub model: Model,
    /// Per origin its forecast, and how long that took, ms; `None` where there was none.
    pub made: Vec<Option<(Forecast, f64)>>,
}

impl Run {
    /// The point forecast from an origin, by its number.
    pub fn median(&self, origin: usize) -> Option<&[f64]> {
        let (made, _) = self.made.get(origin)?.as_ref()?;
        Some(&made.q50)
    }
}

/// Forecasts a trace with every model at every origin.
pub fn run(trace: &Trace, task: &Task, arguments: &Arguments) -> Vec<Run> {
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
    let run = |(name, model, season)| Run {
        name,
        model,
        made: forecasts(trace, task, model, season),
    };
    rows.into_iter().map(run).collect()
}

/// A model's forecast from each origin.
fn forecasts(
    trace: &Trace,
    task: &Task,
    model: Model,
    season: Season,
) -> Vec<Option<(Forecast, f64)>> {
    let options = Options {
        horizon: task.longest(),
        season,
        model,
    };
    let forecast = |origin: &usize| {
        let past = Series {
            values: trace.steps_from(0, *origin).to_vec(),
            ..trace.series.clone()
        };
        let clock = Clock::start();
        let made = forecast::forecast(&past, &options).ok()?;
        Some((made, clock.millis()))
    };
    task.origins.iter().map(forecast).collect()
}

/// How each model did.
pub fn scores(trace: &Trace, task: &Task, runs: &[Run]) -> Scores {
    let score = |run: &Run| {
        let mut score = Score::new(task.horizons.len());
        for (origin, made) in task.origins.iter().zip(&run.made) {
            if let Some((made, millis)) = made {
                let measured = trace.steps_from(*origin, task.longest());
                score.add(made, measured, &task.horizons, *millis);
            }
        }
        (run.name.clone(), score)
    };
    runs.iter().map(score).collect()
}
