//! What came of the two days: forecast, promised and done, side by side.

use std::time::Instant;

use crate::Result;
use crate::days::{Days, LINE};
use crate::observed::{Migration, Shard, Step, percent};
use crate::text::{grouped, headline, paragraph};
use crate::trace::{DAY, HOUR, clock};
use crate::verdict::Verdict;

impl Days<'_> {
    /// Compares what was forecast, promised and done.
    pub fn judge(&mut self, verdict: &mut Verdict) -> Result<()> {
        headline("shards before and after");
        show_shards(&self.before);
        println!("  ->");
        show_shards(&self.observed.shards()?);
        headline("what came of it");
        self.judge_forecast();
        let migrations = self.observed.migrations()?;
        let done = migrations
            .iter()
            .find(|migration| migration.state == "done");
        let step = match done {
            Some(migration) => self.observed.step(Some(migration.id))?,
            None => None,
        };
        self.judge_migration(verdict, done, step.as_ref());
        self.judge_peak(verdict, step.as_ref());
        let clients = &self.clients.shared;
        let all = clients.longest_wait(self.begin, Instant::now());
        let waits = migrations
            .iter()
            .map(|migration| self.watch.longest_wait(migration, clients));
        let during = waits.max().unwrap_or_default();
        paragraph(&format!(
            "longest transaction of a client: {:.0} ms while a migration ran, {:.0} ms in both days",
            during.as_secs_f64() * 1e3,
            all.as_secs_f64() * 1e3
        ));
        headline("checked");
        Ok(())
    }

    fn judge_forecast(&self) {
        let known: Vec<(f64, f64, f64)> = self
            .lines
            .iter()
            .filter_map(|line| {
                line.forecast
                    .zip(line.hot)
                    .map(|((q50, q90), hot)| (q50, q90, hot))
            })
            .collect();
        let count = known.len().max(1) as f64;
        let off = known
            .iter()
            .map(|(q50, _, came)| (came - q50).abs())
            .sum::<f64>()
            / known.iter().map(|k| k.2).sum::<f64>().max(1.0);
        let below = known.iter().filter(|(_, q90, came)| came <= q90).count() as f64 / count;
        paragraph(&format!(
            "forecast of the hot range, made a day ahead: {:.0} % off on average; {:.0} % of what came was below q90",
            100.0 * off,
            100.0 * below
        ));
    }

    fn judge_migration(
        &self,
        verdict: &mut Verdict,
        migration: Option<&Migration>,
        step: Option<&Step>,
    ) {
        let peak = self.trace.peak_hour(DAY as i64..2 * DAY as i64) * HOUR;
        let deadline = step.and_then(|step| step.deadline);
        let finished = migration.and_then(|migration| migration.finished);
        let in_time =
            finished.is_some_and(|at| at < peak && deadline.is_some_and(|deadline| at < deadline));
        let text = match finished {
            Some(at) => format!(
                "migrated before the peak: done {}, limit passed {}, peak {}",
                clock(at),
                deadline.map_or_else(|| "-".to_owned(), clock),
                clock(peak)
            ),
            None => format!(
                "migrated before the peak: no migration was done; the peak was at {}",
                clock(peak)
            ),
        };
        verdict.note(in_time, &text);
    }

    fn judge_peak(&self, verdict: &mut Verdict, step: Option<&Step>) {
        let lines = DAY / LINE as usize;
        let peak = |skip: usize| {
            self.lines
                .iter()
                .skip(skip)
                .take(lines)
                .map(|line| percent(line.hottest))
                .fold(0.0, f64::max)
        };
        let (first, second) = (peak(0), peak(lines));
        let promised = step.map_or_else(String::new, |step| {
            format!(" (promised: at most {:.0} %)", percent(step.load.1))
        });
        let text = format!(
            "hottest shard at its peak: {first:.0} % of its capacity on the first day, {second:.0} % on the second{promised}"
        );
        verdict.note(second < 0.8 * first && second < 100.0, &text);
    }
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
