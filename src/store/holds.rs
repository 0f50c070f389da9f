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
/// Batches read together, and their bytes.
const TOGETHER: usize = 64;
const TOGETHER_BYTES: u64 = 16 << 20;
/// How often a listing is taken again because a batch in it was compacted away meanwhile.
const ATTEMPTS: usize = 3;

/// Everything one origin holds in a bucket.
#[derive(Debug, Default)]
pub struct Held {
    /// The contents.
    pub bodies: BTreeSet<Body>,
    /// Batches that say so.
    pub batches: u64,
    /// Adds and releases in them.
    pub changes: u64,
}

/// Puts one batch; its number must be new.
pub fn put_hold(bucket: &dyn Bucket, hold: &Hold) -> Result<()> {
    bucket.put(&names::hold(hold.origin, hold.number), &[&hold.encode()])
}

/// The number after an origin's newest batch.
pub fn next_number(bucket: &dyn Bucket, origin: OriginId) -> Result<u64> {
    let last = of_origin(bucket, origin)?.pop().unwrap_or(0);
    last.checked_add(1).ok_or_else(|| Error::corrupt("holds", "numbers are used up"))
}

/// The numbers of an origin's batches, in order.
pub fn of_origin(bucket: &dyn Bucket, origin: OriginId) -> Result<Vec<u64>> {
    Ok(listed(bucket, origin)?.into_iter().map(|(number, _)| number).collect())
}

/// The same with their sizes.
fn listed(bucket: &dyn Bucket, origin: OriginId) -> Result<Vec<(u64, u64)>> {
    let mut all = Vec::new();
    bucket.list(&format!("{}{origin}/", names::HOLDS), &mut |name, size| {
        all.push((names::parse_hold(name).ok_or_else(|| strange(name))?.1, size));
        Ok(())
    })?;
    all.sort_unstable();
    Ok(all)
}

/// Reads one batch and checks that it is the one its name says.
pub fn read_hold(bucket: &dyn Bucket, origin: OriginId, number: u64) -> Result<Hold> {
    decode(&bucket.get(&names::hold(origin, number), 0..MAX_HOLD)?, origin, number)
}

fn decode(bytes: &[u8], origin: OriginId, number: u64) -> Result<Hold> {
    let hold = Hold::decode(bytes)?;
    match (hold.origin, hold.number) == (origin, number) {
        true => Ok(hold),
        false => Err(Error::corrupt(names::hold(origin, number), "it says it is another hold")),
    }
}

/// Batches by their numbers, and what became of reading each.
type Batches = Vec<(u64, Result<Hold>)>;

/// Reads the newest of some batches, as many as may be held in memory together; the oldest of them first.
/// Also returns the batches before them.
fn read_newest(bucket: &dyn Bucket, origin: OriginId, listed: &[(u64, u64)]) -> Result<(Batches, usize)> {
    let mut bytes = 0;
    let fits = |(_, size): &&(u64, u64)| {
        bytes += size;
        bytes <= TOGETHER_BYTES
    };
    let count = listed.iter().rev().take(TOGETHER).take_while(fits).count().max(1);
    let before = listed.len().saturating_sub(count);
    let some = &listed[before..];
    let range = |(number, size): &(u64, u64)| (names::hold(origin, *number), 0..(*size).min(MAX_HOLD));
    let wanted: Vec<_> = some.iter().map(range).collect();
    let mut holds = Vec::with_capacity(some.len());
    bucket.get_all(&wanted, &mut |i, got| {
        let number = some[i].0;
        holds.push((number, got.and_then(|bytes| decode(&bytes, origin, number))));
        Ok(())
    })?;
    Ok((holds, before))
}

/// Calls `sink` with everything that any origin holds: all batches, applied in order. What the
/// newest batch with `since` voids may be missing; any other gap is an error.
pub fn held(bucket: &dyn Bucket, mut sink: impl FnMut(OriginId, Body)) -> Result<()> {
    for origin in numbers(bucket)?.into_keys() {
        held_by(bucket, origin)?.bodies.into_iter().for_each(|body| sink(origin, body));
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

/// What one origin holds.
pub fn held_by(bucket: &dyn Bucket, origin: OriginId) -> Result<Held> {
    let mut attempt = 1;
    loop {
        match try_held_by(bucket, origin) {
            // The origin compacted its batches between listing and reading.
            Err(Error::Missing(_)) if attempt < ATTEMPTS => attempt += 1,
            done => return done,
        }
    }
}

/// Reads from the newest batch back: what it says of a content stands, whatever older ones say.
fn try_held_by(bucket: &dyn Bucket, origin: OriginId) -> Result<Held> {
    let listed = listed(bucket, origin)?;
    let mut held = Held::default();
    let mut released = BTreeSet::new();
    let (mut since, mut next) = (1, listed.last().map_or(0, |(last, _)| last + 1));
    let mut left = listed.as_slice();
    'all: while !left.is_empty() {
        let (holds, before) = read_newest(bucket, origin, left)?;
        left = &left[..before];
        for (number, hold) in holds.into_iter().rev() {
            // What is before `since` is void; a gap is told below.
            if next == since || number + 1 != next {
                break 'all;
            }
            next = number;
            let hold = hold?;
            held.batches += 1;
            held.changes += (hold.adds.len() + hold.releases.len()) as u64;
            held.bodies.extend(hold.adds.into_iter().filter(|body| !released.contains(body)));
            released.extend(hold.releases.into_iter().filter(|body| !held.bodies.contains(body)));
            since = since.max(hold.since.unwrap_or(1));
        }
    }
    match next <= since {
        true => Ok(held),
        false => Err(Error::Missing(format!("hold {} of origin {}", next - 1, origin.short()))),
    }
}

/// The first number that counts: older batches are void, or there never were any. Batches that
/// cannot be read say nothing.
pub fn first_valid(bucket: &dyn Bucket, origin: OriginId, numbers: &[u64]) -> Result<u64> {
    if numbers.iter().zip(1..).all(|(number, n)| *number == n) {
        return Ok(1);
    }
    for number in numbers.iter().rev() {
        match read_hold(bucket, origin, *number) {
            Ok(Hold { since: Some(since), .. }) => return Ok(since),
            Err(e @ Error::Offline { .. }) => return Err(e),
            _ => {}
        }
    }
    Ok(1)
}

fn strange(name: &str) -> Error {
    Error::corrupt(name, "this is no name of a hold")
}
