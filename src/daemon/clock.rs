//! The daemon's time: a clock that goes on while the machine sleeps and never jumps.
//!
//! Promises that times of earlier runs of the daemon and of the machine have a place on it. Whether the wall
//! clock can be believed, `engine::clock` decides.

use std::time::Duration;

use crate::base::units::Time;

/// Where the clock begins, so that what was done before the machine started has a time, too.
const EPOCH: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The time now.
pub fn now() -> Duration {
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    EPOCH + Duration::new(up.tv_sec.max(0) as u64, up.tv_nsec.clamp(0, 999_999_999) as u32)
}

/// Both clocks at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// The steady clock.
    pub steady: Duration,
    /// The wall clock.
    pub wall: Time,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self { steady: now(), wall: Time::now() }
    }

    /// The wall time of a steady time.
    pub fn wall_of(&self, steady: Duration) -> Time {
        let age = self.steady.saturating_sub(steady).as_secs() as i64;
        Time { secs: self.wall.secs.saturating_sub(age), nanos: self.wall.nanos }
    }

    /// The steady time of a wall time; one that lies ahead counts as now.
    pub fn steady_of(&self, wall: i64) -> Duration {
        let age = u64::try_from(self.wall.secs.saturating_sub(wall)).unwrap_or(0);
        self.steady.saturating_sub(Duration::from_secs(age))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(steady: u64, wall: i64) -> Moment {
        Moment { steady: Duration::from_secs(steady), wall: Time { secs: wall, nanos: 0 } }
    }

    #[test]
    fn what_was_done_before_has_its_time_and_what_lies_ahead_is_now() {
        let now = at(500, 9000);
        assert_eq!(now.wall_of(Duration::from_secs(400)).secs, 8900);
        assert_eq!((now.steady_of(8900).as_secs(), now.steady_of(99_000).as_secs()), (400, 500));
    }
}
