//! What stores missed while they were away, as far as this peer knows.
//!
//! Promises only a note in the index, to say how much and to know when to look: what a store really
//! lacks, [`super::level`] finds out by asking.

use crate::base::error::Result;
use crate::base::id::{OriginId, StoreId};
use crate::history::History;

/// Remembers that stores missed contents.
pub fn note_behind(history: &mut History, names: &[String], more: (u64, u64)) -> Result<()> {
    for name in names {
        let (contents, bytes) = behind(history, name)?.unwrap_or((0, 0));
        let text = format!("{} {}", contents + more.0, bytes + more.1);
        history.set_meta(&behind_key(name), &text)?;
    }
    Ok(())
}

/// Up to how many contents and bytes a store has missed; `None` if it has missed nothing.
pub fn behind(history: &History, name: &str) -> Result<Option<(u64, u64)>> {
    let text = history.meta(&behind_key(name))?;
    Ok(text.and_then(|t| t.split_once(' ').map(|(n, b)| (n.parse().unwrap_or(0), b.parse().unwrap_or(0)))))
}

/// Forgets what a store had missed.
pub fn forget(history: &mut History, name: &str) -> Result<()> {
    history.clear_meta(&behind_key(name))
}

/// Remembers how far a store's copy of an origin's log was known to reach: what is missing below
/// that was lost, what is missing above has not arrived yet.
pub fn set_pushed(history: &mut History, store: StoreId, origin: OriginId, number: u64) -> Result<()> {
    let key = pushed_key(store, origin);
    match history.meta(&key)? == Some(number.to_string()) {
        true => Ok(()),
        false => history.set_meta(&key, &number.to_string()),
    }
}

/// How far a store's copy of an origin's log is known to have reached.
pub fn pushed(history: &History, store: StoreId, origin: OriginId) -> Result<u64> {
    Ok(noted(history, store, origin)?.unwrap_or(0))
}

/// Remembers that a store was met, with whatever log: what it lacks from now on, it missed.
pub fn set_met(history: &mut History, store: StoreId, origin: OriginId) -> Result<()> {
    match noted(history, store, origin)? {
        Some(_) => Ok(()),
        None => set_pushed(history, store, origin, 0),
    }
}

fn noted(history: &History, store: StoreId, origin: OriginId) -> Result<Option<u64>> {
    Ok(history.meta(&pushed_key(store, origin))?.and_then(|n| n.parse().ok()))
}

/// Entries that a store is not known to have; none where nothing is known of it at all.
pub fn entries(history: &History, store: StoreId) -> Result<u64> {
    let (mut behind, mut known) = (0, false);
    for dot in history.knowledge()? {
        let reached = noted(history, store, dot.origin)?;
        known |= reached.is_some();
        behind += dot.number.saturating_sub(reached.unwrap_or(0));
    }
    Ok(if known { behind } else { 0 })
}

fn pushed_key(store: StoreId, origin: OriginId) -> String {
    format!("pushed {store} {origin}")
}

fn behind_key(name: &str) -> String {
    format!("behind {name}")
}
