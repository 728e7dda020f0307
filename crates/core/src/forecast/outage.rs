//! Outages: while nothing worked there was no demand to be learnt from. What was measured in an outage that has
//! ended counts as missing: models do not repeat it a day later, and are not judged by it.

/// A value below this part of the mean may be an outage.
const IDLE: f64 = 0.01;

/// The part of a season that an outage lasts at least: a short pause is noise.
const MIN_PART: usize = 12;

/// The seasons to either side that show what is usual at the time of day.
const BESIDE: usize = 4;

/// What is usual at half of the steps of an outage at least is this part of the mean: a load that rests every night,
/// or comes in bursts, has none.
const USUAL: f64 = 0.25;

/// Forgets the outages of a series with gaps that are NaN. One that lasts to the end of the series is kept:
/// nobody knows when it ends. Returns how many values were forgotten.
pub(super) fn forget(values: &mut [f64], season: usize) -> usize {
    let known = values.iter().filter(|v| !v.is_nan());
    let mean = known.clone().sum::<f64>() / known.count().max(1) as f64;
    let is_idle = |v: &&f64| v.is_nan() || **v <= IDLE * mean;
    let mut forgotten = 0;
    let mut from = 0;
    while from < values.len() {
        let run = values.iter().skip(from).take_while(is_idle).count();
        let end = from + run;
        if run * MIN_PART >= season.max(1)
            && end < values.len()
            && is_outage(values, from, end, season, mean)
        {
            let out = values.iter_mut().take(end).skip(from);
            for value in out.filter(|v| !v.is_nan()) {
                *value = f64::NAN;
                forgotten += 1;
            }
        }
        from = end + 1;
    }
    forgotten
}

/// Whether there usually is load at the times of day of these idle steps.
fn is_outage(values: &[f64], from: usize, end: usize, season: usize, mean: f64) -> bool {
    let usual = |at: usize| {
        let before = (1..=BESIDE).filter_map(|k| at.checked_sub(k * season));
        let before = before.filter(|at| *at < from);
        let after = (1..=BESIDE)
            .map(|k| at + k * season)
            .filter(|at| *at >= end);
        let beside = before.chain(after).filter_map(|at| values.get(at));
        let mut beside: Vec<f64> = beside.copied().filter(|v| !v.is_nan()).collect();
        beside.sort_by(f64::total_cmp);
        // The lower one: bursts beside are not usual.
        let middle = beside
            .len()
            .checked_sub(1)
            .and_then(|last| beside.get(last / 2));
        middle.copied().unwrap_or(0.0)
    };
    let loaded = (from..end).filter(|at| usual(*at) >= USUAL * mean).count();
    loaded * 2 >= end - from && mean > 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(count: usize) -> Vec<f64> {
        (0..24 * count)
            .map(|hour| 10.0 + (hour % 24) as f64)
            .collect()
    }

    #[test]
    fn an_outage_that_has_ended_is_forgotten_and_one_that_lasts_is_not() {
        let mut values = days(10);
        values.iter_mut().skip(100).take(30).for_each(|v| *v = 0.0);
        assert_eq!(forget(&mut values, 24), 30);
        assert!(values[100].is_nan() && values[129].is_nan() && values[130] > 0.0);
        let mut lasting = days(10);
        lasting.iter_mut().skip(220).for_each(|v| *v = 0.0);
        assert_eq!(forget(&mut lasting, 24), 0);
    }

    #[test]
    fn nights_bursts_and_short_pauses_are_load_like_any_other() {
        let mut nights: Vec<f64> = days(10);
        for (hour, value) in nights.iter_mut().enumerate() {
            if hour % 24 < 8 {
                *value = 0.0;
            }
        }
        assert_eq!(forget(&mut nights, 24), 0);
        let mut bursts = vec![0.0; 240];
        bursts.iter_mut().step_by(60).for_each(|v| *v = 50.0);
        assert_eq!(forget(&mut bursts, 24), 0);
        let mut pause = days(10);
        pause[100] = 0.0;
        assert_eq!(forget(&mut pause, 24), 0);
        assert_eq!(
            forget(&mut [], 0) + forget(&mut [0.0; 50], 24) + forget(&mut [f64::NAN; 9], 1),
            0
        );
    }
}
