//! What a handle knows of its store's packs: the index, and the state of each pack in memory.
//!
//! Promises that a record counts as present only in a pack that is neither condemned nor damaged,
//! and only if it did not fail its last check; and that among several places of a record the most
//! trustworthy comes first. Knows no bucket.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use crate::base::error::{Error, Result};
use crate::base::id::{PackId, RecordId};
use crate::store::index::{BAD, Index, KnownPack, Location, NewPack};

/// Packs by number.
type Known = BTreeMap<i64, KnownPack>;

/// Index and pack states of one store.
pub struct Catalog {
    index: Index,
    known: RwLock<Known>,
    /// Why it is not known which packs are condemned.
    doubt: Mutex<Option<String>>,
}

impl Catalog {
    /// Loads the pack states.
    pub fn new(index: Index) -> Result<Self> {
        let catalog = Self { index, known: RwLock::default(), doubt: Mutex::default() };
        catalog.reload()?;
        Ok(catalog)
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Reads the pack states from the index again.
    pub fn reload(&self) -> Result<()> {
        let fresh = self.index.packs()?.into_iter().map(|p| (p.num, p)).collect();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// All packs, as of now.
    pub fn packs(&self) -> Vec<KnownPack> {
        self.known().values().cloned().collect()
    }

    /// One pack.
    pub fn pack(&self, num: i64) -> Option<KnownPack> {
        self.known().get(&num).cloned()
    }

    /// The packs of a name (one, unless somebody copied objects about).
    pub fn named(&self, name: PackId) -> Vec<KnownPack> {
        self.known().values().filter(|p| p.name == name).cloned().collect()
    }

    /// Whether there are no packs at all.
    pub fn is_empty(&self) -> bool {
        self.known().is_empty()
    }

    /// Says that it is unknown which packs are condemned, or that it is known again.
    pub fn set_doubt(&self, why: Option<String>) {
        *self.doubt.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Fails while it is unknown which packs are condemned.
    pub fn check_doubt(&self) -> Result<()> {
        match self.doubt.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            None => Ok(()),
            Some(why) => Err(Error::corrupt("gc mark", why)),
        }
    }

    /// Adds one pack that was just written.
    pub fn add(&self, pack: &NewPack) -> Result<()> {
        let nums = self.index.add(std::slice::from_ref(pack))?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for num in nums {
            let NewPack { name, kind, size, .. } = *pack;
            known.insert(num, KnownPack { num, name, kind, size, condemned: false, damaged: None });
        }
        Ok(())
    }

    /// Forgets packs.
    pub fn remove(&self, nums: &[i64]) -> Result<()> {
        self.index.remove(nums)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        nums.iter().for_each(|num| drop(known.remove(num)));
        Ok(())
    }

    /// Per id, whether it lies in a pack that counts.
    pub fn present(&self, ids: &[RecordId]) -> Result<Vec<bool>> {
        self.check_doubt()?;
        let mut found = vec![false; ids.len()];
        if self.is_empty() {
            return Ok(found);
        }
        self.twice(|known| {
            let mut strange = false;
            self.index.presence(ids, |at, pack, verified| {
                found[at] |= verified != BAD && usable(known, pack, &mut strange);
            })?;
            Ok(strange)
        })?;
        Ok(found)
    }

    /// Per id, all its places, the most trustworthy first.
    pub fn places(&self, ids: &[RecordId]) -> Result<Vec<Vec<Location>>> {
        let mut found: Vec<Vec<(Rank, Location)>> = vec![Vec::new(); ids.len()];
        if !self.is_empty() {
            self.twice(|known| {
                found.iter_mut().for_each(Vec::clear);
                let mut strange = false;
                self.index.locations(ids, |at, place| {
                    let good = usable(known, place.pack, &mut strange);
                    if known.contains_key(&place.pack) {
                        found[at].push((rank(&place, good), place));
                    }
                })?;
                Ok(strange)
            })?;
        }
        let sorted = |mut places: Vec<(Rank, Location)>| {
            places.sort_unstable_by_key(|(rank, _)| *rank);
            places.into_iter().map(|(_, place)| place).collect()
        };
        Ok(found.into_iter().map(sorted).collect())
    }

    /// Whether a place counts for [`Catalog::present`].
    pub fn counts(&self, place: &Location) -> bool {
        place.verified != BAD && usable(&self.known(), place.pack, &mut false)
    }

    /// The same for a pack's number and a row's verification time.
    pub fn row_counts(&self, pack: i64, verified: i64) -> Result<bool> {
        let mut counts = false;
        self.twice(|known| {
            let mut strange = false;
            counts = verified != BAD && usable(known, pack, &mut strange);
            Ok(strange)
        })?;
        Ok(counts)
    }

    /// Runs a look-up, once more after a reload if it met a pack that another handle added.
    fn twice(&self, mut look: impl FnMut(&Known) -> Result<bool>) -> Result<()> {
        if look(&self.known())? {
            self.reload()?;
            look(&self.known())?;
        }
        Ok(())
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether records of a pack count; `strange` is set if the pack is not known.
fn usable(known: &Known, pack: i64, strange: &mut bool) -> bool {
    match known.get(&pack) {
        Some(pack) => !pack.condemned && pack.damaged.is_none(),
        None => {
            *strange = true;
            false
        }
    }
}

/// Order in which places are tried.
type Rank = (bool, bool, Reverse<i64>, i64);

fn rank(place: &Location, usable: bool) -> Rank {
    (place.verified == BAD, !usable, Reverse(place.verified), place.pack)
}
