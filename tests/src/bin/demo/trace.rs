//! The load that the clients make: the hourly requests of a real service, and a range of keys that becomes
//! hot every afternoon.

use crate::Result;

/// A table, and how its load is distributed.
pub struct Scene {
    /// Its shards at the beginning.
    pub shards: usize,
    /// Keys of each.
    pub keys_per_shard: i64,
    /// The shard whose pages everybody reads in the afternoon, counted from 0.
    pub hot: usize,
    /// Rows per second in an average hour of which each shard has its share.
    pub mean_rate: f64,
    /// Whether its shards are on nodes.
    pub is_on_nodes: bool,
    /// The share of a shard, while the hot one has so much (0 to 1) of what it gains at its peak.
    pub share: fn(shard: usize, gain: f64) -> f64,
}

impl Scene {
    /// Keys of all shards.
    pub fn keys(&self) -> i64 {
        self.keys_per_shard * self.shards as i64
    }
}

/// The table of the first part.
pub const FIRST: Scene = Scene {
    shards: SHARDS,
    keys_per_shard: 240_000,
    hot: HOT,
    mean_rate: MEAN_RATE,
    is_on_nodes: false,
    share: first_share,
};

/// The table of the second part, whose shards are on nodes. Its load is that of a node at its capacity in an average
/// hour, times the shares.
pub const SECOND: Scene = Scene {
    shards: 5,
    keys_per_shard: 76_800,
    hot: 2,
    mean_rate: NODE_CAPACITY,
    is_on_nodes: true,
    share: second_share,
};

/// What a node of the second part may serve, rows per second.
pub const NODE_CAPACITY: f64 = 4_000.0;

/// The shards of the first table at the beginning.
pub const SHARDS: usize = 6;

/// The shard of the first table whose pages everybody reads in the afternoon, counted from 0.
pub const HOT: usize = 3;

/// What one shard may serve: the setting `repart.shard_capacity`, rows per second.
pub const CAPACITY: f64 = 4_000.0;

/// Length of an hour of the demonstration, µs.
pub const HOUR: i64 = 2_500_000;

/// Hours of a day.
pub const DAY: usize = 24;

/// Days before the demonstration that are imported as history.
pub const PAST_DAYS: usize = 14;

/// Days that are played.
pub const LIVE_DAYS: usize = 2;

/// The first imported day: a Tuesday, so that the days played are a Tuesday and a Wednesday.
const FIRST_DAY: &str = "2009-03-03";

/// The names of the days, beginning with the one of [`FIRST_DAY`].
const WEEKDAYS: [&str; 7] = ["Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Mon"];

/// Rows per second of all shards together in an average hour: so many that the hot shard needs about 110 %
/// of its capacity at its peak, and every other shard about 30 % of its own.
const MEAN_RATE: f64 = 1.85 * CAPACITY;

/// The share of the load that the hot shard gains at its peak.
const HOT_GAIN: f64 = 0.30;

/// The hour of that peak, and how many hours before and after it the gain is 0.
const HOT_HOUR: f64 = 17.0;
const HOT_HALF_WIDTH: f64 = 7.0;

/// Others have less while the hot shard has more.
fn first_share(shard: usize, gain: f64) -> f64 {
    let gain = HOT_GAIN * gain;
    match shard {
        HOT => 1.0 / SHARDS as f64 + gain,
        _ => 1.0 / SHARDS as f64 - gain / (SHARDS - 1) as f64,
    }
}

/// The first and the last shard, on the node of the hot one, have much to do all day long, so that this node is too
/// small in the afternoon, also without one of them; the shards of the other node have little to do.
fn second_share(shard: usize, gain: f64) -> f64 {
    match shard {
        0 | 4 => 0.13,
        2 => 0.02 + 0.37 * gain,
        _ => 0.02,
    }
}

/// Requests per hour, relative to their mean, on a table.
pub struct Trace {
    /// The table.
    pub scene: Scene,
    hours: Vec<f64>,
}

impl Trace {
    /// The days to import and the days to play.
    pub fn load(scene: Scene) -> Result<Self> {
        let mut hours = Vec::new();
        let lines = include_str!("../../../data/wikimedia_hourly.csv").lines();
        for line in lines
            .skip_while(|line| !line.starts_with(FIRST_DAY))
            .take(DAY * (PAST_DAYS + LIVE_DAYS))
        {
            let requests = line.split(',').nth(1).ok_or("a line without requests")?;
            hours.push(requests.parse::<f64>()?);
        }
        let mean = hours.iter().sum::<f64>() / hours.len() as f64;
        Ok(Self {
            scene,
            hours: hours.iter().map(|requests| requests / mean).collect(),
        })
    }

    /// Rows per second that clients read and write in a shard, in an hour of the days played; negative
    /// hours are those of the past.
    pub fn rate(&self, hour: i64, shard: usize) -> f64 {
        let index = hour + (DAY * PAST_DAYS) as i64;
        let total = usize::try_from(index)
            .ok()
            .and_then(|index| self.hours.get(index))
            .copied()
            .unwrap_or(0.0);
        let gain = bump(hour.rem_euclid(DAY as i64) as f64 + 0.5);
        self.scene.mean_rate * total * (self.scene.share)(shard, gain)
    }

    /// Of these hours the one in which the hot shard has most to do.
    pub fn peak_hour(&self, hours: std::ops::Range<i64>) -> i64 {
        let rate = |hour: i64| self.rate(hour, self.scene.hot);
        let first = hours.start;
        hours.fold(
            first,
            |best, hour| {
                if rate(hour) > rate(best) { hour } else { best }
            },
        )
    }
}

/// 1 at the hot hour, 0 far from it, smooth between.
fn bump(hour: f64) -> f64 {
    let distance = ((hour - HOT_HOUR) / HOT_HALF_WIDTH).abs().min(1.0);
    (1.0 + (std::f64::consts::PI * distance).cos()) / 2.0
}

/// Day and time of a moment, µs since the beginning of the days played: `Tue 14:24`.
pub fn clock(micros: i64) -> String {
    let minutes = micros * 60 / HOUR;
    let (day, minute) = (minutes.div_euclid(24 * 60), minutes.rem_euclid(24 * 60));
    let weekday = WEEKDAYS
        .get(day.rem_euclid(7) as usize)
        .copied()
        .unwrap_or_default();
    format!("{weekday} {:02}:{:02}", minute / 60, minute % 60)
}
