//! Bringing stores level: every content on the stores that its tier wants it on, and moved on to the
//! next tier when it has not been used for long.
//!
//! Promises (I1) that nothing is released before as many copies as the tier wants are proven there:
//! durable, held, and asked for again. Nothing is deleted here; what is no longer held, gc frees. It
//! can be interrupted at any point and run again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::folder::Folder;
use super::heal::good_copies;
use super::manifests::{Asked, manifests};
use super::policy::aging::Aging;
use super::remotes::{Remote, Remotes};
use super::targets::{self, Tier};
use super::{behind, hold};
use crate::base::error::{Error, Result};
use crate::base::id::{RecordId, StoreId};
use crate::base::path::RelPath;
use crate::base::units::Time;
use crate::format::seal::Opener;
use crate::model::entry::{Body, Kind};
use crate::model::placement::{self, Members};
use crate::store::{Store, holds};

/// Contents whose records are asked for together.
const BATCH: usize = 256;
/// Contents and stored bytes after which copies are made durable and proven.
const GROUP: usize = 4096;
const GROUP_BYTES: u64 = 256 << 20;

/// What to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct LevelOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Also move on what was not used for longer than its tier keeps it.
    pub moves: bool,
    /// Stop after so many stored bytes or so much time.
    pub limit: Option<(u64, Duration)>,
}

/// How a content stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It was (or would be) copied to where it was missing.
    Copied,
    /// It was (or would be) moved on to another tier.
    Moved,
    /// It has fewer copies than its tier wants, and there is no store for more.
    Short,
    /// No reachable store has all of it.
    Lost,
}

/// A content that is not as it should be.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The content.
    pub body: Body,
    /// Its size.
    pub size: u64,
    /// Name of the tier that should have it.
    pub tier: String,
    /// Failure domains of that tier that had all of it.
    pub copies: usize,
    /// How many should.
    pub wanted: usize,
    /// What becomes of it.
    pub state: State,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct LevelStats {
    /// Contents looked at.
    pub contents: u64,
    /// Contents that were copied, and their bytes.
    pub copied: (u64, u64),
    /// Contents that were moved on.
    pub moved: (u64, u64),
    /// Contents with too few copies.
    pub short: (u64, u64),
    /// Contents that no reachable store has.
    pub lost: (u64, u64),
    /// Stored bytes that were written.
    pub written: u64,
    /// Whether the limit ended it.
    pub stopped: bool,
}

impl LevelStats {
    fn count(&mut self, finding: &Finding) {
        let slot = match finding.state {
            State::Copied => &mut self.copied,
            State::Moved => &mut self.moved,
            State::Short => &mut self.short,
            State::Lost => &mut self.lost,
        };
        slot.0 += 1;
        slot.1 += finding.size;
    }
}

/// One content and where its records are.
struct Content {
    named: Named,
    /// First chunk: what placement goes by.
    key: RecordId,
    records: Vec<(RecordId, Kind)>,
    /// Per tier and record, who has it.
    has: Vec<Vec<Members>>,
    /// Whether some reachable store has each record.
    somewhere: bool,
}

/// Looks at every content of history and puts it where it belongs; `sink` is told of each that is not
/// as it should be.
pub fn level(
    folder: &mut Folder,
    remotes: &Remotes,
    options: LevelOptions,
    sink: &mut dyn FnMut(&Finding) -> Result<()>,
) -> Result<LevelStats> {
    let mut tiers = targets::tiers(folder, remotes)?;
    let aging = if options.moves { Some(Aging::of(folder)?) } else { None };
    for tier in &mut tiers {
        tier.keep = tier.keep.or_else(|| aging.as_ref()?.keep(&tier.name));
    }
    let bodies = bodies(folder, aging.as_ref())?;
    folder.context.progress.stage("looking at contents", bodies.len() as u64, false);
    let mine = if options.dry_run { HashMap::new() } else { my_holds(folder, remotes)? };
    let opener = Opener::new(&folder.keys)?;
    let mut run = Run {
        remotes,
        tiers,
        options,
        mine,
        opener,
        since: Instant::now(),
        stats: LevelStats::default(),
        waiting: Vec::new(),
        bytes: 0,
    };
    for batch in bodies.chunks(BATCH) {
        folder.context.cancel.check()?;
        for content in run.look(batch)? {
            run.settle(&content, sink)?;
        }
        folder.context.progress.advance(batch.len() as u64);
        if run.waiting.len() >= GROUP || run.bytes >= GROUP_BYTES {
            run.prove(folder)?;
        }
        let limit = options.limit.unwrap_or((u64::MAX, Duration::MAX));
        if run.stats.written >= limit.0 || run.since.elapsed() >= limit.1 {
            run.stats.stopped = run.stats.contents < bodies.len() as u64;
            break;
        }
    }
    run.prove(folder)?;
    remotes.tell_out(folder);
    Ok(run.stats)
}

/// A content that history names.
#[derive(Clone, Copy)]
struct Named {
    body: Body,
    size: u64,
    /// Seconds since it was used.
    age: u64,
    /// No tier before this one is for it.
    nearest: usize,
}

/// Every content that history names.
fn bodies(folder: &Folder, aging: Option<&Aging>) -> Result<Vec<Named>> {
    let mut used: HashMap<Body, (i64, usize)> = HashMap::new();
    let now = Time::now();
    if folder.tree.is_some() {
        folder.history.each_local(&RelPath::root(), &mut |row| {
            if let Some(body) = row.body {
                let at = row.ctime.secs.max(row.mtime.secs.min(row.ctime.secs));
                let tier = aging.map_or(0, |aging| aging.nearest(&row, at, now));
                let (last, nearest) = used.entry(body).or_insert((i64::MIN, usize::MAX));
                (*last, *nearest) = ((*last).max(at), (*nearest).min(tier));
            }
            Ok(())
        })?;
    }
    let (mut seen, mut all) = (HashSet::new(), Vec::new());
    folder.history.each_body(&mut |body, size| {
        if seen.insert(body) {
            let known = used.get(&body);
            // What no file here has any more is old: only history keeps it.
            let age = known.map_or(u64::MAX, |(last, _)| now.secs.saturating_sub(*last).max(0) as u64);
            all.push(Named { body, size, age, nearest: known.map_or(0, |(_, nearest)| *nearest) });
        }
        Ok(())
    })?;
    Ok(all)
}

/// What this peer holds on each store.
fn my_holds(folder: &Folder, remotes: &Remotes) -> Result<HashMap<StoreId, HashSet<Body>>> {
    let me = folder.origin();
    let mut all = HashMap::new();
    for remote in &remotes.online {
        let mut held = HashSet::new();
        remote.member.ask(|_| {
            holds::held(remote.packs.bucket().as_ref(), |origin, body| {
                if origin == me {
                    held.insert(body);
                }
            })
        })?;
        all.insert(remote.packs.id(), held);
    }
    Ok(all)
}

struct Run<'a> {
    remotes: &'a Remotes,
    tiers: Vec<Tier>,
    options: LevelOptions,
    mine: HashMap<StoreId, HashSet<Body>>,
    opener: Opener,
    since: Instant,
    stats: LevelStats,
    /// Contents to be proven on the tier of this number, with their records.
    waiting: Vec<(Body, usize, Vec<RecordId>)>,
    bytes: u64,
}

impl Run<'_> {
    /// Finds the records of some contents, and who has them.
    fn look(&mut self, batch: &[Named]) -> Result<Vec<Content>> {
        let mut contents = Vec::with_capacity(batch.len());
        let asked: Vec<Asked> = batch.iter().map(|named| (named.body, named.size)).collect();
        let found = manifests(self.remotes, &asked, &mut self.opener)?;
        for (named, manifest) in batch.iter().zip(found) {
            self.stats.contents += 1;
            let mut records = vec![(named.body.id, named.body.kind)];
            let mut key = named.body.id;
            let mut somewhere = true;
            if let Some(manifest) = manifest {
                match manifest {
                    Ok(m) => {
                        records.splice(0..0, m.data().map(|(_, id, _)| (id, Kind::Chunk)));
                        key = records[0].0;
                    }
                    Err(Error::Interrupted) => return Err(Error::Interrupted),
                    Err(_) => somewhere = false,
                }
            }
            contents.push(Content { named: *named, key, records, has: Vec::new(), somewhere });
        }
        let ids: Vec<RecordId> = contents.iter().flat_map(|c| c.records.iter().map(|(id, _)| *id)).collect();
        let mut anywhere = vec![false; ids.len()];
        let mut by_store: HashMap<StoreId, Vec<bool>> = HashMap::new();
        for remote in &self.remotes.online {
            let has = remote.member.ask(|store| store.has(&ids))?.unwrap_or_else(|| vec![false; ids.len()]);
            anywhere.iter_mut().zip(&has).for_each(|(any, has)| *any |= has);
            by_store.insert(remote.packs.id(), has);
        }
        let mut at = 0;
        for content in &mut contents {
            let range = at..at + content.records.len();
            at = range.end;
            content.somewhere &= anywhere[range.clone()].iter().all(|any| *any);
            for tier in &self.tiers {
                let has =
                    |i: usize, n: usize| by_store.get(&tier.members[i].packs.id()).is_some_and(|h| h[n]);
                let who = |n: usize| Members::of(tier.members.len(), |i| has(i, n));
                content.has.push(range.clone().map(who).collect());
            }
        }
        Ok(contents)
    }

    /// Copies what is missing, and notes what is to be proven.
    fn settle(&mut self, content: &Content, sink: &mut dyn FnMut(&Finding) -> Result<()>) -> Result<()> {
        let keep: Vec<Option<u64>> = self.tiers.iter().map(|t| t.keep.map(|k| k.as_secs())).collect();
        let chunks = || (0..content.records.len()).filter(|n| content.records[*n].1 == Kind::Chunk);
        let is_whole = |t: usize| chunks().all(|n| !content.has[t][n].is_empty()) && content.somewhere;
        let whole = Members::of(self.tiers.len(), is_whole);
        let stays = placement::home(whole, &vec![None; keep.len()], 0);
        let due = |Named { age, nearest, .. }: Named| placement::home(whole, &keep, age).max(nearest);
        let home = if self.options.moves { due(content.named) } else { stays };
        // A tier of which nothing can be reached takes nothing; later, then.
        let home = if self.tiers[home].members.is_empty() { stays } else { home };
        let tier = &self.tiers[home];
        let copies = chunks().map(|n| tier.rule.domains(content.has[home][n])).min().unwrap_or(0);
        let wanted = tier.rule.copies;
        let mut finding = Finding {
            body: content.named.body,
            size: content.named.size,
            tier: tier.name.clone(),
            copies,
            wanted,
            state: State::Lost,
        };
        if !content.somewhere {
            self.stats.count(&finding);
            return sink(&finding);
        }
        // Shared chunks may lie on several tiers; as long as each is kept, that is as good.
        let kept = |n: usize| {
            let each = self.tiers.iter().zip(&content.has);
            each.into_iter().any(|(t, has)| {
                t.rule.domains(has[n]) >= t.rule.copies && t.rule.is_kept(has[n], t.writable())
            })
        };
        let all_kept = chunks().all(kept);
        let moves = home != stays;
        let orders = match !moves && whole.is_empty() && all_kept {
            true => BTreeMap::new(),
            false => self.orders(content, home),
        };
        let copied = !orders.is_empty();
        if copied && !self.options.dry_run {
            self.copy(content, &orders)?;
        }
        let tier = &self.tiers[home];
        let after = |n: usize| {
            let more = orders.get(&n).map_or(Members::default(), |(_, to)| *to);
            tier.rule.domains(content.has[home][n].union(more))
        };
        let is_short = chunks().map(after).min().unwrap_or(0) < wanted && !all_kept;
        finding.state = match (is_short, moves) {
            (true, _) => State::Short,
            (false, true) => State::Moved,
            (false, false) => State::Copied,
        };
        if copied || is_short || moves {
            self.stats.count(&finding);
            sink(&finding)?;
        }
        if !self.options.dry_run && (copied || moves || self.held_elsewhere(content.named.body, home)) {
            let records = content.records.iter().map(|(id, _)| *id).collect();
            self.waiting.push((content.named.body, home, records));
        }
        Ok(())
    }

    /// Per record (by number), the members of the home tier, and of all the stores, that should get it.
    fn orders(&self, content: &Content, home: usize) -> BTreeMap<usize, (Vec<Remote>, Members)> {
        let mut orders: BTreeMap<usize, (Vec<Remote>, Members)> = BTreeMap::new();
        for (t, tier) in self.tiers.iter().enumerate() {
            for (n, (_, kind)) in content.records.iter().enumerate() {
                // Manifests are everywhere.
                if t != home && *kind == Kind::Chunk {
                    continue;
                }
                let to = tier.rule.wanted(&content.key, *kind, content.has[t][n], tier.writable());
                if to.is_empty() {
                    continue;
                }
                let slot = orders.entry(n).or_default();
                slot.0.extend(to.iter().map(|i| tier.members[i].clone()));
                if t == home {
                    slot.1 = to;
                }
            }
        }
        orders
    }

    fn copy(&mut self, content: &Content, orders: &BTreeMap<usize, (Vec<Remote>, Members)>) -> Result<()> {
        let mut bytes = 0;
        // Chunks before their manifest.
        for kind in [Kind::Chunk, Kind::Manifest] {
            let mut wanted: HashMap<RecordId, &[Remote]> = HashMap::new();
            for (n, (to, _)) in orders.iter().filter(|(n, _)| content.records[**n].1 == kind) {
                wanted.insert(content.records[*n].0, to);
            }
            let ids: Vec<RecordId> = wanted.keys().copied().collect();
            good_copies(self.remotes, &ids, &mut self.opener, &mut |sealed| {
                for remote in wanted.get(&sealed.id).copied().unwrap_or_default() {
                    remote.member.write(|store| store.put(content.key, sealed.clone()))?;
                    bytes += sealed.payload.len() as u64;
                }
                Ok(())
            })?;
        }
        self.bytes += bytes;
        self.stats.written += bytes;
        Ok(())
    }

    /// The stores that need not keep what is proven on a tier: nearer ones, and those being drained.
    fn releasing(&self, home: usize) -> impl Iterator<Item = &Remote> {
        let near = self.tiers[..home].iter().flat_map(|t| t.members.iter());
        let tier = &self.tiers[home];
        let drained = tier.members.iter().zip(&tier.rule.seats).filter(|(_, seat)| seat.weight == 0);
        near.chain(drained.map(|(r, _)| r))
    }

    fn held_elsewhere(&self, body: Body, home: usize) -> bool {
        self.releasing(home).any(|r| self.mine.get(&r.packs.id()).is_some_and(|mine| mine.contains(&body)))
    }

    /// Makes copies durable, holds them, asks again, and releases the rest.
    fn prove(&mut self, folder: &mut Folder) -> Result<()> {
        self.bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        for remote in &self.remotes.online {
            remote.member.write(|store| store.flush())?;
        }
        for home in 0..self.tiers.len() {
            let part: Vec<_> = waiting.iter().filter(|(_, t, _)| *t == home).collect();
            if part.is_empty() {
                continue;
            }
            let proven = prove_on(folder, &self.tiers[home], &part)?;
            for remote in self.releasing(home) {
                let mine = self.mine.get(&remote.packs.id());
                let is_mine = |body: &&Body| mine.is_some_and(|mine| mine.contains(body));
                let gone: Vec<Body> = proven.iter().filter(is_mine).copied().collect();
                if !gone.is_empty() {
                    let (id, origin) = (folder.id, folder.origin());
                    remote
                        .member
                        .write(|_| hold::release(&mut folder.history, remote, id, origin, gone, None))?;
                }
            }
        }
        Ok(())
    }
}

/// Holds contents on a tier and asks it for every record; returns those that it has as it should.
fn prove_on(folder: &mut Folder, tier: &Tier, part: &[&(Body, usize, Vec<RecordId>)]) -> Result<Vec<Body>> {
    let ids: Vec<RecordId> = part.iter().flat_map(|(_, _, records)| records.iter().copied()).collect();
    let verify = folder.config.verify_every()?.as_secs() as i64;
    let mut has = vec![Members::default(); ids.len()];
    for i in tier.counting().iter() {
        let remote = &tier.members[i];
        let answer = remote.member.ask(|_| {
            let mut answers = remote.packs.has(&ids)?.into_iter();
            let mut bodies = Vec::new();
            for (body, _, records) in part {
                if answers.by_ref().take(records.len()).filter(|has| *has).count() > 0 {
                    bodies.push(*body);
                }
            }
            hold::put(&mut folder.history, remote, folder.id, folder.identity.origin(), &bodies)?;
            remote.packs.refresh()?;
            let had = remote.packs.has(&ids)?;
            let asked: Vec<RecordId> = ids.iter().zip(&had).filter(|(_, h)| **h).map(|(id, _)| *id).collect();
            remote.packs.verify_stale(&asked, Time::now().secs, verify)?;
            remote.packs.has(&ids)
        })?;
        let answer = answer.unwrap_or_default();
        has.iter_mut().zip(answer).filter(|(_, good)| *good).for_each(|(has, _)| *has = has.with(i));
    }
    let mut answers = has.into_iter().map(|has| tier.rule.domains(has) >= tier.rule.copies);
    let proven =
        part.iter().filter(|(_, _, r)| answers.by_ref().take(r.len()).filter(|yes| !yes).count() == 0);
    Ok(proven.map(|(body, ..)| *body).collect())
}

/// How much may be caught up without being asked.
const UNASKED: (u64, Duration) = (1 << 30, Duration::from_secs(10));

/// Brings stores level that missed something, if there are any, within limits.
pub fn catch_up(folder: &mut Folder) -> Result<()> {
    let mut missed = Vec::new();
    for name in folder.config.remote.keys() {
        if behind::behind(&folder.history, name)?.is_some() {
            missed.push(name.clone());
        }
    }
    if missed.is_empty() {
        return Ok(());
    }
    let remotes = Remotes::open(folder)?;
    missed.retain(|name| remotes.online.iter().any(|r| r.name == *name));
    if missed.is_empty() {
        return Ok(());
    }
    let options = LevelOptions { limit: Some(UNASKED), ..LevelOptions::default() };
    let stats = level(folder, &remotes, options, &mut |_| Ok(()))?;
    settle_behind(folder, &remotes, &stats)?;
    let (names, copied) = (missed.join(", "), crate::base::units::count(stats.copied.0, "content"));
    let rest = if stats.stopped { "; the rest: ddr sync" } else { "" };
    if stats.copied.0 > 0 || stats.stopped {
        folder.context.progress.note(&format!("{names} caught up with {copied}{rest}"));
    }
    Ok(())
}

/// Forgets what stores had missed, after all of it was looked at.
pub fn settle_behind(folder: &mut Folder, remotes: &Remotes, stats: &LevelStats) -> Result<()> {
    if stats.stopped {
        return Ok(());
    }
    for remote in remotes.online.iter().filter(|r| r.member.is_at_work()) {
        behind::forget(&mut folder.history, &remote.name)?;
    }
    Ok(())
}
