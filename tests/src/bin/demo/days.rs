//! The two days as they are played and shown: one that repart only watches, one on which it acts.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Result;
use crate::clients::Clients;
use crate::observed::{Expected, Migration, Observed, Shard, Step, is_hot, percent};
use crate::text::{bar, grouped, headline, labelled, number, paragraph};
use crate::pages::shard_name;
use crate::trace::{DAY, HOT, HOUR, Trace, clock};
use crate::verdict::Verdict;

/// A line is printed for as many hours.
const LINE: i64 = 2;

/// How often repart's views are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What one line showed.
struct Line {
    hot_forecast: Option<(f64, f64)>,
    hot: f64,
    hottest: f64,
}

/// A migration as it was watched.
struct Watched {
    id: i64,
    shown: String,
    shown_at: Instant,
    began: Instant,
    ended: Option<Instant>,
}

/// Plays the days.
pub struct Days<'a> {
    observed: &'a mut Observed,
    clients: &'a Clients,
    trace: &'a Trace,
    begin: Instant,
    forecast: Vec<Expected>,
    columns: Vec<String>,
    lines: Vec<Line>,
    watched: Vec<Watched>,
    before: Vec<Shard>,
}

impl<'a> Days<'a> {
    /// The days begin at `begin`.
    pub fn new(observed: &'a mut Observed, clients: &'a Clients, trace: &'a Trace, begin: Instant) -> Self {
        Self {
            observed,
            clients,
            trace,
            begin,
            forecast: Vec::new(),
            columns: Vec::new(),
            lines: Vec::new(),
            watched: Vec::new(),
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
            Some(step) => self.show_step("its advice, which nobody follows today", &step),
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
            println!("{at}  the load of every shard is forecast for the next day; model for {}: {model}", shard_name(HOT));
            self.forecast = steps;
        }
        Ok(())
    }

    fn await_within<T>(&mut self, span: i64, mut ask: impl FnMut(&mut Self) -> Result<Option<T>>) -> Result<Option<T>> {
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
                self.watch_migrations()?;
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
        let (mut hot, mut hottest) = (0.0, 0.0_f64);
        for shard in &shards {
            let load = self.observed.load(&shard.name, from, to)?;
            cells.push_str(&format!("{:>width$}", number(load), width = shard.name.len().max(7) + 1));
            hot += load.filter(|_| is_hot(shard)).unwrap_or(0.0);
            hottest = hottest.max(load.unwrap_or(0.0));
        }
        let forecast = mean_between(&self.forecast, from, to);
        self.show_columns(&shards);
        println!(
            "{} {cells} |{:>7}{:>6}{hot:>6.0} |{:>4.0} % {}",
            clock(from),
            number(forecast.map(|quantiles| quantiles.0)),
            number(forecast.map(|quantiles| quantiles.1)),
            percent(hottest),
            bar(percent(hottest))
        );
        self.lines.push(Line { hot_forecast: forecast, hot, hottest });
        Ok(())
    }

    /// Headings, whenever the shards are others.
    fn show_columns(&mut self, shards: &[Shard]) {
        let names: Vec<String> = shards.iter().map(|shard| shard.name.clone()).collect();
        if names == self.columns {
            return;
        }
        let cells: String = names.iter().map(|name| format!(" {name:>7}")).collect();
        println!("\n{:<9} {:<width$} | hot range: rows/s | hottest shard", "2 hours", " rows/s per shard", width = cells.len());
        println!("from      {cells} | fc q50   q90  came | of its capacity");
        self.columns = names;
    }

    /// Says what migrations do, as it happens.
    fn watch_migrations(&mut self) -> Result<()> {
        for migration in self.observed.migrations()? {
            let text = progress(&migration);
            let Some(known) = self.watched.iter_mut().find(|watched| watched.id == migration.id) else {
                self.announce(&migration)?;
                continue;
            };
            if known.shown == text || (text.contains("copying") && known.shown_at.elapsed() < 4 * LOOK) {
                continue;
            }
            if migration.started.is_some() && known.shown.starts_with("queued") {
                known.began = Instant::now() - LOOK;
            }
            (known.shown, known.shown_at) = (text.clone(), Instant::now());
            if migration.finished.is_some() {
                known.ended.get_or_insert(Instant::now());
            }
            println!("{}  migration {}: {text}", clock(self.elapsed()), migration.id);
            if let Some(at) = migration.finished {
                self.show_end(&migration, at);
            }
        }
        Ok(())
    }

    fn announce(&mut self, migration: &Migration) -> Result<()> {
        if let Some(step) = self.observed.step(Some(migration.id))? {
            self.show_step("its plan", &step);
        }
        println!("{}  migration {} is queued: {}", clock(self.elapsed()), migration.id, migration.what);
        let now = Instant::now();
        let shown = "queued".to_owned();
        self.watched.push(Watched { id: migration.id, shown, shown_at: now, began: now, ended: None });
        Ok(())
    }

    fn show_end(&self, migration: &Migration, at: i64) {
        let Some(watched) = self.watched.iter().find(|watched| watched.id == migration.id) else { return };
        let took = migration.started.map_or(0.0, |started| (at - started) as f64 / 1e6);
        let pause = migration.pause.map_or_else(String::new, |pause| format!(", pause at its cutover {pause:.0} ms"));
        let wait = self.longest_wait(watched).as_secs_f64() * 1e3;
        println!(
            "{}  migration {}: took {took:.1} s{pause}, longest transaction of a client meanwhile {wait:.0} ms",
            clock(self.elapsed()),
            migration.id
        );
        if let Some(error) = &migration.error {
            labelled("error", error);
        }
    }

    fn longest_wait(&self, watched: &Watched) -> Duration {
        self.clients.shared.longest_wait(watched.began, watched.ended.unwrap_or_else(Instant::now))
    }

    fn show_step(&self, title: &str, step: &Step) {
        let at = |time: Option<i64>| time.map_or_else(|| "-".to_owned(), clock);
        println!("{}  plan {}, {title}: {}", clock(step.made), step.plan, step.action);
        labelled("why", &step.why);
        let times = format!(
            "starts {}, must start by {}, the load passes the limit at {}",
            clock(step.planned),
            at(step.start_by),
            at(step.deadline)
        );
        labelled("when", &times);
        let load = format!(
            "hottest shard {:.0} -> {:.0} rows/s, that is {:.0} % -> {:.0} % of its capacity",
            step.load.0,
            step.load.1,
            percent(step.load.0),
            percent(step.load.1)
        );
        labelled("promise", &load);
        for alternative in step.alternatives.iter().take(2) {
            labelled("rather than", alternative);
        }
    }

    /// Compares what was forecast, promised and done.
    pub fn judge(&mut self, verdict: &mut Verdict) -> Result<()> {
        headline("shards before and after");
        show_shards(&self.before);
        println!("  ->");
        show_shards(&self.observed.shards()?);
        headline("what came of it");
        self.judge_forecast();
        let migration = self.observed.migrations()?.into_iter().find(|migration| migration.state == "done");
        let step = match &migration {
            Some(migration) => self.observed.step(Some(migration.id))?,
            None => None,
        };
        self.judge_migration(verdict, migration.as_ref(), step.as_ref());
        self.judge_peak(verdict, step.as_ref());
        let all = self.clients.shared.longest_wait(self.begin, Instant::now()).as_secs_f64() * 1e3;
        let during = self.watched.iter().map(|watched| self.longest_wait(watched)).max().unwrap_or_default();
        paragraph(&format!(
            "longest transaction of a client: {:.0} ms while a migration ran, {all:.0} ms in both days",
            during.as_secs_f64() * 1e3
        ));
        headline("checked");
        Ok(())
    }

    fn judge_forecast(&self) {
        let known: Vec<(f64, f64, f64)> =
            self.lines.iter().filter_map(|line| line.hot_forecast.map(|(q50, q90)| (q50, q90, line.hot))).collect();
        let count = known.len().max(1) as f64;
        let off = known.iter().map(|(q50, _, came)| (came - q50).abs()).sum::<f64>() / known.iter().map(|k| k.2).sum::<f64>().max(1.0);
        let below = known.iter().filter(|(_, q90, came)| came <= q90).count() as f64 / count;
        paragraph(&format!(
            "forecast of the hot range, made a day ahead: {:.0} % off on average; {:.0} % of what came was below q90",
            100.0 * off,
            100.0 * below
        ));
    }

    fn judge_migration(&self, verdict: &mut Verdict, migration: Option<&Migration>, step: Option<&Step>) {
        let peak = self.peak_hour() * HOUR;
        let deadline = step.and_then(|step| step.deadline);
        let finished = migration.and_then(|migration| migration.finished);
        let in_time = finished.is_some_and(|at| at < peak && deadline.is_none_or(|deadline| at < deadline));
        let text = match finished {
            Some(at) => format!(
                "migrated before the peak: done {}, limit passed {}, peak {}",
                clock(at),
                deadline.map_or_else(|| "-".to_owned(), clock),
                clock(peak)
            ),
            None => format!("migrated before the peak: no migration was done; the peak was at {}", clock(peak)),
        };
        verdict.note(in_time, &text);
    }

    fn judge_peak(&self, verdict: &mut Verdict, step: Option<&Step>) {
        let lines = DAY / LINE as usize;
        let peak = |skip: usize| self.lines.iter().skip(skip).take(lines).map(|line| percent(line.hottest)).fold(0.0, f64::max);
        let (first, second) = (peak(0), peak(lines));
        let promised = step.map_or_else(String::new, |step| format!(" (promised: at most {:.0} %)", percent(step.load.1)));
        let text = format!(
            "hottest shard at its peak: {first:.0} % of its capacity on the first day, {second:.0} % on the second{promised}"
        );
        verdict.note(second < 0.8 * first && second < 100.0, &text);
    }

    /// The hour of the second day in which the hot range has most to do.
    fn peak_hour(&self) -> i64 {
        let hours = DAY as i64..2 * DAY as i64;
        hours.fold(DAY as i64, |best, hour| {
            if self.trace.rate(hour, HOT) > self.trace.rate(best, HOT) { hour } else { best }
        })
    }
}

fn progress(migration: &Migration) -> String {
    let (done, total) = migration.rows;
    match migration.state.as_str() {
        "copying" => format!("copying, {} of {} rows", grouped(done), grouped(total)),
        state => state.to_owned(),
    }
}

/// The mean of q50 and of q90 over the steps that end in a span.
fn mean_between(steps: &[Expected], from: i64, to: i64) -> Option<(f64, f64)> {
    let within: Vec<&Expected> = steps.iter().filter(|step| step.at > from && step.at <= to).collect();
    let count = within.len() as f64;
    let mean = |value: fn(&Expected) -> f64| within.iter().map(|step| value(step)).sum::<f64>() / count;
    (!within.is_empty()).then(|| (mean(|step| step.q50), mean(|step| step.q90)))
}

fn show_shards(shards: &[Shard]) {
    for shard in shards {
        println!(
            "  {:<10} [{:>9}, {:>9})  {:>8} rows  {:>5.1} MB",
            shard.name,
            grouped(shard.from),
            grouped(shard.to),
            grouped(shard.rows),
            shard.bytes as f64 / 1e6
        );
    }
}
