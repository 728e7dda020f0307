//! The second part: a day on a coordinator with two nodes. The hot range moves to the cooler node before its peak.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use repart_tests::fleet::Fleet;

use crate::clients::{CLIENTS, Clients};
use crate::fleet::{self, NODES, SETTINGS, first_home};
use crate::migrations::Watch;
use crate::observed::{Observed, Shard};
use crate::pages::shard_name;
use crate::text::{bar, grouped, headline, paragraph};
use crate::trace::{DAY, HOUR, NODE_CAPACITY, PAST_DAYS, SECOND, Trace, clock};
use crate::verdict::Verdict;
use crate::{CLEANED_WITHIN, Result, instant_of, next_hour};

/// The hours of the day that are played; repart acts from the third one on.
const FROM: i64 = 4;
const ACTS_FROM: i64 = FROM + 3;
const TO: i64 = 19;

/// A line is printed for as many hours.
const LINE: i64 = 2;

/// How often repart's views are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Plays it; whether everything that is checked at the end holds.
pub fn play() -> Result<bool> {
    introduce();
    let trace = Arc::new(Trace::load(SECOND)?);
    let (fleet, _) = fleet::start(&trace.scene)?;
    // Midnight is in the past.
    let midnight = next_hour() - FROM * HOUR;
    let begin = instant_of(midnight);
    let clients = Clients::start(&fleet.coordinator.config("postgres"), &trace, begin);
    let mut observed = Observed::new(fleet.coordinator.connect("postgres"), midnight)?;
    let first = instant_of(midnight + FROM * HOUR);
    sleep(first.saturating_duration_since(Instant::now()));
    let imported = observed.import(&trace, -((PAST_DAYS * DAY) as i64)..FROM)?;
    println!(
        "imported with repart_import_samples: {} samples, the {PAST_DAYS} days before\n",
        grouped(imported)
    );
    let mut day = Day {
        observed,
        clients: &clients,
        begin,
        oids: BTreeMap::new(),
        watch: Watch::new(begin),
        is_automatic: false,
        has_foreseen: false,
    };
    day.observed.set("repart.max_copy_rate", "3MB")?;
    day.observed.set("repart.mode", "advise")?;
    for hour in (FROM..TO).step_by(LINE as usize) {
        day.pass(hour + LINE + 1)?;
        day.show_line(hour)?;
    }
    let mut verdict = Verdict::default();
    headline("checked");
    let longest = day.check_move(&mut verdict, &trace)?;
    let mut observed = day.observed;
    let statements = clients.shared.statements();
    let findings = clients.stop()?;
    verdict.check_clients(&findings, statements);
    verdict.check_rows(&mut observed, trace.scene.keys(), &findings)?;
    check_servers(&mut verdict, &fleet, &mut observed)?;
    println!(
        "\nlongest transaction of a client while the shard moved: {:.0} ms",
        longest.as_secs_f64() * 1e3
    );
    Ok(verdict.is_clean())
}

fn introduce() {
    headline("repart: a demonstration; second part, two nodes");
    let hot = shard_name(SECOND.hot);
    paragraph(&format!(
        "{CLIENTS} clients read and write a table through a coordinator; its shards are on two nodes. In the afternoon \
         everybody reads {hot}, and node {} will be too small for it together with what else it holds.",
        first_home(SECOND.hot)
    ));
    println!();
    for (name, value, why) in SETTINGS.iter().filter(|(_, _, why)| !why.is_empty()) {
        println!("  {:<40}{why}", format!("{name} = '{value}'"));
    }
    println!(
        "  {:<40}the servers share one machine: its processors say nothing of one node",
        "repart.headroom = '1'"
    );
    println!();
}

/// The day as it is played.
struct Day<'c> {
    observed: Observed,
    clients: &'c Clients,
    begin: Instant,
    /// What each shard has been, by name: where it goes, it is another relation.
    oids: BTreeMap<String, Vec<u32>>,
    watch: Watch,
    is_automatic: bool,
    has_foreseen: bool,
}

impl Day<'_> {
    fn elapsed(&self) -> i64 {
        self.begin.elapsed().as_micros() as i64
    }

    /// Waits for the beginning of an hour, and shows what happens meanwhile.
    fn pass(&mut self, hour: i64) -> Result<()> {
        while self.elapsed() < hour * HOUR {
            if !self.has_foreseen {
                self.has_foreseen = self.show_forecast()?;
            }
            if !self.is_automatic && self.elapsed() >= ACTS_FROM * HOUR {
                self.is_automatic = true;
                self.observed.set("repart.mode", "auto")?;
                println!("{}  repart.mode = 'auto'", clock(self.elapsed()));
            }
            self.note_oids()?;
            self.watch.look(&mut self.observed, &self.clients.shared)?;
            sleep(LOOK);
        }
        Ok(())
    }

    fn note_oids(&mut self) -> Result<()> {
        for (name, oid) in self.observed.oids()? {
            let oids = self.oids.entry(name).or_default();
            if !oids.contains(&oid) {
                oids.push(oid);
            }
        }
        Ok(())
    }

    /// The peak that is forecast, as soon as one is.
    fn show_forecast(&mut self) -> Result<bool> {
        let hot = shard_name(SECOND.hot);
        let (model, steps) = self.observed.forecast(&hot)?;
        let today = steps.iter().filter(|step| step.at <= DAY as i64 * HOUR);
        let Some(peak) = today.max_by(|a, b| a.q50.total_cmp(&b.q50)) else {
            return Ok(false);
        };
        println!(
            "{}  forecast of {hot}: its peak is at {}, with {:.0} rows/s (q50; q90 {:.0}); model {model}",
            clock(self.elapsed()),
            clock(peak.at),
            peak.q50,
            peak.q90
        );
        Ok(true)
    }

    /// What the nodes had to do in two hours, and which shards they have.
    fn show_line(&mut self, hour: i64) -> Result<()> {
        let (from, to) = (hour * HOUR, (hour + LINE) * HOUR);
        let shards = self.observed.shards()?;
        let mut line = format!("{}  ", clock(from));
        for node in NODES {
            let (mut sum, mut names) = (0.0, Vec::new());
            for shard in shards.iter().filter(|shard| shard.node == node) {
                let oids = self.oids.get(&shard.name).map(Vec::as_slice);
                let load = self
                    .observed
                    .load_of(oids.unwrap_or_default(), from, to)?
                    .unwrap_or(0.0);
                sum += load;
                names.push(format!("{} {load:.0}", short(shard)));
            }
            let used = 100.0 * sum / NODE_CAPACITY;
            line.push_str(&format!(
                "{node} {used:>3.0} % {:<11} {:<32}",
                bar(used),
                names.join(", ")
            ));
        }
        println!("{}", line.trim_end());
        Ok(())
    }

    /// Whether the hot shard went to the other node in time; how long the slowest client waited meanwhile.
    fn check_move(&mut self, verdict: &mut Verdict, trace: &Trace) -> Result<Duration> {
        let hot = shard_name(SECOND.hot);
        let peak = trace.peak_hour(FROM..TO) * HOUR;
        let migrations = self.observed.migrations()?;
        let mut text = format!("no shard was moved; the peak was at {}", clock(peak));
        let (mut in_time, mut longest) = (false, Duration::ZERO);
        for migration in migrations.iter().filter(|one| one.state == "done") {
            longest = longest.max(self.watch.longest_wait(migration, &self.clients.shared));
            let step = self.observed.step(Some(migration.id))?;
            let Some((step, finished)) = step.zip(migration.finished) else {
                continue;
            };
            if !migration.what.starts_with(&format!("move of {hot} ")) {
                continue;
            }
            let limit = step.deadline.unwrap_or(i64::MIN);
            in_time = finished < limit && finished < peak;
            text = format!(
                "{hot}'s {} was done {}; limit passed {}, peak {}",
                step.action,
                clock(finished),
                clock(limit),
                clock(peak)
            );
            break;
        }
        verdict.check(in_time, &format!("before the peak: {text}"));
        let home = first_home(SECOND.hot);
        let shards = self.observed.shards()?;
        let now = shards.iter().find(|shard| shard.name == hot);
        let node = now.map_or("nowhere", |shard| shard.node.as_str());
        verdict.check(
            node != home && NODES.contains(&node),
            &format!("{hot} was on node {home} and is on node {node}"),
        );
        let failed: Vec<String> = migrations
            .iter()
            .filter_map(|one| Some(format!("{}: {}", one.id, one.error.as_ref()?)))
            .collect();
        verdict.check(
            failed.is_empty(),
            &format!(
                "migrations that failed: {} {}",
                failed.len(),
                failed.join("; ")
            ),
        );
        Ok(longest)
    }
}

/// The last letter of a shard's name says which one it is.
fn short(shard: &Shard) -> &str {
    shard.name.strip_prefix("pages_").unwrap_or(&shard.name)
}

fn check_servers(verdict: &mut Verdict, fleet: &Fleet, observed: &mut Observed) -> Result<()> {
    let deadline = Instant::now() + CLEANED_WITHIN;
    let left = loop {
        let left = fleet::left_behind(fleet, observed)?;
        if left.iter().all(|(_, count)| *count == 0) || Instant::now() > deadline {
            break left;
        }
        sleep(LOOK);
    };
    let text: Vec<String> = left
        .iter()
        .map(|(server, count)| format!("{server} {count}"))
        .collect();
    verdict.check(
        left.iter().all(|(_, count)| *count == 0),
        &format!("left behind on servers: {}", text.join(", ")),
    );
    let sql = "SELECT count(*) FROM repart.in_doubt";
    let in_doubt: i64 = observed.client().query_one(sql, &[])?.get(0);
    verdict.check(
        in_doubt == 0,
        &format!("transactions between servers in doubt: {in_doubt}"),
    );
    Ok(())
}
