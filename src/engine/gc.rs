//! Garbage collection: packs that nothing refers to are condemned, and deleted in a later run.
//!
//! Why nothing needed is ever deleted: a placer makes its packs durable, then its log entries or
//! holds, and only then asks the store again whether it has the records. gc (one named owner per
//! store) reads logs and holds, then publishes which packs it condemned; from then on their records
//! count as absent. If the placer's question came before that, its log or hold was durable before
//! it and the second mark, at least a grace period later, finds it; if it came after, the answer is
//! "no" and the content is written anew. gc refuses on any doubt: an unreadable log, hold or pack,
//! another owner, a clock that jumped.

use std::collections::HashSet;
use std::time::Duration;

use super::commit::sync_logs;
use super::folder::Folder;
use super::remotes::{Remote, Remotes};
use crate::base::error::{Error, Result};
use crate::base::id::{PackId, RecordId};
use crate::base::units::Time;
use crate::format::key::origin_id;
use crate::format::mark::{Condemned, Instant, Mark, Owner};
use crate::format::seal::Opener;
use crate::model::entry::{Body, Kind};
use crate::model::reach::{self, Usage};
use crate::store::packs::PackInfo;
use crate::store::{Prune, holds, marks};

/// How gc runs.
#[derive(Debug, Default)]
pub struct GcOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Time between condemning and deleting, instead of the configured one.
    pub grace: Option<Duration>,
    /// Become the owner although another peer is.
    pub take_over: bool,
}

/// What gc did in one store.
#[derive(Clone, Debug, Default)]
pub struct GcStats {
    /// Name of the store.
    pub store: String,
    /// Packs looked at.
    pub packs: u64,
    /// Packs newly condemned, and their bytes.
    pub condemned: u64,
    /// Bytes of all condemned packs.
    pub condemned_bytes: u64,
    /// Packs deleted now.
    pub deleted: u64,
    /// Bytes of those.
    pub deleted_bytes: u64,
}

/// Runs gc in every reachable store.
pub fn gc(folder: &mut Folder, options: &GcOptions) -> Result<Vec<GcStats>> {
    let remotes = Remotes::open_all(folder)?;
    remotes.note_offline(folder);
    sync_logs(folder, &remotes)?;
    let grace = options.grace.map_or_else(|| folder.config.grace(), Ok)?;
    remotes.online.iter().map(|remote| one(folder, &remotes, remote, options, grace)).collect()
}

fn one(
    folder: &Folder,
    remotes: &Remotes,
    remote: &Remote,
    options: &GcOptions,
    grace: Duration,
) -> Result<GcStats> {
    folder.context.progress.stage(&format!("gc {}", remote.name), 0, false);
    let bucket = remote.packs.bucket().as_ref();
    let epoch = own(folder, remote, options)?;
    refuse_doubt(folder, remote)?;
    let live = Live::collect(folder, remotes, remote)?;
    let mut packs = Vec::new();
    remote.packs.packs(&mut |info| {
        packs.push(info);
        Ok(())
    })?;
    let plan = reach::plan(&usage(remote, &packs, &live)?, 0);
    let now = instant()?;
    let before = marks::newest(bucket)?;
    let dead: HashSet<PackId> = plan.condemn.iter().copied().collect();
    let old = before.as_ref().map(|m| m.condemned.clone()).unwrap_or_default();
    let mut due = Vec::new();
    for c in old.iter().filter(|c| dead.contains(&c.pack)) {
        if elapsed(&c.since, &now)? >= grace {
            due.push(c.pack);
        }
    }
    let mut stats = GcStats { store: remote.name.clone(), packs: packs.len() as u64, ..GcStats::default() };
    let size_of = |id: &PackId| packs.iter().find(|p| p.name == *id).map_or(0, |p| p.size);
    stats.condemned = dead.iter().filter(|id| !old.iter().any(|c| c.pack == **id)).count() as u64;
    stats.condemned_bytes = dead.iter().map(size_of).sum();
    stats.deleted = due.len() as u64;
    stats.deleted_bytes = due.iter().map(size_of).sum();
    if options.dry_run {
        return Ok(stats);
    }
    delete(folder, remotes, remote, &due, epoch)?;
    let condemned: Vec<Condemned> = plan
        .condemn
        .iter()
        .filter(|id| !due.contains(id))
        .map(|id| {
            let since = old.iter().find(|c| c.pack == *id).map_or_else(|| now.clone(), |c| c.since.clone());
            Condemned { pack: *id, since }
        })
        .collect();
    if before.is_some() || !condemned.is_empty() {
        let number = before.map_or(1, |m| m.number + 1);
        let mark =
            Mark { requires: vec![], folder: folder.id, number, owner_epoch: epoch, at: now, condemned };
        marks::put(bucket, &mark)?;
        remote.packs.refresh()?;
    }
    Ok(stats)
}

/// Makes sure that this peer owns gc of the store; returns the ownership epoch.
fn own(folder: &Folder, remote: &Remote, options: &GcOptions) -> Result<u64> {
    let bucket = remote.packs.bucket().as_ref();
    let owner = marks::owner(bucket)?;
    let next = match owner {
        Some(owner) if is_me(folder, &owner) => return Ok(owner.epoch),
        Some(owner) if !options.take_over => {
            return Err(Error::Refused(format!(
                "gc of {} belongs to the peer {} ({}); run it there, or take it over for good with --take-over",
                remote.name,
                owner.name,
                owner.origin.short()
            )));
        }
        Some(owner) => owner.epoch + 1,
        None => 1,
    };
    if !options.dry_run {
        let owner = Owner {
            requires: vec![],
            folder: folder.id,
            origin: folder.origin(),
            epoch: next,
            name: folder.name.clone(),
            peer_epoch: folder.identity.epoch,
        };
        marks::claim(bucket, &owner)?;
    }
    Ok(next)
}

/// Whether this peer, now or under an epoch before, is the owner.
fn is_me(folder: &Folder, owner: &Owner) -> bool {
    let same_key = origin_id(&folder.identity.public(), owner.peer_epoch) == owner.origin;
    let before = folder.instance.as_ref().is_some_and(|i| i.was(owner.peer_epoch));
    owner.origin == folder.origin() || (same_key && before)
}

/// Anything unreadable in the store's packs or logs stops gc.
fn refuse_doubt(folder: &Folder, remote: &Remote) -> Result<()> {
    let doubt = |why: String| {
        Err(Error::Refused(format!(
            "gc of {} is not safe: {why}; run `ddr fsck --repair` first",
            remote.name
        )))
    };
    let opened = remote.packs.refresh()?;
    if let Some((name, error)) = opened.damaged.first() {
        return doubt(format!("{name}: {error}"));
    }
    let known = folder.history.knowledge()?;
    for (origin, objects) in crate::history::log::survey(remote.packs.bucket().as_ref())? {
        let have = known.iter().find(|d| d.origin == origin).map_or(0, |d| d.number);
        if objects.iter().any(|o| o.to > have) {
            return doubt(format!("its log of {} could not be read whole", origin.short()));
        }
    }
    Ok(())
}

/// Every record that history or a hold refers to, by the first eight bytes of its id: a false
/// match only keeps something dead.
struct Live(HashSet<u64>);

impl Live {
    fn collect(folder: &Folder, remotes: &Remotes, remote: &Remote) -> Result<Self> {
        let mut live = Self(HashSet::new());
        let mut manifests: HashSet<(Body, u64)> = HashSet::new();
        folder.history.each_body(&mut |body, size| {
            live.add(&body.id);
            if body.kind == Kind::Manifest {
                manifests.insert((body, size));
            }
            Ok(())
        })?;
        let mut held = Vec::new();
        holds::held(remote.packs.bucket().as_ref(), |_, body| held.push(body))?;
        let mut opener = Opener::new(&folder.keys)?;
        let sized: HashSet<RecordId> = manifests.iter().map(|(b, _)| b.id).collect();
        for body in held {
            live.add(&body.id);
            if body.kind == Kind::Manifest && !sized.contains(&body.id) {
                live.add_manifest(&remotes.read(body.id, &mut opener)?, None)?;
            }
        }
        for (body, size) in manifests {
            folder.context.cancel.check()?;
            match remotes.read(body.id, &mut opener) {
                Ok(raw) => live.add_manifest(&raw, Some(size))?,
                // Recorded while no store was reachable: there is nothing of it to protect.
                Err(Error::Missing(_)) => {}
                // It may say which chunks are needed here.
                Err(e @ Error::Offline { .. }) => return Err(e),
                Err(e) => {
                    return Err(Error::Refused(format!("gc is not safe: a manifest is unreadable: {e}")));
                }
            }
        }
        Ok(live)
    }

    fn add(&mut self, id: &RecordId) {
        self.0.insert(key(id));
    }

    fn add_manifest(&mut self, raw: &[u8], size: Option<u64>) -> Result<()> {
        let manifest = match size {
            Some(size) => crate::format::manifest::decode(raw, size)?,
            None => crate::format::manifest::decode_any(raw)?,
        };
        manifest.data().for_each(|(_, id, _)| self.add(&id));
        Ok(())
    }

    fn has(&self, id: &RecordId) -> bool {
        self.0.contains(&key(id))
    }
}

fn key(id: &RecordId) -> u64 {
    id.0[..8].iter().fold(0, |k, b| k << 8 | u64::from(*b))
}

fn usage(remote: &Remote, packs: &[PackInfo], live: &Live) -> Result<Vec<Usage>> {
    let mut all = Vec::with_capacity(packs.len());
    for info in packs {
        let mut bytes = 0;
        remote.packs.rows(info.num, &mut |row| {
            bytes += if live.has(&row.id) { u64::from(row.stored).max(1) } else { 0 };
            Ok(())
        })?;
        all.push(Usage { pack: info.name, live: bytes, total: info.size });
    }
    Ok(all)
}

/// Deletes packs whose time has come, after looking once more at everything that may protect them.
fn delete(folder: &Folder, remotes: &Remotes, remote: &Remote, due: &[PackId], epoch: u64) -> Result<()> {
    if due.is_empty() {
        return Ok(());
    }
    let owner = marks::owner(remote.packs.bucket().as_ref())?;
    if owner.is_none_or(|o| o.epoch != epoch || !is_me(folder, &o)) {
        return Err(Error::Refused(format!("gc of {} was taken over by another peer", remote.name)));
    }
    let live = Live::collect(folder, remotes, remote)?;
    let mut dead = Vec::new();
    remote.packs.packs(&mut |info| {
        if !due.contains(&info.name) {
            return Ok(());
        }
        let mut used = false;
        remote.packs.rows(info.num, &mut |row| {
            used |= live.has(&row.id);
            Ok(())
        })?;
        if !used {
            dead.push(info.name);
        }
        Ok(())
    })?;
    remote.packs.remove(&dead)
}

/// The clocks now.
fn instant() -> Result<Instant> {
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec as u64;
    let path = "/proc/sys/kernel/random/boot_id";
    let boot = std::fs::read_to_string(path).map_err(|e| Error::io("reading", path, e))?;
    Ok(Instant { wall: Time::now(), uptime, boot: boot.trim().into() })
}

/// Time between two instants, or a refusal if the clocks contradict each other.
fn elapsed(then: &Instant, now: &Instant) -> Result<Duration> {
    let wall = now.wall.secs - then.wall.secs;
    let jumped = || Err(Error::Refused("gc is not safe: the clock has jumped; run it again later".into()));
    if wall < 0 {
        return jumped();
    }
    if then.boot == now.boot {
        let up = now.uptime as i64 - then.uptime as i64;
        if (wall - up).abs() > 3600 {
            return jumped();
        }
    }
    Ok(Duration::from_secs(wall as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_stops_gc() {
        let at =
            |secs, uptime, boot: &str| Instant { wall: Time { secs, nanos: 0 }, uptime, boot: boot.into() };
        assert_eq!(elapsed(&at(100, 10, "a"), &at(160, 70, "a")).expect("steady").as_secs(), 60);
        assert!(elapsed(&at(100, 10, "a"), &at(90, 20, "a")).is_err());
        assert!(elapsed(&at(100, 10, "a"), &at(1_000_000, 20, "a")).is_err());
        assert!(elapsed(&at(100, 10, "a"), &at(1_000_000, 20, "b")).is_ok());
    }
}
