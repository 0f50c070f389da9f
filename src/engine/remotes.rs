//! The stores a folder places contents on, opened and checked.
//!
//! Promises that a store that is not there is `Offline`, never empty; that a store of another
//! folder or a newer format is refused; and that the folder's own disk counts as a failure domain
//! only where the user said so.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::behind;
use super::config::RemoteConfig;
use super::domains::{self, Way};
use super::folder::Folder;
use super::places::{self, domain_of};
use super::tiers::TierConfig;
use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, RecordId};
use crate::base::progress::Progress;
use crate::base::units::Time;
use crate::format::key::Keys;
use crate::format::seal::{Opener, Sealed};
use crate::history::log;
use crate::model::entry::{Body, Kind};
use crate::model::manifest::Manifest;
use crate::model::placement::{Layout, Rule, Seat};
use crate::peer::host::Login;
use crate::peer::url::Url;
use crate::store::Store;
use crate::store::domain;
use crate::store::member::Member;
use crate::store::packs::Packs;
use crate::store::spread::Spread;

/// What the folder's own store is called.
pub const OWN: &str = "own";

/// One reachable store.
#[derive(Clone)]
pub struct Remote {
    /// Name in `config.toml`; `own` for the folder's own store.
    pub name: String,
    /// What fails together with it.
    pub domain: String,
    /// How its machine is reached, if that is another one.
    pub way: Option<Way>,
    /// Whether a copy there lets local bytes go: it lies on another disk, or the user accepts that
    /// it does not.
    pub counts: bool,
    /// The store.
    pub packs: Arc<Packs>,
    /// What became of it in this run.
    pub member: Arc<Member>,
    /// Place of its tier, near to far.
    pub tier: usize,
}

impl Remote {
    /// Says that it fell out of the run, and why.
    pub fn tell(&self, progress: &dyn Progress) {
        if let Some(why) = self.member.why_out() {
            progress.note(&format!("{} is left out and falls behind: {why}", self.name));
        }
    }

    /// The same, to whoever watches the folder's work.
    pub fn tell_out(&self, folder: &Folder) {
        self.tell(folder.context.progress.as_ref());
    }

    fn seat(&self) -> Seat {
        Seat { store: self.packs.id(), domain: self.name.clone(), weight: 1 }
    }
}

/// Stores of a folder: those that answered, and why the others did not.
pub struct Remotes {
    /// Reachable, in the order of their names.
    pub online: Vec<Remote>,
    /// Configured but not reachable.
    pub offline: Vec<(String, Error)>,
}

impl Remotes {
    /// Opens every configured remote. Only unreachable ones are tolerated; a store of another
    /// folder or of a newer format is an error.
    pub fn open(folder: &Folder) -> Result<Self> {
        let opened = open_each(folder)?;
        let (mut online, mut offline) = (Vec::new(), Vec::new());
        for (name, remote) in folder.config.remote.keys().zip(opened) {
            match remote {
                Ok(remote) => {
                    refuse_twice(&online, &remote)?;
                    online.push(remote);
                }
                Err(e @ Error::Offline { .. }) => offline.push((name.clone(), e)),
                Err(e) => return Err(e),
            }
        }
        unify(&mut online);
        let opened = Self { online, offline };
        opened.push_logs(folder)?;
        Ok(opened)
    }

    /// A store that was away gets the history that it missed, whatever the command is about. Objects are
    /// written once, so this needs no lock; a store that does not take them is another command's trouble.
    fn push_logs(&self, folder: &Folder) -> Result<()> {
        let writes_itself = folder.instance.is_some();
        for remote in self.online.iter().filter(|_| !writes_itself) {
            if behind::entries(&folder.history, remote.packs.id())? > 0 {
                let pushed =
                    log::copy_missing(folder.own.as_ref(), remote.packs.bucket().as_ref(), folder.id);
                drop(pushed);
            }
        }
        Ok(())
    }

    /// Opens every remote, and the folder's own store where it keeps contents.
    pub fn open_all(folder: &Folder) -> Result<Self> {
        let mut all = Self::open(folder)?;
        if folder.tree.is_none() || all.online.is_empty() || has_contents(folder)? {
            all.online.push(open_own(folder)?);
        }
        Ok(all)
    }

    /// Where new contents go: every reachable remote; the own store if none is configured.
    pub fn targets(folder: &Folder) -> Result<Self> {
        let mut all = Self::open(folder)?;
        if folder.config.remote.is_empty() {
            all.online.push(open_own(folder)?);
        }
        Ok(all)
    }

    /// Says which remotes fell out of the run, and why.
    pub fn tell_out(&self, folder: &Folder) {
        self.online.iter().for_each(|r| r.tell_out(folder));
    }

    /// Says which remotes are missing.
    pub fn note_offline(&self, folder: &Folder) {
        for (_, error) in &self.offline {
            folder.context.progress.note(&error.to_string());
        }
    }

    /// Reads records from the nearest store that has them intact; `sink` gets each once, or the last
    /// error. Bytes are still to be opened.
    pub fn get(
        &self,
        ids: &[RecordId],
        sink: &mut dyn FnMut(RecordId, Result<Sealed>) -> Result<()>,
    ) -> Result<()> {
        self.reading()?.get(ids, &mut |id, got| sink(id, got.map_err(|e| self.not_had(e))))
    }

    /// Every reachable store, near to far, to be read as one.
    fn reading(&self) -> Result<Spread> {
        let readers = self.readers();
        let seats = readers.iter().map(|r| r.seat()).collect();
        let members = readers.into_iter().map(|r| Arc::clone(&r.member)).collect();
        Spread::chain("the stores", Rule { layout: Layout::Chain, copies: 1, seats }, members, 1)
    }

    /// Reachable stores in the order in which they are read: by tier, within one by what they take
    /// to answer.
    pub fn readers(&self) -> Vec<&Remote> {
        let mut order: Vec<&Remote> = self.online.iter().filter(|r| r.member.is_readable()).collect();
        order.sort_by_key(|r| (r.tier, r.member.distance()));
        order
    }

    /// What no reachable store has may be in one that is not.
    fn not_had(&self, error: Error) -> Error {
        match self.offline.first() {
            Some((_, offline)) if error.is_missing() => offline.again(),
            _ => error,
        }
    }

    /// Fails if contents can only be in stores that are not reachable.
    pub fn check_any(&self, folder: &Folder) -> Result<()> {
        match self.offline.first() {
            Some((_, e)) if self.online.iter().all(|r| r.name == OWN) && !has_contents(folder)? => {
                Err(e.again())
            }
            _ => Ok(()),
        }
    }

    /// One verified record, from the nearest store whose copy is good; the others are remembered.
    pub fn read(&self, id: RecordId, opener: &mut Opener) -> Result<Arc<Vec<u8>>> {
        let mut result = Err(Error::Missing(format!("record {}", id.short())));
        for remote in self.readers() {
            let mut found = read_one(remote, id, opener)?;
            // What is damaged in one pack may be whole in another: that is found out, and goes first then.
            let damaged = matches!(&found, Some(Err(e)) if e.is_corruption());
            let other = |_: &dyn Store| remote.packs.verify_stale(&[id], Time::now().secs, -1);
            if damaged && remote.member.ask(other)?.is_some_and(|bad| bad.is_empty()) {
                found = read_one(remote, id, opener)?;
            }
            match found {
                Some(Ok(bytes)) => return Ok(bytes),
                Some(Err(e)) if e.is_missing() && result.is_err() => {}
                Some(Err(e)) => {
                    remote.member.note_damaged(id);
                    result = Err(e);
                }
                // It fell out of the run; others may do.
                None => result = Err(remote.member.why_out().unwrap_or(Error::Interrupted)),
            }
        }
        result.map_err(|e| self.not_had(e))
    }

    /// The manifest of a content, verified.
    pub fn manifest(&self, body: Body, size: u64, opener: &mut Opener) -> Result<Manifest> {
        crate::format::manifest::decode(&self.read(body.id, opener)?, size)
    }

    /// Every record a content needs: its only chunk, or its manifest and chunks.
    pub fn records_of(&self, body: Body, size: u64, opener: &mut Opener) -> Result<Vec<RecordId>> {
        let mut ids = vec![body.id];
        if body.kind == Kind::Manifest {
            ids.extend(self.manifest(body, size, opener)?.data().map(|(_, id, _)| id));
        }
        Ok(ids)
    }
}

/// One verified record of one store, or why not.
fn read_one(remote: &Remote, id: RecordId, opener: &mut Opener) -> Result<Option<Result<Arc<Vec<u8>>>>> {
    let mut found = None;
    remote.member.read(&[id], &mut |_, got| {
        found = Some(got.and_then(|sealed| opener.open(&sealed)));
        Ok(())
    })?;
    Ok(found)
}

/// Stores that may be on one machine are in one failure domain.
fn unify(online: &mut [Remote]) {
    let mut stores: Vec<_> = online.iter().map(|r| (r.way.clone(), r.domain.clone())).collect();
    domains::unify(&mut stores);
    online.iter_mut().zip(stores).for_each(|(remote, (_, domain))| remote.domain = domain);
}

/// One store under two names would count as two copies.
fn refuse_twice(online: &[Remote], new: &Remote) -> Result<()> {
    match online.iter().find(|r| r.packs.id() == new.packs.id()) {
        Some(other) => Err(Error::Refused(format!(
            "the remotes {} and {} are one and the same store; remove one: ddr remote remove {1}",
            other.name, new.name
        ))),
        None => Ok(()),
    }
}

/// Whether the own store keeps packs.
fn has_contents(folder: &Folder) -> Result<bool> {
    let data = folder.dir.join("store/data");
    match std::fs::read_dir(&data) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("reading", data, e)),
    }
}

/// The folder's own store.
pub fn open_own(folder: &Folder) -> Result<Remote> {
    let index = folder.context.cache_dir.join("index");
    let packs = Packs::open(OWN, folder.own.clone(), folder.id, &folder.keys, &index)?;
    let packs = Arc::new(packs);
    let member = Arc::new(Member::new(OWN, packs.clone(), Duration::ZERO));
    let domain = domain_of(folder.own.domain());
    Ok(Remote { name: OWN.into(), domain, way: None, counts: false, packs, member, tier: 0 })
}

/// What opening a store needs of a folder; may go to other threads.
struct Opening<'a> {
    id: FolderId,
    keys: &'a Keys,
    tree: Option<u64>,
    index: PathBuf,
    login: &'a Login,
    tiers: &'a [TierConfig],
}

/// Every remote, side by side: one slow machine must not hold up the others. In the order of their
/// names.
fn open_each(folder: &Folder) -> Result<Vec<Result<Remote>>> {
    let opening = Opening {
        id: folder.id,
        keys: &folder.keys,
        tree: own_domain(folder)?,
        index: folder.context.cache_dir.join("index"),
        login: &folder.context.login,
        tiers: &folder.config.tier,
    };
    let remotes = &folder.config.remote;
    if !remotes.values().any(is_far) {
        return Ok(remotes.iter().map(|(name, remote)| opening.open(name, remote)).collect());
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            remotes.iter().map(|(name, remote)| scope.spawn(|| opening.open(name, remote))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Remote>>| {
            thread.join().map_err(|_| Error::Changed("opening a store failed unexpectedly".into()))
        };
        threads.into_iter().map(join).collect()
    })
}

fn is_far(remote: &RemoteConfig) -> bool {
    !matches!(remote.place(), Ok(Url::Dir(_)))
}

impl Opening<'_> {
    fn open(&self, name: &str, remote: &RemoteConfig) -> Result<Remote> {
        let place = places::open(name, remote, self.login).map_err(|e| match e {
            // It was there when it was added.
            Error::Missing(what) => Error::Offline { name: name.into(), why: format!("{what} not found") },
            Error::Unsupported(why) => Error::Offline { name: name.into(), why },
            e => e,
        })?;
        let beside = place.device.is_some() && place.device == self.tree;
        let counts = !beside || remote.same_disk || remote.domain.is_some();
        let start = Instant::now();
        // How long a small answer takes tells how far away it is.
        let head = Packs::head(place.bucket.as_ref());
        let distance = start.elapsed();
        let packs =
            head.and_then(|head| Packs::open_with(head, name, place.bucket, self.id, self.keys, &self.index));
        let packs = packs.map_err(|e| match e {
            Error::Unsupported(why) => Error::Unsupported(format!("{name}: {why}")),
            e => e,
        })?;
        let packs = if is_far(remote) { packs.with_writers(places::writers(distance)) } else { packs };
        let domain = remote.domain.clone().unwrap_or(place.domain);
        let packs = Arc::new(packs);
        let member = Arc::new(Member::new(name, packs.clone(), distance));
        let tier = self.tiers.iter().position(|t| t.stores.iter().any(|s| s == name));
        let tier = tier.unwrap_or(self.tiers.len());
        let way = place.way.map(|way| Way { is_named: remote.domain.is_some(), ..way });
        Ok(Remote { name: name.into(), domain, way, counts, packs, member, tier })
    }
}

/// Whether the folder's own files lie in this failure domain.
pub fn is_beside(folder: &Folder, place: u64) -> Result<bool> {
    Ok(own_domain(folder)? == Some(place))
}

/// Failure domain of the folder's own files, if it has any.
fn own_domain(folder: &Folder) -> Result<Option<u64>> {
    let Some(tree) = &folder.tree else { return Ok(None) };
    domain::of(tree.as_ref()).map(Some).map_err(|e| Error::io("examining", tree.path(), e))
}

/// Failure domain of the nearest existing directory at or above `path`.
pub fn domain_at(path: &Path) -> Result<u64> {
    let mut at: PathBuf = path.to_path_buf();
    loop {
        match std::fs::metadata(&at) {
            // A directory that may not be opened still has a device.
            Ok(meta) => return Ok(File::open(&at).and_then(domain::of).unwrap_or(meta.dev())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && at.pop() => {}
            Err(e) => return Err(Error::io("reading", path, e)),
        }
    }
}
