//! Finding the seasons of a series by autocorrelation.
//!
//! Not by `augurs-seasons`: its periodogram has segments of a power of two, so that it sees 23.3 or 25.6
//! but not 24, and 170.7 for a week of hours; the exact length is what everything else rests on.
//!
//! A candidate is a local peak of the autocorrelation. It is verified as in classical decomposition:
//! the series minus its centred moving average over one season must still correlate with itself one,
//! two and three seasons back. That is what a random walk, whose plain autocorrelation peaks too,
//! fails. An accepted season is removed (the mean of each phase) and the rest is searched again, so
//! that a week of days is only found if it adds something to the day.

use super::linear::dot;

/// The shortest season, in steps: shorter patterns are indistinguishable from noise that alternates.
pub const MIN_SEASON: usize = 4;

/// The seasons found, at most: each costs every fit, and real load has the day and the week.
pub const MAX_SEASONS: usize = 2;

/// A season must occur this often to be believed.
const MIN_CYCLES: usize = 3;

/// The correlation one season back that is worth modelling, however long the series. With less than 0.2
/// a seasonal model explains under 4 % of the variance.
const WORTHWHILE: f64 = 0.2;

/// Standard errors (1/√n) that a correlation must exceed: hundreds of lags are tried, so that 2 would
/// find a season in any noise.
const STANDARD_ERRORS: f64 = 5.0;

/// A peak this close to the highest is preferred if it is shorter: multiples of a season peak as well.
const NEARLY_AS_HIGH: f64 = 0.75;

/// The same where the highest peak is a multiple of the shorter: quiet weekends make a day look much
/// less regular than a week.
const HIGH_FOR_A_DIVISOR: f64 = 0.4;

/// The same for the second season, whose shape is already known to be a multiple or a divisor.
const HIGH_FOR_THE_SECOND: f64 = 0.8;

/// Two seasons differ by this factor at least: two days are no season beside one.
const MIN_RATIO: usize = 3;

/// The part of the variation of the series in which a second season is still looked for.
const MIN_REST: f64 = 0.01;

/// The cycles over which the length of a season is measured.
const MAX_COMPARED_CYCLES: usize = 5;

/// The steps to either side of a peak among which the exact length is sought.
const MAX_REFINEMENT: usize = 12;

/// The strongest peaks that are verified.
const MAX_CANDIDATES: usize = 12;

/// A season that was verified.
#[derive(Clone, Copy)]
struct Candidate {
    season: usize,
    /// The autocorrelation at the peak where it was found.
    height: f64,
}

/// The seasons of a series without gaps, in steps, ascending; empty if there is none.
///
/// Costs time in the order of n²/3 for n values; callers bound n (see [`super::prepare::MAX_HISTORY`]).
pub fn detect(values: &[f64]) -> Vec<usize> {
    let largest = values.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    let longest = values.len() / MIN_CYCLES;
    if longest < MIN_SEASON || largest == 0.0 || values.iter().any(|v| !v.is_finite()) {
        return Vec::new();
    }
    let mut rest: Vec<f64> = values.iter().map(|v| v / largest).collect();
    let whole = Detrended::new(&rest, longest).variance;
    let mut found: Vec<usize> = Vec::new();
    while found.len() < MAX_SEASONS {
        let detrended = Detrended::new(&rest, longest);
        if detrended.variance <= whole * MIN_REST {
            break;
        }
        let before = found.first().copied();
        let Some(season) = strongest(&candidates(&rest, &detrended, before), before) else {
            break;
        };
        remove(&mut rest, season);
        found.push(season);
    }
    found.sort_unstable();
    if let [shorter, longer] = found.as_mut_slice() {
        *longer = nested(*longer, *shorter);
    }
    found
}

/// The multiple of `shorter` that is within a twentieth of `longer`, else `longer`: a week is seven days,
/// whatever the noise says.
fn nested(longer: usize, shorter: usize) -> usize {
    let multiple = (longer + shorter / 2) / shorter * shorter;
    if multiple > 0 && multiple.abs_diff(longer) * 20 <= longer {
        multiple
    } else {
        longer
    }
}

/// The shortest of the candidates that are nearly as high as the highest.
fn strongest(candidates: &[Candidate], before: Option<usize>) -> Option<usize> {
    let highest = candidates.iter().copied().reduce(|best, other| {
        if other.height > best.height {
            other
        } else {
            best
        }
    })?;
    let needed = |candidate: &Candidate| {
        let is_divisor = candidate.season * MIN_RATIO <= highest.season
            && highest.season.is_multiple_of(candidate.season);
        match before {
            Some(_) => HIGH_FOR_THE_SECOND,
            None if is_divisor => HIGH_FOR_A_DIVISOR,
            None => NEARLY_AS_HIGH,
        }
    };
    candidates
        .iter()
        .filter(|candidate| candidate.height >= highest.height * needed(candidate))
        .map(|candidate| candidate.season)
        .min()
}

/// The verified peaks of the autocorrelation; for a second season, those that differ from the first.
fn candidates(values: &[f64], detrended: &Detrended, before: Option<usize>) -> Vec<Candidate> {
    let longest = values.len() / MIN_CYCLES;
    let is_distinct = |peak: usize| {
        before.is_none_or(|season| {
            peak >= season.saturating_mul(MIN_RATIO) || season >= peak.saturating_mul(MIN_RATIO)
        })
    };
    let verified = |(peak, height): (usize, f64)| {
        let season = match before.map(|season| nested(peak, season)) {
            Some(multiple) if multiple != peak => multiple,
            _ => refined(values, peak, longest)?,
        };
        let strong = repetition(values, season)? >= threshold(values.len(), season, before);
        strong.then_some(Candidate { season, height })
    };
    peaks(detrended, longest)
        .into_iter()
        .filter(|(peak, _)| is_distinct(*peak))
        .filter_map(verified)
        .collect()
}

/// The correlation that `count` values must show for a season: the fewer values and, for the first
/// season, the fewer cycles, the more: a random walk often swings to and fro three times but seldom ten.
/// (It still does now and then; the tests allow one walk in twenty, and no white noise.)
fn threshold(count: usize, season: usize, before: Option<usize>) -> f64 {
    let noise = (STANDARD_ERRORS / (count as f64).sqrt()).max(WORTHWHILE);
    match before {
        Some(_) => noise,
        None => noise.max((season as f64 / count as f64).sqrt()),
    }
}

/// The length near a peak at which the series repeats best over several cycles: an error of one step
/// per season is three after three, so that multiples of the lag tell neighbours apart.
fn refined(values: &[f64], peak: usize, longest: usize) -> Option<usize> {
    let detrended = Detrended::new(values, peak);
    let reach = (peak / 20).clamp(1, MAX_REFINEMENT);
    let cycles = 1..=(longest * 2 / peak).clamp(1, MAX_COMPARED_CYCLES);
    (peak.saturating_sub(reach).max(MIN_SEASON)..=(peak + reach).min(longest))
        .filter_map(|season| {
            let correlation = |cycle| detrended.autocorrelation(season * cycle);
            let sum = cycles.clone().map(correlation).sum::<Option<f64>>()?;
            Some((season, sum))
        })
        // The first of the best, so that the order decides between equals.
        .reduce(|best, other| if other.1 > best.1 { other } else { best })
        .map(|(season, _)| season)
}

/// A series without its slow movement.
struct Detrended {
    values: Vec<f64>,
    variance: f64,
}

impl Detrended {
    /// The values minus their centred moving average over `window` steps (narrower at the ends).
    fn new(values: &[f64], window: usize) -> Detrended {
        let mut sums = Vec::with_capacity(values.len() + 1);
        sums.push(0.0);
        let mut total = 0.0;
        for value in values {
            total += value;
            sums.push(total);
        }
        let before = window / 2;
        let after = window - before;
        let sum = |index: usize| sums.get(index).copied().unwrap_or(total);
        let residual = |(i, value): (usize, &f64)| {
            let (from, to) = (i.saturating_sub(before), (i + after).min(values.len()));
            value - (sum(to) - sum(from)) / (to - from).max(1) as f64
        };
        let values: Vec<f64> = values.iter().enumerate().map(residual).collect();
        let variance = values.iter().map(|v| v * v).sum::<f64>() / values.len().max(1) as f64;
        Detrended { values, variance }
    }

    /// The correlation with itself `lag` steps back, per pair of values; `None` if nothing varies but
    /// the rounding of the moving average.
    fn autocorrelation(&self, lag: usize) -> Option<f64> {
        let pairs = self
            .values
            .len()
            .checked_sub(lag)
            .filter(|pairs| *pairs > 0)?;
        if self.variance < 1e-18 {
            return None;
        }
        let products = dot(self.values.get(lag..).unwrap_or_default(), &self.values);
        Some(products / pairs as f64 / self.variance)
    }
}

/// The lags of local maxima of the autocorrelation, within a sixth of themselves to either side, with
/// their heights; the highest first.
fn peaks(detrended: &Detrended, longest: usize) -> Vec<(usize, f64)> {
    let correlations: Vec<f64> = (0..=longest + longest / 6)
        .map_while(|lag| detrended.autocorrelation(lag))
        .collect();
    let at = |lag: usize| correlations.get(lag).copied().unwrap_or(f64::NEG_INFINITY);
    let is_peak = |lag: &usize| {
        let reach = (lag / 6).max(1);
        at(*lag) > 0.0 && (lag - reach..=lag + reach).all(|near| at(near) <= at(*lag))
    };
    let lags = (MIN_SEASON..=longest).filter(is_peak);
    let mut found: Vec<(usize, f64)> = lags.map(|lag| (lag, at(lag))).collect();
    found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    found.truncate(MAX_CANDIDATES);
    found
}

/// How well a season repeats: the least of the autocorrelations one and two seasons back and, where the
/// series is long enough, three, after the moving average over one season was taken out.
fn repetition(values: &[f64], season: usize) -> Option<f64> {
    let detrended = Detrended::new(values, season);
    (1..=MIN_CYCLES)
        .take_while(|cycles| *cycles <= 2 || season * (cycles + 1) <= values.len())
        .map(|cycles| detrended.autocorrelation(season * cycles))
        .try_fold(f64::INFINITY, |least, r| r.map(|r| least.min(r)))
}

/// Takes the mean of each phase of a season out of the series.
fn remove(values: &mut [f64], season: usize) {
    let trend_free = Detrended::new(values, season).values;
    for phase in 0..season {
        let of_phase = || trend_free.iter().skip(phase).step_by(season);
        let mean = of_phase().sum::<f64>() / of_phase().count().max(1) as f64;
        for value in values.iter_mut().skip(phase).step_by(season) {
            *value -= mean;
        }
    }
}
