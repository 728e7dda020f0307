//! Which of the migrations that are ready starts next, and when one has to wait.

use std::fmt;
use std::str::FromStr;

/// Minutes of a day.
const DAY: u32 = 24 * 60;

/// Hours of the day, such as `22:00-06:00, 12:00-13:00`; none means all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Window {
    /// First minute, and the minute after the last one; after midnight where that is earlier.
    spans: Vec<(u32, u32)>,
}

/// A text that is no window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoWindow;

impl fmt::Display for NoWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hours are written as 22:00-06:00, several separated by commas")
    }
}

impl FromStr for Window {
    type Err = NoWindow;

    fn from_str(text: &str) -> Result<Self, NoWindow> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let span = |part: &str| {
            let (from, to) = part.split_once('-').ok_or(NoWindow)?;
            Ok((minute(from)?, minute(to)?))
        };
        let spans = text.split(',').map(span).collect::<Result<_, _>>()?;
        Ok(Self { spans })
    }
}

fn minute(text: &str) -> Result<u32, NoWindow> {
    let (hours, minutes) = text.trim().split_once(':').ok_or(NoWindow)?;
    let number = |text: &str| text.parse::<u32>().map_err(|_| NoWindow);
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let minute = hours * 60 + minutes;
    if minutes < 60 && minute <= DAY {
        Ok(minute)
    } else {
        Err(NoWindow)
    }
}

impl Window {
    /// Whether a minute of the day is in it.
    pub fn contains(&self, minute: u32) -> bool {
        let is_in = |(from, to): &(u32, u32)| {
            if from <= to {
                (*from..*to).contains(&minute)
            } else {
                minute >= *from || minute < *to
            }
        };
        self.spans.is_empty() || self.spans.iter().any(is_in)
    }
}

/// A migration that is ready.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ready {
    /// Its number.
    pub id: i64,
    /// When it must be over, µs since the Unix epoch; `None` = no hurry.
    pub deadline: Option<i64>,
    /// What its nodes have left below the headroom, a share of 1: of the one that has least.
    pub room: f64,
}

/// Puts the earliest deadline first, and among equal ones the one whose nodes have most headroom.
pub fn order(ready: &mut [Ready]) {
    let deadline = |one: &Ready| one.deadline.unwrap_or(i64::MAX);
    ready.sort_by(|a, b| {
        deadline(a)
            .cmp(&deadline(b))
            .then(b.room.total_cmp(&a.room))
            .then(a.id.cmp(&b.id))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_may_go_over_midnight() {
        let window: Window = "22:00-06:00, 12:30-13:00".parse().unwrap();
        let inside = |hour: u32, minute: u32| window.contains(hour * 60 + minute);
        assert!(inside(23, 59) && inside(0, 0) && inside(5, 59) && inside(12, 30));
        assert!(!inside(6, 0) && !inside(12, 29) && !inside(13, 0) && !inside(21, 59));
        assert!(" ".parse::<Window>().unwrap().contains(700));
        let whole: Window = "00:00-24:00".parse().unwrap();
        assert!(whole.contains(0) && whole.contains(1_439));
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for text in [
            "22",
            "22:00",
            "22:00-",
            "25:00-26:00",
            "22:60-23:00",
            "a:b-c:d",
            "1:00-2:00,",
        ] {
            assert_eq!(text.parse::<Window>(), Err(NoWindow), "{text}");
        }
    }

    #[test]
    fn the_earliest_deadline_goes_first_and_then_the_most_headroom() {
        let ready = |id, deadline, room| Ready { id, deadline, room };
        let mut all = [
            ready(1, None, 0.7),
            ready(2, Some(20), 0.1),
            ready(3, Some(10), 0.1),
            ready(4, Some(10), 0.3),
            ready(5, None, 0.7),
        ];
        order(&mut all);
        assert_eq!(all.map(|one| one.id), [4, 3, 2, 1, 5]);
    }
}
