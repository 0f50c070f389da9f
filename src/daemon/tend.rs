//! One folder's loop: looks at what is the case, asks [`triggers`] what is due, has it done.
//!
//! Promises that an error in one folder stops nothing but that piece of work, that a root that is gone
//! (an unplugged disk) is left alone until it is back, and that then, and at every start, the whole tree
//! is looked at: what happened unwatched is found.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, bounded};

use super::beside::{Beside, ECHO};
use super::clock::{self, Moment};
use super::log::Log;
use super::memory;
use super::seen::slice;
use super::settings::{Settings, stamp};
use super::state::{State, Told, wall};
use super::triggers::{self, Done, Facts, Next, Work};
use super::watch::{Ear, Watch};
use super::work::{Hands, Outcome, remembered};
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::engine::folder::{Access, Context, Folder, make_room};
use crate::engine::room::{self, Measured};

/// How often the disk, the settings and the root are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long a folder is left alone after a command was met there.
const POLITE: Duration = Duration::from_millis(500);
/// Work that took longer may have taken much memory.
const LARGE: Duration = Duration::from_millis(500);
/// Where room may run short, so much is committed before anything else is looked at.
const SLICE: u64 = 64 << 20;
/// All directories are watched anew at most so often.
const REWATCH: Duration = Duration::from_secs(60);

/// A folder that is looked after, as others see it.
pub struct Tended {
    /// Root of its working tree.
    pub root: PathBuf,
    told: Arc<Told>,
    ear: Arc<Ear>,
    poked: AtomicBool,
    leave: AtomicBool,
}

impl Tended {
    /// A folder, and the bell that wakes its loop.
    pub fn new(root: &Path, context: &Context, log: Arc<Log>) -> (Arc<Self>, Receiver<()>) {
        let (bell, rung) = bounded(1);
        let own = [context.state_dir.clone(), context.cache_dir.clone()];
        let tended = Self {
            root: root.into(),
            told: Arc::new(Told::new(root.display().to_string(), log)),
            ear: Arc::new(Ear::new(root, &own, bell)),
            poked: AtomicBool::new(false),
            leave: AtomicBool::new(false),
        };
        (Arc::new(tended), rung)
    }

    /// How it stands.
    pub fn state(&self) -> State {
        let pending = self.ear.seen().pending();
        State { pending, ..self.told.state().clone() }
    }

    /// Looks at everything now.
    pub fn poke(&self) {
        self.poked.store(true, Ordering::Relaxed);
        self.ear.ring();
    }

    /// Is no longer looked after.
    pub fn leave(&self) {
        self.leave.store(true, Ordering::Relaxed);
        self.ear.ring();
    }

    /// Wakes the loop, to see that it is to end.
    pub fn wake(&self) {
        self.ear.ring();
    }
}

/// The loop and what it knows.
struct Tending {
    tended: Arc<Tended>,
    dir: PathBuf,
    context: Context,
    facts: Facts,
    settings: Option<Settings>,
    stamp: Option<SystemTime>,
    watch: Option<Watch>,
    /// The root is not there.
    gone: bool,
    /// When everything was watched, and which directory the root was then.
    watched: Option<(Duration, (u64, u64))>,
    beside: Beside,
    /// Stores that are away and whose place was empty.
    empty: Vec<PathBuf>,
    patience: u32,
    scrubbed: u64,
    /// What the tree took when all of it was looked at.
    measured: Option<Measured>,
}

/// Looks after a folder until it is left or the daemon stops.
pub fn tend(tended: Arc<Tended>, rung: &Receiver<()>, context: &Context) {
    let dir = tended.root.join(".ddr");
    let context = Context { progress: tended.told.clone(), ..context.clone() };
    let beside = Beside::new(dir.clone());
    let mut tending = Tending {
        tended,
        dir,
        context,
        facts: Facts { missed: true, ..Facts::default() },
        settings: None,
        stamp: None,
        watch: None,
        gone: false,
        watched: None,
        beside,
        empty: Vec::new(),
        patience: 0,
        scrubbed: 0,
        measured: None,
    };
    while !tending.is_over() {
        let until = tending.turn();
        let wait = until.saturating_sub(clock::now()).min(TICK);
        if !wait.is_zero() {
            // A bell and the end of the wait are the same: a reason to look.
            let _ = rung.recv_timeout(wait);
        }
    }
    tending.finish();
}

impl Tending {
    fn is_over(&self) -> bool {
        self.context.cancel.is_cancelled() || self.tended.leave.load(Ordering::Relaxed)
    }

    /// One look, and one piece of work if any is due; returns until when to sleep.
    fn turn(&mut self) -> Duration {
        self.facts.now = clock::now();
        if let Err(e) = self.look() {
            self.tended.told.state().offline = Some(e.to_string());
            return self.facts.now + TICK;
        }
        let Some(settings) = self.settings.clone() else { return self.facts.now + TICK };
        match triggers::next(&self.facts, &settings.every) {
            Next::Do(work) => {
                self.run(work, &settings);
                self.facts.now = clock::now();
                self.facts.now
            }
            Next::Wait(until) => {
                self.tell_next(&settings);
                until
            }
        }
    }

    /// Brings the facts up to date.
    fn look(&mut self) -> Result<()> {
        self.look_at_root()?;
        self.look_at_settings()?;
        let Some(settings) = self.settings.clone() else { return Ok(()) };
        self.facts.over = settings.is_over(&self.tended.root, self.measured);
        if self.tended.poked.swap(false, Ordering::Relaxed) {
            self.facts.missed = true;
            self.facts.last.remove(&Work::Contact);
            self.tended.ear.seen().hurry();
        }
        self.empty.retain(|place| {
            let filled = std::fs::read_dir(place).is_ok_and(|mut list| list.next().is_some());
            if filled {
                self.facts.last.remove(&Work::Contact);
            }
            !filled
        });
        self.watch_fresh(&settings)?;
        self.pass_over_commands();
        let seen = self.tended.ear.seen();
        self.facts.missed |= seen.has_missed();
        self.facts.settles = seen.settles(settings.settle);
        self.facts.opened = seen.opened_since();
        Ok(())
    }

    /// The root must be there, and the directory that is watched.
    fn look_at_root(&mut self) -> Result<()> {
        let root = &self.tended.root;
        let found = std::fs::metadata(self.dir.join("folder.toml")).and_then(|_| std::fs::metadata(root));
        let here = match found {
            Ok(meta) => (meta.dev(), meta.ino()),
            Err(e) => {
                (self.watch, self.watched) = (None, None);
                if !std::mem::replace(&mut self.gone, true) {
                    self.tended.told.say("is not there; it is left alone until it is back");
                }
                return Err(Error::io("looking for", root, e));
            }
        };
        if self.watched.is_some_and(|(_, id)| id != here) {
            (self.watch, self.watched) = (None, None);
        }
        if self.watched.is_none() {
            self.facts.missed = true;
        }
        self.tended.told.state().offline = None;
        if std::mem::take(&mut self.gone) {
            self.tended.told.say("is back");
        }
        Ok(())
    }

    fn look_at_settings(&mut self) -> Result<()> {
        let stamp = stamp(&self.dir);
        if self.settings.is_some() && stamp == self.stamp {
            return Ok(());
        }
        match Settings::load(&self.dir, self.context.clone()) {
            Ok(mut settings) => {
                settings.every.rescan = self.rescan_every(&settings);
                if let Some(flaw) = &settings.flaw {
                    self.tended.told.trouble(format!("nothing is stashed: {flaw}"));
                }
                if self.settings.is_none() {
                    self.take_up(&settings)?;
                }
                if self.settings.as_ref().is_some_and(|old| old.watches != settings.watches) {
                    (self.watch, self.watched) = (None, None);
                }
                self.tended.ear.seen().set_burst_limit(settings.burst);
                self.settings = Some(settings);
                self.tell_room();
            }
            Err(e) => {
                // Who is to free a full disk must be able to look at it first.
                if matches!(e, Error::NoSpace(_)) {
                    make_room(&self.dir);
                }
                self.tended.told.trouble(format!("its settings are not in force: {e}"));
            }
        }
        self.stamp = stamp;
        Ok(())
    }

    /// When earlier runs of the daemon did what takes place seldom.
    fn take_up(&mut self, settings: &Settings) -> Result<()> {
        let now = Moment::now();
        let folder = Folder::open(&self.dir, Access::Read, self.context.clone())?;
        for work in [Work::Stash, Work::Move, Work::Gc, Work::Scrub] {
            if let Some(at) = remembered(&folder, work)? {
                let done = Done { at: now.steady_of(at), ..Done::default() };
                self.facts.last.insert(work, done);
            }
        }
        self.facts.grown = settings.brim().is_some();
        Ok(())
    }

    /// Directories that appeared are watched at once, so that little happens unseen in them.
    fn watch_fresh(&mut self, settings: &Settings) -> Result<()> {
        let fresh = self.tended.ear.seen().take_fresh();
        let Some(watch) = &mut self.watch else { return Ok(()) };
        for dir in fresh {
            // It may be gone again, or lie behind a link: the commit of its path sees to that.
            if let Err(e @ Error::Unsupported(_)) = watch.add(&dir, settings.across, &self.context.cancel) {
                self.tended.told.trouble(e.to_string());
            }
        }
        self.tell_watch();
        Ok(())
    }

    fn tell_watch(&mut self) {
        let mut state = self.tended.told.state();
        match &self.watch {
            Some(watch) => (state.watched, state.unwatched) = (watch.count, watch.short.clone()),
            None => (state.watched, state.unwatched) = (0, Some("nothing is watched".into())),
        }
        drop(state);
        if let Some(mut settings) = self.settings.take() {
            settings.every.rescan = self.rescan_every(&settings);
            self.settings = Some(settings);
        }
    }

    fn rescan_every(&self, settings: &Settings) -> Duration {
        match &self.watch {
            Some(watch) if watch.short.is_none() => settings.rescan.0,
            _ => settings.rescan.1,
        }
    }

    /// Opens that may be those of a command are no uses.
    fn pass_over_commands(&mut self) {
        let any = self.tended.ear.seen().opened_since().is_some();
        if self.beside.is_met(clock::now(), any) {
            self.tended.ear.seen().discard_uses();
        }
    }

    /// Does a piece of work and remembers how it went.
    fn run(&mut self, work: Work, settings: &Settings) {
        let told = self.tended.told.clone();
        told.state().doing = Some(work.word().into());
        self.pass_over_commands();
        self.tended.ear.close_until(Duration::MAX);
        let since = clock::now();
        let result = self.work(work, settings, since);
        let now = clock::now();
        self.tended.ear.close_until(now + ECHO);
        self.beside.own_ended();
        told.state().doing = None;
        if now.saturating_sub(since) > LARGE {
            memory::give_back();
        }
        let before = self.facts.last.get(&work).copied().unwrap_or_default();
        let done = Done { at: now, took: now - since, ..Done::default() };
        match result {
            Ok(outcome) => {
                told.settled(work.word());
                let fails = if outcome.useless { before.fails + 1 } else { 0 };
                self.facts.last.insert(work, Done { fails, more: outcome.more, vain: outcome.vain, ..done });
                self.follow(&outcome);
            }
            // A command came first; it is due as before.
            Err(Error::Interrupted | Error::Locked(_)) => self.facts.hold_off = now + POLITE,
            Err(e) => {
                told.trouble(format!("{}: {e}", work.word()));
                self.facts.last.insert(work, Done { fails: before.fails + 1, ..done });
            }
        }
    }

    fn work(&mut self, work: Work, settings: &Settings, since: Duration) -> Result<Outcome> {
        let (ear, told) = (self.tended.ear.clone(), self.tended.told.clone());
        let left = settings.scrub.saturating_sub(self.scrubbed);
        let (dir, context) = (self.dir.clone(), self.context.clone());
        let hands = Hands { dir: &dir, context: &context, told: &told, patience: self.patience, scrub: left };
        match work {
            Work::Relieve | Work::Stash | Work::Uses => {
                let uses = ear.seen().take_uses();
                let done = match work {
                    Work::Uses => hands.uses(&uses),
                    // A full disk does not wait for a clock that jumped.
                    _ => hands.stash(&uses, work == Work::Stash),
                };
                if done.is_err() {
                    ear.seen().put_back(uses, since);
                }
                self.facts.grown &= work == Work::Uses || done.is_err();
                done
            }
            Work::Commit => {
                let paths = self.ripe(settings, since);
                let done = hands.commit(Some(&paths))?;
                ear.seen().settled(&paths, since);
                self.facts.grown = settings.brim().is_some();
                Ok(done)
            }
            Work::Rescan => self.rescan(&hands, settings, since),
            Work::Contact => {
                let done = hands.contact()?;
                self.note_empty(settings);
                self.patience = if done.more { self.patience + 1 } else { 0 };
                Ok(done)
            }
            Work::Move => {
                let done = hands.moves()?;
                self.patience = if done.more { self.patience + 1 } else { 0 };
                Ok(done)
            }
            Work::Gc => hands.gc(),
            Work::Scrub => {
                let (done, bytes) = hands.scrub()?;
                self.scrubbed = if done.more { self.scrubbed + bytes } else { 0 };
                Ok(done)
            }
        }
    }

    /// Watches everything anew, then commits what differs.
    fn rescan(&mut self, hands: &Hands, settings: &Settings, since: Duration) -> Result<Outcome> {
        if self.tended.ear.seen().begin_rescan() {
            // Directories may be among what was missed.
            self.watched = None;
            self.facts.missed = true;
        }
        self.rewatch(settings, since)?;
        // A policy in a file of its own may have changed, too.
        self.stamp = None;
        match hands.commit(None) {
            Ok(done) => {
                self.facts.missed = false;
                self.tended.ear.seen().all_settled(since);
                self.facts.grown = settings.brim().is_some();
                Ok(done)
            }
            Err(e) => Err(e),
        }
    }

    fn rewatch(&mut self, settings: &Settings, since: Duration) -> Result<()> {
        if self.watched.is_some_and(|(at, _)| at + REWATCH > since) {
            return Ok(());
        }
        let root = &self.tended.root;
        let meta = std::fs::metadata(root).map_err(|e| Error::io("looking for", root, e))?;
        if self.watch.is_none() {
            match Watch::new(self.tended.ear.clone(), settings.watches) {
                Ok(watch) => self.watch = Some(watch),
                Err(e) => self.tended.told.trouble(e.to_string()),
            }
        }
        if let Some(watch) = &mut self.watch
            && let Err(e) = watch.add(&RelPath::root(), settings.across, &self.context.cancel)
        {
            self.tended.told.trouble(e.to_string());
        }
        self.watched = Some((since, (meta.dev(), meta.ino())));
        self.tell_watch();
        Ok(())
    }

    /// Says what is left of the budget, for those who bring contents back.
    fn tell_room(&self) {
        match (self.measured, self.settings.as_ref().and_then(Settings::brim)) {
            (Some(measured), Some(brim)) => room::tell(&self.dir, measured, brim),
            _ => room::forget(&self.dir),
        }
    }

    /// Settled changes; only some where room may run short meanwhile.
    fn ripe(&self, settings: &Settings, since: Duration) -> Vec<RelPath> {
        // The watcher, which must not wait for the disk, has its list back before anything is measured.
        let ripe = self.tended.ear.seen().ripe(settings.settle, since);
        let most = if settings.water.is_some() { SLICE } else { u64::MAX };
        let root = &self.tended.root;
        // A directory that was moved here counts as little, however much is in it: it is one path, which is
        // committed at once or not at all, and what was in the tree before takes no room that it had not.
        let size = |path: &RelPath| {
            std::fs::symlink_metadata(root.join(path.as_path())).map_or(0, |meta| meta.len())
        };
        slice(ripe, most, size)
    }

    fn follow(&mut self, outcome: &Outcome) {
        if let Some(measured) = outcome.measured {
            self.measured = Some(measured);
            self.tell_room();
        }
        if outcome.recorded
            && let Some(relief) = self.facts.last.get_mut(&Work::Relieve)
        {
            // There is more on the stores now, and so more that may go.
            relief.fails = 0;
        }
        self.facts.missed |= outcome.rescan;
        if outcome.contact {
            self.facts.last.remove(&Work::Contact);
        }
        if outcome.back {
            // What could not go for want of a store can go now.
            self.facts.last.remove(&Work::Relieve);
        }
    }

    /// Remembers the places of stores that are away, to see it when a disk is plugged in.
    fn note_empty(&mut self, settings: &Settings) {
        let away = self.tended.told.state().away.clone();
        let is_away = |name: &String| away.iter().any(|(n, _)| n == name);
        let is_empty = |path: &Path| std::fs::read_dir(path).map_or(true, |mut list| list.next().is_none());
        let places = settings.places.iter().filter(|(name, path)| is_away(name) && is_empty(path));
        self.empty = places.map(|(_, path)| path.clone()).collect();
    }

    fn tell_next(&self, settings: &Settings) {
        let due = |work| triggers::due(work, &self.facts, &settings.every).map(|at| (at, work));
        let first = triggers::ALL.into_iter().filter_map(due).min();
        let in_wall = |at: Duration| wall() + at.saturating_sub(self.facts.now).as_secs() as i64;
        self.tended.told.state().next = first.map(|(at, work)| (work.word().into(), in_wall(at)));
    }

    /// Writes down what is only known here, and says what remains to be done.
    fn finish(&mut self) {
        room::forget(&self.dir);
        self.pass_over_commands();
        let uses = self.tended.ear.seen().take_uses();
        if !uses.is_empty() {
            // The stop is about work; this is a small note that would be lost.
            let context = Context { cancel: Cancel::default(), ..self.context.clone() };
            let told = self.tended.told.clone();
            let hands = Hands { dir: &self.dir, context: &context, told: &told, patience: 0, scrub: 0 };
            if let Err(e) = hands.uses(&uses) {
                told.say(&format!("which files were opened last is not written down: {e}"));
            }
        }
        self.say_what_remains();
    }

    fn say_what_remains(&self) {
        let state = self.tended.state();
        let mut remains = match state.pending {
            _ if self.facts.missed => vec!["the tree is not compared yet".to_string()],
            None => vec!["the tree is to be compared again".to_string()],
            Some(0) => vec![],
            Some(n) => vec![format!("{n} changed paths are not committed yet")],
        };
        remains.extend(state.away.iter().map(|(name, _)| format!("{name} is away")));
        match remains.is_empty() {
            true => self.tended.told.say("stopped; nothing remains"),
            false => self.tended.told.say(&format!("stopped; {}", remains.join(", "))),
        }
    }
}
