//! gc's objects in a bucket: its owners and marks.
//!
//! Promises that the highest number of each kind is the one returned, and that an unreadable one is
//! an error, never "none". Whether gc may run is `engine::gc`'s decision.

use super::{Bucket, names};
use crate::base::error::{Error, Result};
use crate::format::mark::{Mark, Owner};

/// Largest object that is read: a mark that condemns a million packs.
const MAX_OBJECT: u64 = 256 << 20;

/// Who owns gc of this store.
pub fn owner(bucket: &dyn Bucket) -> Result<Option<Owner>> {
    let Some(epoch) = numbers(bucket, names::parse_owner)?.pop() else { return Ok(None) };
    let name = names::owner(epoch);
    let owner = Owner::decode(&bucket.get(&name, 0..MAX_OBJECT)?).map_err(|e| locate(e, &name))?;
    if owner.epoch == epoch { Ok(Some(owner)) } else { Err(misnamed(name)) }
}

/// Becomes the owner under a new epoch; `Refused` if somebody else took that epoch.
pub fn claim(bucket: &dyn Bucket, owner: &Owner) -> Result<()> {
    bucket.put(&names::owner(owner.epoch), &[&owner.encode()])
}

/// The newest mark.
pub fn newest(bucket: &dyn Bucket) -> Result<Option<Mark>> {
    let mut attempts = 0;
    loop {
        let Some(number) = numbers(bucket, names::parse_mark)?.pop() else { return Ok(None) };
        let name = names::mark(number);
        match bucket.get(&name, 0..MAX_OBJECT) {
            // Its successor came between listing and reading, and took it away.
            Err(Error::Missing(_)) if attempts < 3 => attempts += 1,
            Err(e) => return Err(e),
            Ok(bytes) => {
                let mark = Mark::decode(&bytes).map_err(|e| locate(e, &name))?;
                return if mark.number == number { Ok(Some(mark)) } else { Err(misnamed(name)) };
            }
        }
    }
}

/// Puts a mark, then deletes the older ones.
pub fn put(bucket: &dyn Bucket, mark: &Mark) -> Result<()> {
    bucket.put(&names::mark(mark.number), &[&mark.encode()])?;
    let numbers = numbers(bucket, names::parse_mark)?;
    numbers.iter().filter(|n| **n < mark.number).try_for_each(|n| bucket.delete(&names::mark(*n)))
}

/// Numbers of one kind of object, in order.
fn numbers(bucket: &dyn Bucket, parse: impl Fn(&str) -> Option<u64>) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    bucket.list(names::GC, &mut |name, _| {
        found.extend(parse(name));
        Ok(())
    })?;
    found.sort_unstable();
    Ok(found)
}

/// Says in which object the corruption is.
fn locate(e: Error, name: &str) -> Error {
    match e {
        Error::Corrupt { why, .. } => Error::corrupt(name, why),
        other => other,
    }
}

fn misnamed(name: String) -> Error {
    Error::corrupt(name, "it says it has another number")
}
