//! The two days as they are played and shown: one that repart only watches, one on which it acts.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Result;
use crate::clients::Clients;
use crate::migrations::{Watch, show_step};
use crate::observed::{Expected, Observed, Shard, is_hot, percent};
use crate::pages::shard_name;
use crate::text::{bar, headline, labelled, number};
use crate::trace::{DAY, HOT, HOUR, Trace, clock};

/// A line is printed for as many hours.
pub const LINE: i64 = 2;

/// How often repart's views are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What one line showed.
pub struct Line {
    /// q50 and q90 that were forecast for the hot range.
    pub forecast: Option<(f64, f64)>,
    /// What came; nothing where a shard was too new to be sampled.
    pub hot: Option<f64>,
    /// The load of the hottest shard.
    pub hottest: f64,
}

/// Plays the days.
pub struct Days<'a> {
    /// What repart says.
    pub observed: &'a mut Observed,
    /// The clients at work.
    pub clients: &'a Clients,
    /// The load they make.
    pub trace: &'a Trace,
    /// When the first day begins.
    pub begin: Instant,
    forecast: Vec<Expected>,
    columns: Vec<String>,
    /// The lines shown so far.
    pub lines: Vec<Line>,
    /// The migrations shown so far.
    pub watch: Watch,
    /// The shards before repart acts.
    pub before: Vec<Shard>,
}

impl<'a> Days<'a> {
    /// The days begin at `begin`.
    pub fn new(
        observed: &'a mut Observed,
        clients: &'a Clients,
        trace: &'a Trace,
        begin: Instant,
    ) -> Self {
        Self {
            observed,
            clients,
            trace,
            begin,
            forecast: Vec::new(),
            columns: Vec::new(),
            lines: Vec::new(),
            watch: Watch::new(begin),
            before: Vec::new(),
        }
    }

    /// The first day: repart advises, nobody listens.
    pub fn watch_a_day(&mut self) -> Result<()> {
        headline("first day: repart watches and forecasts (repart.mode = 'advise')");
        self.observed.set("repart.mode", "advise")?;
        self.note_forecast()?;
        let advice = self.await_within(LINE * HOUR, |days| days.observed.step(None))?;
        match advice {
            Some(step) => show_step("its advice, which nobody follows today", &step),
            None => labelled("no advice", &self.observed.latest_why()?),
        }
        self.play_day(0)
    }

    /// The second day: repart acts by itself.
    pub fn act_for_a_day(&mut self) -> Result<()> {
        headline("second day: repart acts by itself (repart.mode = 'auto')");
        self.before = self.observed.shards()?;
        self.note_forecast()?;
        self.observed.set("repart.mode", "auto")?;
        self.columns.clear();
        self.play_day(1)
    }

    /// Remembers what is forecast for the hot range now.
    fn note_forecast(&mut self) -> Result<()> {
        let made = self.await_within(LINE * HOUR, |days| {
            let (model, steps) = days.observed.forecast(&shard_name(HOT))?;
            Ok((!steps.is_empty()).then_some((model, steps)))
        })?;
        if let Some((model, steps)) = made {
            let at = clock(self.elapsed());
            println!(
                "{at}  the load of every shard is forecast for the next day; model for {}: {model}",
                shard_name(HOT)
            );
            self.forecast = steps;
        }
        Ok(())
    }

    fn await_within<T>(
        &mut self,
        span: i64,
        mut ask: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let deadline = Instant::now() + Duration::from_micros(span.unsigned_abs());
        while Instant::now() < deadline {
            if let Some(answer) = ask(self)? {
                return Ok(Some(answer));
            }
            sleep(LOOK);
        }
        Ok(None)
    }

    /// µs since the beginning.
    fn elapsed(&self) -> i64 {
        self.begin.elapsed().as_micros() as i64
    }

    /// Shows a line for every two hours, each an hour later, when it has been sampled.
    fn play_day(&mut self, day: usize) -> Result<()> {
        let first = (day * DAY) as i64;
        for hour in (first..first + DAY as i64).step_by(LINE as usize) {
            while self.elapsed() < (hour + LINE + 1) * HOUR {
                self.watch.look(self.observed, &self.clients.shared)?;
                sleep(LOOK);
            }
            self.show_line(hour)?;
        }
        Ok(())
    }

    fn show_line(&mut self, hour: i64) -> Result<()> {
        let (from, to) = (hour * HOUR, (hour + LINE) * HOUR);
        let shards = self.observed.shards()?;
        let mut cells = String::new();
        let (mut hot, mut hottest) = (Some(0.0), 0.0_f64);
        for shard in &shards {
            let load = self.observed.load(&shard.name, from, to)?;
            let cell = load.map_or_else(|| "new".to_owned(), |load| format!("{load:.0}"));
            cells.push_str(&format!(" {cell:>width$}", width = shard.name.len().max(7)));
            if is_hot(shard) {
                hot = hot.zip(load).map(|(sum, load)| sum + load);
            }
            hottest = hottest.max(load.unwrap_or(0.0));
        }
        let forecast = mean_between(&self.forecast, from, to);
        self.show_columns(&shards);
        println!(
            "{} {cells} |{:>7}{:>6}{:>6} |{:>4.0} % {}",
            clock(from),
            number(forecast.map(|quantiles| quantiles.0)),
            number(forecast.map(|quantiles| quantiles.1)),
            number(hot),
            percent(hottest),
            bar(percent(hottest))
        );
        self.lines.push(Line {
            forecast,
            hot,
            hottest,
        });
        Ok(())
    }

    /// Headings, whenever the shards are others.
    fn show_columns(&mut self, shards: &[Shard]) {
        let names: Vec<String> = shards.iter().map(|shard| shard.name.clone()).collect();
        if names == self.columns {
            return;
        }
        let cells: String = names.iter().map(|name| format!(" {name:>7}")).collect();
        println!(
            "\n{:<9} {:<width$} | hot range, rows/s | hottest shard",
            "2 hours",
            "load of each shard, rows/s",
            width = cells.len()
        );
        println!("from      {cells} | fc q50   q90  came | of its capacity");
        self.columns = names;
    }
}

/// The mean of q50 and of q90 over the steps that end in a span.
fn mean_between(steps: &[Expected], from: i64, to: i64) -> Option<(f64, f64)> {
    let within: Vec<&Expected> = steps
        .iter()
        .filter(|step| step.at > from && step.at <= to)
        .collect();
    let count = within.len() as f64;
    let mean =
        |value: fn(&Expected) -> f64| within.iter().map(|step| value(step)).sum::<f64>() / count;
    (!within.is_empty()).then(|| (mean(|step| step.q50), mean(|step| step.q90)))
}
