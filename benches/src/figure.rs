//! Figures: what several runs came to, beside what, and whether that is enough.

use std::fmt;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// Per second.
    PerSecond,
    /// Hundredths.
    Percent,
    /// Things.
    Count,
    /// A multiple.
    Times,
}

impl Unit {
    fn format(self, value: f64) -> String {
        match self {
            Self::Seconds => format!("{value:.2}"),
            Self::Milliseconds if value >= 100.0 => format!("{value:.0}"),
            Self::Milliseconds => format!("{value:.1}"),
            Self::PerSecond if value >= 100_000.0 => format!("{:.0} k", value / 1000.0),
            Self::PerSecond | Self::Count => format!("{value:.0}"),
            Self::Percent | Self::Microseconds => format!("{value:.1}"),
            // Where a hundredth matters.
            Self::Times if (value - 1.0).abs() < 0.05 => format!("{value:.3}"),
            Self::Times => format!("{value:.2}"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Seconds => " s",
            Self::Milliseconds => " ms",
            Self::Microseconds => " µs",
            Self::PerSecond => "/s",
            Self::Percent => " %",
            Self::Count => "",
            Self::Times => "x",
        }
    }
}

/// One value of each run.
#[derive(Clone, Debug, Default)]
pub struct Series(pub Vec<f64>);

impl Series {
    /// The middle one, or the mean of the two in the middle; not a number when there is none.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        }
    }

    fn range(&self) -> (f64, f64) {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (least, most)
    }

    /// This over the other, run by run: the runs were taken in turn, so that the machine's moods cancel out.
    #[must_use]
    pub fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect())
    }

    fn show(&self, unit: Unit) -> String {
        let median = format!("{}{}", unit.format(self.median()), unit.name());
        if self.0.len() < 2 {
            return median;
        }
        let (least, most) = self.range();
        format!("{median} ({}..{})", unit.format(least), unit.format(most))
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}

/// What is to be reached.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// The figure itself, its median.
    AtMost(f64),
    /// The ratio to the other side, its median.
    RatioAtLeast(f64),
}

/// One line of a benchmark's table.
#[derive(Clone, Debug)]
pub struct Figure {
    what: String,
    unit: Unit,
    ours: Series,
    beside: Option<(String, Series)>,
    target: Option<Target>,
}

impl Figure {
    /// What repart did.
    pub fn new(what: impl Into<String>, unit: Unit, ours: Series) -> Self {
        Self {
            what: what.into(),
            unit,
            ours,
            beside: None,
            target: None,
        }
    }

    /// Beside the same done otherwise, in the same runs.
    #[must_use]
    pub fn beside(self, name: impl Into<String>, other: Series) -> Self {
        Self {
            beside: Some((name.into(), other)),
            ..self
        }
    }

    /// With what is to be reached.
    #[must_use]
    pub fn target(self, target: Target) -> Self {
        Self {
            target: Some(target),
            ..self
        }
    }

    /// What it is called.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Whether it is right or wrong on any machine, unlike one of time or bytes.
    pub fn is_count(&self) -> bool {
        self.unit == Unit::Count
    }

    /// Whether every run of both sides came to a number.
    pub fn is_measured(&self) -> bool {
        let numbers = |series: &Series| {
            !series.0.is_empty() && series.0.iter().all(|value| value.is_finite())
        };
        numbers(&self.ours) && self.beside.as_ref().is_none_or(|(_, other)| numbers(other))
    }

    fn ratio(&self) -> Option<Series> {
        let (_, other) = self.beside.as_ref()?;
        Some(self.ours.over(other))
    }

    /// What is to be reached, and whether it was; `None` without target.
    pub fn verdict(&self) -> Option<(String, bool)> {
        match self.target? {
            Target::AtMost(most) => {
                let bound = format!("<= {}{}", self.unit.format(most), self.unit.name());
                Some((bound, self.ours.median() <= most))
            }
            Target::RatioAtLeast(least) => {
                let reached = self.ratio().is_some_and(|ratio| ratio.median() >= least);
                Some((format!("ratio >= {least:.2}"), reached))
            }
        }
    }

    fn cells(&self) -> [String; 6] {
        let (target, verdict) = match self.verdict() {
            None => (String::new(), String::new()),
            Some((target, true)) => (target, "met".to_owned()),
            Some((target, false)) => (target, "MISSED".to_owned()),
        };
        let beside = self.beside.as_ref();
        [
            self.what.clone(),
            self.ours.show(self.unit),
            beside.map_or(String::new(), |(name, other)| {
                format!("{}  {name}", other.show(self.unit))
            }),
            self.ratio().map_or(String::new(), |ratio| {
                let text = ratio.show(Unit::Times);
                text.replacen('x', "", 1)
            }),
            target,
            verdict,
        ]
    }
}

/// What a benchmark found.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Its name.
    pub name: &'static str,
    /// What was done, in a sentence.
    pub about: String,
    /// The figures.
    pub figures: Vec<Figure>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

const HEADINGS: [&str; 6] = [
    "",
    "repart",
    "beside",
    "ratio, run by run",
    "target",
    "median",
];

impl fmt::Display for Findings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}: {}", self.name, self.about)?;
        let mut rows = vec![HEADINGS.map(str::to_owned)];
        rows.extend(self.figures.iter().map(Figure::cells));
        let width = |column: usize| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: [usize; 6] = std::array::from_fn(width);
        for row in &rows {
            let line: Vec<String> = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            writeln!(formatter, "  {}", line.join(" | ").trim_end())?;
        }
        for note in &self.notes {
            writeln!(formatter, "  {note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        values.iter().copied().collect()
    }

    #[test]
    fn a_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(series(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(series(&[4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert!(series(&[]).median().is_nan());
    }

    #[test]
    fn a_target_is_of_the_median_or_of_the_ratio_run_by_run() {
        let figure = Figure::new("speed", Unit::PerSecond, series(&[8.0, 90.0, 10.0]))
            .beside("the other", series(&[10.0, 100.0, 20.0]));
        let ratio = |least| figure.clone().target(Target::RatioAtLeast(least)).verdict();
        assert!(
            ratio(0.8).unwrap().1,
            "0.8, 0.9 and 0.5 have the median 0.8"
        );
        assert!(!ratio(0.81).unwrap().1);
        let at_most = |most| figure.clone().target(Target::AtMost(most)).verdict();
        assert!(at_most(10.0).unwrap().1);
        assert!(!at_most(9.9).unwrap().1);
    }

    #[test]
    fn a_run_that_came_to_no_number_is_noticed() {
        assert!(!Figure::new("nothing", Unit::Count, series(&[])).is_measured());
        assert!(!Figure::new("nan", Unit::Count, series(&[1.0, f64::NAN])).is_measured());
        assert!(Figure::new("one", Unit::Count, series(&[1.0])).is_measured());
    }
}
