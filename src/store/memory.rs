//! A bucket in memory, for tests and as the reference the others are compared with.
//!
//! Promises what [`Bucket`] promises, except that nothing outlives the process. Clones share their
//! objects.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Bucket, names};
use crate::base::error::{Error, Result};

/// Objects by name.
#[derive(Clone, Default)]
pub struct MemoryBucket(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl MemoryBucket {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes an object's bytes behind everybody's back, as a failing disk would.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let mut objects = self.objects();
        objects.get_mut(name).map(change).ok_or_else(|| Error::Missing(name.into()))
    }
}

impl Bucket for MemoryBucket {
    fn put(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        names::check(name)?;
        let mut objects = self.objects();
        if objects.contains_key(name) {
            return Err(Error::Refused(format!("{name} exists already")));
        }
        objects.insert(name.into(), parts.concat());
        Ok(())
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        names::check(name)?;
        let objects = self.objects();
        let bytes = objects.get(name).ok_or_else(|| Error::Missing(name.into()))?;
        let end = range.end.min(bytes.len() as u64) as usize;
        let start = range.start.min(end as u64) as usize;
        Ok(bytes[start..end].to_vec())
    }

    fn list(&self, prefix: &str, sink: &mut dyn FnMut(&str, u64) -> Result<()>) -> Result<()> {
        let found: Vec<(String, u64)> = {
            let objects = self.objects();
            let from = objects.range(prefix.to_string()..);
            from.take_while(|(name, _)| name.starts_with(prefix))
                .map(|(name, bytes)| (name.clone(), bytes.len() as u64))
                .collect()
        };
        found.iter().try_for_each(|(name, size)| sink(name, *size))
    }

    fn delete(&self, name: &str) -> Result<()> {
        names::check(name)?;
        self.objects().remove(name);
        Ok(())
    }
}
