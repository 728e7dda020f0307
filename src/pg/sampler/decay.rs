//! How old heat decays: everything counts half after one `repart.sample_interval`.
//!
//! Instead of making old weights smaller, new ones are made larger (forward decay, Cormode and others 2009): a
//! weight w at the time t is kept as ln w + Λ(t), where Λ grows by ln 2 per half-life. Compared with each other,
//! and with Λ now, such numbers mean the same at any later time, so that nobody has to come by and age them.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};

use crate::settings;

/// Λ as a function of time; the half-life may change while the server runs.
#[repr(C)]
pub struct Clock {
    /// Odd while somebody changes the rest.
    version: AtomicU32,
    unused: AtomicU32,
    /// Λ at the last change, an f64.
    reached: AtomicU64,
    /// The last change, µs since the PostgreSQL epoch.
    at: AtomicI64,
    /// The half-life since then, µs.
    half_life: AtomicI64,
}

impl Clock {
    /// Starts it. Not at 0: that would be the empty sum.
    pub fn start(&self, now: i64) {
        self.reached.store(1f64.to_bits(), Ordering::Relaxed);
        self.at.store(now, Ordering::Relaxed);
        self.half_life.store(wanted(), Ordering::Relaxed);
    }

    /// Λ now.
    pub fn read(&self, now: i64) -> f64 {
        for _ in 0..8 {
            let before = self.version.load(Ordering::Acquire);
            let reached = f64::from_bits(self.reached.load(Ordering::Relaxed));
            let at = self.at.load(Ordering::Relaxed);
            let half_life = self.half_life.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return reached + grown(now, at, half_life);
            }
        }
        // Whoever changes it takes nanoseconds; if it ended there, the old values are as good.
        f64::from_bits(self.reached.load(Ordering::Relaxed))
            + grown(
                now,
                self.at.load(Ordering::Relaxed),
                self.half_life.load(Ordering::Relaxed),
            )
    }

    /// Takes over a changed `repart.sample_interval`.
    pub fn follow_setting(&self, now: i64) {
        let half_life = self.half_life.load(Ordering::Relaxed);
        if half_life == wanted() {
            return;
        }
        let version = self.version.load(Ordering::Relaxed);
        let taken = version.is_multiple_of(2)
            && self
                .version
                .compare_exchange(version, version + 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
        if !taken {
            return;
        }
        let reached = f64::from_bits(self.reached.load(Ordering::Relaxed))
            + grown(now, self.at.load(Ordering::Relaxed), half_life);
        fence(Ordering::Release);
        self.reached.store(reached.to_bits(), Ordering::Relaxed);
        self.at.store(now, Ordering::Relaxed);
        self.half_life.store(wanted(), Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(2), Ordering::Release);
    }

    /// What a steady rate of one per second adds up to.
    pub fn seconds(&self) -> f64 {
        self.half_life.load(Ordering::Relaxed) as f64 / 1e6 / std::f64::consts::LN_2
    }
}

fn grown(now: i64, at: i64, half_life: i64) -> f64 {
    std::f64::consts::LN_2 * now.saturating_sub(at).max(0) as f64 / half_life.max(1) as f64
}

fn wanted() -> i64 {
    i64::try_from(settings::sample_interval().as_micros())
        .unwrap_or(i64::MAX)
        .max(1)
}

/// Adds a weight to a decaying sum. 0 is the empty sum.
pub fn add(sum: &AtomicU64, weight: f64, reached: f64) {
    let added = weight.ln() + reached;
    let mut bits = sum.load(Ordering::Relaxed);
    loop {
        let after = if bits == 0 {
            added
        } else {
            sum_of(f64::from_bits(bits), added)
        };
        match sum.compare_exchange_weak(bits, after.to_bits(), Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(_) => return,
            Err(now) => bits = now,
        }
    }
}

/// What a decaying sum has come to.
pub fn value(bits: u64, reached: f64) -> f64 {
    if bits == 0 {
        0.0
    } else {
        (f64::from_bits(bits) - reached).exp()
    }
}

/// ln(eᵃ + eᵇ).
fn sum_of(a: f64, b: f64) -> f64 {
    let (large, small) = if a >= b { (a, b) } else { (b, a) };
    large + (small - large).exp().ln_1p()
}
