//! Each kind of work once: the folder is opened, an engine verb called, the folder closed.
//!
//! Promises the folder's lock only while it works: a command that waits for it ends the work at its next
//! consistent point, and so does a stop. What is done is bounded, so that the next look at what is due
//! comes soon; [`Outcome::more`] says that there is more of it.

use std::path::Path;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::clock::Moment;
use super::seen::Uses;
use super::state::{Told, wall};
use super::triggers::Work;
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::base::units::{count, size};
use crate::engine::apply::apply_on;
use crate::engine::behind;
use crate::engine::clock;
use crate::engine::commit::{CommitOptions, CommitStats, commit_on, sync_logs};
use crate::engine::folder::{Access, Context, Folder, is_wanted, make_room};
use crate::engine::gc::{GcOptions, gc};
use crate::engine::heal::heal;
use crate::engine::level::{LevelOptions, LevelStats, level, settle_behind};
use crate::engine::mend;
use crate::engine::policy::plan::plan;
use crate::engine::remotes::Remotes;
use crate::engine::room::{Measured, disk_used};
use crate::engine::scrub::scrub;
use crate::engine::stash::Run;
use crate::engine::survey::{Change, survey};
use crate::local::scan::{Scan, ScanOptions, Seen as Met};
use crate::model::entry::FileKind;
use crate::model::residency::Residency;

/// How often a run at work looks whether it is to give way.
const GLANCE: Duration = Duration::from_millis(100);
/// Stored bytes and time after which bringing stores level pauses.
const SLICE: (u64, Duration) = (256 << 20, Duration::from_secs(30));
/// Above high water so much that is not on the stores yet is placed before the next look.
const URGENT: u64 = 64 << 20;
/// Told until it is over; how much, the plan says.
const SHORT: &str = "above high water, and too little may go; see ddr policy plan";
/// Bytes after which scrubbing pauses.
const SCRUB_SLICE: u64 = 64 << 20;

/// How work went.
#[derive(Debug, Default)]
pub struct Outcome {
    /// It stopped at a limit.
    pub more: bool,
    /// It changed nothing of why it was due.
    pub useless: bool,
    /// It found nothing to do.
    pub vain: bool,
    /// The whole tree is to be looked at.
    pub rescan: bool,
    /// A store is there again.
    pub back: bool,
    /// Changes were recorded, and so are on the stores.
    pub recorded: bool,
    /// What the tree took before anything went.
    pub measured: Option<Measured>,
    /// Stores are to be asked: one that had missed something is there.
    pub contact: bool,
}

/// One run in one folder.
pub struct Hands<'a> {
    /// The peer's directory.
    pub dir: &'a Path,
    /// Directories and watchers; its `cancel` is the daemon's.
    pub context: &'a Context,
    /// Who hears of it.
    pub told: &'a Told,
    /// How often in a row bringing level reached its time without writing anything.
    pub patience: u32,
    /// Bytes that may still be scrubbed today.
    pub scrub: u64,
}

impl Hands<'_> {
    /// Commits changed paths, or the whole tree.
    pub fn commit(&self, paths: Option<&[RelPath]>) -> Result<Outcome> {
        let seen = self.look()?;
        let changed = match paths {
            Some(paths) => worthwhile(&seen, paths)?,
            None => vec![RelPath::root()],
        };
        if changed.is_empty() {
            return Ok(Outcome::default());
        }
        let remotes = Remotes::targets(&seen)?;
        drop(seen);
        let whole = paths.is_none();
        if whole {
            self.told.begin_anew();
        }
        self.with_folder(|folder| {
            let stats = commit_on(folder, &remotes, &changed, &CommitOptions::default())?;
            self.tell_commit(&stats);
            if whole {
                remember(folder, Work::Rescan)?;
            }
            // A store that was known to be there missed this: sooner asked, sooner level.
            let missed = !missed(folder)?.is_empty() && self.told.state().away.is_empty();
            let recorded = stats.recorded > 0;
            Ok(Outcome { contact: missed && recorded, recorded, ..Outcome::default() })
        })
    }

    fn tell_commit(&self, stats: &CommitStats) {
        if stats.recorded + stats.deleted > 0 {
            self.told.state().last_commit = Some((wall(), stats.recorded + stats.deleted));
            let gone = if stats.deleted > 0 { format!(", {} gone", stats.deleted) } else { String::new() };
            self.told.say(&format!("recorded {}{gone}", count(stats.recorded, "path")));
        }
    }

    /// Writes down which files were opened.
    pub fn uses(&self, uses: &Uses) -> Result<Outcome> {
        self.with_folder(|folder| put_used(folder, uses).map(|()| Outcome::default()))
    }

    /// Runs the policy, which is to know of the files that were opened until now; `by_age` where nothing
    /// but their age calls for it. What is set aside for a full disk is given only where something may go,
    /// or where without it nobody can tell.
    pub fn stash(&self, uses: &Uses, by_age: bool) -> Result<Outcome> {
        let stores = || {
            let seen = self.look()?;
            let remotes = Remotes::open(&seen)?;
            Ok(Run::on(&seen, remotes, None))
        };
        let run = match stores() {
            Err(Error::NoSpace(_)) => {
                make_room(self.dir);
                stores()
            }
            run => run,
        };
        let mut run = Some(run?);
        match self.with_folder(|folder| self.carry_out(folder, uses, by_age, &mut run)) {
            // Not even the plan could be made.
            Err(Error::NoSpace(_)) if matches!(run, Some(Ok(_))) => {
                self.with_opened(Access::Relieve, |folder| self.carry_out(folder, uses, by_age, &mut run))
            }
            done => done,
        }
    }

    /// Makes the plan, and does what it says; takes the run, or why there can be none, for that.
    fn carry_out(
        &self,
        folder: &mut Folder,
        uses: &Uses,
        by_age: bool,
        run: &mut Option<Result<Run>>,
    ) -> Result<Outcome> {
        put_used(folder, uses)?;
        if by_age {
            clock::refuse_jump(folder)?;
        }
        let disk = disk_used(self.dir).unwrap_or(0);
        let mut plan = plan(folder)?;
        let measured = plan.room.map(|room| Measured { tree: room.used, disk });
        let (over, short) = (plan.excess, plan.short);
        remember(folder, Work::Stash)?;
        let Some(run) = run.take_if(|_| plan.chosen.files > 0) else {
            self.told.state().last_policy = Some((wall(), 0, 0));
            return Ok(Outcome { useless: over > 0, vain: over == 0, measured, ..Outcome::default() });
        };
        let run = run?;
        make_room(self.dir);
        // Far above, each look is worth more.
        let most = if by_age { u64::MAX } else { URGENT.max(over / 2) };
        let done = apply_on(folder, &mut plan, run, most)?;
        let (files, freed) = (done.stats.stashed, done.stats.freed_bytes);
        self.told.state().last_policy = Some((wall(), files, freed));
        self.told.say(&format!("stashed {}, freeing {}", count(files, "file"), size(freed)));
        match short {
            0 => self.told.state().problems.retain(|problem| problem != SHORT),
            _ => self.told.trouble(SHORT.into()),
        }
        match done.stopped {
            Some(why) => Err(Error::Problems(why)),
            None => Ok(Outcome { useless: over > 0 && files == 0, measured, ..Outcome::default() }),
        }
    }

    /// Exchanges histories with the stores, and brings those level that missed something.
    pub fn contact(&self) -> Result<Outcome> {
        let remotes = Remotes::open(&self.look()?)?;
        if remotes.online.is_empty() {
            self.note_away(&remotes);
            return Ok(Outcome { useless: true, ..Outcome::default() });
        }
        self.with_folder(|folder| {
            let back = self.note_away(&remotes);
            sync_logs(folder, &remotes)?;
            let missed = missed(folder)?;
            let here: Vec<&String> =
                missed.iter().filter(|name| remotes.online.iter().any(|r| r.name == **name)).collect();
            let mut outcome = Outcome { useless: !remotes.offline.is_empty(), ..Outcome::default() };
            if !here.is_empty() {
                let stats = self.level(folder, &remotes, false)?;
                settle_behind(folder, &remotes, &stats)?;
                outcome.more = stats.stopped;
                if !stats.stopped {
                    let names: Vec<&str> = here.iter().map(|s| s.as_str()).collect();
                    self.told.say(&format!("{} caught up", names.join(", ")));
                }
            }
            heal(folder, &remotes)?;
            // What was recorded while no store was there is placed by a look at everything.
            outcome.back = back;
            outcome.rescan = back && folder.history.meta("unsaved")?.is_some();
            Ok(outcome)
        })
    }

    /// Remembers which stores are away; whether one came back.
    fn note_away(&self, remotes: &Remotes) -> bool {
        let why = |error: &Error| match error {
            Error::Offline { why, .. } => why.clone(),
            e => e.to_string(),
        };
        let now: Vec<(String, String)> =
            remotes.offline.iter().map(|(name, error)| (name.clone(), why(error))).collect();
        let before = std::mem::replace(&mut self.told.state().away, now.clone());
        let is_in = |list: &[(String, String)], name: &str| list.iter().any(|(n, _)| n == name);
        for (name, why) in now.iter().filter(|(name, _)| !is_in(&before, name)) {
            self.told.say(&format!("{name} is away: {why}"));
        }
        let mut back = false;
        for (name, _) in before.iter().filter(|(name, _)| !is_in(&now, name)) {
            self.told.say(&format!("{name} is back"));
            back = true;
        }
        back
    }

    /// Moves contents on to the tiers where they belong.
    pub fn moves(&self) -> Result<Outcome> {
        let remotes = Remotes::open(&self.look()?)?;
        self.with_folder(|folder| {
            clock::refuse_jump(folder)?;
            sync_logs(folder, &remotes)?;
            let stats = self.level(folder, &remotes, true)?;
            if stats.moved.0 > 0 {
                let text = format!("moved {} on ({})", count(stats.moved.0, "content"), size(stats.moved.1));
                self.told.say(&text);
            }
            if !stats.stopped {
                remember(folder, Work::Move)?;
            }
            Ok(Outcome { more: stats.stopped, ..Outcome::default() })
        })
    }

    fn level(&self, folder: &mut Folder, remotes: &Remotes, moves: bool) -> Result<LevelStats> {
        // Where looking alone takes longer, the next slice gets more time.
        let time = SLICE.1.saturating_mul(1 << self.patience.min(10));
        let options = LevelOptions { dry_run: false, moves, limit: Some((SLICE.0, time)) };
        let stats = level(folder, remotes, options, &mut |_| Ok(()))?;
        for (what, sum) in [("too few copies", stats.short), ("no copy that can be reached", stats.lost)] {
            if sum.0 > 0 && !stats.stopped {
                self.told.trouble(format!("{} with {what}; see ddr tier check", count(sum.0, "content")));
            }
        }
        Ok(stats)
    }

    /// Collects garbage in the stores whose gc is this peer's.
    pub fn gc(&self) -> Result<Outcome> {
        self.with_folder(|folder| {
            let (all, _) = gc(folder, &GcOptions { owned: true, ..GcOptions::default() })?;
            for stats in all.iter().filter(|s| s.condemned + s.deleted > 0) {
                let freed = size(stats.deleted_bytes);
                let text = format!("gc of {}: {} condemned, {freed} freed", stats.store, stats.condemned);
                self.told.say(&text);
            }
            remember(folder, Work::Gc)?;
            Ok(Outcome::default())
        })
    }

    /// Reads and checks some packs; also returns how many bytes.
    pub fn scrub(&self) -> Result<(Outcome, u64)> {
        let remotes = Remotes::open_all(&self.look()?)?;
        self.with_folder(|folder| {
            let done = scrub(folder, &remotes, self.scrub.min(SCRUB_SLICE))?;
            for (name, error) in &done.damaged {
                self.told.trouble(format!("{name}: {error}; run: ddr fsck --read-data --repair"));
            }
            if done.healed > 0 {
                let healed = count(done.healed, "record");
                self.told.say(&format!("{healed} put back from other stores"));
            }
            let more = done.more && done.bytes < self.scrub;
            if !more {
                remember(folder, Work::Scrub)?;
            }
            Ok((Outcome { more, ..Outcome::default() }, done.bytes))
        })
    }

    /// The folder without its lock: to look, and to open stores, for a machine that does not answer takes
    /// its time.
    fn look(&self) -> Result<Folder> {
        Folder::open(self.dir, Access::Read, self.context.clone())
    }

    /// Opens the folder, works, and gives way when somebody waits for it. [`Error::Locked`] if a command
    /// has it or waits for it, [`Error::Interrupted`] if the work gave way.
    fn with_folder<T>(&self, work: impl FnOnce(&mut Folder) -> Result<T>) -> Result<T> {
        self.with_opened(Access::Write, work)
    }

    fn with_opened<T>(&self, access: Access, work: impl FnOnce(&mut Folder) -> Result<T>) -> Result<T> {
        if is_wanted(self.dir) {
            return Err(Error::Locked("a command that waits".into()));
        }
        let round = Cancel::default();
        let context = Context { cancel: round.clone(), wait: Duration::ZERO, ..self.context.clone() };
        let (done, over) = bounded::<()>(0);
        let (dir, stop) = (self.dir, &self.context.cancel);
        std::thread::scope(move |scope| {
            scope.spawn(move || {
                while over.recv_timeout(GLANCE) == Err(RecvTimeoutError::Timeout) {
                    if stop.is_cancelled() || is_wanted(dir) {
                        round.cancel();
                    }
                }
            });
            let result = Folder::open(dir, access, context).and_then(|mut folder| {
                if mend::is_needed(&folder)? {
                    mend::mend(&mut folder)?;
                }
                work(&mut folder)
            });
            drop(done);
            result
        })
    }
}

/// Those of the changed paths where something differs from what is recorded. What is ignored, special or
/// in a folder of its own is passed over in silence, and so is what ddr itself did.
fn worthwhile(folder: &Folder, paths: &[RelPath]) -> Result<Vec<RelPath>> {
    let tree = folder.tree()?;
    let options = ScanOptions { cross_devices: folder.config.scan.cross_devices };
    let mut out: Vec<RelPath> = Vec::new();
    for path in paths {
        // In order: what lies below a path that is looked at anyway comes right behind it, or nearly so.
        if out.last().is_some_and(|last| path.is_under(last)) {
            continue;
        }
        let there = match Scan::new(tree, path, options) {
            Ok(mut scan) => match scan.next() {
                Some(Ok(Met::Entry(..))) => true,
                Some(_) => continue,
                None => false,
            },
            // Behind a link or in a folder of its own: the link or folder is a path, too.
            Err(_) => continue,
        };
        if (there || folder.history.local(path)?.is_some()) && differs(folder, path)? {
            out.push(path.clone());
        }
    }
    Ok(out)
}

fn differs(folder: &Folder, path: &RelPath) -> Result<bool> {
    let mut found = false;
    let done = survey(folder, std::slice::from_ref(path), &mut |item| {
        found |= item.change != Change::Same;
        Ok(())
    });
    match done {
        // Gone since, and never recorded.
        Err(e) if e.is_missing() => Ok(false),
        done => done.map(|()| found),
    }
}

/// Writes down what was opened, and when nothing that was opened counts.
fn put_used(folder: &mut Folder, uses: &Uses) -> Result<()> {
    let now = Moment::now();
    if !uses.bursts.is_empty() {
        let mut bursts = folder.history.bursts()?;
        for (first, last) in &uses.bursts {
            bursts.add((now.wall_of(*first).secs, now.wall_of(*last).secs + 1));
        }
        folder.history.put_bursts(&bursts)?;
    }
    let mut files = Vec::new();
    for (path, at) in &uses.opened {
        // Directories are opened, too, and much that is not ours; of a stub nobody has read anything.
        let row = folder.history.local(path)?;
        let is_read = row.is_some_and(|r| r.kind == FileKind::File && r.residency == Residency::Full);
        files.extend(is_read.then(|| (path, now.wall_of(*at))));
    }
    match files.is_empty() {
        true => Ok(()),
        false => folder.history.put_uses(files),
    }
}

/// Stores that are known to have missed something.
fn missed(folder: &Folder) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for name in folder.config.remote.keys() {
        if behind::behind(&folder.history, name)?.is_some() {
            names.push(name.clone());
        }
    }
    Ok(names)
}

/// Remembers when work was done, for the next run of the daemon.
fn remember(folder: &mut Folder, work: Work) -> Result<()> {
    folder.history.set_meta(&key(work), &wall().to_string())
}

/// When work was done last, in seconds since 1970.
pub fn remembered(folder: &Folder, work: Work) -> Result<Option<i64>> {
    Ok(folder.history.meta(&key(work))?.and_then(|text| text.parse().ok()))
}

fn key(work: Work) -> String {
    format!("daemon {}", work.word())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::base::progress::Recorder;
    use crate::daemon::log::Log;
    use crate::engine::folder::lock;
    use crate::engine::init::init;
    use crate::peer::host::Login;

    /// Work that has no end of its own.
    fn endless(hands: &Hands) -> Result<()> {
        hands.with_folder(|folder| {
            loop {
                folder.context.cancel.check()?;
                std::thread::sleep(Duration::from_millis(5));
            }
        })
    }

    #[test]
    fn long_work_gives_way_to_a_command_that_waits_and_to_a_stop() {
        let temp = tempfile::tempdir().expect("tempdir");
        init(&temp.path().join("folder"), false, None).expect("init");
        let dir = temp.path().join("folder/.ddr");
        let context = Context {
            cache_dir: temp.path().join("cache"),
            state_dir: temp.path().join("state"),
            wait: Duration::from_secs(30),
            progress: Arc::new(Recorder::default()),
            cancel: Cancel::default(),
            login: Login::default(),
        };
        let log = Arc::new(Log::open(&temp.path().join("log")).expect("log"));
        let told = Told::new("folder".into(), log);
        let hands = Hands { dir: &dir, context: &context, told: &told, patience: 0, scrub: 0 };
        let at_work = |work: &std::thread::ScopedJoinHandle<Result<()>>| {
            let since = Instant::now();
            while !crate::engine::folder::is_locked(&dir) && since.elapsed() < Duration::from_secs(30) {
                assert!(!work.is_finished());
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        std::thread::scope(|scope| {
            let work = scope.spawn(|| endless(&hands));
            at_work(&work);
            let since = Instant::now();
            let held = lock(&dir, &context).expect("the command gets the lock");
            assert!(since.elapsed() < Duration::from_secs(10));
            assert!(matches!(work.join().expect("thread"), Err(Error::Interrupted)));
            // While the command works, and while another one waits, nothing begins.
            assert!(matches!(endless(&hands), Err(Error::Locked(_))));
            drop(held);
            let work = scope.spawn(|| endless(&hands));
            at_work(&work);
            context.cancel.cancel();
            assert!(matches!(work.join().expect("thread"), Err(Error::Interrupted)));
        });
    }
}
