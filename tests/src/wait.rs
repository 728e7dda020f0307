//! Waiting for something to become true, with a deadline.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Long enough for anything that a loaded two-core machine does; only a failing test waits that long.
pub const LONG: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer, and returns it.
///
/// # Panics
/// Panics with the description when there is none in time.
pub fn wait_for<T>(what: &str, timeout: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            Instant::now() < deadline,
            "waited {timeout:?} in vain: {what}"
        );
        sleep(Duration::from_millis(20));
    }
}

/// [`wait_for`] a condition.
pub fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, timeout, || condition().then_some(()));
}
