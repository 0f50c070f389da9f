//! Holds in a bucket: what each origin's stubs depend on.
//!
//! Promises that nothing held is overlooked: an unreadable, misplaced or missing object is an
//! error, because gc must then refuse. Knows no packs.

use std::collections::{BTreeMap, BTreeSet};

use super::{Bucket, names};
use crate::base::error::{Error, Result};
use crate::base::id::OriginId;
use crate::format::hold::Hold;
use crate::model::entry::Body;

/// Largest hold that is read: far more than a batch of any size ddr writes.
const MAX_HOLD: u64 = 64 << 20;

/// Puts one batch; its number must be new.
pub fn put_hold(bucket: &dyn Bucket, hold: &Hold) -> Result<()> {
    bucket.put(&names::hold(hold.origin, hold.number), &[&hold.encode()])
}

/// The number after an origin's newest batch.
pub fn next_number(bucket: &dyn Bucket, origin: OriginId) -> Result<u64> {
    let mut last = 0;
    bucket.list(&format!("{}{origin}/", names::HOLDS), &mut |name, _| {
        let (_, number) = names::parse_hold(name).ok_or_else(|| strange(name))?;
        last = last.max(number);
        Ok(())
    })?;
    last.checked_add(1).ok_or_else(|| Error::corrupt("holds", "numbers are used up"))
}

/// Reads one batch and checks that it is the one its name says.
pub fn read_hold(bucket: &dyn Bucket, origin: OriginId, number: u64) -> Result<Hold> {
    let name = names::hold(origin, number);
    let hold = Hold::decode(&bucket.get(&name, 0..MAX_HOLD)?)?;
    if (hold.origin, hold.number) != (origin, number) {
        return Err(Error::corrupt(name, "it says it is another hold"));
    }
    Ok(hold)
}

/// Calls `sink` with everything that any origin holds: all batches, applied in order. The oldest
/// may have been compacted away; a gap behind them is an error.
pub fn held(bucket: &dyn Bucket, mut sink: impl FnMut(OriginId, Body)) -> Result<()> {
    for (origin, numbers) in numbers(bucket)? {
        held_by(bucket, origin, &numbers)?.into_iter().for_each(|body| sink(origin, body));
    }
    Ok(())
}

/// The numbers of all batches, by origin, in order.
pub fn numbers(bucket: &dyn Bucket) -> Result<BTreeMap<OriginId, Vec<u64>>> {
    let mut all: BTreeMap<OriginId, Vec<u64>> = BTreeMap::new();
    bucket.list(names::HOLDS, &mut |name, _| {
        let (origin, number) = names::parse_hold(name).ok_or_else(|| strange(name))?;
        all.entry(origin).or_default().push(number);
        Ok(())
    })?;
    all.values_mut().for_each(|numbers| numbers.sort_unstable());
    Ok(all)
}

fn held_by(bucket: &dyn Bucket, origin: OriginId, numbers: &[u64]) -> Result<BTreeSet<Body>> {
    if let Some(pair) = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        return Err(Error::Missing(format!("hold {} of origin {}", pair[0] + 1, origin.short())));
    }
    let mut held = BTreeSet::new();
    for number in numbers {
        let hold = read_hold(bucket, origin, *number)?;
        for body in &hold.releases {
            held.remove(body);
        }
        held.extend(hold.adds);
    }
    Ok(held)
}

fn strange(name: &str) -> Error {
    Error::corrupt(name, "this is no name of a hold")
}
