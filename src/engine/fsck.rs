//! Checking stores, and repairing them by copying out.
//!
//! Promises that with `read_data` every byte of every object is read and hashed, and that after
//! repair only what could not be mended counts as damage. How is [`super::repair`]'s business.

use std::collections::{HashMap, HashSet};

use super::folder::Folder;
use super::manifests::records_of_all;
use super::remotes::{OWN, Remote, Remotes, open_own};
use super::tiers::LayoutName;
use super::{hold, objects, repair};
use crate::base::error::{Error, Result};
use crate::base::id::RecordId;
use crate::base::units::Time;
use crate::format::pack;
use crate::format::seal::Opener;
use crate::model::entry::Body;
use crate::store::index::BAD;
use crate::store::packs::PackInfo;
use crate::store::{Store, names};

/// Contents whose records are asked for together.
const TOGETHER: usize = 256;

/// How to check.
#[derive(Debug, Default)]
pub struct FsckOptions {
    /// Read and hash everything.
    pub read_data: bool,
    /// Copy what is left out of damaged objects, and fetch the rest from other stores.
    pub repair: bool,
}

/// What was found in one store.
#[derive(Debug, Default)]
pub struct FsckStats {
    /// Name of the store.
    pub store: String,
    /// Objects looked at.
    pub objects: u64,
    /// Bytes read and hashed.
    pub read_bytes: u64,
    /// Damaged objects and why.
    pub damaged: Vec<(String, Error)>,
    /// Contents of history that are not whole here.
    pub missing: u64,
    /// How many objects are damaged or lost now, after repair.
    pub open: u64,
    /// Records and objects that repair put back.
    pub repaired: u64,
    /// Objects moved to quarantine.
    pub quarantined: u64,
}

/// Checks every reachable store; also returns why the first of the others is not.
pub fn fsck(folder: &mut Folder, options: &FsckOptions) -> Result<(Vec<FsckStats>, Option<Error>)> {
    let mut remotes = Remotes::open_all(folder)?;
    if !remotes.online.iter().any(|r| r.name == OWN) {
        remotes.online.push(open_own(folder)?);
    }
    let mut all = Vec::new();
    for remote in &remotes.online {
        let stats = one(folder, &remotes, remote, options)?;
        // What was found lost stays so until it is repaired.
        if stats.open == 0 {
            hold::note_all(&mut folder.history, remote)?;
        }
        all.push(stats);
    }
    Ok((all, remotes.offline.into_iter().next().map(|(_, error)| error)))
}

fn one(folder: &Folder, remotes: &Remotes, remote: &Remote, options: &FsckOptions) -> Result<FsckStats> {
    let mut stats = FsckStats { store: remote.name.clone(), ..FsckStats::default() };
    let bad = check_packs(folder, remote, options, &mut stats)?;
    let small = objects::check(folder, remote)?;
    stats.objects += small.objects;
    stats.read_bytes += small.read_bytes;
    if options.repair {
        // The small ones first: a damaged mark leaves in doubt which packs count at all.
        let put =
            [repair::small(folder, remotes, remote, &small)?, repair::packs(folder, remote, bad.iter())?];
        stats.repaired = put.iter().map(|r| r.put).sum();
        stats.quarantined = put.iter().map(|r| r.quarantined).sum();
        stats.open += objects::check(folder, remote)?.count();
    } else {
        stats.open += bad.len() as u64 + small.count();
    }
    let in_doubt = small.damaged.iter().any(|(name, _)| name.starts_with(names::GC)) && !options.repair;
    stats.damaged.extend(small.into_list());
    // Which store of several tiers, or of a bundle, should have what is `ddr tier check`'s question.
    let everything = match folder.config.tier.as_slice() {
        [] => true,
        [tier] => tier.layout == LayoutName::Mirror,
        _ => false,
    };
    // The own store beside remotes keeps logs, and only by chance contents.
    if everything && !in_doubt && (remote.name != OWN || folder.config.remote.is_empty()) {
        missing(folder, remotes, remote, options.repair, &mut stats)?;
    }
    Ok(stats)
}

/// Checks every pack; returns the damaged ones.
fn check_packs(
    folder: &Folder,
    remote: &Remote,
    options: &FsckOptions,
    stats: &mut FsckStats,
) -> Result<Vec<PackInfo>> {
    // What was found damaged before may have been mended by hand.
    let mut known: HashMap<String, Error> = remote.packs.recheck()?.damaged.into_iter().collect();
    let mut packs = Vec::new();
    remote.packs.packs(&mut |info| {
        packs.push(info);
        Ok(())
    })?;
    stats.objects += packs.len() as u64;
    let total: u64 = packs.iter().map(|p| p.size).sum();
    folder.context.progress.stage(
        &format!("checking {}", remote.name),
        if options.read_data { total } else { 0 },
        true,
    );
    let mut bad = Vec::new();
    for info in packs {
        folder.context.cancel.check()?;
        let found = match known.remove(&info.object()) {
            Some(e) => Err(e),
            None if options.read_data => read_pack(folder, remote, &info, stats),
            None => Ok(()),
        };
        match found {
            Ok(()) => {}
            Err(e @ (Error::Offline { .. } | Error::Db(_) | Error::NoSpace(_))) => return Err(e),
            Err(e) => {
                stats.damaged.push((info.object(), e));
                bad.push(info);
            }
        }
    }
    // Packs that could not even be read to see what is in them.
    known.retain(|name, _| names::parse_pack(name).is_some());
    stats.open += known.len() as u64;
    stats.damaged.extend(known);
    Ok(bad)
}

/// Reads a whole pack and opens every record of it.
pub(super) fn read_pack(
    folder: &Folder,
    remote: &Remote,
    info: &PackInfo,
    stats: &mut FsckStats,
) -> Result<()> {
    let bytes = remote.packs.bucket().get(&info.object(), 0..u64::MAX)?;
    stats.read_bytes += bytes.len() as u64;
    folder.context.progress.advance(bytes.len() as u64);
    let short = || Error::corrupt(info.object(), "too short");
    let foot_at = bytes.len().checked_sub(pack::FOOT_LEN).ok_or_else(short)?;
    let foot = pack::Foot::decode(&bytes[foot_at..])?;
    let table_at = (bytes.len() as u64).checked_sub(foot.trailer_len()).ok_or_else(short)? as usize;
    let head = bytes.get(..pack::HEAD_LEN).ok_or_else(short)?;
    let rows = pack::decode_table(head, &bytes[table_at..], bytes.len() as u64, folder.id, info.name)?;
    let mut opener = Opener::new(&folder.keys)?;
    let (mut good, mut bad, mut first) = (Vec::new(), Vec::new(), None);
    for row in &rows {
        let record = bytes.get(row.offset as usize..row.end() as usize).ok_or_else(short)?;
        match pack::decode_record(record, row).and_then(|sealed| opener.verify(&sealed)) {
            Ok(()) => good.push((row.id, info.num)),
            Err(e) => {
                bad.push((row.id, info.num));
                first.get_or_insert(e);
            }
        }
    }
    remote.packs.mark_verified(&good, Time::now().secs)?;
    remote.packs.mark_verified(&bad, BAD)?;
    first.map_or(Ok(()), Err)
}

/// Counts contents of history that are not whole in this store; with `repair` fetches their
/// records from the other stores.
fn missing(
    folder: &Folder,
    remotes: &Remotes,
    remote: &Remote,
    repair: bool,
    stats: &mut FsckStats,
) -> Result<()> {
    let mut opener = Opener::new(&folder.keys)?;
    let mut seen: HashSet<Body> = HashSet::new();
    let mut bodies = Vec::new();
    folder.history.each_body(&mut |body, size| {
        if seen.insert(body) {
            bodies.push((body, size));
        }
        Ok(())
    })?;
    drop(seen);
    for some in bodies.chunks(TOGETHER) {
        folder.context.cancel.check()?;
        for ((body, _), records) in some.iter().zip(records_of_all(remotes, some, &mut opener)?) {
            // Nowhere to be found: then at least the manifest itself is what is missing.
            let lacking = lacking(remote, records.unwrap_or_else(|_| vec![body.id]))?;
            if lacking.is_empty() {
                continue;
            }
            let fetched = if repair { repair::fetch(remotes, remote, &lacking, &mut opener)? } else { 0 };
            stats.repaired += fetched;
            if fetched < lacking.len() as u64 {
                stats.missing += 1;
            }
        }
    }
    if repair { remote.packs.flush() } else { Ok(()) }
}

/// Those of a content's records that this store does not have.
fn lacking(remote: &Remote, ids: Vec<RecordId>) -> Result<Vec<RecordId>> {
    let has = remote.packs.has(&ids)?;
    Ok(ids.into_iter().zip(has).filter(|(_, has)| !has).map(|(id, _)| id).collect())
}
