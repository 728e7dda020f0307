//! Load that something else has recorded, as JSON: `[{"at": …, "reads": …, "writes": …, "bytes": …}]`.

use std::collections::BTreeMap;

use pgrx::pg_sys;
use serde_json::{Map, Value};

use crate::catalog::samples::NewSample;
use crate::error::{Error, Result};
use crate::pg::time;
use crate::settings;

/// A sample that comes this many times later than usual was preceded by a gap, not by a long span.
const GAP: f64 = 3.0;

/// Reads and checks recorded load. Elements may come in any order; of two with the same time the later
/// one counts. The span that each speaks of is the time since the one before, the usual spacing where
/// that is a gap, or `repart.sample_interval` where there is only one.
pub fn read(shard: pg_sys::Oid, json: &Value) -> Result<Vec<NewSample>> {
    let elements = json
        .as_array()
        .ok_or_else(|| invalid("samples must be a JSON array".to_owned()))?;
    let now = time::now();
    let mut samples = BTreeMap::new();
    for (index, element) in elements.iter().enumerate() {
        let sample = read_one(shard, element, now)
            .map_err(|what| invalid(format!("element {index}: {what}")))?;
        samples.insert(sample.at, sample);
    }
    let mut samples: Vec<NewSample> = samples.into_values().collect();
    set_spans(&mut samples);
    Ok(samples)
}

fn invalid(what: String) -> Error {
    let form = r#"[{"at": "2030-01-01 00:00:00+00", "reads": 10.5, "writes": 0, "bytes": 81920}]"#;
    Error::InvalidParameter {
        what,
        hint: format!("Give rates per second in the form {form}."),
    }
}

/// The message of an error does not say which element it is; the caller does.
fn read_one(
    shard: pg_sys::Oid,
    element: &Value,
    now: i64,
) -> std::result::Result<NewSample, String> {
    let object = element.as_object().ok_or("not a JSON object")?;
    let at = at(object)?;
    if at > now {
        return Err("\"at\" is in the future".to_owned());
    }
    Ok(NewSample {
        shard,
        at,
        seconds: 0.0,
        reads: rate(object, "reads")?,
        writes: rate(object, "writes")?,
        bytes: rate(object, "bytes")?,
        size: None,
        access: None,
    })
}

fn at(object: &Map<String, Value>) -> std::result::Result<i64, String> {
    let unreadable = |value: &Value| format!("\"at\" is not a time: {value}");
    match object.get("at") {
        None | Some(Value::Null) => Err("\"at\" is missing".to_owned()),
        Some(Value::String(text)) => {
            let time = time::parse(text).ok_or_else(|| unreadable(&Value::String(text.clone())))?;
            if time == i64::MIN || time == i64::MAX {
                Err("\"at\" is infinite".to_owned())
            } else {
                Ok(time)
            }
        }
        // Seconds since the Unix epoch, as Prometheus exports them.
        Some(value @ Value::Number(number)) => {
            let micros = number.as_f64().unwrap_or(f64::NAN) * time::SECOND as f64;
            if (0.0..1e17).contains(&micros) {
                Ok(micros as i64)
            } else {
                Err(unreadable(value))
            }
        }
        Some(value) => Err(unreadable(value)),
    }
}

fn rate(object: &Map<String, Value>, name: &str) -> std::result::Result<f64, String> {
    let value = match object.get(name) {
        None | Some(Value::Null) => return Err(format!("\"{name}\" is missing")),
        Some(value) => value,
    };
    let number = value
        .as_f64()
        .ok_or_else(|| format!("\"{name}\" is not a number: {value}"))?;
    if !number.is_finite() {
        return Err(format!("\"{name}\" is too large"));
    }
    if number < 0.0 {
        Err(format!("\"{name}\" is negative: {value}"))
    } else {
        Ok(number)
    }
}

fn set_spans(samples: &mut [NewSample]) {
    let mut spacings: Vec<f64> = samples
        .windows(2)
        .filter_map(|pair| Some((pair.get(1)?.at - pair.first()?.at) as f64 / time::SECOND as f64))
        .collect();
    let since_previous = spacings.clone();
    spacings.sort_by(f64::total_cmp);
    let usual = spacings
        .get(spacings.len() / 2)
        .copied()
        .unwrap_or(settings::sample_interval().as_secs_f64());
    let spans = std::iter::once(usual).chain(since_previous);
    for (sample, span) in samples.iter_mut().zip(spans) {
        sample.seconds = if span > GAP * usual { usual } else { span };
    }
}
