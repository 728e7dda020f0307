//! Words for what the planner decided. Times are relative: the core has no calendar.

pub(super) mod moves;

use super::candidate::{Candidate, Rejected, Value};
use super::cold::ColdTally;
use super::gate::Accepted;
use super::model::{self, Model};
use super::step::{Action, Reason};
use serde_json::{Value as Json, json};

/// A span of µs: `350 ms`, `40 s`, `12 min`, `5 h 20 min`, `2 d 3 h`.
pub(super) fn span(micros: i64) -> String {
    let seconds = micros.max(0) / 1_000_000;
    let pair = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big} {big_unit}"),
        _ => format!("{big} {big_unit} {small} {small_unit}"),
    };
    match seconds {
        0 => format!("{} ms", micros.max(0) / 1_000),
        1..=59 => format!("{seconds} s"),
        60..=599 => pair(seconds / 60, "min", seconds % 60, "s"),
        600..=3_599 => format!("{} min", seconds / 60),
        3_600..=86_399 => pair(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// `now`, or `in` a span.
pub(super) fn moment(model: &Model, time: i64) -> String {
    match time.saturating_sub(model.snapshot.now) {
        ..=0 => "now".to_owned(),
        ahead => format!("in {}", span(ahead)),
    }
}

/// A share as a percentage; one decimal below 10 %.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 9.95 {
        format!("{percent:.1} %")
    } else {
        format!("{percent:.0} %")
    }
}

/// Bytes with a decimal unit.
pub(super) fn bytes(bytes: f64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.into_iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", bytes / size),
        None => format!("{bytes:.0} bytes"),
    }
}

/// A whole number with a comma at every thousand.
pub(super) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 part`, `2 parts`.
fn count(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

/// A load and its share of the capacity.
fn load(rows: f64, capacity: f64) -> String {
    if capacity.is_finite() {
        format!(
            "{rows:.0} rows/s, {} of its capacity",
            percent(rows / capacity)
        )
    } else {
        format!("{rows:.0} rows/s")
    }
}

/// What gives rise to a step on a shard.
pub(super) fn subject(model: &Model, table: usize, shard: usize, reason: Reason) -> String {
    let Some((of_shard, view)) = model.shard(table, shard) else {
        return String::new();
    };
    let name = &of_shard.name;
    let limit = percent(model.objective.limit);
    match reason {
        Reason::HotNow => format!(
            "{name} serves {} (limit {limit}) now",
            load(view.now, view.capacity)
        ),
        Reason::TooLarge => {
            let most = bytes(model.policy.max_shard_bytes);
            format!("{name} holds {} and may hold {most}", bytes(view.bytes))
        }
        _ => {
            let (slot, peak) = view.peak();
            let when = moment(model, model.grid.start_of(slot));
            format!(
                "{name} is forecast to peak at {} (limit {limit}), {when}",
                load(peak, view.capacity)
            )
        }
    }
}

/// What gives rise to a candidate.
pub(super) fn candidate_subject(model: &Model, candidate: &Candidate) -> String {
    if let Some(to) = &candidate.to {
        return to.subject.clone();
    }
    if candidate.action != Action::Merge {
        return subject(model, candidate.table, candidate.subject, candidate.reason);
    }
    let names = names(model, candidate.table, candidate.sources.clone());
    let (first, last) = (names.first(), names.last());
    let ends = first
        .zip(last)
        .map(|(first, last)| format!("{first} to {last}"))
        .unwrap_or_default();
    let loads = (0..model.grid.len()).map(|slot| {
        let views = candidate
            .sources
            .clone()
            .filter_map(|at| model.shard(candidate.table, at));
        views.map(|(_, view)| model::at(&view.forecast, slot)).sum()
    });
    let peak: f64 = loads.fold(0.0, f64::max);
    let recent: f64 = candidate
        .sources
        .clone()
        .filter_map(|at| model.shard(candidate.table, at))
        .map(|(_, view)| view.recent_peak)
        .sum();
    let capacity = candidate.capacity(model);
    format!(
        "{ends} ({}) were together below {} of one shard's capacity last season and are forecast below {}",
        count(names.len(), "shard"),
        percent(recent / capacity),
        percent(peak / capacity),
    )
}

/// Why a shard that looks hot is left alone for want of a forecast.
pub(super) fn unforecast(model: &Model, table: usize, shard: usize, rule: Reason) -> String {
    let Some((of_shard, view)) = model.shard(table, shard) else {
        return String::new();
    };
    let name = &of_shard.name;
    let now = load(view.now, view.capacity);
    match rule {
        Reason::LowConfidence => {
            let peak = load(model::peak(&view.forecast).1, view.capacity);
            let (confidence, least) = (view.confidence, model.policy.min_confidence);
            format!(
                "{name} is forecast to peak at {peak}, but the confidence of the forecast is {confidence:.2}, below {least:.2}; it serves {now} and is only watched"
            )
        }
        _ => {
            let peak = load(view.recent_peak, view.capacity);
            format!(
                "{name} has peaked at {peak}, but there is no forecast yet; it serves {now} and is only watched"
            )
        }
    }
}

/// A number with about three digits.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// What a value says.
pub(super) fn worth(value: Value) -> String {
    format!(
        "saves {} overload-seconds for {}",
        number(value.benefit.max(0.0)),
        number(value.cost)
    )
}

/// The sentence of a step.
pub(super) fn why(model: &Model, accepted: &Accepted) -> String {
    let (candidate, timing) = (&accepted.candidate, &accepted.timing);
    let after = candidate.load_after(model);
    let capacity = candidate.capacity(model);
    let relative = if capacity.is_finite() {
        percent(after / capacity)
    } else {
        format!("{after:.0} rows/s")
    };
    let parts = candidate.targets.len();
    let edges = candidate.boundaries.join(", ");
    let deed = match (candidate.action, &candidate.to) {
        (_, Some(to)) => to.deed.clone(),
        (Action::Split, None) => {
            format!("a split into {parts} at {edges} leaves at most {relative} per shard")
        }
        (Action::Shift, None) => {
            format!("shifting the boundary to {edges} leaves at most {relative} on both sides")
        }
        _ => format!("a merge leaves one shard with at most {relative}"),
    };
    let duration = span(timing.finish.saturating_sub(timing.start));
    let way = match candidate.to {
        Some(_) => "it copies the shard".to_owned(),
        None => candidate.effort.way(model, candidate.table),
    };
    let effort = format!(
        "{way}: {} to write take {duration}",
        bytes(candidate.effort.bytes)
    );
    let value = accepted.value;
    let gain = match candidate.reason {
        Reason::Drain => worth(value),
        _ => format!("{} ({} times)", worth(value), number(value.ratio())),
    };
    format!(
        "{}; {deed}; {effort}, {}; {gain}{}",
        candidate_subject(model, candidate),
        when(model, accepted),
        company(model, candidate.table)
    )
}

/// Which tables go along with the one that is named.
fn company(model: &Model, table: usize) -> String {
    let tables = model.snapshot.tables.get(table);
    let colocated = tables.map_or(&[][..], |table| &table.colocated);
    let tables = if colocated.len() == 1 {
        "table"
    } else {
        "tables"
    };
    match colocated {
        [] => String::new(),
        names => format!(
            "; loads and sizes include colocated {tables} {}, reshaped alike",
            names.join(", ")
        ),
    }
}

/// When a step starts and whether that is early enough.
fn when(model: &Model, accepted: &Accepted) -> String {
    let (timing, deadline) = (&accepted.timing, accepted.candidate.deadline);
    let start = format!("start {}", moment(model, timing.start));
    match (deadline, timing.start_by) {
        (Some(deadline), _) if deadline <= model.snapshot.now => {
            format!("{start}, ready {}", moment(model, timing.finish))
        }
        (Some(deadline), _) if timing.will_miss => {
            let late = span(timing.finish.saturating_sub(deadline));
            format!("{start}, too late by {late}")
        }
        (Some(deadline), Some(start_by)) => {
            format!(
                "{start} (at the latest {}, for the limit is passed {})",
                moment(model, start_by),
                moment(model, deadline)
            )
        }
        _ => start,
    }
}

/// The sentence of the row that says that there is nothing to do.
pub(super) fn nothing(model: &Model, held_back: &[Rejected], tally: ColdTally) -> String {
    if let Some(first) = held_back.first() {
        let others = match held_back.len() - 1 {
            0 => String::new(),
            more => format!(" ({} held back too)", count(more, "other candidate")),
        };
        return format!("nothing done: {}{others}", first.why);
    }
    let shards: usize = model.views.iter().map(Vec::len).sum();
    let Some((table, shard)) = busiest(model) else {
        return "nothing to do: there are no shards".to_owned();
    };
    let busiest = match model.shard(table, shard) {
        Some((of_shard, view)) if !view.limit.is_finite() => {
            format!(
                "the capacity of a shard is not known; the busiest ({}) serves {:.0} rows/s",
                of_shard.name, view.now
            )
        }
        Some((of_shard, view)) if view.forecast.is_empty() => {
            let limit = percent(model.objective.limit);
            let now = load(view.now, view.capacity);
            format!(
                "the busiest ({}) serves {now} (limit {limit}) and has no forecast yet",
                of_shard.name
            )
        }
        _ => format!(
            "the busiest: {}",
            subject(model, table, shard, Reason::NoAction)
        ),
    };
    format!(
        "nothing to do: {}; {busiest}; {}",
        count(shards, "shard"),
        cold_remark(tally)
    )
}

fn cold_remark(tally: ColdTally) -> String {
    let reasons = [
        (tally.young, "for a history of two seasons"),
        (tally.blocked, "for their migrations and rests to end"),
        (tally.large, "for nothing: together they would be too large"),
    ];
    let waiting: Vec<String> = reasons
        .iter()
        .filter(|(pairs, _)| *pairs > 0)
        .map(|(pairs, what)| format!("{pairs} {what}"))
        .collect();
    if waiting.is_empty() {
        return "no neighbours are cold for two seasons".to_owned();
    }
    format!("cold neighbours wait: {}", waiting.join(", "))
}

/// The shard with the highest share of its capacity (of load, where that is not known).
pub(super) fn busiest(model: &Model) -> Option<(usize, usize)> {
    let all = model.views.iter().enumerate().flat_map(|(table, views)| {
        views.iter().enumerate().map(move |(shard, view)| {
            let known = if view.capacity.is_finite() {
                view.capacity
            } else {
                1.0
            };
            (view.peak().1 / known, table, shard)
        })
    });
    let best = all.reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map(|(_, table, shard)| (table, shard))
}

/// Names of shards.
fn names<'a>(model: &Model<'a>, table: usize, shards: std::ops::Range<usize>) -> Vec<&'a str> {
    shards
        .filter_map(|at| model.shard(table, at))
        .map(|(shard, _)| shard.name.as_str())
        .collect()
}

/// Rejected alternatives for the column of that name.
pub(super) fn alternatives(model: &Model, rejected: &[Rejected]) -> Json {
    rejected
        .iter()
        .take(3)
        .map(|rejected| alternative(model, rejected))
        .collect()
}

fn alternative(model: &Model, rejected: &Rejected) -> Json {
    let mut row = json!({
        "action": rejected.action.as_str(),
        "shards": names(model, rejected.table, rejected.sources.clone()),
        "rule": rejected.rule.as_str(),
        "why": rejected.why,
    });
    if let (Some(row), Some(value)) = (row.as_object_mut(), rejected.value) {
        row.insert("boundaries".to_owned(), json!(rejected.boundaries));
        row.insert("bytes".to_owned(), json!(rejected.bytes));
        row.insert("benefit".to_owned(), json!(value.benefit));
        row.insert("cost".to_owned(), json!(value.cost));
    }
    row
}
