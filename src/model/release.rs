//! Which holds a peer may release, and when its batches are worth compacting.
//!
//! Promises that what a stub needs stays held, and what was deleted does for a while (I11). Knows no
//! tree and no store: what is needed is an argument.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use crate::base::id::RecordId;
use crate::base::units::Time;
use crate::model::entry::Body;

/// Contents that a peer still needs, by the first eight bytes of their body's id: a false match only
/// keeps a hold.
#[derive(Clone, Debug, Default)]
pub struct Needed(HashSet<u64>);

impl Needed {
    /// Adds a content.
    pub fn add(&mut self, body: &Body) {
        self.0.insert(key(&body.id));
    }

    /// Whether it was added.
    pub fn has(&self, body: &Body) -> bool {
        self.0.contains(&key(&body.id))
    }
}

/// A number that stands for a record where a mistake does no harm.
pub fn key(id: &RecordId) -> u64 {
    id.0[..8].iter().fold(0, |k, b| k << 8 | u64::from(*b))
}

/// What is held and not needed.
pub fn releases(held: &BTreeSet<Body>, needed: &Needed) -> Vec<Body> {
    held.iter().filter(|body| !needed.has(body)).copied().collect()
}

/// The time up to which deletions are forgotten: what was deleted later is kept.
pub fn kept_since(now: Time, keep: Duration) -> Time {
    let secs = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
    Time { secs: now.secs.saturating_sub(secs), nanos: now.nanos }
}

/// Whether so many batches with so many changes should be written anew, where `held` contents are
/// left: half of what they say is void by then, or they are many.
pub fn compacts(batches: u64, changes: u64, held: u64) -> bool {
    batches >= 256 || (batches >= 8 && changes >= 2 * held.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::Kind;
    use proptest::prelude::*;

    fn body(n: u8) -> Body {
        Body { kind: Kind::Chunk, id: RecordId([n; 32]) }
    }

    proptest! {
        #[test]
        fn nothing_needed_is_released_and_all_else_is(
            held in prop::collection::btree_set(any::<u8>(), 0..50),
            needed in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let all: BTreeSet<Body> = held.iter().map(|n| body(*n)).collect();
            let mut wanted = Needed::default();
            needed.iter().for_each(|n| wanted.add(&body(*n)));
            let gone: BTreeSet<Body> = releases(&all, &wanted).into_iter().collect();
            let left: BTreeSet<Body> = all.difference(&gone).copied().collect();
            prop_assert!(gone.iter().all(|b| !needed.contains(&b.id.0[0])));
            prop_assert!(left.iter().all(|b| needed.contains(&b.id.0[0])));
        }
    }

    #[test]
    fn few_batches_stay_and_many_or_stale_ones_are_compacted() {
        assert!(!compacts(7, 1_000_000, 0));
        assert!(!compacts(20, 1000, 900));
        assert!(compacts(20, 2000, 900));
        assert!(compacts(300, 1000, 1000));
    }
}
