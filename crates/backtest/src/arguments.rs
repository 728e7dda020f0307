//! The command line.

use std::path::PathBuf;

use repart_core::forecast::Model;

use crate::{Error, trace::SECOND};

/// How the program is called.
pub const USAGE: &str = "usage: repart-backtest FOLDER [--part test|validation|FROM-TO] [--origins N] \
[--models a,b,…] [--only TEXT] [--season auto|STEPS] [--least-step SECONDS] [--index-step SECONDS] [--m4 N] [--shards N]
  FOLDER        CSV files: time or index, value. Files m4_hourly_train.csv and m4_hourly_test.csv are M4's split
  --part        which part of each trace to forecast: the last 30 % (test), the 30 % before (validation), or in percent
  --origins     forecasts per trace (60)
  --models      models to evaluate (all)
  --only        only files whose name contains this
  --season      season given by hand, in steps (auto: detected)
  --least-step  finer traces are averaged to this step (900)
  --index-step  what one unit of an index is (3600)
  --m4          evaluate every N-th series of M4 (1)
  --shards      instead, the time to forecast N made-up shards at once";

/// Which part of each trace is forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The 30 % before the last 30 %: for choosing.
    Validation,
    /// The last 30 %: for reporting.
    Test,
    /// From and to, in percent of the trace: for choosing on several parts. Of M4 as validation.
    Percent(usize, usize),
}

impl Part {
    /// Where it begins and ends, in percent of a trace.
    pub fn bounds(self) -> (usize, usize) {
        match self {
            Part::Validation => (40, 70),
            Part::Test => (70, 100),
            Part::Percent(from, to) => (from, to),
        }
    }

    /// A part by its name.
    fn parse(text: &str) -> Option<Self> {
        match text {
            "validation" => Some(Part::Validation),
            "test" => Some(Part::Test),
            _ => {
                let (from, to) = text.split_once('-')?;
                let (from, to) = (from.parse().ok()?, to.parse().ok()?);
                (from < to && to <= 100).then_some(Part::Percent(from, to))
            }
        }
    }
}

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// The folder with the traces.
    pub folder: PathBuf,
    /// Which part of each trace.
    pub part: Part,
    /// Forecasts per trace.
    pub origins: usize,
    /// The models, in this order.
    pub models: Vec<Model>,
    /// Only files whose name contains this.
    pub only: String,
    /// The season, in steps, if it is given.
    pub season: Option<usize>,
    /// The shortest step, µs.
    pub least_step: i64,
    /// The unit of an index without one, µs.
    pub index_step: i64,
    /// Every so-manieth series of M4.
    pub m4: usize,
    /// Shards to forecast at once, instead of traces.
    pub shards: Option<usize>,
}

impl Arguments {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// [`Error::Usage`] with how to call the program.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Error> {
        let mut read = Self {
            folder: PathBuf::new(),
            part: Part::Test,
            origins: 60,
            models: Model::ALL.to_vec(),
            only: String::new(),
            season: None,
            least_step: 900 * SECOND,
            index_step: 3_600 * SECOND,
            m4: 1,
            shards: None,
        };
        while let Some(word) = words.next() {
            match word.strip_prefix("--") {
                Some("help") => return Err(Error::Usage(USAGE.to_owned())),
                None => read.folder = PathBuf::from(word),
                Some(option) => {
                    let value = words.next();
                    let value = value.ok_or_else(|| usage(format!("{word} needs a value")))?;
                    read.set(option, &value)?;
                }
            }
        }
        if read.folder.as_os_str().is_empty() {
            return Err(usage("no folder is given".to_owned()));
        }
        Ok(read)
    }

    fn set(&mut self, option: &str, value: &str) -> Result<(), Error> {
        let number = || {
            let wrong = || usage(format!("--{option} must be a positive number, not {value}"));
            value
                .parse::<usize>()
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(wrong)
        };
        let micros = || number().map(|seconds| seconds as i64 * SECOND);
        match option {
            "part" => {
                let wrong = "--part is test, validation, or like 20-40";
                let part = Part::parse(value).ok_or_else(|| usage(format!("{wrong}, not {value}")));
                self.part = part?;
            }
            "origins" => self.origins = number()?,
            "only" => value.clone_into(&mut self.only),
            "season" if value == "auto" => self.season = None,
            "season" => self.season = Some(number()?),
            "least-step" => self.least_step = micros()?,
            "index-step" => self.index_step = micros()?,
            "m4" => self.m4 = number()?,
            "shards" => self.shards = Some(number()?),
            "models" => {
                let models: Result<_, _> = value.split(',').map(str::parse).collect();
                self.models = models
                    .map_err(|e: repart_core::forecast::ForecastError| usage(e.to_string()))?;
            }
            _ => return Err(usage(format!("unknown option --{option}"))),
        }
        Ok(())
    }
}

fn usage(reason: String) -> Error {
    Error::Usage(format!("{reason}\n{USAGE}"))
}
