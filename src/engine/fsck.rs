//! Checking stores, and repairing them by copying out.
//!
//! Promises that with `read_data` every byte of every object is read and hashed, that repair never
//! deletes anything (damaged objects move to `quarantine/`), and that it can be interrupted at any
//! point and run again.

use std::collections::HashSet;

use super::commit::pushed;
use super::folder::Folder;
use super::remotes::{OWN, Remote, Remotes, open_own};
use crate::base::error::{Error, Result};
use crate::base::id::RecordId;
use crate::base::units::Time;
use crate::format::hold::Hold;
use crate::format::log as log_format;
use crate::format::mark::{Mark, Owner};
use crate::format::pack;
use crate::format::seal::{Opener, Sealed};
use crate::history::log;
use crate::model::entry::{Body, Dot, Kind};
use crate::store::index::BAD;
use crate::store::packs::{PackInfo, move_away};
use crate::store::{Prune, Store, holds, names};

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
    /// Records that repair put back.
    pub repaired: u64,
    /// Objects moved to quarantine.
    pub quarantined: u64,
}

/// Checks every reachable store.
pub fn fsck(folder: &mut Folder, options: &FsckOptions) -> Result<Vec<FsckStats>> {
    let mut remotes = Remotes::open_all(folder)?;
    remotes.note_offline(folder);
    if !remotes.online.iter().any(|r| r.name == OWN) {
        remotes.online.push(open_own(folder)?);
    }
    remotes.online.iter().map(|remote| one(folder, &remotes, remote, options)).collect()
}

fn one(folder: &Folder, remotes: &Remotes, remote: &Remote, options: &FsckOptions) -> Result<FsckStats> {
    let mut stats = FsckStats { store: remote.name.clone(), ..FsckStats::default() };
    let opened = remote.packs.refresh()?;
    let mut bad_packs: HashSet<String> = HashSet::new();
    for (name, error) in opened.damaged {
        bad_packs.insert(name.clone());
        stats.damaged.push((name, error));
    }
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
    for info in &packs {
        folder.context.cancel.check()?;
        if bad_packs.contains(&info.object()) {
            continue;
        }
        if info.damaged {
            bad_packs.insert(info.object());
            stats.damaged.push((info.object(), Error::corrupt("pack", "found damaged earlier")));
        } else if options.read_data
            && let Err(e) = read_pack(folder, remote, info, &mut stats)
        {
            bad_packs.insert(info.object());
            stats.damaged.push((info.object(), e));
        }
    }
    let bad_small = small_objects(folder, remote, &mut stats)?;
    if options.repair {
        repair_packs(folder, remote, &packs, &bad_packs, &mut stats)?;
        repair_small(folder, remote, &bad_small, &mut stats)?;
    }
    // The own store beside remotes keeps logs, and only by chance contents.
    if remote.name != OWN || folder.config.remote.is_empty() {
        missing(folder, remotes, remote, options.repair, &mut stats)?;
    }
    Ok(stats)
}

/// Reads a whole pack and opens every record of it.
fn read_pack(folder: &Folder, remote: &Remote, info: &PackInfo, stats: &mut FsckStats) -> Result<()> {
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

/// Decodes every log object, hold and gc object; returns the names of the damaged ones.
fn small_objects(folder: &Folder, remote: &Remote, stats: &mut FsckStats) -> Result<Vec<String>> {
    let bucket = remote.packs.bucket().as_ref();
    let mut names = Vec::new();
    for prefix in ["log/", "holds/", "gc/"] {
        bucket.list(prefix, &mut |name, _| {
            names.push(name.to_string());
            Ok(())
        })?;
    }
    names.sort();
    let mut bad = Vec::new();
    let mut chain = Chain::default();
    for name in names {
        folder.context.cancel.check()?;
        stats.objects += 1;
        let checked = bucket.get(&name, 0..u64::MAX).and_then(|bytes| {
            stats.read_bytes += bytes.len() as u64;
            check_small(folder, &name, &bytes, &mut chain)
        });
        if let Err(e) = checked {
            stats.damaged.push((name.clone(), e));
            bad.push(name);
        }
    }
    for (name, why) in lost(folder, remote)? {
        stats.damaged.push((name, why));
    }
    Ok(bad)
}

/// Objects that this peer knows must be there and are not.
fn lost(folder: &Folder, remote: &Remote) -> Result<Vec<(String, Error)>> {
    let bucket = remote.packs.bucket().as_ref();
    let there = log::survey(bucket)?;
    let mut out = Vec::new();
    for Dot { origin, number } in folder.history.knowledge()? {
        let reached = match remote.name == OWN {
            true => number,
            false => pushed(&folder.history, remote, origin)?,
        };
        let mut next = 1;
        for object in there.get(&origin).into_iter().flatten() {
            if object.from > next {
                out.push((
                    log::object_name(&origin, next, object.from - 1),
                    Error::Missing("log object".into()),
                ));
            }
            next = next.max(object.to + 1);
        }
        if next <= reached {
            out.push((log::object_name(&origin, next, reached), Error::Missing("log object".into())));
        }
    }
    for (origin, numbers) in holds::numbers(bucket)? {
        for pair in numbers.windows(2).filter(|pair| pair[0] + 1 != pair[1]) {
            out.push((names::hold(origin, pair[0] + 1), Error::Missing("hold".into())));
        }
    }
    Ok(out)
}

/// Last hash and number of the origin whose log objects are being read in order.
#[derive(Default)]
struct Chain(Option<(crate::base::id::OriginId, u64, [u8; 32])>);

fn check_small(folder: &Folder, name: &str, bytes: &[u8], chain: &mut Chain) -> Result<()> {
    let wrong = || Err(Error::corrupt(name.to_string(), "is not what its name says"));
    if name.starts_with("log/") {
        let batch = log_format::decode(bytes)?;
        let (origin, from) = (batch.head.origin(), batch.head.from);
        if batch.head.folder != folder.id || log::object_name(&origin, from, batch.head.to()) != name {
            return wrong();
        }
        let follows = match &chain.0 {
            Some((o, to, hash)) if *o == origin => from == to + 1 && batch.head.prev == *hash,
            _ => from == 1 && batch.head.prev == [0; 32],
        };
        chain.0 = Some((origin, batch.head.to(), batch.hash));
        return if follows {
            Ok(())
        } else {
            Err(Error::corrupt(name.to_string(), "does not follow the batch before it"))
        };
    }
    if name.starts_with("holds/") {
        let hold = Hold::decode(bytes)?;
        let ok = hold.folder == folder.id && name == format!("holds/{}/{:016x}", hold.origin, hold.number);
        return if ok { Ok(()) } else { wrong() };
    }
    if name.starts_with("gc/owner-") { Owner::decode(bytes).map(drop) } else { Mark::decode(bytes).map(drop) }
}

/// Salvages damaged packs: good records are written anew, then the pack moves to quarantine.
fn repair_packs(
    folder: &Folder,
    remote: &Remote,
    packs: &[PackInfo],
    bad: &HashSet<String>,
    stats: &mut FsckStats,
) -> Result<()> {
    let mut opener = Opener::new(&folder.keys)?;
    for info in packs.iter().filter(|p| bad.contains(&p.object())) {
        let bytes = remote.packs.bucket().get(&info.object(), 0..u64::MAX)?;
        distrust(remote, info)?;
        for sealed in pack::salvage(&bytes) {
            if opener.verify(&sealed).is_ok() && !remote.packs.has(&[sealed.id])?[0] {
                remote.packs.put(sealed)?;
                stats.repaired += 1;
            }
        }
        remote.packs.flush()?;
        remote.packs.quarantine(info.name)?;
        stats.quarantined += 1;
        folder.context.cancel.check()?;
    }
    Ok(())
}

/// The pack is about to leave: none of its records counts any more, so that the good ones are
/// written anew.
fn distrust(remote: &Remote, info: &PackInfo) -> Result<()> {
    let mut rows = Vec::new();
    let read = remote.packs.rows(info.num, &mut |row| {
        rows.push((row.id, info.num));
        Ok(())
    });
    match read {
        // Without a readable table none of them counted anyway.
        Err(e) if e.is_corruption() => Ok(()),
        read => read.and_then(|()| remote.packs.mark_verified(&rows, BAD)),
    }
}

/// Damaged logs are quarantined and copied again from this peer's own log; damaged holds are
/// quarantined and this peer's stubs held again.
fn repair_small(folder: &Folder, remote: &Remote, bad: &[String], stats: &mut FsckStats) -> Result<()> {
    for name in bad {
        move_away(remote.packs.bucket().as_ref(), name)?;
        stats.quarantined += 1;
    }
    let copied = log::copy_missing(folder.own.as_ref(), remote.packs.bucket().as_ref(), folder.id)?;
    stats.repaired += copied.objects;
    if bad.iter().any(|n| n.starts_with("holds/"))
        || stats.damaged.iter().any(|(n, _)| n.starts_with("holds/"))
    {
        stats.repaired += hold_stubs_again(folder, remote)?;
    }
    Ok(())
}

fn hold_stubs_again(folder: &Folder, remote: &Remote) -> Result<u64> {
    let mut bodies = Vec::new();
    folder.history.each_local(&crate::base::path::RelPath::root(), &mut |row| {
        if row.residency == crate::model::residency::Residency::Stub {
            bodies.extend(row.body);
        }
        Ok(())
    })?;
    super::hold::put(remote, folder.id, folder.origin(), &bodies)?;
    Ok(u64::from(!bodies.is_empty()))
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
    for (body, size) in bodies {
        folder.context.cancel.check()?;
        let lacking = lacking(remotes, remote, body, size, &mut opener)?;
        if lacking.is_empty() {
            continue;
        }
        let fetched = if repair { fetch_from_others(remotes, remote, &lacking, &mut opener)? } else { 0 };
        stats.repaired += fetched;
        if fetched < lacking.len() as u64 {
            stats.missing += 1;
        }
    }
    if repair { remote.packs.flush() } else { Ok(()) }
}

/// Records of a content that this store does not have.
fn lacking(
    remotes: &Remotes,
    remote: &Remote,
    body: Body,
    size: u64,
    opener: &mut Opener,
) -> Result<Vec<RecordId>> {
    let mut ids = vec![body.id];
    if body.kind == Kind::Manifest {
        match remotes.records_of(body, size, opener) {
            Ok(all) => ids = all,
            // Nowhere to be found: then at least the manifest itself is what is missing.
            Err(_) => return Ok(ids),
        }
    }
    let has = remote.packs.has(&ids)?;
    Ok(ids.into_iter().zip(has).filter(|(_, has)| !has).map(|(id, _)| id).collect())
}

fn fetch_from_others(
    remotes: &Remotes,
    remote: &Remote,
    ids: &[RecordId],
    opener: &mut Opener,
) -> Result<u64> {
    let mut done = HashSet::new();
    for other in remotes.online.iter().filter(|r| r.packs.id() != remote.packs.id()) {
        let wanted: Vec<RecordId> = ids.iter().copied().filter(|id| !done.contains(id)).collect();
        let mut found: Vec<Sealed> = Vec::new();
        other.packs.get(&wanted, &mut |_, got| {
            found.extend(got.ok().filter(|sealed| opener.verify(sealed).is_ok()));
            Ok(())
        })?;
        for sealed in found {
            done.insert(sealed.id);
            remote.packs.put(sealed)?;
        }
    }
    Ok(done.len() as u64)
}
