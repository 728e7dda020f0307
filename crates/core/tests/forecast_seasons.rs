//! Seasons: found where they are, and only there.

use std::f64::consts::TAU;

use repart_core::forecast::seasons::detect;

/// Uniform noise in [0, 1): splitmix64.
fn noise(index: u64) -> f64 {
    let mut x = index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[test]
fn a_season_of_60_is_found_in_a_noisy_sine() {
    for seed in 0..10_u64 {
        // The noise has a standard deviation of 29, the sine one of 35.
        let value = |i: u64| {
            100.0 + 50.0 * (i as f64 * TAU / 60.0).sin() + 100.0 * noise(seed * 100_003 + i)
        };
        let values: Vec<f64> = (0..1_000).map(value).collect();
        assert_eq!(detect(&values), [60], "seed {seed}");
    }
}

#[test]
fn a_nightly_peak_is_found_among_zeros() {
    let spikes: Vec<f64> = (0..480)
        .map(|i| if i % 24 == 3 { 500.0 + noise(i) } else { 0.0 })
        .collect();
    assert_eq!(detect(&spikes), [24]);
}

#[test]
fn a_season_is_found_on_top_of_a_steep_trend() {
    let value = |i: u64| 3.0 * i as f64 + 50.0 * (i as f64 * TAU / 24.0).sin() + 10.0 * noise(i);
    let values: Vec<f64> = (0..600).map(value).collect();
    assert_eq!(detect(&values), [24]);
}

#[test]
fn a_day_within_a_week_gives_both() {
    let value = |i: u64| {
        let weekend = if i / 24 % 7 >= 5 { 0.5 } else { 1.0 };
        weekend * (100.0 + 50.0 * (i as f64 * TAU / 24.0).sin()) + 10.0 * noise(i)
    };
    let values: Vec<f64> = (0..8 * 168).map(value).collect();
    assert_eq!(detect(&values), [24, 168]);
}

#[test]
fn no_season_is_found_in_white_noise_and_hardly_any_in_random_walks() {
    let mut mistaken = 0;
    for seed in 0..20_u64 {
        for count in [50, 200, 1_000] {
            let white: Vec<f64> = (0..count).map(|i| noise(seed * 7_919 + i)).collect();
            assert!(detect(&white).is_empty(), "{count} values, seed {seed}");
            let mut level = 0.0;
            let mut walk = Vec::new();
            for value in white {
                level += value - 0.5;
                walk.push(level);
            }
            mistaken += usize::from(!detect(&walk).is_empty());
        }
    }
    assert!(mistaken <= 3, "{mistaken} of 60 walks");
}

#[test]
fn no_season_is_found_in_constants_lines_and_scraps() {
    assert!(detect(&[7.0; 500]).is_empty());
    assert!(detect(&[0.1; 4_096]).is_empty());
    let line: Vec<f64> = (0..500).map(f64::from).collect();
    assert!(detect(&line).is_empty());
    assert!(detect(&[1.0, 2.0, 1.0]).is_empty());
    assert!(detect(&[f64::NAN; 100]).is_empty());
    assert!(detect(&[]).is_empty());
}
