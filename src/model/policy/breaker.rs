//! When a run must stop, and how fast it may go.

use std::time::Duration;

/// Fewer files than this prove nothing.
const ENOUGH: u64 = 100;

/// Stops a run that fails on over half of at least 100 files: a store or a policy that is that
/// wrong gets no better by trying the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Breaker {
    tried: u64,
    failed: u64,
}

impl Breaker {
    /// Takes the result of some more files.
    pub fn add(&mut self, tried: u64, failed: u64) {
        self.tried += tried;
        self.failed += failed;
    }

    /// Why the run must stop, if it must.
    pub fn verdict(&self) -> Option<String> {
        let open = self.tried >= ENOUGH && self.failed.saturating_mul(2) > self.tried;
        open.then(|| format!("stopped: {} of {} files had problems", self.failed, self.tried))
    }
}

/// How long to wait so that `bytes` in `elapsed` are no more than `rate` bytes a second.
pub fn pause(bytes: u64, elapsed: Duration, rate: u64) -> Duration {
    let due = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
    due.saturating_sub(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_half_of_at_least_a_hundred_stops_the_run() {
        let after = |tried, failed| {
            let mut breaker = Breaker::default();
            breaker.add(tried, failed);
            breaker.verdict().is_some()
        };
        assert!(after(100, 51) && after(1000, 501));
        assert!(!after(99, 99) && !after(100, 50) && !after(1000, 500));
    }

    #[test]
    fn a_rate_is_kept_by_waiting() {
        assert_eq!(pause(10, Duration::from_secs(1), 5), Duration::from_secs(1));
        assert_eq!(pause(10, Duration::from_secs(3), 5), Duration::ZERO);
    }
}
