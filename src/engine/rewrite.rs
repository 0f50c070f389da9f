//! How much of each pack is needed, and writing what is needed of sparse packs into new ones.
//!
//! Promises that a pack counts as rewritten only when every needed record of it was decoded and
//! hashed and is durable in a pack that stays, and that a disk without room ends the work early, not
//! the run. Whether to condemn what was rewritten is gc's business.

use std::collections::{HashMap, HashSet};

use super::folder::Folder;
use super::live::Live;
use super::remotes::Remote;
use crate::base::error::{Error, Result};
use crate::base::id::{PackId, RecordId};
use crate::format::seal::{Opener, Sealed};
use crate::model::reach::Usage;
use crate::store::Store;
use crate::store::index::Place;
use crate::store::packs::PackInfo;

/// Bytes written anew before they are made durable and their old packs given up.
const STEP: u64 = 64 << 20;

/// How much of a store is needed.
pub struct StoreUsage {
    /// Packs that are not condemned: a record in several counts for the fullest of them.
    pub packs: Vec<Usage>,
    /// Condemned packs of which nothing is needed that no other pack has.
    pub dead_condemned: HashSet<PackId>,
}

/// Reads the index twice: which packs are full, and then which is to keep a record that several have.
pub fn usage(remote: &Remote, packs: &HashMap<i64, PackInfo>, live: &Live) -> Result<StoreUsage> {
    let mut raw: HashMap<i64, (u64, u64)> = packs.keys().map(|num| (*num, (0, 0))).collect();
    remote.packs.places(&mut |place, _| {
        let (used, total) = raw.entry(place.pack).or_default();
        *total += stored(&place);
        *used += if live.has(&place.id) { stored(&place) } else { 0 };
        Ok(())
    })?;
    // The fullest pack is the one to stay, and of equally full ones the same in every run.
    let rank = |num: i64| {
        let (used, total) = raw.get(&num).copied().unwrap_or_default();
        (u128::from(used) * 1_000_000 / u128::from(total.max(1)), used, packs.get(&num).map(|p| p.name))
    };
    let mut credit: HashMap<i64, u64> = HashMap::new();
    let mut uncounted: HashSet<i64> = HashSet::new();
    let mut settle = |group: &[(Place, bool)]| {
        if group.first().is_none_or(|(place, _)| !live.has(&place.id)) {
            return;
        }
        let best = group.iter().filter(|(_, counts)| *counts).max_by_key(|(place, _)| rank(place.pack));
        match best {
            Some((place, _)) => *credit.entry(place.pack).or_default() += stored(place),
            None => uncounted.extend(group.iter().map(|(place, _)| place.pack)),
        }
    };
    let mut group: Vec<(Place, bool)> = Vec::new();
    remote.packs.places(&mut |place, counts| {
        if group.first().is_some_and(|(first, _)| first.id != place.id) {
            settle(&group);
            group.clear();
        }
        group.push((place, counts));
        Ok(())
    })?;
    settle(&group);
    let usage = |p: &PackInfo| {
        let total = raw.get(&p.num).map_or(0, |(_, total)| *total);
        // A needed record that failed its last check counts nowhere: its pack is repair's business.
        let live = match uncounted.contains(&p.num) {
            true => total,
            false => credit.get(&p.num).copied().unwrap_or(0),
        };
        Usage { pack: p.name, live, total }
    };
    let (condemned, staying): (Vec<&PackInfo>, Vec<&PackInfo>) = packs.values().partition(|p| p.condemned);
    Ok(StoreUsage {
        packs: staying.into_iter().map(usage).collect(),
        dead_condemned: condemned.iter().filter(|p| !uncounted.contains(&p.num)).map(|p| p.name).collect(),
    })
}

fn stored(place: &Place) -> u64 {
    u64::from(place.stored).max(1)
}

/// What was written anew.
#[derive(Debug, Default)]
pub struct Rewritten {
    /// Packs of which nothing is needed any more.
    pub packs: Vec<PackId>,
    /// Bytes of their records that were written anew.
    pub bytes: u64,
}

/// Copies needed records out of packs.
pub struct Rewriting<'a> {
    /// The folder.
    pub folder: &'a Folder,
    /// The store.
    pub remote: &'a Remote,
    /// What is needed.
    pub live: &'a Live,
}

impl Rewriting<'_> {
    /// What [`Rewriting::run`] would do.
    pub fn weigh(&self, packs: &[&PackInfo]) -> Result<Rewritten> {
        let mut done = Rewritten::default();
        for pack in packs {
            self.remote.packs.rows(pack.num, &mut |row| {
                done.bytes += if self.live.has(&row.id) { u64::from(row.stored) } else { 0 };
                Ok(())
            })?;
            done.packs.push(pack.name);
        }
        Ok(done)
    }

    /// Rewrites packs in small steps; `leaving` are packs that are about to be condemned anyway, so
    /// that what they have does not count.
    pub fn run(&self, packs: &[&PackInfo], leaving: &[&PackInfo]) -> Result<Rewritten> {
        let mut leaving: HashSet<i64> = leaving.iter().map(|p| p.num).collect();
        let mut opener = Opener::new(&self.folder.keys)?;
        let mut done = Rewritten::default();
        let (mut step, mut bytes) = (Vec::new(), 0);
        for (i, pack) in packs.iter().enumerate() {
            self.folder.context.cancel.check()?;
            leaving.insert(pack.num);
            let copied = self.copy(pack, &leaving, &mut opener).and_then(|copied| {
                bytes += copied;
                step.push(pack.name);
                let ends = bytes >= STEP || i + 1 == packs.len();
                if ends { self.remote.packs.flush().map(|()| true) } else { Ok(false) }
            });
            match copied {
                Ok(false) => {}
                Ok(true) => {
                    done.packs.append(&mut step);
                    done.bytes += std::mem::take(&mut bytes);
                }
                Err(e @ Error::NoSpace(_)) => {
                    let text = format!("{}: {e}; what is left is rewritten by a later run", self.remote.name);
                    self.folder.context.progress.note(&text);
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Puts what only this pack, or others that leave, have; returns its bytes.
    fn copy(&self, pack: &PackInfo, leaving: &HashSet<i64>, opener: &mut Opener) -> Result<u64> {
        let mut ids: Vec<RecordId> = Vec::new();
        self.remote.packs.rows(pack.num, &mut |row| {
            ids.extend(self.live.has(&row.id).then_some(row.id));
            Ok(())
        })?;
        ids.sort_unstable();
        ids.dedup();
        let stays = |places: &Vec<i64>| places.iter().any(|num| !leaving.contains(num));
        let counting = self.remote.packs.counting(&ids)?;
        let ids: Vec<RecordId> =
            ids.into_iter().zip(&counting).filter(|(_, places)| !stays(places)).map(|(id, _)| id).collect();
        let mut bytes = 0;
        self.remote.packs.get(&ids, &mut |id, got| {
            let sound = got.and_then(|sealed| opener.verify(&sealed).map(|()| sealed));
            let doubt = |e| Error::Refused(format!("gc is not safe: record {}: {e}", id.short()));
            let sealed: Sealed = sound.map_err(doubt)?;
            bytes += sealed.payload.len() as u64;
            // What was put in this step already is not put twice.
            self.remote.packs.put(id, sealed)
        })?;
        Ok(bytes)
    }
}
