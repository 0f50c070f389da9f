//! The machine's clocks, and whether they can be believed.
//!
//! Promises that a wall clock which moved otherwise than time did (since the last look in this boot), or
//! backwards, is noticed before anything is decided by age. Which of two times is the right one it does not
//! know: it waits until the clock has been steady for a while.

use std::time::Duration;

use super::folder::Folder;
use crate::base::error::{Error, Result};
use crate::base::units::Time;
use crate::format::mark::Instant;
use crate::local::mount::boot;

/// The wall clock may be set by so many seconds without anybody caring.
const SLACK: i64 = 3600;
/// Seconds of uptime for which the policy rests after a jump.
const REST: u64 = 3600;
/// Where it is remembered when the clocks were last looked at, and when they last jumped.
const LOOKED: &str = "clock";
const JUMPED: &str = "clock jumped";

/// The clocks now.
pub fn instant() -> Instant {
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec as u64;
    Instant { wall: Time::now(), uptime, boot: boot().to_string() }
}

/// Time between two instants; `None` if the clocks contradict each other.
pub fn elapsed(then: &Instant, now: &Instant) -> Option<Duration> {
    let wall = u64::try_from(now.wall.secs - then.wall.secs).ok()?;
    (!is_jump(then, now)).then_some(Duration::from_secs(wall))
}

/// Remembers the clocks, for the next look.
pub fn look(folder: &mut Folder) -> Result<()> {
    let now = instant();
    let before = folder.history.meta(LOOKED)?.and_then(|text| read(&text));
    // A clock that is set back a little is no jump.
    let jumped = before.is_some_and(|then| now.wall.secs + SLACK < then.wall.secs || is_jump(&then, &now));
    let text = format!("{} {} {}", now.wall.secs, now.uptime, now.boot);
    if jumped {
        folder.history.set_meta(JUMPED, &text)?;
    }
    folder.history.set_meta(LOOKED, &text)
}

/// Refuses to decide by age for a while after a jump.
pub fn refuse_jump(folder: &mut Folder) -> Result<()> {
    look(folder)?;
    let Some(jump) = folder.history.meta(JUMPED)?.and_then(|text| read(&text)) else { return Ok(()) };
    let now = instant();
    if now.boot == jump.boot && now.uptime.saturating_sub(jump.uptime) < REST {
        return Err(Error::Refused(
            "the clock has jumped, and with it the age of every file: the policy rests for an hour; \
             files that are named are stashed all the same: ddr stash PATH"
                .into(),
        ));
    }
    folder.history.clear_meta(JUMPED)
}

fn is_jump(then: &Instant, now: &Instant) -> bool {
    let (wall, up) = (now.wall.secs - then.wall.secs, now.uptime as i64 - then.uptime as i64);
    then.boot == now.boot && (wall - up).abs() > SLACK
}

fn read(text: &str) -> Option<Instant> {
    let mut words = text.split(' ');
    let secs = words.next()?.parse().ok()?;
    let uptime = words.next()?.parse().ok()?;
    Some(Instant { wall: Time { secs, nanos: 0 }, uptime, boot: words.next()?.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_what_the_clocks_contradict_each_other_in() {
        let at =
            |secs, uptime, boot: &str| Instant { wall: Time { secs, nanos: 0 }, uptime, boot: boot.into() };
        assert_eq!(elapsed(&at(100, 10, "a"), &at(160, 70, "a")), Some(Duration::from_secs(60)));
        assert_eq!(elapsed(&at(100, 10, "a"), &at(90, 20, "a")), None);
        assert_eq!(elapsed(&at(100, 10, "a"), &at(1_000_000, 20, "a")), None);
        assert!(elapsed(&at(100, 10, "a"), &at(1_000_000, 20, "b")).is_some());
        assert!(is_jump(&at(100, 10, "a"), &at(1_000_000, 20, "a")));
        assert!(!is_jump(&at(100, 10, "a"), &at(90, 20, "a")));
    }
}
