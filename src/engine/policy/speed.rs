//! How fast earlier runs placed contents, remembered in the index.

use std::time::Duration;

use crate::base::error::Result;
use crate::history::History;

const KEY: &str = "speed placing";
/// Less tells more of the start of a run than of its speed.
const ENOUGH: u64 = 8 << 20;

/// Takes a run into account: the newest run counts as much as all before it.
pub fn learn(history: &mut History, bytes: u64, elapsed: Duration) -> Result<()> {
    if bytes < ENOUGH || elapsed.is_zero() {
        return Ok(());
    }
    let new = (bytes as f64 / elapsed.as_secs_f64()) as u64;
    let speed = known(history)?.map_or(new, |old| old / 2 + new / 2);
    history.set_meta(KEY, &speed.to_string())
}

/// Bytes a second, if any run was long enough to tell.
pub fn known(history: &History) -> Result<Option<u64>> {
    Ok(history.meta(KEY)?.and_then(|text| text.parse().ok()).filter(|speed| *speed > 0))
}
