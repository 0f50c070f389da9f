//! Garbage collection: what nothing refers to is condemned, and deleted in a later run.
//!
//! Why nothing needed is ever deleted: a placer makes its packs durable, then its log entries or
//! holds, and only then asks the store again whether it has the records. gc (one named owner per
//! store) reads logs and holds, then publishes which packs it condemned; from then on their records
//! count as absent. If the placer's question came before that, its log or hold was durable before
//! it and the second mark, at least a grace period later, finds it; if it came after, the answer is
//! "no" and the content is written anew. A pack that is needed in part is condemned once the needed
//! records are durable in other packs, and the second mark makes sure that they still are. gc refuses
//! on any doubt: an unreadable log, hold or pack, another owner, a clock that jumped.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::clock;
use super::commit::sync_logs;
use super::folder::Folder;
use super::keeper::Keeper;
use super::live::{Keeps, Live};
use super::release::release;
use super::remotes::{Remote, Remotes};
use super::rewrite::{self, Rewriting};
use crate::base::error::{Error, Result};
use crate::base::id::{PackId, RecordId};
use crate::base::units::Time;
use crate::format::key::origin_id;
use crate::format::mark::{Condemned, Instant, Mark, Owner};
use crate::model::reach::{self, GcPlan, Limits};
use crate::store::packs::PackInfo;
use crate::store::{Prune, marks};

/// Unreachable share that stays, unless configured, in percent of what is reachable.
const MAX_UNUSED: u64 = 4;
/// Most bytes written anew in one run where the store cannot say how much room it has.
const ROOM: u64 = 1 << 30;

/// How gc runs.
#[derive(Debug, Default)]
pub struct GcOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Time between condemning and deleting, instead of the configured one.
    pub grace: Option<Duration>,
    /// Become the owner although another peer is.
    pub take_over: bool,
    /// Pass over stores that this peer does not own.
    pub owned: bool,
}

/// What gc did in one store.
#[derive(Clone, Debug, Default)]
pub struct GcStats {
    /// Name of the store.
    pub store: String,
    /// Packs looked at.
    pub packs: u64,
    /// Packs newly condemned.
    pub condemned: u64,
    /// Bytes of all condemned packs.
    pub condemned_bytes: u64,
    /// Of the newly condemned packs, those whose needed records were written anew.
    pub rewritten: u64,
    /// Bytes of those records.
    pub rewritten_bytes: u64,
    /// Packs deleted now.
    pub deleted: u64,
    /// Bytes of those.
    pub deleted_bytes: u64,
}

/// Runs gc in every reachable store; also returns why the first of the others is not.
pub fn gc(folder: &mut Folder, options: &GcOptions) -> Result<(Vec<GcStats>, Option<Error>)> {
    let remotes = Remotes::open_all(folder)?;
    match options.dry_run {
        // What others recorded must be known; what they lack must not be sent.
        true => {
            remotes.online.iter().try_for_each(|r| folder.pull_logs(r.packs.bucket().as_ref()).map(drop))?
        }
        false => {
            sync_logs(folder, &remotes)?;
            release(folder, &remotes)?;
        }
    }
    let keeper = Keeper::new(folder, &remotes)?;
    let done = collect(folder, &remotes, options, &|remote, kept| keeper.keeps(&remotes, remote, kept))?;
    Ok((done, remotes.offline.into_iter().next().map(|(_, error)| error)))
}

/// Runs gc in open stores whose logs are level; `keeps` says which contents of history each must keep.
pub fn collect(
    folder: &Folder,
    remotes: &Remotes,
    options: &GcOptions,
    keeps: Keeps,
) -> Result<Vec<GcStats>> {
    let mut done = Vec::new();
    for remote in &remotes.online {
        if !options.owned || owns(folder, remote)? {
            done.push(Run { folder, remotes, remote, options, keeps }.run()?);
        }
    }
    Ok(done)
}

/// Whether gc of a store is this peer's; not where nobody ran it yet.
pub fn owns(folder: &Folder, remote: &Remote) -> Result<bool> {
    Ok(marks::owner(remote.packs.bucket().as_ref())?.is_some_and(|owner| is_me(folder, &owner)))
}

/// One run in one store.
struct Run<'a> {
    folder: &'a Folder,
    remotes: &'a Remotes,
    remote: &'a Remote,
    options: &'a GcOptions,
    keeps: Keeps<'a>,
}

impl Run<'_> {
    fn run(&self) -> Result<GcStats> {
        let Self { folder, remote, options, .. } = *self;
        folder.context.progress.stage(&format!("gc {}", remote.name), 0, false);
        let epoch = own(folder, remote, options)?;
        refuse_doubt(folder, remote)?;
        let live = self.live()?;
        let mut packs: HashMap<i64, PackInfo> = HashMap::new();
        remote.packs.packs(&mut |info| {
            packs.insert(info.num, info);
            Ok(())
        })?;
        let usage = rewrite::usage(remote, &packs, &live)?;
        let now = clock::instant();
        let old = marks::newest(remote.packs.bucket().as_ref())?;
        let still: Vec<Condemned> = old
            .iter()
            .flat_map(|mark| mark.condemned.iter())
            .filter(|c| usage.dead_condemned.contains(&c.pack))
            .cloned()
            .collect();
        let due = self.due(&still, &now)?;
        let sizes: HashMap<PackId, u64> = packs.values().map(|p| (p.name, p.size)).collect();
        let bytes = |ids: &mut dyn Iterator<Item = PackId>| ids.filter_map(|id| sizes.get(&id)).sum::<u64>();
        let mut stats =
            GcStats { store: remote.name.clone(), packs: packs.len() as u64, ..GcStats::default() };
        let gone: HashSet<PackId> = match options.dry_run {
            true => due.iter().copied().collect(),
            false => delete(self, &due, epoch)?.into_iter().collect(),
        };
        stats.deleted = gone.len() as u64;
        stats.deleted_bytes = bytes(&mut gone.iter().copied());
        // Asked after the deletions, which make room.
        let plan = reach::plan(&usage.packs, &self.limits()?);
        let fresh = self.rewrite(&plan, &packs, &live, &mut stats)?;
        let left = still.iter().filter(|c| !gone.contains(&c.pack)).map(|c| c.pack);
        stats.condemned = fresh.len() as u64;
        stats.condemned_bytes = bytes(&mut left.chain(fresh.iter().copied()));
        if !options.dry_run {
            self.mark(old, epoch, &now, (still, fresh, gone))?;
        }
        Ok(stats)
    }

    fn live(&self) -> Result<Live> {
        Live::collect(self.folder, self.remotes, self.remote, self.keeps)
    }

    /// Packs that were condemned long enough ago, in an earlier run.
    fn due(&self, condemned: &[Condemned], now: &Instant) -> Result<Vec<PackId>> {
        let grace = self.options.grace.map_or_else(|| self.folder.config.grace(), Ok)?;
        let mut due = Vec::new();
        for c in condemned {
            if elapsed(&c.since, now)? >= grace {
                due.push(c.pack);
            }
        }
        Ok(due)
    }

    fn limits(&self) -> Result<Limits> {
        let unused_percent = self.folder.config.gc.max_unused.unwrap_or(MAX_UNUSED);
        // Half of it, for others write there, too.
        let room = self.remote.packs.bucket().room()?.map_or(ROOM, |room| room / 2);
        Ok(Limits { unused_percent, room })
    }

    /// Writes anew what is needed of sparse packs; returns all packs that are to be condemned now.
    fn rewrite(
        &self,
        plan: &GcPlan,
        packs: &HashMap<i64, PackInfo>,
        live: &Live,
        stats: &mut GcStats,
    ) -> Result<Vec<PackId>> {
        let by_name: HashMap<PackId, &PackInfo> = packs.values().map(|p| (p.name, p)).collect();
        let infos = |ids: &[PackId]| ids.iter().filter_map(|id| by_name.get(id).copied()).collect::<Vec<_>>();
        let mut fresh = plan.condemn.clone();
        let rewriting = Rewriting { folder: self.folder, remote: self.remote, live };
        let todo = infos(&plan.rewrite);
        let done = match self.options.dry_run {
            true => rewriting.weigh(&todo)?,
            false => rewriting.run(&todo, &infos(&plan.condemn))?,
        };
        stats.rewritten = done.packs.len() as u64;
        stats.rewritten_bytes = done.bytes;
        fresh.extend(done.packs);
        Ok(fresh)
    }

    /// Publishes what is condemned now.
    fn mark(
        &self,
        before: Option<Mark>,
        epoch: u64,
        now: &Instant,
        (still, fresh, gone): (Vec<Condemned>, Vec<PackId>, HashSet<PackId>),
    ) -> Result<()> {
        let mut condemned: Vec<Condemned> = still.into_iter().filter(|c| !gone.contains(&c.pack)).collect();
        condemned.extend(fresh.into_iter().map(|pack| Condemned { pack, since: now.clone() }));
        if before.is_none() && condemned.is_empty() {
            return Ok(());
        }
        let number = before.map_or(1, |m| m.number + 1);
        let folder = self.folder.id;
        let mark = Mark { requires: vec![], folder, number, owner_epoch: epoch, at: now.clone(), condemned };
        marks::put(self.remote.packs.bucket().as_ref(), &mark)?;
        self.remote.packs.refresh().map(drop)
    }
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

/// Deletes packs whose time has come, after looking once more at everything that may protect them;
/// returns those that are gone. Their tables are read from the store itself, and what is needed of
/// them must be proven to be in other packs.
fn delete(run: &Run, due: &[PackId], epoch: u64) -> Result<Vec<PackId>> {
    let Run { folder, remote, .. } = *run;
    if due.is_empty() {
        return Ok(Vec::new());
    }
    let owner = marks::owner(remote.packs.bucket().as_ref())?;
    if owner.is_none_or(|o| o.epoch != epoch || !is_me(folder, &o)) {
        return Err(Error::Refused(format!("gc of {} was taken over by another peer", remote.name)));
    }
    let live = run.live()?;
    let due: HashSet<PackId> = due.iter().copied().collect();
    let mut dead = Vec::new();
    remote.packs.packs(&mut |info| {
        if !due.contains(&info.name) {
            return Ok(());
        }
        let mut used: Vec<RecordId> = Vec::new();
        remote.packs.rows(info.num, &mut |row| {
            used.extend(live.has(&row.id).then_some(row.id));
            Ok(())
        })?;
        if used.is_empty() || are_elsewhere(folder, remote, &used)? {
            dead.push(info.name);
        }
        Ok(())
    })?;
    remote.packs.remove(&dead)?;
    Ok(dead)
}

/// Whether these records of a condemned pack count in others, read back if that is long ago.
fn are_elsewhere(folder: &Folder, remote: &Remote, ids: &[RecordId]) -> Result<bool> {
    let age = folder.config.verify_every()?.as_secs() as i64;
    let failed = remote.packs.verify_stale(ids, Time::now().secs, age)?;
    Ok(failed.is_empty() && crate::store::Store::has(remote.packs.as_ref(), ids)?.iter().all(|has| *has))
}

/// Time between two instants, or a refusal if the clocks contradict each other.
fn elapsed(then: &Instant, now: &Instant) -> Result<Duration> {
    let jumped = || Error::Refused("gc is not safe: the clock has jumped; run it again later".into());
    clock::elapsed(then, now).ok_or_else(jumped)
}
