//! Reading a trace: a CSV file with a header, a time or an index in the first column, and values.

use std::path::Path;

use repart_core::series::{Sample, Series, natural_step};

use crate::Error;

/// Microseconds per second.
pub const SECOND: i64 = 1_000_000;

/// Microseconds per day.
pub const DAY: i64 = 86_400 * SECOND;

/// From here on an index is Unix time: in seconds since 1973, in milliseconds since then too.
const UNIX_SECONDS: f64 = 1e8;
const UNIX_MILLISECONDS: f64 = 1e11;

/// A trace, resampled to a regular step.
#[derive(Debug, Clone)]
pub struct Trace {
    /// The name of the file, without its extension.
    pub name: String,
    /// The values.
    pub series: Series,
}

impl Trace {
    /// The steps of a span, if it is a whole number of them.
    pub fn steps(&self, span: i64) -> Option<usize> {
        (span % self.series.step == 0)
            .then(|| usize::try_from(span / self.series.step).ok())
            .flatten()
            .filter(|steps| *steps > 0)
    }

    /// So many values from an index on, fewer at the end.
    pub fn steps_from(&self, from: usize, count: usize) -> &[f64] {
        let values = &self.series.values;
        let to = from.saturating_add(count).min(values.len());
        values.get(from..to).unwrap_or_default()
    }
}

/// Reads a trace. Its step is the median spacing of its times, at least `coarsest_fine` µs (finer traces are
/// averaged); an index counts in units of `index_step` µs, or is named by its header: second, minute, hour, day.
/// Numbers from 10^8 on are Unix time.
///
/// # Errors
/// [`Error::Read`], or [`Error::NotATrace`] where lines have no time or no number.
pub fn read(path: &Path, least_step: i64, index_step: i64) -> Result<Trace, Error> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
        path: shown.clone(),
        source,
    })?;
    let wrong = |reason: String| Error::NotATrace {
        path: shown.clone(),
        reason,
    };
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let unit = index_unit(header).unwrap_or(index_step);
    let mut points = Vec::new();
    for (number, line) in lines
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let point = parse_line(line, unit);
        points.push(point.ok_or_else(|| wrong(format!("line {} is \"{line}\"", number + 2)))?);
    }
    let name = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let series = regular(&points, least_step).map_err(wrong)?;
    Ok(Trace { name, series })
}

/// The unit of an index, from the name of its column.
fn index_unit(header: &str) -> Option<i64> {
    match header.split(',').next()?.trim_matches('"') {
        "second" => Some(SECOND),
        "minute" => Some(60 * SECOND),
        "hour" => Some(3_600 * SECOND),
        "day" => Some(DAY),
        _ => None,
    }
}

/// The beginning of an interval and the value measured in it; an empty value is missing.
fn parse_line(line: &str, unit: i64) -> Option<(i64, f64)> {
    let mut fields = line.split(',').map(|field| field.trim().trim_matches('"'));
    let at = fields.next()?;
    let value = fields.next()?;
    let at = match at.parse::<f64>() {
        Ok(index) => (index * unit_of(index, unit) as f64).round() as i64,
        Err(_) => parse_time(at)?,
    };
    match value {
        "" | "NA" | "NaN" | "nan" => Some((at, f64::NAN)),
        number => Some((at, number.parse().ok()?)),
    }
}

/// The unit of a number in the first column: what is too large for an index is Unix time, in seconds or milliseconds.
fn unit_of(index: f64, unit: i64) -> i64 {
    match index {
        _ if index >= UNIX_MILLISECONDS => SECOND / 1_000,
        _ if index >= UNIX_SECONDS => SECOND,
        _ => unit,
    }
}

/// "2008-10-01", "2008-10-01 13:00:00" or with a T, in µs since the Unix epoch, taken as UTC.
pub fn parse_time(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let seconds = if text.len() >= 16 {
        number(11, 13)? * 3_600 + number(14, 16)? * 60 + number(17, 19).unwrap_or(0)
    } else {
        0
    };
    Some(days_from_civil(year, month, day) * DAY + seconds * SECOND)
}

/// Days since 1970-01-01. Howard Hinnant, *chrono-compatible low-level date algorithms*.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The points as a regular series.
fn regular(points: &[(i64, f64)], least_step: i64) -> Result<Series, String> {
    let samples = |step: i64| -> Vec<Sample> {
        let sample = |(at, value): &(i64, f64)| Sample {
            at: at.saturating_add(step),
            seconds: step as f64 / SECOND as f64,
            value: *value,
        };
        points.iter().map(sample).collect()
    };
    let own = natural_step(&samples(0), usize::MAX)
        .ok_or("it has fewer than two times with a value; negative ones count as unknown")?;
    Series::from_samples(&samples(own), own.max(least_step)).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_a_time_of_day() {
        assert_eq!(parse_time("1970-01-02"), Some(DAY));
        assert_eq!(
            parse_time("2008-10-01 13:00:00"),
            Some((14_153 * 24 + 13) * 3_600 * SECOND)
        );
        assert_eq!(
            parse_time("2008-10-01T13:00"),
            parse_time("2008-10-01 13:00:00")
        );
        assert_eq!(parse_time("yesterday"), None);
    }

    #[test]
    fn an_index_counts_in_the_unit_that_its_header_names() {
        assert_eq!(index_unit("minute,requests"), Some(60 * SECOND));
        assert_eq!(parse_line("3,7.5", 60 * SECOND), Some((180 * SECOND, 7.5)));
        assert!(parse_line("3,", 1).is_some_and(|(_, value)| value.is_nan()));
        assert_eq!(parse_line("3,seven", 1), None);
    }

    #[test]
    fn large_numbers_are_unix_time() {
        let hour = 3_600 * SECOND;
        let at = 1_700_000_000 * SECOND;
        assert_eq!(parse_line("1700000000,2", hour), Some((at, 2.0)));
        assert_eq!(parse_line("1700000000000,2", hour), Some((at, 2.0)));
        assert_eq!(parse_line("20000,2", hour), Some((20_000 * hour, 2.0)));
    }
}
