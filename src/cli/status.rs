//! `ddr status`

use std::path::PathBuf;

use serde_json::json;

use super::output::{BOLD, DIM, STUB, WARN, styled};
use super::session::Session;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::base::units::{count, size};
use crate::engine::behind;
use crate::engine::folder::Folder;
use crate::engine::materialise::MATERIALISING;
use crate::engine::remotes::Remotes;
use crate::engine::survey::{Change, Item, survey};
use crate::local::stat::FileType;
use crate::model::residency::Residency;

/// Arguments of `ddr status`.
#[derive(clap::Args, Debug)]
pub struct StatusArgs {
    /// Files and directories (default: the whole folder)
    pub paths: Vec<PathBuf>,
}

/// Sums over the tree.
#[derive(Default)]
struct Sums {
    files: u64,
    stubs: u64,
    logical: u64,
    local: u64,
    changed: u64,
    unseen: u64,
}

impl Sums {
    fn add(&mut self, item: &Item) {
        self.changed += u64::from(item.change.is_visible());
        self.unseen += u64::from(item.change == Change::Unseen);
        let Some(stat) = item.stat.as_ref().filter(|s| s.kind == FileType::File) else { return };
        self.files += 1;
        self.logical += stat.size;
        self.local += stat.blocks * 512;
        self.stubs += u64::from(item.row.as_ref().is_some_and(|r| r.residency == Residency::Stub));
    }
}

/// Changes first, then sums, then stores.
pub fn run(session: &Session, args: &StatusArgs) -> Result<()> {
    let folder = session.read()?;
    if folder.tree.is_none() {
        return bare(session, &folder);
    }
    let paths = match args.paths.is_empty() {
        true => vec![RelPath::root()],
        false => session.paths(&folder, &args.paths)?,
    };
    let mut sums = Sums::default();
    survey(&folder, &paths, &mut |item| {
        sums.add(&item);
        if !item.change.is_visible() {
            return Ok(());
        }
        tell_change(session, &item)
    })?;
    match (sums.changed, sums.unseen) {
        (0, 0) => session.out.line(styled(DIM, "nothing changed since the last commit"))?,
        (0, _) => session.out.line(styled(DIM, "nothing changed, as far as sizes and times tell"))?,
        _ => {}
    }
    session.out.json(&json!({
        "type": "status", "folder": folder.id.to_string(), "name": folder.name, "files": sums.files, "stubs": sums.stubs,
        "logical_bytes": sums.logical, "local_bytes": sums.local, "changed": sums.changed,
        "unseen": sums.unseen,
    }))?;
    session.out.line(format!(
        "{}: {}, {}; {} of {} local",
        styled(BOLD, &folder.name),
        count(sums.files, "file"),
        styled(STUB, count(sums.stubs, "stub")),
        size(sums.local),
        size(sums.logical)
    ))?;
    if sums.unseen > 0 {
        let text = format!(
            "{} not compared since history.db was lost; `ddr commit` does that",
            count(sums.unseen, "path")
        );
        session.out.line(styled(WARN, text))?;
    }
    trouble(session, &folder)?;
    on_demand(session, &folder)?;
    pins(session, &folder)?;
    stores(session, &folder)?;
    super::daemon::section(session, folder.tree()?.path())
}

/// One changed path.
pub fn tell_change(session: &Session, item: &Item) -> Result<()> {
    let letter = item.change.letter();
    session
        .out
        .json(&json!({ "type": "change", "change": letter.to_string(), "path": item.path.to_string() }))?;
    session.out.answer(format!("{letter} {}", item.path))
}

/// Whether opening a stub brings it back.
fn on_demand(session: &Session, folder: &Folder) -> Result<()> {
    let on = folder.guard.as_ref().is_some_and(|guard| guard.serves());
    let guarded = folder.guard.as_ref().filter(|_| on).map(|guard| guard.guarded());
    let mut row = json!({ "type": "on-demand", "on": on });
    guarded.into_iter().for_each(|guarded| row["guarded"] = guarded.into());
    session.out.json(&row)?;
    match (on, &folder.guard) {
        (true, _) => session.out.line("on-demand access is on: opening a stub brings it back"),
        (false, Some(guard)) => {
            let why = guard.refusal().unwrap_or("the guard does not look after this folder");
            session.out.line(styled(DIM, format!("on-demand access is off: {why}")))
        }
        (false, None) => {
            session.out.line(styled(DIM, "on-demand access is off: no guard runs (sudo ddr guard DIR)"))
        }
    }
}

/// What the user should do something about.
fn trouble(session: &Session, folder: &Folder) -> Result<()> {
    let warn = |text: &str| session.out.line(styled(WARN, text));
    if folder.history.meta("unsaved")?.is_some_and(|how| how != "perhaps") {
        warn(
            "some versions may be unsaved: no store was reachable, or it was removed; `ddr commit` places them",
        )?;
    }
    if folder.history.meta(MATERIALISING)?.is_some() {
        warn("the clone was interrupted: run the same `ddr clone` again")?;
    }
    if !folder.waiting.is_empty() {
        warn("an interrupted run is not mended yet: its store is not reachable")?;
    }
    Ok(())
}

fn pins(session: &Session, folder: &Folder) -> Result<()> {
    for path in folder.config.pins()?.iter() {
        let there = path.is_root() || folder.tree()?.stat(path)?.is_some();
        session.out.json(&json!({ "type": "pin", "path": path.to_string(), "there": there }))?;
        let gone = if there { String::new() } else { styled(WARN, " (nothing is there)") };
        session.out.line(format!("pinned: {path}{gone}"))?;
    }
    Ok(())
}

fn stores(session: &Session, folder: &Folder) -> Result<()> {
    let remotes = Remotes::open(folder)?;
    for remote in &remotes.online {
        // Whether there is room is not what this is about.
        let free = remote.packs.bucket().room().unwrap_or_default();
        let entries = behind::entries(&folder.history, remote.packs.id())?;
        let missed = behind::behind(&folder.history, &remote.name)?;
        session.out.json(&json!({
            "type": "store", "name": remote.name, "online": true, "free_bytes": free,
            "entries_behind": entries, "contents_behind": missed.map(|m| m.0), "bytes_behind": missed.map(|m| m.1),
        }))?;
        let free = free.map_or(String::new(), |f| format!(", {} free", size(f)));
        session.out.line(format!("store {}: online{free}{}", remote.name, lag(entries, missed)))?;
    }
    for (name, error) in &remotes.offline {
        let why = match error {
            Error::Offline { why, .. } => why.clone(),
            e => e.to_string(),
        };
        let missed = behind::behind(&folder.history, name)?;
        session.out.json(&json!({
            "type": "store", "name": name, "online": false, "error": why,
            "contents_behind": missed.map(|m| m.0), "bytes_behind": missed.map(|m| m.1),
        }))?;
        session.out.line(format!("store {name}: {}: {why}{}", styled(WARN, "offline"), lag(0, missed)))?;
    }
    if folder.config.remote.is_empty() {
        session.out.line("no stores yet; add one with: ddr remote add NAME /path/on/another/disk --init")?;
    }
    Ok(())
}

/// How far a store is behind, where it is.
fn lag(entries: u64, missed: Option<(u64, u64)>) -> String {
    let mut text = String::new();
    if entries > 0 {
        text += &format!(", {} behind", count(entries, "change"));
    }
    match missed {
        Some((0, _)) => text += ", may lack contents (ddr sync)",
        Some((n, bytes)) => text += &format!(", missed up to {} ({})", count(n, "content"), size(bytes)),
        None => {}
    }
    text
}

fn bare(session: &Session, folder: &Folder) -> Result<()> {
    let counts = folder.history.counts()?;
    session.out.json(&json!({
        "type": "status", "folder": folder.id.to_string(), "name": folder.name, "bare": true, "paths": counts.paths,
        "logical_bytes": counts.bytes, "entries": counts.entries,
    }))?;
    session.out.line(format!(
        "{} (bare): {}, {}; {} recorded",
        styled(BOLD, &folder.name),
        count(counts.paths, "path"),
        size(counts.bytes),
        count(counts.entries, "change")
    ))
}
