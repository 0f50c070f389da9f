//! Asking a store how it is: whether it answers, how fast, how much room it has, how far it is behind.
//!
//! Changes nothing. What cannot be found out is said to be unknown, never guessed.

use std::time::{Duration, Instant};

use super::folder::Folder;
use super::remotes::Remote;
use crate::base::error::Result;
use crate::history::log;
use crate::store::marks;
use crate::store::packs::Packs;

/// Small answers that are timed; the quickest counts.
const ROUNDS: usize = 3;

/// What a store answered.
#[derive(Clone, Debug)]
pub struct Ping {
    /// How long a small answer takes.
    pub latency: Duration,
    /// Bytes that can still be written, where the store can tell.
    pub room: Option<u64>,
    /// Entries that are known here and not there.
    pub behind: u64,
    /// Entries that are there and not known here.
    pub ahead: u64,
    /// Name of the peer that runs gc there.
    pub gc_owner: Option<String>,
}

/// Asks an open store.
pub fn ping(folder: &Folder, remote: &Remote) -> Result<Ping> {
    let bucket = remote.packs.bucket().as_ref();
    let mut latency = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        Packs::head(bucket)?;
        latency = latency.min(start.elapsed());
    }
    let there = log::survey(bucket)?;
    let known = folder.history.knowledge()?;
    let reaches = |objects: &Vec<log::LogObject>| objects.iter().map(|o| o.to).max().unwrap_or(0);
    let (mut behind, mut ahead) = (0, 0);
    for dot in &known {
        let reached = there.get(&dot.origin).map_or(0, reaches);
        behind += dot.number.saturating_sub(reached);
    }
    for (origin, objects) in &there {
        let number = known.iter().find(|d| d.origin == *origin).map_or(0, |d| d.number);
        ahead += reaches(objects).saturating_sub(number);
    }
    let gc_owner = marks::owner(bucket)?.map(|owner| owner.name);
    Ok(Ping { latency, room: bucket.room()?, behind, ahead, gc_owner })
}
